"""evaluate(): perplexity of an engine file on a text, and how far its distributions lie from another file's."""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama4rt import _core
from llama4rt.engine.engine import Engine
from llama4rt.engine.engine_options import threads
from llama4rt.errors import RequestError
from llama4rt.quality.comparison import Comparison, compare_window, summed_up
from llama4rt.quality.paired_logits import cache_bytes, open_for_logits, paired_chunks
from llama4rt.quality.statistics import Mean, mean_of
from llama4rt.quality.tokens import encode_with
from llama4rt.quality.windows import Windows, spread_windows

_AT_ONCE = 8  # windows that run together, where nothing is compared


@dataclass(frozen=True)
class EngineChoice:
    """How an engine is opened for a measurement."""

    kv_cache_dtype: str = "auto"
    kv_cache_dtype_local: str | None = None
    activations: str = "auto"

    def options(self) -> dict[str, Any]:
        return {
            "kv_cache_dtype": self.kv_cache_dtype,
            "kv_cache_dtype_local": self.kv_cache_dtype_local or "",
            "activations": self.activations,
        }


@dataclass(frozen=True)
class Evaluation:
    """What evaluate() measured. Logarithms are natural; errors are standard errors (statistics.py)."""

    windows: int
    window_length: int
    predictions: int  # tokens whose probability was asked for
    tokens_sha256: str  # of the windows, as int32: two measurements with the same one saw the same tokens
    loss: Mean  # -log p of a token, nats
    seconds: float  # of computing
    comparison: Comparison | None = None

    @property
    def perplexity(self) -> Mean:
        return self.loss.exp()

    def as_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "windows": self.windows,
            "window_length": self.window_length,
            "predictions": self.predictions,
            "tokens_sha256": self.tokens_sha256,
            "seconds": round(self.seconds, 3),
            "loss": self.loss.as_json(),
            "perplexity": self.perplexity.as_json(),
        }
        if self.comparison is not None:
            c = self.comparison
            out["against"] = {
                "loss": c.loss.as_json(),
                "perplexity": c.loss.exp().as_json(),
                "divergence": c.divergence.as_json() | {"quantiles": c.divergence_quantiles},
                "same_best": c.same_best.as_json(),
                "loss_difference": c.loss_difference.as_json(),
            }
        return out


