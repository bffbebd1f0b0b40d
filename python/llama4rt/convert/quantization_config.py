"""quantization_config of a config.json: what says how a checkpoint was quantised. A cross-check: the tensors decide."""

from collections.abc import Mapping
from typing import Any


def quantization_config(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The object under any of the names it has had, also inside text_config; None where there is none."""
    found = config.get("quantization_config") or config.get("compression_config")
    text = config.get("text_config")
    if found is None and isinstance(text, Mapping):
        found = text.get("quantization_config")
    return found if isinstance(found, Mapping) else None


def declared_weights(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What each group of compressed-tensors says of its weights."""
    groups = (quantization_config(config) or {}).get("config_groups")
    found = (
        [group.get("weights") for group in groups.values() if isinstance(group, Mapping)]
        if isinstance(groups, Mapping)
        else []
    )
    return [weights for weights in found if isinstance(weights, Mapping)]


def declared_of(config: Mapping[str, Any], bits: int, name: str) -> Any:
    """What all groups of integers of this width say under a name; None where they differ, and where there is none."""
    said = [
        weights.get(name)
        for weights in declared_weights(config)
        if weights.get("num_bits") == bits and weights.get("type", "int") == "int"
    ]
    return said[0] if said and all(value == said[0] for value in said) else None


__all__ = ["declared_of", "declared_weights", "quantization_config"]
