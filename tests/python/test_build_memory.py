"""The memory of a build does not grow with the model: stacks of experts far larger than the bound pass through it.

The checkpoints are sparse files of zeros, which take no room on the disk. docs/checkpoints.md has the peaks of real
shapes.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from lora_adapters import Adapter
from pth_mutations import write_sparse_zip
from random_checkpoints import models, write_config
from tiny_checkpoints import write_byte_tokenizer

BOUND = 200 << 20  # bytes; the process itself, with numpy, needs about 60 MB of them
HIDDEN, WIDTH, EXPERTS = 1024, 2048, 32
LARGEST = 2 * EXPERTS * HIDDEN * 2 * WIDTH
TEXT: dict[str, Any] = models.PRESETS["tiny"] | {
    "vocab_size": 4096,
    "hidden_size": HIDDEN,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_local_experts": EXPERTS,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
    "tie_word_embeddings": False,
}
del TEXT["vision_config"]
PARAMS = {
    "dim": HIDDEN, "n_layers": 1, "n_heads": 8, "n_kv_heads": 8, "vocab_size": 4096, "ffn_exp": 6.0, "multiple_of": 256,
    "moe_args": {"num_experts": EXPERTS, "auto_scale_F": True},
}  # fmt: skip


def write_safetensors(directory: Path) -> Path:
    directory.mkdir()
    write_config(directory, TEXT)
    header: dict[str, Any] = {}
    at = 0
    for spec in models.text_tensors(TEXT, ""):
        size = 2
        for dim in spec.shape:
            size *= dim
        header[spec.name] = {"dtype": "BF16", "shape": list(spec.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return directory


class _Storage:
    def __init__(self, key: str, count: int) -> None:
        self.key, self.count = key, count


class _Tensor:
    """Pickles as a bf16 tensor of torch that has no memory."""

    def __init__(self, key: str, shape: tuple[int, ...]) -> None:
        self.storage, self.shape = _Storage(key, 1), shape
        strides = []
        for dim in reversed(shape):
            strides.insert(0, self.storage.count)
            self.storage.count *= dim
        self.strides = tuple(strides)

    def __reduce__(self) -> Any:
        import torch

        rebuild: Any = torch._utils._rebuild_tensor_v2
        return rebuild, (self.storage, 0, self.shape, self.strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        import torch

        if isinstance(value, _Storage):
            return ("storage", torch.BFloat16Storage, value.key, "cpu", value.count)
        return None


def write_meta(directory: Path, files: int) -> Path:
    directory.mkdir()
    (directory / "params.json").write_text(json.dumps(PARAMS))
    ffn, width = "layers.0.feed_forward.", WIDTH // files
    shapes = {
        "tok_embeddings.weight": (4096 // files, HIDDEN),
        "output.weight": (4096 // files, HIDDEN),
        "norm.weight": (HIDDEN,),
        "layers.0.attention_norm.weight": (HIDDEN,),
        "layers.0.ffn_norm.weight": (HIDDEN,),
        "layers.0.attention.wqkv.weight": (3 * HIDDEN // files, HIDDEN),
        "layers.0.attention.wo.weight": (HIDDEN, HIDDEN // files),
        f"{ffn}router_DE": (HIDDEN, EXPERTS),
        f"{ffn}w_in_shared_FD.weight": (width, HIDDEN),
        f"{ffn}w_swiglu_FD.weight": (width, HIDDEN),
        f"{ffn}w_out_shared_DF.weight": (HIDDEN, width),
        f"{ffn}experts.moe_w_in_eD_F": (EXPERTS * HIDDEN, width),
        f"{ffn}experts.moe_w_swiglu_eD_F": (EXPERTS * HIDDEN, width),
        f"{ffn}experts.moe_w_out_eF_D": (EXPERTS * width, HIDDEN),
    }
    tensors = {name: _Tensor(str(i), shape) for i, (name, shape) in enumerate(shapes.items())}
    out = io.BytesIO()
    _Pickler(out, protocol=2).dump(tensors)
    members: list[tuple[str, int, dict[int, bytes]]] = [("c/data.pkl", out.tell(), {0: out.getvalue()})]
    members += [(f"c/data/{t.storage.key}", 2 * t.storage.count, {}) for t in tensors.values()]
    for rank in range(files):
        write_sparse_zip(directory / f"consolidated.{rank:02d}.pth", members)
    write_byte_tokenizer(directory)
    return directory


def peak_of_a_build(source: Path, out: Path, **options: Any) -> int:
    """Bytes of resident memory."""
    program = (
        "import json, sys, llama4rt\n"
        "llama4rt.build(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))\n"
        # Not getrusage: its peak is inherited from the process that started this one.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(int(peak.split()[1]) * 1024)"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(source), str(out), json.dumps(options)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("form", ["safetensors", "meta", "adapter"])
def test_the_peak_is_far_below_the_largest_tensor(form: str, tmp_path: Path) -> None:
    lora = []
    if form == "meta":
        source = write_meta(tmp_path / "source", 2)
    else:
        source = write_safetensors(tmp_path / "source")
    if form == "adapter":
        adapter = Adapter()
        adapter.stack("model.layers.0.feed_forward.experts", EXPERTS, HIDDEN, WIDTH)
        lora = [str(adapter.write(tmp_path / "adapter"))]
    peak = peak_of_a_build(source, tmp_path / "out.l4e", lora=lora)
    print(f"{form}: {peak / 1e6:.0f} MB, the largest tensor {LARGEST / 1e6:.0f} MB")
    assert BOUND < LARGEST
    assert peak < BOUND, f"{peak / 1e6:.0f} MB"
