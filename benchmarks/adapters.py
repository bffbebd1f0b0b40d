"""What adapters cost a decode step: a batch of sequences without adapters, with one for all, and with many.

    python benchmarks/adapters.py [--hidden 2048] [--rank 16] [--adapters 8] [--batch 16] [--steps 40] [--rounds 7]

The model has random int4 weights and four layers of Scout's kind (its experts are 1.6 times as wide as the model);
adapters are random too, on q, k, v and o of every layer. Rounds alternate between the cases, so that a neighbour's load
touches all alike; the table has medians of the time of a step, and of the ratio to the same round's step without.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np


def config(hidden: int) -> str:
    from llama4rt.convert.config import parse_config
    from llama4rt.convert.named_configs import CONFIGS

    text = CONFIGS["scout"]["text_config"]
    heads = hidden // 128
    sizes = {
        "hidden_size": hidden, "num_hidden_layers": 4, "num_attention_heads": heads,
        "num_key_value_heads": max(heads // 5, 1) if heads % 5 == 0 else heads // 4,
        "intermediate_size": hidden * 8 // 5 // 128 * 128, "num_local_experts": 16, "vocab_size": 4096,
        "bos_token_id": 1, "eos_token_id": [2], "max_position_embeddings": 4096, "rope_scaling": None,
    }  # fmt: skip
    return json.dumps(parse_config({"architectures": ["Llama4ForCausalLM"], **text, **sizes}).canonical())


def adapter(model: str, rank: int, seed: int) -> Any:
    from llama4rt import _core

    shape = json.loads(model)
    hidden, head = shape["hidden_size"], shape["head_dim"]
    q, kv = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head
    rng = np.random.default_rng(seed)

    def factors(out: int, into: int) -> tuple[Any, Any]:
        a = rng.standard_normal((rank, into)) / into**0.5
        return a.astype(np.float32), rng.standard_normal((out, rank)).astype(np.float32)

    sizes = {"q": (q, hidden), "k": (kv, hidden), "v": (kv, hidden), "o": (hidden, q)}
    layers = range(shape["num_hidden_layers"])
    return _core.Adapter(
        model, [(layer, part, *factors(*size), 0.1) for layer in layers for part, size in sizes.items()]
    )


def step_seconds(engine: Any, adapters: list[Any], steps: int) -> float:
    """Of decoding, once all prompts have been read."""
    from llama4rt import _core

    for i, chosen in enumerate(adapters):
        request = _core.Request()
        request.prompt_token_ids = [8 + i, 9, 10, 11]
        request.temperature = 0.0
        request.ignore_eos = True
        request.max_tokens = steps + 4
        request.adapter = chosen
        engine.submit(request)
    for _ in range(2):
        engine.step()
    start = time.perf_counter()
    for _ in range(steps):
        engine.step()
    seconds = (time.perf_counter() - start) / steps
    while engine.has_work():
        engine.step()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("hidden", 2048), ("rank", 16), ("adapters", 8), ("batch", 16), ("steps", 40), ("rounds", 7), ("threads", 2)
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    from llama4rt import _core

    model = config(args.hidden)
    engine = _core.Engine.dummy(
        model, num_threads=args.threads, max_num_seqs=args.batch, max_model_len=512, adapter_bytes=1 << 30
    )
    many = [adapter(model, args.rank, seed) for seed in range(args.adapters)]
    cases: dict[str, list[Any]] = {
        "none": [None] * args.batch,
        "one for all": [many[0]] * args.batch,
        f"{args.adapters} adapters": [many[i % args.adapters] for i in range(args.batch)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, adapters in cases.items():
            seconds[name].append(step_seconds(engine, adapters, args.steps))
    engine.close()
    print(f"rank {args.rank}, batch {args.batch}, hidden {args.hidden}, {args.threads} threads\n")
    print("| adapters | ms a step | to none |\n|---|---|---|")
    for name, times in seconds.items():
        ratio = statistics.median(t / base for t, base in zip(times, seconds["none"], strict=True))
        print(f"| {name} | {statistics.median(times) * 1000:.2f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
