"""What bench_peers.py measures: programs, tests, and which run side by side."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from files import HERE, Files

OURS = "llama4rt int4"  # as it is by default: activations in 8 bits, and the head too (theirs has 6.6)
OURS_EXACT = "llama4rt int4, int16 activations, bf16 head"
OURS_KV8 = "llama4rt int4, int8 KV"  # half the bytes behind a context; the peers keep f16
IK_LLAMA = "ik_llama.cpp Q4_0"  # repacked when loaded; only with --ik-llama
TRANSFORMERS = "transformers bf16"


@dataclass(frozen=True)
class Test:
    """`tokens` new tokens behind `depth` cached ones, in each of `batch` sequences."""

    what: str  # "prefill" or "decode"
    tokens: int
    depth: int = 0
    batch: int = 1

    @property
    def name(self) -> str:
        """llama-bench's words: "pp512", "tg32 @ d4096, b8"."""
        title = f"{'pp' if self.what == 'prefill' else 'tg'}{self.tokens}"
        return (
            title
            + (f" @ d{self.depth}" if self.depth else "")
            + (f", b{self.batch}" if self.batch > 1 else "")
        )


@dataclass(frozen=True)
class Group:
    """Tests whose programs are loaded together and take turns."""

    name: str
    tests: tuple[Test, ...]
    programs: tuple[str, ...]

    @property
    def context(self) -> int:
        return max(t.tokens + t.depth for t in self.tests) + 128

    @property
    def batch(self) -> int:
        return max(t.batch for t in self.tests)


_INT4 = (OURS, OURS_EXACT, "llama.cpp Q4_0", "llama.cpp Q4_K_M", IK_LLAMA)
# Quantised files, flash attention on; where keys are many, off as well, because off may be faster.
_DEEP = (OURS, OURS_KV8, OURS_EXACT, "llama.cpp Q4_0", "llama.cpp Q4_0 fa0", IK_LLAMA)

GROUPS = (
    Group("decode", (Test("decode", 32),), (*_INT4, "llama.cpp Q8_0")),
    Group("batches", tuple(Test("decode", 32, batch=n) for n in (4, 8, 16)), _INT4),
    Group("prefill", (Test("prefill", 64), Test("prefill", 512)), (*_INT4, "llama.cpp Q8_0")),
    Group("depth4096", (Test("decode", 32, depth=4096),), _DEEP),
    Group("depth16384", (Test("decode", 16, depth=16384),), _DEEP),
    Group("pp4096", (Test("prefill", 4096),), (OURS, "llama.cpp Q4_0", "llama.cpp Q4_0 fa0", IK_LLAMA)),
    Group("transformers", (Test("prefill", 64), Test("decode", 32)), (OURS, TRANSFORMERS)),
)
QUANTISED = ("Q4_0", "Q4_K_M", "Q8_0")


def command(label: str, files: Files, threads: int, context: int, batch: int) -> list[str]:
    """How to start a program's worker."""
    size = [str(threads), str(context), str(batch)]
    if label == IK_LLAMA:
        return [str(files.ik_llama), str(files.gguf["Q4_0"]), *size]
    if label == TRANSFORMERS:
        worker = ["worker_transformers.py", str(files.checkpoint), str(threads)]
    elif label.startswith("llama4rt"):
        path, bits = (files.engine_exact, "int16") if label == OURS_EXACT else (files.engine, "auto")
        worker = ["worker_llama4rt.py", str(path), *size, bits, "int8" if label == OURS_KV8 else "auto"]
    else:
        kind, flash = label.split()[1], "0" if label.endswith("fa0") else "1"
        worker = ["worker_llama_cpp.py", str(files.gguf[kind]), *size, flash]
    return [sys.executable, str(HERE / worker[0]), *worker[1:]]


def model_file(label: str, files: Files) -> Path:
    """The file that a program opens; of transformers the checkpoint's directory."""
    return Path(command(label, files, 1, 1, 1)[1 if label == IK_LLAMA else 2])
