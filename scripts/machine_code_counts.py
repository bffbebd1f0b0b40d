#!/usr/bin/env python3
"""Counts what the kernels' machine code for Hopper does, and keeps the counts from rising unnoticed.

  machine_code_counts.py                 compiles csrc/cuda/kernels/*.cu (sm_90a) and compares with the counts kept in
                                         python/llama4rt/gpu_model/machine_code.json; status 1 where one differs
  machine_code_counts.py --write         writes them there
  machine_code_counts.py FILE.cu ...     only those files

Needs nvcc (as cuda_compile.py finds it, whose machine code is used where it is there) and nvdisasm ($NVDISASM, the
PATH, or the package nvidia-cuda-nvdisasm); without them it says so and exits with status 0, or 1 with --require. No GPU
is needed. `llama4rt bench --model-gpu` predicts speeds from these counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cuda_compile
from machine_code import (
    WORK,
    Block,
    Instruction,
    Kernel,
    count,
    instructions_of,
    loops,
    one_round,
    products,
    read_kernels,
)

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "python/llama4rt/gpu_model/machine_code.json"


@dataclass(frozen=True)
class Recipe:
    """How the loop that does a kernel's work is found, where the usual rule does not find it."""

    products: str = ""  # the loop with most of these tensor instructions ("": of any)
    without: frozenset[str] = frozenset()  # blocks with these operations belong to another case
    # The sums of a weight group are scaled once in so many columns: in some rounds only.
    scaled_columns: int = 0  # columns of a round


RECIPES = {
    # The last tile of keys goes through mma.sync in the same loop.
    "attention_hopper_kernel": Recipe(products="HGMMA", without=frozenset({"HMMA"})),
    "linear_prefill_kernel": Recipe(scaled_columns=64),
    "linear_medium_kernel": Recipe(scaled_columns=64),
}


def find_nvdisasm() -> Path | None:
    if named := os.environ.get("NVDISASM"):
        return Path(named)
    if found := shutil.which("nvdisasm"):
        return Path(found)
    wheel = Path(sysconfig.get_path("purelib")) / "nvidia/cu13/bin/nvdisasm"
    return wheel if wheel.exists() else None


def main_loop(kernel: Kernel, recipe: Recipe, name: str) -> dict[str, float]:
    """Instructions of one round of the loop that does the kernel's work, by pipe; a mean where rounds differ."""
    blocks = kernel.blocks()
    found: list[tuple[tuple[int, int], list[Instruction]]] = []
    for loop in loops(blocks):
        way = one_round(blocks, loop, without=recipe.without)
        found.append((loop, instructions_of(blocks, way)))
    if not found:
        return {}
    most = max(products(round_, recipe.products) for _, round_ in found)
    if most == 0:
        loop, round_ = max(found, key=lambda pair: len(pair[1]))
    else:
        loop, round_ = next(pair for pair in found if products(pair[1], recipe.products) == most)
    usual = count(round_)
    group = re.search(r"Weights<(\d+)", name)
    if recipe.scaled_columns and group and int(group[1]) > recipe.scaled_columns:
        return _mean(usual, _scaled(blocks, loop), recipe.scaled_columns / int(group[1]))
    return dict(usual)


def _scaled(blocks: list[Block], loop: tuple[int, int]) -> dict[str, int]:
    """Of the round at whose end a group is scaled, and the next one's scales are asked for."""
    way = one_round(blocks, loop, work=WORK | {"FFMA", "LDG"})
    return count(instructions_of(blocks, way))


def _mean(a: dict[str, int], b: dict[str, int], share_of_b: float) -> dict[str, float]:
    names = sorted({*a, *b})
    return {n: a.get(n, 0) * (1 - share_of_b) + b.get(n, 0) * share_of_b for n in names}


def short_name(demangled: str) -> str:
    """ "void llama4rt::cuda::f<A<1, true> >(B)" -> "f<A<1,true>>"."""
    name = demangled.replace("llama4rt::cuda::", "").replace("(anonymous namespace)::", "")
    name = re.sub(r"\(.*$", "", name.removeprefix("void "))
    return name.replace(", ", ",").replace(" >", ">")


