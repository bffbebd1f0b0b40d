"""What a store of keys and values saves and costs: a long prompt read anew, read back, and read with the store on.

    python benchmarks/sessions.py ENGINE [--tokens 2000,8000,16000] [--rounds 3] [--threads N] [--out FILE]

Each measurement opens the engine in a fresh process. Rounds take turns (without store, with an empty one, restored), so
that a neighbour's load touches all alike; medians are reported, of seconds and of processor time of all threads. The
page cache is warm: these are times of the program, not of a disk. Writes benchmarks/results/sessions-MODEL-CPU.json.
See docs/sessions.md.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

CHILD = """
import json, sys, time
from llama4rt import Engine, SamplingParams
path, store, threads, ids = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.load(open(sys.argv[4]))
options = {"kv_store": store, "kv_store_size": "20GiB"} if store else {}
start = time.perf_counter()
engine = Engine(path, num_threads=threads or None, max_num_seqs=1, kv_cache_memory="4GiB", **options)
opened, cpu = time.perf_counter(), time.process_time()
(out,) = engine.generate([ids], SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True))
first, cpu = time.perf_counter(), time.process_time() - cpu
pending = engine.stats().get("store", {}).get("pending", 0)
(more,) = engine.generate([ids], SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True))
before_close = time.perf_counter()
engine.close()
closed = time.perf_counter()
print(json.dumps({"open": opened - start, "first_token": first - opened, "cpu": cpu, "close": closed - before_close,
                  "pending": pending, "cached": out.num_cached_tokens, "tokens": more.outputs[0].token_ids}))
"""


def cpu_name() -> str:
    match = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return match[1] if match else "unknown"


def child(engine: str, store: str, threads: int, prompt: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", CHILD, engine, store, str(threads), str(prompt)]
    result: dict[str, Any] = json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    )
    return result


def size_of(store: Path) -> int:
    return sum(path.stat().st_size for path in store.iterdir() if path.is_file())


def measure(engine: str, tokens: int, rounds: int, threads: int, work: Path) -> dict[str, Any]:
    random.seed(tokens)
    prompt = work / "prompt.json"
    prompt.write_text(json.dumps([random.randrange(300, 1000) for _ in range(tokens)]))
    store = work / "kv"
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "writing": [], "restored": []}
    size = 0
    for _ in range(rounds):
        shutil.rmtree(store, ignore_errors=True)
        runs["plain"].append(child(engine, "", threads, prompt))
        runs["writing"].append(child(engine, str(store), threads, prompt))
        runs["restored"].append(child(engine, str(store), threads, prompt))
        size = size_of(store)
    answers = {tuple(run["tokens"]) for kind in runs.values() for run in kind}
    if len(answers) != 1:
        sys.exit(f"{tokens} tokens: the answers differ")

    def median(kind: str, what: str) -> float:
        return round(statistics.median(run[what] for run in runs[kind]), 4)

    return {
        "tokens": tokens,
        "store_bytes": size,
        "reused_tokens": runs["restored"][0]["cached"],
        "open_seconds": median("restored", "open"),
        "prefill_seconds": median("plain", "first_token"),
        "prefill_seconds_while_writing": median("writing", "first_token"),
        "prefill_cpu_seconds": median("plain", "cpu"),
        "prefill_cpu_seconds_while_writing": median("writing", "cpu"),
        "blocks_not_written_at_first_token": int(median("writing", "pending")),
        "close_seconds_after_writing": median("writing", "close"),
        "first_token_seconds_restored": median("restored", "first_token"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("engine")
    parser.add_argument("--tokens", default="2000,8000,16000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--name", default="demo", help="of the model, in the result")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as work:
        for tokens in (int(text) for text in args.tokens.split(",")):
            lines.append(measure(args.engine, tokens, args.rounds, args.threads, Path(work)))
            print(json.dumps(lines[-1]), flush=True)
    cpu = cpu_name()
    slug = re.sub(r"[^a-z0-9]+", "-", cpu.lower()).strip("-")
    out = args.out or ROOT / f"benchmarks/results/sessions-{args.name}-{slug}.json"
    result = {"model": args.name, "cpu": cpu, "rounds": args.rounds, "note": args.note, "lines": lines}
    out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
