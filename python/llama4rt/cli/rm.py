"""`llama4rt rm`: removes engines from the cache."""

import argparse


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "rm",
        help="remove engines from the cache",
        description="Remove engines from the cache. What they were built from stays.",
    )
    parser.add_argument(
        "name",
        nargs="*",
        metavar="NAME",
        help="as `llama4rt list` shows it, its first letters, or its source",
    )
    parser.add_argument("--all", action="store_true", help="everything in the cache")
    parser.add_argument("--unfinished", action="store_true", help="what interrupted builds have left")


def run(args: argparse.Namespace) -> int:
    from llama4rt.cli.numbers import human_bytes
    from llama4rt.convert.cached_engines import cached_engines, chosen, remove
    from llama4rt.errors import ConfigError

    if args.name and args.all:
        raise ConfigError("give names, or --all")
    if not args.name and not args.all and not args.unfinished:
        raise ConfigError("nothing to remove: give names, --unfinished or --all")
    engines = chosen(args.name)
    engines += [
        e for e in cached_engines() if e not in engines and (args.all or (args.unfinished and e.unfinished))
    ]
    for engine in engines:
        print(f"{human_bytes(remove([engine])):>9}  {engine.name}")
    return 0
