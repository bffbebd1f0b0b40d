"""A refusal in the form that the clients of a path expect: OpenAI's, Anthropic's or Ollama's."""

from typing import Any

from llama4rt.server.api_errors import ApiError

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(error: ApiError, path: str, request_id: str | None = None) -> dict[str, Any]:
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return anthropic_error(error, request_id)
    if path.startswith("/api/"):
        return {"error": error.told()}
    return error.body()


def anthropic_error(error: ApiError, request_id: str | None = None) -> dict[str, Any]:
    other = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ANTHROPIC_TYPES.get(error.status, other)
    body: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": error.told()}}
    return body if request_id is None else {**body, "request_id": request_id}
