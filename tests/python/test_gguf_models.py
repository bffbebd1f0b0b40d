"""GGUF files of whole models: what llama.cpp's converter writes gives the engine that the original checkpoint gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver import Driver
from gguf_models import (
    Array,
    add_sizes,
    add_tensors,
    adjacent_pairs,
    byte_tokenizer,
    checkpoint_tensors,
    finish,
    gguf_tensors,
    rope_divisors,
    write_llama4,
    write_mmproj,
)
from llama4rt import build
from llama4rt._core import EngineFile
from llama4rt.convert.formats.gguf.rope_factors import llama3_rule
from llama4rt.convert.locate import open_checkpoint
from llama4rt.convert.stored_rows import Codes
from llama4rt.errors import CheckpointError
from random_checkpoints import engine_weights
from tiny_checkpoints import IMAGE_IDS, KINDS, oracle_logits, random_ids

gguf = pytest.importorskip("gguf", reason="the gguf package writes the files")

Files = Callable[..., Path]
CPU = {"device": "cpu", "kv_cache_dtype": "f32", "activations": "int16"}
# Every part of the architecture; the other kinds differ in numbers that one code reads.
TEXT_KINDS = ["scout", "maverick", "top2", "odd_heads", "dense", "tied", "mixed_layers", "no_chunk", "micro"]
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


def config_of(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(EngineFile(str(path)).metadata["config"])
    return config


def without_ends(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the ids that only a tokenizer or a config.json says."""
    return {key: value for key, value in config.items() if key not in ("bos_token_id", "eos_token_ids")}


def same_weights(ours: Path, theirs: Path) -> None:
    found, expected = engine_weights(ours), engine_weights(theirs)
    assert found.keys() == expected.keys()
    for name, matrices in expected.items():
        np.testing.assert_array_equal(np.stack(found[name]), np.stack(matrices), err_msg=name)


def as_stored(kind: str) -> Callable[[str], str]:
    """The type of each tensor that holds the checkpoint's values exactly; routers are always fp32."""
    plain = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[KINDS[kind].dtype]
    return lambda name: "F32" if "gate_inp" in name else plain


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_a_converted_checkpoint_is_the_same_model(
    kind: str, checkpoint: Files, engine_file: Files, tmp_path: Path
) -> None:
    """Names, experts, widths, rope_freqs back to its rule; and what GGUF does not hold from config.json beside it."""
    write_llama4(checkpoint(kind), tmp_path / "model.gguf", as_stored(kind))
    shutil.copy(checkpoint(kind) / "config.json", tmp_path)
    report = build(tmp_path / "model.gguf", tmp_path / "out.l4e", weights="bf16")
    ours, theirs = config_of(tmp_path / "out.l4e"), config_of(engine_file(kind))
    assert without_ends(ours) == without_ends(theirs)
    same_weights(tmp_path / "out.l4e", engine_file(kind))
    assert any("config.json beside" in note for note in report.notes)


def test_a_split_file_is_the_same_model(checkpoint: Files, tmp_path: Path) -> None:
    """Built from any part, and from the directory."""
    whole, parts = tmp_path / "whole.gguf", tmp_path / "parts"
    parts.mkdir()
    write_llama4(checkpoint("micro"), whole, as_stored("micro"))
    write_llama4(checkpoint("micro"), parts / "m.gguf", as_stored("micro"), split_max_tensors=7)
    names = sorted(path.name for path in parts.iterdir())
    assert len(names) > 2 and names[0] == f"m-00001-of-{len(names):05d}.gguf"
    build(whole, tmp_path / "whole.l4e", weights="bf16")
    for i, source in enumerate((parts / names[0], parts / names[-1], parts)):
        build(source, tmp_path / f"{i}.l4e", weights="bf16")
        same_weights(tmp_path / f"{i}.l4e", tmp_path / "whole.l4e")
    hashes = {json.loads(EngineFile(str(tmp_path / f"{i}.l4e")).metadata["source"])["hash"] for i in range(3)}
    assert len(hashes) == 1
    assert json.loads(EngineFile(str(tmp_path / "0.l4e")).metadata["source"])["name"] == "m"
    for path in parts.iterdir():  # none of them may be overwritten
        with pytest.raises(Exception, match="is part of the checkpoint"):
            build(parts, path)


