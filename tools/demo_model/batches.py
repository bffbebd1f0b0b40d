"""Training batches: conversations of one length, drawn task by task, with the curricula that move them on.

Scenes go from at most one object to three, needles from one chunk to sixteen; each moves on when its running share
of exact answers passes 80 %.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tools.demo_model import documents, needles, openings, questions
from tools.demo_model.chat import Chat, Encoded
from tools.demo_model.model import CHUNK
from tools.demo_model.pool import Pool


@dataclass
class Batch:
    """Arrays of one step: ids and target mask [B, T], and per supervised token the answer it belongs to.

    spans[k] is the kind of answer k; tiles are rows of the pool's features in reading order.
    """

    ids: np.ndarray
    answer: np.ndarray  # int64 [B, T]: index of the answer that the token belongs to, or -1
    spans: list[str]
    tiles: np.ndarray


@dataclass
class Progress:
    """Running exactness by kind, and the stages. Saved with the training state."""

    exact: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    seen: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    objects: int = 2
    needle_stage: int = 0
    steps_in_stage: int = 0

    def update(self, kind: str, right: bool) -> None:
        self.seen[kind] += 1
        rate = max(1 / self.seen[kind], 1 / 150)
        self.exact[kind] += rate * (right - self.exact[kind])

    def restart(self, kind: str, value: float = 0.0) -> None:
        self.exact[kind] = value
        self.seen[kind] = 50


# (chunks, facts, questions, key words of each list) by stage
NEEDLE_STAGES = ((1, 2, 3, 12), (2, 4, 4, 12), (2, 4, 4, 32), (4, 5, 4, 32), (8, 6, 4, 32), (16, 6, 4, 32))
# Of needle texts, those whose facts share words. Drawn at random few do, and the model then looks up half of a name.
ALIKE = 0.7
_TEXT_KINDS = documents.TEXT_KINDS | {"opening": openings.opening_question}


class Batches:
    """Draws batches. All randomness comes from `rng`."""

    def __init__(self, chat: Chat, pool: Pool, rng: np.random.Generator, progress: Progress) -> None:
        self.chat, self.pool, self.rng, self.progress = chat, pool, rng, progress
        self.needles = needles.NeedleMaker(chat)
        self.pad = chat.special["<|finetune_right_pad|>"]
        counts = np.array([len(s.things) for s in pool.scenes])
        small = np.diff(pool.first) == 1
        self.by_count = {
            (n, s): np.flatnonzero((counts <= n) & (small == s)) for n in (1, 2, 3) for s in (True, False)
        }

    def short(self, size: int, scene_share: float, small_share: float) -> Batch:
        """One chunk each: a share of picture conversations, the others text."""
        rows, tiles = [], []
        for _ in range(size):
            if self.rng.random() < scene_share:
                row, chosen = self._scene(small_share)
                tiles += chosen
            else:
                row = self._text()
            rows.append(row)
        return self._batch(rows, CHUNK, tiles)

    def needle(self, tokens: int) -> tuple[Batch, int]:
        """Needle conversations of one length, about `tokens` in all; the kind is their length."""
        stage = self.progress.needle_stage
        if stage and self.rng.random() < 0.4:
            stage = int(self.rng.integers(stage))
        if stage == 0 and self.progress.needle_stage == 0 and self.rng.random() < 0.3:
            stage = 1
        chunks, facts, asked, keys = NEEDLE_STAGES[stage]
        keys = max(keys, NEEDLE_STAGES[self.progress.needle_stage][3])
        # The value right after the key is learned first, and opens the way to the longer sentence.
        plain = 0.9 if self.progress.needle_stage < 2 else 0.5
        alike = ALIKE if self.progress.needle_stage > 2 else 0.0
        rows = []
        for _ in range(max(1, tokens // (chunks * CHUNK))):
            count = int(self.rng.integers(2, facts + 1))
            system = self._system(0.5) if chunks > 1 else None
            text = self.needles.make(self.rng, chunks, count, asked, system, keys, plain, alike)
            turns = [(text.question(i), text.answer(i)) for i in text.asked]
            turns[0] = (f"{text.text} {turns[0][0]}", turns[0][1])
            later = [""] + ["+"] * (len(turns) - 1)  # turns behind the first
            kinds = [
                ("alike" if text.is_alike(i) else f"needle{chunks}") + plus
                for i, plus in zip(text.asked, later, strict=True)
            ]
            rows.append((self.chat.conversation(turns, system), kinds))
        return self._batch(rows, chunks * CHUNK, []), chunks

    def long(self, size: int) -> Batch:
        """Tool calls, and more turns about a picture than fit in one chunk: two chunks each."""
        rows, tiles = [], []
        for _ in range(size):
            if self.rng.random() < 0.8:
                tools, question, answer = documents.tool_question(self.rng)
                system = self._system(0.5) if len(tools) == 1 else None
                rows.append((self.chat.tool_call(tools, question, answer, system), ["tool"]))
            else:
                row, chosen = self._scene(0.5, limit=2 * CHUNK)
                rows.append(row)
                tiles += chosen
        return self._batch(rows, 2 * CHUNK, tiles)

    def _scene(self, small_share: float, limit: int = CHUNK) -> tuple[tuple[Encoded, list[str]], list[int]]:
        system = self._system(0.4)
        small = bool(self.rng.random() < small_share)
        chosen = [self._picture(small)]
        if self.rng.random() < 0.1 and limit == CHUNK and self.progress.objects == 3:
            chosen = [self._picture(True), self._picture(True)]
        scenes = [self.pool.scenes[i] for i in chosen]
        tilings = [self.pool.tilings[i] for i in chosen]
        turns: list[tuple[str, str]] = []
        kinds: list[str] = []
        length = self.chat.opening_length(system) + sum(len(self.chat.picture(p)) for p in tilings)
        misses = 0
        while misses < 3:
            if len(scenes) == 2:
                question, answer = questions.pair_question(scenes[0], scenes[1], self.rng)
                kind = "pair"
            else:
                kind, question, answer = questions.scene_question(scenes[0], self.rng, self._weak_kind())
            more = self.chat.turn_length("user", question) + self.chat.turn_length("assistant", answer)
            if length + more > limit or len(turns) >= 6 * (limit // CHUNK):
                misses += 1
                continue
            turns.append((question, answer))
            # Answers in a later chunk than the picture are another task: counted apart.
            kinds.append(kind if length + more <= CHUNK else "late")
            length += more
        tiles = [t for i in chosen for t in range(self.pool.first[i], self.pool.first[i + 1])]
        return (self.chat.conversation(turns, system, tilings), kinds), tiles

    def _picture(self, small: bool) -> int:
        candidates = self.by_count[self.progress.objects, small]
        return int(candidates[self.rng.integers(len(candidates))])

    def _weak_kind(self) -> str:
        """A kind of question, the more often the worse it is answered."""
        names = list(questions.KINDS)
        weights = np.array([questions.KINDS[k] * (1.12 - self.progress.exact[k]) for k in names])
        return str(self.rng.choice(names, p=weights / weights.sum()))

    def _text(self) -> tuple[Encoded, list[str]]:
        system = self._system(0.5)
        turns: list[tuple[str, str]] = []
        kinds: list[str] = []
        length, misses = self.chat.opening_length(system), 0
        share = {
            "sum": 0.25 + 1.5 * (1 - self.progress.exact["sum"]),
            "json": 0.25,
            "talk": 0.15,
            "story": 0.12,
            "opening": 0.25,
        }
        names = list(share)
        weights = np.array(list(share.values()))
        kind = str(self.rng.choice(names, p=weights / weights.sum()))
        while misses < 2:
            question, answer = _TEXT_KINDS[kind](self.rng)
            more = self.chat.turn_length("user", question) + self.chat.turn_length("assistant", answer)
            if length + more > CHUNK:
                misses += 1
            else:
                turns.append((question, answer))
                kinds.append(kind)
                length += more
            if self.rng.random() < 0.5:
                kind = str(self.rng.choice(names, p=weights / weights.sum()))
        return self.chat.conversation(turns, system), kinds

    def _system(self, share: float) -> str | None:
        if self.rng.random() >= share:
            return None
        return documents.SYSTEM_PROMPTS[int(self.rng.integers(len(documents.SYSTEM_PROMPTS)))]

    def _batch(self, rows: list[tuple[Encoded, list[str]]], length: int, tiles: list[int]) -> Batch:
        ids = np.full((len(rows), length), self.pad, np.int64)
        answer = np.full((len(rows), length), -1, np.int64)
        spans: list[str] = []
        for r, (encoded, kinds) in enumerate(rows):
            n = len(encoded.ids)
            ids[r, :n] = encoded.ids
            mask = np.array(encoded.answer)
            starts = mask & ~np.concatenate([[False], mask[:-1]])
            answer[r, :n][mask] = (np.cumsum(starts) - 1)[mask] + len(spans)
            spans += kinds
        return Batch(ids, answer, spans, np.array(tiles, np.int64))


def move_on(progress: Progress, log: Any) -> None:
    """Raises the stages whose running exactness allows it."""
    core = [progress.exact[k] for k in ("colour", "shape", "where", "exists", "what_at", "caption")]
    if progress.objects < 3 and np.mean(core) > 0.7:
        progress.objects += 1
        log(f"scenes: up to {progress.objects} objects")
    chunks = NEEDLE_STAGES[progress.needle_stage][0]
    progress.steps_in_stage += 1
    last = progress.needle_stage == len(NEEDLE_STAGES) - 1
    if not last and progress.steps_in_stage > 40 and progress.exact[f"needle{chunks}"] > 0.8:
        progress.needle_stage += 1
        progress.steps_in_stage = 0
        progress.restart(f"needle{NEEDLE_STAGES[progress.needle_stage][0]}", 0.3)
        log(f"needles: {NEEDLE_STAGES[progress.needle_stage]}")
