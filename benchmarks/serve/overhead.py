"""What HTTP and Python cost beside the engine, in processor time: the same requests in the process and over HTTP.

    python benchmarks/serve/overhead.py ENGINE.l4e [--streams 32] [--tokens 128] [--prompt 64] [--rounds 3]

Processor time, not the clock: other programs on the machine do not change it. `engine` is Engine.generate, whose own
Python work is small; `served` is the server's process while `llama4rt bench serve` asks it for the same from another
process. Time that is spent beside the model delays tokens only where no processor is free for it.
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
    args = parser.parse_args()
    bare, served = [], []
    options = {"num_threads": args.threads, "max_num_seqs": args.streams, "kv_cache_memory": "1GiB"}
    with Engine(args.engine, **options) as engine, running_server(engine) as server:
        vocab = min(1000, engine.config["vocab_size"])
        for seed in range(args.rounds + 1):
            rng = random.Random(seed)
            prompts = [[rng.randrange(3, vocab) for _ in range(args.prompt)] for _ in range(args.streams)]
            params = SamplingParams(temperature=0, max_tokens=args.tokens, ignore_eos=True)
            start = time.process_time()
            engine.generate(prompts, params)
            bare.append(time.process_time() - start)
            command = [sys.executable, "-m", "llama4rt", "bench", "serve", "--base-url", server.url, "--json"]
            command += ["--num-prompts", str(args.streams), "--max-concurrency", str(args.streams)]
            command += ["--random-input-len", str(args.prompt), "--random-output-len", str(args.tokens)]
            command += ["--vocab", str(vocab), "--seed", str(1000 + seed)]
            start = time.process_time()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            served.append(time.process_time() - start)
    count = args.streams * args.tokens
    own, all_ = statistics.median(bare[1:]), statistics.median(served[1:])  # the first round loads things
    report = {
        "engine": Path(args.engine).name,
        "streams": args.streams,
        "tokens": count,
        "engine_microseconds_per_token": 1e6 * own / count,
        "served_microseconds_per_token": 1e6 * all_ / count,
        "overhead_microseconds_per_token": 1e6 * (all_ - own) / count,
        "overhead": all_ / own - 1,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
