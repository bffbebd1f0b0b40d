"""`llama4rt bench`: prefill and decode speed in llama-bench's words, against what this machine can do.

Drives the native engine directly with random tokens, so that neither text nor threads are in the numbers.
"""

import argparse
import json
import math
import random
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama4rt.cli.options import add_engine_options, engine_file, note

if TYPE_CHECKING:
    from llama4rt._core import Engine, Event

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


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "bench",
        help="measure speed",
        description="Measure prefill (pp) and decode (tg) speed, mean and standard deviation, and what part "
        "that is of this machine's read bandwidth (decode) and multiply-add peak (prefill), "
        "measured in the same run.",
    )
    add_engine_options(parser)
    parser.add_argument(
        "-p", "--prompt", type=_numbers(0), default=[512], metavar="N,..", help="prefill tokens; 0: none"
    )
    parser.add_argument(
        "-n", "--gen", type=_numbers(0), default=[128], metavar="N,..", help="decode tokens; 0: none"
    )
    parser.add_argument(
        "-d", "--depth", type=_numbers(0), default=[0], metavar="N,..", help="tokens already in the cache"
    )
    parser.add_argument(
        "-b", "--batch", type=_numbers(1), default=[1], metavar="N,..", help="sequences at a time"
    )
    parser.add_argument("-r", "--repetitions", type=int, default=5, metavar="N")
    parser.add_argument("-o", "--output", choices=["md", "json"], default="md")


def run(args: argparse.Namespace) -> int:
    from llama4rt import _core
    from llama4rt.cli.bench_cost import ModelCost, machine
    from llama4rt.engine_options import parse_bytes

    if args.repetitions < 1:
        raise _core.ConfigError(f"-r is {args.repetitions}; it must be at least 1")
    path = engine_file(args)
    longest = max(args.depth) + max(max(args.prompt), max(args.gen) + _DECODE_SLACK + max(args.batch)) + 2
    core = _core.Engine(
        path,
        device=args.device,
        num_threads=args.threads or 0,
        max_model_len=args.max_model_len or 0,
        max_num_seqs=max(args.batch),
        kv_cache_bytes=parse_bytes("kv_cache_memory", args.kv_cache_memory),
    )
    if longest > core.max_model_len:
        raise _core.ConfigError(
            f"these tests need {longest} tokens of context; max_model_len is {core.max_model_len}"
        )
    limits = _core.measure_machine(args.threads or 0)
    cost = ModelCost(path, core.config, "f32" if core.backend == "reference" else "bf16")
    bench = Bench(core)
    results = []
    for depth in args.depth:
        for batch in args.batch:
            for tokens in (n for n in args.prompt if n):
                result = Result(_title("pp", tokens, depth, batch), "prefill", tokens, depth, batch)
                for _ in range(args.repetitions):
                    result.samples.append(bench.prefill(tokens, depth, batch))
                results.append(summed_up(result, cost, limits))
                note(f"{result.test}: {result.mean:.2f} ± {result.sd:.2f} tokens/s")
            for tokens in (n for n in args.gen if n):
                result = Result(_title("tg", tokens, depth, batch), "decode", tokens, depth, batch)
                for _ in range(args.repetitions):
                    result.samples.append(bench.decode(tokens, depth, batch))
                results.append(summed_up(result, cost, limits))
                note(f"{result.test}: {result.mean:.2f} ± {result.sd:.2f} tokens/s")
    core.close()
    threads = args.threads or _core.available_cpus()
    if args.output == "json":
        report = {
            "engine": Path(path).name,
            "engine_bytes": cost.total_bytes,
            "device": core.backend,
            "threads": threads,
            "machine": machine(),
            "limits": limits,
            "build": _core.build_info(),
            "commit": _commit(),
            "results": [asdict(result) for result in results],
        }
        print(json.dumps(report, indent=2))
    else:
        _print_table(results, Path(path).name, cost.total_bytes, threads, limits)
    return 0


