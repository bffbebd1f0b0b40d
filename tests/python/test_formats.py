"""A format is one class in one list: with it, build() reads matrices it has never heard of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from llama4rt import build
from llama4rt._core import EngineFile
from llama4rt.cli.main import main
from llama4rt.convert import locate
from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.stored_rows import Values
from llama4rt.errors import CheckpointError
from random_checkpoints import (
    TINY,
    bf16_values,
    engine_weights,
    expected_weights,
    random_values,
    stored,
    write_config,
    write_tensors,
)

O_PROJ = "model.layers.0.self_attn.o_proj.weight"
DOWN = "model.layers.1.feed_forward.experts.down_proj"  # [E, in, out]


class Halves:
    """A format of this test alone: `<name>_half` holds half of each number."""

    title: ClassVar[str] = "halves"
    quant_methods: ClassVar[tuple[str, ...]] = ("halves",)

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, HalfMatrix]:
        names = checkpoint.names()
        return {n.removesuffix("_half"): HalfMatrix(n, names[n]) for n in names if n.endswith("_half")}


class HalfMatrix:
    note = ""

    def __init__(self, name: str, part: TensorInfo) -> None:
        self.info = TensorInfo("halves", part.shape, None, (name,), self.note)

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        return [] if shape == self.info.shape else [f"{self.info.stored[0]}: is {self.info}"]

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Values:
        half = base.rows(self.info.stored[0], first, last, expert)
        assert isinstance(half, Values)
        return Values(2 * half.as_float32(), "F32", half.transposed)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    values = random_values(TINY)
    tensors = {name: stored(value, "BF16") for name, value in values.items()}
    for name in (O_PROJ, DOWN):
        del tensors[name]
        tensors[f"{name}_half"] = stored(values[name] / 2, "F32")
    directory = tmp_path / "source"
    directory.mkdir()
    write_config(directory, TINY, quantization_config={"quant_method": "halves"})
    write_tensors(directory, tensors)
    return directory


def test_a_registered_format_is_read(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "FORMATS", (*locate.FORMATS, Halves))
    build(source, tmp_path / "out.l4e", weights="bf16")
    expected, found = expected_weights(TINY, random_values(TINY)), engine_weights(tmp_path / "out.l4e")
    for name, matrices in expected.items():
        np.testing.assert_array_equal(np.stack(found[name]), bf16_values(np.stack(matrices)), err_msg=name)


def test_what_a_matrix_says_of_itself_is_said_aloud(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all matrices with one note, once: in the report, in the file, and on the command line."""
    monkeypatch.setattr(locate, "FORMATS", (*locate.FORMATS, Halves))
    monkeypatch.setattr(HalfMatrix, "note", "halves are doubled")
    report = build(source, tmp_path / "out.l4e")
    assert report.notes == (f"{O_PROJ}_half and 1 more: halves are doubled",)
    main(["inspect", str(tmp_path / "out.l4e")])
    assert f"note: {report.notes[0]}\n" in capsys.readouterr().out
    main(["build", str(source), "-q", "-o", str(tmp_path / "again.l4e")])
    assert f"note: {report.notes[0]}\n" in capsys.readouterr().out
    assert (tmp_path / "again.l4e").read_bytes() == (tmp_path / "out.l4e").read_bytes()


def test_matrices_of_a_format_are_quantised_as_asked(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "FORMATS", (*locate.FORMATS, Halves))
    build(source, tmp_path / "out.l4e", weights="int8", lm_head="bf16")
    weights = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["weights"])
    assert weights["layers.0.attn.o"]["kind"] == weights["layers.1.moe.down"]["kind"] == "int8"


@pytest.mark.parametrize("name", [O_PROJ, DOWN])
def test_bad_numbers_are_named_by_the_stored_tensor(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "FORMATS", (*locate.FORMATS, Halves))
    values = random_values(TINY)
    values[name].reshape(-1)[0] = np.inf
    tensors: dict[str, Any] = {n: stored(value, "BF16") for n, value in values.items() if n != name}
    write_tensors(source, tensors | {f"{name}_half": stored(values[name] / 2, "F32")})
    with pytest.raises(CheckpointError, match=rf"{name}_half.*is Inf"):
        build(source, tmp_path / "out.l4e")


def test_what_no_format_reads_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="quant_method is 'halves'; llama4rt reads compressed-tensors integers"
    ):
        build(source, tmp_path / "out.l4e")
    write_config(source, TINY)
    with pytest.raises(CheckpointError, match=r"o_proj.weight_half: is F32 .*no such tensor"):
        build(source, tmp_path / "out.l4e")
