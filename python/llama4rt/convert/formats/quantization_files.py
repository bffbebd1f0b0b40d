"""What says how a checkpoint was quantised where config.json does not: files of their own that some writers leave."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama4rt.convert.files import is_there, read_json_object
from llama4rt.convert.quantization_config import quantization_config

# File -> (quant_method, the key of its object that tells; None: the whole).
_FILES = {
    "hf_quant_config.json": ("modelopt", "quantization"),
    "quantize_config.json": ("gptq", None),
    "quant_config.json": ("awq", None),
}


def quantization_file(config: Mapping[str, Any], directory: Path) -> Path | None:
    """The file to ask; None where config.json says it itself, or nothing does."""
    if quantization_config(config) is not None:
        return None
    return next((directory / name for name in _FILES if is_there(directory / name)), None)


def with_quantization(config: Mapping[str, Any], file: Path | None) -> Mapping[str, Any]:
    """config as if it held what the file says. Raises CheckpointError when the file is not a JSON object."""
    if file is None:
        return config
    method, key = _FILES[file.name]
    said = read_json_object(file)
    inner = said if key is None else said.get(key)
    own = inner if isinstance(inner, Mapping) else {}
    return {**config, "quantization_config": {"quant_method": method, **own}}


__all__ = ["quantization_file", "with_quantization"]
