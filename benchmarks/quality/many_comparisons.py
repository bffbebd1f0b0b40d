"""One engine's logits, computed once and kept in a file, and many engines held against them.

What `llama4rt eval --against` computes anew for every file. Of 6,144 tokens and 49,152 words the file takes 1.2 GB.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from llama4rt.quality.comparison import compare_window, summed_up
from llama4rt.quality.evaluate import EngineChoice, Evaluation
from llama4rt.quality.paired_logits import logit_chunks, open_for_logits, paired_chunks
from llama4rt.quality.windows import Windows, spread_windows

_ROWS = 64  # compared at once


class ManyComparisons:
    def __init__(
        self, tokens: list[int], windows: int, length: int, begin: int | None, threads: int, work: Path
    ) -> None:
        self._cut: Windows = spread_windows(tokens, windows, length, begin)
        self._threads, self._work = threads, work
        self._truth: list[np.memmap[Any, np.dtype[np.float32]]] = []

    @property
    def has_reference(self) -> bool:
        return bool(self._truth)

    def compute_reference(
        self, path: Path, choice: EngineChoice, done: Callable[[int, int], None] | None
    ) -> None:
        engine = open_for_logits(str(path), self._cut.length, "auto", self._threads, **choice.options())
        try:
            for i, ids in enumerate(self._cut.tokens, 1):
                with tempfile.NamedTemporaryFile(dir=self._work, prefix="logits-") as file:
                    count = 0
                    for rows in logit_chunks(engine, ids):
                        file.write(np.ascontiguousarray(rows, dtype=np.float32).data)
                        count += len(rows)
                    file.flush()
                    vocabulary = os.path.getsize(file.name) // (4 * count)
                    # Mapped, the file lives on without its name.
                    self._truth.append(np.memmap(file.name, np.float32, "r", shape=(count, vocabulary)))
                if done:
                    done(i, len(self._cut.tokens))
        finally:
            engine.close()

    def measure(
        self, path: Path, choice: EngineChoice, done: Callable[[int, int], None] | None
    ) -> Evaluation:
        parts: dict[str, list[np.ndarray[Any, Any]]] = {}
        start = time.perf_counter()
        engine = open_for_logits(str(path), self._cut.length, "auto", self._threads, **choice.options())
        try:
            for i, ids in enumerate(self._cut.tokens):
                pairs = paired_chunks(self._rows(i), engine, ids)
                for name, values in compare_window(pairs, ids, 1, self._threads).items():
                    parts.setdefault(name, []).append(values)
                if done:
                    done(i + 1, len(self._cut.tokens))
        finally:
            engine.close()
        loss, comparison = summed_up(parts)
        return Evaluation(
            windows=len(self._cut.tokens),
            window_length=self._cut.length,
            predictions=sum(len(ids) - 1 for ids in self._cut.tokens),
            tokens_sha256=hashlib.sha256(np.array(self._cut.tokens, dtype="<i4").tobytes()).hexdigest(),
            loss=loss,
            seconds=time.perf_counter() - start,
            comparison=comparison,
        )

    def _rows(self, window: int) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
        truth = self._truth[window]
        for first in range(0, len(truth), _ROWS):
            yield truth[first : first + _ROWS]


__all__ = ["ManyComparisons"]
