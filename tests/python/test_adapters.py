"""Adapters that requests name: the numbers of transformers with the factors added, the same bits in any company, and
nothing shared between one and another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import AsyncEngine, ConfigError, Engine, RequestError, SamplingParams, _core, build
from llama4rt.engine.adapters import Adapters
from llama4rt.errors import CheckpointError
from loaded_adapters import MODULES, merged, sizes, write_adapter
from tiny_checkpoints import KINDS, oracle_logits, random_ids

Files = Callable[..., Path]
FP32_LIMIT = 1e-4  # as of the model itself: test_parity_text.py
EXACT: dict[str, Any] = {"kv_cache_dtype": "f32", "activations": "int16"}
KIND = KINDS["scout"]
MEMORY = 1 << 24


def config_of(path: Path) -> dict[str, Any]:
    with Engine(path) as engine:
        return dict(engine.config)


@pytest.fixture(scope="module")
def config(engine_file: Files) -> dict[str, Any]:
    return config_of(engine_file("scout"))


@pytest.fixture(scope="module")
def folders(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters of different ranks and modules."""
    root = tmp_path_factory.mktemp("adapters")
    write_adapter(root / "a", config, seed=1, rank=4)
    write_adapter(root / "b", config, seed=2, rank=16, modules=["q_proj", "v_proj"])
    write_adapter(root / "c", config, seed=3, rank=3, modules=["k_proj", "o_proj"], layers=[1, 2])
    return {name: root / name for name in "abc"}


@pytest.fixture
def engine(engine_file: Files, folders: dict[str, Path]) -> Iterator[Engine]:
    with Engine(engine_file("scout"), adapter_memory=MEMORY, num_threads=2, max_num_seqs=8) as opened:
        for name, folder in folders.items():
            opened.load_adapter(name, folder)
        yield opened


def asked(adapter: str | None, **options: Any) -> SamplingParams:
    return SamplingParams(
        **{
            "temperature": 0.0,
            "max_tokens": 12,
            "logprobs": 2,
            "ignore_eos": True,
            "adapter": adapter,
            **options,
        }
    )


def told(output: Any) -> list[Any]:
    return [(one.token_ids, one.logprobs, one.finish_reason) for one in output.outputs]


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "reference"])
@pytest.mark.parametrize(
    "options",
    [
        *({"modules": [module]} for module in MODULES),
        {},
        {"rank": 17, "use_rslora": True},
        {"modules": ["q_proj", "o_proj"], "layers": [0], "lora_alpha": 3},
    ],
    ids=str,
)
def test_has_the_numbers_of_transformers(
    options: dict[str, Any],
    device: Any,
    engine_file: Files,
    oracle: Any,
    config: dict[str, Any],
    tmp_path: Path,
) -> None:
    ids = random_ids(KIND, 40, 3)
    factors = write_adapter(tmp_path / "adapter", config, seed=5, **options)
    expected = oracle_logits(merged(oracle("scout"), factors), ids)
    exact = EXACT if device == "cpu" else {}
    with Engine(engine_file("scout"), device=device, adapter_memory=MEMORY, **exact) as engine:
        plain = engine.score(ids)
        engine.load_adapter("x", tmp_path / "adapter")
        found = engine.score(ids, adapter="x")
        assert np.array_equal(engine.score(ids), plain)
    assert np.abs(found - expected).max() < FP32_LIMIT
    assert np.abs(found - plain).max() > 100 * FP32_LIMIT  # the adapter does something


@pytest.mark.parametrize("kind", ["odd_heads", "one_kv_head", "dense"])
def test_heads_and_widths_of_every_kind(kind: str, engine_file: Files, oracle: Any, tmp_path: Path) -> None:
    ids = random_ids(KINDS[kind], 24, 1)
    factors = write_adapter(tmp_path / "adapter", config_of(engine_file(kind)), seed=6, rank=5)
    expected = oracle_logits(merged(oracle(kind), factors), ids)
    with Engine(engine_file(kind), adapter_memory=MEMORY, **EXACT) as engine:
        engine.load_adapter("x", tmp_path / "adapter")
        assert np.abs(engine.score(ids, adapter="x") - expected).max() < FP32_LIMIT


