"""A build under faults of the disk, at every system call on files that it makes: it ends with the right file or a typed
error, a killed one leaves no half file, and what comes after it is the same file, bit for bit.

tests/faults/io_faults.c makes the faults, build_faults.py runs the builds. Short: a few dozen calls, of every name at
least one. With LLAMA4RT_SOAK=1: every call, and 1,000 kills.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from random_checkpoints import SMALL, random_values, write_values

HERE = Path(__file__).parent
ERROR, SHORT, KILL_BEFORE, KILL_AFTER, KILL_TORN, ERROR_FROM_NOW_ON = 1, 2, 3, 4, 5, 6
WRITES, TRANSFERS = 2, 4
KILLS = 1000
SHORT_FORM = 10  # cases of one kind

Call = tuple[str, int]


class Bench:
    """A checkpoint with every kind of file, and the program that builds it under faults."""

    def __init__(self, root: Path) -> None:
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        assert compiler, "the C compiler that built the package is not on PATH"
        self.library = root / "io_faults.so"
        command = [
            compiler,
            "-O1",
            "-fPIC",
            "-shared",
            "-o",
            self.library,
            HERE.parent / "faults" / "io_faults.c",
        ]
        subprocess.run([*command, "-ldl"], check=True)
        self.source = write_values(root / "source", SMALL, random_values(SMALL), shards=2)
        tiny_checkpoints.write_byte_tokenizer(self.source)
        for name, content in (("LICENSE", "a licence"), ("generation_config.json", '{"temperature": 0.5}')):
            (self.source / name).write_text(content)
        self.folder = root / "out"
        self.folder.mkdir()
        # calls[old]: with an engine of that name already there, or none
        self.calls: dict[bool, list[Call]] = {}
        for old in (False, True):
            (result,) = self.run([[0, 0, 0, old]])
            assert (result["outcome"], result["left"], result["beside"]) == ("built", "new", [])
            self.calls[old] = [(name, flags) for name, flags in result["calls"]]
            assert {"open", "pwrite", "pread", "fsync", "rename", "posix_fallocate", "flock", "mmap"} <= {
                name for name, _ in self.calls[old]
            }

    def run(self, cases: list[list[Any]]) -> list[dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, HERE / "build_faults.py", self.source, self.folder],
            input=json.dumps(cases),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "LD_PRELOAD": str(self.library), "OPENBLAS_NUM_THREADS": "1"},
        )
        report = json.loads(done.stdout)
        results: list[dict[str, Any]] = report["results"]
        outcomes = Counter((result["outcome"].split(" ")[0], result["left"]) for result in results)
        print(f"{len(cases)} builds in {report['seconds']:.0f} s: {dict(outcomes)}")
        return results


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults"))


def cases_of(bench: Bench, what: int, error: int, flags: int, every: bool) -> list[list[Any]]:
    """One case for each call that has one of the flags (0: each call), in turns with an old file there and without."""
    cases = []
    for old, calls in bench.calls.items():
        wanted = [i for i, (_, have) in enumerate(calls, 1) if not flags or have & flags]
        if not every:
            firsts = {calls[i - 1][0]: i for i in reversed(wanted)}
            wanted = sorted({*firsts.values(), *wanted[:: max(1, len(wanted) // SHORT_FORM)]})
        cases += [[what, i, error, old] for i in wanted if not every or i % 2 == old]
    return cases


@pytest.mark.parametrize(
    ("what", "error", "flags"),
    [
        (ERROR, errno.EIO, 0),
        (ERROR, errno.EINTR, 0),
        (ERROR, errno.ENOSPC, WRITES),
        (ERROR_FROM_NOW_ON, errno.ENOSPC, WRITES),
        (ERROR_FROM_NOW_ON, errno.EDQUOT, WRITES),
        (SHORT, 0, TRANSFERS),
    ],
    ids=["EIO", "EINTR", "ENOSPC once", "ENOSPC for good", "EDQUOT for good", "short"],
)
def test_faults_at_every_call(what: int, error: int, flags: int, bench: Bench, soak: bool) -> None:
    cases = cases_of(bench, what, error, flags, soak)
    assert len(cases) >= SHORT_FORM
    hits = 0
    for case, result in zip(cases, bench.run(cases), strict=True):
        where = (case, result)
        assert result["outcome"] in ("built", "typed error"), where
        assert result["beside"] == [], where
        hits += result["hit"] != ""
        if result["outcome"] == "built":
            assert result["left"] == "new", where
        else:
            assert result["error"], where
            assert result["left"] == ("old" if case[3] else "nothing"), where
            assert (result["after"], result["beside after"]) == ("new", []), where
        if what == SHORT:  # no fault at all: the rest is asked for
            assert result["outcome"] == "built", where
        if what == ERROR_FROM_NOW_ON:
            assert result["outcome"] == "typed error" or result["hit"] in ("", "fsync"), where
    assert hits >= 0.95 * len(cases), f"only {hits} of {len(cases)} faults happened"


def test_killed_at_every_call(bench: Bench, soak: bool) -> None:
    """Evenly spread over the build's calls: before one, after one, and with half of its bytes written."""
    kills = KILLS if soak else 3 * SHORT_FORM
    cases = []
    for i in range(kills):
        old = bool(i // 3 % 2)
        calls = bench.calls[old]
        cases.append([(KILL_BEFORE, KILL_AFTER, KILL_TORN)[i % 3], 1 + i * len(calls) // kills, 0, old])
    lefts = set()
    for case, result in zip(cases, bench.run(cases), strict=True):
        where = (case, result)
        assert result["outcome"] == "signal 9", where
        assert result["left"] in ("new", "old" if case[3] else "nothing"), where
        assert set(result["beside"]) <= {"out.l4e.tmp", "out.l4e.journal"}, where
        assert (result["after"], result["beside after"]) == ("new", []), where
        lefts.add((result["left"], *result["beside"]))
    both = ("out.l4e.journal", "out.l4e.tmp")
    assert {("nothing",), ("nothing", "out.l4e.tmp"), ("nothing", *both), ("old", *both)} <= lefts
