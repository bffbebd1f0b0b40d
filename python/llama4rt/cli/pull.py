"""`llama4rt pull`: downloads and builds what `chat`, `serve` and Engine would build when they first need it."""

import argparse

from llama4rt.cli.common_options import GROUP_SIZES, WEIGHT_KINDS, engine_file
from llama4rt.cli.numbers import GROUP_SIZE, THREADS


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "pull",
        help="download and build into the cache",
        description="Download a model if it is on the hub, build it into the cache, and print the engine file's path. "
        "Commands and Engine(SOURCE) with the same options then find it there.",
    )
    parser.add_argument(
        "file", metavar="SOURCE", help="owner/name on the hub, a checkpoint directory, or a GGUF file"
    )
    parser.add_argument(
        "--device", default="auto", help="what it will run on: auto, cpu or cuda (default: auto)"
    )
    parser.add_argument("-t", "--threads", type=THREADS, metavar="N", help="processor threads (default: all)")
    parser.add_argument("--weights", choices=WEIGHT_KINDS, help="how to store them (default: int4)")
    parser.add_argument(
        "--group-size", type=GROUP_SIZE, choices=GROUP_SIZES, help="weights that share a scale"
    )
    parser.add_argument("--mmproj", metavar="FILE", help="of a GGUF model: the file of its vision tower")


def run(args: argparse.Namespace) -> int:
    print(engine_file(args))
    return 0