def test_equals_a_merge_at_build_within_rounding(
    checkpoint: Files, engine: Engine, folders: dict[str, Path], tmp_path: Path
) -> None:
    """A merge rounds each sum to bf16, 2^-9 of it; loaded factors stay apart from the weights."""
    build(checkpoint("scout"), tmp_path / "merged.l4e", weights="bf16", lora=[folders["a"]])
    ids = random_ids(KIND, 40, 4)
    loaded, plain = engine.score(ids, adapter="a"), engine.score(ids)
    with Engine(tmp_path / "merged.l4e") as other:
        apart = np.sqrt(np.mean((other.score(ids) - loaded) ** 2))
    assert apart < 0.05 * np.sqrt(np.mean((plain - loaded) ** 2))


# --- company ---------------------------------------------------------------------------------------------------------


def test_any_mix_gives_the_bits_of_alone(engine: Engine, engine_file: Files) -> None:
    names = [None, "a", "b", "a", "c", None, "b", "c"]
    prompts = [random_ids(KIND, 9 + 7 * i, i) for i in range(len(names))]
    params = [asked(name, temperature=[0.0, 1.0][i % 2], seed=i) for i, name in enumerate(names)]
    together = engine.generate(prompts, params)
    with Engine(engine_file("scout"), num_threads=1) as plain:
        for prompt, own, output in zip(prompts, params, together, strict=True):
            alone = engine.generate([prompt], [own])[0]
            assert told(alone) == told(output)
            if own.adapter is None:
                assert told(plain.generate([prompt], [own])[0]) == told(output)


_PROGRAM = """
import hashlib, sys
from llama4rt import Engine, SamplingParams
digest = hashlib.sha256()
with Engine(sys.argv[1], adapter_memory=1 << 24, num_threads=int(sys.argv[2])) as engine:
    for path in sys.argv[3:]:
        engine.load_adapter(path[-1], path)
    prompts = [list(range(8, 8 + n)) for n in (3, 20, 41, 17)]
    for adapter, prompt in zip(["a", "b", None, "c"], prompts):
        digest.update(engine.score(prompt, adapter=adapter).tobytes())
    params = [SamplingParams(temperature=0, adapter=adapter) for adapter in ("a", "b", None, "c")]
    digest.update(repr([o.outputs[0].token_ids for o in engine.generate(prompts, params)]).encode())
print(digest.hexdigest())
"""


def test_every_table_and_thread_count_gives_the_same_bits(
    engine_file: Files, folders: dict[str, Path]
) -> None:
    answers = set()
    tables = _core.build_info()["cpu_isas"]
    for table, threads in [*((table, 1) for table in tables), (tables[-1], 3)]:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, engine_file("scout", weights="int4", group_size=32), str(threads),
             *folders.values()],
            env=os.environ | {"LLAMA4RT_CPU_ISA": table}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        answers.add(done.stdout.strip())
    assert len(answers) == 1


def test_preempted_requests_go_on_with_their_adapter(
    engine: Engine, engine_file: Files, folders: dict[str, Path]
) -> None:
    names = ["a", "b", None, "c"] * 2
    prompts = [random_ids(KIND, 30, i) for i in range(len(names))]
    params = [asked(name, max_tokens=60) for name in names]
    expected = [told(engine.generate([p], [own])[0]) for p, own in zip(prompts, params, strict=True)]
    plan = engine.native.plan()
    of_block = plan["bytes"]["kv_global"] // plan["blocks"]["global"] + plan["bytes"]["kv_local"] // max(
        plan["blocks"]["local"], 1
    )
    with Engine(
        engine_file("scout"),
        adapter_memory=MEMORY,
        max_model_len=112,
        max_num_seqs=8,
        kv_cache_memory=18 * of_block,
    ) as small:
        for name, folder in folders.items():
            small.load_adapter(name, folder)
        assert [told(output) for output in small.generate(prompts, params)] == expected
        assert small.stats()["preemptions"] > 0


@pytest.mark.parametrize("speculate", ["ngram"])
def test_guesses_change_nothing(
    speculate: str, engine: Engine, engine_file: Files, folders: dict[str, Path]
) -> None:
    prompt = random_ids(KIND, 10, 1) * 3
    with Engine(engine_file("scout"), adapter_memory=MEMORY, speculate=speculate) as other:
        other.load_adapter("a", folders["a"])
        for adapter in ("a", None):
            own = asked(adapter, max_tokens=40)
            assert told(other.generate([prompt], own)[0]) == told(engine.generate([prompt], own)[0])


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_the_prefix_cache_keeps_adapters_apart(engine: Engine, folders: dict[str, Path]) -> None:
    prompt = random_ids(KIND, 70, 8)
    engine.load_adapter("a again", folders["a"])
    first = {name: engine.generate([prompt], asked(name))[0] for name in (None, "a", "b")}
    assert [output.num_cached_tokens for output in first.values()] == [0, 0, 0]
    for name, output in first.items():
        again = engine.generate([prompt], asked(name))[0]
        assert told(again) == told(output) and again.num_cached_tokens >= 64
    same = engine.generate([prompt], asked("a again"))[0]
    assert told(same) == told(first["a"]) and same.num_cached_tokens >= 64  # the content counts, not the name


