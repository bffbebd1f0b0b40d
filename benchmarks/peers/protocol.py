"""How bench_peers.py talks to the programs it compares: one process each, one line of JSON per question and answer.

A worker is started, loads its model and answers {"ready": ...}. Questions:
    {"do": "prefill" | "decode", "tokens": N, "depth": D, "batch": B} -> {"tokens_per_second": X}
    {"do": "tokens", "prompt": [ids], "count": N} -> {"ids": [greedy choices]}
    {"do": "memory"} -> {"peak_bytes": N}: the most memory the process ever had resident, file pages included
A test that the program cannot do is answered {"error": text}; the benchmark goes on without it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Program(Protocol):
    """What a worker serves."""

    def prefill(self, tokens: int, depth: int, batch: int) -> float: ...
    def decode(self, tokens: int, depth: int, batch: int) -> float: ...
    def greedy(self, prompt: list[int], count: int) -> list[int]: ...


def serve(make: Callable[[], Program]) -> None:
    """Runs a worker on stdin and stdout until stdin ends. Whatever the program prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    start = time.perf_counter()
    program = make()
    print(json.dumps({"ready": True, "seconds": time.perf_counter() - start}), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = _answer(program, question)
        except Exception as error:  # the other tests go on
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(program: Program, question: dict[str, Any]) -> dict[str, Any]:
    if question["do"] == "memory":
        return {"peak_bytes": peak_bytes()}
    if question["do"] == "tokens":
        return {"ids": program.greedy(question["prompt"], question["count"])}
    measure = program.prefill if question["do"] == "prefill" else program.decode
    return {"tokens_per_second": measure(question["tokens"], question["depth"], question["batch"])}


def peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


class Worker:
    """The benchmark's end: a started worker."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.seconds = self._read()["seconds"]

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(map(str, self._process.args))} ended")  # type: ignore[arg-type]
        answer: dict[str, Any] = json.loads(line)
        return answer