@pytest.mark.parametrize("missing", [1, 2])
def test_missing_parts_are_named(missing: int, checkpoint: Files, tmp_path: Path) -> None:
    write_llama4(checkpoint("micro"), tmp_path / "m.gguf", as_stored("micro"), split_max_tensors=5)
    parts = sorted(tmp_path.glob("*.gguf"))
    for path in parts[1 : 1 + missing]:
        path.unlink()
    with pytest.raises(
        CheckpointError, match=rf"{missing} of the {len(parts)} parts of m are missing: m-00002-of"
    ):
        build(parts[0], tmp_path / "out.l4e")


# --- experts, quantised ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"])
def test_rows_of_every_matrix_mean_what_the_file_says(stored: str, checkpoint: Files, tmp_path: Path) -> None:
    """Stacks of experts one by one, and slices of rows anywhere."""
    meant = write_llama4(checkpoint("int4"), tmp_path / "m.gguf", lambda name: stored)
    opened = open_checkpoint(tmp_path / "m.gguf")
    expected = expected_rows(meant)
    assert expected.keys() == opened.names().keys()
    for name, value in expected.items():
        rows = opened.rows(name)
        assert isinstance(rows, Codes) == (value.ndim == 2)
        numbers = rows.values().array if isinstance(rows, Codes) else rows.as_float32()
        np.testing.assert_array_equal(numbers, value, err_msg=name)
        if value.ndim == 2:
            part = opened.rows(name, 3, 11)
            assert isinstance(part, Codes)
            np.testing.assert_array_equal(part.values().array, value[3:11], err_msg=name)
        opened.release(name)
    assert sum(opened.nbytes(name) for name in expected) < (tmp_path / "m.gguf").stat().st_size


def expected_rows(meant: Mapping[str, Array]) -> dict[str, Array]:
    """By Hugging Face's names; each expert on its own."""
    places = {
        "ffn_gate_exps": "feed_forward.experts.{}.gate_proj",
        "ffn_up_exps": "feed_forward.experts.{}.up_proj",
        "ffn_down_exps": "feed_forward.experts.{}.down_proj",
        "ffn_gate_shexp": "feed_forward.shared_expert.gate_proj",
        "ffn_up_shexp": "feed_forward.shared_expert.up_proj",
        "ffn_down_shexp": "feed_forward.shared_expert.down_proj",
        "ffn_gate_inp": "feed_forward.router",
        "ffn_gate": "feed_forward.gate_proj",
        "ffn_up": "feed_forward.up_proj",
        "ffn_down": "feed_forward.down_proj",
        "attn_output": "self_attn.o_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    } | {f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"}
    top = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    out: dict[str, Array] = {}
    for name, value in meant.items():
        stem = name.removesuffix(".weight")
        if stem == "rope_freqs":
            continue
        if stem in top:
            out[f"{top[stem]}.weight"] = value
            continue
        _, layer, part = stem.split(".")
        pattern = f"model.layers.{layer}.{places[part]}.weight"
        if value.ndim == 3:
            out |= {pattern.format(expert): matrix for expert, matrix in enumerate(value)}
        else:
            out[pattern] = value
    return out


def test_q_k_and_v_in_one_tensor(checkpoint: Files, engine_file: Files, tmp_path: Path) -> None:
    tensors = gguf_tensors(checkpoint_tensors(checkpoint("micro")))
    for layer in range(2):
        parts = [tensors.pop(f"blk.{layer}.attn_{part}.weight") for part in "qkv"]
        tensors[f"blk.{layer}.attn_qkv.weight"] = np.concatenate(parts)
    write_llama4(checkpoint("micro"), tmp_path / "m.gguf", as_stored("micro"), tensors=tensors)
    build(tmp_path / "m.gguf", tmp_path / "out.l4e", weights="bf16")
    same_weights(tmp_path / "out.l4e", engine_file("micro"))


