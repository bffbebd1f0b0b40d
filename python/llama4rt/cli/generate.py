"""`llama4rt generate`: continues one prompt and streams the text to stdout."""

import argparse
import json
import sys
import time
from typing import Any

from llama4rt.cli.common_options import (
    add_adapter_options,
    add_engine_options,
    add_image_option,
    add_sampling_options,
    note,
    open_engine,
    sampling_params,
)
from llama4rt.cli.numbers import INT32_MAX, Integer, Integers


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("generate", help="continue a prompt", description="Continue a prompt.")
    add_engine_options(parser, or_demo=True, store=True)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("-p", "--prompt", metavar="TEXT", help="the prompt; - reads it from stdin")
    prompt.add_argument(
        "--token-ids",
        type=Integers(Integer(0, INT32_MAX)),
        metavar="IDS",
        help="the prompt as token ids: 200000,9906",
    )
    add_image_option(parser, "each <|image|> of the prompt takes the next; without any they come first")
    add_adapter_options(parser, choose=True)
    add_sampling_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object at the end instead of the text"
    )


def run(args: argparse.Namespace) -> int:
    from llama4rt.images.image_tokens import PLACEHOLDER

    params = sampling_params(args)
    prompt: Any = args.prompt if args.token_ids is None else args.token_ids
    if prompt == "-":
        prompt = sys.stdin.read()
    with open_engine(args, tokenizer_for=None if args.token_ids else "a text prompt") as engine:
        if args.image and isinstance(prompt, str) and PLACEHOLDER not in prompt:
            prompt = PLACEHOLDER * len(args.image) + prompt
        prepared = engine.prepare(prompt, images=args.image or None)
        show = _show_text if engine.tokenizer is not None else _show_ids
        texts: list[str] = []
        token_ids: list[int] = []
        finish_reason = None
        reused = 0
        start = time.perf_counter()
        first = None
        for delta in engine.stream(prepared, params):
            first = first or time.perf_counter()
            texts.append(delta.text)
            token_ids += delta.token_ids
            finish_reason = delta.finish_reason or finish_reason
            reused = delta.num_cached_tokens or reused
            if not args.json:
                show(delta.text, delta.token_ids)
        end = time.perf_counter()
    prompt_seconds = (first or end) - start
    output_seconds = end - (first or end)
    if args.json:
        result = {
            "prompt_token_ids": prepared.token_ids,
            "text": "".join(texts),
            "token_ids": token_ids,
            "finish_reason": finish_reason,
            "num_cached_tokens": reused,
            "prompt_seconds": round(prompt_seconds, 6),
            "output_seconds": round(output_seconds, 6),
        }
        print(json.dumps(result, ensure_ascii=False))
    else:
        print()
    decoded = max(len(token_ids) - 1, 0)  # the first token belongs to the prompt's time
    found = f" ({reused} of them reused)" if reused else ""
    note(
        f"prompt: {_speed(len(prepared.token_ids), prompt_seconds)}{found}; output: {_speed(decoded, output_seconds)}"
    )
    return 0


def _show_text(text: str, _: list[int]) -> None:
    print(text, end="", flush=True)


def _show_ids(_: str, token_ids: list[int]) -> None:
    print(*token_ids, end=" ", flush=True)


def _speed(tokens: int, seconds: float) -> str:
    rate = tokens / seconds if seconds > 0 else 0.0
    return f"{tokens} tokens in {seconds:.2f} s, {rate:.1f} tokens/s"
