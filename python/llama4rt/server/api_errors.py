"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}."""

import re
from typing import Any

import msgspec

# Python's and Pillow's messages can hold heap addresses; none of ours does, and none gets out.
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{4,}")
_MISSING = re.compile(r"Object missing required field `(.*)`")
_MAX_MESSAGE = 500  # characters; msgspec repeats names and values that it does not know
_MOST_TOLD = 2000  # characters of any message: whatever a client wrote into it, the refusal is short
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
        super().__init__(message[:_MOST_TOLD])
        self.status = status
        self.message = message if len(message) <= _MOST_TOLD else message[:_MOST_TOLD] + " ..."
        self.param = param
        self.code = code
        self.headers = headers or {}

    def told(self) -> str:
        """The message as it goes out."""
        return _ADDRESS.sub("(address)", self.message)

    def body(self) -> dict[str, Any]:
        return {
            "error": {
                "message": self.told(),
                "type": _error_type(self.status),
                "param": self.param,
                "code": self.code,
            }
        }


def _error_type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def of_msgspec(error: Exception, prefix: str = "") -> ApiError:
    """What msgspec found, in one sentence: where, what is wrong with it. prefix: where what was read stands."""
    message = str(error)[:_MAX_MESSAGE]
    if isinstance(error, RecursionError):
        return ApiError(400, f"{prefix or 'the body'}: is nested too deep", param=prefix or None)
    if not isinstance(error, msgspec.ValidationError):
        return ApiError(400, f"{prefix or 'the body'} is not JSON: {message}", param=prefix or None)
    message, _, path = message.partition(" - at `$")
    where = prefix + re.sub(r"\[(\d+|\.\.\.)\]", r".\1", path.rstrip("`"))
    found = _MISSING.search(message)
    if found:
        where, message = f"{where}.{found.group(1)}", "is missing"
    message = message[:1].lower() + message[1:].replace("`", "").replace("matching regex", "of the pattern")
    where = where.strip(".")[:200]
    return ApiError(400, f"{where or 'the body'}: {message}", param=where or None)
