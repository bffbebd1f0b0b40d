"""`llama4rt sessions`: the texts that are kept by name: lists, deletes, exports and imports them."""

import argparse
import time
from typing import Any

from llama4rt.cli.common_options import add_engine_options, add_store_options, open_engine, store_directory


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "sessions",
        help="list, delete, export and import sessions",
        description="Sessions are what `llama4rt chat --session NAME` and Engine.session(NAME) keep.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add_store_options(actions.add_parser("list", help="name, tokens, pictures and time of each, by name"))
    delete = actions.add_parser("delete", help="forget sessions")
    delete.add_argument("names", nargs="+", metavar="NAME")
    add_store_options(delete)
    export = actions.add_parser("export", help="write a session into one file, with keys and values")
    export.add_argument("name", metavar="NAME")
    export.add_argument("path", metavar="OUT", help="the file to write, such as notes.l4s")
    add_engine_options(export, or_demo=True, store=True)
    import_ = actions.add_parser("import", help="keep the session of such a file")
    import_.add_argument("path", metavar="PATH", help="a file that export wrote")
    add_engine_options(import_, or_demo=True, store=True)
    import_.add_argument("--name", metavar="NAME", help="another name than it had")


def run(args: argparse.Namespace) -> int:
    from llama4rt.sessions.directory import SessionDirectory

    directory = store_directory(args)
    if args.action == "list":
        for info in SessionDirectory(directory).list():
            pictures = f", {info.num_images} pictures" if info.num_images else ""
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.updated))
            print(f"{info.name}  {info.num_tokens} tokens{pictures}  {when}")
    elif args.action == "delete":
        for name in args.names:
            SessionDirectory(directory).delete(name)
    else:
        args.kv_store = str(directory)
        with open_engine(args) as engine:
            _move(args, engine)
    return 0


def _move(args: argparse.Namespace, engine: Any) -> None:
    if args.action == "import":
        print(engine.import_session(args.path, args.name))
        return
    from llama4rt.errors import RequestError

    if not any(info.name == args.name for info in engine.sessions()):
        raise RequestError(f"there is no session {args.name!r} in {args.kv_store}")
    with engine.session(args.name) as session:
        blocks = session.export(args.path)
        print(f"{args.path}: {session.num_tokens} tokens, {blocks} blocks of keys and values")
