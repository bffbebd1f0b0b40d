"""A request's tokens and probabilities do not depend on anything but the request.

Two hundred random requests are run one at a time, then again all together: arriving at random steps, aborted at random,
preempted for want of blocks, sharing prefixes through the cache, in steps and blocks of several sizes, by one or two
threads, with every instruction set. Bit for bit the same each time, and at the end every block is free.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver import Driver, Output
from tiny_checkpoints import KINDS, Kind, random_ids

Files = Callable[..., Path]
MAX_MODEL_LEN = 192  # tokens; six chunks of the widest kind used here


@dataclass
class Case:
    request: dict[str, Any]
    arrival: int  # step before which it is submitted
    abort_after: int | None  # steps after its arrival
    whole: list[Output]  # what it gives alone


def random_request(rng: random.Random, kind: Kind, shared: list[list[int]]) -> dict[str, Any]:
    length = rng.choice([1, 2, kind.chunk - 1, kind.chunk, kind.chunk + 1, rng.randrange(3, 100)])
    ids = [rng.randrange(8, kind.vocab_size) for _ in range(length)]
    if rng.random() < 0.5:
        ids = (rng.choice(shared)[: rng.randrange(1, 100)] + ids)[:120]
    request: dict[str, Any] = {
        "ids": ids,
        "max_tokens": rng.choice([1, 2, 8, 20, 40]),
        "ignore_eos": rng.random() < 0.5,
        "seed": rng.randrange(2**63),
    }
    if rng.random() < 0.6:
        request["temperature"] = rng.choice([0.3, 1.0, 1.7])
        optional = {
            "top_k": rng.choice([1, 5, 50]),
            "top_p": rng.choice([0.1, 0.9]),
            "min_p": 0.05,
            "repetition_penalty": rng.choice([0.8, 1.3]),
            "presence_penalty": 0.5,
            "frequency_penalty": -0.3,
            "logit_bias": {rng.randrange(kind.vocab_size): rng.choice([-100.0, 3.0]) for _ in range(4)},
            "min_tokens": 1,
            "stop_token_ids": [rng.randrange(kind.vocab_size) for _ in range(20)],
            "n": rng.choice([2, 3]),
        }
        for name in rng.sample(sorted(optional), rng.randrange(4)):
            request[name] = optional[name]
    if rng.random() < 0.4:
        request["logprobs"] = rng.choice([0, 1, 5])
    if rng.random() < 0.1:
        request["prompt_logprobs"] = rng.choice([0, 2])
    if rng.random() < 0.1:
        request["use_prefix_cache"] = False
    return request


def make_cases(path: Path, kind: Kind, seed: int, count: int) -> list[Case]:
    rng = random.Random(seed)
    shared = [[rng.randrange(8, kind.vocab_size) for _ in range(100)] for _ in range(4)]
    cases = []
    with Driver(path, device="cpu", prefix_cache=False, num_threads=1, max_model_len=MAX_MODEL_LEN) as alone:
        for _ in range(count):
            request = random_request(rng, kind, shared)
            abort_after = rng.randrange(40) if rng.random() < 0.15 else None
            cases.append(Case(request, rng.randrange(2 * count), abort_after, alone.run([request])))
    return cases


def check_stream(driver: Driver, cases: list[Case]) -> None:
    """Runs all cases in one engine, each submitted and aborted at its step, and compares with what they gave alone."""
    submitted: dict[int, Case] = {}
    aborts: dict[int, list[int]] = {}
    pending = sorted(cases, key=lambda case: case.arrival)
    step = 0
    while pending or driver.engine.has_work():
        while pending and pending[0].arrival <= step:
            case = pending.pop(0)
            request_id = driver.submit(**case.request)
            submitted[request_id] = case
            if case.abort_after is not None:
                aborts.setdefault(step + case.abort_after, []).append(request_id)
        for request_id in aborts.pop(step, []):
            driver.engine.abort(request_id)
        driver.step()
        step += 1
        assert step < 100_000
    assert len(submitted) == len(cases)
    for request_id, case in submitted.items():
        for out, whole in zip(driver.outputs[request_id].values(), case.whole, strict=True):
            if out.finish_reason == "abort":
                assert case.abort_after is not None
                assert out.tokens == whole.tokens[: len(out.tokens)], case.request
                assert out.logprobs == whole.logprobs[: len(out.logprobs)], case.request
            else:
                assert out.same_as(whole), (case.request, out, whole)


def check_nothing_held(driver: Driver) -> None:
    stats = driver.engine.stats()
    assert stats["running"] == stats["waiting"] == 0
    for group, blocks in stats["blocks"].items():
        assert blocks["used"] == 0, (group, blocks)
        assert blocks["free"] == blocks["total"], (group, blocks)


ENGINES = {
    "int4": {"weights": "int4", "group_size": 32},
    "maverick": {"weights": "bf16"},
    "top2": {"weights": "int8", "group_size": 32},
    "all_rope": {"weights": "bf16"},
    "no_chunk": {"weights": "int4", "group_size": 64},
}

# kv_cache_bytes "tight" is the least that still fits one request of MAX_MODEL_LEN, and a little more.
SETTINGS: list[dict[str, Any]] = [
    {"num_threads": 1, "max_batched_tokens": 64, "kv": "tight"},
    {"num_threads": 2, "max_batched_tokens": 16, "kv": "tight", "prefix_cache": False},
    {"num_threads": 2, "max_batched_tokens": 512, "max_num_seqs": 64},
    {"num_threads": 1, "max_batched_tokens": 37, "max_num_seqs": 3},
]


@pytest.fixture(scope="module")
def cases_of(engine_file: Files) -> Callable[[str], list[Case]]:
    made: dict[str, list[Case]] = {}

    def cases(kind: str) -> list[Case]:
        if kind not in made:
            path = engine_file(kind, **ENGINES[kind])
            made[kind] = make_cases(path, KINDS[kind], seed=11, count=200)
        return made[kind]

    return cases


def tight_budget(path: Path, **options: Any) -> int:
    """Bytes of cache for about one and a half of the longest requests, found from what the engine says it uses."""
    with Driver(
        path, device="cpu", max_model_len=MAX_MODEL_LEN, kv_cache_bytes=64 << 20, **options
    ) as driver:
        stats = driver.engine.stats()
    per_block = {g: b["bytes"] / b["total"] for g, b in stats["blocks"].items() if b["total"]}
    block = options.get("block_size", 16)
    return int(1.6 * sum(per_block.values()) * (MAX_MODEL_LEN // block))


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(f"{k}_{v}" for k, v in s.items()))
@pytest.mark.parametrize("kind", ["int4", "maverick"])
def test_200_requests_at_once(
    kind: str, settings: dict[str, Any], engine_file: Files, cases_of: Callable[[str], list[Case]]
) -> None:
    path = engine_file(kind, **ENGINES[kind])
    options = {"device": "cpu", "max_model_len": MAX_MODEL_LEN, "max_num_seqs": 16} | settings
    tight = options.pop("kv", None) == "tight"
    if tight:
        options["kv_cache_bytes"] = tight_budget(path)
    with Driver(path, **options) as driver:
        check_stream(driver, cases_of(kind))
        if tight:
            assert driver.engine.stats()["preemptions"] > 0, "the budget was meant to be too small"
        check_nothing_held(driver)


@pytest.mark.parametrize("kind", ["top2", "all_rope", "no_chunk"])
def test_other_kinds(kind: str, engine_file: Files, cases_of: Callable[[str], list[Case]]) -> None:
    """Two local and global groups, only local ones, only global ones."""
    path = engine_file(kind, **ENGINES[kind])
    with Driver(
        path,
        max_model_len=MAX_MODEL_LEN,
        kv_cache_bytes=tight_budget(path),
        max_batched_tokens=48,
        max_num_seqs=16,
        num_threads=2,
    ) as driver:
        check_stream(driver, cases_of(kind))
        check_nothing_held(driver)


def test_the_cache_is_used_and_the_second_time_is_the_same(
    engine_file: Files, cases_of: Callable[[str], list[Case]]
) -> None:
    path = engine_file("int4", **ENGINES["int4"])
    with Driver(path, max_model_len=MAX_MODEL_LEN, kv_cache_bytes=64 << 20) as driver:
        check_stream(driver, cases_of("int4")[:60])
        check_stream(driver, cases_of("int4")[:60])
        hits = sum(out.cached_tokens for outputs in driver.outputs.values() for out in outputs.values())
        assert hits > 1000
        check_nothing_held(driver)


@pytest.mark.parametrize("block_size", [16, 32])
def test_block_sizes(block_size: int, engine_file: Files, cases_of: Callable[[str], list[Case]]) -> None:
    with Driver(
        engine_file("int4", **ENGINES["int4"]),
        block_size=block_size,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=8,
    ) as driver:
        check_stream(driver, cases_of("int4")[:80])
        check_nothing_held(driver)


@pytest.mark.parametrize("kind", ["int4", "maverick"])
def test_the_reference_schedules_the_same(kind: str, engine_file: Files) -> None:
    """The definition of the ops also does not depend on its batch."""
    path = engine_file(kind, **ENGINES[kind])
    rng = random.Random(5)
    shared = [random_ids(KINDS[kind], 100)]
    requests = [random_request(rng, KINDS[kind], shared) for _ in range(12)]
    with Driver(path, device="reference", prefix_cache=False, max_model_len=MAX_MODEL_LEN) as alone:
        whole = [alone.run([request]) for request in requests]
    with Driver(path, device="reference", max_model_len=MAX_MODEL_LEN, max_batched_tokens=32) as driver:
        check_stream(
            driver, [Case(r, i // 2, None, w) for i, (r, w) in enumerate(zip(requests, whole, strict=True))]
        )
        check_nothing_held(driver)


def test_seeds_choose_and_n_differ(engine_file: Files) -> None:
    """The same seed repeats, another does not, and the n outputs of a request are different continuations."""
    ids = random_ids(KINDS["maverick"], 20)
    hot = {"ids": ids, "max_tokens": 20, "temperature": 1.5, "ignore_eos": True}
    with Driver(engine_file("maverick")) as driver:
        a, b, c = driver.run([hot | {"seed": 1}, hot | {"seed": 1}, hot | {"seed": 2}])
        assert a.same_as(b)
        assert a.tokens != c.tokens
        many = driver.run([hot | {"seed": 1, "n": 4}])
        assert len({tuple(out.tokens) for out in many}) == 4
        unseeded = driver.run([hot | {"seed": None}, hot | {"seed": None}])
        assert unseeded[0].tokens != unseeded[1].tokens


# --- instruction sets ------------------------------------------------------------------------------------------------

ISA_PROGRAM = """
import hashlib, json, sys
sys.path.insert(0, sys.argv[1])
from driver import Driver
from llama4rt import build_info
digests = {}
for path in sys.argv[3:]:
    with Driver(path, device="cpu", num_threads=2) as driver:
        ids = json.loads(sys.argv[2])
        logits = driver.score(ids)
        out = driver.generate(ids[:30], 40, temperature=0.8, seed=3, logprobs=2)
        digests[path] = [hashlib.sha256(logits.tobytes()).hexdigest(), out.tokens, out.logprobs]
