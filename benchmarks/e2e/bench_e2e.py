"""Speed of a whole model on this machine: load time, decode and prefill, against the machine's own limits.

    python benchmarks/e2e/bench_e2e.py [--models mid,mid200k] [--rounds 3] [--threads 1,2] [--note TEXT] [--quick]

Makes the random checkpoint and its int4 engine once (cache: --cache, default build/bench-models), then runs
`llama4rt bench` in rounds: every round measures every thread count once, and measures read bandwidth and fma peak
again beside it, so that a neighbour's load or a warm processor touches all of them alike. Reported are medians of
the rounds. Tests behind 4096 cached tokens run last, in one process, because the tokens must be computed first.

Writes benchmarks/results/e2e-MODEL-CPU.json and prints a Markdown table. See docs/benchmarking.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results"

# Opens the engine in a fresh process and times the way to the first token of a one-token prompt.
LOAD = """
import json, sys, time
from llama4rt import Engine, SamplingParams
start = time.perf_counter()
with Engine(sys.argv[1], num_threads=int(sys.argv[2])) as engine:
    opened = time.perf_counter()
    engine.generate([[engine.config["bos_token_id"] if engine.config["bos_token_id"] >= 0 else 1]],
                    SamplingParams(max_tokens=1, temperature=0.0))
    first = time.perf_counter()
print(json.dumps({"open_seconds": opened - start, "first_token_seconds": first - start}))
"""


@dataclass
class Line:
    """One test with one number of threads: a value of each round."""

    test: str
    kind: str
    threads: int
    tokens_per_second: list[float] = field(default_factory=list)
    fraction: list[float] = field(default_factory=list)  # decode: of read bandwidth; prefill: of fma peak

    def summary(self) -> dict[str, Any]:
        return {
            "test": self.test,
            "kind": self.kind,
            "threads": self.threads,
            "tokens_per_second": statistics.median(self.tokens_per_second),
            "of": "read bandwidth" if self.kind == "decode" else "fma peak",
            "fraction": statistics.median(self.fraction),
            "samples": self.tokens_per_second,
            "fractions": self.fraction,
        }


def llama4rt(*arguments: str) -> str:
    command = [sys.executable, "-m", "llama4rt", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def engine_file(model: str, cache: Path) -> tuple[Path, float | None]:
    """The int4 engine of a preset of benchmarks/models.py, and how long building took if it was built now."""
    engine = cache / f"{model}.l4e"
    if engine.is_file():
        return engine, None
    checkpoint = cache / f"{model}-checkpoint"
    subprocess.run([sys.executable, ROOT / "benchmarks/models.py", model, checkpoint], check=True)
    start = time.perf_counter()
    llama4rt("build", str(checkpoint), "-o", str(engine))
    seconds = time.perf_counter() - start
    shutil.rmtree(checkpoint)
    return engine, seconds


def forget_pages(path: Path) -> None:
    """Asks the kernel to drop the file from memory, so that the next open reads it from the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_load(engine: Path, threads: int, rounds: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for state in ("cold", "warm"):
        samples = []
        for _ in range(rounds):
            if state == "cold":
                forget_pages(engine)
            command = [sys.executable, "-c", LOAD, str(engine), str(threads)]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            samples.append(json.loads(answer))
        result[state] = {key: statistics.median(s[key] for s in samples) for key in samples[0]}
    return result


class Bench:
    """Collects what the runs of `llama4rt bench` say."""

    def __init__(self, engine: Path) -> None:
        self.engine = engine
        self.lines: dict[tuple[str, int], Line] = {}
        self.limits: dict[int, list[dict[str, float]]] = {}
        self.about: dict[str, Any] = {}

    def run(self, threads: int, *options: str) -> None:
        report = json.loads(llama4rt("bench", str(self.engine), "-t", str(threads), "-o", "json", *options))
        self.about = {key: report[key] for key in ("engine", "engine_bytes", "machine", "build")}
        limits = report["limits"]
        self.limits.setdefault(threads, []).append(limits)
        for result in report["results"]:
            decode = result["kind"] == "decode"
            one = Line(result["test"], result["kind"], threads)
            line = self.lines.setdefault((result["test"], threads), one)
            best = result["bandwidth_fraction"] if decode else result["fma_fraction"]
            for sample in result["samples"]:
                line.tokens_per_second.append(sample)
                line.fraction.append(best * sample / result["mean"])

    def median_limits(self) -> dict[str, dict[str, float]]:
        return {
            str(threads): {key: statistics.median(limit[key] for limit in rounds) for key in rounds[0]}
            for threads, rounds in self.limits.items()
        }


def commit() -> str:
    """The commit measured; `+` when the tree differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "HEAD") or "unknown") + ("+" if changed else "")


def print_table(report: dict[str, Any]) -> None:
    size = report["engine_bytes"] / 2**30
    print(f"\n### {report['model']}: {size:.2f} GiB, {report['machine']['cpu']}\n")
    print("| test | threads | tokens/s | of the machine |")
    print("|---|---:|---:|---:|")
    for line in report["results"]:
        share = f"{100 * line['fraction']:.0f} % of {line['of']}"
        print(f"| {line['test']} | {line['threads']} | {line['tokens_per_second']:.1f} | {share} |")
    for threads, limit in report["limits"].items():
        print(
            f"\n{threads} thread(s): {limit['read_gbps']:.1f} GB/s, {limit['fma_gflops']:.0f} GFLOP/s", end=""
        )
    for state, load in report["load"].items():
        opened, first = load["open_seconds"], load["first_token_seconds"]
        print(f"\nload, {state} page cache: open {opened:.2f} s, first token {first:.2f} s", end="")
    print()


def measure(model: str, args: argparse.Namespace) -> None:
    engine, build_seconds = engine_file(model, args.cache)
    bench = Bench(engine)
    load = measure_load(engine, max(args.threads), args.rounds)
    for number in range(args.rounds):
        print(f"{model}: round {number + 1} of {args.rounds}", file=sys.stderr)
        for threads in args.threads:
            bench.run(threads, "-p", "0", "-n", "32", "-b", "1,4,8,16", "-r", "1")
            bench.run(threads, "-p", "64,512", "-n", "0", "-r", "1")
    if not args.quick:
        for threads in args.threads:
            rounds = str(args.rounds)
            bench.run(threads, "-p", "0", "-n", "32", "-d", "4096", "-b", "1,4", "-r", rounds)
    report = {
        "model": model,
        **bench.about,
        "commit": commit(),
        "command": shlex.join(["python", "benchmarks/e2e/bench_e2e.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "note": args.note,
        "load_average_at_end": os.getloadavg()[0],
        "build_seconds": build_seconds,
        "load": load,
        "limits": bench.median_limits(),
        "results": [line.summary() for line in bench.lines.values()],
    }
    cpu = re.sub(r"[^a-z0-9]+", "-", report["machine"]["cpu"].lower()).strip("-")
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"e2e-{model}-{cpu}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print_table(report)
    print(f"\n{path.relative_to(ROOT)} written")


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="mid,mid200k", help="presets of benchmarks/models.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=numbers, default=sorted({1, len(os.sched_getaffinity(0))}))
    parser.add_argument("--cache", type=Path, default=ROOT / "build/bench-models")
    parser.add_argument("--note", default="", help="kept in the JSON: what else the machine was doing")
    parser.add_argument("--quick", action="store_true", help="leave out the tests behind 4096 tokens")
    args = parser.parse_args()
    for model in args.models.split(","):
        measure(model, args)


if __name__ == "__main__":
    main()
