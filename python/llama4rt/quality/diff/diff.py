"""diff(): runs an engine file on a short prompt beside its checkpoint."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama4rt import _core
from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.config import ModelConfig, parse_config
from llama4rt.convert.locate import open_checkpoint
from llama4rt.engine.engine_options import threads
from llama4rt.errors import RequestError
from llama4rt.quality.diff.checkpoint_values import CheckpointValues
from llama4rt.quality.diff.compare_steps import StepComparer
from llama4rt.quality.diff.file_values import FileValues
from llama4rt.quality.diff.step import Step
from llama4rt.quality.paired_logits import cache_bytes
from llama4rt.quality.tokens import tokenizer_of

DEFAULT_TOKENS = 48
# For files with a tokenizer; others get random tokens.
_PROMPT = (
    "The sea wall was built in 1873, after the third flood. Its stones came by boat from quarries to the north, and "
    "every one of them was numbered: 4,096 in all. Who reads the numbers today finds that some are missing. "
    "What happened to them? Nobody knows for certain; but there are three stories, and this is the shortest."
)


@dataclass(frozen=True)
class DiffReport:
    tokens: int
    device: str
    activations: str
    kv_cache_dtype: str
    config_differences: tuple[str, ...]  # "field: file has x, checkpoint has y"
    steps: tuple[Step, ...]
    # Of the reference's layers beside those of transformers, where that was asked for: relative RMS, by layer.
    transformers: tuple[float, ...] | None = None
    transformers_problem: str = ""  # why they were not compared

    @property
    def problems(self) -> tuple[Step, ...]:
        """Steps that rounding does not explain, in the order they ran."""
        return tuple(step for step in self.steps if step.problem)

    @property
    def agrees(self) -> bool:
        from llama4rt.quality.diff.transformers_reference import LARGEST

        return (
            not self.problems
            and not self.config_differences
            and all(error <= LARGEST for error in self.transformers or ())
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "agrees": self.agrees,
            "tokens": self.tokens,
            "device": self.device,
            "activations": self.activations,
            "kv_cache_dtype": self.kv_cache_dtype,
            "config_differences": list(self.config_differences),
            "steps": [step.as_json() for step in self.steps],
            "transformers": None if self.transformers is None else list(self.transformers),
            "transformers_problem": self.transformers_problem,
        }


def diff(
    checkpoint: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    text: str | Sequence[int] | None = None,
    tokens: int = DEFAULT_TOKENS,
    device: str = "auto",
    num_threads: int | None = None,
    activations: str = "auto",
    kv_cache_dtype: str = "auto",
    transformers: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DiffReport:
    """Compares every step of the text decoder with the checkpoint it was built from.

    text: a prompt, as text or token ids; at most `tokens` of it are run. transformers: whether its layers are compared
    with the reference's, too; None: where it is installed. A layer of it is in memory then; without it a part of a
    matrix is. progress(done, total) counts steps. Raises CheckpointError, EngineFileError, ConfigError, RequestError.
    """
    source = open_checkpoint(checkpoint)
    config = parse_config(source.config(), source.generation_config(), vision=False)
    path = os.fsdecode(file)
    opened = _core.EngineFile(path)
    stored = json.loads(opened.metadata["config"])
    ids = _prompt(opened, config, stored, text, tokens)
    activations = _activations(activations)
    total = _count_steps(config)
    steps: list[Step] = []

    def tell(step: Step) -> None:
        steps.append(step)
        if progress:
            progress(len(steps), total)

    comparer: list[StepComparer] = []
    engine = _core.ObservedEngine(
        path,
        lambda *call: comparer[0](*call),
        device=device,
        num_threads=threads(num_threads),
        activations=activations if device in ("auto", "cpu") else "auto",
        kv_cache_dtype=kv_cache_dtype,
        max_num_seqs=1,
        max_model_len=len(ids),
        max_batched_tokens=max(len(ids), 1),
        kv_cache_bytes=cache_bytes(stored, len(ids)),
        prefix_cache=False,
    )
    try:
        kind = engine.device
        if kv_cache_dtype == "auto":
            kv_cache_dtype = _core.auto_kv_format(kind, config.head_dim)
        values = CheckpointValues(source, config)
        comparer.append(
            StepComparer(
                values, config, FileValues(opened), kind, activations, (kv_cache_dtype, kv_cache_dtype), tell
            )
        )
        engine.run(ids)
    finally:
        engine.close()
    errors, problem = _beside_transformers(transformers, source, config, comparer[0])
    return DiffReport(
        tokens=len(ids),
        device=kind,
        activations=activations,
        kv_cache_dtype=kv_cache_dtype,
        config_differences=_config_differences(config, stored),
        steps=tuple(steps),
        transformers=errors,
        transformers_problem=problem,
    )


def _prompt(
    file: _core.EngineFile,
    config: ModelConfig,
    stored: dict[str, Any],
    text: str | Sequence[int] | None,
    count: int,
) -> list[int]:
    """At most an attention chunk: a step does not cross one."""
    if any(stored["chunked_layers"]):
        count = min(count, stored["attention_chunk_size"])
    count = min(count, stored["max_position_embeddings"])
    if text is None or isinstance(text, str):
        tokenizer = tokenizer_of(file)
        if tokenizer is not None:
            begin = [stored["bos_token_id"]] if stored["bos_token_id"] >= 0 else []
            ids = begin + tokenizer.encode(_PROMPT if text is None else text)
        elif text is None:
            ids = np.random.default_rng(1).integers(0, config.vocab_size, count).tolist()
        else:
            raise RequestError(f"{file} carries no tokenizer; give token ids in place of a text")
    else:
        ids = [int(token) for token in text]
    if count < 2 or len(ids) < 2:
        raise RequestError(
            "the prompt must have two tokens at least: one alone attends to nothing but itself"
        )
    return ids[:count]


def _activations(choice: str) -> str:
    """What "auto" means on this machine; docs/numerics.md."""
    if choice != "auto":
        return choice
    return "int16" if _core.build_info()["selected_isa"] == "amx" else "int8"


def _count_steps(config: ModelConfig) -> int:
    return 4 + sum(13 if moe else 11 for moe in config.moe_layers)


def _config_differences(config: ModelConfig, stored: dict[str, Any]) -> tuple[str, ...]:
    own = json.loads(json.dumps(config.canonical()))
    left_out = {"architecture", "vision"}  # the text part alone may have been built
    return tuple(
        f"{key}: the file has {stored.get(key)}, the checkpoint {own.get(key)}"
        for key in sorted(set(own) | set(stored) - left_out)
        if key not in left_out and own.get(key) != stored.get(key)
    )


def _beside_transformers(
    wanted: bool | None, checkpoint: Checkpoint, config: ModelConfig, comparer: StepComparer
) -> tuple[tuple[float, ...] | None, str]:
    from llama4rt.quality.diff import transformers_reference

    if wanted is False:
        return None, "not asked for"
    problem = transformers_reference.missing()
    if problem:
        if wanted:
            raise RequestError(problem)
        return None, problem
    return transformers_reference.layer_errors(checkpoint, config, comparer.layer_states), ""


__all__ = ["DEFAULT_TOKENS", "DiffReport", "diff"]
