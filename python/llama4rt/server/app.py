"""build_app: the routes of one server, and the guard around them."""

from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llama4rt.engine.async_engine import AsyncEngine
from llama4rt.server import page_files
from llama4rt.server.api_errors import ApiError
from llama4rt.server.chat_completions import ChatEndpoint
from llama4rt.server.completions import CompletionEndpoint
from llama4rt.server.guard import Guard
from llama4rt.server.info_endpoints import InfoEndpoints
from llama4rt.server.responses import ResponsesEndpoint
from llama4rt.server.server_options import ServerOptions
from llama4rt.server.service import Service

Endpoint = Callable[[Request], Awaitable["Response | ASGIApp"]]

_MODEL = "/v1/models/"  # followed by a name, which may hold slashes
_ONE_MODEL = "one model"  # how the table calls that: no path begins so


def build_app(engine: AsyncEngine, options: ServerOptions | None = None) -> Guard:
    """An ASGI application that serves `engine`, which the caller opens and closes. Call it on the running loop."""
    service = Service(engine, options or ServerOptions())
    info = InfoEndpoints(service)
    get: dict[str, Endpoint] = {
        **page_files.endpoints(),
        "/health": info.probe,
        "/ready": info.probe,
        "/metrics": info.metrics,
        "/status.json": info.status,
        "/version": info.version,
        "/openapi.json": info.openapi,
        "/tokenizer_info": info.tokenizer_info,
        "/v1/models": info.models,
        _ONE_MODEL: info.model,
    }
    post: dict[str, Endpoint] = {
        "/v1/chat/completions": ChatEndpoint(service),
        "/v1/completions": CompletionEndpoint(service),
        "/v1/responses": ResponsesEndpoint(service),
        "/tokenize": info.tokenize,
        "/detokenize": info.detokenize,
    }
    return Guard(Routes({"GET": get, "HEAD": get, "POST": post}), service)


class Routes:
    """Method and path to an endpoint; 404 and 405 in OpenAI's form."""

    def __init__(self, table: dict[str, dict[str, Endpoint]]) -> None:
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path.startswith(_MODEL) and len(path) > len(_MODEL):
            scope["path_params"] = {"model": unquote(path[len(_MODEL) :])}
            path = _ONE_MODEL
        endpoint = self._table.get(method, {}).get(path)
        if endpoint is None:
            allowed = [name for name, endpoints in self._table.items() if path in endpoints]
            if not allowed:
                raise ApiError(404, "there is nothing at this path")
            raise ApiError(
                405, f"this path takes {' and '.join(allowed)}", headers={"Allow": ", ".join(allowed)}
            )
        try:
            response = await endpoint(Request(scope, receive, send))
        except RecursionError:  # only what a client sent can nest without end
            raise ApiError(400, "something in the request is nested too deep") from None
        await response(scope, receive, send)
