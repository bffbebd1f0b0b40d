"""From GGUF to engine file without a second quantisation: every type of ggml, and types that share a fused matrix."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver import Driver
from gguf_models import Array, small_gguf
from llama4rt import build
from llama4rt._core import EngineFile
from llama4rt.convert.formats.gguf.blocks.types import ELEMENT_TYPES
from numpy.typing import NDArray
from random_checkpoints import bf16_values, engine_weights, gate_up
from test_gguf_blocks import random_blocks

gguf = pytest.importorskip("gguf", reason="the gguf package says what blocks mean")

NUMBERS = {kind.name: number for number, kind in ELEMENT_TYPES.items()}
TYPES = [kind.name for kind in ELEMENT_TYPES.values() if kind.block is not None]
HIDDEN = 256
VOCABULARY = 64
# Of one layer: q, k and v; o; gate and up; down.
SLOTS = (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))


def random_tensor(kind: str, rows: int, seed: int) -> tuple[tuple[Any, ...], NDArray[np.float32]]:
    """(an entry of small_gguf, what it means) of a matrix [rows, 256]."""
    element = ELEMENT_TYPES[NUMBERS[kind]]
    assert element.block is not None
    blocks = HIDDEN // element.length
    raw = random_blocks(element, rows, blocks, seed)
    records = raw.reshape(-1).view(element.block.dtype)
    for name in ("d", "m", "dmin"):  # so that no activation grows without end
        if name in (records.dtype.names or ()):
            records[name] = np.random.default_rng(seed).uniform(-0.003, 0.003, len(records)).astype("<f2")
    if kind == "IQ1_M":
        records["scales"] &= 0x0FFF
        records["scales"][:, 3] |= 0x1000  # d = 2^-14 * 1.0..
    if kind == "MXFP4":
        records["e"] = 118
    if kind == "NVFP4":
        records["scales"] %= 48
    meant = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    return ((rows, HIDDEN), NUMBERS[kind], raw.tobytes()), meant.reshape(rows, HIDDEN)


def write_model(path: Path, layers: list[Mapping[str, str]]) -> dict[str, Array]:
    """layers: the type of each matrix. Returns what the tensors mean."""
    metadata = {"general.architecture": "llama"} | {
        f"llama.{key}": value
        for key, value in {
            "block_count": len(layers), "context_length": 512, "embedding_length": HIDDEN,
            "feed_forward_length": HIDDEN, "attention.head_count": 4, "attention.head_count_kv": 4,
            "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0,
        }.items()
    }  # fmt: skip
    norm = ((HIDDEN,), NUMBERS["F32"], np.ones(HIDDEN, dtype="<f4").tobytes())
    tensors: dict[str, tuple[Any, ...]] = {"output_norm.weight": norm}
    meant: dict[str, Array] = {}
    tensors["token_embd.weight"], meant["token_embd"] = random_tensor("Q8_0", VOCABULARY, 1)
    for i, types in enumerate(layers):
        tensors |= {f"blk.{i}.attn_norm.weight": norm, f"blk.{i}.ffn_norm.weight": norm}
        for j, (part, kind) in enumerate(types.items()):
            name = f"blk.{i}.{part}"
            tensors[f"{name}.weight"], meant[name] = random_tensor(kind, HIDDEN, 100 * i + j)
    path.write_bytes(small_gguf(metadata, tensors))
    return meant


def expected_weights(meant: Mapping[str, Array], layers: int) -> dict[str, Array]:
    out: dict[str, Array] = {"embed": bf16_values(meant["token_embd"]), "lm_head": meant["token_embd"]}
    for i in range(layers):
        at = f"blk.{i}."
        out[f"layers.{i}.attn.qkv"] = np.concatenate([meant[f"{at}attn_{part}"] for part in "qkv"])
        out[f"layers.{i}.attn.o"] = meant[f"{at}attn_output"]
        out[f"layers.{i}.mlp.gate_up"] = gate_up(meant[f"{at}ffn_gate"], meant[f"{at}ffn_up"])
        out[f"layers.{i}.mlp.down"] = meant[f"{at}ffn_down"]
    return out


def check(path: Path, meant: Mapping[str, Array], layers: int) -> dict[str, Any]:
    found = engine_weights(path)
    for name, value in expected_weights(meant, layers).items():
        if name == "embed":  # stored as bf16, to the nearest
            np.testing.assert_allclose(found[name][0], meant["token_embd"], rtol=2**-8, atol=1e-30)
        else:
            np.testing.assert_array_equal(found[name][0], value, err_msg=name)
    described: dict[str, Any] = json.loads(EngineFile(str(path)).metadata["weights"])
    return described


def test_engines_hold_the_numbers_of_every_type(tmp_path: Path) -> None:
    """Bit for bit; and they run."""
    kinds = [*TYPES, "Q4_0"]
    layers = []
    for i in range(0, len(kinds), len(SLOTS)):
        chosen = zip(SLOTS, kinds[i : i + len(SLOTS)], strict=True)
        layers.append({part: kind for slot, kind in chosen for part in slot})
    meant = write_model(tmp_path / "m.gguf", layers)
    report = build(tmp_path / "m.gguf", tmp_path / "out.l4e")
    described = check(tmp_path / "out.l4e", meant, len(layers))
    assert {d["kind"] for d in described.values()} == {"int4", "int8", "table4"}
    assert report.worst[0][1] == 0  # no error of quantisation
    assert report.notes == ("embed: its Q8_0 numbers are rounded to bf16",)
    with Driver(tmp_path / "out.l4e", device="cpu", max_model_len=64) as driver:
        assert np.isfinite(driver.score(list(range(20)))).all()


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ("Q4_K", "Q4_K", "Q6_K"),  # as in Q4_K_M
        ("Q5_K", "Q5_K", "Q6_K"),
        ("Q2_K", "Q2_K", "Q4_K"),
        ("Q3_K", "Q3_K", "Q5_K"),
        ("IQ4_XS", "IQ4_XS", "Q5_K"),
        ("IQ2_XXS", "IQ2_XXS", "Q4_K"),
        ("IQ1_S", "IQ1_M", "Q2_K"),
        ("Q4_0", "Q4_1", "Q8_0"),
        ("Q5_0", "IQ4_NL", "MXFP4"),
        ("NVFP4", "IQ3_S", "IQ3_XXS"),
    ],
)
def test_types_that_share_a_fused_matrix_keep_their_numbers(q: str, k: str, v: str, tmp_path: Path) -> None:
    """llama.cpp's mixes give v more bits than q and k; a fused matrix has one kind."""
    types = {
        "attn_q": q,
        "attn_k": k,
        "attn_v": v,
        "attn_output": q,
        "ffn_gate": q,
        "ffn_up": v,
        "ffn_down": v,
    }
    meant = write_model(tmp_path / "m.gguf", [types])
    build(tmp_path / "m.gguf", tmp_path / "out.l4e")
    check(tmp_path / "out.l4e", meant, 1)
