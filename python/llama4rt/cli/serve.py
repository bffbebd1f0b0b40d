"""`llama4rt serve`: OpenAI's API and a chat page over one engine."""

import argparse
import contextlib
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llama4rt.cli.common_options import add_adapter_options, add_engine_options, note, open_engine
from llama4rt.cli.numbers import BATCHED_TOKENS, SEQUENCES, SIZE, Integer, Real

if TYPE_CHECKING:
    from llama4rt.engine.engine import Engine
    from llama4rt.server.server_options import ServerOptions

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "serve",
        help="serve OpenAI's API over HTTP, and a chat page",
        description="Serve OpenAI's API over HTTP, and a chat page at /. Needs pip install 'llama4rt[serve]'.",
        epilog="SIGTERM lets running requests end; a second one does not. docs/serving.md has everything else.",
    )
    add_engine_options(parser, or_demo=True, store=True)
    add_adapter_options(parser, choose=False)
    group = parser.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    group.add_argument(
        "--port", type=Integer(0, 65_535), default=8000, metavar="N", help="0: any free one (default: 8000)"
    )
    group.add_argument(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="clients must send it; may be repeated; LLAMA4RT_API_KEY and --api-key-file do not show it to `ps`",
    )
    group.add_argument("--api-key-file", metavar="FILE", help="a file with one key a line")
    group.add_argument(
        "--served-model-name",
        action="append",
        default=[],
        metavar="NAME",
        help="may be repeated (default: FILE's name)",
    )
    group.add_argument(
        "--max-num-seqs", type=SEQUENCES, metavar="N", help="outputs generated at once (default: 16)"
    )
    group.add_argument(
        "--max-batched-tokens", type=BATCHED_TOKENS, metavar="N", help="tokens of one step (default: 512)"
    )
    group.add_argument(
        "--max-waiting",
        type=Integer(1, 2**30),
        default=256,
        metavar="N",
        help="outputs that may wait; then 429",
    )
    group.add_argument(
        "--limit-images",
        type=Integer(1, 4096),
        default=10,
        metavar="N",
        help="pictures of one request (default: 10)",
    )
    group.add_argument(
        "--max-body", type=SIZE, default="32MiB", metavar="SIZE", help="of one request (default: 32MiB)"
    )
    group.add_argument(
        "--allow-image-urls",
        action="store_true",
        help="fetch pictures by http(s); else only data: URLs are taken",
    )
    group.add_argument(
        "--drain-seconds",
        type=Real(0, 86_400, above_low=True),
        default=30.0,
        metavar="S",
        help="for running requests after SIGTERM (default: 30)",
    )
    group.add_argument(
        "--strict-fields",
        action="store_true",
        help="refuse fields of requests that are unknown, instead of logging their names",
    )
    group.add_argument(
        "--max-streams-per-client",
        type=Integer(1, 2**30),
        metavar="N",
        help="outputs of one client, running and waiting; then 429 (default: all that others leave)",
    )
    for option, what, text in (
        (
            "--allowed-hosts",
            "NAME",
            "names that a Host header may hold beside localhost, --host and addresses; *.example.com; *: any",
        ),
        (
            "--allowed-origins",
            "ORIGIN",
            "web pages that may use this server, as https://chat.example.com; *: any (default: its own page)",
        ),
        ("--trusted-proxies", "ADDRESS", "proxies whose X-Forwarded-For says who a client is"),
    ):
        group.add_argument(option, action="extend", nargs="+", default=[], metavar=what, help=text)
    group.add_argument(
        "--response-store",
        metavar="DIR",
        help="where /v1/responses keeps what it answered for 30 days (default: in --kv-store's directory, if any)",
    )
    group.add_argument(
        "--response-store-size", type=SIZE, default="1GiB", metavar="SIZE", help="of it (default: 1GiB)"
    )
    group.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    group.add_argument(
        "--log-format", choices=["json", "text"], help="(default: text on a terminal, json elsewhere)"
    )


