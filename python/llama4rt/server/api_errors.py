"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}."""

import re
from typing import Any

from pydantic import ValidationError

# Python's and Pillow's messages can hold heap addresses; none of ours does, and none gets out.
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What a client is told. message: made for people, without paths and without other clients' data."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": _ADDRESS.sub("(address)", self.message),
                "type": _error_type(self.status),
                "param": self.param,
                "code": self.code,
            }
        }


def _error_type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def of_validation(error: ValidationError) -> ApiError:
    """The first thing that pydantic found, in one sentence: where, what is wrong with it."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    path = [str(part) for part in first["loc"] if not _is_variant(part)]
    where = ".".join(path)[:200]
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{where or 'the body'}: {message}", param=where or None)


def _is_variant(part: object) -> bool:
    """pydantic also names the member of a union that it tried: no part of the client's document."""
    return isinstance(part, str) and (
        "[" in part or part in ("str", "int", "float", "bool") or part[:1].isupper()
    )
