"""`llama4rt COMMAND ...`: finds the command, runs it, turns errors into one line and an exit code.

0: done. 1: it failed; the reason is on stderr as `error: ...`. 2: the command line was wrong. 130: Ctrl-C.
Results go to stdout, everything else to stderr.
"""

import argparse
import contextlib
import faulthandler
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

# Modules with add_parser(subparsers) and run(args) -> int | None; they import what is heavy inside run.
_COMMANDS = (
    "build", "inspect", "verify", "plan", "generate", "chat", "sessions", "serve", "bench", "bench_serve", "eval",
    "diff", "doctor", "demo", "pull", "list", "rm",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code (argparse itself exits for --help and for usage errors)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # a process of its own: where a library aborts it, say where
        with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError):
            faulthandler.enable()
    if words[:2] == ["bench", "serve"]:  # as other engines call it; a file of that name is ./serve
        words[:2] = ["bench-serve"]
    args = _parser().parse_args(words)
    try:
        code = args.run(args)
        sys.stdout.flush()
        return int(code or 0)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("LLAMA4RT_DEBUG") or not _is_expected(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llama4rt",
        description="Run Llama 4 from one engine file.",
        epilog="`llama4rt COMMAND --help` shows a command's options. LLAMA4RT_DEBUG=1 shows tracebacks.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in _COMMANDS:
        module = import_module(f"llama4rt.cli.{name}")
        module.add_parser(commands)
        commands.choices[name.replace("_", "-")].set_defaults(run=module.run)
    return parser


class _Version(argparse.Action):
    """Reads the native module's version only when asked, to keep --help fast."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from llama4rt import _core

        print(f"llama4rt {_core.version()}")
        parser.exit()


def _is_expected(error: Exception) -> bool:
    """Errors that are the user's or the machine's, with a message made for people; others deserve their traceback."""
    from llama4rt.errors import Llama4RTError

    return isinstance(error, (Llama4RTError, OSError, MemoryError))