print(json.dumps([build_info()["selected_isa"], digests]))
"""


def cpu_isas() -> list[str]:
    try:
        from llama4rt import build_info
    except ImportError:
        return []
    return list(build_info()["cpu_isas"])


def run_with_isa(isa: str, ids: list[int], paths: list[Path]) -> tuple[str, dict[str, Any]]:
    command = [
        sys.executable,
        "-c",
        ISA_PROGRAM,
        str(Path(__file__).parent),
        json.dumps(ids),
        *map(str, paths),
    ]
    done = subprocess.run(
        command, env=os.environ | {"LLAMA4RT_CPU_ISA": isa}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    selected, digests = json.loads(done.stdout)
    return selected, digests


def test_every_cpu_table_gives_the_same_bits(engine_file: Files) -> None:
    """Scalar to AMX: the same bits of logits and the same sampled tokens, in each kind of weight."""
    paths = [
        engine_file("int4", weights="int4", group_size=32),
        engine_file("int4", weights="int4", group_size=128),
        engine_file("int4", weights="int8", group_size=128, lm_head="int8"),
        engine_file("scout", weights="bf16"),
        engine_file("odd_heads", weights="int4", group_size=32),
        engine_file("one_kv_head", weights="int8", group_size=64),
        engine_file("maverick", weights="bf16"),
        engine_file("scout", weights="fp8", group_size=16),
    ]
    ids = [int(x) for x in np.random.default_rng(0).integers(8, 250, 77)]
    results = {}
    for isa in cpu_isas():
        selected, results[isa] = run_with_isa(isa, ids, paths)
        assert selected == isa
    assert "scalar" in results and len(results) >= 1
    for isa, digests in results.items():
        assert digests == results["scalar"], isa


def test_an_unknown_isa_is_an_error(engine_file: Files) -> None:
    program = "import sys; from llama4rt._core import Engine; Engine(sys.argv[1], device='cpu')"
    done = subprocess.run(
        [sys.executable, "-c", program, str(engine_file("micro"))],
        env=os.environ | {"LLAMA4RT_CPU_ISA": "mmx"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "ConfigError" in done.stderr and "mmx" in done.stderr


def test_the_same_checkpoint_builds_the_same_bytes(checkpoint: Files, tmp_path: Path) -> None:
    from llama4rt import build

    digests = set()
    for name in ("a", "b"):
        build(str(checkpoint("int4")), str(tmp_path / f"{name}.l4e"), weights="int4", group_size=32)
        digests.add(hashlib.sha256((tmp_path / f"{name}.l4e").read_bytes()).hexdigest())
    assert len(digests) == 1
