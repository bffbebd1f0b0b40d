"""Long runs: memory over many requests and engines, every truncation, 100,000 mutations, more random streams.

`make soak` runs what is marked so; a short form of each runs in `make test`, here or in test_hostile.py and
test_determinism.py.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from driver import Driver
from test_determinism import SETTINGS, check_nothing_held, check_stream, make_cases, tight_budget
from test_hostile import run_worker
from tiny_checkpoints import KINDS, random_ids

Files = Callable[..., Path]
MIB = 1 << 20


def rss() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def churn(driver: Driver, count: int, seed: int) -> None:
    """`count` short requests, some aborted, sixteen in flight at a time."""
    rng = random.Random(seed)
    kind = KINDS["micro"]
    for _ in range(0, count, 16):
        ids = [
            driver.submit(
                random_ids(kind, rng.randrange(1, 50), rng.randrange(2**32)),
                max_tokens=rng.randrange(1, 8),
                temperature=rng.choice([0.0, 1.0]),
                seed=rng.randrange(1000),
                logprobs=rng.choice([-1, 2]),
                prompt_logprobs=rng.choice([-1, -1, 1]),
                n=rng.choice([1, 1, 2]),
            )
            for _ in range(16)
        ]
        driver.step()
        driver.engine.abort(rng.choice(ids))
        driver.drain()
        driver.outputs.clear()


def check_requests(path: Path, count: int) -> None:
    """Resident memory grows by less than 4 MiB over `count` requests, after a warm-up."""
    with Driver(path, max_model_len=64, kv_cache_bytes=4 * MIB) as driver:
        churn(driver, max(800, count // 5), seed=0)
        before = rss()
        churn(driver, count, seed=1)
        growth = rss() - before
        check_nothing_held(driver)
    assert growth < 4 * MIB, f"grew by {growth} bytes over {count} requests"


def check_engines(path: Path, count: int) -> None:
    """Opening, using and closing engines gives back memory, threads, descriptors and mappings."""
    process = psutil.Process()

    def use() -> None:
        with Driver(path, max_model_len=64, kv_cache_bytes=4 * MIB, num_threads=2) as driver:
            driver.generate([1, 2, 3], 3)

    for _ in range(10):
        use()
    before, threads, files = rss(), process.num_threads(), process.num_fds()
    for _ in range(count):
        use()
    deadline = time.monotonic() + 10  # the kernel counts a joined thread for a moment longer
    while process.num_threads() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.num_threads() == threads
    assert process.num_fds() == files
    growth = rss() - before
    assert growth < 4 * MIB, f"grew by {growth} bytes over {count} engines"


def test_no_growth_over_many_requests(engine_file: Files) -> None:
    check_requests(engine_file("micro"), 1600)


def test_no_growth_over_many_engines(engine_file: Files) -> None:
    check_engines(engine_file("micro"), 50)


@pytest.mark.soak
def test_no_growth_over_10_000_requests(engine_file: Files) -> None:
    check_requests(engine_file("micro"), 10_000)


@pytest.mark.soak
def test_no_growth_over_500_engines(engine_file: Files) -> None:
    check_engines(engine_file("micro"), 500)


@pytest.mark.soak
def test_every_truncation(engine_file: Files, tmp_path: Path) -> None:
    path = tmp_path / "victim.l4e"
    path.write_bytes(engine_file("micro", weights="int4", group_size=32).read_bytes())
    assert set(run_worker(path, "truncate", 1)) == {"EngineFileError"}


@pytest.mark.soak
def test_100_000_mutations(engine_file: Files, tmp_path: Path) -> None:
    path = tmp_path / "victim.l4e"
    path.write_bytes(engine_file("micro", weights="int4", group_size=32).read_bytes())
    ends = run_worker(path, "mutate", 1_000_000, 100_000)
    assert set(ends) == {"opened", "EngineFileError", "ConfigError"}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["scout", "odd_heads", "mixed_layers", "dense_chunked", "chunk64"])
def test_determinism_of_more_kinds(kind: str, seed: int, engine_file: Files) -> None:
    path = engine_file(kind, weights="int4", group_size=32)
    cases = make_cases(path, KINDS[kind], seed, 400)
    for settings in SETTINGS:
        options = {"device": "cpu", "max_model_len": 192, "max_num_seqs": 16} | settings
        if options.pop("kv", None) == "tight":
            options["kv_cache_bytes"] = tight_budget(path)
        with Driver(path, **options) as driver:
            check_stream(driver, cases)
            check_nothing_held(driver)
