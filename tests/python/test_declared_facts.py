"""What config.json says of a quantisation and the tensors deny, or leave open: refused by name, never read as something
else; and what is harmless beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_checkpoint import ArrayCheckpoint, all_formats
from llama4rt.convert.formats.layer import FormatLayer
from llama4rt.convert.locate import open_checkpoint
from llama4rt.errors import CheckpointError
from quantised_writers import WRITERS, Written, gptq
from random_checkpoints import SMALL, Floats, Stored, write_config, write_tensors
from test_quantised_formats import IN, OUT, layer_of, values_of

NAME = "model.layers.0.m.weight"
Change = Callable[[dict[str, Stored], dict[str, Any]], object]


@pytest.fixture(scope="module")
def numbers() -> Floats:
    return (np.random.default_rng(0).standard_normal((OUT, IN)) / 16).astype(np.float32)


def changed(written: Written, change: Change) -> FormatLayer:
    config = json.loads(json.dumps(written.config))
    tensors = dict(written.tensors)
    change(tensors, config.get("quantization_config", {}))
    return layer_of(Written(tensors, written.meant, config))


def without(*parts: str, **said: Any) -> Change:
    """Tensors that are taken away, and what quantization_config says more."""

    def change(tensors: dict[str, Stored], quantization: dict[str, Any]) -> None:
        for part in parts:
            del tensors[part]
        quantization.update(said)

    return change


def weights(**said: Any) -> Callable[[dict[str, Any]], None]:
    def change(quantization: dict[str, Any]) -> None:
        for group in quantization["config_groups"].values():
            group["weights"].update(said)

    return change


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("packed-4-asymmetric", without("weight_zero_point"), "weight_zero_point: is missing.*symmetric is false"),
        ("packed-3-asymmetric", without("weight_zero_point"), "weight_zero_point: is missing.*symmetric is false"),
        ("packed-4", lambda t, q: weights(actorder="group")(q), "weight_g_idx: is missing.*actorder is 'group'"),
        ("packed-4", lambda t, q: weights(actorder=True)(q), "weight_g_idx: is missing.*actorder is True"),
        ("int8-channel", lambda t, q: weights(symmetric=False)(q), "weight_zero_point: is missing.*symmetric is false"),
        ("gptq-desc-act", without("g_idx", desc_act=True), "g_idx: is missing.*desc_act is true"),
        ("gptq-4", without(checkpoint_format="marlin"), "checkpoint_format is 'marlin'; GPTQ is read in gptq, gptq_v2"),
        ("gptq-4", without(checkpoint_format=["gptq"]), "checkpoint_format is .'gptq'.; GPTQ is read in"),
        ("nf4-nested", lambda t, q: t.update(state_without(t, "nested_offset")), "nested_offset is None"),
        ("mlx-nvfp4", lambda t, q: t.update(global_scale=("F32", np.zeros((), np.float32))), ""),
        ("mlx-mxfp4", lambda t, q: t.update(global_scale=("F32", np.ones((), np.float32))), "belongs to nvfp4"),
        ("mlx-4", lambda t, q: t.update(global_scale=("F32", np.ones((), np.float32))), "belongs to nvfp4, not to aff"),
        ("awq", without("qzeros"), "qzeros: is missing"),
        ("awq", lambda t, q: t.update(bias=("F16", np.ones(OUT, np.float16))), "bias: is not zero"),
        ("gptq-4", lambda t, q: t.update(bias=("F16", np.ones(OUT, np.float16))), "bias: is not zero"),
        ("fp8-channel", lambda t, q: t.update(zero_points(t, "I8", 1)), "zero_point: is I8.*and not all 0"),
    ],
)  # fmt: skip
def test_what_would_be_read_as_something_else_is_refused(
    kind: str, change: Change, words: str, numbers: Floats
) -> None:
    layer = changed(WRITERS[kind](numbers), change)
    problems = layer.problems(NAME, (OUT, IN))
    if words:
        assert len(problems) == 1
        assert re.match(rf"model\.layers\.0\.m\..*{words}", problems[0]), problems
    else:
        assert problems == []
        with pytest.raises(CheckpointError, match=r"m\.global_scale: is 0\.0; it must be positive"):
            layer.rows(NAME)


def state_without(tensors: Mapping[str, Stored], key: str) -> dict[str, Stored]:
    (name,) = (name for name in tensors if "quant_state" in name)
    said = json.loads(tensors[name][1].tobytes())
    del said[key]
    return {name: ("U8", np.frombuffer(json.dumps(said).encode(), np.uint8))}


def zero_points(tensors: Mapping[str, Stored], dtype: str, value: int) -> dict[str, Stored]:
    shape = tensors["weight_scale"][1].shape
    return {"weight_zero_point": (dtype, np.full(shape, value, np.int8 if dtype == "I8" else np.uint8))}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("fp8-channel", lambda t, q: t.update(zero_points(t, "I8", 0))),
        ("fp8-channel", lambda t, q: t.update(zero_points(t, "F8_E4M3", 0))),
        ("packed-4", lambda t, q: weights(actorder="static")(q)),
        # Two groups of one width, of which one is asymmetric: the tensors decide.
        ("packed-4", lambda t, q: q["config_groups"].update(b={"weights": {"num_bits": 4, "symmetric": False}})),
        ("packed-4", lambda t, q: q["config_groups"].update(b={"weights": {"num_bits": 8, "symmetric": False}})),
        ("gptq_v2-4-asymmetric", lambda t, q: q.update(format=q.pop("checkpoint_format"))),
        ("gptq-4", without("g_idx", desc_act=False)),
        ("gptq-4", lambda t, q: t.update(bias=("F16", np.zeros(OUT, np.float16)))),
        ("awq", lambda t, q: t.update(bias=("F16", np.zeros(OUT, np.float16)))),
    ],
)  # fmt: skip
def test_what_is_harmless_changes_nothing(kind: str, change: Change, numbers: Floats) -> None:
    written = WRITERS[kind](numbers)
    layer = changed(written, change)
    assert layer.problems(NAME, (OUT, IN)) == []
    np.testing.assert_array_equal(values_of(layer.rows(NAME)), written.meant)


@pytest.mark.parametrize("kind", ["gptq-4", "awq"])
def test_biases_of_the_vision_tower_are_its_own(kind: str, numbers: Floats) -> None:
    written = WRITERS[kind](numbers)
    written.tensors["bias"] = ("F16", np.ones(OUT, np.float16))
    module = "vision_model.model.layers.0.mlp.fc1"
    layer = layer_of(written, module)
    assert set(layer.names()) == {f"{module}.weight", f"{module}.bias"}
    assert layer.problems(f"{module}.weight", (OUT, IN)) == layer.problems(f"{module}.bias", (OUT,)) == []
    np.testing.assert_array_equal(values_of(layer.rows(f"{module}.weight")), written.meant)


# --- AutoAWQ's ScaledActivation


@pytest.mark.parametrize("name", ["activation_fn", "act_fn"])
@pytest.mark.parametrize("mlp", ["experts.1", "shared_expert"])
def test_what_divides_an_activation_divides_what_it_multiplies(name: str, mlp: str, numbers: Floats) -> None:
    """The output of an MLP is the same: down (act(gate) / s * up) = down (act(gate) * (up / s))."""
    at = f"model.layers.0.feed_forward.{mlp}"
    divisor = np.random.default_rng(1).uniform(0.3, 3, OUT).astype(np.float16)
    tensors: dict[str, Stored] = {f"{at}.{name}.scales": ("F16", divisor)}
    written = WRITERS["awq"](numbers)
    for part in ("gate_proj", "up_proj"):
        tensors |= {f"{at}.{part}.{end}": stored for end, stored in written.tensors.items()}
    layer = all_formats(ArrayCheckpoint(tensors, written.config))
    assert set(layer.names()) == {f"{at}.gate_proj.weight", f"{at}.up_proj.weight"}
    assert layer.problems(f"{at}.up_proj.weight", (OUT, IN)) == []
    gate, up = (values_of(layer.rows(f"{at}.{part}_proj.weight")) for part in ("gate", "up"))
    np.testing.assert_array_equal(gate, written.meant)
    np.testing.assert_allclose(up, written.meant / divisor.astype(np.float64)[:, None], rtol=2.0**-23)
    np.testing.assert_array_equal(values_of(layer.rows(f"{at}.up_proj.weight", 9, 50)), up[9:50])
    tensors[f"{at}.{name}.scales"] = ("F16", divisor[1:])
    (problem,) = all_formats(ArrayCheckpoint(tensors, written.config)).problems(
        f"{at}.up_proj.weight", (OUT, IN)
    )
    assert f"{name}.scales: is F16 [{OUT - 1}]; expected" in problem


# --- which version of GPTQ a file is


@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("config", [{}, {"quantization_config": {"quant_method": "gptq", "bits": 4}}])
def test_a_symmetric_file_says_its_version_without_any_config(
    form: str, config: dict[str, Any], numbers: Floats
) -> None:
    written = gptq(numbers, 4, 32, True, form)
    layer = layer_of(Written(written.tensors, written.meant, config))
    np.testing.assert_array_equal(values_of(layer.rows(NAME)), written.meant)
    assert layer.names()[NAME].note == ""


def test_an_asymmetric_file_without_its_version_is_read_as_the_first_aloud(numbers: Floats) -> None:
    written = gptq(numbers, 4, 32, False, "gptq")
    for config in ({}, {"quantization_config": {"quant_method": "gptq", "sym": False}}):
        layer = layer_of(Written(written.tensors, written.meant, config))
        np.testing.assert_array_equal(values_of(layer.rows(NAME)), written.meant)
        assert "names no checkpoint_format" in layer.names()[NAME].note
    assert layer_of(written).names()[NAME].note == ""


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_rules_for_some_matrices_may_change_what_all_have(
    bits: int, symmetric: bool, numbers: Floats
) -> None:
    written = gptq(numbers, bits, 64, symmetric)
    written.config["quantization_config"] |= {
        "sym": True,
        "dynamic": {r"+:.*down.*": {"sym": False, "bits": 8}},
    }
    np.testing.assert_array_equal(values_of(layer_of(written).rows(NAME)), written.meant)


# --- activations that are turned while a model runs


def directory(place: Path, quantization: Mapping[str, Any], numbers: Floats) -> Path:
    place.mkdir()
    written = WRITERS["packed-4"](numbers)
    write_config(place, SMALL, quantization_config=written.config["quantization_config"] | dict(quantization))
    write_tensors(place, {f"model.layers.0.m.{part}": stored for part, stored in written.tensors.items()})
    return place


def transform(location: str) -> dict[str, Any]:
    apply = [
        {"targets": ["Linear"], "location": "weight_output"},
        {"targets": ["Linear"], "location": location},
    ]
    return {"transform_config": {"config_groups": {"R1": {"type": "hadamard"}, "R4": {"apply": apply}}}}


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        (transform("input"), "transform_config.config_groups.R4 has location 'input'"),
        (transform("q_attn"), "R4 has location 'q_attn'"),
        ({"rotation": "hadamard"}, "quantization_config.rotation is 'hadamard'"),
    ],
)
def test_turned_activations_are_refused(
    quantization: dict[str, Any], words: str, numbers: Floats, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"{words}: the model turns activations while it runs"):
        open_checkpoint(directory(tmp_path / "source", quantization, numbers))


@pytest.mark.parametrize(
    "quantization",
    [transform("weight_input"), {"rotation": None}, {"transform_config": {}}, {"transform_config": None}],
)
def test_what_was_turned_before_it_was_stored_is_read(
    quantization: dict[str, Any], numbers: Floats, tmp_path: Path
) -> None:
    opened = open_checkpoint(directory(tmp_path / "source", quantization, numbers))
    np.testing.assert_array_equal(values_of(opened.rows(NAME)), WRITERS["packed-4"](numbers).meant)
