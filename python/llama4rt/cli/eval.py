"""`llama4rt eval`: perplexity of an engine file on a text, and its distance from another one."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama4rt.cli.common_options import KV_CACHE_DTYPES, add_kv_cache_dtypes, note
from llama4rt.cli.numbers import COUNT, THREADS
from llama4rt.cli.progress import ProgressBar

if TYPE_CHECKING:
    from llama4rt.quality.evaluate import Evaluation
    from llama4rt.quality.statistics import Mean


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "eval",
        help="measure quality: perplexity on a text, distance from another engine file",
        description="Measure an engine file's perplexity on windows of a text. With --against also how far its "
        "distributions lie from those of another engine file of the same model (mean Kullback-Leibler divergence in "
        "nats per token) and how often both find the same token likeliest. Numbers after ± are one standard error.",
    )
    parser.add_argument("file", metavar="FILE", help="an engine file")
    parser.add_argument(
        "--text",
        nargs="+",
        required=True,
        metavar="PATH",
        help="UTF-8 text files, or directories of such",
    )
    parser.add_argument(
        "--windows",
        type=COUNT,
        metavar="N",
        help="windows to measure, spread evenly over the text (default: all)",
    )
    parser.add_argument(
        "--window-length", type=COUNT, default=512, metavar="N", help="tokens of a window (default: 512)"
    )
    parser.add_argument(
        "--context",
        type=COUNT,
        default=1,
        metavar="N",
        help="tokens at the start of each window that are read and not predicted (default: 1)",
    )
    parser.add_argument(
        "--begin-token",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start each window with the model's begin-of-text, as prompts do",
    )
    parser.add_argument("--against", metavar="FILE", help="another engine file, taken as the truth")
    group = parser.add_argument_group("engine")
    group.add_argument("--device", default="auto", help="auto, cpu, reference or cuda:N (default: auto)")
    group.add_argument(
        "-t", "--threads", type=THREADS, metavar="N", help="processor threads (default: all available)"
    )
    add_kv_cache_dtypes(group)
    group.add_argument("--activations", choices=["auto", "int8", "int16"], default="auto", help="of FILE")
    group.add_argument(
        "--against-kv-cache-dtype",
        choices=KV_CACHE_DTYPES,
        default="auto",
        help="of the other file, which --kv-cache-dtype does not change (default: auto)",
    )
    parser.add_argument(
        "--json", metavar="OUT", help="also write everything as JSON; - writes it to stdout instead"
    )


def run(args: argparse.Namespace) -> int:
    from llama4rt.quality.evaluate import EngineChoice, evaluate
    from llama4rt.quality.windows import read_texts

    text, names = read_texts(args.text)
    with ProgressBar(sys.stderr.isatty(), "measuring", "window") as bar:
        result = evaluate(
            args.file,
            text,
            windows=args.windows,
            window_length=args.window_length,
            begin_token=args.begin_token,
            context=args.context,
            against=args.against,
            choice=EngineChoice(args.kv_cache_dtype, args.kv_cache_dtype_local, args.activations),
            against_choice=EngineChoice(args.against_kv_cache_dtype),
            device=args.device,
            num_threads=args.threads,
            progress=bar.update,
        )
    if args.json != "-":
        _print(args, result)
    if args.json:
        report = json.dumps(_report(args, names, result), indent=1, allow_nan=False)
        if args.json == "-":
            print(report)
        else:
            Path(args.json).write_text(report + "\n", encoding="utf-8")
            note(f"{args.json}: written")
    return 0


def _report(args: argparse.Namespace, names: list[str], result: "Evaluation") -> dict[str, Any]:
    from llama4rt import _core
    from llama4rt.cli.provenance import command_line, commit, machine

    def file(path: str) -> dict[str, Any]:
        return {"name": os.path.basename(path), "bytes": os.path.getsize(path)}

    return {
        "file": file(args.file),
        "against_file": None if args.against is None else file(args.against),
        "text": names,
        "begin_token": args.begin_token,
        "context": args.context,
        "device": args.device,
        "kv_cache_dtype": args.kv_cache_dtype,
        "kv_cache_dtype_local": args.kv_cache_dtype_local,
        "activations": args.activations,
        "against_kv_cache_dtype": args.against_kv_cache_dtype,
        "result": result.as_json(),
        "machine": machine(),
        "build": _core.build_info(),
        "commit": commit(),
        "command": command_line(["llama4rt", *sys.argv[1:]]),
    }


def _print(args: argparse.Namespace, result: "Evaluation") -> None:
    over = "windows" if result.loss.error_windows is not None else "tokens"
    print(
        f"{os.path.basename(args.file)}: {result.windows} windows of {result.window_length} tokens, "
        f"{result.predictions:,} predictions in {result.seconds:.1f} s; ± one standard error over {over}"
    )
    rows: list[tuple[str, str]] = [
        ("perplexity", _plus_minus(result.perplexity)),
        ("loss, nats per token", _plus_minus(result.loss)),
    ]
    if (c := result.comparison) is not None:
        quantiles = c.divergence_quantiles
        rows += [
            (f"perplexity of {os.path.basename(args.against)}", _plus_minus(c.loss.exp())),
            ("loss beside it", _plus_minus(c.loss_difference)),
            ("divergence, nats per token", _plus_minus(c.divergence)),
            ("  half, 90 %, 99 % are below", ", ".join(f"{quantiles[q]:.4g}" for q in ("50", "90", "99"))),
            ("same likeliest token", _plus_minus(c.same_best, 100) + " %"),
        ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def _plus_minus(mean: "Mean", factor: float = 1) -> str:
    """As many digits as the error allows: two of its own."""
    value, error = factor * mean.value, mean.error
    if error is None:
        return f"{value:.5g}"
    error *= factor
    digits = 5
    if error > 0:
        first = f"{error:e}"
        digits = min(max(1 - int(first[first.index("e") + 1 :]), 0), 8)
    return f"{value:.{digits}f} ± {error:.{digits}f}"
