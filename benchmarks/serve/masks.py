"""What masks cost: steps of a batch whose outputs all follow a schema, against the same batch without, in turn.

    python benchmarks/serve/masks.py ENGINE.l4e [--batch 32] [--tokens 64] [--threads 1] [--rounds 5] [--out FILE]

Two numbers. Processor time of everything in the process per token, which a busy machine does not change; and the time
by the clock, which is what users feel: masks are computed beside the model, so a free processor hides them.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path

from llama4rt import Engine, SamplingParams, StructuredOutput
from report import show

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 3},
        "size": {"type": "object", "properties": {"w": {"type": "number"}, "h": {"type": "number"}}},
    },
    "required": ["name", "tags", "size"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a JSON file for benchmarks/results")
    parser.add_argument("--note", default="", help="kept in it: what else the machine was doing")
    args = parser.parse_args()
    structured = StructuredOutput.json_schema(SCHEMA)
    masked: list[tuple[float, float]] = []
    plain: list[tuple[float, float]] = []
    with Engine(
        args.engine, num_threads=args.threads, max_num_seqs=args.batch, kv_cache_memory="512MiB"
    ) as engine:
        vocab = min(1000, engine.config["vocab_size"])
        for seed in range(args.rounds + 1):
            rng = random.Random(seed)
            prompts = [[rng.randrange(3, vocab) for _ in range(16)] for _ in range(args.batch)]
            for structure, out in ((None, plain), (structured, masked)):
                # Greedy: what sampling takes is another matter, and with random weights not a small one.
                params = SamplingParams(
                    temperature=0, max_tokens=args.tokens, structured=structure, ignore_eos=structure is None
                )
                clock, processor = time.perf_counter(), time.process_time()
                results = engine.generate(prompts, params)
                tokens = sum(len(result.outputs[0].token_ids) for result in results)
                clock, processor = time.perf_counter() - clock, time.process_time() - processor
                out.append((clock / tokens, processor / tokens))
    report = {"engine": Path(args.engine).name, "batch": args.batch}
    for i, name in enumerate(("clock", "processor")):
        a, b = (statistics.median(pair[i] for pair in pairs[1:]) for pairs in (plain, masked))
        report[f"plain_{name}_microseconds_per_token"] = 1e6 * a
        report[f"masked_{name}_microseconds_per_token"] = 1e6 * b
        report[f"{name}_cost"] = b / a - 1
    show(report, args.out, args.note)


if __name__ == "__main__":
    main()