def test_factors_beside_matrices(checkpoint: Files, tmp_path: Path) -> None:
    """NVFP4's second scale, one for a matrix and one for each expert; scales of activations are said to be unused."""
    source = checkpoint("int4")
    tensors = gguf_tensors(checkpoint_tensors(source))
    rng = np.random.default_rng(0)
    moe = next(name for name in tensors if name.endswith("ffn_up_exps.weight"))
    o_proj = "blk.0.attn_output.weight"
    factors = {
        moe.replace("weight", "scale"): rng.uniform(0.5, 2, len(tensors[moe])).astype(np.float32),
        o_proj.replace("weight", "scale"): np.array([0.375], dtype=np.float32),
        o_proj.replace("weight", "input_scale"): np.array([3.0], dtype=np.float32),
    }
    meant = write_llama4(source, tmp_path / "m.gguf", lambda name: "Q8_0", tensors=tensors | factors)
    opened = open_checkpoint(tmp_path / "m.gguf")
    assert any("*.input_scale" in note for note in opened.notes())
    layer = moe.split(".")[1]
    for expert, factor in enumerate(factors[moe.replace("weight", "scale")]):
        rows = opened.rows(f"model.layers.{layer}.feed_forward.experts.{expert}.up_proj.weight")
        assert isinstance(rows, Codes)
        np.testing.assert_allclose(rows.values().array, meant[moe][expert] * factor, rtol=2**-23, atol=0)
    rows = opened.rows("model.layers.0.self_attn.o_proj.weight")
    assert isinstance(rows, Codes)
    np.testing.assert_array_equal(rows.values().array, meant[o_proj] * np.float32(0.375))


def test_scales_that_are_no_numbers_are_refused_by_place(checkpoint: Files, tmp_path: Path) -> None:
    write_llama4(checkpoint("int4"), tmp_path / "m.gguf", lambda name: "Q8_0")
    opened = open_checkpoint(tmp_path / "m.gguf")
    data = bytearray((tmp_path / "m.gguf").read_bytes())
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    (tensor,) = [t for t in reader.tensors if t.name == "blk.1.ffn_down_exps.weight"]
    at = int(tensor.data_offset) + 5 * (128 // 32) * 34 + 2 * 34  # expert 0, row 5, its third block
    data[at : at + 2] = np.float16(np.inf).tobytes()
    (tmp_path / "m.gguf").write_bytes(data)
    del opened
    with pytest.raises(
        CheckpointError, match=r"blk\.1\.ffn_down_exps\.weight\[0\].*group 2 of row 5 has scale inf"
    ):
        build(tmp_path / "m.gguf", tmp_path / "out.l4e")
    assert not (tmp_path / "out.l4e").exists()


# --- what the file does not say -------------------------------------------------------------------------------


def test_unknown_sizes_are_assumed_as_llama_cpp_does(checkpoint: Files, tmp_path: Path) -> None:
    write_llama4(checkpoint("scout"), tmp_path / "m.gguf", as_stored("scout"))
    report = build(tmp_path / "m.gguf", tmp_path / "out.l4e", weights="bf16")
    config = config_of(tmp_path / "out.l4e")
    assert config["attention_chunk_size"] == 8192 and config["rope_layers"] == [1, 1, 1, 0, 1, 1, 1, 0]
    assert config["use_qk_norm"] and config["attn_temperature_tuning"]
    assert (config["attn_scale"], config["floor_scale"]) == (0.1, 8192)
    (note,) = report.notes
    assert "assumed as llama.cpp does" in note and "attention_chunk_size 8192" in note and "every 4th" in note
    assert json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["source"])["notes"] == [note]


