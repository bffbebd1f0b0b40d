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
    store_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llama4rt.engine.engine import Engine
    from llama4rt.engine.outputs import Delta
    from llama4rt.engine.sampling_params import SamplingParams
    from llama4rt.sessions.session import Session

_HELP = (
    "/image FILE shows a picture with the next line, /reset forgets the conversation, /exit ends it (Ctrl-D too), "
    "Ctrl-C stops an answer"
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "chat", help="talk with the model", description=f"Talk with the model line by line. {_HELP}."
    )
    add_engine_options(parser, or_demo=True, store=True)
    parser.add_argument(
        "--session",
        metavar="NAME",
        help="keep the conversation under this name, or go on with it; in --kv-store, or in llama4rt's cache folder",
    )
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
    if args.session is not None:
        args.kv_store = str(store_directory(args))
    beginning: list[dict[str, Any]] = [{"role": "system", "content": args.system}] if args.system else []
    messages = list(beginning)
    with open_engine(args) as engine, contextlib.ExitStack() as stack:
        session = None if args.session is None else stack.enter_context(engine.session(args.session))
        if session is not None and session.num_tokens > 0:
            note(f"going on with {args.session}: {session.num_tokens} tokens")
            beginning = []
        unread = list(beginning)  # messages that the session has not
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
            if line == "/reset" and session is not None:
                note(f"{args.session} is kept; another --session begins anew")
            elif line == "/reset":
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
                pictures = []
                if session is not None:
                    unread.append({"role": "user", "content": content})
                    _go_on(session, unread, params)
                    unread = []
                    continue
                messages.append({"role": "user", "content": content})
                messages.append({"role": "assistant", "content": _answer(engine, messages, params)})


def _picture(engine: "Engine", source: str) -> dict[str, Any]:
    """The part of a message; read here, so that a wrong path is said at once and a URL is fetched only once."""
    return {"type": "image", "image": engine.load_image(source)}


def _go_on(session: "Session", messages: list[dict[str, Any]], params: "SamplingParams") -> None:
    """The same in a session, which keeps what was said."""
    _show(session.stream(messages, params), told=True)


def _answer(engine: "Engine", messages: list[dict[str, Any]], params: "SamplingParams") -> str:
    """Streams the answer to stdout; Ctrl-C ends it early and keeps what was said."""
    return _show(engine.stream(engine.prepare_chat(messages), params))


def _show(deltas: "Iterator[Delta]", *, told: bool = False) -> str:
    """told: says how much was not computed again."""
    texts = []
    reused = None
    try:
        for delta in deltas:
            texts.append(delta.text)
            reused = delta.num_cached_tokens if reused is None else reused
            print(delta.text, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        note(" [stopped]")
    finally:
        deltas.close()  # type: ignore[attr-defined]  # a generator: a session writes down what was said
    print(flush=True)
    if told and reused:
        note(f"[{reused} tokens reused]")
    return "".join(texts)
