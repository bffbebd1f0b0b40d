"""`llama4rt chat`: talk with the model, line by line."""

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING

from llama4rt.cli.options import add_engine_options, add_sampling_options, note, open_engine, sampling_params

if TYPE_CHECKING:
    from llama4rt.engine import Engine
    from llama4rt.sampling_params import SamplingParams

_HELP = "/reset forgets the conversation, /exit ends it (Ctrl-D too), Ctrl-C stops an answer"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "chat", help="talk with the model", description=f"Talk with the model line by line. {_HELP}."
    )
    add_engine_options(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system prompt")
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    params = sampling_params(args, max_tokens=None)
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # gives input() its line editing
    beginning = [{"role": "system", "content": args.system}] if args.system else []
    messages = list(beginning)
    with open_engine(args) as engine:
        if interactive:
            note(_HELP)
        while True:
            try:
                line = input("> " if interactive else "").strip()
            except EOFError:
                return 0
            if line == "/exit":
                return 0
            if line == "/reset":
                messages = list(beginning)
            elif line.startswith("/"):
                note(_HELP)
            elif line:
                messages.append({"role": "user", "content": line})
                messages.append({"role": "assistant", "content": _answer(engine, messages, params)})


def _answer(engine: "Engine", messages: list[dict[str, str]], params: "SamplingParams") -> str:
    """Streams the answer to stdout; Ctrl-C ends it early and keeps what was said."""
    texts = []
    try:
        for delta in engine.stream(engine.apply_chat_template(messages), params):
            texts.append(delta.text)
            print(delta.text, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        note(" [stopped]")
    print(flush=True)
    return "".join(texts)
