"""Distributions over the same tokens at the same places, compared: one is taken as the truth, p, the other is q."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.errors import NumericError
from llama4rt.quality.statistics import Mean, mean_of

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """The file against another one, whose distributions are taken as the truth."""

    loss: Mean  # of the other file: -log p of a token, nats
    divergence: Mean  # sum of p log(p / q), p the other's: nats per token
    divergence_quantiles: dict[str, float]  # "50", "90", "99", "99.9", "100" per cent of tokens lie below
    same_best: Mean  # share of places where both find the same token likeliest
    loss_difference: Mean  # of the file minus the other's, token by token


def compare_window(
    chunks: Iterable[tuple[int, Logits, Logits]], ids: Sequence[int], context: int, num_threads: int
) -> dict[str, NDArray[Any]]:
    """chunks: (place of the first row, rows of p, the same rows of q) of the window `ids`, in order. What the core's
    compare_logits gives of every place whose next token is predicted: those after the first `context` tokens.
    """
    tokens = np.array(ids, dtype=np.int32)
    parts: dict[str, list[NDArray[Any]]] = {}
    for place, p_rows, q_rows in chunks:
        first, last = max(place, context - 1), min(place + len(p_rows), len(ids) - 1)
        if first >= last:
            continue
        rows = slice(first - place, last - place)
        found = _core.compare_logits(p_rows[rows], q_rows[rows], tokens[first + 1 : last + 1], num_threads)
        if not found["finite"].all():
            where = first + int(np.argmin(found["finite"]))
            raise NumericError(f"the logits of position {where} of a window hold NaN or infinity")
        for name, values in found.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def summed_up(parts: Mapping[str, list[NDArray[Any]]]) -> tuple[Mean, Comparison]:
    """parts: what compare_window() gave, window by window. (loss of q, the comparison)."""
    p_loss = [-w.astype(np.float64) for w in parts["p_logprob"]]
    q_loss = [-w.astype(np.float64) for w in parts["q_logprob"]]
    divergences = np.concatenate(parts["divergence"])
    quantiles = {f"{level:g}": float(np.percentile(divergences, level)) for level in (50, 90, 99, 99.9, 100)}
    same = [(p == q).astype(np.float64) for p, q in zip(parts["p_best"], parts["q_best"], strict=True)]
    return mean_of(q_loss), Comparison(
        loss=mean_of(p_loss),
        divergence=mean_of(parts["divergence"]),
        divergence_quantiles=quantiles,
        same_best=mean_of(same),
        loss_difference=mean_of([q - p for p, q in zip(p_loss, q_loss, strict=True)]),
    )


__all__ = ["Comparison", "compare_window", "summed_up"]
