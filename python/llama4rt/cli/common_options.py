"""Options that several commands share: how to open an engine, how to sample."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama4rt.cli.numbers import COUNT, GROUP_SIZE, INT32_MAX, SEED, SIZE, THREADS, Integer, Real
from llama4rt.cli.progress import ProgressBar

if TYPE_CHECKING:
    from llama4rt.engine.engine import Engine
    from llama4rt.engine.sampling_params import SamplingParams

# The names of csrc/ops/kv_formats.h and csrc/weights/weight_formats.h: --help must not load the native module.
# test_cli.py holds them to the tables.
GROUP_SIZES = (16, 32, 64, 128)
KV_CACHE_DTYPES = ("auto", "bf16", "f32", "fp8", "int8", "int16", "int4")
ADAPTER_MEMORY = "1GiB"  # where adapters are loaded and nobody says how much
WEIGHT_KINDS = ("bf16", "int8", "int4", "fp8")


def add_engine_options(
    parser: argparse.ArgumentParser, *, or_demo: bool = False, store: bool = False
) -> None:
    """or_demo: FILE may be left out; then it is the demo model's. store: with the options of a store."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?" if or_demo else None,
        help="an engine file; or a checkpoint directory, GGUF file or hub id, built into the cache the first time"
        + ("; without it, the demo model that ships with llama4rt" if or_demo else ""),
    )
    group = parser.add_argument_group("engine")
    group.add_argument("--device", default="auto", help="auto, cpu, reference or cuda:N (default: auto)")
    group.add_argument(
        "-t", "--threads", type=THREADS, metavar="N", help="processor threads (default: all available)"
    )
    group.add_argument(
        "--max-model-len", type=COUNT, metavar="N", help="longest prompt and output together, in tokens"
    )
    group.add_argument(
        "--kv-cache-memory", type=SIZE, metavar="SIZE", help="memory for keys and values, such as 4GiB"
    )
    add_kv_cache_dtypes(group)
    group.add_argument(
        "--activations",
        choices=["auto", "int8", "int16"],
        default="auto",
        help="what a CPU multiplies int4 weights with: int16 is slower and rounds less (default: auto)",
    )
    group.add_argument(
        "--cuda-prefill",
        choices=["auto", "medium"],
        default="auto",
        help="kernels of a GPU for many rows: medium keeps wgmma out (default: auto)",
    )
    group.add_argument(
        "--cuda-run-ahead",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="on a GPU, submit a step before the tokens of the one before it are known",
    )
    group.add_argument(
        "--cuda-overlap",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="on a GPU, let a kernel's blocks start before the kernel before it has ended",
    )
    group.add_argument(
        "--speculate",
        metavar="off|auto|ngram|FILE",
        default="off",
        help="compute guesses of what comes next beside the latest token; changes no token, takes fewer steps. auto: "
        "what repeats itself, while that gains time; ngram: all of it; FILE: the engine file of a small model of the "
        "same vocabulary, which guesses (default: off)",
    )
    group.add_argument("--weights", choices=WEIGHT_KINDS, help="when FILE is a checkpoint: how to build it")
    group.add_argument("--group-size", type=GROUP_SIZE, choices=GROUP_SIZES, help="likewise")
    group.add_argument(
        "--mmproj", metavar="FILE", help="when FILE is a GGUF model: the file of its vision tower"
    )

    if store:
        add_store_options(group)


def add_store_options(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument(
        "--kv-store",
        metavar="DIR",
        help="keep keys and values in this directory, for prompts that come again and for sessions",
    )
    parser.add_argument(
        "--kv-store-size",
        type=SIZE,
        metavar="SIZE",
        help="the most that the directory may take (default: 20GiB)",
    )


def add_adapter_options(parser: argparse.ArgumentParser, *, choose: bool) -> None:
    """choose: with --adapter, for a command that asks once."""
    group = parser.add_argument_group("adapters", "Fine-tunes by LoRA beside the model; docs/adapters.md.")
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="load an adapter of PEFT under this name; may be repeated",
    )
    group.add_argument(
        "--adapter-memory", type=SIZE, metavar="SIZE", help="for adapters (default with --lora: 1GiB)"
    )
    if choose:
        group.add_argument("--adapter", metavar="NAME", help="answer with this one of them")


def load_adapters(args: argparse.Namespace, engine: "Engine") -> None:
    from llama4rt.errors import ConfigError

    for text in args.lora:
        name, equals, directory = text.partition("=")
        if not (name and equals and directory):
            raise ConfigError(f"--lora is {text!r:.200}; it must be NAME=DIR, such as law=./law-adapter")
        engine.load_adapter(name, directory)


def store_directory(args: argparse.Namespace) -> Path:
    """Of sessions: --kv-store, or one in llama4rt's cache folder."""
    from llama4rt.convert.engine_cache import cache_directory

    return Path(args.kv_store) if args.kv_store else cache_directory() / "kv-store"


