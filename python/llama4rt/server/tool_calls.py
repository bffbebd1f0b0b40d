"""ToolShaper: the calls in what a model writes, and the content around them, as they come.

Llama 4 writes calls as {"name": ..., "parameters": {...}}, as a Python list [f(a=1), g(b=2)], and either of them after
`<|python_start|>`; with text before them, several at a time. Only names of tools that the request defines make a call:
all else stays content. A call comes out when it is complete, the arguments of a JSON call as they grow.
"""

import json
import re
import uuid
from collections.abc import Collection
from typing import Any

from llama4rt.server.call_scanner import BracketScan, NotACall, parse_calls

PYTHON_START, PYTHON_END = "<|python_start|>", "<|python_end|>"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_MAX_HEAD = 400  # characters in which a call must have said its name
_MAX_LIST = 64 << 10  # characters of one Python list of calls
_CANDIDATE = re.compile(r"[{\[<]")
_SPACE = re.compile(r"[ \t\r\n]*")
_ARGUMENTS = ("parameters", "arguments")


class ToolShaper:
    """One output's."""

    def __init__(
        self, names: Collection[str], special: re.Pattern[str] | None = None, *, single: bool = False
    ) -> None:
        """special: matches special tokens, which are no content. single: at most one call."""
        self._names = frozenset(names)
        self._special = special
        self._single = single
        self._held = ""  # not decided yet, from _at on
        self._at = 0
        self._calls = 0
        self._scan: BracketScan | None = None  # of the bracket that _held begins with
        self._scanned = 0  # characters of _held that it has seen
        self._open: _JsonCall | None = None  # a JSON call whose arguments are growing
        self._after_start = False  # what comes first after <|python_start|> may be a bare f(a=1)

    def push(self, text: str) -> list[dict[str, Any]]:
        if self._special is not None and "<|" in text:
            text = self._special.sub(lambda m: m[0] if m[0] in (PYTHON_START, PYTHON_END) else "", text)
        self._held += text
        return self._advance(final=False)

    def finish(self, reason: str) -> tuple[list[dict[str, Any]], str]:
        deltas = self._advance(final=True)
        return deltas, "tool_calls" if self._calls and reason == "stop" else reason

    # --- inside ---------------------------------------------------------------------------------------------

    def _advance(self, final: bool) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        while self._at < len(self._held):
            before = (self._at, self._open is None, self._after_start)
            self._step(out, final)
            if before == (self._at, self._open is None, self._after_start):
                break
        if final:
            self._content(out, len(self._held))
        self._held, self._at = self._held[self._at :], 0
        return _merged(out)

    def _step(self, out: list[dict[str, Any]], final: bool) -> None:
        """Takes something off the held text, or leaves it when more must come first."""
        held, at = self._held, self._at
        if self._open is not None:
            self._at, arguments = self._open.take(held, at)
            if arguments:
                out.append(_arguments(self._calls - 1, arguments))
            if self._open.done:
                self._open = None
            return
        start = self._first_candidate()
        if start > at:
            self._content(out, start)
            return
        for marker in (PYTHON_START, PYTHON_END):
            if held.startswith(marker, at):
                self._at += len(marker)
                self._after_start = marker == PYTHON_START
                return
            if len(held) - at < len(marker) and marker.startswith(held[at:]) and not final:
                return
        if self._single and self._calls:
            self._content(out, len(held))
        elif held[at] == "{":
            self._json(out, final)
        elif held[at] == "[" or self._after_start:
            self._list(out, final)
        else:
            self._content(out, at + 1)

    def _first_candidate(self) -> int:
        """Where a call, or the mark of one, might begin; the text's end when nowhere."""
        pattern = _SPACE if self._after_start else _CANDIDATE
        match = (
            pattern.match(self._held, self._at) if self._after_start else pattern.search(self._held, self._at)
        )
        if match is None:
            return len(self._held)
        return match.end() if self._after_start else match.start()

    def _json(self, out: list[dict[str, Any]], final: bool) -> None:
        head = _json_head(self._held, self._at + 1, self._names)
        if head is None:
            if final or len(self._held) - self._at > _MAX_HEAD:
                self._content(out, self._at + 1)
            return
        name, begin = head
        if not name:
            self._content(out, self._at + 1)
        elif begin >= 0:
            self._begin_call(out, name)
            self._open = _JsonCall()
            self._at = begin

    def _list(self, out: list[dict[str, Any]], final: bool) -> None:
        """A Python list of calls, a JSON list of calls, or a bare f(a=1)."""
        held, at = self._held, self._at
        looks = _looks_like_calls(held, at, self._names)
        if looks is None and not final:
            return
        if looks == "json":  # the brackets of the list are passed over: each call stands for itself
            self._at = held.index("{", at)
            return
        if looks != "python":
            self._after_start = False
            self._content(out, at + 1)
            return
        end = self._end_of_list(final)
        if end == 0:
            return
        self._after_start = False
        if end < 0:
            self._content(out, len(held))  # all that was looked through: nothing is looked at twice
            return
        try:
            calls = parse_calls(held[at:end])
            if not all(name in self._names for name, _ in calls):
                raise NotACall
        except NotACall:
            self._content(out, end)
            return
        self._at = end
        for name, arguments in calls[: 1 if self._single else None]:
            self._begin_call(out, name)
            out.append(_arguments(self._calls - 1, json.dumps(arguments, ensure_ascii=False)))

    def _end_of_list(self, final: bool) -> int:
        """The index after it; 0 when it has not come yet, -1 when it will not."""
        if self._scan is None:
            self._scan, self._scanned = BracketScan(), 0
        end = self._scan.feed(self._held, self._at + self._scanned)
        self._scanned = len(self._held) - self._at
        if end < 0 and not final and self._scanned < _MAX_LIST:
            return 0
        self._scan, self._scanned = None, 0
        return end

    def _begin_call(self, out: list[dict[str, Any]], name: str) -> None:
        call = {
            "index": self._calls,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        self._calls += 1
        self._after_start = False
        out.append({"tool_calls": [call]})

    def _content(self, out: list[dict[str, Any]], end: int) -> None:
        text, self._at = self._held[self._at : end], end
        if self._calls and not text.strip(" \t\r\n,;]"):
            return  # what separates calls
        if text:
            out.append({"content": text})


class _JsonCall:
    """The arguments of {"name": "f", "parameters": {...}}: streams the inner object, drops the outer end."""

    def __init__(self) -> None:
        self._scan = BracketScan()
        self._inner = True
        self.done = False

    def take(self, text: str, at: int) -> tuple[int, str]:
        """(how far the text is used up, what of it are arguments)."""
        if self._inner:
            end = self._scan.feed(text, at)
            if end < 0:
                return len(text), text[at:]
            self._inner = False
            return end, text[at:end]
        close = text.find("}", at)
        if close < 0:
            return len(text), ""
        self.done = True
        return close + 1, ""


def _json_head(text: str, at: int, names: Collection[str]) -> tuple[str, int] | None:
    """Reads {"type": "function", "name": "f", "parameters": up to the brace of the arguments. at: after the first one.

    (name, index of that brace; -1 when it has not come); ("", 0) when it is no call; None when more must come.
    """
    name = ""
    while True:
        key, at = _json_text(text, at)
        if at < 0:
            return None if key is None else ("", 0)
        at, more = _skip(text, at, ":")
        if at < 0:
            return None if more else ("", 0)
        if key in _ARGUMENTS and name:
            at, more = _skip(text, at, "{", take=False)
            return (name, at) if at >= 0 else ((name, -1) if more else ("", 0))
        if key not in ("name", "type", "id", "function"):
            return ("", 0)
        value, at = _json_text(text, at)
        if at < 0:
            return None if value is None else ("", 0)
        if key in ("name", "function") and value != "function":
            if value not in names:
                return ("", 0)
            name = str(value)
        at, more = _skip(text, at, ",")
        if at < 0:
            return None if more else ("", 0)


def _json_text(text: str, at: int) -> tuple[str | None, int]:
    """(a text in quotes, the index after it); (None, -1): more must come; ("", -1): there is none."""
    start, more = _skip(text, at, '"')
    if start < 0:
        return (None, -1) if more else ("", -1)
    end = text.find('"', start)
    if end < 0:
        return (None, -1) if len(text) - start < 128 else ("", -1)
    return text[start:end], end + 1


def _skip(text: str, at: int, char: str, *, take: bool = True) -> tuple[int, bool]:
    """(index after spaces and `char`, or -1; whether the text ended before)."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    if at >= len(text):
        return -1, True
    return (at + take, False) if text[at] == char else (-1, False)


def _looks_like_calls(text: str, at: int, names: Collection[str]) -> str | None:
    """ "python" for [f( or f( with a known name, "json" for [{, "" for neither; None when more must come."""
    if text[at] == "[":
        begin, more = _skip(text, at + 1, "{", take=False)
        if begin >= 0:
            return "json"
        if more:
            return None
        space = _SPACE.match(text, at + 1)
        at = space.end() if space is not None else at + 1
    match = _NAME.match(text, at)
    if match is None:
        return ""
    if match.end() == len(text):
        return None if any(name.startswith(match.group()) for name in names) else ""
    return "python" if match.group() in names and text[match.end()] == "(" else ""


def _arguments(index: int, text: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _merged(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbouring pieces of content as one."""
    out: list[dict[str, Any]] = []
    for delta in deltas:
        if out and "content" in delta and "content" in out[-1]:
            out[-1] = {"content": out[-1]["content"] + delta["content"]}
        else:
            out.append(delta)
    return out
