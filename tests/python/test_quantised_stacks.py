"""Stacks of experts, quantised: fused [E, in, out] with scales on odd axes, and split ones [E, out, in]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from array_checkpoint import ArrayCheckpoint, all_formats
from llama4rt.convert.formats.split_stacks import with_split_stacks
from llama4rt.errors import CheckpointError
from quantised_stacks import FUSED, SPLIT, stacked
from quantised_writers import WRITERS, Written, four_bit
from random_checkpoints import Floats, Stored
from test_quantised_formats import check_equal, values_of

EXPERTS, OUT, IN = 3, 96, 192
STACK = "model.layers.1.feed_forward.experts"


@pytest.fixture(scope="module")
def numbers() -> Floats:
    """[E, out, in]; each expert of another size, so that a neighbour's scale is seen."""
    values = np.random.default_rng(0).standard_normal((EXPERTS, OUT, IN)) * np.array([1, 3, 0.2]).reshape(
        3, 1, 1
    )
    return (values / 16).astype(np.float32)


@pytest.mark.parametrize(("part", "axis"), [("gate_up_proj", 2), ("down_proj", 1)])
@pytest.mark.parametrize("kind", FUSED)
def test_fused_stacks(kind: str, part: str, axis: int, numbers: Floats) -> None:
    stack = np.ascontiguousarray(numbers.transpose(0, 2, 1))
    written = FUSED[kind](stack, axis)
    tensors = {f"{STACK}.{part}{end}": stored for end, stored in written.tensors.items()}
    layer = all_formats(ArrayCheckpoint(tensors, written.config))
    name = f"{STACK}.{part}"
    assert set(layer.names()) - {f"{name}_input_scale"} == {name}
    assert layer.problems(name, (EXPERTS, IN, OUT)) == []
    for expert in range(EXPERTS):
        for first, last in ((0, None), (7, 40)):
            rows = layer.rows(name, first, last, expert)
            found = values_of(rows).T if getattr(rows, "transposed", False) else values_of(rows)
            np.testing.assert_array_equal(found, written.meant[expert].T[first:last])
    assert np.corrcoef(written.meant.reshape(-1), stack.reshape(-1))[0, 1] > 0.99
    wrong = layer.problems(name, (EXPERTS, OUT, IN))
    assert wrong and name in wrong[0]


