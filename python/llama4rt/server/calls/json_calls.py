"""Calls written as JSON, in the forms that models have learnt:

    {"name": "f", "parameters": {...}}         also "arguments", and arguments as a string of JSON
    {"type": "function", "function": {"name": "f", "arguments": {...}}}
    {"tool_calls": [...]}                      of either of those

The first can be known by its head, so that its arguments stream; the others are read when they are complete.
"""

import json
from collections.abc import Collection
from typing import Any

from llama4rt.server.calls.bracket_scan import BracketScan

_ARGUMENTS = ("parameters", "arguments")
_KEYS = frozenset((*_ARGUMENTS, "name", "type", "id", "function", "tool_calls"))
_MAX_TEXT = 128  # characters of a key or a name
_MAX_CALLS = 128
_SPACE = " \t\r\n"

MORE = "more"  # what has come does not decide


def head(text: str, at: int, names: Collection[str]) -> "tuple[str, int] | str | None":
    """Reads from the brace of an object up to the brace of its arguments.

    (name, index of that brace): the arguments can stream. "whole": it may be a call, which its end will show. None: it
    is none. MORE: so far it may be either.
    """
    name, at = "", at + 1
    while True:
        key, at = _quoted(text, at)
        if key is None:
            return MORE if at == len(text) else None
        if key not in _KEYS:
            return None
        char, at = _next(text, at)
        if not char:
            return MORE
        if char != ":":
            return None
        char, begin = _next(text, at)
        if not char:
            return MORE
        if key in _ARGUMENTS and name and char == "{":
            return name, begin - 1
        if char != '"' or key not in ("name", "type", "id", "function"):
            return "whole"
        value, at = _quoted(text, begin - 1)
        if value is None:
            return MORE if at == len(text) else None
        if key == "name" or (key == "function" and value != "function"):
            if value not in names:
                return None
            name = value
        char, at = _next(text, at)
        if not char:
            return MORE
        if char != ",":
            return None


def whole(text: str, names: Collection[str]) -> list[tuple[str, str]] | None:
    """(name, arguments as JSON text) of each call in a complete object; None when it is no call of these names."""
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return _calls(value, names)


def _calls(value: Any, names: Collection[str]) -> list[tuple[str, str]] | None:
    if not isinstance(value, dict):
        return None
    listed = value.get("tool_calls")
    if listed is not None:
        if not isinstance(listed, list) or not 0 < len(listed) <= _MAX_CALLS:
            return None
        found = [_call(item, names) for item in listed]
        return None if None in found else [call for call in found if call is not None]
    call = _call(value, names)
    return None if call is None else [call]


def _call(value: Any, names: Collection[str]) -> tuple[str, str] | None:
    if not isinstance(value, dict):
        return None
    function = value.get("function")
    if isinstance(function, dict):
        value = function
    name = value.get("name", value.get("function"))
    given = next((value[key] for key in _ARGUMENTS if key in value), None)
    if not isinstance(name, str) or name not in names:
        return None
    if given is None and not any(key in value for key in (*_ARGUMENTS, "type")) and function is None:
        return None  # {"name": "f"} alone may be data
    if isinstance(given, str):  # OpenAI's own form
        try:
            given = json.loads(given or "{}", strict=False)
        except (ValueError, RecursionError):
            return None
    if not isinstance(given or {}, dict):
        return None
    return name, json.dumps(given or {}, ensure_ascii=False)


class StreamingCall:
    """The rest of {"name": "f", "parameters": {...}}: the inner object streams, what follows it is dropped."""

    def __init__(self) -> None:
        self._inner = BracketScan(python=False)
        self._outer = BracketScan(python=False)
        self._outer.feed("{")
        self._streams = True
        self.done = False

    def take(self, text: str, at: int) -> tuple[int, str]:
        """(how far the text is used up, what of it are arguments)."""
        if self._streams:
            end = self._inner.feed(text, at)
            if end < 0:
                return len(text), text[at:]
            self._streams = False
            return end, text[at:end]
        end = self._outer.feed(text, at)
        self.done = end >= 0
        return (end if self.done else len(text)), ""


def _quoted(text: str, at: int) -> tuple[str | None, int]:
    """(a text in quotes, the index after it); (None, the text's length) when more must come; (None, -1) otherwise."""
    char, start = _next(text, at)
    if char != '"':
        return None, -1 if char else len(text)
    end = text.find('"', start, start + _MAX_TEXT + 1)
    if end < 0:
        return None, len(text) if len(text) - start <= _MAX_TEXT else -1
    value = text[start:end]
    return (None, -1) if "\\" in value else (value, end + 1)


def _next(text: str, at: int) -> tuple[str, int]:
    """(the next character that is no space, the index after it); ("", the text's length) at the end."""
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return text[at : at + 1], min(at + 1, len(text))
