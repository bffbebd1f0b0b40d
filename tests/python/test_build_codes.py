"""Codes of every layout go through build() into an engine file, and mean there what they meant before, to the bit."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from llama4rt import _core, build
from llama4rt._core import EngineFile
from llama4rt.convert import locate
from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.stored_rows import CodeLayout, Codes, common_layout
from llama4rt.errors import CheckpointError
from random_checkpoints import (
    TINY,
    engine_weights,
    expected_weights,
    random_values,
    stored,
    unfuse,
    write_config,
    write_tensors,
)
from random_codes import LAYOUTS, NF4, RAMP, random_codes

MARK = ".in_codes"


def codes_of(name: str, layout: CodeLayout, shape: tuple[int, int]) -> Codes:
    """Those of one matrix, the same whenever asked."""
    return random_codes(np.random.default_rng(zlib.crc32(name.encode())), layout, *shape)


class Coded:
    """A format of this test alone: a tensor `<name>.in_codes` says that `name` is codes, which the test knows."""

    title: ClassVar[str] = "codes of a test"
    quant_methods: ClassVar[tuple[str, ...]] = ("coded",)
    layouts: ClassVar[Mapping[str, CodeLayout]] = {}
    damaged: ClassVar[Mapping[str, Codes]] = {}

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, CodedMatrix]:
        names = checkpoint.names()
        return {n.removesuffix(MARK): CodedMatrix(n, names[n]) for n in names if n.endswith(MARK)}


class CodedMatrix:
    def __init__(self, part: str, info: TensorInfo) -> None:
        self.name = part.removesuffix(MARK)
        self.info = TensorInfo("coded", info.shape, Coded.layouts[self.name], (part,))

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        return [] if shape == self.info.shape else [f"{self.name}: is {self.info}"]

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Codes:
        rows, into = self.info.shape
        whole = Coded.damaged.get(self.name) or codes_of(self.name, Coded.layouts[self.name], (rows, into))
        part = slice(first, last)
        return Codes(
            whole.layout,
            whole.codes[part],
            whole.scales[part],
            None if whole.zeros is None else whole.zeros[part],
            None if whole.offsets is None else whole.offsets[part],
            None if whole.factors is None else whole.factors[part],
            None if whole.offset_factors is None else whole.offset_factors[part],
        )


def is_coded(name: str) -> bool:
    """Linears of attention, MLP and experts."""
    return name.endswith("_proj.weight")


def coded_checkpoint(
    directory: Path, monkeypatch: pytest.MonkeyPatch, layouts: Iterable[CodeLayout]
) -> dict[str, np.ndarray]:
    """A checkpoint whose linears take turns with these layouts; returns what its fused form means."""
    monkeypatch.setattr(locate, "FORMATS", (*locate.FORMATS, Coded))
    monkeypatch.setattr(Coded, "damaged", {})
    values = random_values(TINY)
    apart = unfuse(values)
    turns = list(layouts)
    chosen = {name: turns[i % len(turns)] for i, name in enumerate(filter(is_coded, apart))}
    monkeypatch.setattr(Coded, "layouts", chosen)
    tensors = {}
    for name, value in apart.items():
        if name in chosen:
            tensors[f"{name}{MARK}"] = ("U8", np.zeros(value.shape, np.uint8))
            apart[name] = codes_of(name, chosen[name], value.shape).values().array
        else:
            tensors[name] = stored(value, "BF16")
    directory.mkdir()
    write_config(directory, TINY, quantization_config={"quant_method": "coded"})
    write_tensors(directory, tensors)
    for name, value in values.items():  # the stacks of experts as one tensor again, [E, in, out]
        if name in apart:
            values[name] = apart[name]
        elif name.endswith("experts.gate_up_proj"):
            stack = name.removesuffix("gate_up_proj")
            values[name] = np.stack(
                [
                    np.concatenate([apart[f"{stack}{e}.{half}_proj.weight"] for half in ("gate", "up")]).T
                    for e in range(len(value))
                ]
            )
        else:
            stack = name.removesuffix("down_proj")
            values[name] = np.stack([apart[f"{stack}{e}.down_proj.weight"].T for e in range(len(value))])
    return values


def assert_same_numbers(file: Path, values: dict[str, np.ndarray]) -> None:
    found = engine_weights(file)
    for name, matrices in expected_weights(TINY, values).items():
        np.testing.assert_array_equal(np.stack(found[name]), np.stack(matrices), err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_codes_keep_their_numbers(
    layout: CodeLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = coded_checkpoint(tmp_path / "source", monkeypatch, [layout])
    report = build(tmp_path / "source", tmp_path / "out.l4e")
    assert_same_numbers(tmp_path / "out.l4e", values)
    assert all(rms == most == 0 for _, rms, most in report.worst)
    file = EngineFile(str(tmp_path / "out.l4e"))
    weight = file.weight("layers.0.attn.o")
    assert (weight["kind"], weight["group_size"], weight["scale_dtype"]) == (
        layout.kind,
        layout.group_size,
        layout.scale_dtype,
    )
    if layout.factored:
        assert (weight["factor_dtype"], weight["factors"]) == (
            layout.factor_dtype,
            layout.factor_columns(weight["k"]),
        )
    assert (weight["has_zeros"], weight["has_offsets"]) == (layout.zeros, layout.offsets)
    assert weight.get("table") == (None if layout.table is None else list(layout.table))
    assert file.verify() == []
    # What the CPU multiplies with is the same matrix.
    x = np.random.default_rng(1).standard_normal((3, weight["k"]), dtype=np.float32)
    exact = x.astype(np.float64) @ file.dequantize("layers.0.attn.o").astype(np.float64).T
    for device, limit in (("reference", 1e-6), ("cpu", 2e-2)):
        found = _core.linear(file, "layers.0.attn.o", x, device=device)
        assert np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()) < limit, device


@pytest.mark.parametrize(
    "layouts",
    [
        (
            CodeLayout("int4", 32, "F32", offsets=True),
            CodeLayout("int8", 16, "F32"),
            CodeLayout("int4", 64, "BF16"),
        ),
        (CodeLayout("table4", 16, "F32", table=NF4), CodeLayout("table4", 32, "BF16", table=RAMP)),
        (CodeLayout("int4", 128, "BF16"), CodeLayout("int4", 32, "F32", zeros=True)),
        (CodeLayout("table4", 128, "BF16", table=NF4), CodeLayout("int8", 32, "BF16", offsets=True)),
        (CodeLayout("fp8", 128, "F32"), CodeLayout("fp8", 32, "BF16")),
        (CodeLayout("int4", 32, "I8", offsets=True), CodeLayout("int8", 16, "I8")),
        (CodeLayout("int4", 32, "I8", offsets=True), CodeLayout("int4", 32, "F16")),
    ],
    ids=str,
)
def test_parts_of_a_weight_that_differ_keep_their_numbers(
    layouts: tuple[CodeLayout, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = coded_checkpoint(tmp_path / "source", monkeypatch, layouts)
    build(tmp_path / "source", tmp_path / "out.l4e")
    assert_same_numbers(tmp_path / "out.l4e", values)
    common = common_layout([Coded.layouts[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qkv"])
    assert common is not None
    described = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["weights"])["layers.0.attn.qkv"]
    assert (described["kind"], described["group_size"]) == (common.kind, common.group_size)


def test_parts_without_a_common_layout_become_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = (CodeLayout("fp8", 128, "F32"), CodeLayout("int4", 128, "F32"))
    coded_checkpoint(tmp_path / "source", monkeypatch, layouts)
    build(tmp_path / "source", tmp_path / "out.l4e")
    described = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["weights"])
    assert described["layers.0.attn.qkv"]["kind"] == "bf16"
    assert {described[f"layers.{layer}.attn.o"]["kind"] for layer in range(4)} <= {"fp8", "int4"}


@pytest.mark.parametrize(
    "layout",
    [
        CodeLayout("int4", 32, "I8", offsets=True, factor_dtype="F16"),
        CodeLayout("table4", 16, "F8_E4M3", table=RAMP, row_factors=True),
        CodeLayout("int4", 32, "F16", zeros=True),
    ],
    ids=str,
)
def test_an_interrupted_build_of_codes_goes_on_to_the_same_bytes(
    layout: CodeLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = coded_checkpoint(tmp_path / "source", monkeypatch, [layout])
    build(tmp_path / "source", tmp_path / "whole.l4e")

    def stop(done: int, total: int) -> None:
        if done > 0.6 * total:
            raise KeyboardInterrupt

    out = tmp_path / "out.l4e"
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "source", out, progress=stop)
    report = build(tmp_path / "source", out)
    assert report.resumed > 0.2
    assert out.read_bytes() == (tmp_path / "whole.l4e").read_bytes()
    assert_same_numbers(out, values)


@pytest.mark.parametrize(
    ("layout", "damage", "words"),
    [
        (CodeLayout("fp8", 32, "F32"), ("codes", 0xFF), r"code \[3, 5\] is NaN"),
        (CodeLayout("int4", 32, "F32"), ("codes", 16), r"code \[3, 5\] is 16; int4 has 0..15"),
        (CodeLayout("int8", 16, "F32", offsets=True), ("offsets", np.inf), r"offset \[3, 0\] is inf"),
        (CodeLayout("table4", 16, "F32", table=NF4), ("scales", np.nan), r"scale \[3, 0\] is nan"),
        (CodeLayout("fp8", 16, "F32"), ("scales", 1e37), r"scale \[3, 0\] is 1e\+37; its largest value"),
        (CodeLayout("int4", 32, "BF16", zeros=True), ("zeros", 99), r"zero point \[3, 0\] is 99"),
    ],
    ids=lambda value: str(value) if isinstance(value, CodeLayout) else "",
)
def test_what_is_no_number_is_named(
    layout: CodeLayout,
    damage: tuple[str, float],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coded_checkpoint(tmp_path / "source", monkeypatch, [layout])
    name = "model.layers.1.self_attn.o_proj.weight"
    codes = codes_of(name, layout, (TINY["hidden_size"], TINY["num_attention_heads"] * TINY["head_dim"]))
    part = getattr(codes, damage[0])
    part[3, 5 if damage[0] == "codes" else 0] = damage[1]
    monkeypatch.setattr(Coded, "damaged", {name: codes})
    with pytest.raises(CheckpointError, match=rf"{name}.in_codes.*{words}"):
        build(tmp_path / "source", tmp_path / "out.l4e")
    assert not (tmp_path / "out.l4e").exists()


@pytest.mark.parametrize(
    "layout",
    [
        CodeLayout("int4", 32, "I8", offsets=True),
        CodeLayout("int8", 16, "I8"),
        CodeLayout("int8", 32, "F16", zeros=True),
        CodeLayout("table4", 32, "F16", table=NF4),
        CodeLayout("fp8", 128, "F32"),
    ],
    ids=str,
)
def test_a_gpu_has_the_same_numbers(
    layout: CodeLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = coded_checkpoint(tmp_path / "source", monkeypatch, [layout])
    build(tmp_path / "source", tmp_path / "out.l4e", target="cuda")
    assert_same_numbers(tmp_path / "out.l4e", values)
    assert (
        EngineFile(str(tmp_path / "out.l4e")).weight("layers.0.attn.o")["scale_dtype"] == layout.scale_dtype
    )
