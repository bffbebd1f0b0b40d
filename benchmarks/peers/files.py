"""The same random-weight model in every program's format, and how long making each took."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KINDS = ("Q4_0", "Q4_K_M", "Q8_0")


class Files:
    """Makes what is missing in `cache`; about 10 GB for the 1.8 B model while GGUF files are made."""

    def __init__(
        self, model: str, cache: Path, scratch: Path, threads: int, ik_llama: Path | None = None
    ) -> None:
        """scratch: where GGUF in bf16 lies until it is quantised. ik_llama: its worker's program, if there is one."""
        self.ik_llama = ik_llama
        self.checkpoint = cache / f"{model}-checkpoint"
        self.engine = cache / f"{model}.l4e"
        self.engine_exact = cache / f"{model}-bf16-head.l4e"
        self.gguf = {kind: cache / f"{model}-{kind}.gguf" for kind in KINDS}
        self.whole_gguf = scratch / f"{model}-BF16.gguf"
        self._threads = threads
        self._times = cache / f"{model}-files.json"
        self.seconds: dict[str, float] = json.loads(self._times.read_text()) if self._times.is_file() else {}
        cache.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(parents=True, exist_ok=True)
        if not self.checkpoint.is_dir():
            run(sys.executable, ROOT / "benchmarks/models.py", model, self.checkpoint)
        if not self.engine.is_file():
            self.timed("llama4rt build", lambda: self.build(self.engine))
        if not self.engine_exact.is_file():
            self.build(self.engine_exact, "--lm-head", "bf16")
        missing = [kind for kind, path in self.gguf.items() if not path.is_file()]
        if missing:
            self.make_whole_gguf()
        for kind in missing:
            self.timed(f"llama.cpp quantise {kind}", partial(self.quantise, self.gguf[kind], kind))
        if missing:
            self.whole_gguf.unlink()

    def build(self, out: Path, *options: str) -> None:
        run(sys.executable, "-m", "llama4rt", "build", self.checkpoint, "-o", out, *options)

    def make_whole_gguf(self) -> None:
        self.timed(
            "GGUF BF16",
            lambda: run(sys.executable, HERE / "gguf_model.py", self.checkpoint, self.whole_gguf),
        )

    def quantise(self, out: Path, kind: str) -> None:
        run(
            sys.executable,
            HERE / "worker_llama_cpp.py",
            "quantise",
            self.whole_gguf,
            out,
            kind,
            self._threads,
        )

    def timed(self, label: str, work: Callable[[], None]) -> None:
        start = time.perf_counter()
        work()
        self.seconds[label] = time.perf_counter() - start
        self._times.write_text(json.dumps(self.seconds))


def run(*command: Any) -> None:
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(map(str, command))} failed:\n" + "\n".join(done.stdout.splitlines()[-20:])
        )