def add_kv_cache_dtypes(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument(
        "--kv-cache-dtype",
        choices=KV_CACHE_DTYPES,
        default="auto",
        help="how keys and values are kept; int8, int16 and int4 are for CPUs; int8 and fp8 take half the memory,"
        " int4 a quarter (default: auto, int16 on a CPU and bf16 on a GPU)",
    )
    parser.add_argument(
        "--kv-cache-dtype-local",
        choices=KV_CACHE_DTYPES,
        help="the same of the layers that attend in chunks (default: as --kv-cache-dtype)",
    )


def kv_cache_dtypes(args: argparse.Namespace) -> dict[str, str]:
    """add_kv_cache_dtypes' answers, as _core takes them."""
    return {
        "kv_cache_dtype": args.kv_cache_dtype,
        "kv_cache_dtype_local": args.kv_cache_dtype_local or "",
    }


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling", "What is not given takes the checkpoint's own default.")
    group.add_argument("-n", "--max-tokens", type=COUNT, metavar="N", help="at most this many tokens")
    group.add_argument(
        "--temperature", type=Real(0, 100), metavar="T", help="0: always the most likely token"
    )
    group.add_argument("--top-k", type=Integer(-1, INT32_MAX), metavar="K")
    group.add_argument("--top-p", type=Real(0, 1, above_low=True), metavar="P")
    group.add_argument("--min-p", type=Real(0, 1), metavar="P")
    group.add_argument("--repetition-penalty", type=Real(0, 100, above_low=True), metavar="X")
    group.add_argument("--seed", type=SEED, metavar="N", help="makes sampling repeatable")
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="end the output at this text; may be repeated"
    )


def add_image_option(parser: argparse.ArgumentParser, use: str) -> None:
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="PICTURE",
        help=f"a picture: a file, or an http(s) URL; may be repeated; {use}",
    )


def sampling_params(args: argparse.Namespace, **defaults: Any) -> "SamplingParams":
    """SamplingParams of the options given; defaults fill in what was not."""
    from llama4rt.engine.sampling_params import SamplingParams

    names = (
        "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "stop", "adapter",
    )  # fmt: skip
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    return SamplingParams(**{**defaults, **given})


def engine_file(args: argparse.Namespace, *, tokenizer_for: str | None = None) -> str:
    """The path of the engine file that FILE means, built if need be. tokenizer_for: what needs one; a checkpoint
    without is then refused before it is built.
    """
    if args.file is None:
        from llama4rt import demo

        return str(demo.engine_path())
    from llama4rt.convert.engine_cache import engine_path, target_of

    with ProgressBar(shown=sys.stderr.isatty()) as progress:
        return str(
            engine_path(
                args.file,
                notify=note,
                progress=progress.update,
                num_threads=args.threads,
                weights=args.weights,
                group_size=args.group_size,
                mmproj=args.mmproj,
                target=target_of(args.device),
                tokenizer_for=tokenizer_for,
            )
        )


def open_engine(
    args: argparse.Namespace,
    *,
    allow_image_urls: bool = True,
    tokenizer_for: str | None = None,
    **options: Any,
) -> "Engine":
    """allow_image_urls: whoever types the command chooses the URL; over a network others do. tokenizer_for:
    RequestError when there is no tokenizer.
    """
    from llama4rt.engine.engine import Engine
    from llama4rt.text.tokenizer import require_tokenizer

    if getattr(args, "kv_store", None):
        options["kv_store"] = args.kv_store
        if args.kv_store_size:
            options["kv_store_size"] = args.kv_store_size
    if getattr(args, "lora", None) or getattr(args, "adapter_memory", None):
        options["adapter_memory"] = args.adapter_memory or ADAPTER_MEMORY
    engine = Engine(
        engine_file(args, tokenizer_for=tokenizer_for),
        device=args.device,
        num_threads=args.threads,
        max_model_len=args.max_model_len,
        kv_cache_memory=args.kv_cache_memory,
        kv_cache_dtype=args.kv_cache_dtype,
        kv_cache_dtype_local=args.kv_cache_dtype_local,
        activations=args.activations,
        cuda_prefill=args.cuda_prefill,
        cuda_run_ahead=args.cuda_run_ahead,
        cuda_overlap=args.cuda_overlap,
        speculate=args.speculate,
        allow_image_urls=allow_image_urls,
        **options,
    )
    if getattr(args, "lora", None):
        try:
            load_adapters(args, engine)
        except BaseException:
            engine.close()
            raise
    if tokenizer_for is not None:
        require_tokenizer(engine.tokenizer, tokenizer_for)
    return engine


def note(message: str) -> None:
    """A line for the person, beside the results."""
    print(message, file=sys.stderr, flush=True)
