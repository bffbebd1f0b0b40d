"""A checkpoint's numbers in fp32, by their names in Hugging Face's layout.

Written apart from convert/names.py on purpose: a comparison that found tensors by the builder's own table would not see
the builder's mistakes. Matrices are [out, in] here, whatever way they are stored, and come in slices of rows, so that
never more than a part of one is in memory.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.config import ModelConfig
from llama4rt.convert.stored_rows import Codes

Array = NDArray[np.float32]

_SLICE_BYTES = 64 << 20  # of fp32 rows


class CheckpointValues:
    def __init__(self, checkpoint: Checkpoint, config: ModelConfig) -> None:
        self._checkpoint = checkpoint
        self._names = checkpoint.names()
        prefix = "language_model."
        self._prefix = prefix if any(name.startswith(prefix) for name in self._names) else ""
        self._config = config

    def embedding(self, ids: Sequence[int]) -> Array:
        """[tokens, H]"""
        name = f"{self._prefix}model.embed_tokens.weight"
        return np.concatenate([self._rows(name, token, token + 1) for token in ids])

    def gain(self, name: str) -> Array:
        """[H] of a norm: "layers.3.input_layernorm", "norm"."""
        return self._rows(f"{self._prefix}model.{name}.weight").reshape(-1)

    def matrix(self, name: str, rows: int, columns: int) -> Iterator[tuple[int, Array]]:
        """(first row, rows [_, in]) of "layers.3.self_attn.q_proj", for one after the other."""
        return self._slices(f"{self._prefix}model.{name}.weight", 0, rows, columns, None)

    def head(self) -> Iterator[tuple[int, Array]]:
        c = self._config
        name = "model.embed_tokens.weight" if c.tie_word_embeddings else "lm_head.weight"
        return self._slices(f"{self._prefix}{name}", 0, c.vocab_size, c.hidden_size, None)

    def expert(self, layer: int, expert: int, part: str) -> Iterator[tuple[int, Array]]:
        """part: "gate", "up" or "down". Stacks hold gate above up, and each expert for itself transposed."""
        c = self._config
        at = f"{self._prefix}model.layers.{layer}.feed_forward.experts."
        rows, columns = (
            (c.hidden_size, c.intermediate_size) if part == "down" else (c.intermediate_size, c.hidden_size)
        )
        alone = f"{at}{expert}.{part}_proj.weight"
        if alone in self._names:
            return self._slices(alone, 0, rows, columns, None)
        if part == "down":
            return self._slices(f"{at}down_proj", 0, rows, columns, expert)
        return self._slices(f"{at}gate_up_proj", rows if part == "up" else 0, rows, columns, expert)

    def _slices(
        self, name: str, first: int, rows: int, columns: int, expert: int | None
    ) -> Iterator[tuple[int, Array]]:
        step = max(_SLICE_BYTES // (4 * columns), 1)
        for begin in range(0, rows, step):
            end = min(begin + step, rows)
            yield begin, self._rows(name, first + begin, first + end, expert)
        self._checkpoint.release(name)

    def _rows(self, name: str, first: int = 0, last: int | None = None, expert: int | None = None) -> Array:
        found = self._checkpoint.rows(name, first, last, expert)
        values = found.values() if isinstance(found, Codes) else found
        array = values.as_float32()
        return np.ascontiguousarray(array.T if values.transposed else array)


__all__ = ["CheckpointValues"]
