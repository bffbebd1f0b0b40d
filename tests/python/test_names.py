"""The table from checkpoint names to engine tensors: complete, exact, and every problem in one error. No files."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from llama4rt.convert.config import parse_config
from llama4rt.convert.names import gate_up_rows, make_plan
from llama4rt.convert.tensors import TensorInfo
from llama4rt.errors import CheckpointError
from random_checkpoints import SMALL, TINY, models, unfuse

Tensors = dict[str, TensorInfo]


def names_of(config: dict[str, Any], prefix: str = "", dtype: str = "BF16") -> Tensors:
    return {spec.name: TensorInfo(dtype, spec.shape) for spec in models.text_tensors(config, prefix)}


def unfused(tensors: Tensors) -> Tensors:
    zeros = {name: np.empty(t.shape, dtype=np.float32) for name, t in tensors.items()}
    return {name: TensorInfo("BF16", value.shape) for name, value in unfuse(zeros).items()}


def problems_of(config: dict[str, Any], tensors: Tensors) -> list[str]:
    """Lines of the error, without the first."""
    with pytest.raises(CheckpointError) as error:
        make_plan(parse_config(config), tensors)
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
        plan = make_plan(parse_config(config), found)
        assert {p.source.tensor for t in plan.targets for p in t.pieces} == set(found)
        for target in plan.targets:
            if target.role == "norm":
                continue
            for e in range(target.experts):
                pieces = [p for p in target.pieces if p.expert == e]
                rows = np.concatenate([p.stored_rows(0, p.count) for p in pieces])
                assert len(set(rows.tolist())) == len(rows), target.name
                assert rows.max() < target.n
                if not target.name.endswith("gate_up"):
                    assert len(rows) == target.n, target.name
        names = [t.name for t in plan.targets]
        assert len(set(names)) == len(names)
        assert not plan.skipped


def test_roles_and_shapes() -> None:
    config = TINY | {"interleave_moe_layer_step": 2}
    plan = make_plan(parse_config(config), names_of(config))
    found = {t.name: (t.role, t.experts, t.n, t.k) for t in plan.targets}
    assert found["embed"] == ("embed", 1, 331, 128)
    assert found["lm_head"] == ("lm_head", 1, 331, 128)
    assert found["layers.0.attn_norm"] == ("norm", 1, 1, 128)
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
    plan = make_plan(parse_config(SMALL), names_of(SMALL))  # width 24: one whole and one half block
    target = next(t for t in plan.targets if t.name == "layers.0.moe.gate_up")
    gate, up = target.pieces[:2]
    assert (gate.first, gate.count, up.first, up.count) == (0, 24, 24, 24)
    assert gate.stored_rows(0, 24).tolist() == [*range(16), *range(32, 40)]
    assert up.stored_rows(0, 24).tolist() == [*range(16, 32), *range(48, 56)]
    assert up.stored_rows(16, 20).tolist() == [48, 49, 50, 51]
    assert (gate_up_rows(24), gate_up_rows(16), gate_up_rows(8192)) == (64, 32, 16384)


def test_vision_and_computed_tables_are_not_extra() -> None:
    tensors = names_of(TINY, "language_model.")
    vision = models.PRESETS["tiny"]["vision_config"]
    extra = {s.name: TensorInfo("BF16", s.shape) for s in models.vision_tensors(vision, 128)}
    table = {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": TensorInfo("F32", (16,))}
    plan = make_plan(parse_config(TINY), tensors | extra | table)
    assert plan.skipped == tuple(sorted(extra))


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
    plan = make_plan(parse_config(config), names_of(config))
    head = next(t for t in plan.targets if t.name == "lm_head")
    assert head.pieces[0].source.tensor == "model.embed_tokens.weight"
    assert plan.tied_head is None
    without = {name: t for name, t in names_of(config).items() if "embed" not in name}
    assert problems_of(config, without) == ["model.embed_tokens.weight: is missing; expected BF16 [331, 128]"]
    stored = names_of(config) | {"lm_head.weight": TensorInfo("BF16", (331, 128))}
    assert make_plan(parse_config(config), stored).tied_head == "lm_head.weight"


def test_an_empty_checkpoint_lists_everything_once() -> None:
    lines = problems_of(TINY, {})
    assert sorted(lines) == sorted(
        f"{name}: is missing; expected BF16 [{', '.join(map(str, t.shape))}]"
        for name, t in names_of(TINY).items()
    )


def test_long_lists_are_cut() -> None:
    tensors = names_of(TINY) | {f"junk.{i}": TensorInfo("BF16", (1,)) for i in range(5000)}
    with pytest.raises(CheckpointError, match=r"(?s)5000 tensors do not match .* and 4800 more"):
        make_plan(parse_config(TINY), tensors)


def test_maverick_with_experts_one_by_one_is_planned_quickly() -> None:
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
    plan = make_plan(config, tensors)
    assert sum(len(t.pieces) for t in plan.targets) == len(tensors)
    assert time.perf_counter() - start < 5


def test_a_config_of_absurd_size_ends_quickly() -> None:
    config = replace(
        parse_config(TINY),
        num_hidden_layers=1024,
        num_local_experts=4096,
        moe_layers=(1,) * 1024,
    )
    tensors = {
        f"model.layers.{layer}.feed_forward.experts.0.up_proj.weight": TensorInfo("BF16", (1,))
        for layer in range(1024)
    }
    start = time.perf_counter()
    with pytest.raises(CheckpointError):
        make_plan(config, tensors)
    assert time.perf_counter() - start < 10
