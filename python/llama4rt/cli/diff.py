"""`llama4rt diff`: where an engine file first leaves the checkpoint it was built from."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llama4rt.cli.common_options import KV_CACHE_DTYPES, note
from llama4rt.cli.numbers import THREADS, Integer
from llama4rt.cli.progress import ProgressBar

if TYPE_CHECKING:
    from llama4rt.quality.diff.diff import DiffReport
    from llama4rt.quality.diff.step import Step


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "diff",
        help="compare an engine file with its checkpoint, step by step",
        description="Run an engine file on a short prompt and compute every step once more from the checkpoint's "
        "values in fp32. A step whose error is larger than the rounding of its weights, activations and cache "
        "explains is named; then the command exits with 1. With torch and transformers installed, our reference is "
        "itself compared with the layers of transformers.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="what the file was built from")
    parser.add_argument("file", metavar="FILE", help="the engine file")
    parser.add_argument("--text", metavar="TEXT", help="the prompt (default: a paragraph of English)")
    parser.add_argument(
        "--tokens",
        type=Integer(2, 4096),
        default=48,
        metavar="N",
        help="of the prompt, at most (default: 48)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, reference or cuda:N (default: auto)")
    parser.add_argument(
        "-t", "--threads", type=THREADS, metavar="N", help="processor threads (default: all available)"
    )
    parser.add_argument("--kv-cache-dtype", choices=KV_CACHE_DTYPES, default="auto", help="(default: auto)")
    parser.add_argument("--activations", choices=["auto", "int8", "int16"], default="auto", help="of a CPU")
    parser.add_argument(
        "--transformers",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compare the reference with transformers (default: if it is installed)",
    )
    parser.add_argument("--all", action="store_true", help="print every step, not the worst of each kind")
    parser.add_argument(
        "--json", metavar="OUT", help="also write everything as JSON; - writes it to stdout instead"
    )


def run(args: argparse.Namespace) -> int:
    from llama4rt.quality.diff.diff import diff

    with ProgressBar(sys.stderr.isatty(), "comparing", "step") as bar:
        report = diff(
            args.checkpoint,
            args.file,
            text=args.text,
            tokens=args.tokens,
            device=args.device,
            num_threads=args.threads,
            activations=args.activations,
            kv_cache_dtype=args.kv_cache_dtype,
            transformers=args.transformers,
            progress=bar.update,
        )
    if args.json != "-":
        _print(args, report)
    if args.json:
        text = json.dumps(_as_json(args, report), indent=1, allow_nan=False)
        if args.json == "-":
            print(text)
        else:
            Path(args.json).write_text(text + "\n", encoding="utf-8")
            note(f"{args.json}: written")
    return 0 if report.agrees else 1


def _as_json(args: argparse.Namespace, report: "DiffReport") -> "dict[str, object]":
    from llama4rt import _core
    from llama4rt.cli.provenance import command_line, commit, machine

    return {
        "checkpoint": os.path.basename(os.path.abspath(args.checkpoint)),
        "file": os.path.basename(args.file),
        **report.as_json(),
        "machine": machine(),
        "build": _core.build_info(),
        "commit": commit(),
        "command": command_line(["llama4rt", *sys.argv[1:]]),
    }


def _print(args: argparse.Namespace, report: "DiffReport") -> None:
    print(
        f"{os.path.basename(args.file)} beside {os.path.basename(os.path.abspath(args.checkpoint))}: {report.tokens} "
        f"tokens on {report.device}, {report.activations} activations, {report.kv_cache_dtype} cache"
    )
    for difference in report.config_differences:
        print(f"config  {difference}")
    steps = report.steps if args.all else _worst_of_each_kind(report.steps)
    width = max((len(step.name) for step in steps), default=4)
    print(
        f"{'step':<{width}}  {'error':>9}  {'explained':>9}  {'ratio':>6}  {'one output':>10}  {'drift':>9}"
    )
    for step in steps:
        print(
            f"{step.name:<{width}}  {step.error:>9.2e}  {step.explained:>9.2e}  {step.ratio:>6.2f}  {step.worst:>10.2f}"
            f"  {step.drift:>9.2e}  {step.problem or step.note}"
        )
    if report.transformers is not None:
        print(
            f"our reference and transformers differ by {max(report.transformers):.1e} of a layer's output at most"
        )
    elif report.transformers_problem:
        print(f"our reference was not compared with transformers: {report.transformers_problem}")
    problems = report.problems
    if problems:
        others = f", and {len(problems) - 1} further steps" if len(problems) > 1 else ""
        print(f"the file first leaves the checkpoint at {problems[0].name}: {problems[0].problem}{others}")
    elif report.agrees:
        print(f"all {len(report.steps)} steps are what rounding explains")


def _worst_of_each_kind(steps: "tuple[Step, ...]") -> "list[Step]":
    """Those with a problem, and of each kind the one nearest to it: kinds differ by more than the layer."""
    import re

    kinds: dict[str, Step] = {}
    for step in steps:
        kind = re.sub(r"\d+", "N", step.name)
        if kind not in kinds or step.ratio > kinds[kind].ratio:
            kinds[kind] = step
    chosen = {step.name for step in kinds.values()} | {step.name for step in steps if step.problem}
    return [step for step in steps if step.name in chosen]
