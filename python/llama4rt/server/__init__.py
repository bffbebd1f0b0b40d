"""The HTTP server: OpenAI's API over one AsyncEngine. Needs the extra [serve] (starlette, uvicorn, msgspec,
prometheus_client); nothing else in the package imports it.

    app = build_app(AsyncEngine("model.l4e"), ServerOptions())

is an ASGI application for any server; `llama4rt serve` runs it under uvicorn with limits and a graceful end
(uvicorn_server.py).
"""

from llama4rt.server.app import build_app
from llama4rt.server.server_options import ServerOptions

__all__ = ["ServerOptions", "build_app"]