def run(args: argparse.Namespace) -> int:
    from llama4rt.errors import ConfigError

    try:
        import msgspec  # noqa: F401
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"serving needs the package {error.name}: pip install 'llama4rt[serve]'") from None
    from llama4rt.cli.supervisor import Supervisor
    from llama4rt.engine.async_engine import AsyncEngine
    from llama4rt.server import build_app
    from llama4rt.server.logs import configure, silence_libtiff
    from llama4rt.server.uvicorn_server import Server

    options = _options(args)
    configure(args.log_level, args.log_format)
    silence_libtiff()
    _allow_many_files()
    with open_engine(
        args,
        allow_image_urls=args.allow_image_urls,
        max_num_seqs=args.max_num_seqs,
        max_batched_tokens=args.max_batched_tokens,
    ) as engine:
        if engine.tokenizer is None:
            note(
                "warning: this engine file has no tokenizer: prompts of token ids are answered, and no chats"
            )
        if args.host not in _LOOPBACK and not options.api_keys:
            note(f"warning: whoever reaches {args.host} can use this server: there is no --api-key")
        _warm(engine)
        app_engine = AsyncEngine(engine)
        server = Server(
            lambda: build_app(app_engine, options),
            options,
            host=args.host,
            port=args.port,
            ready=lambda port: note(_ready(f"http://{_shown(args.host)}:{port}", engine, options)),
        )
        Supervisor(server, options.drain_seconds).run()
    return 0


def _options(args: argparse.Namespace) -> "ServerOptions":
    from llama4rt.engine.engine_options import parse_bytes
    from llama4rt.server.server_options import ServerOptions

    keys = list(args.api_key)
    if os.environ.get("LLAMA4RT_API_KEY"):
        keys.append(os.environ["LLAMA4RT_API_KEY"])
    if args.api_key_file:
        with open(args.api_key_file, encoding="utf-8") as file:
            keys += [line.strip() for line in file if line.strip()]
    return ServerOptions(
        served_model_names=tuple(args.served_model_name),
        api_keys=tuple(keys),
        allowed_hosts=(*args.allowed_hosts, args.host.strip("[]")),
        allowed_origins=tuple(args.allowed_origins),
        trusted_proxies=tuple(args.trusted_proxies),
        max_waiting=args.max_waiting,
        max_streams_per_client=args.max_streams_per_client,
        max_images=args.limit_images,
        max_body_bytes=parse_bytes("max_body", args.max_body),
        drain_seconds=args.drain_seconds,
        strict_fields=args.strict_fields,
        response_store=args.response_store or args.kv_store,
        response_store_bytes=parse_bytes("response_store_size", args.response_store_size),
    )


def _allow_many_files() -> None:
    """A connection is a file; the usual soft limit is meant for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _warm(engine: "Engine") -> None:
    """What loads on first use, before the first client has to wait for it."""
    if engine.tokenizer is not None:
        engine.apply_chat_template([{"role": "user", "content": "Hello"}])
        engine.warm_structured_output()


def _ready(url: str, engine: "Engine", options: "ServerOptions") -> str:
    """For a person, who sees a terminal, what can be done now; for others the address, in a line that they look for."""
    if not sys.stderr.isatty():
        return f"ready: {url}"
    model = next(iter(options.served_model_names), Path(engine.path).stem)
    key = " -H 'Authorization: Bearer KEY'" if options.api_keys else ""
    body = '{"model": "%s", "messages": [{"role": "user", "content": "Hello"}]}' % model  # noqa: UP031  # braces
    return (
        f"{model} on {engine.device}, up to {engine.max_model_len:,} tokens, {engine.max_num_seqs} answers at once\n"
        f"  chat page       {url}/\n"
        f"  OpenAI's API    {url}/v1   (Anthropic's, Ollama's and llama.cpp's clients: {url})\n"
        f"  try             curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'\n"
        f"ready: {url}   (Ctrl-C ends it)"
    )


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
