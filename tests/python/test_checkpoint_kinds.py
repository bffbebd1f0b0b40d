"""Forms of one model that fine-tunes and other programs save: the engine holds the same numbers, or the form is refused
by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import build
from llama4rt._core import EngineFile
from llama4rt.errors import CheckpointError
from random_checkpoints import (
    SMALL,
    Values,
    engine_weights,
    expected_vision,
    expected_weights,
    random_values,
    stored,
    unfuse,
    write_config,
    write_tensors,
)

CONFIG: dict[str, Any] = SMALL | {"num_hidden_layers": 3}


def write(
    directory: Path,
    values: Mapping[str, Any],
    config: Any = CONFIG,
    dtype: str = "BF16",
    vision: bool = False,
    **top: Any,
) -> Path:
    directory.mkdir()
    write_config(directory, config, vision, **top)
    write_tensors(directory, {name: stored(value, dtype) for name, value in values.items()})
    return directory


def check(source: Path, values: Values, config: Any = CONFIG, vision: bool = False) -> None:
    """values: under the names of a text model with fused experts."""
    out = source.parent / "out.l4e"
    build(source, out, weights="bf16")
    found = engine_weights(out)
    wanted = expected_weights(config, values) | (expected_vision(values) if vision else {})
    assert found.keys() == wanted.keys()
    for name, matrices in wanted.items():
        for ours, theirs in zip(found[name], matrices, strict=True):
            assert np.array_equal(ours, theirs), name


def refusal(source: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        build(source, source.parent / "refused.l4e")
    assert not list(source.parent.glob("refused*"))
    return str(error.value)


# --- experts


def test_experts_one_by_one(tmp_path: Path) -> None:
    values = random_values(CONFIG)
    check(write(tmp_path / "source", unfuse(values)), values)


@pytest.mark.parametrize("which", ["layer", "down", "gate_up"])
def test_some_experts_one_by_one(which: str, tmp_path: Path) -> None:
    """Of one layer, or of one kind of matrix: each is whole, so that nothing is left to guess."""
    values = random_values(CONFIG)
    chosen: Callable[[str], bool] = {
        "layer": lambda name: ".layers.1." in name,
        "down": lambda name: "down_proj" in name,
        "gate_up": lambda name: "down_proj" not in name,
    }[which]
    mixed = {name: value for name, value in values.items() if "experts." not in name or not chosen(name)}
    mixed |= {name: value for name, value in unfuse(values).items() if "experts." in name and chosen(name)}
    assert any(re.search(r"experts\.\d", name) for name in mixed)
    check(write(tmp_path / "source", mixed), values)


def test_experts_both_ways_are_refused_by_name(tmp_path: Path) -> None:
    values = random_values(CONFIG)
    both = values | {
        name: value for name, value in unfuse(values).items() if "layers.1.feed_forward.experts" in name
    }
    words = refusal(write(tmp_path / "source", both))
    for part in ("gate_up_proj", "down_proj"):
        assert f"model.layers.1.feed_forward.experts.{part}: is there, and single experts are too" in words
    assert words.startswith("2 tensors")


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    values = unfuse(random_values(CONFIG))
    del values["model.layers.2.feed_forward.experts.1.up_proj.weight"]
    words = refusal(write(tmp_path / "source", values))
    assert "model.layers.2.feed_forward.experts.1.up_proj.weight: is missing; expected BF16 [24, 32]" in words


# --- prefixes

TEXT_PREFIXES = {
    "published": ("language_model.model.", "language_model.lm_head.", "", ""),
    "newer transformers": ("model.language_model.", "lm_head.", "model.", "model."),
    "head inside": ("model.language_model.", "model.language_model.lm_head.", "model.", "model."),
    "model first": ("model.language_model.model.", "model.language_model.lm_head.", "model.", "model."),
    "exported": ("model.", "lm_head.", "model.", "model."),
    "training": ("module.language_model.model.", "module.language_model.lm_head.", "module.", "module."),
}


@pytest.mark.parametrize("form", list(TEXT_PREFIXES))
@pytest.mark.parametrize("one_by_one", [False, True])
def test_prefixes_of_multimodal_models(form: str, one_by_one: bool, tmp_path: Path) -> None:
    model, head, tower, projector = TEXT_PREFIXES[form]
    values = random_values(CONFIG, vision=True)
    named = {}
    for name, value in (unfuse(values) if one_by_one else values).items():
        for old, new in (
            ("language_model.model.", model),
            ("language_model.lm_head.", head),
            ("vision_model.", f"{tower}vision_model."),
            ("multi_modal_projector.", f"{projector}multi_modal_projector."),
        ):
            if name.startswith(old):
                named[new + name.removeprefix(old)] = value
    assert len(named) == len(unfuse(values) if one_by_one else values)
    check(write(tmp_path / "source", named, vision=True), values, vision=True)


@pytest.mark.parametrize(
    "prefix", ["", "model.", "base_model.model.", "_orig_mod.", "module.base_model.model."]
)
def test_prefixes_of_text_models(prefix: str, tmp_path: Path) -> None:
    values = random_values(CONFIG)
    bare = {
        prefix
        + (
            name.removeprefix("model.") if prefix in ("", "model.") and not name.startswith("lm") else name
        ): value
        for name, value in values.items()
    }
    if prefix == "model.":
        bare["lm_head.weight"] = bare.pop("model.lm_head.weight")
    check(write(tmp_path / "source", bare), values)


# --- heads, vocabularies, types


@pytest.mark.parametrize("stored_too", [False, True])
def test_a_head_that_is_tied_away(stored_too: bool, tmp_path: Path) -> None:
    config = CONFIG | {"tie_word_embeddings": True}
    values = random_values(CONFIG)
    values["lm_head.weight"] = values["model.embed_tokens.weight"]
    kept = {name: value for name, value in values.items() if stored_too or name != "lm_head.weight"}
    check(write(tmp_path / "source", kept, config), values)


def test_a_head_that_is_missing_says_what_to_do(tmp_path: Path) -> None:
    values = random_values(CONFIG)
    del values["lm_head.weight"]
    words = refusal(write(tmp_path / "source", values))
    assert (
        'lm_head.weight: is missing; expected BF16 [47, 32]; a model whose head is its embedding says "tie_word'
        in words
    )


def test_a_vocabulary_that_grew(tmp_path: Path) -> None:
    """Rows beyond the published ones are kept, where config.json knows them."""
    values = random_values(CONFIG)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        values[name] = np.concatenate([values[name], values[name][:5] * 2])
    check(write(tmp_path / "source", values, CONFIG | {"vocab_size": 52}), values)
    words = refusal(write(tmp_path / "silent", values))
    assert "model.embed_tokens.weight: is BF16 [52, 32]; expected BF16, F16 or F32 [47, 32]" in words


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_other_types(dtype: str, tmp_path: Path) -> None:
    values = random_values(CONFIG)
    check(write(tmp_path / "source", values, dtype=dtype, torch_dtype="float16"), values)


def test_numbers_that_fp16_cannot_hold_are_named(tmp_path: Path) -> None:
    """A bf16 model saved as fp16 has infinities where its range ends."""
    values = random_values(CONFIG)
    values["model.layers.1.self_attn.o_proj.weight"][3, 4] = 1e6
    with np.errstate(over="ignore"):
        source = write(tmp_path / "source", values, dtype="F16")
    assert re.search(r"layers\.1\.self_attn\.o_proj\.weight.*is Inf", refusal(source))


# --- text models of multimodal configs, and dense ones


def test_a_tower_that_is_missing(tmp_path: Path) -> None:
    values = random_values(CONFIG, vision=True)
    text = {name: value for name, value in values.items() if name.startswith("language_model.")}
    source = write(tmp_path / "source", text, vision=True)
    assert "--vision none builds the text part alone" in refusal(source)
    build(source, tmp_path / "out.l4e", weights="bf16", vision="none")
    assert engine_weights(tmp_path / "out.l4e").keys() == expected_weights(CONFIG, values).keys()


GUARD: dict[str, Any] = CONFIG | {
    "moe_layers": [],
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "interleave_moe_layer_step": 1,
    "attention_chunk_size": None,
    "use_qk_norm": False,
}


@pytest.mark.parametrize("vision", [True, False], ids=["Llama Guard 4", "its text alone"])
def test_dense_models_without_chunks(vision: bool, tmp_path: Path) -> None:
    values = random_values(GUARD, vision=vision)
    check(write(tmp_path / "source", values, GUARD, vision=vision), values, GUARD, vision=vision)


def test_dense_models_that_rotate_everywhere(tmp_path: Path) -> None:
    """Small models of other makers under the name llama4_text: every layer attends to all, and rotates."""
    config = GUARD | {"layer_types": ["full_attention"] * 3, "no_rope_layers": [1] * 3}
    values = random_values(config)
    check(write(tmp_path / "source", values, config), values, config)
    found = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["config"])
    assert (found["rope_layers"], found["chunked_layers"]) == ([1] * 3, [0] * 3)
    assert (found["attention_chunk_size"], found["num_local_experts"]) == (0, 0)