def test_the_store_on_disk_keeps_adapters_apart(
    engine_file: Files, folders: dict[str, Path], tmp_path: Path
) -> None:
    prompt = random_ids(KIND, 70, 9)
    names = (None, "a", "b")
    outputs: list[list[Any]] = []
    found: list[list[int]] = []
    for _ in range(2):
        with Engine(engine_file("scout"), adapter_memory=MEMORY, kv_store=tmp_path / "store") as engine:
            for name in ("a", "b"):
                engine.load_adapter(name, folders[name])
            given = [engine.generate([prompt], asked(name))[0] for name in names]
            engine.native.flush_store()
        outputs.append([told(output) for output in given])
        found.append([output.num_cached_tokens for output in given])
    assert outputs[0] == outputs[1]
    assert found[0] == [0, 0, 0] and min(found[1]) >= 64


# --- loading ---------------------------------------------------------------------------------------------------------


def test_unloading_waits_for_requests(engine: Engine) -> None:
    prompt = random_ids(KIND, 20, 2)
    expected = engine.generate([prompt], asked("a", max_tokens=40))[0].outputs[0].token_ids
    stream = engine.stream(prompt, asked("a", max_tokens=40))
    ids = list(next(stream).token_ids)
    assert engine.adapters["a"].num_requests > 0
    engine.unload_adapter("a")
    assert "a" not in engine.adapters
    with pytest.raises(RequestError, match="adapter is 'a'; loaded are: 'b', 'c'"):
        engine.generate([prompt], asked("a"))
    for delta in stream:
        ids += delta.token_ids
    assert ids == list(expected)
    with pytest.raises(ConfigError, match="loaded are"):
        engine.unload_adapter("a")


def test_idle_adapters_leave_memory_and_come_back(
    engine_file: Files, config: dict[str, Any], tmp_path: Path
) -> None:
    count = 12
    for i in range(count):
        write_adapter(tmp_path / str(i), config, seed=i)
    prompt = random_ids(KIND, 20, 2)
    with Engine(engine_file("scout"), adapter_memory=MEMORY) as engine:
        engine.load_adapter("one", tmp_path / "0")
        size = engine.adapters["one"].num_bytes
    with Engine(engine_file("scout"), adapter_memory=3 * size) as engine:
        assert engine.native.plan()["bytes"]["adapters"] == 3 * size
        for i in range(count):
            engine.load_adapter(str(i), tmp_path / str(i))
        resident = [name for name, info in engine.adapters.items() if info.resident]
        assert resident == ["9", "10", "11"]
        outputs = [told(engine.generate([prompt], asked(str(i)))[0]) for i in range(count)]
        assert [told(engine.generate([prompt], asked(str(i)))[0]) for i in range(count)] == outputs
        assert len({str(output) for output in outputs}) == count
        streams = [engine.stream(prompt, asked(str(i), max_tokens=100)) for i in range(3)]
        for stream in streams:
            next(stream)
        with pytest.raises(RequestError, match="running requests use"):
            engine.generate([prompt], asked("7"))
        for stream in streams:
            stream.close()  # type: ignore[attr-defined]
        (tmp_path / "8" / "adapter_model.safetensors").write_bytes(
            (tmp_path / "9" / "adapter_model.safetensors").read_bytes()
        )
        with pytest.raises(RequestError, match="other factors than when it was loaded"):
            engine.generate([prompt], asked("8"))
    with (
        Engine(engine_file("scout"), adapter_memory=size - 1) as engine,
        pytest.raises(ConfigError, match="open the engine with more"),
    ):
        engine.load_adapter("one", tmp_path / "0")


def test_of_async_engine(engine: Engine) -> None:
    import asyncio

    prompt = random_ids(KIND, 20, 2)

    async def run() -> Any:
        asynchronous = AsyncEngine(engine)
        assert set(asynchronous.adapters) == {"a", "b", "c"}
        return (await asynchronous.generate(prompt, asked("b")))[0]

    assert told(asyncio.run(run())) == told(engine.generate([prompt], asked("b"))[0])


