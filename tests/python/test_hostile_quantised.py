"""Damaged quantised checkpoints end in a CheckpointError that names the tensor, or in numbers that are finite."""

from __future__ import annotations

import collections
import functools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantised_mutations
from array_checkpoint import ArrayCheckpoint, all_formats
from llama4rt import build
from llama4rt.errors import CheckpointError, ConfigError
from quantised_writers import WRITERS, Written
from random_checkpoints import Stored, random_values, stored, unfuse, write_config, write_tensors
from test_compressed_tensors import CONFIG

PROJ = "model.layers.0.self_attn.o_proj"


def test_mutations(soak: bool) -> None:
    """LLAMA4RT_MUTATIONS=N: N of them."""
    count = int(os.environ.get("LLAMA4RT_MUTATIONS", "100000" if soak else "2000"))
    ends: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    for number in range(count):
        start = time.thread_time()
        try:
            ends[quantised_mutations.run(number)] += 1
        except Exception as error:
            made = quantised_mutations.case(number)
            raise AssertionError(f"case {number}: {made.kind}: {made.done}: {error!r}") from error
        slowest = max(slowest, time.thread_time() - start)
    print(f"{count} damaged matrices: {dict(ends)}; the slowest took {slowest:.2f} s of processor time")
    assert set(ends) == {"refused", "bad numbers", "left over", "read"}
    assert slowest < 5


@functools.cache
def written(kind: str) -> Written:
    """o_proj [128, 128] in this kind."""
    return WRITERS[kind]((np.random.default_rng(0).standard_normal((128, 128)) / 16).astype(np.float32))


def matrix(kind: str) -> dict[str, Stored]:
    return {f"{PROJ}.{part}": one for part, one in written(kind).tensors.items()}


def config_of(kind: str) -> dict[str, Any]:
    return written(kind).config


def poisoned(kind: str, part: str, byte: int) -> dict[str, Stored]:
    tensors = matrix(kind)
    dtype, array = tensors[f"{PROJ}.{part}"]
    raw = bytes([byte]) * array.itemsize + array.tobytes()[array.itemsize :]
    return tensors | {f"{PROJ}.{part}": (dtype, np.frombuffer(raw, array.dtype).reshape(array.shape))}


@pytest.mark.parametrize(
    ("kind", "part", "byte", "words"),
    [
        ("fp8-channel", "weight", 0x7F, r"o_proj\.weight: .*code \[0, 0\] is NaN"),
        ("fp8-channel", "weight", 0xFF, r"o_proj\.weight: .*code \[0, 0\] is NaN"),
        ("mxfp8", "weight", 0xFF, r"o_proj\.weight: .*code \[0, 0\] is NaN"),
        ("mxfp8", "weight_scale", 0xFF, r"o_proj\.weight_scale: a scale is NaN"),
        ("fp8-channel", "weight_scale", 0xFF, r"scale \[0, 0\] is .*nan; it must be finite"),
        (
            "fp8-channel-bf16",
            "weight_scale",
            0x7F,
            r"scale \[0, 0\] is 3.*; its largest value is not finite",
        ),
        ("nvfp4", "weight_scale", 0x7F, r"scale \[0, 0\] is .*nan; it must be finite"),
        ("nvfp4", "weight_global_scale", 0x00, r"weight_global_scale: is 0\.0; it must be positive"),
        ("nvfp4-modelopt", "weight_scale_2", 0xFF, r"weight_scale_2: is nan; it must be positive"),
        ("mxfp4", "weight_scale", 0xFF, r"o_proj\.weight_scale: a scale is NaN"),
        ("mlx-nvfp4", "scales", 0xFF, r"scale \[0, 0\] is .*nan; it must be finite"),
        ("mlx-mxfp8", "weight", 0xFF, r"o_proj\.weight: .*code \[0, 0\] is NaN"),
        ("mlx-4", "biases", 0xFF, r"offset \[0, 0\] is .*nan; it must be finite"),
        ("gptq-4", "scales", 0xFF, r"scale \[0, 0\] is .*nan; it must be finite"),
        ("awq", "scales", 0xFF, r"scale \[0, 0\] is .*nan; it must be finite"),
        ("nf4", "weight.absmax", 0xFF, r"scale \[0, 0\] is .*nan; it must be finite"),
        ("nf4", "weight.quant_map", 0xFF, r"weight\.quant_map: holds a number that is not finite"),
        ("llm-int8", "SCB", 0xFF, r"scale \[0, 0\] is .*nan; it must be finite"),
    ],
)
def test_what_is_no_number_is_refused_by_name(
    kind: str, part: str, byte: int, words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=words):
        build_with(poisoned(kind, part, byte), config_of(kind), tmp_path)
    assert not list(tmp_path.glob("*.l4e*"))


def build_with(tensors: dict[str, Stored], config: dict[str, Any], tmp_path: Path) -> None:
    """A small model of which o_proj of the first layer is `tensors`."""
    whole = {n: stored(v, "BF16") for n, v in unfuse(random_values(CONFIG)).items() if n != f"{PROJ}.weight"}
    write_config(tmp_path, CONFIG, **config)
    write_tensors(tmp_path, whole | tensors)
    build(tmp_path, tmp_path / "out.l4e", weights="bf16", num_threads=1)


def test_damaged_matrices_through_a_build(soak: bool, tmp_path: Path) -> None:
    """The same damage in a file: a typed error and nothing written, or an engine file."""
    ends: collections.Counter[str] = collections.Counter()
    left_behind: list[Path] = []
    kinds = list(WRITERS)
    for number in range(2000 if soak else 40):
        rng = np.random.default_rng(number)
        kind = kinds[number % len(kinds)]
        made = quantised_mutations.Case(kind, matrix(kind), {}, {}, [])
        name = sorted(made.tensors)[int(rng.integers(len(made.tensors)))]
        change = quantised_mutations.CHANGES[int(rng.integers(len(quantised_mutations.CHANGES)))]
        change(rng, made, name)
        place = tmp_path / str(number)
        place.mkdir()
        try:
            build_with(made.tensors, config_of(kind), place)
            ends["built"] += 1
            assert (place / "out.l4e").exists()
        except (CheckpointError, ConfigError):
            ends["refused"] += 1
            left_behind += list(place.glob("*.l4e*"))
    assert not left_behind
    assert set(ends) == {"built", "refused"}


@pytest.mark.parametrize("kind", WRITERS)
def test_another_shape_than_the_model_s_is_refused(kind: str) -> None:
    """Half as many outputs, or inputs; a stack; a vector."""
    layer = all_formats(ArrayCheckpoint(matrix(kind), config_of(kind)))
    assert layer.problems(f"{PROJ}.weight", (128, 128)) == []
    for shape in ((64, 128), (128, 64), (256, 128), (128, 256), (2, 64, 128), (128,)):
        problems = layer.problems(f"{PROJ}.weight", shape)
        assert problems and PROJ in problems[0], shape
