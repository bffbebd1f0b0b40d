#!/usr/bin/env python3
"""Compiles every CUDA kernel to PTX, for the executor of it that runs the kernels' tests without a GPU.

    scripts/ptx_compile.py [--target sm_90a] [--out build/ptx/sm_90a]

One file per .cu of csrc/cuda/kernels and of the tests, with the flags of scripts/cuda_compile.py, which also finds the
compiler. What was compiled once from the same text by the same compiler, here or by that script, is taken from
build/ptx/cache. Prints the folder; exit status 1 when something does not compile, 2 when there is no compiler.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cuda_compile import DEVICE_FLAGS, INCLUDE_FROM, KERNELS, PTX_CACHE, ROOT, find_nvcc, ptx_path


def compile_one(source: Path, target: str, nvcc: Path, extra: list[str], version: str) -> Path | str:
    """The PTX, from the cache where it is there; or the compiler's complaint."""
    arch = target.removeprefix("sm_")
    command = [
        *DEVICE_FLAGS,
        "-ptx",
        *("-gencode", f"arch=compute_{arch},code=compute_{arch}"),
        *(f"-I{root}" for root in INCLUDE_FROM),
    ]
    kept = ptx_path(source, target, version)
    if kept.is_file():
        return kept
    # Whole or not at all: another process may compile the same.
    made = kept.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [str(nvcc), *command, *extra, "-o", str(made), str(source.relative_to(ROOT))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        made.unlink(missing_ok=True)
        return f"{source.relative_to(ROOT)} for {target}:\n{done.stdout}{done.stderr}"
    made.rename(kept)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="sm_90a", help="sm_90a or sm_80")
    parser.add_argument("--out", type=Path, help="folder of the result (build/ptx/TARGET)")
    parser.add_argument("-j", "--jobs", type=int, default=min(os.cpu_count() or 1, 8), help="at a time")
    options = parser.parse_args()

    compiler = find_nvcc()
    if compiler is None:
        print("ptx-compile: no nvcc here (CUDA_HOME, PATH or the nvidia-cuda-nvcc package)", file=sys.stderr)
        return 2
    nvcc, extra = compiler
    version = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=True).stdout
    out: Path = options.out or ROOT / "build/ptx" / options.target
    PTX_CACHE.mkdir(parents=True, exist_ok=True)
    sources = [p for pattern in KERNELS for p in sorted(ROOT.glob(pattern))]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda s: compile_one(s, options.target, nvcc, extra, version), sources))
    complaints = [r for r in results if isinstance(r, str)]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if complaints:
        return 1
    out.mkdir(parents=True, exist_ok=True)
    for stale in out.glob("*.ptx"):
        stale.unlink()
    for source, made in zip(sources, results, strict=True):
        shutil.copyfile(made, out / f"{source.stem}.ptx")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
