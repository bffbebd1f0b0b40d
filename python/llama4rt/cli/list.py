"""`llama4rt list`: the engines in the cache, and what they take."""

import argparse
import json
import time


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "list",
        help="show the engines in the cache",
        description="Show the engines that were built into the cache (LLAMA4RT_CACHE, or ~/.cache/llama4rt).",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    from llama4rt.cli.numbers import human_bytes
    from llama4rt.convert.cached_engines import cached_engines
    from llama4rt.convert.engine_cache import cache_directory

    engines = cached_engines()
    if args.json:
        rows = [
            {
                "name": e.name, "path": str(e.path), "bytes": e.bytes, "built": round(e.built), "source": e.source,
                "unfinished": e.unfinished,
            }
            for e in engines
        ]  # fmt: skip
        print(json.dumps({"cache": str(cache_directory()), "engines": rows}, indent=2))
        return 0
    width = max([len(e.name) for e in engines], default=0)
    for engine in engines:
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(engine.built))
        what = "an interrupted build" if engine.unfinished else engine.source or "cannot be opened"
        print(f"{engine.name:<{width}}  {human_bytes(engine.bytes):>9}  {day}  {what}")
    total = sum(e.bytes for e in engines)
    print(f"{cache_directory()}: {len(engines)} files, {human_bytes(total)}")
    return 0
