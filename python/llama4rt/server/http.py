"""Reading requests and writing replies: JSON in, JSON or an error out."""

import json
import logging
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from llama4rt import _core
from llama4rt.server import known_fields
from llama4rt.server.api_errors import ApiError, of_msgspec
from llama4rt.server.error_forms import error_body
from llama4rt.server.known_fields import decoder
from llama4rt.server.open_json import MAX_JSON_DEPTH
from llama4rt.server.protocol import Body
from llama4rt.server.service import Service

log = logging.getLogger("llama4rt.server")

_LARGE = 1 << 18  # bytes that take about a millisecond to parse
_MAX_FIELDS = 256  # of the outermost object
# Each takes up to a hundred bytes in Python; a conversation has five to fifteen a message.
_MAX_OBJECTS = 1 << 17
_MAX_VALUES = 1 << 21  # numbers and the like: more tokens than any context has

_Body = TypeVar("_Body", bound=Body)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def dumps(value: Any) -> bytes:
    return _encode(value).encode()


def json_reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(dumps(value), status, headers, "application/json")


def error_reply(error: ApiError, path: str, request_id: str | None = None) -> Response:
    """In the form that the clients of this path expect."""
    return json_reply(error_body(error, path, request_id), error.status, error.headers)


async def parsed(request: Request, kind: type[_Body], service: Service) -> _Body:
    """The request's body as a `kind`. ApiError 400 or 415 in OpenAI's words."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A page may post a text of another type, or of none, anywhere without asking; JSON it may only after a preflight.
    if content_type != "application/json" and not content_type.endswith("+json"):
        found = f"the content type is {content_type!r:.80}" if content_type else "there is no Content-Type"
        raise ApiError(
            415, f"{found}; it must be application/json (with curl: -H 'Content-Type: application/json')"
        )
    data = await request.body()
    if not data or data.isspace():
        raise ApiError(400, "the body is empty; it must be a JSON object")
    engine = service.engine
    most = None if engine.tokenizer is None else engine.max_model_len * engine.tokenizer.max_token_bytes
    read = partial(parse, kind, data, strict=service.options.strict_fields, max_text=most)
    return await run_in_threadpool(read) if len(data) > _LARGE else read()


def parse(kind: type[_Body], data: bytes, *, strict: bool = False, max_text: int | None = None) -> _Body:
    """One pass in C++, without the interpreter's lock, says whether objects may be made of it; msgspec makes them and
    stops at the first thing that is wrong. Time and memory grow with the body, and with nothing else.

    strict: fields that nobody knows are refused. max_text: bytes of one text; more do not fit into the context.
    """
    depth, objects, values, text, members = _core.json_shape(data, _MAX_FIELDS + 1)
    if depth > MAX_JSON_DEPTH:
        raise ApiError(400, f"the body is nested deeper than {MAX_JSON_DEPTH}")
    for what, found, limit in (
        ("fields", len(members), _MAX_FIELDS),
        ("texts, names, lists and objects", objects, _MAX_OBJECTS),
        ("values", values, _MAX_VALUES),
    ):
        if found > limit:
            raise ApiError(400, f"the body has more than {limit} {what}")
    if max_text is not None and text > max_text:
        raise ApiError(
            400,
            f"a text of the body has {text} bytes or more; max_model_len tokens have {max_text} at most",
            code="context_length_exceeded",
        )
    try:
        body = decoder(kind, strict).decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        wrong = of_msgspec(error)
        wrong.message += known_fields.inner_hint(error)
        raise wrong from None
    assert isinstance(body, kind)
    unknown = known_fields.check(kind, data, members, strict=strict)
    if unknown:
        log.info("ignored unknown fields: %s", ", ".join(name[:40] for name in unknown[:20]))
    return body
