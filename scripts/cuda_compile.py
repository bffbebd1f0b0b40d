#!/usr/bin/env python3
"""Compiles every CUDA file with nvcc and judges what ptxas says. Needs no GPU.

For Hopper it makes machine code (sm_90a), for other GPUs PTX (sm_80, sm_89, sm_100), and compiles that too, as a driver
would. With --short (as CI calls it) the PTX for sm_89 and sm_100 is only assembled, without optimising it: what it says
is read, and what it asks for is not counted.
Warnings are errors. A kernel that spills registers (elsewhere than on Hopper: more than 16 bytes), keeps arrays in
local memory or has its wgmma serialised fails.
Prints registers and shared memory of each kernel with --verbose. A file that passed is not compiled again until it, a
header it includes or the compiler changes (build/cuda-compile keeps the reports).

The compiler is $CUDA_HOME/bin/nvcc, nvcc on the PATH, or that of the PyPI packages (nvidia-cuda-nvcc, nvidia-nvvm,
nvidia-cuda-crt, nvidia-cuda-runtime, nvidia-cuda-cccl, all of one minor version) in this environment. Without any
it says so and exits with status 0, or 1 with --require.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ["csrc/cuda/kernels/*.cu", "tests/cpp/cuda/*.cu"]
HOST = ["csrc/cuda/*.cpp"]
PTX_FOR = ["80", "89", "100"]
ONLY_ASSEMBLED = ["89", "100"]  # with --short
DEVICE_FLAGS = [
    "-std=c++20",
    "-O3",
    "-ftz=false",
    "-prec-div=true",
]  # what decides the PTX, with the architecture
INCLUDE_FROM = ["csrc", "tests", "tests/cpp"]
REPORTS = ROOT / "build/cuda-compile"
PTX_CACHE = ROOT / "build/ptx/cache"
PTX_KEPT = ["sm_90a", "sm_80"]  # what scripts/ptx_test.py runs: the same compiler run makes it

# The kernels are made for Hopper. What other GPUs' assemblers save for a few registers more costs nothing to speak of.
HOPPER = "sm_90a"
MOST_SPILLED_ELSEWHERE = 16  # bytes of a thread

# Kernels that may use the stack, with the reason.
STACK_ALLOWED: dict[str, str] = {}

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def find_nvcc() -> tuple[Path, list[str]] | None:
    """The compiler, and where CUDA's headers are when it does not know by itself."""
    if home := os.environ.get("CUDA_HOME"):
        return Path(home) / "bin/nvcc", []
    if found := shutil.which("nvcc"):
        return Path(found), []
    wheel = Path(sysconfig.get_path("purelib")) / "nvidia/cu13"
    if (wheel / "bin/nvcc").exists():
        return wheel / "bin/nvcc", [f"-I{wheel / 'include'}"]
    return None


def judge(log: str) -> tuple[list[str], list[str]]:
    """Findings, and one line about each kernel."""
    findings: list[str] = []
    kernels: list[str] = []
    name = arch = ""
    for line in log.splitlines():
        if match := ENTRY.search(line):
            name, arch = match.groups()
        elif match := STACK.search(line):
            stack, stores, loads = map(int, match.groups())
            most = 0 if arch == HOPPER else MOST_SPILLED_ELSEWHERE
            if max(stores, loads) > most:
                findings.append(f"{name} for {arch}: spills {stores} + {loads} bytes of registers")
            elif stack > most and name not in STACK_ALLOWED:
                findings.append(f"{name} for {arch}: keeps {stack} bytes in local memory")
        elif match := USED.search(line):
            kernels.append(
                f"{int(match[1]):4d} registers {int(match[2] or 0):6d} bytes shared  {arch} {name}"
            )
        elif re.search(r"\b(?:warning|error)\b|wgmma.*serializ", line, re.I):
            findings.append(line.strip())
    return findings, kernels


def with_headers(source: Path, found: set[Path] | None = None) -> set[Path]:
    """A file and all of ours that it includes."""
    found = set() if found is None else found
    if source in found:
        return found
    found.add(source)
    for name in INCLUDE.findall(source.read_text()):
        header = next((path for root in INCLUDE_FROM if (path := ROOT / root / name).is_file()), None)
        if header:
            with_headers(header, found)
    return found


def report_path(source: Path, compiler: str) -> Path:
    """Where the report of exactly this text, compiled by exactly this compiler and script, is kept."""
    key = hashlib.sha256(compiler.encode() + Path(__file__).read_bytes())
    for path in sorted(with_headers(source)):
        key.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return REPORTS / f"{source.name}-{key.hexdigest()[:24]}.log"


def kept_machine_code(report: Path) -> Path:
    """Where the machine code for Hopper lies beside a report (scripts/machine_code_counts.py reads it)."""
    return report.with_suffix(".cubin")


def ptx_path(source: Path, target: str, version: str) -> Path:
    """Where the PTX of exactly this text by this version of nvcc lies, once something compiled it."""
    key = hashlib.sha256("\0".join([version, target, *DEVICE_FLAGS]).encode())
    for path in sorted(with_headers(source)):
        key.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return PTX_CACHE / f"{source.stem}-{key.hexdigest()[:24]}.ptx"


