"""The table from checkpoint names to engine tensors: complete, exact, and every problem in one error. No files."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from llama4rt.convert.checkpoint import TensorInfo, plain_problems
from llama4rt.convert.config import ModelConfig, parse_config
from llama4rt.convert.names import TensorMapping, map_tensors
from llama4rt.errors import CheckpointError
from random_checkpoints import SMALL, TINY, VISION, models, unfuse

Tensors = dict[str, TensorInfo]


class Plain:
    """TensorNames of tensors that are all stored as they are."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def names(self) -> Tensors:
        return self.tensors

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        return plain_problems(name, self.tensors[name], shape)


def mapped(config: ModelConfig, tensors: Tensors) -> TensorMapping:
    return map_tensors(config, Plain(tensors))


def names_of(config: dict[str, Any], prefix: str = "", dtype: str = "BF16") -> Tensors:
    return {spec.name: TensorInfo(dtype, spec.shape) for spec in models.text_tensors(config, prefix)}


def unfused(tensors: Tensors) -> Tensors:
    zeros = {name: np.empty(t.shape, dtype=np.float32) for name, t in tensors.items()}
    return {name: TensorInfo("BF16", value.shape) for name, value in unfuse(zeros).items()}


def problems_of(config: dict[str, Any], tensors: Tensors) -> list[str]:
    """Lines of the error, without the first."""
    with pytest.raises(CheckpointError) as error:
        mapped(parse_config(config), tensors)
    first, *lines = str(error.value).split("\n  ")
    assert first.split()[0] == str(len(lines))
    return lines


@pytest.mark.parametrize("prefix", ["", "language_model."])
@pytest.mark.parametrize(
    "config",
    [TINY, SMALL, TINY | {"interleave_moe_layer_step": 2}, TINY | {"moe_layers": []}],
    ids=["scout", "small", "maverick", "dense"],
)
def test_every_tensor_is_used_once_and_fills_its_target(config: dict[str, Any], prefix: str) -> None:
    tensors = names_of(config, prefix)
    for found in (tensors, unfused(tensors)):
        mapping = mapped(parse_config(config), found)
        assert {p.source.tensor for t in mapping.targets for p in t.pieces} == set(found)
        for target in mapping.targets:
            if target.role == "norm":
                continue
            for e in range(target.experts):
                pieces = [p for p in target.pieces if p.expert == e]
                rows = np.concatenate([p.stored_rows(0, p.count) for p in pieces])
                assert len(set(rows.tolist())) == len(rows), target.name
                assert rows.max() < target.n
                if not target.name.endswith("gate_up"):
                    assert len(rows) == target.n, target.name
        names = [t.name for t in mapping.targets]
        assert len(set(names)) == len(names)
        assert not mapping.skipped


def test_roles_and_shapes() -> None:
    config = TINY | {"interleave_moe_layer_step": 2}
    mapping = mapped(parse_config(config), names_of(config))
    found = {t.name: (t.role, t.experts, t.n, t.k) for t in mapping.targets}
    assert found["embed"] == ("embed", 1, 331, 128)
    assert found["lm_head"] == ("lm_head", 1, 331, 128)
    assert found["layers.0.attn_norm"] == ("norm", 1, 128, 1)
    assert found["layers.0.attn.qkv"] == ("attention", 1, 128 + 2 * 64, 128)
    assert found["layers.0.attn.o"] == ("attention", 1, 128, 128)
    assert found["layers.0.mlp.gate_up"] == ("dense", 1, 512, 128)
    assert found["layers.0.mlp.down"] == ("dense", 1, 128, 256)
    assert "layers.0.moe.router" not in found
    assert found["layers.1.moe.router"] == ("router", 1, 4, 128)
    assert found["layers.1.moe.shared.gate_up"] == ("shared", 1, 256, 128)
    assert found["layers.1.moe.gate_up"] == ("experts", 4, 256, 128)
    assert found["layers.1.moe.down"] == ("experts", 4, 128, 128)
    assert "layers.1.mlp.down" not in found


