"""`llama4rt bench`: prefill and decode speed in llama-bench's words, against what this machine can do.

Drives the native engine directly with random tokens, so that neither text nor threads are in the numbers.
"""

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama4rt.cli.common_options import WEIGHT_KINDS, add_engine_options, engine_file, kv_cache_dtypes, note
from llama4rt.cli.numbers import INT32_MAX, SEQUENCES, SIZE, Integer, Integers, Tokens

if TYPE_CHECKING:
    from llama4rt._core import Engine, Event
    from llama4rt.cli.bench_cost import ModelCost

_TOKENS = Integers(Tokens(0, INT32_MAX))
_WARM_TOKENS = 512  # of a prompt: enough to meet every expert
_DECODE_SLACK = 64  # tokens that early sequences of a batch may decode while late ones still prefill


@dataclass
class Result:
    """One line of the table."""

    test: str  # "pp512", "tg128 @ d4096, b8"
    kind: str  # "prefill" or "decode"
    tokens: int
    depth: int
    batch: int
    samples: list[float] = field(default_factory=list)  # tokens per second, all sequences together
    mean: float = 0.0
    sd: float = 0.0
    gbps: float | None = None  # bytes that had to be read per second (decode)
    bandwidth_fraction: float | None = None
    gflops: float | None = None  # operations that had to be done per second (prefill)
    fma_fraction: float | None = None
    tokens_per_step: float | None = None  # of a sequence, with --speculate (decode)
    acceptance: list[float] | None = None  # of guesses, by position behind the latest token
    int8_fraction: float | None = None  # of the peak of byte products, where it was measured
    # Of the experts of a layer, the mean part that a step read: counted (decode), where the device tells.
    expert_share: float | None = None


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "bench",
        help="measure speed",
        description="Measure prefill (pp) and decode (tg) speed, mean and standard deviation, and what part "
        "that is of this machine's read bandwidth (decode) and multiply-add peak (prefill): measured in the same "
        "run on a CPU, from the data sheet of a GPU. --config NAME --load dummy measures a model's shape without its "
        "weights. --model-gpu predicts instead of measuring.",
    )
    add_engine_options(parser, or_demo=True)
    parser.add_argument(
        "-p", "--prompt", type=_TOKENS, default=[512], metavar="N,..", help="prefill tokens; 0: none"
    )
    parser.add_argument(
        "-n", "--gen", type=_TOKENS, default=[128], metavar="N,..", help="decode tokens; 0: none"
    )
    parser.add_argument(
        "-d",
        "--depth",
        type=_TOKENS,
        default=[0],
        metavar="N,..",
        help="tokens already in the cache: computed first, or with --load dummy taken as computed",
    )
    parser.add_argument(
        "-b", "--batch", type=Integers(SEQUENCES), default=[1], metavar="N,..", help="sequences at a time"
    )
    parser.add_argument("-r", "--repetitions", type=Integer(1, 1_000_000), default=5, metavar="N")
    parser.add_argument("-o", "--output", choices=["md", "json"], default="md")
    parser.add_argument(
        "--plot", metavar="FILE.svg", help="also draw speed by depth and batch, with the machine's limit"
    )
    parser.add_argument(
        "--gpu-memory", type=SIZE, metavar="SIZE", help="what to take of the device (default: what is free)"
    )
    parser.add_argument(
        "--config",
        metavar="NAME",
        help="instead of FILE: scout, maverick, tiny, or the path of a config.json",
    )
    parser.add_argument(
        "--load", choices=["file", "dummy"], help="dummy: random weights, made where they are needed"
    )
    parser.add_argument(
        "--model-gpu",
        choices=["h200", "h100"],
        help="with --config: predict the speed on that GPU from the kernels' machine code; needs none",
    )
    parser.add_argument("--quantize", choices=["linear", "experts"], default="linear", help="with --config")
    parser.add_argument("--lm-head", choices=["auto", *WEIGHT_KINDS], default="auto", help="with --config")


