#!/usr/bin/env python3
"""Holds CUDA code to the rules that let it run without a GPU (docs/testing-without-a-gpu.md).

Outside of csrc/cuda/ptx/ and simt.h, code says nothing that only nvcc understands: no asm, no <<<>>>, no __shared__, no
threadIdx, no intrinsics, no header of CUDA. Each function in ptx/ holds at most one asm statement, has a case in
tests/cpp/cuda/ptx_conformance.cu, a fault in tests/cpp/ptx/*mutations_test.cpp, and a row in the table of the page
above. Prints one line per finding.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA = ROOT / "csrc/cuda"
PAGE = ROOT / "docs/testing-without-a-gpu.md"
CONFORMANCE = ROOT / "tests/cpp/cuda/ptx_conformance.cu"
MUTATIONS = ["wrapper_mutations_test.cpp", "kernel_mutations_test.cpp"]

USE_PTX = "instructions belong in csrc/cuda/ptx"
FORBIDDEN = {
    r"\basm\b": "asm belongs in csrc/cuda/ptx",
    r"<<<": "kernels are started by launch()",
    r"\b__shared__\b": "shared memory is declared with LLAMA4RT_SHARED or dynamic_shared()",
    r"\b(?:threadIdx|blockIdx|blockDim|gridDim|warpSize)\b": "thread indices come from simt.h",
    r"\b__(?:sync|shfl|ballot|match|any|all|reduce|threadfence|nanosleep|ldg|ldcg|cvta|activemask)\w*": USE_PTX,
    r"\batomic(?:Add|CAS|Max|Min|Exch|Or|And)\b": USE_PTX,
    r"\b__(?:f|h|d|u|i)[a-z]*_(?:rn|rz|as)\w*": USE_PTX,
    r"\b__(?:expf|logf|fdividef|fmaf|hfma2|float2bfloat16)\w*": USE_PTX,
}
CUDA_HEADER = re.compile(
    r"^\s*#\s*include\s+<(cu\w*\.h|cuda[\w/]*|mma\.h|cooperative_groups[\w/.]*|cub/[\w/.]*)>"
)
MAY_SPEAK_CUDA = {"simt.h", "runtime.cpp"}
MAY_INCLUDE_CUDA = {"runtime.cpp", "runtime_errors.h", "tensor_map.cpp"}
FUNCTION = re.compile(r"^LLAMA4RT_DEVICE [\w<> ]+? (\w+)\(", re.M)
# Written in C++, or seen by every other case.
NEEDS_NO_CASE = {
    "float_from_bits",
    "wgmma_descriptor",
    "fence_mbarrier_init",
    "wgmma_fence",
    "wgmma_commit",
    "wgmma_wait",
    "computed_by_here",  # these change no result
    "fewer_registers",
    "more_registers",
}


def without_comments(text: str) -> str:
    """Comments and strings blanked, lines kept."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"'
    return re.sub(pattern, lambda m: "\n" * m[0].count("\n"), text, flags=re.S)


def check_file(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT)
    text = path.read_text()
    for number, line in enumerate(text.splitlines(), 1):
        if (match := CUDA_HEADER.match(line)) and path.name not in MAY_INCLUDE_CUDA:
            allowed = ", ".join(sorted(MAY_INCLUDE_CUDA))
            yield f"{name}:{number}: <{match[1]}>: only {allowed} include CUDA's headers"
    if path.parent.name == "ptx" or path.name in MAY_SPEAK_CUDA:
        return
    for number, line in enumerate(without_comments(text).splitlines(), 1):
        for pattern, reason in FORBIDDEN.items():
            if match := re.search(pattern, line):
                yield f"{name}:{number}: {match[0]}: {reason}"


def ptx_functions() -> Iterator[tuple[str, str, str]]:
    """File, name and text of each function in ptx/."""
    for path in sorted((CUDA / "ptx").glob("*.cuh")):
        text = path.read_text()
        starts = [(m.start(), m[1]) for m in FUNCTION.finditer(text)]
        for (start, name), end in zip(starts, [s for s, _ in starts[1:]] + [len(text)], strict=True):
            yield path.name, name, text[start:end]


def check_ptx() -> Iterator[str]:
    cases = re.sub(r'"\s*"', "", CONFORMANCE.read_text())
    page = PAGE.read_text() if PAGE.exists() else ""
    faults = "".join((ROOT / "tests/cpp/ptx" / name).read_text() for name in MUTATIONS)
    for file, name, text in ptx_functions():
        where = f"csrc/cuda/ptx/{file}: {name}"
        if len(re.findall(r"\basm\b", without_comments(text))) > 1:
            yield f"{where}: one instruction a function"
        if name not in NEEDS_NO_CASE and not re.search(rf'"[^"\n]*\b{name}\b[^"\n]*"', cases):
            yield f"{where}: no case in tests/cpp/cuda/ptx_conformance.cu names it"
        has_instruction = re.search(r"\basm\b", without_comments(text)) and name != "computed_by_here"
        if has_instruction and not re.search(rf'"{name}\b', faults):
            yield f"{where}: no fault in tests/cpp/ptx/*mutations_test.cpp is one of its"
        if f"`{name}`" not in page:
            yield f"{where}: no row in docs/testing-without-a-gpu.md"


def main() -> int:
    files = [p for p in sorted(CUDA.rglob("*")) if p.suffix in {".h", ".cpp", ".cu", ".cuh"}]
    files += sorted((ROOT / "tests/cpp/cuda").glob("*"))
    findings = [f for path in files if path.suffix in {".h", ".cpp", ".cu", ".cuh"} for f in check_file(path)]
    findings += check_ptx()
    for finding in findings:
        print(finding)
    print(f"cuda: {len(findings)} findings" if findings else "cuda: nothing found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
