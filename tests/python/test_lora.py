"""Adapters merged while an engine is built, against rules written out in lora_adapters.py: equal to the bit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import build
from llama4rt._core import EngineFile
from llama4rt.convert import engine_cache
from llama4rt.convert.engine_cache import engine_path
from llama4rt.convert.locate import open_checkpoint
from llama4rt.convert.lora.located import located_adapters, parse_adapter
from llama4rt.convert.lora.lora_deltas import add_product
from llama4rt.convert.lora.lora_merge import with_adapters
from llama4rt.convert.stored_rows import Values as RowValues
from llama4rt.errors import CheckpointError, ConfigError
from lora_adapters import CONFIG, ROOT, Adapter, added, base_values, stack_delta
from random_checkpoints import (
    Values,
    engine_weights,
    expected_vision,
    expected_weights,
    random_values,
    stored,
    unfuse,
    write_config,
    write_tensors,
    write_values,
)
from test_compressed_tensors import CONFIG as PACKED
from test_compressed_tensors import packed_checkpoint

H, F, E = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["num_local_experts"]
Q = CONFIG["num_attention_heads"] * CONFIG["head_dim"]
KV = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
MLP = CONFIG["intermediate_size_mlp"]
ATTENTION = "model.layers.0.self_attn"
EXPERTS = "model.layers.1.feed_forward.experts"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_values(tmp_path_factory.mktemp("base") / "base", CONFIG, base_values())


@pytest.fixture(scope="module")
def unfused_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_values(tmp_path_factory.mktemp("unfused") / "base", CONFIG, unfuse(base_values()))


def check(
    source: Path, adapters: Any, expected: Values, tmp_path: Path, vision: bool = False
) -> tuple[str, ...]:
    report = build(source, tmp_path / "out.l4e", weights="bf16", lora=adapters)
    found = engine_weights(tmp_path / "out.l4e")
    wanted = expected_weights(CONFIG, expected) | (expected_vision(expected) if vision else {})
    assert found.keys() == wanted.keys()
    for name, matrices in wanted.items():
        for e, matrix in enumerate(matrices):
            assert np.array_equal(found[name][e], matrix), (name, e)
    return report.notes


def refusal(source: Path, adapters: Any, tmp_path: Path) -> str:
    with pytest.raises((CheckpointError, ConfigError)) as error:
        build(source, tmp_path / "refused.l4e", lora=adapters)
    assert not list(tmp_path.glob("refused*"))
    return str(error.value)


@pytest.mark.parametrize("stored_as", ["F32", "BF16", "F16", "torch"])
@pytest.mark.parametrize(
    ("root", "trained"),
    [
        (ROOT, "model.layers.0"),
        (ROOT, "language_model.model.layers.0"),  # in the multimodal class
        (ROOT, "model.language_model.layers.0"),  # in newer transformers
        ("", "model.layers.0"),
        ("base_model.model.module.", "model.layers.0"),
    ],
)
def test_linears_of_every_kind(root: str, trained: str, stored_as: str, base: Path, tmp_path: Path) -> None:
    adapter, values = Adapter(), base_values()
    for path, out, into in (
        ("self_attn.q_proj", Q, H),
        ("self_attn.k_proj", KV, H),
        ("self_attn.o_proj", H, Q),
        ("feed_forward.gate_proj", MLP, H),
        ("feed_forward.down_proj", H, MLP),
    ):
        a, b = adapter.linear(f"{trained}.{path}", out, into)
        added(values, f"model.layers.0.{path}.weight", 2 * b @ a)
    adapter.tensors = {root + name.removeprefix(ROOT): value for name, value in adapter.tensors.items()}
    where = adapter.write(
        tmp_path / "adapter",
        torch_file=stored_as == "torch",
        dtype="F32" if stored_as == "torch" else stored_as,
    )
    notes = check(base, [where], values, tmp_path)
    assert "adapter adapter is merged with weight 1 into 5 tensors" in notes


def test_router_shared_expert_and_head(base: Path, tmp_path: Path) -> None:
    adapter, values = Adapter(), base_values()
    ffn = "model.layers.1.feed_forward"
    for path, out, into in (
        (f"{ffn}.router", E, H),
        (f"{ffn}.shared_expert.up_proj", F, H),
        (f"{ffn}.shared_expert.down_proj", H, F),
        ("lm_head", CONFIG["vocab_size"], H),
    ):
        a, b = adapter.linear(path, out, into)
        added(values, f"{path}.weight", 2 * b @ a)
    check(base, [adapter.write(tmp_path / "adapter")], values, tmp_path)


def test_the_embedding(base: Path, tmp_path: Path) -> None:
    """A [rank, vocabulary], B [hidden, rank], and no `.weight`."""
    adapter, values = Adapter(), base_values()
    a, b = adapter.factor(2, CONFIG["vocab_size"]), adapter.factor(H, 2) * 4
    adapter.tensors[f"{ROOT}model.embed_tokens.lora_embedding_A"] = a
    adapter.tensors[f"{ROOT}model.embed_tokens.lora_embedding_B"] = b
    # PEFT saves the layer itself too where the embedding is a target.
    changed = values["model.embed_tokens.weight"] * 0.5
    adapter.tensors[f"{ROOT}model.embed_tokens.base_layer.weight"] = changed
    values["model.embed_tokens.weight"] = changed
    added(values, "model.embed_tokens.weight", 2 * (b.astype(np.float64) @ a).T)
    check(base, [adapter.write(tmp_path / "adapter")], values, tmp_path)


# --- how strongly


@pytest.mark.parametrize(
    ("config", "rank", "scale"),
    [
        ({"r": 2, "lora_alpha": 1}, 2, 0.5),
        ({"r": 4, "lora_alpha": 4}, 4, 1.0),
        ({"r": 4, "lora_alpha": 2, "use_rslora": True}, 4, 1.0),
        ({"r": 2, "lora_alpha": 4, "fan_in_fan_out": True}, 2, 2.0),  # PEFT takes it back for linears
        ({"r": 8, "rank_pattern": {"q_proj": 4}, "lora_alpha": 8}, 4, 2.0),
        ({"r": 8, "rank_pattern": {"self_attn.q_proj": 4, "proj": 2}, "lora_alpha": 2}, 4, 0.5),
        (
            {"r": 4, "alpha_pattern": {r"^model\.layers\.\d+\.self_attn\.[qv]_proj": 2}, "lora_alpha": 64},
            4,
            0.5,
        ),
        ({"r": 4, "alpha_pattern": {"k_proj": 2, "layers.1.self_attn.q_proj": 3}, "lora_alpha": 8}, 4, 2.0),
        (
            {"r": 4, "alpha_pattern": {"proj": 2}, "lora_alpha": 8},
            4,
            2.0,
        ),  # a name of its own, not the end of one
    ],
)
def test_scales(config: dict[str, Any], rank: int, scale: float, base: Path, tmp_path: Path) -> None:
    adapter, values = Adapter(**config), base_values()
    a, b = adapter.linear(f"{ATTENTION}.q_proj", Q, H, rank)
    added(values, f"{ATTENTION}.q_proj.weight", scale * b @ a)
    check(base, [adapter.write(tmp_path / "adapter")], values, tmp_path)


def test_several_adapters_with_weights(base: Path, tmp_path: Path) -> None:
    values, where = base_values(), []
    for i, weight in enumerate((1.0, 0.5, -1.0)):
        adapter = Adapter(seed=i)
        a, b = adapter.linear(f"{ATTENTION}.q_proj", Q, H)
        added(values, f"{ATTENTION}.q_proj.weight", weight * 2 * b @ a)
        if i == 1:
            a, b = adapter.linear(f"{ATTENTION}.v_proj", KV, H)
            added(values, f"{ATTENTION}.v_proj.weight", b @ a)
        directory = adapter.write(tmp_path / f"run{i}" / "adapter")  # one name three times
        where.append((directory, weight) if weight != 1 else directory)
    notes = check(base, where, values, tmp_path)
    assert f"adapter {tmp_path}/run1/adapter is merged with weight 0.5 into 2 tensors" in notes


# --- experts


@pytest.mark.parametrize("fused", [True, False], ids=["fused base", "unfused base"])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("nested", [True, False])
def test_stacks_of_experts(
    nested: bool, swapped: bool, fused: bool, base: Path, unfused_base: Path, tmp_path: Path
) -> None:
    """gate_up is [E, H, 2F] and down [E, F, H] in the base, whatever PEFT took for in and out. nested: both parameters
    of the module are trained, and the first lies deeper.
    """
    adapter, values = (
        Adapter(lora_alpha=2, target_parameters=["experts.gate_up_proj", "experts.down_proj"]),
        base_values(),
    )
    sizes = {"gate_up_proj": (H, 2 * F), "down_proj": (F, H)}
    places = (
        {"gate_up_proj": f"{EXPERTS}.base_layer", "down_proj": EXPERTS}
        if nested
        else {"gate_up_proj": EXPERTS}
    )
    for parameter, path in places.items():
        into, out = reversed(sizes[parameter]) if swapped else sizes[parameter]
        a, b = adapter.stack(path, E, out, into)
        added(values, f"{EXPERTS}.{parameter}", stack_delta(a, b, E, 1.0, swapped))
    check(base if fused else unfused_base, [adapter.write(tmp_path / "adapter")], values, tmp_path)


@pytest.mark.parametrize("fused", [True, False], ids=["fused base", "unfused base"])
def test_matrices_of_single_experts(fused: bool, base: Path, unfused_base: Path, tmp_path: Path) -> None:
    adapter, values = Adapter(), base_values()
    for expert, part in ((0, "gate"), (0, "up"), (2, "up"), (1, "down"), (2, "down")):
        out, into = (H, F) if part == "down" else (F, H)
        a, b = adapter.linear(f"{EXPERTS}.{expert}.{part}_proj", out, into)
        name = f"{EXPERTS}.{'down' if part == 'down' else 'gate_up'}_proj"
        delta = np.zeros(values[name].shape)
        first = F if part == "up" else 0
        delta[expert, :, first : first + out] = (2 * b @ a).T
        added(values, name, delta)
    check(base if fused else unfused_base, [adapter.write(tmp_path / "adapter")], values, tmp_path)


def test_scale_patterns_of_stacks(base: Path, tmp_path: Path) -> None:
    adapter, values = Adapter(alpha_pattern={"experts.gate_up_proj": 1}, lora_alpha=64), base_values()
    a, b = adapter.stack(EXPERTS, E, 2 * F, H)
    added(values, f"{EXPERTS}.gate_up_proj", stack_delta(a, b, E, 0.5, swapped=False))
    check(base, [adapter.write(tmp_path / "adapter")], values, tmp_path)


SQUARE = CONFIG | {"intermediate_size": H}  # down is square: in and out look alike


def test_stacks_whose_shapes_say_too_little(tmp_path: Path) -> None:
    source = write_values(tmp_path / "base", SQUARE, base_values(config=SQUARE))
    adapter = Adapter()
    adapter.stack(EXPERTS, E, H, H)
    words = refusal(source, [adapter.write(tmp_path / "adapter")], tmp_path)
    assert "may be down_proj with in and out either way round" in words
    double = CONFIG | {"intermediate_size": H // 2}  # gate_up is square
    source = write_values(tmp_path / "double", double, base_values(config=double))
    assert "may be gate_up_proj" in refusal(source, [tmp_path / "adapter"], tmp_path)


# --- more than products


def test_modules_to_save(base: Path, tmp_path: Path) -> None:
    """Whole tensors, under the names of every version."""
    adapter, values = Adapter(), base_values()
    for name, written in (
        ("lm_head.weight", "lm_head.modules_to_save.default.weight"),
        ("model.norm.weight", "model.norm.weight"),
        (
            "model.layers.1.feed_forward.router.weight",
            "model.layers.1.feed_forward.router.modules_to_save.x.weight",
        ),
    ):
        values[name] = values[name][..., ::-1].copy()
        adapter.tensors[ROOT + written] = values[name]
    check(base, [adapter.write(tmp_path / "adapter")], values, tmp_path)
    assert "cannot have weight 0.5" in refusal(base, [(tmp_path / "adapter", 0.5)], tmp_path)
    other = Adapter()
    other.tensors[f"{ROOT}lm_head.weight"] = values["lm_head.weight"]
    words = refusal(base, [tmp_path / "adapter", other.write(tmp_path / "other")], tmp_path)
    assert "lm_head.weight: adapter and other both replace it" in words


def dora(values: Values, name: str, a: Any, b: Any, scale: float, magnitude: Any) -> Any:
    """Directions of W + scale B A, with other lengths of rows."""
    changed = values[name].astype(np.float64) + scale * b @ a
    return changed / np.linalg.norm(changed, axis=1, keepdims=True) * magnitude[:, None]


@pytest.mark.parametrize(
    "end", ["lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"]
)
def test_dora(end: str, base: Path, unfused_base: Path, tmp_path: Path) -> None:
    adapter, values = Adapter(use_dora=True), base_values()
    expert = f"{EXPERTS}.1.up_proj"
    for path, out, into in ((f"{ATTENTION}.q_proj", Q, H), (expert, F, H)):
        a, b = adapter.linear(path, out, into)
        magnitude = (np.arange(out) % 5 + 1).astype(np.float32) / 4
        adapter.tensors[f"{ROOT}{path}.{end}"] = magnitude
        source = unfuse(values)
        values[f"{path}.weight"] = dora(source, f"{path}.weight", a, b, 2.0, magnitude)
    where = adapter.write(tmp_path / "adapter")
    for source_directory, name in ((base, f"{EXPERTS}.gate_up_proj"), (unfused_base, f"{expert}.weight")):
        merged = with_adapters(open_checkpoint(source_directory), located_adapters([where]))
        found = merged.rows(f"{ATTENTION}.q_proj.weight", 3, 17)
        assert isinstance(found, RowValues)
        wanted = values[f"{ATTENTION}.q_proj.weight"][3:17]
        assert np.allclose(found.array, wanted, rtol=1e-6, atol=1e-7)
        fused = source_directory == base
        found = merged.rows(name, F if fused else 0, None, expert=1 if fused else None)
        assert isinstance(found, RowValues)
        assert np.allclose(found.array, values[f"{expert}.weight"], rtol=1e-6, atol=1e-7)
    assert "is of DoRA, which cannot have weight 0.5" in refusal(base, [(where, 0.5)], tmp_path)
    plain = Adapter()
    plain.linear(f"{ATTENTION}.q_proj", Q, H)
    words = refusal(base, [where, plain.write(tmp_path / "plain")], tmp_path)
    assert "adapter is of DoRA, whose lengths of rows leave no room for another adapter" in words


def test_vision_and_projector(tmp_path: Path) -> None:
    values = base_values(vision=True)
    source = write_values(tmp_path / "base", CONFIG, values, vision=True)
    adapter = Adapter()
    for path, trained in (
        ("vision_model.model.layers.1.self_attn.v_proj", "vision_model.model.layers.1.self_attn.v_proj"),
        ("vision_model.model.layers.0.mlp.fc2", "model.vision_model.model.layers.0.mlp.fc2"),
        ("multi_modal_projector.linear_1", "model.multi_modal_projector.linear_1"),
        ("vision_model.patch_embedding.linear", "vision_model.patch_embedding.linear"),
        ("language_model.model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj"),
    ):
        out, into = values[f"{path}.weight"].shape
        a, b = adapter.linear(trained, out, into)
        added(values, f"{path}.weight", 2 * b @ a)
    check(source, [adapter.write(tmp_path / "adapter")], values, tmp_path, vision=True)


# --- over a quantised base


def test_a_quantised_base_is_quantised_again_and_that_is_said(tmp_path: Path) -> None:
    """q changes: k and v, which share its weight, are no codes either; o stays as it is."""
    source = tmp_path / "source"
    source.mkdir()
    meant = packed_checkpoint(
        source,
        random_values(PACKED),
        group=32,
        packed=lambda name: "lm_head" not in name,
        asymmetric=lambda name: True,
    )
    adapter = Adapter()
    q = meant["model.layers.0.self_attn.q_proj.weight"]
    a, b = adapter.linear("model.layers.0.self_attn.q_proj", *q.shape)
    report = build(source, tmp_path / "out.l4e", weights="int8", lora=[adapter.write(tmp_path / "adapter")])
    assert any(re.search(r"^3 tensors that the checkpoint has quantised", note) for note in report.notes)
    described = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["weights"])
    assert described["layers.0.attn.qkv"]["kind"] == "int8"
    assert described["layers.1.attn.qkv"]["kind"] == described["layers.0.attn.o"]["kind"] == "int4"
    found = EngineFile(str(tmp_path / "out.l4e")).dequantize("layers.0.attn.qkv")
    wanted = np.concatenate(
        [q + 2 * b @ a, *(meant[f"model.layers.0.self_attn.{n}_proj.weight"] for n in "kv")]
    )
    assert np.abs(found - wanted).max() < np.abs(wanted).max() / 127


# --- what is refused


def test_names_that_match_nothing_are_listed(base: Path, tmp_path: Path) -> None:
    adapter = Adapter()
    adapter.linear("model.layers.7.self_attn.q_proj", Q, H)
    adapter.linear("model.layers.0.mlp.gate_proj", MLP, H)
    adapter.linear(f"{EXPERTS}.9.gate_proj", F, H)
    adapter.linear("model.layers.0.feed_forward.experts", F, H)
    adapter.linear("vision_model.model.layers.0.mlp.fc1", 8, 8)
    adapter.tensors[f"{ROOT}model.embed_tokens.token_adapter.trainable_tokens_delta"] = adapter.factor(2, H)
    adapter.tensors[f"{ROOT}score.weight"] = adapter.factor(2, H)
    words = refusal(base, [adapter.write(tmp_path / "adapter")], tmp_path)
    assert words.startswith("7 problems with the adapter adapter:")
    for line in (
        "model.layers.7.self_attn.q_proj.lora_A.weight: no model.layers.7.self_attn.q_proj.weight is in the base",
        "model.layers.0.mlp.gate_proj.lora_A.weight: no model.layers.0.mlp.gate_proj.weight is in",
        f"{EXPERTS}.9.gate_proj.lora_A.weight: the base has {E} experts",
        "layers.0.feed_forward.experts.lora_A.weight: no model.layers.0.feed_forward.experts is in the base",
        "vision_model.model.layers.0.mlp.fc1.lora_A.weight: no vision_model",
        "trainable_tokens_delta: is F32 [2, 32]; no such tensor is in the base model",
        "score.weight: is F32 [2, 32]; no such tensor is in the base model",
    ):
        assert line in words, words


def changed(**changes: Any) -> Callable[[Adapter], None]:
    return lambda adapter: adapter.config.update(changes)


def tensor(name: str, *shape: int, value: float = 0) -> Callable[[Adapter], None]:
    return lambda adapter: adapter.tensors.update({ROOT + name: np.full(shape, value, dtype=np.float32)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(peft_type="IA3"), "peft_type is 'IA3'; llama4rt merges adapters of type 'LORA'"),
        (changed(init_lora_weights="pissa_niter_4"), "init_lora_weights is 'pissa_niter_4'.*weight_conversion"),
        (changed(init_lora_weights=["olora"]), "init_lora_weights is"),
        (changed(alora_invocation_tokens=[1, 2]), "aLoRA acts only behind certain tokens"),
        (changed(layer_replication=[[0, 4]]), "repeats layers of the base model"),
        (changed(lora_bias=True), "it adds biases"),
        (changed(r=0), "r is 0; it must be an integer"),
        (changed(lora_alpha="much"), "lora_alpha is 'much'"),
        (changed(lora_alpha=float("inf")), "lora_alpha is inf"),
        (changed(rank_pattern=[1]), r"rank_pattern is \[1\]; it must be an object"),
        (changed(rank_pattern={"(a*)*": 4}), "rank_pattern: '.a\\*.*is not a pattern"),
        (changed(rank_pattern={"a.*b.*c.*d.*": 4}), "is not a pattern"),
        (changed(rank_pattern={"(": 4}), "is not a pattern"),
        (changed(rank_pattern={"q_proj": 8}), r"q_proj: its factors have rank 2; adapter_config.json says 8"),
        (changed(r=16), "factors have rank 2; adapter_config.json says 16"),
        (lambda adapter: adapter.tensors.pop(f"{ROOT}{ATTENTION}.q_proj.lora_B.weight"), "its other factor is missing"),
        (tensor(f"{ATTENTION}.q_proj.lora_B.weight", Q, 3), r"is F32 \[2, 32\], and .* is F32 \[32, 3\]; expected"),
        (tensor(f"{ATTENTION}.q_proj.lora_B.weight", Q + 1, 2), r"changes a matrix \[33, 32\]; model.layers.0.* BF16"),
        (tensor(f"{ATTENTION}.q_proj.lora_B.weight", Q), r"expected \[rank, in\] and \[out, rank\]"),
        (tensor(f"{ATTENTION}.q_proj.lora_B.weight", Q, 2, value=np.nan), "lora_B.weight holds NaN or infinity"),
        (tensor(f"{ATTENTION}.q_proj.lora_magnitude_vector", Q + 1), r"expected 32 lengths"),
        (tensor(f"{ATTENTION}.q_proj.lora_B.bias", Q), "no such tensor is in the base model"),
        (tensor("lm_head.weight", CONFIG["vocab_size"] + 8, H), "a vocabulary that grew needs its config.json too"),
        (tensor(f"{EXPERTS}.lora_A.weight", 2 * E, 5), "its other factor is missing"),
    ],
)  # fmt: skip
def test_bad_adapters(change: Callable[[Adapter], Any], words: str, base: Path, tmp_path: Path) -> None:
    adapter = Adapter()
    adapter.linear(f"{ATTENTION}.q_proj", Q, H)
    change(adapter)
    assert re.search(words, refusal(base, [adapter.write(tmp_path / "adapter")], tmp_path))


def test_stacks_that_fit_nothing(base: Path, tmp_path: Path) -> None:
    adapter = Adapter()
    adapter.stack(EXPERTS, E, 2 * F + 1, H)
    words = refusal(base, [adapter.write(tmp_path / "a")], tmp_path)
    assert f"the base has {E} experts of gate_up_proj [{2 * F}, {H}] and down_proj [{H}, {F}]" in words
    adapter = Adapter()
    adapter.linear(EXPERTS, 2 * F, H, rank=2 * E + 1)
    assert f"with {2 * E + 1} ranks in all" in refusal(base, [adapter.write(tmp_path / "b")], tmp_path)
    adapter = Adapter()
    adapter.stack(EXPERTS, E, 2 * F, H)
    adapter.tensors[f"{ROOT}{EXPERTS}.lora_magnitude_vector"] = adapter.factor(2 * F)
    assert "DoRA on a stack of experts" in refusal(base, [adapter.write(tmp_path / "c")], tmp_path)


def test_a_tied_embedding(tmp_path: Path) -> None:
    config = CONFIG | {"tie_word_embeddings": True}
    values = {name: value for name, value in base_values().items() if name != "lm_head.weight"}
    source = tmp_path / "base"
    source.mkdir()
    write_config(source, config)
    write_tensors(source, {name: stored(value, "BF16") for name, value in values.items()})
    adapter = Adapter()
    adapter.tensors[f"{ROOT}model.embed_tokens.weight"] = values["model.embed_tokens.weight"]
    words = refusal(source, [adapter.write(tmp_path / "adapter")], tmp_path)
    assert "embedding and head would both change" in words


def test_what_is_no_adapter(base: Path, tmp_path: Path) -> None:
    assert "has no adapter_config.json, so it is no adapter" in refusal(base, [base], tmp_path)
    assert "no such directory, and not a hub id" in refusal(base, [tmp_path / "none/at/all"], tmp_path)
    where = Adapter().write(tmp_path / "empty")
    assert "no tensor is there" in refusal(base, [where], tmp_path)
    (where / "adapter_model.safetensors").unlink()
    assert "neither adapter_model.safetensors nor adapter_model.bin is there" in refusal(
        base, [where], tmp_path
    )
    assert "must be a list of adapters" in refusal(base, str(where), tmp_path)
    adapter = Adapter()
    adapter.linear(f"{ATTENTION}.q_proj", Q, H)
    where = adapter.write(tmp_path / "adapter")
    assert "the weight of adapter adapter is nan" in refusal(base, [(where, float("nan"))], tmp_path)
    with pytest.raises(ConfigError, match="is part of the checkpoint"):
        build(base, where / "adapter_model.safetensors", lora=[where])


# --- where an adapter counts


def test_hash_and_cache_know_adapters(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA4RT_CACHE", str(tmp_path / "cache"))
    adapter = Adapter()
    adapter.linear(f"{ATTENTION}.q_proj", Q, H)
    where = adapter.write(tmp_path / "adapter")

    def built(lora: Any) -> tuple[Path, str]:
        path = engine_path(str(base), weights="bf16", lora=lora)
        return path, json.loads(EngineFile(str(path)).metadata["source"])["hash"]

    plain = engine_path(str(base), weights="bf16")
    one, again, half = built([where]), built([(where, 1.0)]), built([(where, 0.5)])
    assert one == again
    adapter.tensors[f"{ROOT}{ATTENTION}.q_proj.lora_B.weight"] *= -1
    adapter.write(where)
    changed_too = built([where])
    assert len({plain, one[0], half[0], changed_too[0]}) == 4
    assert len({one[1], half[1], changed_too[1]}) == 3
    assert engine_cache.cache_directory() == tmp_path / "cache"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("a/b", ("a/b", 1.0)), ("a=0.5", ("a", 0.5)), ("r=16=2", ("r=16", 2.0)), ("a=-1e-1", ("a", -0.1))],
)
def test_the_command_lines_form(text: str, parsed: tuple[str, float]) -> None:
    assert parse_adapter(text) == parsed


def test_a_weight_that_is_none() -> None:
    with pytest.raises(ConfigError, match="must be DIR or DIR=WEIGHT"):
        parse_adapter("adapter=strong")


@pytest.mark.parametrize(("rows", "width", "rank"), [(1, 1, 1), (3, 70_000, 2), (200, 700, 9), (5, 1, 3)])
def test_products_are_summed_rank_by_rank(rows: int, width: int, rank: int) -> None:
    """The definition, one number after another in fp32."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, rank), (rank, width)))
    out = rng.standard_normal((rows, width)).astype(np.float32)
    wanted, threaded = out.copy(), out.copy()
    add_product(out, left, right, 0.3)
    with ThreadPoolExecutor(3) as pool:
        add_product(threaded, left, right, 0.3, pool.map)
    assert np.array_equal(threaded, out)
    sums = np.zeros((rows, width), dtype=np.float32)
    for r in range(rank):
        sums = (sums + (left[:, r, None] * right[None, r]).astype(np.float32)).astype(np.float32)
    wanted = (wanted + (sums * np.float32(0.3)).astype(np.float32)).astype(np.float32)
    assert np.array_equal(out, wanted)
