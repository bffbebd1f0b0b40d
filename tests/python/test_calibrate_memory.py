"""A calibrated build takes the memory of one layer and of the text's activations: as planned, under a limit that the
system holds it to, with a model that is larger than the limit.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from llama4rt import _core, build
from llama4rt.convert.build_options import BuildOptions
from llama4rt.convert.calibrate.memory_plan import planned_bytes
from llama4rt.convert.calibrate.options import DEFAULT_TOKENS
from llama4rt.convert.calibrate.prepare import calibrated_targets
from llama4rt.convert.calibrate.widths import candidates
from llama4rt.convert.checkpoint import TensorInfo
from llama4rt.convert.config import ModelConfig, parse_config
from llama4rt.convert.names import TensorMapping, map_tensors
from llama4rt.errors import ConfigError
from random_checkpoints import TINY, models, write_config
from tiny_checkpoints import write_byte_tokenizer

SCALED: dict[str, Any] = TINY | {
    "vocab_size": 512,
    "hidden_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_local_experts": 32,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "max_position_embeddings": 4096,
    "attention_chunk_size": 1024,
    "bos_token_id": 256,
}
PUBLISHED = SCALED | {
    "vocab_size": 202_048,
    "hidden_size": 5120,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16_384,
    "num_hidden_layers": 48,
    "max_position_embeddings": 1 << 20,
    "attention_chunk_size": 8192,
}
SCOUT = PUBLISHED | {"num_local_experts": 16}
MAVERICK = PUBLISHED | {"num_local_experts": 128, "interleave_moe_layer_step": 2}
TOKENS = 512


class Names:
    """A checkpoint that has names alone."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._names = {
            spec.name: TensorInfo("BF16", tuple(spec.shape)) for spec in models.text_tensors(config, "")
        }

    def names(self) -> Mapping[str, TensorInfo]:
        return self._names

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return []


def described(config: dict[str, Any]) -> tuple[ModelConfig, TensorMapping]:
    parsed = parse_config(
        {"architectures": ["Llama4ForCausalLM"], **config}, {}, rope_scaling=None, vision=False
    )
    return parsed, map_tensors(parsed, Names(config))


def plan_of(config: dict[str, Any], tokens: int, threads: int) -> int:
    parsed, mapping = described(config)
    layouts = {
        target.name: candidates("cpu", offsets=False)[-1]
        for target in calibrated_targets(mapping, BuildOptions("cpu", "int4", 128, "linear", "int8", "none"))
    }
    lengths = [256] * (tokens // 256)
    calibration = _core.Calibration(
        json.dumps(parsed.canonical()),
        lengths,
        threads,
        damping=0.01,
        importance=1,
        first_weight=1,
        fewest_tokens=32,
    )
    return planned_bytes(calibration, mapping, layouts, tokens, parsed.hidden_size, threads)


def size_of(config: dict[str, Any]) -> int:
    _, mapping = described(config)
    return sum(2 * target.experts * target.n * target.k for target in mapping.targets)


def test_published_models_fit_by_plan() -> None:
    """Scout on 64 GB, with every token of the default; even Maverick, one layer of which is 33 GB."""
    assert size_of(SCOUT) > 210e9
    assert plan_of(SCOUT, DEFAULT_TOKENS, 64) < 24e9
    assert plan_of(MAVERICK, DEFAULT_TOKENS, 64) < 64e9


def write_sparse(directory: Path) -> Path:
    """Zeros, which take no room on the disk."""
    directory.mkdir()
    write_config(directory, SCALED)
    write_byte_tokenizer(directory)
    header: dict[str, Any] = {}
    at = 0
    for spec in models.text_tensors(SCALED, ""):
        size = 2
        for dim in spec.shape:
            size *= dim
        header[spec.name] = {"dtype": "BF16", "shape": list(spec.shape), "data_offsets": [at, at + size]}
        at += size
    content = json.dumps(header).encode()
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + at)
    return directory


PROGRAM = """
import json, resource, sys, llama4rt
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
llama4rt.build(sys.argv[1], sys.argv[2], num_threads=2, **json.loads(sys.argv[4]))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.parametrize("bits", [None, 4.5])
def test_a_model_larger_than_the_memory(bits: float | None, tmp_path: Path) -> None:
    """The system refuses this process more than planned; files that are mapped count in its peak."""
    source = write_sparse(tmp_path / "source")
    planned, size = plan_of(SCALED, TOKENS, 2), size_of(SCALED)
    assert planned < 0.7 * size
    options = json.dumps({"calibrate": "builtin", "calibrate_tokens": TOKENS, "bits": bits})
    files = [str(source), str(tmp_path / "out.l4e")]
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, *files, str(planned)]
    done = subprocess.run([*command, options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout) << 10
    print(f"{size / 1e6:.0f} MB of weights, {planned / 1e6:.0f} MB planned, {peak / 1e6:.0f} MB taken")
    assert peak < planned


def test_too_little_memory_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_sparse(tmp_path / "source")
    monkeypatch.setattr(_core, "available_memory", lambda: plan_of(SCALED, TOKENS, 2) // 2)
    with pytest.raises(ConfigError, match=r"takes 0\.\d GB of memory; 0\.\d GB are free"):
        build(source, tmp_path / "out.l4e", calibrate="builtin", calibrate_tokens=TOKENS)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