def test_a_config_of_other_sizes_beside_it_is_not_taken(checkpoint: Files, tmp_path: Path) -> None:
    write_llama4(checkpoint("micro"), tmp_path / "m.gguf", as_stored("micro"))
    shutil.copy(checkpoint("scout") / "config.json", tmp_path)
    report = build(tmp_path / "m.gguf", tmp_path / "out.l4e", weights="bf16")
    assert config_of(tmp_path / "out.l4e")["attention_chunk_size"] == 8192
    assert "assumed" in report.notes[0]


def test_no_sliding_window_means_rope_everywhere(checkpoint: Files, tmp_path: Path) -> None:
    write_llama4(
        checkpoint("dense"),
        tmp_path / "m.gguf",
        as_stored("dense"),
        keys={"llama4.attention.sliding_window": 0},
    )
    build(tmp_path / "m.gguf", tmp_path / "out.l4e", weights="bf16")
    config = config_of(tmp_path / "out.l4e")
    assert config["attention_chunk_size"] == 0 and config["rope_layers"] == [1] * 5
    assert not config["attn_temperature_tuning"] and config["use_qk_norm"]


# --- rope_freqs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("head", [64, 128])
@pytest.mark.parametrize(("factor", "high"), [(8.0, 4.0), (32.0, 4.0), (16.0, 1.0), (4.0, 2.0)])
@pytest.mark.parametrize("length", [8192, 4096])
def test_rules_are_found_from_their_divisors(
    theta: float, head: int, factor: float, high: float, length: int
) -> None:
    """The numbers found may differ where the divisors do not."""
    rule = {
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": float(length),
    }
    divisors = rope_divisors(theta, head, rule)
    found = llama3_rule(theta, divisors)
    if divisors.max() == 1:
        assert found == {}
        return
    assert found is not None and found["factor"] == factor
    np.testing.assert_allclose(rope_divisors(theta, head, found), divisors, rtol=1e-4)


@pytest.mark.parametrize(
    "divisors",
    [
        [1.0, 1.5, 8.0, 2.0],
        [0.5, 1.0, 1.0, 8.0],
        [1.0, np.nan, 8.0, 8.0],
        [8.0, 8.0, 1.0, 1.0],
        [1.0, 3.0, 3.0, 8.0],
    ],
)
def test_divisors_of_no_rule(divisors: list[float]) -> None:
    assert llama3_rule(10_000.0, np.array(divisors, dtype=np.float32)) is None


# --- architecture llama ---------------------------------------------------------------------------------------


