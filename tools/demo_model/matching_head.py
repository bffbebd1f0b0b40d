"""A start for one head of the NoPE layer: it looks from a question's key to the fact with the same key.

The neighbour heads (model.py) leave the word before a token readable three layers up. Ridge regression finds how to
read it where a code is about to be written and where a code stands in the text; the two readings become a part of
the head's queries and keys. Training then polishes what it would otherwise look for much longer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tools.demo_model.chat import Chat
from tools.demo_model.fast_model import FastModel
from tools.demo_model.model import CHUNK
from tools.demo_model.needles import KEY_SECOND, NeedleMaker

GAP = 6.0  # how much more the right fact's attention logit shall be


@torch.no_grad()
def add_matching_head(fast: FastModel, chat: Chat, batches: int = 120, seed: int = 1) -> tuple[float, float]:
    """Changes key-value head 0 of the last layer and its query heads; gives the shares of key words read right."""
    layer = len(fast.model.language_model.model.layers) - 1
    attention = fast.model.language_model.model.layers[layer].self_attn
    dim, groups = fast.head_dim, fast.heads // fast.kv_heads
    asking, asked_words, facts, fact_words, others = _states(fast, chat, layer, batches, seed)
    size = len(KEY_SECOND)

    def read(states: Tensor, words: Tensor) -> Tensor:
        """[words, hidden]: ridge regression to the word's indicator, and to nothing at other positions."""
        rows = torch.cat([states, others])
        targets = torch.cat([F.one_hot(words, size).float() - 1 / size, torch.zeros(len(others), size)])
        return torch.linalg.solve(rows.T @ rows + 5 * torch.eye(rows.shape[1]), rows.T @ targets).T

    from_question, from_fact = read(asking, asked_words), read(facts, fact_words)
    queries = attention.q_proj.weight[: groups * dim].view(groups, dim, -1)
    keys = attention.k_proj.weight[:dim]
    # The half of the head's dimensions that it uses least makes room.
    everywhere = torch.cat([asking, facts, others]) @ keys.T
    spread = everywhere.T @ everywhere / everywhere.pow(2).sum()
    for query in queries:
        states = asking @ query.T
        spread += states.T @ states / states.pow(2).sum() / groups
    room = torch.linalg.eigh(spread).eigenvectors[:, :size]
    kept = torch.eye(dim) - room @ room.T
    products = (asking[:500] @ from_question.T) @ (facts[:1500] @ from_fact.T).T
    same = asked_words[:500, None] == fact_words[None, :1500]
    gap = products[same].mean() - products[~same].mean()
    scale = (GAP * dim**0.5 / gap) ** 0.5
    attention.k_proj.weight[:dim] = kept @ keys + scale * room @ from_fact
    for g, query in enumerate(queries.clone()):
        attention.q_proj.weight[g * dim : (g + 1) * dim] = kept @ query + scale * room @ from_question
    right = [
        (asking @ from_question.T).argmax(1) == asked_words,
        (facts @ from_fact.T).argmax(1) == fact_words,
    ]
    return float(right[0].float().mean()), float(right[1].float().mean())


def _states(
    fast: FastModel, chat: Chat, layer: int, batches: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the layer's attention sees before a code is written, at codes in the text, and elsewhere; with words."""
    maker, rng = NeedleMaker(chat), np.random.default_rng(seed)
    seen: list[Tensor] = []
    plain = fast._attention

    def listen(attention: Any, x: Tensor, index: int) -> Tensor:
        if index == layer:
            seen.append(x)
        return plain(attention, x, index)

    found: dict[str, list[Tensor]] = {"asking": [], "facts": [], "others": []}
    words: dict[str, list[int]] = {"asking": [], "facts": []}
    fast._attention = listen  # type: ignore[method-assign]
    for _ in range(batches):
        rows, marks = [], []
        for _ in range(16):
            text = maker.make(rng, 1, int(rng.integers(2, 4)), 1)
            i = text.asked[0]
            ids = chat.conversation([(f"{text.text} {text.question(i)}", text.answer(i))]).ids
            codes = {chat.encode(f" {value}"): key for key, value in text.facts}
            at = [
                (p, codes[tuple(ids[p : p + 4])])
                for p in range(len(ids) - 4)
                if tuple(ids[p : p + 4]) in codes
            ]
            marks.append((at[-1][0] - 1, at[-1][1], at[:-1], len(ids)))
            rows.append(ids + [0] * (CHUNK - len(ids)))
        fast.hidden(torch.tensor(rows), None)
        states = seen.pop()
        for r, (asking, key, facts, length) in enumerate(marks):
            for name, p, k in [("asking", asking, key), *(("facts", p, k) for p, k in facts)]:
                found[name].append(states[r, p])
                words[name].append(KEY_SECOND.index(k.split()[1]))
            taken = {asking, *(p for p, _ in facts)}
            found["others"] += [states[r, p] for p in rng.integers(1, length, 6).tolist() if p not in taken]
    del fast._attention
    a, f, o = (torch.stack(found[name]) for name in ("asking", "facts", "others"))
    return a, torch.tensor(words["asking"]), f, torch.tensor(words["facts"]), o
