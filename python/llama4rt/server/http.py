"""Reading requests and writing replies: JSON in, JSON or an error out."""

import json
import logging
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from llama4rt.server.api_errors import ApiError, of_validation
from llama4rt.server.protocol import Body

log = logging.getLogger("llama4rt.server")

_LARGE = 1 << 18  # bytes that take about a millisecond to parse
_MAX_DEPTH = 64

_Body = TypeVar("_Body", bound=Body)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dumps(value: Any) -> bytes:
    return _encode(value).encode()


def json_reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(dumps(value), status, headers, "application/json")


def error_reply(error: ApiError) -> Response:
    return json_reply(error.body(), error.status, error.headers)


async def parsed(request: Request, kind: type[_Body]) -> _Body:
    """The request's body as a `kind`. ApiError 400 or 415 in OpenAI's words."""
    content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if content_type != "application/json" and not content_type.endswith("+json"):
        raise ApiError(415, f"the content type is {content_type!r:.80}; it must be application/json")
    data = await request.body()
    if not data.strip():
        raise ApiError(400, "the body is empty; it must be a JSON object")
    try:
        if len(data) > _LARGE:
            body = await run_in_threadpool(_parse, kind, data)
        else:
            body = _parse(kind, data)
    except ValidationError as error:
        raise of_validation(error) from None
    unknown = body.unknown_fields()
    if unknown:
        log.debug("ignored fields: %s", ", ".join(name[:40] for name in unknown[:20]))
    return body


def _parse(kind: type[_Body], data: bytes) -> _Body:
    if _depth(data) > _MAX_DEPTH:
        raise ApiError(400, f"the body is nested deeper than {_MAX_DEPTH}")
    return kind.model_validate_json(data)


def _depth(data: bytes) -> int:
    """How deep brackets nest; a little too much where strings hold brackets, and then only if they are many."""
    if data.count(b"[") + data.count(b"{") <= _MAX_DEPTH:
        return 0
    depth = deepest = 0
    in_string = escaped = False
    for byte in data:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
