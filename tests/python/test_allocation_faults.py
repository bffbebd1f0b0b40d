"""The Nth allocation, mapping or thread start fails: a typed error or an end with a message, never a hang.

In a build, while an engine opens, in the steps of requests, and in a server. The short form takes a sample of the Ns,
`make soak` each one up to 10,000. allocation_fault_worker.py has the scenarios, allocation_faults.c is what fails;
docs/testing.md has the figures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

Files = Callable[..., Path]
HERE = Path(__file__).parent
MOST = 10_000


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler: apt install gcc, or CC=its name")
    library = tmp_path_factory.mktemp("shim") / "allocation_faults.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", library, HERE / "allocation_faults.c", "-ldl"]
    subprocess.run(command, check=True)
    return library


def campaign(
    shim: Path, scenario: str, kind: str, count: int, file: Path, scratch: Path, numbers: Iterable[int]
) -> dict[str, Any]:
    """`count` calls fail from the Nth on, for each N of `numbers`. Python's objects, too, come from malloc."""
    worker = HERE / "allocation_fault_worker.py"
    command = [sys.executable, worker, scenario, kind, str(count), file, scratch, *map(str, numbers)]
    environment = os.environ | {"LD_PRELOAD": str(shim), "PYTHONMALLOC": "malloc"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    print(scenario, kind, count, result)
    assert result["without"] == "done" and not result["wrong"], result
    return result


@pytest.fixture
def run(shim: Path, engine_file: Files, checkpoint: Files, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(scenario: str, kind: str, count: int, numbers: Iterable[int]) -> dict[str, Any]:
        opened = engine_file("micro", weights="int4", group_size=32)
        file = checkpoint("micro") if scenario == "build" else opened
        return campaign(shim, scenario, kind, count, file, tmp_path, numbers)

    return run


@pytest.mark.parametrize("kind", ["mmap", "thread"])
@pytest.mark.parametrize("scenario", ["build", "open", "step"])
def test_mappings_and_threads(run: Callable[..., dict[str, Any]], scenario: str, kind: str) -> None:
    """There are few, so every one fails once."""
    result = run(scenario, kind, 1, range(1, 12))
    assert 11 > result["calls"] == sum(result["ends"].values()) - result["ends"].get("done", 0)


@pytest.mark.parametrize(("scenario", "count"), [("build", 1), ("open", 1), ("step", 1), ("step", 20)])
def test_allocations(run: Callable[..., dict[str, Any]], scenario: str, count: int) -> None:
    numbers = [*range(1, 10), *range(10, 3000, 97 if scenario != "build" else 297)]
    result = run(scenario, "malloc", count, numbers)
    assert result["calls"] > 1000 and result["ends"]["MemoryError"] > 5


def test_a_server(run: Callable[..., dict[str, Any]]) -> None:
    """From the command line to SIGTERM, with a request in between; a case takes a second or two."""
    result = run("serve", "thread", 1, range(1, 7))
    assert 0 < result["calls"] < 20
    run("serve", "malloc", 1, range(50, 200_000, 40_001))


@pytest.mark.soak
def test_a_server_at_length(run: Callable[..., dict[str, Any]]) -> None:
    run("serve", "malloc", 1, range(1, 250_000, 997))


@pytest.mark.soak
@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("scenario", ["build", "open", "step"])
def test_every_allocation(run: Callable[..., dict[str, Any]], scenario: str, count: int) -> None:
    result = run(scenario, "malloc", count, range(1, MOST + 1))
    assert sum(result["ends"].values()) > 1000