def test_gate_and_up_interleave_in_blocks_of_16() -> None:
    mapping = mapped(parse_config(SMALL), names_of(SMALL))  # width 24: one whole and one half block
    target = next(t for t in mapping.targets if t.name == "layers.0.moe.gate_up")
    gate, up = target.pieces[:2]
    assert (gate.first, gate.count, up.first, up.count) == (0, 24, 24, 24)
    assert gate.stored_rows(0, 24).tolist() == [*range(16), *range(32, 40)]
    assert up.stored_rows(0, 24).tolist() == [*range(16, 32), *range(48, 56)]
    assert up.stored_rows(16, 20).tolist() == [48, 49, 50, 51]
    assert target.n == 64


def with_vision(config: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": "llama4", "text_config": config, "vision_config": VISION, "image_token_index": 5}


def vision_names() -> Tensors:
    """Of VISION with a text part 128 wide."""
    return {spec.name: TensorInfo("BF16", spec.shape) for spec in models.vision_tensors(VISION, 128)}


def test_vision_targets() -> None:
    tensors = names_of(TINY, "language_model.") | vision_names()
    mapping = mapped(parse_config(with_vision(TINY)), tensors)
    assert {p.source.tensor for t in mapping.targets for p in t.pieces} == set(tensors)
    assert mapping.skipped == ()
    found = {t.name: (t.role, t.n, t.k) for t in mapping.targets if t.name.startswith("vision.")}
    layer = {
        "attn_norm.weight": ("vector", 32, 1),
        "attn_norm.bias": ("vector", 32, 1),
        "attn.qkv": ("vision", 96, 32),
        "attn.qkv.bias": ("vector", 96, 1),
        "attn.o": ("vision", 32, 32),
        "attn.o.bias": ("vector", 32, 1),
        "mlp_norm.weight": ("vector", 32, 1),
        "mlp_norm.bias": ("vector", 32, 1),
        "mlp.fc1": ("vision", 128, 32),
        "mlp.fc1.bias": ("vector", 128, 1),
        "mlp.fc2": ("vision", 32, 128),
        "mlp.fc2.bias": ("vector", 32, 1),
    }
    assert found == {
        "vision.patch_embedding": ("vision", 32, 147),
        "vision.class_embedding": ("vector", 32, 1),
        "vision.positional_embedding": ("table", 17, 32),
        **{f"vision.{name}": ("vector", 32, 1) for name in ("pre_norm.weight", "pre_norm.bias")},
        **{f"vision.layers.{i}.{name}": shape for i in range(2) for name, shape in layer.items()},
        **{f"vision.{name}": ("vector", 32, 1) for name in ("post_norm.weight", "post_norm.bias")},
        "vision.adapter.fc1": ("vision", 32, 128),
        "vision.adapter.fc2": ("vision", 32, 32),
        "vision.projector": ("vision", 128, 32),
    }
    qkv = next(t for t in mapping.targets if t.name == "vision.layers.1.attn.qkv")
    assert [p.source.tensor.split(".")[5] for p in qkv.pieces] == ["q_proj", "k_proj", "v_proj"]
    assert [int(p.stored_rows(0, 1)[0]) for p in qkv.pieces] == [0, 32, 64]


def test_the_text_targets_are_the_same_with_and_without_vision() -> None:
    tensors = names_of(TINY, "language_model.")
    both = mapped(parse_config(with_vision(TINY)), tensors | vision_names()).targets
    text = mapped(parse_config(TINY), tensors).targets
    assert both[: len(text)] == text


def test_vision_and_computed_tables_are_not_extra() -> None:
    """Where the config has no vision tower, or none is wanted."""
    tensors = names_of(TINY, "language_model.")
    extra = vision_names()
    table = {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": TensorInfo("F32", (16,))}
    for config in (parse_config(TINY), parse_config(with_vision(TINY), vision=False)):
        mapping = mapped(config, tensors | extra | table)
        assert mapping.skipped == tuple(sorted(extra))


def test_bad_vision_tensors_are_all_listed() -> None:
    tensors = names_of(TINY, "language_model.") | vision_names()
    at = "vision_model.model.layers"
    del tensors[f"{at}.1.self_attn.k_proj.bias"]
    del tensors["multi_modal_projector.linear_1.weight"]
    tensors["vision_model.positional_embedding_vlm"] = TensorInfo("BF16", (16, 32))
    tensors["vision_model.patch_embedding.linear.weight"] = TensorInfo("BF16", (32, 3, 7, 7))
    tensors[f"{at}.0.mlp.fc1.bias"] = TensorInfo("I32", (128,))
    tensors[f"{at}.2.mlp.fc1.bias"] = TensorInfo("BF16", (128,))
    tensors["multi_modal_projector.linear_1.bias"] = TensorInfo("BF16", (128,))
    del tensors["language_model.model.norm.weight"]
    assert sorted(problems_of(with_vision(TINY), tensors)) == [
        "language_model.model.norm.weight: is missing; expected BF16 [128]",
        "multi_modal_projector.linear_1.bias: is BF16 [128]; no such tensor belongs to this model",
        "multi_modal_projector.linear_1.weight: is missing; expected BF16 [128, 32]",
        f"{at}.0.mlp.fc1.bias: is I32 [128]; expected BF16, F16 or F32 [128]",
        f"{at}.1.self_attn.k_proj.bias: is missing; expected BF16 [32]",
        f"{at}.2.mlp.fc1.bias: is BF16 [128]; no such tensor belongs to this model",
        "vision_model.patch_embedding.linear.weight: is BF16 [32, 3, 7, 7]; expected BF16, F16 or F32 [32, 147]",
        "vision_model.positional_embedding_vlm: is BF16 [16, 32]; expected BF16, F16 or F32 [17, 32]",
    ]


def test_a_tower_that_is_not_there_is_one_problem() -> None:
    (line,) = problems_of(with_vision(TINY), names_of(TINY, "language_model."))
    assert "config.json describes a vision tower; --vision none builds the text part alone" in line


def test_missing_extra_and_misshapen_are_all_listed() -> None:
    tensors = names_of(TINY)
    del tensors["model.layers.2.self_attn.v_proj.weight"]
    del tensors["model.norm.weight"]
    tensors["model.layers.1.input_layernorm.weight"] = TensorInfo("BF16", (64,))
    tensors["lm_head.weight"] = TensorInfo("F8_E4M3", (331, 128))
    tensors["model.layers.0.self_attn.q_norm.weight"] = TensorInfo("BF16", (32,))
    tensors["model.layers.4.input_layernorm.weight"] = TensorInfo("BF16", (128,))
    lines = problems_of(TINY, tensors)
    assert sorted(lines) == [
        "lm_head.weight: is F8_E4M3 [331, 128]; expected BF16, F16 or F32 [331, 128]",
        "model.layers.0.self_attn.q_norm.weight: is BF16 [32]; no such tensor belongs to this model",
        "model.layers.1.input_layernorm.weight: is BF16 [64]; expected BF16, F16 or F32 [128]",
        "model.layers.2.self_attn.v_proj.weight: is missing; expected BF16 [64, 128]",
        "model.layers.4.input_layernorm.weight: is BF16 [128]; no such tensor belongs to this model",
        "model.norm.weight: is missing; expected BF16 [128]",
    ]


def test_a_missing_expert_is_named() -> None:
    tensors = unfused(names_of(TINY))
    del tensors["model.layers.3.feed_forward.experts.2.up_proj.weight"]
    assert problems_of(TINY, tensors) == [
        "model.layers.3.feed_forward.experts.2.up_proj.weight: is missing; expected BF16 [128, 128]"
    ]


def test_transposed_experts_are_refused() -> None:
    config = TINY | {"intermediate_size": 64}
    tensors = names_of(config)
    name = "model.layers.0.feed_forward.experts.down_proj"
    tensors[name] = TensorInfo("BF16", (4, 128, 64))
    assert problems_of(config, tensors) == [
        f"{name}: is BF16 [4, 128, 64]; expected BF16, F16 or F32 [4, 64, 128]"
    ]


def test_tied_head() -> None:
    config = TINY | {"tie_word_embeddings": True}
    mapping = mapped(parse_config(config), names_of(config))
    head = next(t for t in mapping.targets if t.name == "lm_head")
    assert head.pieces[0].source.tensor == "model.embed_tokens.weight"
    assert mapping.tied_head is None
    without = {name: t for name, t in names_of(config).items() if "embed" not in name}
    assert problems_of(config, without) == ["model.embed_tokens.weight: is missing; expected BF16 [331, 128]"]
    stored = names_of(config) | {"lm_head.weight": TensorInfo("BF16", (331, 128))}
    assert mapped(parse_config(config), stored).tied_head == "lm_head.weight"


def test_an_empty_checkpoint_lists_everything_once() -> None:
    lines = problems_of(TINY, {})
    assert sorted(lines) == sorted(
        f"{name}: is missing; expected BF16 [{', '.join(map(str, t.shape))}]"
        for name, t in names_of(TINY).items()
    )


def test_long_lists_are_cut() -> None:
    tensors = names_of(TINY) | {f"junk.{i}": TensorInfo("BF16", (1,)) for i in range(5000)}
    with pytest.raises(CheckpointError, match=r"(?s)5000 tensors do not match .*and 4999 more like it.$"):
        mapped(parse_config(TINY), tensors)


def test_maverick_with_experts_one_by_one_is_mapped_quickly() -> None:
    config = parse_config(
        TINY
        | {
            "num_hidden_layers": 48,
            "num_local_experts": 128,
            "interleave_moe_layer_step": 2,
            "hidden_size": 8,
        }
    )
    tensors: Tensors = {}
    for spec in models.text_tensors(
        TINY
        | {
            "num_hidden_layers": 48,
            "num_local_experts": 128,
            "interleave_moe_layer_step": 2,
            "hidden_size": 8,
        }
    ):
        stack = spec.name.rpartition(".")[0]
        if spec.name.endswith("experts.gate_up_proj"):
            for e in range(128):
                tensors[f"{stack}.{e}.gate_proj.weight"] = TensorInfo("BF16", (128, 8))
                tensors[f"{stack}.{e}.up_proj.weight"] = TensorInfo("BF16", (128, 8))
        elif spec.name.endswith("experts.down_proj"):
            for e in range(128):
                tensors[f"{stack}.{e}.down_proj.weight"] = TensorInfo("BF16", (8, 128))
        else:
            tensors[spec.name] = TensorInfo("BF16", spec.shape)
    start = time.perf_counter()
    mapping = mapped(config, tensors)
    assert sum(len(t.pieces) for t in mapping.targets) == len(tensors)
    assert time.perf_counter() - start < 5


def test_a_config_of_absurd_size_ends_quickly() -> None:
    config = replace(
        parse_config(TINY),
        num_hidden_layers=1024,
        num_local_experts=4096,
        rope_layers=(1,) * 1024,
        chunked_layers=(1,) * 1024,
        moe_layers=(1,) * 1024,
    )
    tensors = {
        f"model.layers.{layer}.feed_forward.experts.0.up_proj.weight": TensorInfo("BF16", (1,))
        for layer in range(1024)
    }
    start = time.perf_counter()
    with pytest.raises(CheckpointError):
        mapped(config, tensors)
    assert time.perf_counter() - start < 10
