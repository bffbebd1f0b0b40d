"""`llama4rt plan`: what a model takes of a device's memory, and how long a context fits, before anything is loaded."""

import argparse
import json
import sys
from typing import Any

from llama4rt.cli.common_options import GROUP_SIZES, WEIGHT_KINDS, add_kv_cache_dtypes, kv_cache_dtypes
from llama4rt.cli.numbers import BATCHED_TOKENS, GROUP_SIZE, SEQUENCES, SIZE, Integer, Tokens

_PARTS = (  # key of _core.plan's bytes, what it is
    ("weights", "weights"),
    ("kv_global", "keys and values of global layers"),
    ("kv_local", "keys and values of chunked layers"),
    ("workspace", "activations of a step"),
    ("logits", "logits"),
    ("vision", "activations of the vision tower"),
    ("images", "encoded pictures, at most"),
    ("adapters", "factors of adapters, at most"),
    ("batch", "ids, positions, block tables"),
    ("sampling", "parameters, masks and results of sampling"),
    ("scratch", "scratch of kernels"),
    ("driver", "driver and recorded steps (an estimate)"),
)
_BAR_COLUMNS = 24


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "plan",
        help="show what a model takes of memory",
        description="Show what an engine takes of its device's memory, part by part, and the longest context that "
        "fits. Needs no GPU and loads nothing. The engine allocates what the plan says.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", metavar="FILE", nargs="?", help="an engine file")
    source.add_argument(
        "--config", metavar="NAME", help="without a file: scout, maverick, tiny, or the path of a config.json"
    )
    parser.add_argument(
        "-c",
        "--context",
        type=Tokens(1, 2**40 - 1),
        metavar="N",
        help="tokens of one sequence: 8192, 128k, 1M",
    )
    parser.add_argument(
        "-n",
        "--sequences",
        type=SEQUENCES,
        default=1,
        metavar="N",
        help="that run at the same time (default 1)",
    )
    parser.add_argument("--gpu-memory", type=SIZE, metavar="SIZE", help="what the device has, such as 80GiB")
    parser.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], help="default: what FILE is for; with --config: cuda"
    )
    add_kv_cache_dtypes(parser)
    parser.add_argument(
        "--block-size", type=Integer(16, 1024), default=16, metavar="N", help="tokens of a block (default 16)"
    )
    parser.add_argument("--max-batched-tokens", type=BATCHED_TOKENS, metavar="N", help="tokens of one step")
    add_weight_options(parser)
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def add_weight_options(parser: argparse.ArgumentParser) -> None:
    """How the matrices of a model that has no file are stored."""
    group = parser.add_argument_group("with --config, as in `llama4rt build`")
    group.add_argument("--weights", choices=WEIGHT_KINDS, default="int4")
    group.add_argument("--group-size", type=GROUP_SIZE, choices=GROUP_SIZES, default=128)
    group.add_argument("--quantize", choices=["linear", "experts"], default="linear")
    group.add_argument("--lm-head", choices=["auto", *WEIGHT_KINDS], default="auto")


def weight_options(args: argparse.Namespace) -> dict[str, Any]:
    """add_weight_options' answers, as _core takes them; None is the default."""
    from llama4rt.convert.build_options import lm_head_kind

    weights = args.weights or "int4"
    return {
        "weights": weights,
        "group_size": args.group_size or 128,
        "experts_only": args.quantize == "experts",
        "lm_head": lm_head_kind(weights, args.quantize) if args.lm_head == "auto" else args.lm_head,
    }


def run(args: argparse.Namespace) -> int:
    from llama4rt import _core
    from llama4rt.engine.engine_options import count, parse_bytes

    options: dict[str, Any] = {
        "max_model_len": args.context or 0,
        "max_num_seqs": count("sequences", args.sequences),
        "memory_bytes": parse_bytes("gpu_memory", args.gpu_memory),
        **kv_cache_dtypes(args),
        "block_size": count("block_size", args.block_size),
        "max_batched_tokens": count("max_batched_tokens", args.max_batched_tokens),
    }
    if args.file is not None:
        plan = _core.plan(_core.EngineFile(args.file), device=args.device or "auto", **options)
    else:
        from llama4rt.convert.named_configs import model_config

        config = model_config(args.config)
        plan = _core.plan_config(config, device=args.device or "cuda", **options, **weight_options(args))
    if args.json:
        print(json.dumps(plan, indent=2))
    else:
        print("\n".join(_lines(plan, options["memory_bytes"], bars=sys.stdout.isatty())))
    return 0


def _lines(plan: dict[str, Any], memory: int, *, bars: bool = False) -> list[str]:
    """bars: each part beside the whole, which is what may be taken, or without a limit what is."""
    sizes = plan["bytes"]
    whole = max(memory, sizes["total"])
    parts = [*((sizes[key], words) for key, words in _PARTS if sizes[key] > 0)]
    parts.append((sizes["total"], "in all" + (f", of {_gib(memory)}" if memory else "")))
    lines = [f"{_gib(size):>12}  {_bar(size / whole) + '  ' if bars else ''}{words}" for size, words in parts]
    lines.append("")
    blocks = plan["blocks"]
    lines.append(
        f"context {plan['max_model_len']:,} tokens; blocks of {blocks['size']}: {blocks['global']:,} global, "
        f"{blocks['local']:,} chunked"
    )
    full, wanted = plan["full_sequences"], plan["max_num_seqs"]
    lines.append(
        f"sequences of that length at the same time: {full}"
        + (f" of {wanted}; the others share what is left, or wait" if full < wanted else "")
    )
    if memory:
        longest = plan["longest_context"]
        lines.append(
            f"longest context for {wanted} at the same time: {longest:,} tokens"
            if longest
            else f"not even a short context fits for {wanted} at the same time"
        )
    return lines


def _bar(share: float) -> str:
    """In eighths of a character."""
    eighths = round(share * _BAR_COLUMNS * 8)
    blocks = "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
    return f"{blocks:·<{_BAR_COLUMNS}}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.2f} MiB"
