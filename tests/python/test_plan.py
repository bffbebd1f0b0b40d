"""`llama4rt plan`, `doctor` and `bench --load dummy`: memory known before loading, machines described, speed measured
without weights. None of it needs a GPU."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from llama4rt import ConfigError, Engine, Llama4RTError, SamplingParams, _core, build
from llama4rt.cli.bench_cost import ModelCost
from llama4rt.cli.common_options import add_engine_options, open_engine
from llama4rt.cli.doctor import find_problems
from llama4rt.cli.main import main
from llama4rt.convert.named_configs import CONFIGS, model_config
from random_checkpoints import TINY, random_values, write_values

Capsys = pytest.CaptureFixture[str]

GIB = 1 << 30


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_values(tmp_path_factory.mktemp("plan") / "checkpoint", TINY, random_values(TINY))


def planned(capsys: Capsys, *args: str | Path) -> dict[str, Any]:
    assert main(["plan", *map(str, args), "--json"]) == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert plan["bytes"]["total"] == sum(size for part, size in plan["bytes"].items() if part != "total")
    return plan


@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("weights", "quantize"), [("int4", "linear"), ("int8", "experts"), ("bf16", "linear")]
)
def test_a_config_takes_what_its_file_takes(
    target: str, weights: str, quantize: str, checkpoint: Path, tmp_path: Path, capsys: Capsys
) -> None:
    build(checkpoint, tmp_path / "m.l4e", target=target, weights=weights, quantize=quantize)
    options = ["-c", "100", "-n", "3"]
    of_file = planned(capsys, tmp_path / "m.l4e", *options)
    config = ["--config", checkpoint / "config.json", "--device", target]
    assert planned(capsys, *config, *options, "--weights", weights, "--quantize", quantize) == of_file
    names = {name for name, *_ in _core.list_weights(model_config(str(checkpoint / "config.json")))}
    stored = set(json.loads(_core.EngineFile(str(tmp_path / "m.l4e")).metadata["weights"]))
    assert names - {"embed"} == stored


def test_the_engine_takes_what_is_planned(checkpoint: Path, tmp_path: Path) -> None:
    build(checkpoint, tmp_path / "m.l4e")
    options = {"max_model_len": 100, "max_num_seqs": 3, "memory_bytes": GIB}
    plan = _core.plan(_core.EngineFile(str(tmp_path / "m.l4e")), **options)
    engine = _core.Engine(str(tmp_path / "m.l4e"), device="cpu", **options)
    assert engine.plan()["bytes"] == plan["bytes"]
    stats = engine.stats()["bytes"]
    assert stats["weights"] == plan["bytes"]["weights"]
    assert stats["kv_cache"] == plan["bytes"]["kv_global"] + plan["bytes"]["kv_local"]
    assert stats["workspace"] == sum(plan["bytes"][part] for part in ("workspace", "logits", "vision"))
    assert plan["full_sequences"] == 3
    engine.close()


@pytest.mark.parametrize("weights", [format.name for format in _core.weight_formats()])
def test_every_kind_of_weight_is_for_every_device(weights: str) -> None:
    config = model_config("scout")
    sizes = {
        device: _core.plan_config(config, device=device, weights=weights)["bytes"]["weights"]
        for device in ("cpu", "cuda")
    }
    assert 0 < sizes["cpu"] <= sizes["cuda"] < 1.01 * sizes["cpu"]  # but for alignment


@pytest.mark.parametrize("dtype", [format.name for format in _core.kv_formats() if not format.on_gpu])
def test_some_caches_are_for_cpus(dtype: str) -> None:
    config = model_config("scout")
    assert _core.plan_config(config, device="cpu", kv_cache_dtype=dtype)["bytes"]["kv_global"] > 0
    with pytest.raises(ConfigError, match=rf"{dtype}.*for CPUs.*fp8"):
        _core.plan_config(config, device="cuda", kv_cache_dtype=dtype)


def test_the_two_groups_of_layers_may_have_different_caches(
    checkpoint: Path, tmp_path: Path, capsys: Capsys
) -> None:
    config = ["--config", "scout", "-c", "64k", "--kv-cache-dtype", "bf16"]
    plain = planned(capsys, *config)["bytes"]
    both = planned(capsys, *config, "--kv-cache-dtype", "fp8", "--kv-cache-dtype-local", "bf16")["bytes"]
    assert both["kv_global"] == plain["kv_global"] // 2 and both["kv_local"] == plain["kv_local"]
    local = planned(capsys, *config, "--kv-cache-dtype-local", "fp8")["bytes"]
    assert local["kv_global"] == plain["kv_global"] and local["kv_local"] == plain["kv_local"] // 2
    with pytest.raises(ConfigError, match=r"kv_cache_dtype_local .*for CPUs"):
        _core.plan_config(model_config("scout"), device="cuda", kv_cache_dtype_local="int8")

    # Of a running engine, with the options that all commands which open one share.
    build(checkpoint, tmp_path / "m.l4e")
    parser = argparse.ArgumentParser()
    add_engine_options(parser)

    def taken(*options: str) -> int:
        command = [str(tmp_path / "m.l4e"), "--device", "cpu", "--max-model-len", "100", *options]
        with open_engine(parser.parse_args(command), gpu_memory="1GiB", max_num_seqs=1) as engine:
            size: int = engine.stats()["bytes"]["kv_cache"]
        return size

    sizes = {
        (wide, local): taken("--kv-cache-dtype", wide, "--kv-cache-dtype-local", local)
        for wide in ("bf16", "fp8")
        for local in ("bf16", "fp8")
    }
    assert sizes["fp8", "fp8"] < min(sizes["bf16", "fp8"], sizes["fp8", "bf16"])
    assert max(sizes["bf16", "fp8"], sizes["fp8", "bf16"]) < sizes["bf16", "bf16"]
    assert taken("--kv-cache-dtype", "fp8") == sizes["fp8", "fp8"]


def test_a_step_reads_the_cache_of_each_layer_in_its_format() -> None:
    config = model_config("scout")  # 12 layers keep every token, 36 a chunk of 8192
    context, per_number = 2 * 8192 + 100, 2 * 8 * 128
    read = {
        kv: ModelCost.of_config(config, {}, *kv).decode_bytes(1, context)
        for kv in [("bf16",), ("bf16", "fp8"), ("fp8", "bf16"), ("fp8", "fp8")]
    }
    assert read["bf16",] - read["bf16", "fp8"] == 36 * 100 * per_number
    assert read["bf16",] - read["fp8", "bf16"] == 12 * context * per_number
    assert read["bf16",] - read["fp8", "fp8"] == (36 * 100 + 12 * context) * per_number


def test_what_does_not_fit_is_refused_with_what_would(checkpoint: Path, tmp_path: Path) -> None:
    build(checkpoint, tmp_path / "m.l4e")
    path = tmp_path / "m.l4e"
    options = {"max_model_len": 64, "max_num_seqs": 1, "memory_bytes": 1 << 40}
    memory = _core.plan(_core.EngineFile(str(path)), device="cpu", **options)["bytes"]["total"] - 1
    with pytest.raises(ConfigError, match=r"the longest max_model_len that fits is (\d+)") as refused:
        Engine(path, device="cpu", max_model_len=64, max_num_seqs=1, gpu_memory=memory)
    longest = int(str(refused.value).split("fits is ")[1].split(";")[0])
    assert 0 < longest < 64
    with Engine(path, device="cpu", max_model_len=longest, max_num_seqs=1, gpu_memory=memory) as engine:
        assert engine.max_model_len == longest
        assert len(engine.generate([[5] * (longest - 3)], SamplingParams(max_tokens=3, ignore_eos=True))) == 1
    with pytest.raises(ConfigError):
        Engine(path, device="cpu", max_model_len=longest + 1, max_num_seqs=1, gpu_memory=memory)
    with pytest.raises(ConfigError, match=r"^gpu_memory is"):  # beyond what the native engine takes
        Engine(path, device="cpu", gpu_memory=1 << 51)


def test_the_released_models_take_what_is_known_of_them(capsys: Capsys) -> None:
    """Weights: counted from the published shapes. Keys and values: 2 x 8 heads x 128 x 2 bytes a token and layer; 12
    of 48 layers keep every token, the others a chunk of 8192."""
    scout = planned(capsys, "--config", "scout", "-c", "1M", "-n", "2")
    assert scout["bytes"]["weights"] / GIB == pytest.approx(55.3, abs=0.1)
    per_token = 2 * 8 * 128 * 2
    assert scout["bytes"]["kv_global"] == 12 * per_token * (2 * (1 << 20) + 16)
    assert scout["bytes"]["kv_local"] == 36 * per_token * (2 * (8192 + 16) + 16)
    maverick = planned(capsys, "--config", "maverick", "-c", "8k")
    assert maverick["bytes"]["weights"] / GIB == pytest.approx(195.9, abs=0.1)
    bf16 = planned(capsys, "--config", "scout", "-c", "8k", "--weights", "bf16")
    assert bf16["bytes"]["weights"] / GIB == pytest.approx(202.4, abs=0.1)


def test_more_memory_gives_a_longer_context(capsys: Capsys) -> None:
    contexts = [
        planned(capsys, "--config", "scout", "-n", n, "--gpu-memory", f"{size}GiB")["longest_context"]
        for n, size in ((1, 80), (1, 100), (1, 140), (8, 140))
    ]
    assert 0 < contexts[0] < contexts[1] < contexts[2]
    assert contexts[3] < contexts[2]
    assert main(["plan", "--config", "scout", "--gpu-memory", "40GiB"]) == 1
    assert "not even a short context fits" in capsys.readouterr().err


def test_a_plan_is_said_in_words(checkpoint: Path, tmp_path: Path, capsys: Capsys) -> None:
    build(checkpoint, tmp_path / "m.l4e")
    for source in ([str(tmp_path / "m.l4e")], ["--config", "maverick"]):
        assert main(["plan", *source, "-c", "64", "-n", "2", "--gpu-memory", "500GiB"]) == 0
        said = capsys.readouterr().out
        assert "in all, of 500.00 GiB" in said
        assert "context 64 tokens" in said
        assert "sequences of that length at the same time: 2" in said
        assert "longest context for 2 at the same time: " in said


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "M", "12x", "", "9999999999999"])
def test_contexts_are_numbers_of_tokens(text: str, capsys: Capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "--config", "scout", f"--context={text}"])
    assert "argument -c/--context: " in (said := capsys.readouterr().err) and "is no number of tokens" in said


def test_unknown_configs_are_refused(tmp_path: Path, capsys: Capsys) -> None:
    assert main(["plan", "--config", "behemoth"]) == 1
    assert "it must be scout, maverick, tiny or the path" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("[1")
    assert main(["plan", "--config", str(tmp_path / "config.json")]) == 1
    assert "config.json" in capsys.readouterr().err


# --- random weights


@pytest.mark.parametrize("weights", [format.name for format in _core.weight_formats()])
def test_random_weights_generate(weights: str) -> None:
    core = _core.Engine.dummy(
        model_config("tiny"), device="cpu", weights=weights, max_model_len=2048, kv_cache_bytes=64 << 20
    )
    requests = []
    for computed in (0, 1500):
        request = _core.Request()
        request.prompt_token_ids = [*range(7, 7 + computed), 3, 4, 5]
        request.assume_computed = computed
        request.max_tokens = 4
        request.ignore_eos = True
        request.temperature = 0.0
        requests.append(core.submit(request))
    found: dict[int, list[int]] = {request: [] for request in requests}
    while core.has_work():
        for event in core.step():
            assert not event.error
            found[event.request_id] += event.token_ids
    assert [len(tokens) for tokens in found.values()] == [4, 4]
    core.close()


def test_tokens_are_assumed_computed_only_of_random_weights(checkpoint: Path, tmp_path: Path) -> None:
    build(checkpoint, tmp_path / "m.l4e")
    core = _core.Engine(str(tmp_path / "m.l4e"), device="cpu")
    request = _core.Request()
    request.prompt_token_ids = [5, 6, 7]
    request.assume_computed = 2
    with pytest.raises(Llama4RTError, match="assume_computed is 2"):
        core.submit(request)
    core.close()


def test_bench_runs_a_config(capsys: Capsys) -> None:
    options = ["-p", "16", "-n", "4", "-d", "0,600", "-b", "1,8", "-r", "2", "-t", "1", "-o", "json"]
    assert main(["bench", "--config", "tiny", "--load", "dummy", "--device", "cpu", *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["weights"] == "random"
    assert len(report["results"]) == 8
    assert all(len(result["samples"]) == 2 and result["mean"] > 0 for result in report["results"])
    assert report["plan"]["bytes"]["weights"] >= report["engine_bytes"]
    # Experts are counted, and sequences of a batch do not all choose the same.
    config = json.loads(model_config("tiny"))
    one = config["num_experts_per_tok"] / config["num_local_experts"]
    for result in report["results"]:
        if result["kind"] == "prefill":
            assert result["expert_share"] is None
        elif result["batch"] == 1:
            assert result["expert_share"] == pytest.approx(one)
        else:
            assert 1.5 * one < result["expert_share"] <= 1
    assert main(["bench", "--config", "tiny"]) == 1
    assert "goes with --load dummy" in capsys.readouterr().err
    assert main(["bench", "--load", "dummy"]) == 1
    assert "goes with --config" in capsys.readouterr().err


# --- doctor


def test_doctor_says_what_it_found(capsys: Capsys) -> None:
    code = main(["doctor"])
    said = capsys.readouterr().out
    assert _core.build_info()["selected_isa"] in said
    assert "will use" in said
    assert main(["doctor", "--json"]) == code
    facts = json.loads(capsys.readouterr().out)
    assert facts["devices"][0] == "cpu"
    assert facts["available_memory"] > 0
    if not facts["cuda"]["devices"]:
        assert facts["cuda"]["problem"]
        assert main(["doctor", "--require", "cuda"]) == 1
        assert "problem" in capsys.readouterr().out


DEVICE = {"name": "X", "compute_capability": (9, 0), "multiprocessors": 1, "memory": GIB, "problem": ""}


@pytest.mark.parametrize(
    ("cuda", "devices", "require", "problems"),
    [
        ({"built": False, "driver": 0, "problem": "no CUDA kernels", "devices": []}, ["cpu"], "cpu", 0),
        ({"built": False, "driver": 0, "problem": "no CUDA kernels", "devices": []}, ["cpu"], "cuda", 1),
        ({"built": True, "driver": 0, "problem": "no driver", "devices": []}, ["cpu"], "cpu", 0),
        ({"built": True, "driver": 12020, "problem": "too old", "devices": []}, ["cpu"], "cpu", 1),
        ({"built": True, "driver": 13000, "problem": "", "devices": [DEVICE]}, ["cpu", "cuda:0"], "cuda", 0),
        (
            {"built": True, "driver": 13000, "problem": "", "devices": [DEVICE | {"problem": "old"}]},
            ["cpu"],
            "cuda",
            1,
        ),
    ],
)
def test_what_doctor_calls_a_problem(
    cuda: dict[str, Any], devices: list[str], require: str, problems: int
) -> None:
    assert len(find_problems({"cuda": cuda, "devices": devices}, require)) == problems


def test_every_config_is_one_the_engine_reads() -> None:
    for name in CONFIGS:
        assert json.loads(model_config(name))["vocab_size"] > 0
        assert _core.list_weights(model_config(name))


def test_a_gpu_that_is_not_there_is_a_clear_error(checkpoint: Path, tmp_path: Path) -> None:
    if _core.find_cuda()["devices"]:
        pytest.skip("needs a machine without a GPU")
    build(checkpoint, tmp_path / "m.l4e", target="cuda")
    with pytest.raises(ConfigError, match='device "cuda:0": '):
        Engine(tmp_path / "m.l4e")
    with pytest.raises(ConfigError, match="is unknown"):
        Engine(tmp_path / "m.l4e", device="gpu")


def test_a_terminal_shows_each_part_beside_the_whole() -> None:
    from llama4rt.cli.plan import _PARTS, _lines

    sizes = {key: 0 for key, _ in _PARTS} | {"weights": 3 << 30, "logits": 1 << 30, "total": 4 << 30}
    plan = {
        "bytes": sizes, "blocks": {"size": 16, "global": 1, "local": 0}, "max_model_len": 16, "full_sequences": 1,
        "max_num_seqs": 1, "longest_context": 16,
    }  # fmt: skip
    drawn = [line.split("  ")[-2].strip() for line in _lines(plan, 0, bars=True)[:3]]
    assert [bar.count("█") for bar in drawn] == [18, 6, 24] and {len(bar) for bar in drawn} == {24}
    assert [line.count("█") for line in _lines(plan, 8 << 30, bars=True)[:3]] == [9, 3, 12]
    assert not any("█" in line for line in _lines(plan, 0))