def run(args: argparse.Namespace) -> int:
    from llama4rt import _core
    from llama4rt.cli.provenance import commit, machine

    if args.model_gpu is not None:
        from llama4rt.cli import bench_model

        return bench_model.run(args)
    if args.plot is not None and not args.plot.endswith(".svg"):
        raise _core.ConfigError(f"--plot {args.plot}: the picture is an SVG; its name must end in .svg")
    longest = max(args.depth) + max(max(args.prompt), max(args.gen) + _DECODE_SLACK + max(args.batch)) + 2
    start = time.perf_counter()
    core, cost, name = _open(args, longest)
    load_seconds = time.perf_counter() - start
    if longest > core.max_model_len:
        raise _core.ConfigError(
            f"these tests need {longest} tokens of context; max_model_len is {core.max_model_len}"
        )
    limits = _limits(core.device, args.threads or 0)
    bench = Bench(core, dummy=args.config is not None)
    results = []
    for kind, tokens, depth, batch in _tests(args):
        result = Result(
            _title("pp" if kind == "prefill" else "tg", tokens, depth, batch), kind, tokens, depth, batch
        )
        room = tokens + 1 if kind == "prefill" else tokens + _DECODE_SLACK + batch
        if not bench.has_room(depth + room, batch):
            note(f"{result.test}: left out, the cache holds fewer tokens")
            continue
        measure = bench.prefill if kind == "prefill" else bench.decode
        # Once unmeasured: pages of weights come in, a GPU loads kernels and records steps.
        measure(min(tokens, _WARM_TOKENS) if core.device.startswith("cpu") else tokens, depth, batch)
        result.samples = [measure(tokens, depth, batch) for _ in range(args.repetitions)]
        if args.speculate != "off" and kind == "decode":
            result.tokens_per_step, result.acceptance = bench.guesses()
        result.expert_share = bench.expert_share if kind == "decode" else None
        results.append(summed_up(result, cost, limits))
        note(f"{result.test}: {result.mean:.2f} ± {result.sd:.2f} tokens/s{_guesses_in_words(result)}")
    plan = core.plan()
    device = core.device
    core.close()
    threads = args.threads or _core.available_cpus()
    if args.plot is not None:
        from llama4rt.cli.bench_plot import svg

        Path(args.plot).write_text(svg(results, f"{name}, {threads} threads, {device}"), encoding="utf-8")
    if args.output == "json":
        report = {
            "engine": name,
            "engine_bytes": cost.total_bytes,
            "weights": "random" if args.config is not None else "file",
            "device": device,
            "device_name": _device_name(device),
            "threads": threads,
            "machine": machine(),
            "limits": limits,
            "load_seconds": round(load_seconds, 3),
            "plan": plan,
            "build": _core.build_info(),
            "commit": commit(),
            "results": [asdict(result) for result in results],
        }
        print(json.dumps(report, indent=2))
    else:
        _print_table(results, name, cost.total_bytes, threads, limits)
    return 0


def _open(args: argparse.Namespace, longest: int) -> "tuple[Engine, ModelCost, str]":
    """The engine, what its model costs, and what to call it."""
    from llama4rt import _core
    from llama4rt.cli.bench_cost import ModelCost
    from llama4rt.cli.plan import weight_options
    from llama4rt.convert.named_configs import model_config
    from llama4rt.engine.engine_options import parse_bytes

    options: dict[str, Any] = {
        "device": args.device,
        "num_threads": args.threads or 0,
        "max_num_seqs": max(args.batch),
        "kv_cache_bytes": parse_bytes("kv_cache_memory", args.kv_cache_memory),
        "memory_bytes": parse_bytes("gpu_memory", args.gpu_memory),
        **kv_cache_dtypes(args),
        "activations": args.activations,
        "cuda_prefill": args.cuda_prefill,
        "cuda_run_ahead": args.cuda_run_ahead,
        "cuda_overlap": args.cuda_overlap,
        "speculate": args.speculate,
    }
    if args.config is None:
        if args.load == "dummy":
            raise _core.ConfigError("--load dummy goes with --config NAME")
        path = engine_file(args)
        core = _core.Engine(path, max_model_len=args.max_model_len or 0, **options)
        return core, ModelCost.of_file(path, core.config, *_kv_dtypes(args, core)), Path(path).name
    if args.load != "dummy" or args.file is not None:
        raise _core.ConfigError("--config has no weights: it goes with --load dummy, and without FILE")
    config = model_config(args.config)
    weights = weight_options(args)
    core = _core.Engine.dummy(config, max_model_len=args.max_model_len or longest, **options, **weights)
    name = f"{Path(args.config).stem} {weights['weights']} (random weights)"
    return core, ModelCost.of_config(config, weights, *_kv_dtypes(args, core)), name


def _kv_dtypes(args: argparse.Namespace, core: "Engine") -> tuple[str, str]:
    """The cache formats of the global and of the local layers, "auto" resolved."""
    from llama4rt import _core

    auto = _core.auto_kv_format(core.device, core.config["head_dim"])
    wanted = args.kv_cache_dtype, args.kv_cache_dtype_local or args.kv_cache_dtype
    kv_global, kv_local = (auto if name == "auto" else name for name in wanted)
    return kv_global, kv_local


