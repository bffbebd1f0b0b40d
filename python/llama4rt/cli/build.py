"""`llama4rt build`: makes an engine file from a checkpoint."""

import argparse
import os
import warnings
from typing import Any

from llama4rt.cli.common_options import GROUP_SIZES, WEIGHT_KINDS, note
from llama4rt.cli.numbers import GROUP_SIZE, THREADS_OR_ALL
from llama4rt.cli.progress import ProgressBar


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "build",
        help="make an engine file from a checkpoint",
        description="Make an engine file from a Llama 4 checkpoint in Hugging Face's or Meta's form, or from a GGUF "
        "file. Matrices that the checkpoint already has quantised are taken over as they are.",
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a checkpoint directory, a GGUF file, or a hub id such as owner/name or, of GGUF files, owner/name:Q4_K_M",
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
        "--mmproj",
        metavar="FILE",
        help="the vision tower of a GGUF model: a file, or a label such as F16 where the model is; auto: the only one",
    )
    parser.add_argument(
        "--rope-scaling",
        metavar="NAME=NUMBER,..",
        help="replace numbers of the config's rope scaling: factor=16,high_freq_factor=1; none removes it",
    )
    parser.add_argument(
        "--lora",
        metavar="DIR[=WEIGHT]",
        action="append",
        default=[],
        help="merge an adapter of PEFT first; WEIGHT: how strongly it counts (default 1); may be given several times",
    )
    parser.add_argument(
        "-t", "--threads", type=THREADS_OR_ALL, metavar="N", help="default: all CPUs this process may use"
    )
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with what an interrupted build of the same left beside the output (default)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    from llama4rt.convert.build import build
    from llama4rt.convert.config import parse_rope_scaling
    from llama4rt.convert.journal import journal_path
    from llama4rt.convert.lora.located import parse_adapter

    with warnings.catch_warnings(), ProgressBar(shown=not args.quiet) as progress:
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = _show_warning
        try:
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
                lora=[parse_adapter(adapter) for adapter in args.lora],
                mmproj=args.mmproj,
                resume=args.resume,
                progress=progress.update,
            )
        except KeyboardInterrupt:
            if os.path.exists(journal_path(args.output)):
                note("interrupted; the same command goes on where it stopped, --no-resume begins anew")
            raise
    before = f", {100 * report.resumed:.0f} % by a build that was interrupted" if report.resumed else ""
    print(f"{report.path}: {report.bytes / 1e9:.3f} GB in {report.seconds:.1f} s{before}")
    for line in report.notes:
        print(f"note: {line}")
    if report.worst:
        name, rms, largest = report.worst[0]
        print(f"largest quantisation error: {name}, {100 * rms:.2f} % RMS, {largest:.4g} at most")
    return 0


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(f"warning: {message}")
