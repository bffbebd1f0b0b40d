"""`llama4rt bench serve`: load on an OpenAI-compatible server, reported in vLLM's words.

The client is small and counts tokens by the server's own usage: on a small machine it runs beside what it measures.
"""

import argparse
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llama4rt.cli.numbers import COUNT, SEED, Integer, Real


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "bench-serve",
        help="measure a server under load (also: llama4rt bench serve)",
        description="Send streamed completions to an OpenAI-compatible server and report throughput, TTFT, TPOT, ITL "
        "and E2EL. Prompts are random token ids, so that no prefix is shared, and outputs have a fixed length.",
    )
    parser.add_argument("--base-url", type=_base_url, default="http://127.0.0.1:8000", metavar="URL")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--num-prompts", type=Integer(1, 1_000_000), default=100, metavar="N")
    parser.add_argument("--max-concurrency", type=Integer(1, 65_535), default=32, metavar="N")
    parser.add_argument(
        "--request-rate",
        type=Real(0, 1e6, above_low=True),
        metavar="R",
        help="requests a second, at random times (default: all at once)",
    )
    parser.add_argument("--random-input-len", type=COUNT, default=128, metavar="N")
    parser.add_argument("--random-output-len", type=COUNT, default=128, metavar="N")
    parser.add_argument(
        "--vocab", type=Integer(4, 2**24), default=1000, metavar="N", help="prompt ids are drawn below this"
    )
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")


def _base_url(text: str) -> str:
    try:
        url = urlsplit(text)
        port = url.port  # ValueError outside 0..65535
    except ValueError:
        port = 0
    if port == 0 or url.scheme != "http" or not url.hostname:
        raise argparse.ArgumentTypeError(
            f"{text!r:.200} is not like http://host:port, with a port in 1..65535"
        )
    return text


def run(args: argparse.Namespace) -> int:
    import asyncio

    from llama4rt.errors import Llama4RTError

    results, seconds = asyncio.run(_load(args))
    failed = [result for result in results if result.error]
    report = summary([result for result in results if not result.error], seconds)
    report["failed_requests"] = len(failed)
    if len(failed) < len(results) or args.json:  # else there is nothing to show but the reason
        print(json.dumps(report) if args.json else table(report))
    if failed:
        raise Llama4RTError(f"{len(failed)} requests failed; the first: {failed[0].error}")
    return 0


@dataclass
class Request:
    """What one request felt; times in seconds since it was sent."""

    input_tokens: int = 0
    output_tokens: int = 0
    guessed: int = 0  # tokens, where the server speculates
    guessed_right: int = 0
    times: list[float] = field(default_factory=list)  # of each piece of text
    end: float = 0.0
    error: str = ""


async def _load(args: argparse.Namespace) -> tuple[list[Request], float]:
    import asyncio

    rng = random.Random(args.seed)
    room = asyncio.Semaphore(args.max_concurrency)

    async def one() -> Request:
        prompt = [rng.randrange(3, args.vocab) for _ in range(args.random_input_len)]
        async with room:
            try:
                return await _request(args, prompt)
            except (OSError, EOFError, ValueError, asyncio.IncompleteReadError) as error:
                return Request(error=f"{type(error).__name__}: {error}")

    start = time.perf_counter()
    tasks = []
    for _ in range(args.num_prompts):
        tasks.append(asyncio.ensure_future(one()))
        if args.request_rate:
            await asyncio.sleep(rng.expovariate(args.request_rate))
    results = await asyncio.gather(*tasks)
    return list(results), time.perf_counter() - start


