"""Serves the demo model with ServerOptions that the command line does not offer, such as short times.

python serve_worker.py ENGINE-FILE '{"receive_seconds": 1.0, ...}'
"""

from __future__ import annotations

import json
import sys

from llama4rt import AsyncEngine, Engine
from llama4rt.cli.supervisor import Supervisor
from llama4rt.server import ServerOptions, build_app
from llama4rt.server.logs import configure
from llama4rt.server.uvicorn_server import Server


def main() -> None:
    path, text = sys.argv[1:]
    options = ServerOptions(**json.loads(text))
    configure("error", "json")
    # A short context bounds what an answer without a limit takes.
    with Engine(path, num_threads=1, kv_cache_memory="64MiB", max_model_len=256, max_num_seqs=16) as engine:
        engine.apply_chat_template([{"role": "user", "content": "Hello"}])
        app_engine = AsyncEngine(engine)

        def ready(port: int) -> None:
            print(f"ready: http://127.0.0.1:{port}", file=sys.stderr, flush=True)

        server = Server(
            lambda: build_app(app_engine, options), options, host="127.0.0.1", port=0, ready=ready
        )
        Supervisor(server, options.drain_seconds).run()


if __name__ == "__main__":
    main()
