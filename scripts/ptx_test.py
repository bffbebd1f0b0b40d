#!/usr/bin/env python3
"""Runs the kernels' tests on the PTX that nvcc makes of the kernels: no GPU, and no C++ of the emulator's.

    scripts/ptx_test.py [--target sm_90a,sm_80] [--require] [FILTER...]

Compiles what changed (scripts/ptx_compile.py), builds llama4rt_ptx_tests in build/tests and runs it; fails as well when
a kernel was never launched, when a kernel that waits for the one before never lets the next one start, or the other way
round. Filters are those of the test program; with any, nothing is asked of kernels that were not launched. Without a
compiler it says so and exits with status 0, or 1 with --require.

sm_80 is what every other GPU compiles from: the same tests without the kernels that need Hopper.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cuda_compile import find_nvcc

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/tests"
PROGRAM = BUILD / "tests/cpp/llama4rt_ptx_tests"
ENTRY = re.compile(r"\.entry (\w+)\(")
# Kernels of sm_90a alone, empty or trapping elsewhere. Those of the tests (in an anonymous namespace) and the tests of
# the executor need no second run.
HOPPER_ONLY = re.compile(r"attention_hopper_kernel|linear_prefill_kernel|12_GLOBAL__N_1")
NOT_ON_SM_80 = ["-hopper", "-ptx/"]


def as_the_host_spells(name: str) -> str:
    """nvcc puts a hash and the file's name into anonymous namespaces, g++ does not."""
    while match := re.search(r"(\d+)(?=_GLOBAL__N__)", name):
        end = match.end() + int(match[1])
        name = name[: match.start()] + "12_GLOBAL__N_1" + name[end:]
    return name


def kernels_of(folder: Path) -> dict[str, str]:
    """Name and text of every kernel."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.ptx")):
        text = path.read_text()
        starts = [(m.start(), m[1]) for m in ENTRY.finditer(text)]  # none where another file has them all
        ends = [*(s for s, _ in starts[1:]), len(text)][: len(starts)]
        found |= {
            as_the_host_spells(name): text[start:end] for (start, name), end in zip(starts, ends, strict=True)
        }
    return found


def findings(target: str, kernels: dict[str, str], used: set[str]) -> list[str]:
    wanted = [k for k in kernels if target == "sm_90a" or not HOPPER_ONLY.search(k)]
    found = [f"kernel {name} was never launched" for name in wanted if name not in used]
    for name, text in kernels.items():
        if target == "sm_90a" and "3cuda" in name.split("kernel")[0]:
            waits, lets = "griddepcontrol.wait" in text, "griddepcontrol.launch_dependents" in text
            if not (waits and lets):
                found.append(f"kernel {name}: griddepcontrol.wait {waits}, launch_dependents {lets}")
    return found


def compiled(target: str) -> Path | None:
    """The folder of PTX; None when something does not compile, which has been said."""
    script = ROOT / "scripts/ptx_compile.py"
    done = subprocess.run(
        [sys.executable, script, "--target", target], stdout=subprocess.DEVNULL, check=False
    )
    return ROOT / "build/ptx" / target if done.returncode == 0 else None


def run(target: str, folder: Path, filters: list[str]) -> bool:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        notes = Path(directory) / "used"
        environment = os.environ | {"LLAMA4RT_PTX": str(folder), "LLAMA4RT_PTX_USED": str(notes)}
        chosen = filters if target == "sm_90a" else [*filters, *NOT_ON_SM_80]
        status = subprocess.run([PROGRAM, *chosen], env=environment, check=False).returncode
        used = set(notes.read_text().split()) if notes.exists() else set()
    kernels = kernels_of(folder)
    problems = [] if filters else findings(target, kernels, used)
    for problem in problems:
        print(f"ptx-test: {target}: {problem}")
    print(
        f"ptx-test: {target}: {len(used & kernels.keys())} of {len(kernels)} kernels launched, "
        f"{len(problems)} findings, {time.monotonic() - start:.0f} s",
        flush=True,
    )
    return status == 0 and not problems


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="sm_90a,sm_80", help="which of these (sm_90a,sm_80)")
    parser.add_argument("--require", action="store_true", help="fail when there is no compiler")
    options, filters = parser.parse_known_args()
    if find_nvcc() is None:
        print(
            "ptx-test: no nvcc here (CUDA_HOME, PATH or the nvidia-cuda-nvcc package); NO KERNEL WAS RUN AS PTX"
        )
        return 1 if options.require else 0
    folders = {target: compiled(target) for target in options.target.split(",")}
    built = subprocess.run(["cmake", "--build", BUILD, "--target", PROGRAM.name], check=False)
    if built.returncode != 0:
        return 1
    passed = [folder is not None and run(target, folder, filters) for target, folder in folders.items()]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
