"""Writes a checkpoint of any format that llama4rt reads as plain bf16 numbers in Hugging Face's layout.

    python benchmarks/quality/plain_checkpoint.py model.gguf plain/

What a build quantises must be numbers: codes of a GGUF or GPTQ file are kept as they are. This makes numbers of them,
so that one model can be measured in every kind of weight. Each tensor is in memory for itself.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from llama4rt.convert.checkpoint import Checkpoint
from llama4rt.convert.config import parse_config
from llama4rt.convert.locate import open_checkpoint
from llama4rt.convert.stored_rows import Codes

_NO_MODEL = ("config.json", "generation_config.json")


def write_plain(source: str | Path, out: Path) -> None:
    checkpoint = open_checkpoint(source)
    out.mkdir(parents=True, exist_ok=True)
    names = sorted(checkpoint.names())
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        shape = list(checkpoint.names()[name].shape)
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(out / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_bf16(checkpoint, name).tobytes())
            checkpoint.release(name)
    config = dict(checkpoint.config())
    config.pop("quantization_config", None)
    parse_config(config, checkpoint.generation_config())  # says now what a build would say
    (out / "config.json").write_text(json.dumps(config, indent=1))
    (out / "generation_config.json").write_text(json.dumps(dict(checkpoint.generation_config())))
    for name, data in checkpoint.kept_files().items():
        if name not in _NO_MODEL:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)


def _bf16(checkpoint: Checkpoint, name: str) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The tensor's numbers to the nearest bf16, ties to even, in its own shape."""
    shape = checkpoint.names()[name].shape

    def rows(expert: int | None) -> np.ndarray[Any, np.dtype[np.float32]]:
        found = checkpoint.rows(name, expert=expert)
        values = found.values() if isinstance(found, Codes) else found
        array = values.as_float32()
        # rows() gives a matrix of a stack by outputs; stacks are stored [E, in, out].
        outputs_first = array.T if values.transposed else array
        return outputs_first if expert is None else outputs_first.T

    whole = rows(None) if len(shape) < 3 else np.stack([rows(expert) for expert in range(shape[0])])
    bits = np.ascontiguousarray(whole.reshape(shape), dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    write_plain(arguments.source, arguments.out)
