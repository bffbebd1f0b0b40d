"""FP8 and int4 experts of Meta's own checkpoints: codes, scales and what they mean, against the published rule.

The rule is written out here with torch, apart from the reader: each file's part of each expert is quantised on its
own, transposed back, flattened and, for int4, called FP8.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama4rt import build
from llama4rt._core import EngineFile
from llama4rt.convert.locate import open_checkpoint
from llama4rt.convert.stored_rows import Codes
from llama4rt.convert.stored_rows import Values as RowValues
from llama4rt.errors import CheckpointError
from meta_files import CONFIG, PARAMS, native, save_pth, shard, shard_name, write_beside
from random_checkpoints import Values, engine_weights, expected_weights, random_values

WIDE: dict[str, Any] = CONFIG | {
    "intermediate_size": 256,
    "num_hidden_layers": 6,
}  # MoE: 1, 3, 5; the last is bf16
WIDE_PARAMS = PARAMS | {"ffn_exp": 6.0, "n_layers": 6}
E, D, F = 4, 128, 256
NAMES = {"moe_w_in_eD_F": "w1", "moe_w_swiglu_eD_F": "w3", "moe_w_out_eF_D": "w2"}
Quantised = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # stored codes, scales, meaning [E, in, out]


def fp8(part: torch.Tensor) -> Quantised:
    """[E, in, out] of one file: a scale for each output."""
    rows = part.transpose(1, 2)
    scale = rows.abs().amax(2) / 448
    codes = (rows / scale[:, :, None]).to(torch.float8_e4m3fn)
    meaning = (codes.float() * scale[:, :, None]).transpose(1, 2)
    back = codes.view(torch.uint8).transpose(1, 2).reshape(-1, part.shape[2]).contiguous()
    return back.view(torch.float8_e4m3fn), scale, meaning


def int4(part: torch.Tensor) -> Quantised:
    """Groups of 128 inputs; -8..7; two to a byte, the even input in the low bits."""
    experts, into, out = part.shape
    rows = part.transpose(1, 2)
    groups = rows.reshape(experts, out, into // 128, 128)
    scale = groups.abs().amax(3).clamp(min=1e-6) / 8
    codes = (groups / scale[..., None]).round().clamp(-8, 7)
    meaning = (codes * scale[..., None]).reshape(experts, out, into).transpose(1, 2)
    whole = codes.reshape(experts, out, into).to(torch.int32)
    packed = ((whole[..., 0::2] & 15) | ((whole[..., 1::2] & 15) << 4)).to(torch.uint8)
    back = packed.transpose(1, 2).reshape(-1, out).contiguous()
    return back.view(torch.float8_e4m3fn), scale.transpose(1, 2).contiguous(), meaning


RULES: dict[str, Callable[[torch.Tensor], Quantised]] = {"fp8": fp8, "int4": int4}


def write_coded(
    directory: Path, kind: str, count: int, config: Any = WIDE, params: Any = WIDE_PARAMS, change: Any = None
) -> Values:
    """Writes the quantised checkpoint; returns what its numbers mean, by Hugging Face's names."""
    values = random_values(config)
    write_beside(directory, params)
    whole = native(values, fused=True)
    shards: list[dict[str, Any]] = [dict(shard(whole, rank, count)) for rank in range(count)]
    all_scales: list[dict[str, Any]] = [{} for _ in range(count)]
    width = config["intermediate_size"]
    for layer in range(1, config["num_hidden_layers"] - 1, 2):
        at = f"layers.{layer}.feed_forward.experts."
        meanings: dict[str, list[torch.Tensor]] = {}
        for rank in range(count):
            for name in NAMES:
                part = torch.from_numpy(np.ascontiguousarray(shards[rank][at + name]))
                into = D if name != "moe_w_out_eF_D" else width // count
                codes, scale, meaning = RULES[kind](part.reshape(E, into, -1))
                shards[rank][at + name] = codes
                all_scales[rank][at + NAMES[name]] = scale
                meanings.setdefault(name, []).append(meaning)
        hf = f"model.layers.{layer}.feed_forward.experts."
        gate, up = (torch.cat(meanings[name], 2) for name in ("moe_w_in_eD_F", "moe_w_swiglu_eD_F"))
        values[f"{hf}gate_up_proj"] = torch.cat([gate, up], 2).numpy()
        values[f"{hf}down_proj"] = torch.cat(meanings["moe_w_out_eF_D"], 1).numpy()
    for rank, (arrays, scales) in enumerate(zip(shards, all_scales, strict=True)):
        extra = {
            n: torch.nn.Parameter(a, requires_grad=False)
            for n, a in arrays.items()
            if isinstance(a, torch.Tensor)
        }
        plain = {n: a for n, a in arrays.items() if n not in extra}
        if change is not None:
            change(rank, extra, scales)
        save_pth(directory / shard_name(rank, count), plain, extra)
        torch.save(scales, directory / f"{kind}_scales_{rank}.pt")
    return values


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ["fp8", "int4"])
def test_codes_mean_what_the_rule_says(kind: str, count: int, tmp_path: Path) -> None:
    """Bit for bit in fp32, any rows of any expert; each file's scales count for its own inputs."""
    values = write_coded(tmp_path / "source", kind, count)
    checkpoint = open_checkpoint(tmp_path / "source")
    for layer, coded in ((1, True), (3, True), (5, False)):
        for part in ("gate_up_proj", "down_proj"):
            name = f"model.layers.{layer}.feed_forward.experts.{part}"
            info = checkpoint.names()[name]
            assert (info.codes is not None) == coded
            assert info.shape == values[name].shape
            if not coded:
                continue
            assert info.codes is not None and (info.codes.kind, info.codes.scale_dtype) == (kind, "F32")
            for expert in range(E):
                for first, last in (
                    (0, None),
                    (5, 9),
                    (126, 128),
                    (F - 3, F + 40) if part == "gate_up_proj" else (60, 66),
                ):
                    rows = checkpoint.rows(name, first, last, expert)
                    assert isinstance(rows, Codes) and rows.layout == info.codes
                    wanted = values[name][expert].T[first:last]
                    assert np.array_equal(rows.values().array, wanted), (name, expert)


