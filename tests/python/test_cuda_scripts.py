"""The gates of CUDA code bite: what scripts/cuda_compile.py and scripts/check_cuda.py must refuse."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CLEAN = """\
ptxas info    : Compiling entry function 'a_kernel' for 'sm_90a'
ptxas info    : Function properties for a_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 57 registers, used 1 barriers, 1024 bytes smem
"""


def test_a_clean_report_has_no_findings() -> None:
    findings, kernels = load("cuda_compile").judge(CLEAN)
    assert findings == []
    assert len(kernels) == 1 and "57 registers" in kernels[0] and "a_kernel" in kernels[0]


@pytest.mark.parametrize(
    ("before", "after", "finding"),
    [
        (
            "0 bytes stack frame, 0 bytes spill stores, 0",
            "8 bytes stack frame, 8 bytes spill stores, 4",
            "spills 8 + 4",
        ),
        ("0 bytes stack frame", "64 bytes stack frame", "64 bytes in local memory"),
        (
            "ptxas info    : Used",
            "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to x\n"
            "ptxas info    : Used",
            "wgmma",
        ),
        (
            "ptxas info    : Used",
            "x.cu(3): warning #177-D: variable was declared\nptxas info    : Used",
            "warning",
        ),
    ],
)
def test_a_bad_report_has_one(before: str, after: str, finding: str) -> None:
    findings, _ = load("cuda_compile").judge(CLEAN.replace(before, after))
    assert len(findings) == 1 and finding in findings[0]


@pytest.mark.parametrize(
    "line",
    [
        'asm volatile("bar.sync 0;");',
        "kernel<<<1, 32>>>(x);",
        "__shared__ float a[32];",
        "int i = threadIdx.x;",
        "__syncthreads();",
        "x = __shfl_xor_sync(~0u, x, 1);",
        "atomicAdd(p, 1);",
        "#include <cuda_bf16.h>",
    ],
)
def test_words_of_nvcc_are_refused(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = load("check_cuda")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    source = tmp_path / "kernel.cuh"
    source.write_text(f"// {line.replace('#', '')}\n{line}\n")
    findings = list(script.check_file(source))
    assert len(findings) >= 1 and all(":2:" in f for f in findings)


def test_a_report_is_kept_until_a_header_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("cuda_compile")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "REPORTS", tmp_path / "reports")
    (tmp_path / "csrc/a").mkdir(parents=True)
    source, header = tmp_path / "csrc/k.cu", tmp_path / "csrc/a/inner.h"
    source.write_text('#include "a/outer.h"\n')
    (tmp_path / "csrc/a/outer.h").write_text('#include <vector>\n#include "a/inner.h"\n#include "k.cu"\n')
    header.write_text("int x;\n")
    first = module.report_path(source, "nvcc 1")
    assert module.report_path(source, "nvcc 1") == first
    assert module.report_path(source, "nvcc 2") != first
    header.write_text("int y;\n")
    assert module.report_path(source, "nvcc 1") != first
