"""The launches between products: norms, routing, attention, the ends of a step."""

import math
from typing import Any

from llama4rt.gpu_model.launch import Launch

# One warp and a round of 256 keys of heads of 128 dims in attention_decode, counted in the machine code between its two
# branches (instructions of a round that end a split, or start one, among them): instructions, cycles of the integer
# pipe, and the cycles that a round takes alone, two for each instruction.
DECODE_ROUND_ISSUE, DECODE_ROUND_INTEGER, DECODE_ROUND_LATENCY = 2460, 1870, 4920
DECODE_ROUND_KEYS = 256
DECODE_RESIDENT = 2  # blocks: 106 KB of shared memory each
# The merge: 32 splits' factors (their ends from the second cache, a scan of five shuffles, two exponentials), and eight
# splits of a thread's four dims (one read from the second cache, 16 dependent sums).
MERGE_SPLITS, MERGE_SCAN_CYCLES = 32, 650
MERGE_AT_ONCE, MERGE_SUMS_CYCLES = 8, 450
ROUTE_ALONE = 16  # kAlone


def elementwise(role: str, rows: int, bytes_of_row: float, loads: float, barriers: float = 0.0) -> Launch:
    """A kernel that reads and writes rows and does little else."""
    return Launch(
        kernel="",
        role=role,
        blocks=rows,
        resident=8,
        memory_bytes=rows * bytes_of_row,
        cache_bytes=rows * bytes_of_row,
        chain={"load": loads, "barrier": barriers},
    )


def rmsnorm(role: str, rows: int, hidden: int) -> Launch:
    # The row, then its weight: the second is asked for only when the sum is known.
    return elementwise(role, rows, hidden * 8.0, loads=2.0, barriers=4.0)


def prepare_qkv(rows: int, config: dict[str, Any], kv_bytes: float) -> Launch:
    heads = config["num_attention_heads"] + 2 * config["num_key_value_heads"]
    q = config["num_attention_heads"] * config["head_dim"] * 4.0
    return elementwise(
        "rotation, norm, cache", rows, heads * config["head_dim"] * 4.0 + q + kv_bytes, loads=2.0
    )


def route(rows: int, config: dict[str, Any]) -> list[Launch]:
    """The router; with many tokens the choice and the sorting are launches of their own."""
    experts, top_k, hidden = config["num_local_experts"], config["num_experts_per_tok"], config["hidden_size"]
    fused = rows * top_k <= 256
    tokens_of_block = 1 if rows <= ROUTE_ALONE else 8
    blocks = math.ceil(experts / 16) * math.ceil(rows / tokens_of_block)
    kernel = f"route_logits_kernel<512,{'1,20' if rows <= ROUTE_ALONE else '8,4'},true>"
    chain = {"load": 1.0, "barrier": 10.0 if fused else 4.0, "ticket": 1.0 if fused and blocks > 1 else 0.0}
    # Of the 20 tiles of a warp those that its registers hold are read while the kernel before still runs.
    late = 0.0 if rows <= ROUTE_ALONE else 16 / 20
    logits = Launch(
        kernel=kernel,
        role="router",
        blocks=blocks,
        warps=16,
        rounds=1.0,
        memory_bytes=experts * hidden * 2.0 + rows * hidden * 4.0,
        early_bytes=experts * hidden * 2.0 * (1 - late),
        cache_bytes=blocks * hidden * (32.0 * late + 4.0 * min(rows, tokens_of_block)),
        chain=chain,
        # fp32 products of the tokens with 16 experts' rows, which the loop of machine code does not count in full.
        extra_cycles=hidden * 16.0 * min(rows, tokens_of_block) / 128 * max(1.0, blocks / 132),
    )
    if fused:
        return [logits]
    choose = elementwise(
        "router: choice", math.ceil(rows / 256), 256.0 * experts * 4, loads=2.0, barriers=4.0
    )
    place = elementwise("router: sorting", math.ceil(rows / 256), 256.0 * 8, loads=3.0, barriers=4.0)
    return [logits, choose, place]


def splits(keys: int) -> int:
    """Parts of a row's keys (attention_splits.h)."""
    short, middle, long, middle_begin, long_begin = 256, 1024, 8192, 8192, 131072
    if keys <= middle_begin:
        return math.ceil(keys / short)
    if keys <= long_begin:
        return middle_begin // short + math.ceil((keys - middle_begin) / middle)
    return (
        middle_begin // short + (long_begin - middle_begin) // middle + math.ceil((keys - long_begin) / long)
    )


def attention_decode(role: str, sequences: int, keys: int, config: dict[str, Any], kv_bytes: float) -> Launch:
    """One new token of each sequence over its cached keys."""
    kv_heads, dim = config["num_key_value_heads"], config["head_dim"]
    rows = config["num_attention_heads"] // kv_heads
    parts = splits(max(keys, 1))
    scans = math.ceil(parts / MERGE_SPLITS)
    dims_of_thread = math.ceil(rows * dim / 4 / 128)
    merge = scans * MERGE_SCAN_CYCLES + dims_of_thread * math.ceil(parts / MERGE_AT_ONCE) * MERGE_SUMS_CYCLES
    longest = min(keys, 8192 if keys > 131072 else 1024 if keys > 8192 else 256)
    rounds = max(1.0, keys / parts / DECODE_ROUND_KEYS)
    return Launch(
        kernel="",
        role=role,
        blocks=kv_heads * sequences * parts,
        warps=4,
        resident=DECODE_RESIDENT,
        rounds=rounds,
        round_latency=DECODE_ROUND_LATENCY * max(1.0, longest / DECODE_ROUND_KEYS) / rounds,
        memory_bytes=sequences * keys * kv_bytes,
        cache_bytes=sequences * keys * kv_bytes,
        chain={"load": 2.0, "ticket": 1.0 if parts > 1 else 0.0, "barrier": 2.0 * rounds + scans},
        extra_cycles=merge,
        flops=4.0 * config["num_attention_heads"] * dim * keys * sequences,
    )


def attention_prefill(role: str, tokens: int, seen: float, config: dict[str, Any], kv_bytes: float) -> Launch:
    """attention_hopper. seen: keys that a token looks at, on average."""
    kv_heads, dim = config["num_key_value_heads"], config["head_dim"]
    group = config["num_attention_heads"] // kv_heads
    row_tiles = math.ceil(tokens * group / 128)
    blocks = row_tiles * kv_heads
    return Launch(
        kernel=f"attention_hopper_kernel<AttentionHopperConfig<{dim}>>",
        role=role,
        blocks=blocks,
        warps=8,
        resident=1,
        rounds=seen / 64,
        memory_bytes=tokens * config["num_attention_heads"] * dim * 8.0 + seen * kv_bytes,
        cache_bytes=blocks * seen * 4.0 * dim,
        chain={"load": 3.0},
        flops=4.0 * config["num_attention_heads"] * dim * seen * tokens,
    )


def sample(rows: int, vocabulary: int) -> Launch:
    """The greedy choice: one block a row reads its logits."""
    return elementwise("greedy choice", rows, vocabulary * 4.0, loads=3.0, barriers=4.0)
