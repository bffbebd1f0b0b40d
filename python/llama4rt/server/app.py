"""build_app: the routes of one server, and the guard around them."""

from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from llama4rt.engine.async_engine import AsyncEngine
from llama4rt.server import page_files
from llama4rt.server.anthropic.messages import MessagesEndpoint
from llama4rt.server.api_errors import ApiError
from llama4rt.server.chat_completions import ChatEndpoint
from llama4rt.server.completions import CompletionEndpoint
from llama4rt.server.guard import Guard
from llama4rt.server.info_endpoints import InfoEndpoints
from llama4rt.server.kept import paths as kept_paths
from llama4rt.server.kept.endpoints import KeptEndpoints
from llama4rt.server.kept.store import ResponseStore
from llama4rt.server.llama_cpp.endpoints import LlamaCppEndpoints
from llama4rt.server.ollama.endpoints import OllamaEndpoints
from llama4rt.server.paths import nothing_here, path_of
from llama4rt.server.responses import ResponsesEndpoint
from llama4rt.server.server_options import ServerOptions
from llama4rt.server.service import Service

Endpoint = Callable[[Request], Awaitable["Response | ASGIApp"]]

_MODEL = "/v1/models/"  # followed by a name, which may hold slashes
_ONE_MODEL = "one model"  # how the table calls that: no path begins so


def build_app(engine: AsyncEngine, options: ServerOptions | None = None) -> Guard:
    """An ASGI application that serves `engine`, which the caller opens and closes; alone, or mounted anywhere in
    another (Starlette's and FastAPI's `mount`).
    """
    service = Service(engine, options or ServerOptions())
    if service.options.response_store is not None:
        service.responses = ResponseStore(service.options)
    info = InfoEndpoints(service)
    messages = MessagesEndpoint(service)
    ollama = OllamaEndpoints(service)
    llama_cpp = LlamaCppEndpoints(service)
    get: dict[str, Endpoint] = {
        **page_files.endpoints(),
        "/health": info.probe,
        "/ready": info.probe,
        "/ping": info.probe,
        "/metrics": info.metrics,
        "/status.json": info.status,
        "/version": info.version,
        "/openapi.json": info.openapi,
        "/tokenizer_info": info.tokenizer_info,
        "/v1/models": info.models,
        _ONE_MODEL: info.model,
        "/props": llama_cpp.props,
        "/api/tags": ollama.tags,
        "/api/ps": ollama.ps,
        "/api/version": ollama.version,
    }
    post: dict[str, Endpoint] = {
        "/v1/chat/completions": ChatEndpoint(service),
        "/v1/completions": CompletionEndpoint(service),
        "/v1/responses": ResponsesEndpoint(service),
        "/v1/messages": messages,
        "/v1/messages/count_tokens": messages.count,
        "/tokenize": info.tokenize,
        "/detokenize": info.detokenize,
        "/completion": llama_cpp.completion,
        "/api/chat": ollama.chat,
        "/api/generate": ollama.generate,
        "/api/show": ollama.show,
    }
    delete: dict[str, Endpoint] = {}
    if service.responses is not None:
        kept = kept_paths.endpoints(KeptEndpoints(service))
        get |= kept["GET"]
        post |= kept["POST"]
        delete |= kept["DELETE"]
    for table in (get, post, delete):  # some clients leave the version out
        table |= {path.removeprefix("/v1"): found for path, found in table.items() if path.startswith("/v1/")}
    return Guard(Routes({"GET": get, "HEAD": get, "POST": post, "DELETE": delete}), service)


class Routes:
    """Method and path to an endpoint; 404 and 405 in the form of the path's clients."""

    def __init__(self, table: dict[str, dict[str, Endpoint]]) -> None:
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = path_of(scope), scope["method"]
        if path.startswith(_MODEL) and len(path) > len(_MODEL):
            scope["path_params"] = {"model": unquote(path[len(_MODEL) :])}
            path = _ONE_MODEL
        else:
            path, names = kept_paths.known(path)
            if names:
                scope["path_params"] = names
        endpoint = self._table.get(method, {}).get(path)
        if endpoint is None:
            allowed = [name for name, endpoints in self._table.items() if path in endpoints]
            if not allowed:
                raise nothing_here(path, self._known())
            raise ApiError(
                405, f"this path takes {' and '.join(allowed)}", headers={"Allow": ", ".join(allowed)}
            )
        try:
            response = await endpoint(Request(scope, receive, send))
        except RecursionError:  # only what a client sent can nest without end
            raise ApiError(400, "something in the request is nested too deep") from None
        await response(scope, receive, send)

    def _known(self) -> list[str]:
        """What there is, without second names and the files of pages."""
        return [
            f"{method} {path}"
            for method in ("GET", "POST", "DELETE")
            for path in self._table[method]
            if path != _ONE_MODEL and "/v1" + path not in self._table[method] and path not in page_files.PARTS
        ]