@pytest.mark.parametrize("shape", [(3, 40, 64), (3, 25, 33), (2, 7, 96)])
def test_fused_stacks_of_bitsandbytes_of_any_shape(shape: tuple[int, ...]) -> None:
    """Rows of odd length share bytes, and blocks run on over rows and experts."""
    written = FUSED["nf4-nested"](np.random.default_rng(2).standard_normal(shape).astype(np.float32), 2)
    name = f"{STACK}.gate_up_proj"
    layer = all_formats(ArrayCheckpoint({f"{name}{end}": one for end, one in written.tensors.items()}, {}))
    assert layer.problems(name, shape) == []
    for expert in range(shape[0]):
        for first, last in ((0, None), (3, 20), (4, 4 + shape[2] // 2)):
            found = values_of(layer.rows(name, first, last, expert)).T
            np.testing.assert_array_equal(found, written.meant[expert].T[first:last])
    assert "do not lie in runs of inputs" in layer.names()[name].note


@pytest.mark.parametrize("kind", SPLIT)
def test_split_stacks_are_matrices_of_their_own(kind: str, numbers: Floats) -> None:
    written = SPLIT[kind](numbers)
    tensors = {f"{STACK}.gate_proj.{end}": stored for end, stored in written.tensors.items()}
    layer = all_formats(ArrayCheckpoint(tensors, written.config))
    assert set(layer.names()) == {f"{STACK}.{expert}.gate_proj.weight" for expert in range(EXPERTS)}
    for expert in range(EXPERTS):
        name = f"{STACK}.{expert}.gate_proj.weight"
        assert layer.problems(name, (OUT, IN)) == []
        found = values_of(layer.rows(name))
        for first, last in ((0, OUT), (5, 33)):
            np.testing.assert_array_equal(values_of(layer.rows(name, first, last)), found[first:last])
        one = type(written)({}, written.meant[expert], {}, written.bound)
        check_equal(found, one)
        assert layer.problems(name, (IN, OUT)) != []


def test_a_stack_elsewhere_is_left_over(numbers: Floats) -> None:
    written = SPLIT["mlx"](numbers)
    tensors = {f"model.layers.0.self_attn.q_proj.{end}": stored for end, stored in written.tensors.items()}
    assert set(all_formats(ArrayCheckpoint(tensors, written.config)).names()) == set(tensors)


# --- split stacks of the other kinds, taken apart before any format looks

KINDS = ["packed-3", "packed-4", "packed-4-asymmetric", "fp8-tensor", "fp8-channel", "fp8-block", "mxfp8",
         "int8-asymmetric", "nvfp4", "nvfp4-modelopt", "mxfp4", "gptq-4-asymmetric", "gptq-desc-act", "awq",
         "llm-int8"]  # fmt: skip


def taken_apart(tensors: Mapping[str, Stored], config: Mapping[str, Any]) -> Any:
    named = {f"{STACK}.gate_proj.{end}": stored for end, stored in tensors.items()}
    return all_formats(with_split_stacks(ArrayCheckpoint(named, config)))  # type: ignore[arg-type]


def check_experts(layer: Any, written: Written) -> None:
    for expert in range(EXPERTS):
        name = f"{STACK}.{expert}.gate_proj.weight"
        assert layer.problems(name, (OUT, IN)) == []
        found = values_of(layer.rows(name))
        np.testing.assert_array_equal(values_of(layer.rows(name, 5, 40)), found[5:40])
        check_equal(found, Written({}, written.meant[expert], {}, written.bound))
        assert 0 < layer.nbytes(name) <= sum(array.nbytes for _, array in written.tensors.values()) / 2
    assert f"{STACK}.gate_proj" in layer.problems(name, (IN, OUT))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_split_stacks_of_every_kind(kind: str, numbers: Floats) -> None:
    written = stacked(WRITERS[kind], numbers)
    left_out = ("input_scale", "input_global_scale")  # unused_scales.py has taken them off before
    tensors = {end: stored for end, stored in written.tensors.items() if end not in left_out}
    layer = taken_apart(tensors, written.config)
    assert set(layer.names()) == {f"{STACK}.{expert}.gate_proj.weight" for expert in range(EXPERTS)}
    check_experts(layer, written)


def test_one_scale_for_all_experts(numbers: Floats) -> None:
    written = WRITERS["fp8-tensor"](numbers.reshape(EXPERTS * OUT, IN))
    dtype, codes = written.tensors["weight"]
    tensors = {
        "weight": (dtype, codes.reshape(EXPERTS, OUT, IN)),
        "weight_scale": written.tensors["weight_scale"],
    }
    meant = Written(tensors, written.meant.reshape(EXPERTS, OUT, IN))
    check_experts(taken_apart(tensors, written.config), meant)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_stacks_that_compressed_tensors_packs(bits: int, symmetric: bool, numbers: Floats) -> None:
    """It takes a stack as it takes a matrix: weight_shape has three numbers."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    written = stacked(WRITERS[f"packed-{bits}" + ("" if symmetric else "-asymmetric")], numbers)
    tensors = dict(written.tensors)
    tensors["weight_shape"] = ("I64", np.array([EXPERTS, OUT, IN], np.int64))
    layer = taken_apart(tensors, written.config)
    check_experts(layer, written)
    codes = [
        layer.rows(f"{STACK}.{expert}.gate_proj.weight").codes.astype(np.int16) for expert in range(EXPERTS)
    ]
    signed = np.stack(codes) - (8 if bits <= 4 else 128)
    if symmetric or bits in (4, 8):  # of other widths the zero point is in the code
        packed = pack_to_int32(torch.from_numpy(signed.astype(np.int8)), bits)
        np.testing.assert_array_equal(packed.numpy(), tensors["weight_packed"][1])


@pytest.mark.parametrize(
    "shape", [[OUT], [OUT, IN], [EXPERTS, OUT, IN], [OUT, OUT, IN], [1, EXPERTS, OUT, IN], []]
)
def test_shapes_that_stacks_may_say(shape: list[int], numbers: Floats) -> None:
    written = stacked(WRITERS["packed-4"], numbers)
    layer = taken_apart(
        {**written.tensors, "weight_shape": ("I64", np.array(shape, np.int64))}, written.config
    )
    problems = layer.problems(f"{STACK}.1.gate_proj.weight", (OUT, IN))
    if shape[-2:] == [OUT, IN] and len(shape) in (2, 3):
        assert problems == []
    else:
        assert len(problems) == 1 and f"{STACK}.gate_proj.weight_shape: is I64 [{len(shape)}]" in problems[0]


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_all_experts_as_one_linear_of_bitsandbytes(nested: bool, text: bool, numbers: Floats) -> None:
    """The stream is that of a stack; how many experts there are, config.json says."""
    written = four_bit(numbers.reshape(EXPERTS * OUT, IN), nested=nested)
    sizes: dict[str, Any] = {"num_local_experts": EXPERTS}
    tensors = {f"{STACK}.gate_proj.{end}": stored for end, stored in written.tensors.items()}
    layer = all_formats(ArrayCheckpoint(tensors, {"text_config": sizes} if text else sizes))
    meant = written.meant.reshape(EXPERTS, OUT, IN)
    for expert in range(EXPERTS):
        name = f"{STACK}.{expert}.gate_proj.weight"
        assert layer.problems(name, (OUT, IN)) == []
        check_equal(values_of(layer.rows(name)), Written({}, meant[expert], {}, written.bound))
    for config in ({}, {"num_local_experts": 7}, {"num_local_experts": "3"}, {"num_local_experts": 0}):
        assert set(all_formats(ArrayCheckpoint(tensors, config)).names()) == {f"{STACK}.gate_proj.weight"}


def test_an_expert_in_a_stack_and_alone_is_refused(numbers: Floats) -> None:
    written = stacked(WRITERS["packed-4"], numbers)
    tensors = {f"{STACK}.gate_proj.{end}": stored for end, stored in written.tensors.items()}
    tensors |= {f"{STACK}.1.gate_proj.{end}": s for end, s in WRITERS["packed-4"](numbers[1]).tensors.items()}
    with pytest.raises(
        CheckpointError, match=r"experts\.1\.gate_proj\.weight_\w+: is there, and .*gate_proj.* has it too"
    ):
        with_split_stacks(ArrayCheckpoint(tensors, {}))  # type: ignore[arg-type]


def test_what_has_a_reader_of_its_own_is_left_alone(numbers: Floats) -> None:
    for kind in ("bf16", "mlx", "nf4"):
        written = SPLIT[kind](numbers)
        tensors = {f"{STACK}.gate_proj.{end}": stored for end, stored in written.tensors.items()}
        base = ArrayCheckpoint(tensors, written.config)
        assert with_split_stacks(base) is base  # type: ignore[arg-type,comparison-overlap]
