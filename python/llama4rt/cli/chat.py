"""`llama4rt chat`: talk with the model, line by line."""

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from llama4rt.cli.common_options import (
    add_engine_options,
    add_image_option,
    add_sampling_options,
    note,
    open_engine,
    sampling_params,
)

if TYPE_CHECKING:
    from llama4rt.engine.engine import Engine
    from llama4rt.engine.sampling_params import SamplingParams

_HELP = (
    "/image FILE shows a picture with the next line, /reset forgets the conversation, /exit ends it (Ctrl-D too), "
    "Ctrl-C stops an answer"
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "chat", help="talk with the model", description=f"Talk with the model line by line. {_HELP}."
    )
    add_engine_options(parser, or_demo=True)
    parser.add_argument("--system", metavar="TEXT", help="a system prompt")
    add_image_option(parser, "shown with the first line")
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    from llama4rt.errors import RequestError

    params = sampling_params(args, max_tokens=None)
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # gives input() its line editing
    beginning: list[dict[str, Any]] = [{"role": "system", "content": args.system}] if args.system else []
    messages = list(beginning)
    with open_engine(args, tokenizer_for="chat") as engine:
        pictures = [_picture(engine, path) for path in args.image]  # for the next line
        if interactive:
            note(_HELP)
        while True:
            try:
                line = input("> " if interactive else "").strip()
            except EOFError:
                return 0
            command, _, argument = line.partition(" ")
            if line == "/exit":
                return 0
            if line == "/reset":
                messages, pictures = list(beginning), []
            elif command == "/image" and argument.strip():
                try:
                    pictures.append(_picture(engine, argument.strip()))
                except RequestError as error:
                    note(f"error: {error}")
            elif line.startswith("/"):
                note(_HELP)
            elif line:
                content = [*pictures, {"type": "text", "text": line}] if pictures else line
                messages.append({"role": "user", "content": content})
                pictures = []
                messages.append({"role": "assistant", "content": _answer(engine, messages, params)})


def _picture(engine: "Engine", source: str) -> dict[str, Any]:
    """The part of a message; read here, so that a wrong path is said at once and a URL is fetched only once."""
    return {"type": "image", "image": engine.load_image(source)}


def _answer(engine: "Engine", messages: list[dict[str, Any]], params: "SamplingParams") -> str:
    """Streams the answer to stdout; Ctrl-C ends it early and keeps what was said."""
    texts = []
    try:
        for delta in engine.stream(engine.prepare_chat(messages), params):
            texts.append(delta.text)
            print(delta.text, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        note(" [stopped]")
    print(flush=True)
    return "".join(texts)
