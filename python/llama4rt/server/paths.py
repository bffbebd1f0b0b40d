"""Which path a request means, wherever the application is mounted, and what is said of paths that lead nowhere."""

from collections.abc import Iterable, Mapping

from starlette.types import Scope

from llama4rt.server.api_errors import ApiError

# Endpoints of OpenAI's, llama.cpp's and Ollama's servers that are not here, and why. A name stands for all below it.
_ONE_MODEL = "one model runs, the one that the server was started with"
_NO_EMBEDDINGS = "a chat model's hidden states are no embeddings: they were never trained to be compared"
NO_STORE = "this server keeps nothing between requests; llama4rt serve --response-store DIR makes it"
_NOT_HERE: Mapping[str, str] = {
    "/v1/embeddings": _NO_EMBEDDINGS,
    "/embeddings": _NO_EMBEDDINGS,
    "/embedding": _NO_EMBEDDINGS,
    "/api/embed": _NO_EMBEDDINGS,
    "/api/embeddings": _NO_EMBEDDINGS,
    "/v1/rerank": "the model does not rank; ask it in a chat",
    "/rerank": "the model does not rank; ask it in a chat",
    "/infill": "the model continues, it does not fill in: it was trained without fill-in-the-middle",
    "/v1/moderations": "nothing is moderated",
    "/v1/audio": "the model reads text and pictures; it hears and says nothing",
    "/v1/images": "the model looks at pictures and makes none",
    "/v1/responses": NO_STORE,
    "/v1/conversations": NO_STORE,
    "/v1/files": "the server keeps nothing between requests",
    "/v1/batches": "send the requests themselves: they run together",
    "/v1/messages/batches": "send the requests themselves: they run together",
    "/v1/assistants": "the server keeps nothing between requests; use /v1/chat/completions or /v1/responses",
    "/v1/threads": "the server keeps nothing between requests; use /v1/chat/completions or /v1/responses",
    "/v1/fine_tuning": "models are not trained here",
    "/api/pull": _ONE_MODEL,
    "/api/push": _ONE_MODEL,
    "/api/create": _ONE_MODEL,
    "/api/copy": _ONE_MODEL,
    "/api/delete": _ONE_MODEL,
    "/lora-adapters": "there are no adapters",
    "/slots": "requests share one batch; there are no slots, and /metrics has numbers",
}


def path_of(scope: Scope) -> str:
    """The path below where the application is mounted, or below the prefix that a proxy has taken away."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if root and (path == root or path.startswith(root + "/")):
        return path[len(root) :] or "/"
    return path


def nothing_here(path: str, known: Iterable[str]) -> ApiError:
    """404 with a reason where there is one, and with the paths that exist. known: paths with their methods."""
    parts = path.split("/")
    above = ("/".join(parts[:end]) for end in range(len(parts), 1, -1))
    why = next((_NOT_HERE[name] for name in above if name in _NOT_HERE), None)
    if why is not None:
        return ApiError(404, f"{path[:100]} is not supported: {why}", code="not_supported")
    return ApiError(404, f"there is nothing at this path; there are {', '.join(known)}")