def compile_one(source: Path, nvcc: Path, extra: list[str], out: Path, short: bool) -> tuple[int, str]:
    """Status and log; leaves machine code for Hopper and PTX in the folder of `out`, as NAME.cubin, NAME.TARGET.ptx."""
    command = [
        str(nvcc),
        *DEVICE_FLAGS,
        "-c",
        "-o",
        str(out),
        *(f"-I{root}" for root in INCLUDE_FROM),
        *extra,
    ]
    command += ["-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror"]
    if source.suffix == ".cu":
        steps = out.parent / (source.name + ".steps")
        steps.mkdir()
        command += ["--keep", "--keep-dir", str(steps)]
        command += ["-gencode", "arch=compute_90a,code=sm_90a", "-Xptxas", "-v"]
        for sm in PTX_FOR:
            # ptxas reads that PTX too: nvcc alone would let wrong inline assembly through.
            code = "" if short and sm in ONLY_ASSEMBLED else f",sm_{sm}"
            command += ["-gencode", f"arch=compute_{sm},code=[compute_{sm}{code}]"]
    command.append(str(source.relative_to(ROOT)))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    status, log = done.returncode, done.stdout + done.stderr
    if source.suffix == ".cu" and status == 0:
        for sm in ONLY_ASSEMBLED if short else []:
            read = assembled(nvcc, steps, sm)
            status, log = status or read.returncode, log + read.stdout + read.stderr
        (code,) = steps.glob("*90a.cubin")
        code.replace(out.with_suffix(".cubin"))
        for target in PTX_KEPT:
            (text,) = steps.glob(f"*compute_{target.removeprefix('sm_')}.ptx")
            text.replace(out.with_suffix(f".{target}.ptx"))
        shutil.rmtree(steps)
    return status, log


def assembled(nvcc: Path, steps: Path, sm: str) -> subprocess.CompletedProcess[str]:
    """ptxas on the PTX for one GPU, without optimising it."""
    (text,) = steps.glob(f"*compute_{sm}.ptx")
    command = [
        str(nvcc.parent / "ptxas"),
        "-O0",
        f"-arch=sm_{sm}",
        "-o",
        str(steps / "none.cubin"),
        str(text),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def demangled(lines: list[str]) -> list[str]:
    if not shutil.which("c++filt"):
        return lines
    done = subprocess.run(["c++filt"], input="\n".join(lines), capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--require", action="store_true", help="fail when there is no compiler")
    parser.add_argument("--short", action="store_true", help="some GPUs' PTX is only assembled")
    parser.add_argument("--verbose", action="store_true", help="one line per kernel")
    parser.add_argument("-j", "--jobs", type=int, default=min(os.cpu_count() or 1, 8), help="at a time")
    parser.add_argument("files", nargs="*", help="only these")
    options = parser.parse_args()

    compiler = find_nvcc()
    if compiler is None:
        print("cuda-compile: no nvcc here (CUDA_HOME, PATH or the nvidia-cuda-nvcc package); nothing checked")
        return 1 if options.require else 0
    sources = [p for pattern in KERNELS + HOST for p in sorted(ROOT.glob(pattern))]
    if options.files:
        sources = [ROOT / f for f in options.files]

    failed = reused = 0
    start = time.monotonic()
    version = subprocess.run(
        [str(compiler[0]), "--version"], capture_output=True, text=True, check=True
    ).stdout
    REPORTS.mkdir(parents=True, exist_ok=True)
    PTX_CACHE.mkdir(parents=True, exist_ok=True)

    def checked(source: Path) -> tuple[bool, int, str, Path]:
        kept = report_path(source, version + str(compiler))
        code = kept_machine_code(kept)
        if options.short and not kept.is_file():
            kept = kept.with_suffix(".short.log")  # serves only here
        if kept.is_file():
            return True, 0, kept.read_text(), kept
        out = Path(directory) / (source.name + ".o")
        status, log = compile_one(source, *compiler, out, options.short)
        if source.suffix == ".cu" and status == 0:
            shutil.copyfile(out.with_suffix(".cubin"), code)
            for target in PTX_KEPT:
                shutil.copyfile(out.with_suffix(f".{target}.ptx"), ptx_path(source, target, version))
        return False, status, log, kept

    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(options.jobs) as pool:
        for source, (known, status, log, kept) in zip(sources, pool.map(checked, sources), strict=True):
            findings, kernels = judge(log)
            if status and not findings:
                findings = log.splitlines()
            bad = bool(status or findings)
            failed += bad
            reused += known
            if not bad:
                kept.write_text(log)
            words = f"{'FAIL' if bad else 'ok  '} {source.relative_to(ROOT)}, {len(kernels)} kernels"
            print(words + (" (unchanged)" if known else ""), flush=True)
            for line in demangled(findings) + (demangled(kernels) if options.verbose else []):
                print(f"  {line}")
    print(
        f"cuda-compile: {len(sources)} files, {failed} failed, {reused} unchanged, {time.monotonic() - start:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
