"""`llama4rt chat`: talk with the model, line by line."""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama4rt.cli.common_options import (
    add_adapter_options,
    add_engine_options,
    add_image_option,
    add_sampling_options,
    note,
    open_engine,
    sampling_params,
    store_directory,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from llama4rt.engine.engine import Engine
    from llama4rt.engine.sampling_params import SamplingParams
    from llama4rt.sessions.session import Session

_COMMANDS = {
    "/help": "shows this",
    "/system [TEXT]": "sets the system prompt, or shows it; `/system -` takes it away",
    "/image FILE": "shows a picture with the next line",
    "/regen": "answers the last line again",
    "/stats": "what the conversation takes, and how fast the model is",
    "/save FILE": "writes the conversation to a file",
    "/load FILE": "goes on with one",
    "/clear": "forgets what was said; the system prompt stays (also /reset)",
    "/exit": "ends it (also Ctrl-D)",
}
_MORE_HELP = (
    'Ctrl-C stops an answer. A line that ends in \\ goes on in the next; """ begins and ends several lines.'
)
_NOT_IN_A_SESSION = ("/clear", "/reset", "/regen", "/load", "/system")
_BLOCK = '"""'
_HISTORY_LINES = 1000


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "chat",
        help="talk with the model",
        description="Talk with the model line by line. "
        + "; ".join(f"{k}: {v}" for k, v in _COMMANDS.items())
        + ".",
        epilog=_MORE_HELP,
    )
    add_engine_options(parser, or_demo=True, store=True)
    parser.add_argument(
        "--session",
        metavar="NAME",
        help="keep the conversation under this name, or go on with it; in --kv-store, or in llama4rt's cache folder",
    )
    parser.add_argument("--system", metavar="TEXT", help="a system prompt")
    add_image_option(parser, "shown with the first line")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="write answers as they are, without Markdown's colours and weights",
    )
    parser.add_argument(
        "--history",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the lines that were typed for the next time, in ~/.local/state/llama4rt (default)",
    )
    add_adapter_options(parser, choose=True)
    add_sampling_options(parser)


def run(args: argparse.Namespace) -> int:
    params = sampling_params(args, max_tokens=None)
    interactive = sys.stdin.isatty()
    if args.session is not None:
        args.kv_store = str(store_directory(args))
    with (
        open_engine(args, tokenizer_for="chat") as engine,
        contextlib.nullcontext() if args.session is None else engine.session(args.session) as session,
        _line_editing(interactive, args.history),
    ):
        chat = Chat(engine, params, args.system, session, interactive=interactive, plain=args.plain)
        chat.pictures = [engine.load_image(path) for path in args.image]
        if interactive:
            note(_banner(engine))
        while (line := _read(interactive)) is not None:
            if not chat.take(line):
                break
    return 0


def _banner(engine: "Engine") -> str:
    sees = "reads text and pictures" if engine.config.get("vision") else "reads text"
    name = Path(engine.path).stem
    return f"{name} on {engine.device}: {sees}, up to {engine.max_model_len:,} tokens. /help shows commands."


def _read(interactive: bool) -> str | None:
    """What the person says next, of one line or of several; None at the end."""
    try:
        line = input("> " if interactive else "")
        if line.strip().startswith(_BLOCK):
            lines = [line.strip().removeprefix(_BLOCK)]
            while not lines[-1].rstrip().endswith(_BLOCK):
                lines.append(input(". " if interactive else ""))
            lines[-1] = lines[-1].rstrip().removesuffix(_BLOCK)
            return "\n".join(lines).strip("\n")
        while line.endswith("\\"):
            line = line[:-1] + "\n" + input(". " if interactive else "")
        return line.strip()
    except EOFError:
        if interactive:
            print()
        return None
    except KeyboardInterrupt:
        if not interactive:
            raise
        note("\n(Ctrl-D ends the conversation)")
        return ""


