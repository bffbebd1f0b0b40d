"""The logits of two engine files at the same places of a text, chunk after chunk.

Both engines are stepped here, by turns, and a step computes one chunk: so no more than a chunk's logits of each is ever
in memory, whatever the length of the text and the vocabulary.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.errors import Llama4RTError, RequestError

_CHUNK_BYTES = 64 << 20  # of logits, of each engine
_LEAST_ROWS, _MOST_ROWS = 16, 512

Logits = NDArray[np.float32]


def chunk_rows(vocab_size: int) -> int:
    """Tokens of a step whose logits stay within _CHUNK_BYTES; few enough rows would make prefill slow."""
    return int(min(max(_CHUNK_BYTES // (4 * vocab_size), _LEAST_ROWS), _MOST_ROWS))


def cache_bytes(config: Mapping[str, Any], tokens: int) -> int:
    """Enough for one sequence of so many tokens in any cache format."""
    heads, dim, layers = config["num_key_value_heads"], config["head_dim"], config["num_hidden_layers"]
    return int(8 * heads * max(dim, 64) * layers * (math.ceil(tokens / 16) + 4) * 16 * 2)


def logit_chunks(core: _core.Engine, ids: Sequence[int]) -> Iterator[Logits]:
    """float32 [tokens of a step, vocab] until all of ids are done. The engine does nothing else meanwhile."""
    request = _core.Request()
    request.prompt_token_ids = list(ids)
    request.return_logits = True
    request.use_prefix_cache = False
    core.submit(request)
    while core.has_work():
        for event in core.step():
            if event.logits is not None and len(event.logits):
                yield event.logits
            if event.finish_reason == "error":
                raise RequestError(event.error or "the request failed")
            if event.finish_reason == "abort":
                raise Llama4RTError("the measurement was ended from outside")


def paired_chunks(
    p: _core.Engine, q: _core.Engine, ids: Sequence[int]
) -> Iterator[tuple[int, Logits, Logits]]:
    """(place of the first row, rows of p, the same rows of q), in order. Chunks of the two need not be equal: models
    differ in where their attention chunks end.
    """
    sources = (logit_chunks(p, ids), logit_chunks(q, ids))
    held: list[Logits | None] = [None, None]
    place = 0
    while place < len(ids):
        for side, source in enumerate(sources):
            if held[side] is None or not len(held[side]):  # type: ignore[arg-type]
                held[side] = next(source, None)
        first, second = held
        if first is None or second is None:
            raise Llama4RTError(f"an engine gave logits of {place} tokens; expected {len(ids)}")
        rows = min(len(first), len(second))
        yield place, first[:rows], second[:rows]
        place += rows
        held = [first[rows:], second[rows:]]


__all__ = ["cache_bytes", "chunk_rows", "logit_chunks", "paired_chunks"]
