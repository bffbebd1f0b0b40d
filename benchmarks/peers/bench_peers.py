"""llama4rt beside llama.cpp and transformers: the same random-weight Llama 4, the same machine, one run.

    CMAKE_ARGS="-DGGML_NATIVE=ON" pip install -e '.[peers]'    # builds llama.cpp for this processor: takes long
    python benchmarks/peers/bench_peers.py [--models mid,mid200k] [--rounds 5] [--threads 1,2] [--note TEXT]

Makes the checkpoint, our int4 engines, and GGUF files in Q4_0, Q4_K_M and Q8_0 from the same bf16 values (kept in
--cache), and times the conversions. Programs that are compared stay loaded together, and every round asks each of them
for every test, one after the other, with this machine's read bandwidth, fp32 and int8 peaks measured between; reported
are medians over the rounds of speed and of the ratio inside a round. Cold start is measured with new processes and the
file dropped from memory. --check first compares greedy tokens, so that what is timed is the same model.

Samples are kept after every round, so a run that was cut off goes on where it was (--fresh begins anew); with --slice
N it measures at most N seconds at a time and then waits for a line on stdin, for machines that are quiet only now and
then.

Writes benchmarks/results/peers-MODEL-CPU.json, prints Markdown tables, and draws peers-MODEL-CPU.png where matplotlib
is installed. Read docs/benchmarking.md before believing a number: nothing else may run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path += [str(HERE), str(ROOT / "benchmarks/e2e")]

from agreement import agreement  # noqa: E402
from bench_e2e import RESULTS, commit, forget_pages, numbers  # noqa: E402
from costs import gguf_cost  # noqa: E402
from files import Files  # noqa: E402
from gate import Gate  # noqa: E402
from measurements import (  # noqa: E402
    GROUPS,
    IK_LLAMA,
    OURS,
    OURS_EXACT,
    OURS_KV8,
    QUANTISED,
    Group,
    Test,
    command,
    model_file,
)
from protocol import Worker  # noqa: E402
from tables import draw, print_tables  # noqa: E402

COLD_PROGRAMS = (OURS, OURS_EXACT, "llama.cpp Q4_0", "llama.cpp Q4_K_M")
COLD_CONTEXT = 4096


class Run:
    """Everything measured of one model so far, kept in a file."""

    def __init__(self, model: str, args: argparse.Namespace) -> None:
        self.args = args
        self.gate = Gate(args.slice)
        self.files = Files(model, args.cache, args.scratch, max(args.threads), args.ik_llama)
        self.title = f"{model}-{args.name}" if args.name else model
        self._path = args.cache / f"{self.title}-samples.json"
        self.state: dict[str, Any] = {"threads": {}, "cold": {}, "commits": []}
        if self._path.is_file() and not args.fresh:
            self.state = json.loads(self._path.read_text())
        if commit() not in self.state["commits"]:
            self.state["commits"].append(commit())

    def save(self) -> None:
        self._path.write_text(json.dumps(self.state))

    def measure_group(self, group: Group, threads: int) -> None:
        """All rounds, with new processes now and then, so that no chance of one process decides."""
        for part in range(1, self.args.restarts + 1):
            self._measure_rounds(group, threads, -(-self.args.rounds * part // self.args.restarts))

    def _measure_rounds(self, group: Group, threads: int, rounds: int) -> None:
        """Up to `rounds` samples of each test."""
        from llama4rt import _core

        about = self.state["threads"].setdefault(str(threads), {"samples": {}, "limits": []})
        samples = about["samples"]
        missing = [t for t in group.tests if self._rounds_done(samples, group, t) < rounds]
        if not missing:
            return
        workers = {
            label: Worker(command(label, self.files, threads, group.context, group.batch))
            for label in self._programs(group)
        }
        for test in missing:  # warms up, and fills the caches that tests stand on
            seconds = 0.0
            for worker in workers.values():
                start = time.perf_counter()
                self._ask(worker, test)
                if test.depth:  # without filling the cache
                    start = time.perf_counter()
                    self._ask(worker, test)
                seconds += time.perf_counter() - start
            self.gate.took(test.name, seconds + 1)
        while missing:
            for test in list(missing):
                self.gate.enter(test.name)
                start = time.perf_counter()
                once = {label: self._ask(worker, test) for label, worker in workers.items()}
                about["limits"].append(_core.measure_machine(threads))
                self.gate.took(test.name, time.perf_counter() - start)
                for label, speed in once.items():
                    samples.setdefault(test.name, {}).setdefault(label, []).append(speed)
                self.save()
                print(
                    f"{threads} thread(s), {test.name}: "
                    + ", ".join(f"{label} {speed:.1f}" for label, speed in once.items()),
                    file=sys.stderr,
                    flush=True,
                )
                if self._rounds_done(samples, group, test) >= rounds:
                    missing.remove(test)
        for worker in workers.values():
            worker.close()
        self.gate.close()

    def _rounds_done(self, samples: dict[str, Any], group: Group, test: Test) -> int:
        done = samples.get(test.name, {})
        return min(len(done.get(label, [])) for label in self._programs(group))

    def _programs(self, group: Group) -> tuple[str, ...]:
        return tuple(label for label in group.programs if label != IK_LLAMA or self.args.ik_llama)

    @staticmethod
    def _ask(worker: Worker, test: Test) -> float:
        answer = worker.ask(do=test.what, tokens=test.tokens, depth=test.depth, batch=test.batch)
        if "error" in answer:
            raise RuntimeError(f"{test.name}: {answer['error']}")
        return float(answer["tokens_per_second"])

    def measure_cold(self) -> None:
        """Seconds from starting a process, its file not in memory, to the first token behind a prompt of 1 and of 64
        tokens; and the peak memory of a process that has worked off 512 tokens with a cache for COLD_CONTEXT."""
        threads = max(self.args.threads)
        for _ in range(self.args.rounds):
            for label in COLD_PROGRAMS:
                about = self.state["cold"].setdefault(label, {"first_token": {"1": [], "64": []}, "peak": []})
                for length in ("1", "64"):
                    if len(about["first_token"][length]) >= self.args.rounds:
                        continue
                    self.gate.enter(f"cold {label}")
                    forget_pages(model_file(label, self.files))
                    start = time.perf_counter()
                    worker = Worker(command(label, self.files, threads, COLD_CONTEXT, 1))
                    worker.ask(do="tokens", prompt=list(range(int(length))), count=1)
                    about["first_token"][length].append(time.perf_counter() - start)
                    self.gate.took(f"cold {label}", time.perf_counter() - start)
                    if length == "64" and not about["peak"]:
                        self._ask(worker, Test("prefill", 512))
                        self._ask(worker, Test("decode", 16))
                        about["peak"].append(worker.ask(do="memory")["peak_bytes"])
                    worker.close()
                    self.save()
        self.gate.close()


def report_of(model: str, run: Run) -> dict[str, Any]:
    from llama4rt import _core
    from llama4rt.cli.bench_cost import ModelCost
    from llama4rt.cli.provenance import machine

    files, args = run.files, run.args
    config = json.loads((files.checkpoint / "config.json").read_text())
    ours = {}
    for label in (OURS, OURS_KV8, OURS_EXACT):
        path = str(model_file(label, files))
        core = _core.Engine(path, num_threads=1, max_model_len=512)
        ours[label] = ModelCost.of_file(path, core.config, "int8" if label == OURS_KV8 else "bf16")
        core.close()
    peers = {f"llama.cpp {k}": gguf_cost(files.gguf[k], config) for k in QUANTISED}
    if args.ik_llama:
        peers[IK_LLAMA] = peers["llama.cpp Q4_0"]
    costs: dict[str, Any] = {**ours, **peers}
    kv_bytes = peers["llama.cpp Q4_0"].kv_bytes
    tests = {t.name: t for group in GROUPS for t in group.tests}
    threads = {}
    for count, about in run.state["threads"].items():
        limits = {
            key: statistics.median(limit[key] for limit in about["limits"]) for key in about["limits"][0]
        }
        threads[count] = {"samples": about["samples"], "limits": limits, "limits_by_round": about["limits"]}
    return {
        "model": model,
        "machine": machine(),
        "commits": run.state["commits"],
        "command": shlex.join(["python", "benchmarks/peers/bench_peers.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "note": args.note,
        "programs": {
            "llama4rt": _core.build_info(),
            "llama.cpp": f"llama-cpp-python {version('llama-cpp-python')}",
            **({"ik_llama.cpp": args.ik_llama_version} if args.ik_llama else {}),
            **({"transformers": version("transformers")} if "transformers" not in args.without else {}),
        },
        "file_bytes": {label: model_file(label, files).stat().st_size for label in costs},
        "kv_bytes": COLD_CONTEXT * kv_bytes * config["num_hidden_layers"],
        "decode_bytes": {
            label: {
                name: cost.decode_bytes(t.batch, t.depth or 1)
                for name, t in tests.items()
                if t.what == "decode"
            }
            for label, cost in costs.items()
        },
        "prefill_flops_per_token": {
            name: ours[OURS].prefill_flops(1, t.tokens, t.depth) / t.tokens
            for name, t in tests.items()
            if t.what == "prefill"
        },
        "conversion_seconds": files.seconds,
        "same_greedy_tokens": run.state.get("agreement"),
        "cold": run.state["cold"],
        "threads": threads,
        "load_average_at_end": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="mid,mid200k", help="presets of benchmarks/models.py")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--restarts", type=int, default=3, help="new processes so often, spread over the rounds"
    )
    parser.add_argument("--threads", type=numbers, default=sorted({1, len(os.sched_getaffinity(0))}))
    parser.add_argument("--cache", type=Path, default=ROOT / "build/bench-peers")
    parser.add_argument("--scratch", type=Path, help="where large files lie for a while; default: --cache")
    parser.add_argument(
        "--ik-llama",
        type=Path,
        metavar="WORKER",
        help="worker_ik_llama.cpp, compiled: measure that program too",
    )
    parser.add_argument("--ik-llama-version", default="", metavar="TEXT", help="kept in the JSON")
    parser.add_argument(
        "--name",
        default="",
        help="joins the result's file name: builds for other instruction sets (docs/benchmarking.md)",
    )
    parser.add_argument("--note", default="", help="kept in the JSON: what else the machine was doing")
    parser.add_argument(
        "--only", default="", help="groups of measurements.py, comma-separated, or cold; default: all"
    )
    parser.add_argument("--without", default="", help="groups to leave out, such as transformers,depth16384")
    parser.add_argument("--check", action="store_true", help="first compare greedy tokens (needs 10 GB)")
    parser.add_argument(
        "--slice", type=float, metavar="SECONDS", help="measure so long, then wait for a line"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the samples of earlier runs")
    args = parser.parse_args()
    args.scratch = args.scratch or args.cache
    chosen = [name for name in args.only.split(",") if name] or [*(g.name for g in GROUPS), "cold"]
    chosen = [name for name in chosen if name not in args.without.split(",")]
    for model in args.models.split(","):
        run = Run(model, args)
        if args.check:
            run.state["agreement"] = agreement(run.files, max(args.threads))
            run.save()
        for threads in sorted(args.threads, reverse=True):
            for group in GROUPS:
                if group.name in chosen:
                    run.measure_group(group, threads)
        if "cold" in chosen:
            run.measure_cold()
        report = report_of(model, run)
        cpu = re.sub(r"[^a-z0-9]+", "-", report["machine"]["cpu"].lower()).strip("-")
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"peers-{run.title}-{cpu}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
        print_tables(report)
        print(f"\n{path.relative_to(ROOT)} written" + (", picture beside it" if draw(report, path) else ""))


if __name__ == "__main__":
    main()