@pytest.mark.parametrize(("count", "group"), [(2, 128), (4, 64), (8, 32)])
def test_groups_end_where_a_files_inputs_end(count: int, group: int, tmp_path: Path) -> None:
    values = write_coded(tmp_path / "source", "fp8", count)
    checkpoint = open_checkpoint(tmp_path / "source")
    name = "model.layers.3.feed_forward.experts.down_proj"
    codes = checkpoint.names()[name].codes
    assert codes is not None and codes.group_size == group
    rows = checkpoint.rows(name, 0, None, 2)
    assert isinstance(rows, Codes)
    assert np.array_equal(rows.values().array, values[name][2].T)
    per_file = rows.scales.reshape(D, count, -1)
    assert (per_file == per_file[:, :, :1]).all() and (per_file[:, 0] != per_file[:, 1]).any()


NARROW = CONFIG | {"num_hidden_layers": 6, "intermediate_size": 192}  # 24 inputs in each of 8 files
NARROW_PARAMS = PARAMS | {"ffn_exp": 4.5, "n_layers": 6}


def test_inputs_that_no_group_divides_are_numbers(tmp_path: Path) -> None:
    values = write_coded(tmp_path / "source", "fp8", 8, NARROW, NARROW_PARAMS)
    checkpoint = open_checkpoint(tmp_path / "source")
    name = "model.layers.1.feed_forward.experts.down_proj"
    assert checkpoint.names()[name].codes is None
    for first, last in ((0, None), (7, 90)):
        rows = checkpoint.rows(name, first, last, 1)
        assert isinstance(rows, RowValues) and rows.dtype == "F32"
        assert np.array_equal(rows.array, values[name][1].T[first:last])
    gate_up = checkpoint.names()["model.layers.1.feed_forward.experts.gate_up_proj"]
    assert gate_up.codes is not None
    notes = build(tmp_path / "source", tmp_path / "out.l4e", weights="bf16").notes
    assert any("of each file are of 24 inputs" in note and "moe_w_out_eF_D" in note for note in notes)


@pytest.mark.parametrize("kind", ["fp8", "int4"])
def test_engines_hold_the_numbers(kind: str, tmp_path: Path) -> None:
    values = write_coded(tmp_path / "source", kind, 2)
    notes = build(tmp_path / "source", tmp_path / "out.l4e", weights="bf16").notes
    assert (kind == "fp8") == any("activations" in note for note in notes)
    described = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["weights"])
    found, wanted = engine_weights(tmp_path / "out.l4e"), expected_weights(WIDE, values)
    assert found.keys() == wanted.keys()
    for name, matrices in wanted.items():
        for ours, theirs in zip(found[name], matrices, strict=True):
            if (
                name in described and described[name]["kind"] == "bf16"
            ):  # of codes too, where no kernel has their kind
                assert np.allclose(ours, theirs, rtol=2**-8, atol=0), name
            else:
                assert np.array_equal(ours, theirs), name