def _limits(device: str, threads: int) -> dict[str, float]:
    """Bytes and operations per second: measured on a CPU, of a GPU what its clocks and units make possible."""
    from llama4rt import _core

    if not device.startswith("cuda"):
        return _core.measure_machine(threads)
    found = _core.find_cuda()["devices"][int(device.partition(":")[2])]
    return {"read_gbps": found["peak_gbps"], "fma_gflops": 1000 * found["peak_tflops"]}


def _device_name(device: str) -> str:
    from llama4rt import _core
    from llama4rt.cli.provenance import machine

    if not device.startswith("cuda"):
        return str(machine()["cpu"])
    return str(_core.find_cuda()["devices"][int(device.partition(":")[2])]["name"])


def _tests(args: argparse.Namespace) -> Iterator[tuple[str, int, int, int]]:
    """(kind, tokens, depth, batch) of every line of the table."""
    for depth in args.depth:
        for batch in args.batch:
            yield from (("prefill", n, depth, batch) for n in args.prompt if n)
            yield from (("decode", n, depth, batch) for n in args.gen if n)


class Bench:
    """Runs the tests on one native engine, stepping it here."""

    def __init__(self, core: "Engine", *, dummy: bool = False) -> None:
        """dummy: of random weights, whose cached tokens need not be computed."""
        self._core = core
        self._dummy = dummy
        self._random = random.Random(4)
        self._vocab = core.config["vocab_size"]
        # Stands for a piece of a picture: such a token alone is refused.
        self._patch = core.config.get("vision", {}).get("patch_token_id", -1)
        self._prefixes: dict[tuple[int, int], list[int]] = {}
        self._guesses: dict[str, Any] = core.stats()["speculation"]  # as far as they are reported
        self.expert_share: float | None = None  # see Result; of the latest decode()

    def has_room(self, length: int, batch: int) -> bool:
        """Whether the cache holds `batch` sequences of so many tokens."""
        stats = self._core.stats()
        size = stats["block_size"]
        chunk = self._core.config["attention_chunk_size"] if any(self._core.config["chunked_layers"]) else 0
        blocks = {"global": length, "local": min(length, chunk)}
        return length <= self._core.max_model_len and all(
            stats["blocks"][group]["total"] == 0
            or batch * -(-count // size) <= stats["blocks"][group]["total"]
            for group, count in blocks.items()
        )

    def prefill(self, tokens: int, depth: int, batch: int) -> float:
        """Tokens per second until each of `batch` new prompts behind `depth` cached tokens has its first token."""
        prompts = [self._prefix(depth, i) + self._tokens(tokens) for i in range(batch)]
        waiting = set()
        start = time.perf_counter()
        for prompt in prompts:
            waiting.add(self._submit(prompt, 1, use_prefix_cache=depth > 0, computed=depth))
        cached = 0
        while waiting:
            for event in self._step():
                cached += event.cached_tokens
                waiting.discard(event.request_id)
        seconds = time.perf_counter() - start
        self._drain()
        return (batch * (depth + tokens) - cached) / seconds

    def decode(self, tokens: int, depth: int, batch: int) -> float:
        """Tokens per second of `batch` sequences, from when all are decoding until `tokens` more of each."""
        room = tokens + _DECODE_SLACK + batch
        prompts = [self._prefix(max(depth, 1), i) for i in range(batch)]
        running = {self._submit(p, room, use_prefix_cache=True, computed=len(p) - 1) for p in prompts}
        started: set[int] = set()
        while started != running:
            for event in self._step():
                if event.token_ids:
                    started.add(event.request_id)
        count = 0
        before = self._core.stats()
        start = time.perf_counter()
        while count < tokens * batch:
            events = self._step()
            count += sum(len(event.token_ids) for event in events)
            if not events and not self._core.has_work():
                break  # all ended early: too little room for so slow a prefill
        seconds = time.perf_counter() - start
        self.expert_share = _expert_share(before, self._core.stats())
        for request_id in running:
            self._core.abort(request_id)
        self._drain()
        return count / seconds

    def guesses(self) -> tuple[float, list[float]]:
        """Tokens a step of a sequence, and the share of right guesses by position, since the last call."""
        before, now = self._guesses, self._core.stats()["speculation"]
        self._guesses = now
        steps = now["sequence_steps"] - before["sequence_steps"]
        tried = [a - b for a, b in zip(now["drafted"], before["drafted"], strict=True)]
        right = [a - b for a, b in zip(now["accepted"], before["accepted"], strict=True)]
        shares = [r / t for r, t in zip(right, tried, strict=True) if t]
        return (now["tokens"] - before["tokens"]) / max(steps, 1), shares

    def _prefix(self, depth: int, index: int) -> list[int]:
        """The same `depth` tokens each time, others for each index, computed before they are needed; the prefix cache
        keeps them.
        """
        if depth == 0:
            return []
        if (depth, index) not in self._prefixes:
            self._prefixes[depth, index] = self._tokens(depth)
            if self._dummy:
                return self._prefixes[depth, index]
            self._submit(self._prefixes[depth, index], 1, use_prefix_cache=True)
            self._drain()
        return self._prefixes[depth, index]

    def _tokens(self, count: int) -> list[int]:
        drawn = (self._random.randrange(self._vocab) for _ in range(count))
        return [0 if token == self._patch else token for token in drawn]

    def _submit(
        self, prompt: list[int], max_tokens: int, *, use_prefix_cache: bool, computed: int = 0
    ) -> int:
        from llama4rt._core import Request

        request = Request()
        request.prompt_token_ids = prompt
        request.max_tokens = max_tokens
        request.temperature = 0.0
        request.ignore_eos = True
        request.use_prefix_cache = use_prefix_cache
        if self._dummy:
            request.assume_computed = computed
        return self._core.submit(request)

    def _step(self) -> "list[Event]":
        from llama4rt.errors import Llama4RTError

        events = self._core.step()
        for event in events:
            if event.finish_reason == "error":
                raise Llama4RTError(f"a benchmark request failed: {event.error}")
        return events

    def _drain(self) -> None:
        while self._core.has_work():
            self._step()


def _expert_share(before: dict[str, Any], after: dict[str, Any]) -> float | None:
    """The mean part of a layer's experts that a step between two stats() read."""
    layers = [len(counts) for counts in after["expert_tokens"] if counts]
    steps = after["steps"] - before["steps"]
    if not layers or not steps:
        return None
    reads = sum(after["expert_reads"]) - sum(before["expert_reads"])
    return float(reads / steps / sum(layers))


def summed_up(result: Result, cost: Any, limits: dict[str, float]) -> Result:
    result.mean = statistics.fmean(result.samples)
    result.sd = statistics.stdev(result.samples) if len(result.samples) > 1 else 0.0
    if result.kind == "decode":
        steps_per_second = result.mean / result.batch / (result.tokens_per_step or 1)
        contexts = range(max(result.depth, 1), max(result.depth, 1) + result.tokens)
        bytes_per_step = statistics.fmean(
            cost.decode_bytes(result.batch, context, result.expert_share) for context in contexts
        )
        result.gbps = steps_per_second * bytes_per_step / 1e9
        result.bandwidth_fraction = result.gbps / limits["read_gbps"] if limits["read_gbps"] else None
    else:
        flops_per_token = cost.prefill_flops(result.batch, result.tokens, result.depth) / (
            result.batch * result.tokens
        )
        result.gflops = result.mean * flops_per_token / 1e9
        result.fma_fraction = result.gflops / limits["fma_gflops"] if limits["fma_gflops"] else None
        if limits.get("int8_gops"):
            result.int8_fraction = result.gflops / limits["int8_gops"]
    return result


def _guesses_in_words(result: Result) -> str:
    if result.tokens_per_step is None:
        return ""
    shares = " ".join(f"{100 * share:.0f}" for share in result.acceptance or ())
    return f", {result.tokens_per_step:.2f} tokens a step; of guesses right, by position: {shares or '-'} %"


def _title(kind: str, tokens: int, depth: int, batch: int) -> str:
    return f"{kind}{tokens}" + (f" @ d{depth}" if depth else "") + (f", b{batch}" if batch > 1 else "")


def _print_table(results: list[Result], name: str, size: int, threads: int, limits: dict[str, float]) -> None:
    print("| engine | size | threads | test | tokens/s | of bandwidth | of FMA peak | of int8 peak |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for result in results:
        speed = f"{result.mean:.2f} ± {result.sd:.2f}"
        columns = [name, f"{size / 2**30:.2f} GiB", str(threads), result.test, speed]
        fractions = result.bandwidth_fraction, result.fma_fraction, result.int8_fraction
        print("|", " | ".join([*columns, *map(_percent, fractions)]), "|")
    int8 = f", {limits['int8_gops']:.0f} GOP/s of bytes" if "int8_gops" in limits else ""
    print(
        f"\nThis device's limits: {limits['read_gbps']:.1f} GB/s, {limits['fma_gflops']:.0f} GFLOP/s{int8}."
    )


def _percent(fraction: float | None) -> str:
    return "" if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.0f} %"