def evaluate(
    file: str | os.PathLike[str],
    text: str | Sequence[int],
    *,
    windows: int | None = None,
    window_length: int = 512,
    begin_token: bool = True,
    context: int = 1,
    against: str | os.PathLike[str] | None = None,
    choice: EngineChoice | None = None,
    against_choice: EngineChoice | None = None,
    device: str = "auto",
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measures the engine file on `windows` windows of `window_length` tokens, spread evenly over the text.

    text: a text, or token ids. windows: None for all that fit side by side. begin_token: each window starts with the
    model's begin-of-text, as prompts do. context: so many tokens at the start of each window are only read; the others
    are predicted. against: another engine file of the same vocabulary; then the divergence of `file` from it is
    measured, and how often both find the same token likeliest. choice, against_choice: how the two are opened.
    progress(done, total) counts windows. Memory: of a chunk's logits at most, never of a text's.

    Raises EngineFileError, ConfigError, RequestError, and NumericError where logits are not finite.
    """
    measurement = _Measurement(
        os.fsdecode(file), choice or EngineChoice(), window_length, device, threads(num_threads)
    )
    if context < 1:
        raise RequestError(f"context is {context}; it must be at least 1, as the first token follows none")
    ids, begin = measurement.tokens(text, begin_token)
    cut = spread_windows(ids, windows, window_length, begin)
    if context >= cut.length:
        raise RequestError(f"context is {context}; windows of {cut.length} tokens leave none to predict")
    start = time.perf_counter()
    if against is None:
        loss, comparison = measurement.alone(cut, context, progress), None
    else:
        other = os.fsdecode(against)
        if not isinstance(text, str):
            measurement.check_vocabulary(other)
        else:
            measurement.check_same_tokens(other, text, ids)
        loss, comparison = measurement.compared(
            other, against_choice or EngineChoice(), cut, context, progress
        )
    return Evaluation(
        windows=len(cut.tokens),
        window_length=cut.length,
        predictions=sum(len(w) - context for w in cut.tokens),
        tokens_sha256=hashlib.sha256(np.array(cut.tokens, dtype="<i4").tobytes()).hexdigest(),
        loss=loss,
        seconds=time.perf_counter() - start,
        comparison=comparison,
    )


class _Measurement:
    def __init__(self, path: str, choice: EngineChoice, length: int, device: str, num_threads: int) -> None:
        self._path, self._choice = path, choice
        self._length, self._device, self._num_threads = length, device, num_threads

    def tokens(self, text: str | Sequence[int], begin_token: bool) -> tuple[list[int], int | None]:
        """The text's tokens, and the one that windows begin with."""
        file = _core.EngineFile(self._path)
        begin = _begin_token(file) if begin_token else None
        if not isinstance(text, str):
            return [int(token) for token in text], begin
        return encode_with(file, text), begin

    def check_vocabulary(self, other: str) -> None:
        sizes = [_config(_core.EngineFile(path))["vocab_size"] for path in (self._path, other)]
        if sizes[0] != sizes[1]:
            raise RequestError(
                f"{self._path} has a vocabulary of {sizes[0]} tokens and {other} of {sizes[1]}; distributions can be "
                "compared over one vocabulary only"
            )

    def check_same_tokens(self, other: str, text: str, ids: Sequence[int]) -> None:
        self.check_vocabulary(other)
        if encode_with(_core.EngineFile(other), text) != list(ids):
            raise RequestError(
                f"{other} makes other tokens of this text than {self._path}; distributions can be compared over one "
                "vocabulary only"
            )

    def alone(self, windows: Windows, context: int, progress: Callable[[int, int], None] | None) -> Mean:
        options = self._choice.options()
        config = _config(_core.EngineFile(self._path))
        losses: list[NDArray[np.float64]] = []
        with Engine(
            self._path,
            device=self._device,  # type: ignore[arg-type]  # the engine says what is wrong with it
            num_threads=self._num_threads or None,
            max_model_len=windows.length,
            max_num_seqs=_AT_ONCE,
            kv_cache_memory=_AT_ONCE * cache_bytes(config, windows.length),
            prefix_cache=False,
            **options,
        ) as engine:
            for first in range(0, len(windows.tokens), _AT_ONCE):
                batch = windows.tokens[first : first + _AT_ONCE]
                losses += [-s.logprobs.astype(np.float64) for s in engine.score_tokens(batch, first=context)]
                if progress:
                    progress(len(losses), len(windows.tokens))
        return mean_of(losses)

    def compared(
        self,
        other: str,
        other_choice: EngineChoice,
        windows: Windows,
        context: int,
        progress: Callable[[int, int], None] | None,
    ) -> tuple[Mean, Comparison]:
        parts: dict[str, list[NDArray[Any]]] = {}
        p, q = (
            open_for_logits(path, windows.length, self._device, self._num_threads, **choice.options())
            for path, choice in ((other, other_choice), (self._path, self._choice))
        )
        try:
            for done, ids in enumerate(windows.tokens, 1):
                chunks = paired_chunks(p, q, ids)
                for name, values in compare_window(chunks, ids, context, self._num_threads).items():
                    parts.setdefault(name, []).append(values)
                if progress:
                    progress(done, len(windows.tokens))
        finally:
            p.close()
            q.close()
        return summed_up(parts)


def _config(file: _core.EngineFile) -> dict[str, Any]:
    import json

    config: dict[str, Any] = json.loads(file.metadata["config"])
    return config


def _begin_token(file: _core.EngineFile) -> int | None:
    begin = _config(file).get("bos_token_id", -1)
    return None if begin < 0 else int(begin)


__all__ = ["EngineChoice", "Evaluation", "evaluate"]