# --- refusals --------------------------------------------------------------------------------------------------------


def test_hostile_directories(engine: Engine, config: dict[str, Any], tmp_path: Path) -> None:
    from random_checkpoints import save_safetensors, stored

    def adapter(name: str, path: str, out: int, into: int, value: float = 0.5, **settings: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        written = {"peft_type": "LORA", "r": 2, "lora_alpha": 2} | settings
        (folder / "adapter_config.json").write_text(json.dumps(written))
        tensors = {
            f"base_model.model.{path}.lora_A.weight": stored(np.full((2, into), value, np.float32), "F32"),
            f"base_model.model.{path}.lora_B.weight": stored(np.full((out, 2), 0.5, np.float32), "F32"),
        }
        save_safetensors(folder / "adapter_model.safetensors", tensors)
        return folder

    q, hidden = sizes(config)["q_proj"]
    (tmp_path / "empty").mkdir()
    at = "model.layers.0.self_attn.q_proj"
    shared = "model.layers.0.feed_forward.shared_expert"
    width = config["intermediate_size"]
    refused: list[tuple[Path, str]] = [
        (tmp_path / "nowhere", "no adapter_config.json"),
        (tmp_path / "empty", "no adapter_config.json"),
        (adapter("wide", at, q + 1, hidden), "changes a matrix"),
        (adapter("nan", at, q, hidden, float("nan")), "NaN or infinity"),
        (adapter("dora", at, q, hidden, use_dora=True), "lora_magnitude_vector is missing"),
        (adapter("ia3", at, q, hidden, peft_type="IA3"), "peft_type"),
        (adapter("far", "model.layers.99.self_attn.q_proj", q, hidden), "no model.layers.99"),
        (adapter("up", f"{shared}.up_proj", width, hidden), "build --lora"),
        (adapter("head", "lm_head", config["vocab_size"], hidden), "lm_head.weight: is not q_proj"),
    ]
    for folder, words in refused:
        with pytest.raises((CheckpointError, ConfigError), match=words):
            engine.load_adapter("bad", folder)
    (tmp_path / "wide" / "adapter_model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError):
        engine.load_adapter("bad", tmp_path / "wide")
    assert set(engine.adapters) == {"a", "b", "c"}
    for name in ("", "x" * 201, "a\nb", 7):
        with pytest.raises(ConfigError, match="an adapter's name is"):
            engine.load_adapter(name, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unload it first"):
        engine.load_adapter("a", tmp_path)
    with pytest.raises(RequestError, match="adapter is 7"):
        SamplingParams(adapter=7)  # type: ignore[arg-type]


def test_needs_room_and_a_cpu(engine_file: Files, folders: dict[str, Path], config: dict[str, Any]) -> None:
    with Engine(engine_file("scout")) as engine, pytest.raises(ConfigError, match="adapter_memory"):
        engine.load_adapter("a", folders["a"])
    with pytest.raises(ConfigError, match="cuda has no kernels for adapters"):
        _core.plan_config(json.dumps(config), device="cuda", adapter_bytes=MEMORY)
    with pytest.raises(ConfigError, match="cuda:0 has no kernels for adapters"):
        Adapters(config, "cuda:0", MEMORY).load("a", folders["a"])


def test_factors_are_checked_again_where_they_are_packed(config: dict[str, Any]) -> None:
    text = json.dumps(config)
    out, into = sizes(config)["k_proj"]
    a, b = np.zeros((2, into), np.float32), np.zeros((out, 2), np.float32)
    for changes, words in [
        ([], "without factors"),
        ([(0, "x", a, b, 1.0)], "no matrix of attention"),
        ([(99, "k", a, b, 1.0)], "no matrix of attention"),
        ([(0, "q", a, b, 1.0)], "the model's matrix is"),
        ([(0, "k", a, b, 1.0)] * 2, "changed twice"),
        ([(0, "k", a, b.astype(np.float64), 1.0)], "float32"),
    ]:
        with pytest.raises(ConfigError, match=words):
            _core.Adapter(text, changes)
    with pytest.raises(CheckpointError, match=r"NaN|infinity|finite"):
        _core.Adapter(text, [(0, "k", a + np.float32("nan"), b, 1.0)])
    assert _core.Adapter(text, [(0, "k", a, b, 1.0)]).num_users == 0