class Chat:
    """One conversation, and what can be done with it."""

    def __init__(
        self,
        engine: "Engine",
        params: "SamplingParams",
        system: str | None,
        session: "Session | None" = None,
        *,
        interactive: bool,
        plain: bool,
    ) -> None:
        from llama4rt.cli.chat_conversation import Conversation

        self._engine = engine
        self._params = params
        self._interactive = interactive
        self._plain = plain
        self._session = session
        if session is not None and session.num_tokens > 0:
            note(f"going on with {session.num_tokens} tokens")
            system = None  # it was said at the beginning
        self._talk = Conversation(system)
        self._told = 0  # messages of the conversation that the session has
        self._last = ""  # how fast the last answer was
        self.pictures: list[Image] = []  # for the next line

    def take(self, line: str) -> bool:
        """A line, or a command. False: it is over."""
        command, _, argument = line.partition(" ")
        argument = argument.strip()
        if line == "/exit":
            return False
        if not line.startswith("/"):
            if line:
                self._say(line)
            return True
        known = {name.split()[0] for name in _COMMANDS} | {"/reset"}
        if command not in known:
            import difflib

            near = difflib.get_close_matches(command, sorted(known), 1)
            note(f"{command} is no command{f'; did you mean {near[0]}?' if near else ''} (/help shows them)")
            return True
        try:
            self._obey(command, argument)
        except (OSError, ValueError) as error:  # RequestError is a ValueError
            note(f"error: {error}")
        return True

    def _obey(self, command: str, argument: str) -> None:
        if self._session is not None and command in _NOT_IN_A_SESSION:
            note(f"{command} is not for a session, which keeps what was said; another --session begins anew")
        elif command in ("/image", "/save", "/load") and not argument:
            note(f"{command} needs the name of a file")
        elif command in ("/clear", "/reset"):
            self._talk.clear()
            self.pictures = []
        elif command == "/system":
            self._system(argument)
        elif command == "/image":
            self.pictures.append(self._engine.load_image(argument))
        elif command == "/save":
            self._talk.save(os.path.expanduser(argument))
            note(f"{argument}: {len(self._talk.messages)} messages")
        elif command == "/load":
            self._talk.load(os.path.expanduser(argument))
            note(f"{argument}: {len(self._talk.messages)} messages")
        elif command == "/regen":
            self._regenerate()
        elif command == "/stats":
            self._stats()
        else:
            width = max(map(len, _COMMANDS))
            note("\n".join(f"{name:<{width}}  {what}" for name, what in _COMMANDS.items()))
            note(_MORE_HELP)

    def _system(self, argument: str) -> None:
        if argument:
            self._talk.set_system(None if argument == "-" else argument)
        else:
            note(self._talk.system or "there is no system prompt")

    def _regenerate(self) -> None:
        if self._talk.ends_with("assistant"):
            self._talk.take_back()
        if self._talk.ends_with("user"):
            self._answer()
        else:
            note("nothing was asked yet")

    def _stats(self) -> None:
        engine = self._engine
        stats = engine.stats()
        used = len(engine.prepare_chat(self._talk.messages).token_ids) if self._talk.messages else 0
        note(
            f"conversation  {len(self._talk.messages)} messages, {used:,} of {engine.max_model_len:,} tokens"
        )
        if self._last:
            note(f"last answer   {self._last}")
        note(
            f"since start   {stats['prompt_tokens']:,} tokens read, {stats['prefix_hit_tokens']:,} found again, "
            f"{stats['generated_tokens']:,} written"
        )

    def _say(self, line: str) -> None:
        from llama4rt.errors import RequestError

        shown, self.pictures = self.pictures, []
        self._talk.ask(line, shown)
        try:
            self._answer()
        except RequestError as error:  # too long, say: the line is taken back, and may be said another way
            self._talk.take_back()
            self.pictures = shown
            if not self._interactive:
                raise
            note(f"error: {error}")

    def _answer(self) -> None:
        """Streams the answer to stdout; Ctrl-C ends it early and keeps what was said."""
        write = self._writer()
        texts: list[str] = []
        tokens, first, reused = 0, None, 0
        start = time.perf_counter()
        deltas: Any = self._deltas()
        try:
            with contextlib.closing(deltas):
                for delta in deltas:
                    first = first or time.perf_counter()
                    tokens += len(delta.token_ids)
                    reused += delta.num_cached_tokens or 0
                    texts.append(delta.text)
                    write(delta.text)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            write(None)
            note(" [stopped]")
        else:
            write(None)
        end = time.perf_counter()
        print(flush=True)
        self._talk.answer("".join(texts))
        self._told = len(self._talk.messages)
        self._last = _speed(tokens, (first or end) - start, end - (first or end))
        if reused:
            self._last += f", {reused:,} tokens reused"
        if self._interactive or (self._session is not None and reused):
            note(f"[{self._last}]")

    def _deltas(self) -> Any:
        if self._session is None:
            return self._engine.stream_chat(self._talk.messages, self._params)
        return self._session.stream(self._talk.messages[self._told :], self._params)

    def _writer(self) -> Any:
        """write(text), and write(None) at the end."""
        from llama4rt.cli.terminal_markdown import MarkdownStream, printable, wants_colour

        def raw(text: str) -> None:
            print(text, end="", flush=True)

        if self._plain or not wants_colour():
            clean = printable if sys.stdout.isatty() else str
            return lambda text: raw(clean(text or ""))
        stream = MarkdownStream(raw)
        return lambda text: stream.finish() if text is None else stream.push(text)


def _speed(tokens: int, first: float, rest: float) -> str:
    rate = f", {(tokens - 1) / rest:.1f} tokens/s" if tokens > 1 and rest > 0 else ""
    return f"{tokens} tokens{rate}, the first after {first:.2f} s"


@contextlib.contextmanager
def _line_editing(interactive: bool, kept: bool) -> Any:
    """Lines can be edited and found again with Up, those of earlier times too when they are kept."""
    try:
        if not interactive:
            raise ImportError
        import readline
    except ImportError:
        yield
        return
    base = os.environ.get("XDG_STATE_HOME")
    file = (Path(base) if base else Path.home() / ".local/state") / "llama4rt" / "chat_history"
    if kept:
        with contextlib.suppress(OSError):
            readline.read_history_file(file)
    try:
        yield
    finally:
        if kept:
            with contextlib.suppress(OSError):
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch(mode=0o600)
                readline.set_history_length(_HISTORY_LINES)
                readline.write_history_file(file)
