"""torch's bf16 matmul and attention at Scout's shapes on the same device: what the kernels are compared with.

  torch_baselines.py [--device cuda] [--small] [--json FILE]

Prints one line per shape: microseconds, and TFLOP/s or GB/s. Times are medians of runs between events, after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

HIDDEN, WIDTH, HEADS, KV_HEADS, HEAD_DIM = 5120, 8192, 40, 8, 128
RUNS = 20


def seconds(run: Callable[[], Any], device: str) -> float:
    """The median time of one run."""

    def timed() -> float:
        if device != "cuda":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000

    for _ in range(3):
        run()
    return statistics.median(timed() for _ in range(RUNS if device == "cuda" else 3))


def matmul(tokens: int, n: int, k: int, device: str) -> dict[str, Any]:
    x = torch.randn(tokens, k, device=device, dtype=torch.bfloat16)
    w = torch.randn(n, k, device=device, dtype=torch.bfloat16)
    took = seconds(lambda: torch.nn.functional.linear(x, w), device)
    return {
        "op": "matmul", "tokens": tokens, "n": n, "k": k, "us": 1e6 * took,
        "tflops": 2e-12 * tokens * n * k / took, "weight_gbps": 2e-9 * n * k / took,
    }  # fmt: skip


def attention(queries: int, keys: int, device: str) -> dict[str, Any]:
    """Causal where there are as many queries as keys; else each query sees all keys, as in decode."""
    q = torch.randn(1, HEADS, queries, HEAD_DIM, device=device, dtype=torch.bfloat16)
    k, v = (torch.randn(1, KV_HEADS, keys, HEAD_DIM, device=device, dtype=torch.bfloat16) for _ in range(2))
    causal = queries == keys
    took = seconds(
        lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True),
        device,
    )
    flops = 4 * HEADS * HEAD_DIM * queries * keys * (0.5 if causal else 1)
    return {
        "op": "attention", "queries": queries, "keys": keys, "us": 1e6 * took,
        "tflops": 1e-12 * flops / took, "kv_gbps": 4e-9 * KV_HEADS * HEAD_DIM * keys / took,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="small shapes, to try the program")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    token_counts, contexts = (
        ([1, 64], [256]) if args.small else ([1, 8, 64, 512, 2048, 8192, 16384], [1024, 8192, 131072])
    )
    results = []
    with torch.inference_mode():
        for tokens in token_counts:
            for n, k in ((2 * WIDTH, HIDDEN), (HIDDEN, WIDTH)):
                n, k = (n // 8, k // 8) if args.small else (n, k)
                results.append(matmul(tokens, n, k, args.device))
                print(results[-1], flush=True)
        for keys in contexts:
            for queries in (1, keys) if keys <= 16384 else (1,):
                results.append(attention(queries, keys, args.device))
                print(results[-1], flush=True)
    if args.json:
        name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
        with open(args.json, "w") as file:
            json.dump({"device": name, "torch": torch.__version__, "results": results}, file, indent=2)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
