"""build(): the engine file holds the checkpoint's values, the same bytes every time, or nothing at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
from llama4rt import _core, build
from llama4rt._core import EngineFile, EngineWriter
from llama4rt.errors import CheckpointError, ConfigError, EngineFileError, Llama4RTError
from random_checkpoints import (
    SMALL,
    TINY,
    Values,
    engine_weights,
    expected_vision,
    expected_weights,
    models,
    random_values,
    save_safetensors,
    stored,
    unfuse,
    write_config,
    write_tensors,
    write_values,
)

MAVERICK = TINY | {"interleave_moe_layer_step": 2, "num_local_experts": 6, "use_qk_norm": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "scout": TINY,
    "maverick": MAVERICK,
    "top2": SMALL | {"num_experts_per_tok": 2},
    "dense": SMALL | {"moe_layers": [], "attention_chunk_size": None},
    "tied": SMALL | {"tie_word_embeddings": True},
    "odd": SMALL
    | {
        "hidden_size": 72,
        "num_attention_heads": 6,
        "head_dim": 24,
        "intermediate_size": 40,
        "intermediate_size_mlp": 88,
        "vocab_size": 257,
        "moe_layers": [1],
    },
    "one_expert": SMALL | {"num_local_experts": 1, "num_hidden_layers": 1},
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_same_weights(path: Path, config: dict[str, Any], values: Values) -> None:
    expected, found = expected_weights(config, values), engine_weights(path)
    if any(name.startswith("vision_model.") for name in values):
        expected |= expected_vision(values)
    assert set(found) == set(expected)
    for name, matrices in expected.items():
        assert len(found[name]) == len(matrices), name
        for ours, theirs in zip(found[name], matrices, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_values(tmp_path_factory.mktemp("tiny") / "checkpoint", TINY, random_values(TINY))


# --- values


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", CONFIGS)
def test_bf16_engines_hold_the_source_values(name: str, dtype: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    values = random_values(config)
    source = write_values(tmp_path / "source", config, values, dtype=dtype)
    build(source, tmp_path / "out.l4e", weights="bf16")
    assert_same_weights(tmp_path / "out.l4e", config, values)


@pytest.mark.parametrize("experts", ["fused", "one by one"])
@pytest.mark.parametrize("shards", [1, 5])
def test_multimodal_names_shards_and_experts_one_by_one(shards: int, experts: str, tmp_path: Path) -> None:
    config = CONFIGS["odd"]
    values = random_values(config, vision=True)
    written = unfuse(values) if experts == "one by one" else values
    source = write_values(tmp_path / "source", config, written, vision=True, shards=shards)
    build(source, tmp_path / "out.l4e", weights="bf16")
    assert_same_weights(tmp_path / "out.l4e", config, values)
    file = EngineFile(str(tmp_path / "out.l4e"))
    assert json.loads(file.metadata["source"])["skipped"] == []
    assert file.info("vision.positional_embedding")[:2] == ("F32", (17, 32))
    assert file.info("vision.layers.1.attn.qkv.bias")[:2] == ("F32", (96,))


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_vision_towers_of_any_dtype_hold_the_source_values(dtype: str, tmp_path: Path) -> None:
    values = random_values(SMALL, vision=True, seed=3)
    source = write_values(tmp_path / "source", SMALL, values, dtype=dtype, vision=True)
    build(source, tmp_path / "out.l4e", weights="bf16")
    assert_same_weights(tmp_path / "out.l4e", SMALL, values)


def test_plain_vision_numbers_are_not_rounded(tmp_path: Path) -> None:
    """Biases, norms and positions of an fp32 checkpoint keep every bit; matrices are bf16."""
    values = random_values(SMALL, vision=True)
    tensors = {name: stored(value, "F32") for name, value in values.items()}
    rng = np.random.default_rng(7)
    exact = {}
    for name in ("vision_model.positional_embedding_vlm", "vision_model.model.layers.0.mlp.fc1.bias"):
        exact[name] = rng.standard_normal(values[name].shape).astype(np.float32)
        tensors[name] = ("F32", exact[name])
    (tmp_path / "source").mkdir()
    write_config(tmp_path / "source", SMALL, vision=True)
    write_tensors(tmp_path / "source", tensors)
    build(tmp_path / "source", tmp_path / "out.l4e")
    found = engine_weights(tmp_path / "out.l4e")
    for name, ours in zip(exact, ("positional_embedding", "layers.0.mlp.fc1.bias"), strict=True):
        np.testing.assert_array_equal(found[f"vision.{ours}"][0].ravel(), exact[name].ravel())


def test_without_vision_the_file_is_a_text_model_s(tmp_path: Path) -> None:
    """--vision none, and a config without vision_config: same payload, and what was left out is said."""
    values = random_values(SMALL, vision=True)
    source = write_values(tmp_path / "source", SMALL, values, vision=True)
    build(source, tmp_path / "none.l4e", vision="none")
    build(source, tmp_path / "both.l4e")
    write_config(source, SMALL, vision=True, vision_config=None)
    build(source, tmp_path / "text.l4e")
    none, both, text = (EngineFile(str(tmp_path / f"{n}.l4e")) for n in ("none", "both", "text"))
    for file in (none, text):
        skipped = {part["part"]: part["tensors"] for part in json.loads(file.metadata["source"])["skipped"]}
        assert skipped == {"vision_model": 41, "multi_modal_projector": 1}
        assert "vision" not in json.loads(file.metadata["config"])
        assert "vision" not in json.loads(file.metadata["quantization"])
        assert not [name for name in file.names() if name.startswith("vision")]
    assert [name for name in both.names() if not name.startswith("vision.")] == none.names()
    for name in none.names():
        if name != "files/config.json":
            assert none.raw(name).tobytes() == both.raw(name).tobytes() == text.raw(name).tobytes(), name


@pytest.mark.parametrize("group", [32, 128])
def test_vision_int8_is_for_whole_groups(group: int, tmp_path: Path) -> None:
    values = random_values(SMALL, vision=True)
    source = write_values(tmp_path / "source", SMALL, values, vision=True)
    build(source, tmp_path / "out.l4e", weights="bf16", vision="int8", group_size=group)
    described = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["weights"])
    vision = {name: w for name, w in described.items() if name.startswith("vision.")}
    kinds = {name: (w["kind"], w["group_size"]) for name, w in vision.items()}
    assert kinds == {
        name: ("int8", group) if w["shape"][2] % group == 0 else ("bf16", 0) for name, w in vision.items()
    }
    assert kinds["vision.patch_embedding"] == ("bf16", 0)  # 147 inputs
    assert kinds["vision.layers.1.mlp.fc2"] == ("int8", group)  # 128
    assert all(w["kind"] == "bf16" for name, w in described.items() if name not in vision)
    expected, found = expected_vision(values), engine_weights(tmp_path / "out.l4e")
    for name, (matrix,) in expected.items():
        rms = np.sqrt(((found[name][0] - matrix) ** 2).mean() / (matrix**2).mean())
        limit = 0.007 if kinds.get(name, ("", 0))[0] == "int8" else 0
        assert rms <= limit and (rms > 0) == (limit > 0), name


@pytest.mark.parametrize("pad", range(8))
def test_payload_at_any_alignment(pad: int, tmp_path: Path) -> None:
    config = SMALL | {"num_hidden_layers": 1}
    values = random_values(config)
    write_config(tmp_path, config)
    save_safetensors(
        tmp_path / "model.safetensors", {n: stored(v, "F32") for n, v in values.items()}, header_pad=pad
    )
    build(tmp_path, tmp_path / "out.l4e", weights="bf16")
    assert_same_weights(tmp_path / "out.l4e", config, values)


@pytest.mark.parametrize("name", ["scout", "maverick", "odd"])
@pytest.mark.parametrize(
    "options",
    [
        {"weights": "int4", "group_size": 128},
        {"weights": "int4", "group_size": 32, "lm_head": "int4"},
        {"weights": "int8", "group_size": 64, "lm_head": "int8"},
        {"weights": "int4", "group_size": 64, "quantize": "experts"},
        {"weights": "int4", "group_size": 16},
        {"weights": "fp8", "group_size": 64},
    ],
    ids=lambda o: "-".join(map(str, o.values())),
)
def test_quantised_engines_stay_within_the_reported_error(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    config = CONFIGS[name]
    values = random_values(config)
    source = write_values(tmp_path / "source", config, values)
    report = build(source, tmp_path / "out.l4e", **options)
    file = EngineFile(str(tmp_path / "out.l4e"))
    described = json.loads(file.metadata["weights"])
    expected, found = expected_weights(config, values), engine_weights(tmp_path / "out.l4e")
    assert set(found) == set(expected)
    quantised = (
        {"shared", "moe"} if options.get("quantize") == "experts" else {"attn", "mlp", "shared", "moe"}
    )
    for weight, matrices in expected.items():
        ours, theirs = np.stack(found[weight]), np.stack(matrices)
        kind = described[weight]["kind"] if weight in described else "plain"
        parts = set(weight.split("."))
        if parts & {"router", "embed", "norm", "attn_norm", "ffn_norm"} or not (
            parts & quantised or weight == "lm_head"
        ):
            assert kind in ("bf16", "plain"), weight
        elif weight == "lm_head":
            assert kind == options.get("lm_head", "bf16" if options.get("quantize") == "experts" else "int8")
        else:
            assert (kind, described[weight]["group_size"]) == (options["weights"], options["group_size"]), (
                weight
            )
        if kind in ("bf16", "plain"):
            np.testing.assert_array_equal(ours, theirs, err_msg=weight)
            continue
        error = (ours - theirs).astype(np.float64)
        rms = np.sqrt((error**2).sum() / (theirs.astype(np.float64) ** 2).sum())
        assert 0 < rms < {"int4": 0.11, "int8": 0.007, "fp8": 0.03}[kind], weight
        assert described[weight]["rms_error"] == pytest.approx(rms, rel=1e-3)
        assert described[weight]["max_error"] == pytest.approx(np.abs(error).max(), rel=1e-3)
    worst_name, worst_rms, _ = report.worst[0]
    assert described[worst_name]["rms_error"] == max(w["rms_error"] for w in described.values())
    assert worst_rms == pytest.approx(described[worst_name]["rms_error"], rel=1e-4)


def test_group_errors_are_those_of_a_good_scale(tiny: Path, tmp_path: Path) -> None:
    """Smaller groups and more bits lose less; int4 on normal noise loses about 9.5 % with groups of 128."""
    worst = {}
    for weights, group in (("int4", 128), ("int4", 32), ("int8", 128)):
        worst[weights, group] = build(tiny, tmp_path / "x.l4e", weights=weights, group_size=group).worst[0][1]
    assert worst["int8", 128] < 0.01 < worst["int4", 32] < worst["int4", 128] < 0.105


# --- the file


def test_standard_tools_open_the_file(tiny: Path, tmp_path: Path) -> None:
    import safetensors

    (tiny / "LICENSE").write_text("the licence\n")
    (tiny / "USE_POLICY.md").write_text("the policy\n")
    (tiny / "NOTICE").write_text("")
    tiny_checkpoints.write_byte_tokenizer(tiny)
    (tiny / "unrelated.txt").write_text("stays behind")
    try:
        build(tiny, tmp_path / "out.l4e", group_size=64)
    finally:
        for name in ("LICENSE", "USE_POLICY.md", "NOTICE", "tokenizer.model", "unrelated.txt"):
            (tiny / name).unlink()
    ours = EngineFile(str(tmp_path / "out.l4e"))
    with safetensors.safe_open(tmp_path / "out.l4e", framework="numpy") as file:
        assert set(file.keys()) == set(ours.names())
        metadata = file.metadata()
        assert metadata == ours.metadata
        assert bytes(file.get_tensor("files/LICENSE")) == b"the licence\n"
        assert file.get_tensor("layers.0.moe.gate_up").shape == (4, 16, 16, 64)
    assert json.loads(metadata["quantization"]) == {
        "weights": "int4",
        "group_size": 64,
        "quantize": "linear",
        "lm_head": "int8",
    }
    names = ["LICENSE", "NOTICE", "USE_POLICY.md", "config.json", "tokenizer.model"]
    assert json.loads(metadata["files"]) == names
    assert json.loads(metadata["licenses"]) == names[:3]
    source = json.loads(metadata["source"])
    assert source["name"] == "checkpoint"
    assert source["hash"].startswith("sha256:")
    assert ours.verify() == []


def test_same_input_same_bytes(tiny: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "checkpoint"
    shutil.copytree(tiny, again)
    build(tiny, tmp_path / "a.l4e", num_threads=1)
    build(again, tmp_path / "b.l4e", num_threads=3)
    assert sha256(tmp_path / "a.l4e") == sha256(tmp_path / "b.l4e")
    build(tiny, tmp_path / "c.l4e", group_size=64)
    assert sha256(tmp_path / "a.l4e") != sha256(tmp_path / "c.l4e")


def test_the_source_hash_follows_config_and_headers(tiny: Path, tmp_path: Path) -> None:
    from llama4rt.convert.locate import open_checkpoint

    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    assert open_checkpoint(tiny).source_hash() == open_checkpoint(other).source_hash()
    (other / "config.json").write_text((tiny / "config.json").read_text() + "\n")
    assert open_checkpoint(tiny).source_hash() != open_checkpoint(other).source_hash()


def test_an_engine_is_replaced_only_when_the_new_one_is_complete(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.l4e"
    build(tiny, path)
    before = sha256(path)

    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tiny, path, group_size=32, progress=interrupt)
    assert sha256(path) == before
    assert sorted(os.listdir(tmp_path)) == [
        "out.l4e",
        "out.l4e.journal",
        "out.l4e.tmp",
    ]  # for the next to go on
    build(tiny, path, group_size=32)
    assert sha256(path) != before
    assert os.listdir(tmp_path) == ["out.l4e"]


def test_progress_reaches_the_end(tiny: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = build(tiny, tmp_path / "out.l4e", progress=lambda *call: calls.append(call))
    done, total = zip(*calls, strict=True)
    assert list(done) == sorted(done)
    assert (done[0], done[-1]) == (0, total[0])
    assert len(set(total)) == 1
    assert report.bytes == (tmp_path / "out.l4e").stat().st_size
    assert report.path == str(tmp_path / "out.l4e")


def test_a_checkpoint_without_generation_config_or_tokenizer(tiny: Path, tmp_path: Path) -> None:
    build(tiny, tmp_path / "out.l4e")
    metadata = EngineFile(str(tmp_path / "out.l4e")).metadata
    assert json.loads(metadata["files"]) == ["config.json"]
    assert json.loads(metadata["config"])["eos_token_ids"] == [2, 3]


# --- targets


@pytest.mark.parametrize("weights", [format.name for format in _core.weight_formats() if format.from_values])
def test_both_targets_hold_the_same_values(weights: str, tmp_path: Path) -> None:
    """The bytes lie elsewhere; what they mean is the same, bit for bit, and each file says whose it is."""
    config = CONFIGS["odd"]
    source = write_values(tmp_path / "checkpoint", config, random_values(config))
    files = {}
    for target in ("cpu", "cuda"):
        build(source, tmp_path / f"{target}.l4e", target=target, weights=weights, group_size=32)
        files[target] = EngineFile(str(tmp_path / f"{target}.l4e"))
        assert files[target].metadata["target"] == target
        assert files[target].verify() == []
    differ = 0
    for name in files["cpu"].names():
        if name not in json.loads(files["cpu"].metadata["weights"]):
            if not name.startswith("files/"):
                assert np.array_equal(files["cpu"].raw(name), files["cuda"].raw(name)), name
            continue
        weight = files["cuda"].weight(name)
        assert weight["layout"] == "cuda_tile"
        for expert in range(weight["experts"]):
            ours, theirs = (files[t].dequantize(name, expert) for t in ("cpu", "cuda"))
            assert np.array_equal(ours, theirs), name
        differ += not np.array_equal(files["cpu"].raw(name), files["cuda"].raw(name))
    assert differ > 10


def test_a_file_for_the_other_device_is_refused_with_the_command(tiny: Path, tmp_path: Path) -> None:
    from llama4rt import Engine

    build(tiny, tmp_path / "cuda.l4e", target="cuda")
    with pytest.raises(EngineFileError, match="llama4rt build --target cpu SRC"):
        Engine(tmp_path / "cuda.l4e", device="cpu")


# --- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "tpu"}, "target is 'tpu'; it must be one of auto, cpu, cuda"),
        ({"weights": "int3"}, "weights is 'int3'; it must be one of fp8, int4, int8, bf16"),
        ({"weights": "table4"}, "weights is 'table4'; it must be one of"),
        ({"group_size": 48}, "group_size is 48; it must be one of 16, 32, 64, 128"),
        ({"quantize": "all"}, "quantize is 'all'"),
        ({"lm_head": "int2"}, "lm_head is 'int2'"),
        ({"vision": "int4"}, "vision is 'int4'; it must be one of bf16, int8, none"),
        ({"rope_scaling": {"factors": 2.0}}, "unknown factors"),
        ({"num_threads": -1}, "num_threads is -1"),
    ],
)
def test_bad_options_are_typed_errors(
    options: dict[str, Any], words: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        build(tiny, tmp_path / "out.l4e", **options)
    assert os.listdir(tmp_path) == []


def test_unwritable_outputs_are_typed_errors(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        build(tiny, tmp_path)
    with pytest.raises(Llama4RTError, match="No such file or directory"):
        build(tiny, tmp_path / "missing" / "out.l4e")


def test_the_checkpoint_itself_is_never_overwritten(tiny: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.l4e"
    link.symlink_to(tiny / "model.safetensors")
    before = sha256(tiny / "model.safetensors")
    (tiny / "LICENSE").write_text("a licence")
    folder = tiny / "additional_chat_templates"
    folder.mkdir()
    template = folder / "tool_use.jinja"
    template.write_text("x")
    try:
        for path in (tiny / "model.safetensors", tiny / "config.json", tiny / "LICENSE", template, link):
            with pytest.raises(ConfigError, match="is part of the checkpoint"):
                build(tiny, path)
    finally:
        (tiny / "LICENSE").unlink()
        shutil.rmtree(folder)
    assert sha256(tiny / "model.safetensors") == before


# --- interrupted, killed, twice


def test_killed_at_any_moment_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    config = TINY | {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 12}
    models.write_checkpoint(config, tmp_path / "source")
    out = tmp_path / "out.l4e"
    program = "import sys, llama4rt; llama4rt.build(sys.argv[1], sys.argv[2], num_threads=1)"
    command = [sys.executable, "-c", program, str(tmp_path / "source"), str(out)]
    temporary = Path(f"{out}.tmp")
    for delay in (0.0, 0.05, 0.2):
        process = subprocess.Popen(command)
        while not temporary.exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the build was over before it was killed"
        assert not out.exists()
    build(tmp_path / "source", out)  # over the abandoned temporary
    build(tmp_path / "source", tmp_path / "fresh.l4e")
    assert sha256(out) == sha256(tmp_path / "fresh.l4e")
    assert sorted(os.listdir(tmp_path)) == ["fresh.l4e", "out.l4e", "source"]


def test_ctrl_c_stops_a_build_cleanly(tmp_path: Path) -> None:
    config = TINY | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    models.write_checkpoint(config, tmp_path / "source")
    command = [
        sys.executable,
        "-m",
        "llama4rt",
        "build",
        str(tmp_path / "source"),
        "-o",
        str(tmp_path / "o.l4e"),
    ]
    process = subprocess.Popen([*command, "--threads", "1"], stderr=subprocess.PIPE)
    while not (tmp_path / "o.l4e.tmp").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    start = time.perf_counter()
    _, errors = process.communicate(timeout=60)
    assert time.perf_counter() - start < 5
    assert process.returncode == 130, errors
    assert set(os.listdir(tmp_path)) <= {"source", "o.l4e.tmp", "o.l4e.journal"}
    assert b"Traceback" not in errors


def test_a_second_builder_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "out.l4e")
    writer = EngineWriter(path)
    writer.begin()
    with pytest.raises(Llama4RTError, match="another build is writing this file"):
        build(tiny, path)
    writer.abort()
    build(tiny, path)


# --- bad checkpoints


def test_nan_and_inf_are_all_listed(tmp_path: Path) -> None:
    values = random_values(TINY)
    values["model.layers.0.self_attn.k_proj.weight"][3, 5] = np.nan
    values["model.layers.1.feed_forward.experts.gate_up_proj"][2, 7, 130] = np.inf
    values["model.layers.2.input_layernorm.weight"][0] = -np.inf
    values["model.embed_tokens.weight"][330, 127] = np.nan
    source = write_values(tmp_path / "source", TINY, values)
    with pytest.raises(CheckpointError) as error:
        build(source, tmp_path / "out.l4e")
    first, *lines = str(error.value).split("\n  ")
    assert first == "4 tensors cannot be used:"
    embed, k_proj, gate_up, norm = lines
    assert embed.startswith("model.embed_tokens.weight: embed: element [330, 127] is NaN")
    assert k_proj.startswith(
        "model.layers.0.self_attn.k_proj.weight: layers.0.attn.qkv: element [3, 5] is NaN"
    )
    assert gate_up.startswith(
        "model.layers.1.feed_forward.experts.gate_up_proj[2], outputs from 128: layers.1.moe.gate_up, expert 2: "
        "element [2, 7] is Inf"
    )
    assert norm.startswith(
        "model.layers.2.input_layernorm.weight: layers.2.attn_norm: element 0 is NaN or inf"
    )
    assert os.listdir(tmp_path) == ["source"]


def test_bad_numbers_of_a_vision_tower_are_all_listed(tmp_path: Path) -> None:
    values = random_values(SMALL, vision=True)
    values["vision_model.model.layers.1.self_attn.v_proj.bias"][3] = np.nan
    values["vision_model.positional_embedding_vlm"][2, 1] = np.inf
    values["vision_model.vision_adapter.mlp.fc1.weight"][31, 127] = -np.inf
    source = write_values(tmp_path / "source", SMALL, values, vision=True)
    with pytest.raises(CheckpointError) as error:
        build(source, tmp_path / "out.l4e")
    first, positions, biases, adapter = str(error.value).split("\n  ")
    assert first == "3 tensors cannot be used:"
    assert positions == (
        "vision_model.positional_embedding_vlm: vision.positional_embedding: element 65 is NaN or infinite; "
        "weights must be finite"
    )
    assert "v_proj.bias: vision.layers.1.attn.qkv.bias: element 67 is NaN" in biases
    assert adapter.startswith(
        "vision_model.vision_adapter.mlp.fc1.weight: vision.adapter.fc1: element [31, 127] is -Inf"
    )
    assert os.listdir(tmp_path) == ["source"]


def test_missing_extra_and_misshapen_are_one_error(tmp_path: Path) -> None:
    values = random_values(TINY)
    del values["model.norm.weight"]
    values["lm_head.weight"] = values["lm_head.weight"][:-1]
    values["extra"] = np.zeros(3, dtype=np.float32)
    source = write_values(tmp_path / "source", TINY, values)
    with pytest.raises(CheckpointError) as error:
        build(source, tmp_path / "out.l4e")
    for words in (
        "model.norm.weight: is missing",
        "lm_head.weight: is BF16 [330, 128]",
        "extra: is BF16 [3]",
    ):
        assert words in str(error.value)
    assert os.listdir(tmp_path) == ["source"]


def test_a_tied_head_must_be_the_embedding(tmp_path: Path) -> None:
    config = SMALL | {"tie_word_embeddings": True}
    values = random_values(config)
    values["lm_head.weight"] = values["model.embed_tokens.weight"].copy()
    source = write_values(tmp_path / "source", config, values)
    build(source, tmp_path / "out.l4e", weights="bf16")
    assert_same_weights(tmp_path / "out.l4e", config, values)
    values["lm_head.weight"][5, 5] += 1
    write_values(source, config, values)
    with pytest.raises(CheckpointError, match=r"lm_head.weight: differs from the embedding"):
        build(source, tmp_path / "out.l4e")


def index_of(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "model.safetensors.index.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_values(tmp_path / "sharded", SMALL, random_values(SMALL), shards=3)


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors",
        "/etc/passwd.safetensors",
        "sub/x.safetensors",
        "",
        "..",
        "x.bin",
        7,
        None,
        "a\0.safetensors",
    ],
)
def test_index_entries_must_be_plain_names(shard: Any, sharded: Path, tmp_path: Path) -> None:
    index = index_of(sharded)
    index["weight_map"]["model.norm.weight"] = shard
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model.safetensors").write_bytes(b"outside")
    with pytest.raises(CheckpointError, match=r"plain .*file name"):
        build(sharded, tmp_path / "out.l4e")


def test_index_and_shards_must_agree(sharded: Path, tmp_path: Path) -> None:
    index = index_of(sharded)
    good = json.dumps(index)
    path = sharded / "model.safetensors.index.json"
    index["weight_map"]["not.there"] = "model-00001-of-00003.safetensors"
    index["weight_map"]["nowhere"] = "model-00009-of-00003.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as error:
        build(sharded, tmp_path / "out.l4e")
    assert "model-00009-of-00003.safetensors: is missing" in str(error.value)
    assert "not.there: model.safetensors.index.json says it is in model-00001" in str(error.value)
    path.write_text(good)
    shutil.copy(sharded / "model-00001-of-00003.safetensors", sharded / "model-00002-of-00003.safetensors")
    with pytest.raises(CheckpointError, match="is in both"):
        build(sharded, tmp_path / "out.l4e")


def test_truncated_and_corrupt_shards(sharded: Path, tmp_path: Path) -> None:
    shard = sharded / "model-00002-of-00003.safetensors"
    whole = shard.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    cases = [whole[:-1], whole[: 8 + header], whole[:5], b"", whole + b"x", b"\xff" * 64]
    cases.append((1 << 40).to_bytes(8, "little") + whole[8:])
    cases.append(whole.replace(b'"BF16"', b'"BF61"', 1))
    for case in cases:
        shard.write_bytes(case)
        with pytest.raises(CheckpointError, match="model-00002"):
            build(sharded, tmp_path / "out.l4e")
    assert os.listdir(tmp_path) == ["sharded"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"model_type": "llama4_text"}',
        b'{"a": 1e999999}',
    ],
)
def test_bad_config_json(text: bytes, tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny, source)
    (source / "config.json").write_bytes(text)
    with pytest.raises((CheckpointError, ConfigError)):
        build(source, tmp_path / "out.l4e")
    (source / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json: is missing"):
        build(source, tmp_path / "out.l4e")


@pytest.mark.parametrize("text", [b"[]", b'{"weight_map": []}', b'{"weight_map": {}}', b"{}", b"nonsense"])
def test_bad_index(text: bytes, sharded: Path, tmp_path: Path) -> None:
    (sharded / "model.safetensors.index.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        build(sharded, tmp_path / "out.l4e")


def test_directories_without_safetensors(tmp_path: Path) -> None:
    write_config(tmp_path, TINY)
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor"):
        build(tmp_path, tmp_path / "out.l4e")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(
        CheckpointError,
        match=r"pytorch_model.bin cannot be read; of PyTorch.s own files llama4rt reads only Meta",
    ):
        build(tmp_path, tmp_path / "out.l4e")


def test_special_files_are_not_read(tiny: Path, tmp_path: Path) -> None:
    """A pipe in the place of a file would block forever."""
    source = tmp_path / "source"
    shutil.copytree(tiny, source)
    os.mkfifo(source / "tokenizer.model")
    build(source, tmp_path / "out.l4e")
    (source / "config.json").unlink()
    os.mkfifo(source / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        build(source, tmp_path / "out.l4e")


def test_a_tokenizer_that_cannot_be_read_stops_the_build(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny, source)
    (source / "tokenizer.model").write_bytes(b"not ranks")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: line 1"):
        build(source, tmp_path / "out.l4e")
    assert not (tmp_path / "out.l4e").exists()


def test_code_in_a_checkpoint_is_never_run(tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny, source)
    canary = tmp_path / "canary"
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenizer_evil.py", "sitecustomize.py"):
        (source / name).write_text(f"open({str(canary)!r}, 'w')")
    auto_map = {"AutoConfig": "configuration_evil.Config", "AutoModel": "modeling_evil.Model"}
    write_config(source, TINY, auto_map=auto_map, trust_remote_code=True)
    build(source, tmp_path / "out.l4e")
    assert not canary.exists()
    names = json.loads(EngineFile(str(tmp_path / "out.l4e")).metadata["files"])
    assert not [name for name in names if name.endswith(".py")]


# --- memory


def test_write_tensors_helper_round_trips(tmp_path: Path) -> None:
    """The tests' own writer makes files that the safetensors package reads."""
    from safetensors.numpy import load_file

    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    write_tensors(tmp_path, {name: stored(v, "F32") for name, v in values.items()})
    np.testing.assert_array_equal(load_file(tmp_path / "model.safetensors")["a"], values["a"])
