"""The HTTP server: OpenAI's API over one AsyncEngine. Needs the extra [serve] (starlette, uvicorn, msgspec,
prometheus_client); nothing else in the package imports it.

    app = build_app(AsyncEngine("model.l4e"), ServerOptions())

is an ASGI application for any server; `llama4rt serve` runs it under uvicorn with limits and a graceful end
(uvicorn_server.py).
"""

try:
    from llama4rt.server.app import build_app
    from llama4rt.server.server_options import ServerOptions
except ModuleNotFoundError as error:
    if (error.name or "").startswith("llama4rt"):
        raise
    raise ModuleNotFoundError(
        f"llama4rt.server needs the package {(error.name or '').partition('.')[0]}: pip install 'llama4rt[serve]'",
        name=error.name,
    ) from None

__all__ = ["ServerOptions", "build_app"]
