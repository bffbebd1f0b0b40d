"""Raw parts of a body (schemas, arguments, token ids) as Python objects, once their size is known to be bearable.

A few bytes of JSON become a hundred in Python: `[],` is an object, `999,` a number and a place in a list. So bytes and
commas are counted before anything is made of them.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, UnsetType

from llama4rt import _core
from llama4rt.server.api_errors import ApiError, of_msgspec
from llama4rt.server.protocol import MAX_TOKEN_ID

MAX_JSON_BYTES = 256 << 10  # of one schema, one set of arguments, one field
MAX_JSON_DEPTH = 64
MAX_TOKENS = 1 << 19  # of one field, or as many as the context has
MAX_LOGIT_BIAS = 300

Open = Raw | UnsetType
_Id = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
_IDS = msgspec.json.Decoder(list[_Id])
_ID_LISTS = msgspec.json.Decoder(
    Annotated[list[Annotated[list[_Id], Meta(min_length=1)]], Meta(min_length=1)]
)
_TEXTS = msgspec.json.Decoder(Annotated[list[str], Meta(min_length=1)])
_BIASES = msgspec.json.Decoder(dict[str, float])
_TEXT = msgspec.json.Decoder(str)
_SECOND = re.compile(rb"\s*\[\s*(.?)", re.DOTALL)


def given(raw: Open) -> Raw | None:
    """None for a field that is not there, and for one that is null."""
    if isinstance(raw, UnsetType) or (size_of(raw) == 4 and bytes(raw) == b"null"):
        return None
    return raw


def size_of(raw: Open) -> int:
    """Bytes as they came."""
    return 0 if isinstance(raw, UnsetType) else memoryview(raw).nbytes


def json_value(value: Open, where: str) -> Any:
    """The value; None when there is none. ApiError 400 naming `where` when it is too large."""
    raw = given(value)
    if raw is None:
        return None
    _check_count(size_of(raw), MAX_JSON_BYTES, where, "bytes of JSON")
    return _decoded(msgspec.json.decode, raw, where)


def json_object(raw: Open, where: str) -> dict[str, Any] | None:
    """The same, of what must be an object."""
    value = json_value(raw, where)
    if value is not None and not isinstance(value, dict):
        raise ApiError(400, f"{where}: expected object, got {_kind(value)}", param=where[:200])
    return value


def call_arguments(value: Open, where: str) -> "str | dict[str, Any]":
    """A call's arguments: an object, or text, which a template or this server will read as JSON."""
    raw = given(value)
    if raw is None:
        return {}
    if bytes(memoryview(raw)[:1]) != b'"':
        return json_object(raw, where) or {}
    text = _decoded(_TEXT.decode, raw, where)
    assert isinstance(text, str)
    check_depth(text, where)
    return text


def check_depth(text: str, where: str) -> None:
    """ApiError 400 for text that would nest too deep if it is JSON."""
    depth = _core.json_shape(text.encode(), 0)[0]
    if depth > MAX_JSON_DEPTH:
        raise ApiError(
            400, f"{where}: is nested {depth} deep; at most {MAX_JSON_DEPTH} are allowed", param=where[:200]
        )


def token_ids(raw: Raw, where: str, limit: int = MAX_TOKENS) -> list[int]:
    """A list of token ids, of at most `limit`."""
    data = bytes(raw)
    _check_count(data.count(b",") + 1, limit, where)
    ids: list[int] = _decoded(_IDS.decode, data, where)
    return ids


def logit_bias(value: Open) -> dict[str, float] | None:
    raw = given(value)
    if raw is None:
        return None
    _check_count(size_of(raw), MAX_JSON_BYTES, "logit_bias", "bytes of JSON")
    _check_count(bytes(raw).count(b",") + 1, MAX_LOGIT_BIAS, "logit_bias")
    biases: dict[str, float] = _decoded(_BIASES.decode, raw, "logit_bias")
    return biases


def prompts(raw: Raw, *, max_prompts: int, max_tokens: int) -> "Sequence[str | list[int]]":
    """The prompts of a completion. max_tokens: of each, where they are token ids."""
    where = "prompt"
    if bytes(memoryview(raw)[:1]) != b"[":
        return [_decoded(_TEXT.decode, raw, where)]
    data = bytes(raw)
    found = _SECOND.match(data)
    second = found.group(1) if found else b""
    if second == b'"':
        texts: list[str] = _decoded(_TEXTS.decode, data, where)
        _check_count(len(texts), max_prompts, where, "prompts")
        return texts
    commas = data.count(b",")
    if second == b"[":
        _check_count(data.count(b"[") - 1, max_prompts, where, "prompts")
        _check_count(commas + 1, max(MAX_TOKENS, max_tokens), where)
        lists: list[list[int]] = _decoded(_ID_LISTS.decode, data, where)
        return lists
    if commas >= max_tokens:
        raise ApiError(
            400,
            f"the prompt has {commas + 1} tokens; max_model_len is {max_tokens}",
            param=where,
            code="context_length_exceeded",
        )
    ids: list[int] = _decoded(_IDS.decode, data, where)
    if not ids:
        raise ApiError(400, "prompt: a list must hold at least one text, token id or list", param=where)
    return [ids]


def _decoded(decode: Any, raw: Any, where: str) -> Any:
    try:
        return decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise of_msgspec(error, where) from None


def _check_count(count: int, limit: int, where: str, what: str = "entries") -> None:
    if count > limit:
        raise ApiError(400, f"{where}: has {count} {what}; at most {limit} are allowed", param=where[:200])


def _kind(value: Any) -> str:
    kinds = {str: "str", bool: "bool", int: "int", float: "float", list: "array"}
    return kinds.get(type(value), "null")
