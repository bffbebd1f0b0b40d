"""Stacks of experts, quantised: fused [E, in, out] with scales on odd axes, and split ones [E, out, in]."""

from __future__ import annotations

import numpy as np
import pytest
from array_checkpoint import ArrayCheckpoint, all_formats
from quantised_stacks import FUSED, SPLIT
from random_checkpoints import Floats
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
        meant = written.meant[expert].T
        np.testing.assert_array_equal(values_of(layer.rows(name, expert=expert)), meant)
        np.testing.assert_array_equal(values_of(layer.rows(name, 7, 40, expert)), meant[7:40])
    assert np.corrcoef(written.meant.reshape(-1), stack.reshape(-1))[0, 1] > 0.99
    wrong = layer.problems(name, (EXPERTS, OUT, IN))
    assert wrong and name in wrong[0]


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
