"""adapter_config.json of a LoRA adapter: how strongly each module's change counts, and what is refused.

PEFT has many variants of LoRA. Those that change more than a matrix by a product of two small ones are refused by name:
merging them as if they were plain would give another model without a word.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama4rt.convert.fields import Fields, shown
from llama4rt.errors import CheckpointError, ConfigError

FILE = "adapter_config.json"
_MAX_RANK = 1 << 16
_MAX_ALPHA = 1e6
_MAX_PATTERNS = 10_000
_MAX_PATTERN_CHARS = 300
_MAX_REPEATED = 3
# Ways to begin that leave the base model's weights as they are; the others keep a part of them in the adapter.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "true", "false")
# Options that make it another method, and how to say so.
_OTHER_METHODS = {
    "layer_replication": "it repeats layers of the base model",
    "alora_invocation_tokens": "aLoRA acts only behind certain tokens",
    "arrow_config": "Arrow chooses among adapters for every token",
    "kasa_config": "KaSA changes the base weights as well",
    "use_bdlora": "BD-LoRA has factors of its own form",
    "use_qalora": "QA-LoRA has factors of its own form",
    "lora_bias": "it adds biases, which Llama 4's linears do not have",
    "trainable_token_indices": "it replaces rows of the embedding",
    "target_modules_to_tie": "it ties factors of several modules",
}
_REPEATED = re.compile(r"(?<![\\(])[*+?{]")


@dataclass(frozen=True)
class LoraConfig:
    """What tensors alone do not say."""

    name: str  # of the adapter, for messages
    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[re.Pattern[str], int]
    alpha_pattern: Mapping[re.Pattern[str], float]
    target_parameters: tuple[str, ...]

    def scale(self, module: str, rank: int) -> float:
        """By what B @ A is multiplied. module: its path in the trained model. Raises CheckpointError where the rank of
        its factors is not the one that the scale would be computed with.
        """
        wanted = _found(self.rank_pattern, module, self.rank)
        if wanted != rank:
            raise CheckpointError(f"{module}: its factors have rank {rank}; {FILE} says {wanted}")
        alpha = float(_found(self.alpha_pattern, module, self.alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def parse_lora_config(values: Mapping[str, Any], name: str) -> LoraConfig:
    """Raises ConfigError."""
    f = Fields(values, file=FILE)
    kind = f.get("peft_type")
    if kind != "LORA":
        raise ConfigError(f"{name}: peft_type is {shown(kind)}; llama4rt merges adapters of type 'LORA'")
    start = f.get("init_lora_weights")
    start = start.lower() if isinstance(start, str) else start
    if isinstance(start, (list, dict)) or start not in _PLAIN_STARTS:
        raise ConfigError(
            f"{name}: init_lora_weights is {shown(start)}: the adapter fits a base model that was changed when its "
            "training began; save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain one"
        )
    for option, what in _OTHER_METHODS.items():
        if f.get(option):
            raise ConfigError(
                f"{name}: {option} is {shown(f.get(option))}: {what}, which llama4rt does not merge"
            )
    return LoraConfig(
        name,
        f.integer("r", 1, _MAX_RANK, default=8),
        f.real("lora_alpha", -_MAX_ALPHA, _MAX_ALPHA, default=8.0),
        f.flag("use_rslora", default=False),
        {pattern: of.integer(key, 1, _MAX_RANK) for pattern, key, of in _patterns(f, "rank_pattern")},
        {
            pattern: of.real(key, -_MAX_ALPHA, _MAX_ALPHA)
            for pattern, key, of in _patterns(f, "alpha_pattern")
        },
        _names(f, "target_parameters"),
    )


def _names(f: Fields, name: str) -> tuple[str, ...]:
    values = f.get(name)
    if values is not None and not (
        isinstance(values, list) and all(isinstance(value, str) for value in values)
    ):
        raise ConfigError(f"{name} is {shown(values)}; it must be a list of names")
    return tuple(values or ())


def _patterns(f: Fields, name: str) -> list[tuple[re.Pattern[str], str, Fields]]:
    """Of PEFT's object of patterns: each, compiled as PEFT matches it, with its key and where its number stands."""
    values = f.get(name) or {}
    if not isinstance(values, Mapping) or len(values) > _MAX_PATTERNS:
        raise ConfigError(f"{name} is {shown(values)}; it must be an object")
    of = Fields(values, f"{name}.", FILE)
    return [(_compiled(key, name), key, of) for key in values]


def _compiled(key: str, name: str) -> re.Pattern[str]:
    """A pattern comes from a file that anybody wrote: one that could take ages to match is refused."""
    repeated = len(_REPEATED.findall(key))
    harmless = (
        len(key) <= _MAX_PATTERN_CHARS and repeated <= _MAX_REPEATED and not re.search(r"\)[*+?{]", key)
    )
    try:
        if harmless:
            return re.compile(rf"(?:.*\.)?(?:{key})$")
    except (re.error, OverflowError):
        pass
    raise ConfigError(
        f"{name}: {key!r:.80} is not a pattern that llama4rt takes: a name, or a simple expression"
    )


def _found(patterns: Mapping[re.Pattern[str], Any], module: str, default: Any) -> Any:
    """The first that matches, as in PEFT."""
    return next((value for pattern, value in patterns.items() if pattern.match(module)), default)


__all__ = ["FILE", "LoraConfig", "parse_lora_config"]
