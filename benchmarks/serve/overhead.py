"""What HTTP and Python cost beside the engine: the same requests in the process and over HTTP, in turn.

    python benchmarks/serve/overhead.py ENGINE.l4e [--streams 32] [--tokens 128] [--prompt 64] [--rounds 3] [--out FILE]

Two numbers. Processor time of the thread that serves HTTP, per token: other programs on the machine change it little.
And throughput by the clock, of Engine.generate and of what `llama4rt bench serve` measures from another process: the
engine computes while HTTP is served, so where a processor is free the clock shows less than the first number says.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/python"))

from llama4rt import Engine, SamplingParams  # noqa: E402
from report import show  # noqa: E402
from serving import running_server  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/results")
    parser.add_argument("--note", default="", help="kept in it: what else the machine was doing")
    args = parser.parse_args()
    bare: list[tuple[float, float]] = []  # seconds by the clock, of processor time of the engine
    served: list[tuple[float, float]] = []  # seconds by the clock, of processor time of the HTTP thread
    options = {"num_threads": args.threads, "max_num_seqs": args.streams, "kv_cache_memory": "1GiB"}
    with Engine(args.engine, **options) as engine, running_server(engine) as server:
        vocab = min(1000, engine.config["vocab_size"])
        for seed in range(args.rounds + 1):
            rng = random.Random(seed)
            prompts = [[rng.randrange(3, vocab) for _ in range(args.prompt)] for _ in range(args.streams)]
            params = SamplingParams(temperature=0, max_tokens=args.tokens, ignore_eos=True)
            clock, processor = time.perf_counter(), time.process_time()
            engine.generate(prompts, params)
            bare.append((time.perf_counter() - clock, time.process_time() - processor))
            command = [sys.executable, "-m", "llama4rt", "bench", "serve", "--base-url", server.url, "--json"]
            command += ["--num-prompts", str(args.streams), "--max-concurrency", str(args.streams)]
            command += ["--random-input-len", str(args.prompt), "--random-output-len", str(args.tokens)]
            command += ["--vocab", str(vocab), "--seed", str(1000 + seed)]
            processor = server.processor_seconds()
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            served.append((json.loads(done.stdout)["duration"], server.processor_seconds() - processor))
    count = args.streams * args.tokens
    (bare_clock, engine_time), (served_clock, http_time) = (
        [1e6 * statistics.median(column) / count for column in zip(*rounds[1:], strict=True)]
        for rounds in (bare, served)  # the first round loads things
    )
    report = {
        "engine": Path(args.engine).name,
        "streams": args.streams,
        "tokens": count,
        "rounds": args.rounds,
        "engine_threads": args.threads,
        "engine_processor_microseconds_per_token": engine_time,
        "http_processor_microseconds_per_token": http_time,
        "processor_overhead": http_time / engine_time,
        "bare_clock_microseconds_per_token": bare_clock,
        "served_clock_microseconds_per_token": served_clock,
        "clock_overhead": served_clock / bare_clock - 1,
    }
    show(report, args.out, args.note)


if __name__ == "__main__":
    main()