def demangled(names: list[str]) -> list[str]:
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def machine_code(source: Path, nvcc: tuple[Path, list[str]], version: str, directory: Path) -> Path:
    """A file with the machine code: what cuda_compile.py left of exactly this text, or compiled here."""
    kept = cuda_compile.kept_machine_code(cuda_compile.report_path(source, version + str(nvcc[0])))
    if kept.is_file():
        return kept
    cubin = directory / (source.name + ".cubin")
    includes = [f"-I{root}" for root in cuda_compile.INCLUDE_FROM] + nvcc[1]
    command = [str(nvcc[0]), "-std=c++20", "-O3", "-cubin", "-arch=sm_90a", "-ftz=false", "-prec-div=true"]
    subprocess.run(
        [*command, *includes, "-o", str(cubin), str(source.relative_to(ROOT))], cwd=ROOT, check=True
    )
    return cubin


def counts_of(cubin: Path, nvdisasm: Path) -> dict[str, Any]:
    """Kernel -> what is kept of it."""
    text = subprocess.run(
        [str(nvdisasm), "-c", str(cubin)], capture_output=True, text=True, check=True
    ).stdout
    kernels = read_kernels(text)
    found = {}
    for kernel, name in zip(kernels, demangled([k.name for k in kernels]), strict=True):
        name = short_name(name)
        recipe = RECIPES.get(name.split("<")[0], Recipe())
        found[name] = {
            "instructions": len(kernel.instructions),
            "loop": {key: round(value, 2) for key, value in main_loop(kernel, recipe, name).items()},
        }
    return found


def differences(kept: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One line for each kernel whose main loop has another count, or that is new or gone."""
    lines = [f"{name}: not in the kept counts" for name in sorted(now.keys() - kept.keys())]
    lines += [f"{name}: kept, but there is no such kernel" for name in sorted(kept.keys() - now.keys())]
    for name in sorted(kept.keys() & now.keys()):
        before, after = kept[name]["loop"], now[name]["loop"]
        changed = [k for k in sorted({*before, *after}) if before.get(k, 0) != after.get(k, 0)]
        if changed:
            words = ", ".join(f"{k} {before.get(k, 0):g} -> {after.get(k, 0):g}" for k in changed)
            lines.append(f"{name}: {words}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep what is counted now")
    parser.add_argument(
        "--require", action="store_true", help="fail where there is no compiler or disassembler"
    )
    parser.add_argument("-j", "--jobs", type=int, default=min(os.cpu_count() or 1, 8), help="at a time")
    parser.add_argument("files", nargs="*", help="only these")
    options = parser.parse_args()

    nvcc, nvdisasm = cuda_compile.find_nvcc(), find_nvdisasm()
    if nvcc is None or nvdisasm is None:
        missing = "nvcc" if nvcc is None else "nvdisasm (package nvidia-cuda-nvdisasm)"
        print(f"machine-code-counts: no {missing} here; nothing counted")
        return 1 if options.require else 0
    sources = [ROOT / f for f in options.files] or sorted((ROOT / "csrc/cuda/kernels").glob("*.cu"))
    version = subprocess.run([str(nvcc[0]), "--version"], capture_output=True, text=True, check=True).stdout
    now: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(options.jobs) as pool:

        def counted(source: Path) -> dict[str, Any]:
            return counts_of(machine_code(source, nvcc, version, Path(directory)), nvdisasm)

        for found in pool.map(counted, sources):
            now.update(found)
    release = re.search(r"V([\d.]+)", version)
    assert release, version
    kept: dict[str, Any] = {"compiler": "", "kernels": {}}
    if KEPT.exists():
        kept = json.loads(KEPT.read_text())
    if options.write:
        kernels = {**(kept["kernels"] if options.files else {}), **now}
        text = json.dumps(
            {"compiler": f"nvcc {release[1]}", "kernels": dict(sorted(kernels.items()))}, indent=1
        )
        KEPT.write_text(text + "\n")
        print(f"machine-code-counts: {len(now)} kernels written")
        return 0
    if kept["compiler"] != f"nvcc {release[1]}":
        print(f"machine-code-counts: kept of {kept['compiler']}, this is nvcc {release[1]}; not compared")
        return 1 if options.require else 0
    of_files = {n: k for n, k in kept["kernels"].items() if n in now} if options.files else kept["kernels"]
    lines = differences(of_files, now)
    for line in lines:
        print(f"  {line}")
    print(f"machine-code-counts: {len(now)} kernels, {len(lines)} differ")
    if lines:
        print("Where that is meant: scripts/machine_code_counts.py --write, and a word in the commit.")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