class Bench:
    """Runs the tests on one native engine, stepping it here."""

    def __init__(self, core: "Engine") -> None:
        self._core = core
        self._random = random.Random(4)
        self._vocab = core.config["vocab_size"]
        # Stands for a piece of a picture: such a token alone is refused.
        self._patch = core.config.get("vision", {}).get("patch_token_id", -1)
        self._prefixes: dict[tuple[int, int], list[int]] = {}

    def prefill(self, tokens: int, depth: int, batch: int) -> float:
        """Tokens per second until each of `batch` new prompts behind `depth` cached tokens has its first
        token.
        """
        prompts = [self._prefix(depth, i) + self._tokens(tokens) for i in range(batch)]
        waiting = set()
        start = time.perf_counter()
        for prompt in prompts:
            waiting.add(self._submit(prompt, 1, use_prefix_cache=depth > 0))
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
        running = {self._submit(prompt, room, use_prefix_cache=True) for prompt in prompts}
        started: set[int] = set()
        while started != running:
            for event in self._step():
                if event.token_id >= 0:
                    started.add(event.request_id)
        count = 0
        start = time.perf_counter()
        while count < tokens * batch:
            events = self._step()
            count += sum(event.token_id >= 0 for event in events)
            if not events and not self._core.has_work():
                break  # all ended early: too little room for so slow a prefill
        seconds = time.perf_counter() - start
        for request_id in running:
            self._core.abort(request_id)
        self._drain()
        return count / seconds

    def _prefix(self, depth: int, index: int) -> list[int]:
        """The same `depth` tokens each time, computed before they are needed; the prefix cache keeps them."""
        if depth == 0:
            return []
        if (depth, index) not in self._prefixes:
            self._prefixes[depth, index] = self._tokens(depth)
            self._submit(self._prefixes[depth, index], 1, use_prefix_cache=True)
            self._drain()
        return self._prefixes[depth, index]

    def _tokens(self, count: int) -> list[int]:
        drawn = (self._random.randrange(self._vocab) for _ in range(count))
        return [0 if token == self._patch else token for token in drawn]

    def _submit(self, prompt: list[int], max_tokens: int, *, use_prefix_cache: bool) -> int:
        from llama4rt._core import Request

        request = Request()
        request.prompt_token_ids = prompt
        request.max_tokens = max_tokens
        request.temperature = 0.0
        request.ignore_eos = True
        request.use_prefix_cache = use_prefix_cache
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


def summed_up(result: Result, cost: Any, limits: dict[str, float]) -> Result:
    result.mean = statistics.fmean(result.samples)
    result.sd = statistics.stdev(result.samples) if len(result.samples) > 1 else 0.0
    if result.kind == "decode":
        steps_per_second = result.mean / result.batch
        contexts = range(max(result.depth, 1), max(result.depth, 1) + result.tokens)
        bytes_per_step = statistics.fmean(cost.decode_bytes(result.batch, context) for context in contexts)
        result.gbps = steps_per_second * bytes_per_step / 1e9
        result.bandwidth_fraction = result.gbps / limits["read_gbps"]
    else:
        flops_per_token = cost.prefill_flops(result.batch, result.tokens, result.depth) / (
            result.batch * result.tokens
        )
        result.gflops = result.mean * flops_per_token / 1e9
        result.fma_fraction = result.gflops / limits["fma_gflops"]
    return result


def _title(kind: str, tokens: int, depth: int, batch: int) -> str:
    return f"{kind}{tokens}" + (f" @ d{depth}" if depth else "") + (f", b{batch}" if batch > 1 else "")


def _print_table(results: list[Result], name: str, size: int, threads: int, limits: dict[str, float]) -> None:
    print("| engine | size | threads | test | tokens/s | of bandwidth | of FMA peak |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for result in results:
        speed = f"{result.mean:.2f} ± {result.sd:.2f}"
        columns = [name, f"{size / 2**30:.2f} GiB", str(threads), result.test, speed]
        print(
            "|",
            " | ".join([*columns, _percent(result.bandwidth_fraction), _percent(result.fma_fraction)]),
            "|",
        )
    print(
        f"\nThis machine, measured in the same run: {limits['read_gbps']:.1f} GB/s, "
        f"{limits['fma_gflops']:.0f} GFLOP/s."
    )


def _percent(fraction: float | None) -> str:
    return "" if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.0f} %"


def _commit() -> str | None:
    """The commit of the source tree that this package runs from, if it does."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _numbers(minimum: int) -> Any:
    """An argparse type: 0,4096 as a list of integers."""

    def parse(text: str) -> list[int]:
        numbers = [int(part) for part in text.split(",")]
        if min(numbers) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} has a number below {minimum}")
        return numbers

    parse.__name__ = "number list"
    return parse