def damage(key: str, value: Any) -> Any:
    def change(rank: int, codes: dict[str, Any], scales: dict[str, Any]) -> None:
        if rank == 1:
            where = scales if key in scales else codes
            where[key] = value(where[key]) if callable(value) else value
            if where[key] is None:
                del where[key]

    return change


def replaced(tensor: torch.Tensor, at: tuple[int, ...], value: float) -> torch.Tensor:
    out = tensor.clone()
    out[at] = value
    return out


AT = "layers.1.feed_forward.experts."


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("fp8", damage(f"{AT}w2", lambda t: replaced(t, (1, 3), float("nan"))),
         r"moe_w_out_eF_D\[1\].*scale \[3, 1\] is nan"),
        ("int4", damage(f"{AT}w1", lambda t: replaced(t, (0, 0, 7), float("inf"))),
         r"moe_w_in_eD_F\[0\].*scale \[135, 0\] is inf"),
        ("fp8", damage(f"{AT}moe_w_in_eD_F", lambda t: torch.nn.Parameter(
            replaced(t.data.view(torch.uint8), (5, 6), 0x7F).view(torch.float8_e4m3fn), requires_grad=False)),
         r"moe_w_in_eD_F\[0\].*code \[134, 5\] is NaN"),
        ("fp8", damage(f"{AT}w1", lambda t: t[:, :5]),
         r"w1: is F32 \[4, 5\] in fp8_scales_1.pt; expected F32 \[4, 128\]"),
        ("fp8", damage(f"{AT}w1", lambda t: t.half()), r"w1: is F16 \[4, 128\] in fp8_scales_1.pt"),
        ("int4", damage(f"{AT}w3", None), r"moe_w_in_eD_F: is F8_E4M3 .*codes whose scales \(.*w3\) are in no"),
    ],
)  # fmt: skip
def test_damaged_codes_and_scales(kind: str, change: Any, words: str, tmp_path: Path) -> None:
    write_coded(tmp_path / "source", kind, 2, change=change)
    with pytest.raises(CheckpointError) as error:
        build(tmp_path / "source", tmp_path / "out.l4e")
    assert re.search(words, str(error.value), re.DOTALL), error.value


def test_files_of_scales_must_be_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_coded(source, "fp8", 2)
    (source / "fp8_scales_1.pt").rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=r"fp8_scales_1\.pt is missing beside fp8_scales_0\.pt"):
        open_checkpoint(source)
    (source / "fp8_scales_0.pt").unlink()
    with pytest.raises(
        CheckpointError, match=r"codes whose scales .* are in no fp8_scales_N\.pt or int4_scales_N\.pt"
    ):
        open_checkpoint(source)
    write_coded(source, "fp8", 2)
    (source / "int4_scales_0.pt").write_bytes((source / "fp8_scales_0.pt").read_bytes())
    with pytest.raises(CheckpointError, match="expected one or the other kind"):
        open_checkpoint(source)


def test_scales_without_codes_are_listed(tmp_path: Path) -> None:
    def extra(rank: int, codes: dict[str, Any], scales: dict[str, Any]) -> None:
        scales["layers.5.feed_forward.experts.w1"] = torch.ones(E, F // 2)

    write_coded(tmp_path / "source", "fp8", 2, change=extra)
    with pytest.raises(
        CheckpointError, match=r"layers\.5.*w1: is in fp8_scales_0\.pt, and no shard has codes for it"
    ):
        open_checkpoint(tmp_path / "source")


def test_the_hash_knows_the_scales(tmp_path: Path) -> None:
    write_coded(tmp_path / "source", "fp8", 2)
    checkpoint = open_checkpoint(tmp_path / "source")
    assert {path.name for path in checkpoint.paths()} >= {
        "fp8_scales_0.pt",
        "fp8_scales_1.pt",
        "consolidated.01.pth",
    }
    assert checkpoint.contains(str(tmp_path / "source" / "fp8_scales_1.pt"))