async def _request(args: argparse.Namespace, prompt: list[int]) -> Request:
    import asyncio

    url = urlsplit(args.base_url)
    body = json.dumps(
        {
            "prompt": prompt,
            "max_tokens": args.random_output_len,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    key = f"authorization: Bearer {args.api_key}\r\n" if args.api_key else ""
    head = (
        f"POST {url.path.rstrip('/')}/v1/completions HTTP/1.1\r\nhost: {url.netloc}\r\n{key}"
        f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    result = Request()
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection(url.hostname, url.port or 80)
    try:
        writer.write(head.encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            text = (await reader.read(2000)).decode("utf-8", "replace")
            return Request(error=f"{status.decode('latin-1').strip()} {text[-200:]}")
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue  # the head, sizes of chunks, comments
            if line.startswith(b"data: [DONE]"):
                break
            if b'"choices":[]' in line:
                usage = json.loads(line[6:])["usage"]
                result.input_tokens, result.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
                guesses = usage.get("completion_tokens_details") or {}
                result.guessed_right = guesses.get("accepted_prediction_tokens", 0)
                result.guessed = result.guessed_right + guesses.get("rejected_prediction_tokens", 0)
            elif b'"error"' in line[:16]:
                return Request(error=line.decode("utf-8", "replace")[:200])
            else:
                result.times.append(time.perf_counter() - start)
    finally:
        writer.close()
    result.end = time.perf_counter() - start
    return result


def summary(results: list[Request], seconds: float) -> dict[str, Any]:
    """vLLM's names. TPOT: time per output token after the first; ITL: between pieces; E2EL: the whole request.

    A request whose tokens came in one piece says nothing of the time between tokens. Where no request says anything of
    a figure, it is None.
    """
    inputs = sum(result.input_tokens for result in results)
    outputs = sum(result.output_tokens for result in results)
    report: dict[str, Any] = {
        "completed": len(results),
        "duration": seconds,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(results) / seconds,
        "output_throughput": outputs / seconds,
        "total_token_throughput": (inputs + outputs) / seconds,
        "guessed_tokens": sum(result.guessed for result in results),
        "accepted_tokens": sum(result.guessed_right for result in results),
    }
    series = {
        "ttft": [result.times[0] for result in results if result.times],
        "tpot": [
            (result.times[-1] - result.times[0]) / (result.output_tokens - 1)
            for result in results
            if result.output_tokens > 1 and len(result.times) > 1
        ],
        "itl": [b - a for result in results for a, b in zip(result.times, result.times[1:], strict=False)],
        "e2el": [result.end for result in results],
    }
    for name, values in series.items():
        milliseconds = sorted(1000 * value for value in values)
        none = not milliseconds
        report[f"mean_{name}_ms"] = None if none else statistics.fmean(milliseconds)
        report[f"median_{name}_ms"] = None if none else statistics.median(milliseconds)
        report[f"p99_{name}_ms"] = (
            None if none else milliseconds[min(len(milliseconds) - 1, int(0.99 * len(milliseconds)))]
        )
    return report


_TITLES = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


def table(report: dict[str, Any]) -> str:
    rows = [
        "============ Serving Benchmark Result ============",
        _row("Successful requests:", report["completed"]),
        _row("Failed requests:", report["failed_requests"]),
        _row("Benchmark duration (s):", report["duration"]),
        _row("Total input tokens:", report["total_input_tokens"]),
        _row("Total generated tokens:", report["total_output_tokens"]),
        _row("Request throughput (req/s):", report["request_throughput"]),
        _row("Output token throughput (tok/s):", report["output_throughput"]),
        _row("Total Token throughput (tok/s):", report["total_token_throughput"]),
    ]
    if report["guessed_tokens"]:
        rows.append(_row("Guessed tokens:", report["guessed_tokens"]))
        rows.append(_row("Of them accepted:", report["accepted_tokens"]))
    for name, title in _TITLES.items():
        rows.append(title.center(50, "-"))
        rows += [_row(f"{kind.capitalize()} {name.upper()} (ms):", report[f"{kind}_{name}_ms"])
                 for kind in ("mean", "median", "p99")]  # fmt: skip
    return "\n".join([*rows, "=" * 50])


def _row(name: str, value: float | None) -> str:
    if value is None:
        return f"{name:<40}-"
    return f"{name:<40}{value:<10}" if isinstance(value, int) else f"{name:<40}{value:<10.2f}"
