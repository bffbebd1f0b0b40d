"""`llama4rt verify`: re-hashes every tensor of an engine file."""

import argparse
import sys

from llama4rt.cli.numbers import THREADS_OR_ALL


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "verify",
        help="check an engine file for damage",
        description="Read a whole engine file and compare every tensor with its checksum. Exits with 1 and the name of "
        "the first damaged tensor. Checksums find accidents, not forgery.",
    )
    parser.add_argument("file", metavar="FILE", help="an engine file")
    parser.add_argument(
        "-t", "--threads", type=THREADS_OR_ALL, default=0, metavar="N", help="default: all CPUs"
    )


def run(args: argparse.Namespace) -> int:
    from llama4rt._core import EngineFile

    file = EngineFile(args.file)
    damaged = file.verify(args.threads)
    if not damaged:
        print(f"{args.file}: all {len(file.names())} tensors match their checksums")
        return 0
    _, _, offset, size = file.info(damaged[0])
    others = f", and {len(damaged) - 1} more tensors" if len(damaged) > 1 else ""
    print(
        f"error: {args.file}: {damaged[0]} is damaged ({size} bytes at {offset}){others}; "
        "copy the file again or rebuild it with llama4rt build",
        file=sys.stderr,
    )
    return 1
