"""`llama4rt build`: makes an engine file from a checkpoint."""

import argparse
import sys
import warnings
from typing import Any

from llama4rt.cli.common_options import GROUP_SIZES, WEIGHT_KINDS, note
from llama4rt.cli.numbers import GROUP_SIZE, THREADS_OR_ALL
from llama4rt.cli.progress import ProgressBar


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "build",
        help="make an engine file from a checkpoint",
        description="Make an engine file from a Llama 4 checkpoint in Hugging Face format. Matrices that the "
        "checkpoint already has as compressed-tensors int4 are taken over bit for bit.",
    )
    parser.add_argument(
        "source", metavar="SRC", help="a checkpoint directory, or a hub id such as owner/name"
    )
    parser.add_argument("-o", "--output", metavar="OUT.l4e", required=True, help="the engine file to write")
    parser.add_argument(
        "--target",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="the kernels to lay weights out for; a file serves one (default: cpu)",
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHT_KINDS,
        default="int4",
        help="default int4; bf16: no quantisation",
    )
    parser.add_argument(
        "--group-size",
        type=GROUP_SIZE,
        choices=GROUP_SIZES,
        default=128,
        help="inputs that share a scale (default 128)",
    )
    parser.add_argument(
        "--quantize",
        choices=("linear", "experts"),
        default="linear",
        help="linear: experts, dense MLP and attention (default); experts: routed and shared experts only",
    )
    parser.add_argument(
        "--lm-head",
        choices=["auto", *WEIGHT_KINDS],
        default="auto",
        help="auto (default): int8 where the other matrices are quantised by this build, else bf16",
    )
    parser.add_argument(
        "--vision",
        choices=("bf16", "int8", "none"),
        default="bf16",
        help="the vision tower, where there is one: default bf16; none: text only",
    )
    parser.add_argument(
        "--rope-scaling",
        metavar="NAME=NUMBER,..",
        help="replace numbers of the config's rope scaling: factor=16,high_freq_factor=1; none removes it",
    )
    parser.add_argument(
        "-t", "--threads", type=THREADS_OR_ALL, metavar="N", help="default: all CPUs this process may use"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    from llama4rt.convert.build import build
    from llama4rt.convert.config import parse_rope_scaling

    with warnings.catch_warnings(), ProgressBar(shown=not args.quiet and sys.stderr.isatty()) as progress:
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        report = build(
            args.source,
            args.output,
            target=args.target,
            weights=args.weights,
            group_size=args.group_size,
            quantize=args.quantize,
            lm_head=args.lm_head,
            vision=args.vision,
            num_threads=args.threads,
            rope_scaling=None if args.rope_scaling is None else parse_rope_scaling(args.rope_scaling),
            progress=progress.update,
        )
    print(f"{report.path}: {report.bytes / 1e9:.3f} GB in {report.seconds:.1f} s")
    if report.worst:
        name, rms, largest = report.worst[0]
        print(f"largest quantisation error: {name}, {100 * rms:.2f} % RMS, {largest:.4g} at most")
    return 0


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(f"warning: {message}")
