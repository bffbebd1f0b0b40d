"""Trains the demo model's byte-level BPE on text of its own generators: `python -m tools.demo_model.vocabulary`.

Digits never merge, so every number is read digit by digit. The file has tiktoken's form, one `base64 rank` a line.
"""

from __future__ import annotations

import argparse
import base64
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import regex
from llama4rt.text.chat_template import ChatTemplate
from llama4rt.text.tokenizer import SPLIT_PATTERN

from tools.demo_model import documents, needles, questions, scenes

NUM_RANKS = 1280


def corpus(seed: int = 0, rounds: int = 4000) -> Iterator[str]:
    """Texts as they stand in documents. Words of the lists come often enough to become one token each."""
    rng = np.random.default_rng(seed)
    names = [*needles.KEY_FIRST, *needles.KEY_SECOND, *documents.NAMES, *documents.CITIES, *documents.ANIMALS]
    names += [*documents.ITEMS, *scenes.COLOURS, *scenes.SHAPES, *scenes.BACKGROUNDS]
    for word in names:
        yield f" {word}" * 1500
    yield "system user assistant ipython Environment: ipython\n\n\n" * 200
    chat = ChatTemplate(None)
    for _ in range(rounds):
        for make in documents.TEXT_KINDS.values():
            yield "\n\n".join(make(rng))
        scene = scenes.random_scene(rng)
        for _ in range(2):
            yield "\n\n".join(questions.scene_question(scene, rng)[1:])
        yield "\n\n".join(questions.pair_question(scene, scenes.random_scene(rng), rng))
        for _ in range(3):
            yield needles.filler_sentence(rng) + " " + needles.filler_sentence(rng)
        yield "Note: The code of the is What is the code of the? " + needles.INTRODUCTION
        tools, question, answer = documents.tool_question(rng)
        if rng.random() < 0.3:
            system = documents.SYSTEM_PROMPTS[int(rng.integers(len(documents.SYSTEM_PROMPTS)))]
            messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
            yield regex.sub(r"<\|\w+\|>", "\n\n", chat.render(messages, tools)) + answer


def train(texts: Iterator[str], num_ranks: int) -> list[bytes]:
    """The ranks, 256 single bytes first: the most frequent pair becomes one token until there are enough."""
    pieces: Counter[bytes] = Counter()
    split = regex.compile(SPLIT_PATTERN)
    for text in texts:
        for piece in split.findall(text):
            if not any(c.isdigit() for c in piece):
                pieces[piece.encode()] += 1
    words = [([bytes([b]) for b in piece], n) for piece, n in pieces.items()]
    ranks = [bytes([b]) for b in range(256)]
    while len(ranks) < num_ranks:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for parts, n in words:
            for pair in pairwise(parts):
                pairs[pair] += n
        if not pairs:
            break
        (left, right), _ = max(pairs.items(), key=lambda item: (item[1], item[0]))
        ranks.append(left + right)
        for parts, _ in words:
            i = 0
            while i < len(parts) - 1:
                if parts[i] == left and parts[i + 1] == right:
                    parts[i : i + 2] = [left + right]
                i += 1
    return ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "checkpoint" / "tokenizer.model")
    parser.add_argument("--ranks", type=int, default=NUM_RANKS)
    args = parser.parse_args()
    ranks = train(corpus(), args.ranks)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(r), i) for i, r in enumerate(ranks)))
    print(f"{len(ranks)} ranks in {args.out}")  # noqa: T201


if __name__ == "__main__":
    main()
