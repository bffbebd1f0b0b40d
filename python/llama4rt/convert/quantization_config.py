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


__all__ = ["quantization_config"]