def write_llama(
    file: Path, rope: Mapping[str, Any], keys: Mapping[str, Any] | None = None, **more: Array
) -> Any:
    """A tiny random Llama of transformers as GGUF; returns the model. keys, more: further metadata and tensors."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=101, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, rope_parameters=dict(rope), max_position_embeddings=4096,
        rms_norm_eps=1e-5, initializer_range=0.1, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).float().eval()
    tensors = gguf_tensors({name: np.asarray(t) for name, t in model.state_dict().items()})
    for name in tensors:
        if ".attn_q." in name or ".attn_k." in name:
            tensors[name] = adjacent_pairs(tensors[name], 4 if ".attn_q." in name else 2)
    if rope["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = rope_divisors(rope["rope_theta"], 16, rope)
    writer = gguf.GGUFWriter(file, "llama")
    add_sizes(writer, config.to_dict())
    writer.add_feed_forward_length(96)
    for key, value in (keys or {}).items():
        writer.add_key_value(key, *typed(value))
    add_tensors(writer, {**tensors, **more}, lambda name: "F32")
    finish(writer)
    return model


def typed(value: Any) -> tuple[Any, Any]:
    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}
    return value, gguf.GGUFValueType[kinds[type(value)]]


@pytest.mark.parametrize(
    "rope", [{"rope_type": "default", "rope_theta": 10000.0}, LLAMA3_ROPE], ids=["plain", "llama3"]
)
def test_a_dense_llama_computes_what_transformers_computes(rope: dict[str, Any], tmp_path: Path) -> None:
    """Another model class altogether: the algebra of a dense Llama 4 holds."""
    import torch

    model = write_llama(tmp_path / "m.gguf", rope)
    ids = np.random.default_rng(1).integers(0, 101, 700).tolist()
    with torch.no_grad():
        expected = np.asarray(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0])
    build(tmp_path / "m.gguf", tmp_path / "out.l4e", weights="bf16")
    with torch.no_grad():
        for parameter in model.parameters():  # not the model: its rope tables would be rounded too
            parameter.copy_(parameter.to(torch.bfloat16).float())
        rounded = np.asarray(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0])
    with Driver(tmp_path / "out.l4e", **CPU) as driver:
        logits = driver.score(ids)
    assert np.abs(logits - rounded).max() < 1e-4
    assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()  # only bf16 lies between them


@pytest.mark.parametrize(
    ("keys", "tensors", "message"),
    [
        ({"llama.expert_count": 8}, {}, "llama.expert_count is 8; .*only dense"),
        ({"llama.rope.scaling.type": "yarn"}, {}, "rope.scaling.type is 'yarn', which llama4rt does not compute"),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, {}, "rope.scaling.type is 'linear'"),
        ({"llama.attention.sliding_window": 64}, {}, "sliding_window is 64; .*no sliding window"),
        ({"llama.attention.layer_norm_epsilon": 1e-5}, {}, "layer_norm_epsilon .*does not know this setting"),
        ({"llama.logit_scale": 0.5}, {}, "logit_scale is 0.5, which llama4rt does not compute: logits"),
        ({"llama.rope.dimension_count": 8}, {}, "rope.dimension_count is 8, but heads are 16 wide"),
        ({"llama.attention.value_length": 8}, {}, "value_length is 8, but heads"),
        ({"llama.vocab_size": 90}, {}, r"vocab_size is 90, but token_embd.weight is F32 \[101, 64\]"),
        ({"llama.block_count": 10_000_000}, {}, r"block_count is 10000000; it must be an integer in 1\.\.1024"),
        ({"llama.swin_norm": True}, {}, "swin_norm is True; llama4rt does not know this setting"),
        ({}, {"blk.0.attn_q.bias": (64,)}, "attn_q.bias is a bias"),
        ({}, {"blk.1.attn_q_norm.weight": (16,)}, "attn_q_norm.weight is a norm with weights on queries"),
        ({}, {"blk.1.post_ffw_norm.weight": (64,)}, "is a norm that Llama 4's layers do not have"),
        ({}, {"rope_factors_long.weight": (8,)}, "longrope"),
        ({}, {"rope_freqs.weight": (8,)}, "in a way that is not llama3's"),
        ({}, {"rope_freqs.weight": (9,)}, r"rope_freqs.weight is F32 \[9\]; expected F32 \[8\]"),
        ({}, {"blk.0.ffn_gate_inp.weight": (4, 64)}, "router.weight|ffn_gate_inp.weight: is F32 .*no such tensor"),
        ({}, {"blk.7.attn_v.weight": (32, 64)}, r"blk\.7\.attn_v\.weight: is F32 .*no such tensor"),
    ],
)  # fmt: skip
def test_what_is_not_this_algebra_is_refused(
    keys: dict[str, Any], tensors: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    more = {name: rng.uniform(1, 5, shape).astype(np.float32) for name, shape in tensors.items()}
    write_small_llama(tmp_path / "m.gguf", keys, more)
    with pytest.raises(CheckpointError, match=message):
        build(tmp_path / "m.gguf", tmp_path / "out.l4e")


def write_small_llama(file: Path, keys: Mapping[str, Any], more: Mapping[str, Array]) -> None:
    """A dense model of zeros, its keys replaced by these."""
    layers = [f"blk.{i}." for i in range(2)]
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (101, 64), "output_norm.weight": (64,)}
    for at in layers:
        shapes |= {f"{at}attn_norm.weight": (64,), f"{at}ffn_norm.weight": (64,)}
        shapes |= {f"{at}attn_q.weight": (64, 64), f"{at}attn_output.weight": (64, 64)}
        shapes |= {f"{at}attn_k.weight": (32, 64), f"{at}attn_v.weight": (32, 64)}
        shapes |= {
            f"{at}ffn_gate.weight": (96, 64),
            f"{at}ffn_up.weight": (96, 64),
            f"{at}ffn_down.weight": (64, 96),
        }
    settings: dict[str, Any] = {
        "llama.block_count": 2, "llama.context_length": 512, "llama.embedding_length": 64,
        "llama.feed_forward_length": 96, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0,
        "llama.rope.dimension_count": 16,
    }  # fmt: skip
    writer = gguf.GGUFWriter(file, "llama")
    for key, value in (settings | keys).items():
        writer.add_key_value(key, *typed(value))
    zeros = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    add_tensors(writer, {**zeros, **more}, lambda name: "F32")
    finish(writer)


def test_the_small_llama_itself_is_read(tmp_path: Path) -> None:
    write_small_llama(
        tmp_path / "m.gguf", {"llama.attention.sliding_window": 512, "llama.rope.scaling.type": "none"}, {}
    )
    build(tmp_path / "m.gguf", tmp_path / "out.l4e")
    assert config_of(tmp_path / "out.l4e")["tie_word_embeddings"]


def test_adapters_are_no_models(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_type("adapter")
    finish(writer)
    with pytest.raises(CheckpointError, match=r"general\.type is 'adapter'; a whole model is 'model'"):
        build(tmp_path / "m.gguf", tmp_path / "out.l4e")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [("qwen2", "general.architecture is 'qwen2'; llama4rt runs llama4"), ("clip", "vision tower.*--mmproj")],
)
def test_other_architectures_are_named(architecture: str, message: str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
    add_tensors(writer, {"token_embd.weight": np.zeros((4, 4))}, lambda name: "F32")
    finish(writer)
    with pytest.raises(CheckpointError, match=message):
        build(tmp_path / "m.gguf", tmp_path / "out.l4e")


# --- the vision tower -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scout_vision", "maverick_vision"])
def test_a_vision_tower_beside_the_model(
    kind: str, vision_checkpoint: Files, vision_engine_file: Files, tmp_path: Path
) -> None:
    source = vision_checkpoint(kind)
    write_llama4(source, tmp_path / "m.gguf", as_stored(kind), **byte_tokenizer())
    write_mmproj(source, tmp_path / "mmproj-m.gguf", as_stored(kind))
    shutil.copy(source / "config.json", tmp_path)
    report = build(
        tmp_path / "m.gguf", tmp_path / "out.l4e", weights="bf16", mmproj=tmp_path / "mmproj-m.gguf"
    )
    ours, theirs = config_of(tmp_path / "out.l4e"), config_of(vision_engine_file(kind))
    theirs["vision"]["rope_theta"] = 10000.0  # which GGUF does not hold: as the published models have it
    assert ours["vision"] == theirs["vision"] and without_ends(ours) == without_ends(theirs)
    assert ours["vision"]["patch_token_id"] == IMAGE_IDS["image_token_index"]
    assert ours["bos_token_id"] == 256 and {257, 264} <= set(ours["eos_token_ids"])
    same_weights(tmp_path / "out.l4e", vision_engine_file(kind))
    assert any("vision rope_theta" in note for note in report.notes)
    build(tmp_path, tmp_path / "auto.l4e", weights="bf16", mmproj="auto")
    same_weights(tmp_path / "auto.l4e", tmp_path / "out.l4e")
    assert not any("lies beside" in note for note in report.notes)
    report = build(tmp_path / "m.gguf", tmp_path / "text.l4e", weights="bf16")  # without it, text alone
    assert any("mmproj-m.gguf lies beside it and is not read" in note for note in report.notes)
    assert "vision" not in config_of(tmp_path / "text.l4e")


def test_towers_that_do_not_belong(vision_checkpoint: Files, checkpoint: Files, tmp_path: Path) -> None:
    source = vision_checkpoint("scout_vision")
    write_llama4(source, tmp_path / "m.gguf", as_stored("scout_vision"), **byte_tokenizer())
    write_llama4(source, tmp_path / "mute.gguf", as_stored("scout_vision"))
    write_mmproj(source, tmp_path / "mmproj.gguf", as_stored("scout_vision"))
    write_mmproj(vision_checkpoint("int4_vision"), tmp_path / "mmproj-other.gguf", as_stored("scout_vision"))
    for model, mmproj, message in (
        (tmp_path / "mute.gguf", tmp_path / "mmproj.gguf", "has no control token <|patch|>"),
        (
            tmp_path / "m.gguf",
            tmp_path / "mmproj-other.gguf",
            "projection_dim is 128, but the decoder is 64 wide",
        ),
        (
            tmp_path / "m.gguf",
            tmp_path / "m.gguf",
            "architecture is 'llama4'; a vision tower's is 'clip'|own file too",
        ),
        (checkpoint("scout"), tmp_path / "mmproj.gguf", "is a vision tower for a GGUF model; scout is none"),
        (tmp_path / "m.gguf", "auto", "has 2 vision towers: .*mmproj"),
        (tmp_path / "m.gguf", "F16", "none of its 2 vision towers is called 'F16'"),
    ):
        with pytest.raises(CheckpointError, match=message.replace("|patch|", r"\|patch\|")):
            build(model, tmp_path / "out.l4e", mmproj=mmproj)


def test_logits_of_a_model_that_came_as_q8_0(checkpoint: Files, tmp_path: Path) -> None:
    """End to end: the engine computes with the numbers the file means, as transformers does with them."""
    import torch
    from tiny_checkpoints import load_oracle

    source = checkpoint("int4")
    meant = write_llama4(source, tmp_path / "m.gguf", lambda name: "F32" if "gate_inp" in name else "Q8_0")
    shutil.copy(source / "config.json", tmp_path)
    build(tmp_path / "m.gguf", tmp_path / "out.l4e")
    model = load_oracle(source)
    values = hugging_face_tensors(meant)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(values[name]))
    # The embedding is stored as bf16, whatever a file has.
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding.copy_(embedding.to(torch.bfloat16).float())
    ids = random_ids(KINDS["int4"], 100)
    expected = oracle_logits(model, ids)
    with Driver(tmp_path / "out.l4e", device="reference") as driver:
        assert np.abs(driver.score(ids) - expected).max() < 1e-4


def hugging_face_tensors(meant: Mapping[str, Array]) -> dict[str, Array]:
    """Back to transformers' stacks of experts."""
    rows = expected_rows(meant)
    out = {name: value for name, value in rows.items() if ".experts." not in name}
    stacks: dict[str, list[dict[str, Array]]] = {}
    for name, value in rows.items():
        if ".experts." in name:
            prefix, _, rest = name.partition(".experts.")
            expert, part = rest.split(".", 1)
            matrices = stacks.setdefault(f"{prefix}.experts.", [])
            while len(matrices) <= int(expert):
                matrices.append({})
            matrices[int(expert)][part] = value
    for prefix, matrices in stacks.items():
        gate_up = [np.concatenate([m["gate_proj.weight"].T, m["up_proj.weight"].T], axis=1) for m in matrices]
        out[f"{prefix}gate_up_proj"] = np.stack(gate_up)
        out[f"{prefix}down_proj"] = np.stack(
            [np.ascontiguousarray(m["down_proj.weight"].T) for m in matrices]
        )
    return out
