"""The quality table: perplexity, divergence and agreement of engine files beside one that is taken as the truth.

    python benchmarks/quality/quality_table.py --standard model.gguf --work /tmp/quality
    python benchmarks/quality/quality_table.py --standard model.gguf --build "int4 g16: --weights int4 --group-size 16"
    python benchmarks/quality/quality_table.py --reference bf16.l4e int8.l4e int4.l4e,activations=int16 bf16.l4e,kv=int8

--standard makes the usual files of one checkpoint in --work (every kind of weight from its numbers in bf16, and its own
codes as they are; quality_files.py) and measures them, with every format of the cache. --build adds files. Otherwise
the files are given; `,kv=` and `,activations=` behind a name say how one is opened.

Texts are those of texts.py, or files with --text. What a result file has already is not measured again (--fresh begins
anew): a run that was cut off goes on where it was. Writes benchmarks/results/quality-NAME.json after each measurement
and prints a Markdown table. Each row is what `llama4rt eval FILE --against REFERENCE` prints; the reference is computed
once (many_comparisons.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path += [str(HERE), str(ROOT / "benchmarks/e2e")]

from bench_e2e import RESULTS, commit  # noqa: E402
from llama4rt import _core  # noqa: E402
from llama4rt.cli.progress import ProgressBar  # noqa: E402
from llama4rt.cli.provenance import command_line, machine  # noqa: E402
from llama4rt.engine.engine_options import threads  # noqa: E402
from llama4rt.quality.evaluate import EngineChoice  # noqa: E402
from llama4rt.quality.tokens import tokenizer_of  # noqa: E402
from many_comparisons import ManyComparisons  # noqa: E402
from quality_files import Row, standard_rows  # noqa: E402
from texts import TEXTS  # noqa: E402

# What makes two measurements one and the same.
_KEY = ("sha256", "kv", "activations", "begin_token", "windows", "window_length", "text_sha256", "reference")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def encoded(text: str, files: Iterable[Path]) -> list[int]:
    """By the first of the files that has a tokenizer: plain numbers of a GGUF file come without."""
    for path in files:
        tokenizer = tokenizer_of(_core.EngineFile(str(path)))
        if tokenizer is not None:
            return list(tokenizer.encode(text))
    raise SystemExit("none of the engine files has a tokenizer")


def measured(row: Row, reference: Path, many: ManyComparisons, args: argparse.Namespace) -> dict[str, Any]:
    shown = sys.stderr.isatty()
    if not many.has_reference:
        with ProgressBar(shown, "reference", "window") as bar:
            many.compute_reference(reference, EngineChoice(args.reference_kv), bar.update)
    with ProgressBar(shown, row.full_title, "window") as bar:
        return many.measure(row.path, EngineChoice(row.kv, None, row.activations), bar.update).as_json()


def print_tables(report: dict[str, Any]) -> None:
    for text in report["texts"]:
        rows = [row for row in report["rows"] if row["text"] == text]
        if not rows:
            continue
        first = rows[0]["result"]
        print(
            f"\n{text}: {first['windows']} windows of {first['window_length']} tokens, "
            f"{first['predictions']:,} predictions\n"
        )
        print("| | MB | perplexity | loss beside the reference | divergence | same likeliest token |")
        print("|---|---:|---:|---:|---:|---:|")
        for row in rows:
            r, a = row["result"], row["result"]["against"]
            print(
                f"| {row['title']} | {row['bytes'] / 1e6:.1f} | {_cell(r['perplexity'], 2)} | "
                f"{_cell(a['loss_difference'], 4)} | {_cell(a['divergence'], 5)} | {_cell(a['same_best'], 1, 100)} % |"
            )


def _cell(value: dict[str, Any], digits: int, factor: float = 1) -> str:
    error = value["error_windows"] if value["error_windows"] is not None else value["error_tokens"]
    return f"{factor * value['mean']:.{digits}f} ± {factor * error:.{digits}f}"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", metavar="FILE[,kv=..][,activations=..]", type=Row.parse)
    parser.add_argument("--reference", type=Path, help="the engine file that is taken as the truth")
    parser.add_argument("--reference-kv", default="f32", help="its cache (default: f32)")
    parser.add_argument("--standard", type=Path, metavar="CHECKPOINT")
    parser.add_argument(
        "--build", action="append", default=[], metavar="TITLE: OPTIONS", help="beside --standard"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build/quality", help="where engine files are made"
    )
    parser.add_argument(
        "--text", action="append", metavar="NAME|PATH", help=f"of {', '.join(TEXTS)}, or files (default: all)"
    )
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--window-length", type=int, default=512)
    parser.add_argument("--begin-token", action="store_true", help="windows start with begin-of-text")
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("--name", default="smollm2", help="of the result file")
    parser.add_argument("--note", default="")
    parser.add_argument("--fresh", action="store_true")
    args = parser.parse_args()
    if not args.standard and (args.reference is None or not args.files):
        parser.error("give --standard CHECKPOINT, or --reference FILE and files to measure")
    return args


def main() -> None:
    args = parsed()
    rows: list[Row] = args.files
    reference: Path = args.reference
    args.work.mkdir(parents=True, exist_ok=True)
    if args.standard:
        reference, standard = standard_rows(args.standard, args.work, args.build)
        rows = standard + rows
    texts = {
        os.path.basename(name): TEXTS[name]() if name in TEXTS else Path(name).read_text()
        for name in args.text or TEXTS
    }
    hashes = {path: sha256(path) for path in {reference, *(row.path for row in rows)}}
    out = RESULTS / f"quality-{args.name}.json"
    before = {} if args.fresh or not out.is_file() else json.loads(out.read_text())
    known = {_key(row): row["result"] for row in before.get("rows", [])}
    report: dict[str, Any] = {
        "texts": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
        "machine": machine(),
        "build": _core.build_info(),
        "commit": commit(),
        "command": command_line(["python", "benchmarks/quality/quality_table.py", *sys.argv[1:]]),
        "note": args.note,
        "rows": [],
    }
    for name, text in texts.items():
        begin = _config(reference).get("bos_token_id") if args.begin_token else None
        many = ManyComparisons(
            encoded(text, hashes), args.windows, args.window_length, begin, threads(args.threads), args.work
        )
        for row in rows:
            about: dict[str, Any] = {
                "text": name, "title": row.full_title, "build_options": row.build, "bytes": row.path.stat().st_size,
                "sha256": hashes[row.path], "kv": row.kv, "activations": row.activations,
                "begin_token": args.begin_token, "windows": args.windows, "window_length": args.window_length,
                "text_sha256": report["texts"][name], "reference": [hashes[reference], args.reference_kv],
            }  # fmt: skip
            about["result"] = known.get(_key(about)) or measured(row, reference, many, args)
            report["rows"].append(about)
            out.write_text(json.dumps(report, indent=1) + "\n")
            divergence = about["result"]["against"]["divergence"]["mean"]
            print(f"{name}: {about['title']}: {divergence:.5f}", file=sys.stderr, flush=True)
    print_tables(report)


def _config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(_core.EngineFile(str(path)).metadata["config"])
    return config


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(str(row[name]) for name in _KEY)


if __name__ == "__main__":
    main()
