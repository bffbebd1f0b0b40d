"""ToolShaper: the calls in what a model writes, and the content around them, as they come.

Llama 4 writes calls as {"name": ..., "parameters": {...}}, as a Python list [f(a=1), g(b=2)], and either of them after
`<|python_start|>`; with text before and after them, several at a time; other fine-tunes fence them, or write OpenAI's
own forms (json_calls.py). Only names of tools that the request defines make a call: all else stays content, to the
character. Dropped are the calls themselves, their brackets and fences, the two marks, and what separates one call from
the next: spaces, commas and semicolons. A call comes out when it is complete, the arguments of most JSON calls as they
grow.
"""

import json
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from llama4rt.server.calls import json_calls
from llama4rt.server.calls.bracket_scan import BracketScan
from llama4rt.server.calls.json_calls import MORE, StreamingCall
from llama4rt.server.calls.python_calls import NotACall, parse_calls

PYTHON_START, PYTHON_END = "<|python_start|>", "<|python_end|>"
_MARKS = (PYTHON_START, PYTHON_END)
_MAX_CALL = 64 << 10  # characters of what must be complete to be known: a Python list, an object
_CANDIDATE = re.compile(r"[{\[<`]")
_SPACE = re.compile(r"[ \t\r\n]*")
_SEPARATOR = re.compile(r"[ \t\r\n,;]*")
_NAME = re.compile(r"[\w.-]+")
_FENCE = re.compile(r"```[A-Za-z_]*[ \t]*\r?\n[ \t\r\n]*")
_FENCE_BEGUN = re.compile(r"`{1,2}\Z|```[A-Za-z_]*[ \t]*(?:\r?\Z|\r?\n[ \t\r\n]*\Z)")
_CLOSING_FENCE = re.compile(r"[ \t\r\n]*```")
_MAX_FENCE = 64  # characters of an opening one


@dataclass
class _Found:
    """What begins at a place. end: where reading goes on. calls: complete ones, with their arguments as JSON text.
    streaming: or the name of one whose arguments follow. list, fence: something is open around it.
    """

    end: int
    calls: list[tuple[str, str]] = field(default_factory=list)
    streaming: str | None = None
    in_list: bool = False
    in_fence: bool = False


class ToolShaper:
    """One output's."""

    def __init__(
        self,
        names: Collection[str],
        special: re.Pattern[str] | None = None,
        *,
        single: bool = False,
        only_first: bool = False,
    ) -> None:
        """special: matches special tokens, which are no content. single: only the first call comes out. only_first:
        calls are what the output begins with, or there are none.
        """
        self._names = frozenset(names)
        self._special = special
        self._single = single
        self._only_first = only_first
        self._held = ""  # not decided yet, from _at on
        self._at = 0
        self._calls = 0  # that came out
        self._scan: BracketScan | None = None  # of the bracket at _scan_at
        self._scan_at = -1  # in characters since the output's beginning, as _base
        self._scanned = 0  # how far it has seen, likewise
        self._base = 0  # of _held
        self._open: StreamingCall | None = None
        self._silent = False  # the open call does not come out
        self._after_call = False  # what comes next may only separate
        self._after_start = False  # what comes first after <|python_start|> may be a bare f(a=1)
        self._in_list = False
        self._in_fence = False

    def push(self, text: str) -> list[dict[str, Any]]:
        if self._special is not None and "<|" in text:
            text = self._special.sub(lambda m: m[0] if m[0] in _MARKS else "", text)
        self._held += text
        return self._advance(final=False)

    def finish(self, reason: str) -> tuple[list[dict[str, Any]], str]:
        deltas = self._advance(final=True)
        return deltas, "tool_calls" if self._calls and reason == "stop" else reason

    # --- inside ---------------------------------------------------------------------------------------------

    def _advance(self, final: bool) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        while self._at < len(self._held) and self._step(out, final):
            pass
        if final:
            self._content(out, len(self._held))
        self._base += self._at
        self._held, self._at = self._held[self._at :], 0
        return _merged(out)

    def _step(self, out: list[dict[str, Any]], final: bool) -> bool:
        """Takes something off the held text. False: more must come first."""
        if self._open is not None:
            self._at, arguments = self._open.take(self._held, self._at)
            if arguments and not self._silent:
                out.append(_arguments(self._calls - 1, arguments))
            if self._open.done:
                self._open, self._after_call = None, True
            return True
        if self._after_call:
            return self._step_after_call(out, final)
        if self._only_first and self._base + self._at > 0:
            self._content(out, len(self._held))
            return True
        place = self._next_candidate()
        if place > self._at:
            self._content(out, place)
            return True
        mark = self._mark_at(self._at, final)
        if mark == MORE:
            return False
        if mark is not None:
            self._at += len(mark)
            self._after_start = mark == PYTHON_START
            return True
        found = self._found(self._at, self._after_start, final)
        if found == MORE:
            return False
        self._after_start = False
        if isinstance(found, _Found):
            self._take(out, found)
        else:
            self._content(out, self._plain_end())
        return True

    def _step_after_call(self, out: list[dict[str, Any]], final: bool) -> bool:
        """Separators, and the ends of what is open around the call, go when another call follows; else they are text,
        except for those ends. Spaces alone at the output's end go too.
        """
        held = self._held
        place, kept, bare = self._at, [], self._after_start
        while True:
            separator = _SEPARATOR.match(held, place)
            assert separator is not None
            kept.append(separator[0])
            place = separator.end()
            if self._in_list and held.startswith("]", place):
                self._in_list, place = False, place + 1
                self._at, kept = place, []  # the list's commas and spaces go with it
                continue
            if self._in_fence and not self._in_list and (end := self._fence_end(place, final)):
                if end == MORE:
                    return False
                self._in_fence, place = False, int(end)
                self._at, kept = place, []
                continue
            mark = self._mark_at(place, final)
            if mark == MORE:
                return False
            if mark is None:
                break
            place, bare = place + len(mark), mark == PYTHON_START
        if place == len(held) and not final:
            return False
        found = self._found(place, bare, final) if place < len(held) else None
        if found == MORE:
            return False
        self._after_call = self._after_start = False
        if isinstance(found, _Found):
            self._take(out, found)
            return True
        self._in_list = self._in_fence = False
        text = "".join(kept)
        self._at = place
        if text and (place < len(held) or text.strip(" \t\r\n")):
            out.append({"content": text})
        if place < len(held):
            self._content(out, self._plain_end())
        return True

    def _fence_end(self, place: int, final: bool) -> int | str | None:
        match = _CLOSING_FENCE.match(self._held, place)
        if match is not None:
            return match.end()
        rest = self._held[place:]
        return MORE if not final and rest in ("`", "``") else None

    def _mark_at(self, place: int, final: bool) -> str | None:
        """The mark that stands there, MORE when it may become one, or None."""
        rest = self._held[place : place + len(PYTHON_START)]
        for mark in _MARKS:
            if rest.startswith(mark):
                return mark
            if rest and mark.startswith(rest) and not final:
                return MORE
        return None

    def _next_candidate(self) -> int:
        """Where a call, or the mark of one, might begin; the text's end when nowhere."""
        if self._after_start:
            match = _SPACE.match(self._held, self._at)
            return match.end() if match is not None else self._at
        match = _CANDIDATE.search(self._held, self._at)
        return len(self._held) if match is None else match.start()

    def _plain_end(self) -> int:
        """How much is certainly no call, from _at on: a bracket that was looked through is not looked at again."""
        at = self._base + self._at
        if self._scan is not None and self._scan_at == at:
            end, self._scan = self._scanned - self._base, None
            return end
        fence = _FENCE.match(self._held, self._at)
        return self._at + 1 if fence is None else fence.end()

    # --- what begins at a place -----------------------------------------------------------------------------

    def _found(self, place: int, bare: bool, final: bool) -> "_Found | str | None":
        """None when nothing does, MORE when that is not certain. bare: f(a=1) without a list's brackets counts."""
        held = self._held
        char = held[place]
        if char == "`":
            return self._fenced(place, final)
        if char == "{":
            return self._object(place, final)
        if char == "[":
            inner = _SPACE.match(held, place + 1)
            assert inner is not None
            if inner.end() == len(held):
                return None if final else MORE
            if held[inner.end()] == "{":
                found = self._object(inner.end(), final)
                if isinstance(found, _Found):
                    found.in_list = True
                return found
            return self._python(place, inner.end(), final)
        return self._python(place, place, final) if bare else None

    def _fenced(self, place: int, final: bool) -> "_Found | str | None":
        fence = _FENCE.match(self._held, place)
        if fence is not None and fence.end() < len(self._held):
            if self._held[fence.end()] not in "{[":
                return None
            found = self._found(fence.end(), False, final)
            if isinstance(found, _Found):
                found.in_fence = True
            return found
        if final or len(self._held) - place > _MAX_FENCE:
            return None
        return MORE if _FENCE_BEGUN.match(self._held, place) else None

    def _object(self, place: int, final: bool) -> "_Found | str | None":
        head = json_calls.head(self._held, place, self._names)
        if isinstance(head, tuple):
            return _Found(head[1], streaming=head[0])
        if head is None or (head == MORE and final):
            return None
        if head == MORE:
            return MORE
        end = self._bracket_end(place, final, python=False)
        if end is None or isinstance(end, str):
            return end
        calls = json_calls.whole(self._held[place:end], self._names)
        return None if calls is None else _Found(end, calls)

    def _python(self, place: int, name_at: int, final: bool) -> "_Found | str | None":
        held = self._held
        name = _NAME.match(held, name_at)
        if name is None:
            return None
        if name.end() == len(held):
            begun = not final and any(known.startswith(name[0]) for known in self._names)
            return MORE if begun else None
        if name[0] not in self._names or held[name.end()] != "(":
            return None
        end = self._bracket_end(place, final, python=True)
        if end is None or isinstance(end, str):
            return end
        try:
            calls = parse_calls(held[place:end])
        except NotACall:
            return None
        if not all(name in self._names for name, _ in calls):
            return None
        return _Found(end, [(name, json.dumps(arguments, ensure_ascii=False)) for name, arguments in calls])

    def _bracket_end(self, place: int, final: bool, *, python: bool) -> int | str | None:
        """The index after the closing bracket; None when it will not come."""
        at = self._base + place
        if self._scan is None or self._scan_at != at:
            self._scan, self._scan_at, self._scanned = BracketScan(python=python), at, at
        end = self._scan.feed(self._held, self._scanned - self._base)
        self._scanned = self._base + (end if end >= 0 else len(self._held))
        if end >= 0:
            return end
        return None if final or self._scanned - at >= _MAX_CALL else MORE

    # --- deltas ---------------------------------------------------------------------------------------------

    def _take(self, out: list[dict[str, Any]], found: _Found) -> None:
        self._scan = None
        self._at = found.end
        self._in_list = self._in_list or found.in_list
        self._in_fence = self._in_fence or found.in_fence
        self._after_start = False
        if found.streaming is not None:
            self._silent = not self._begin_call(out, found.streaming)
            self._open = StreamingCall()
            return
        for name, arguments in found.calls:
            if self._begin_call(out, name):
                out.append(_arguments(self._calls - 1, arguments))
        self._after_call = True

    def _begin_call(self, out: list[dict[str, Any]], name: str) -> bool:
        if self._single and self._calls:
            return False
        call = {
            "index": self._calls,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        self._calls += 1
        out.append({"tool_calls": [call]})
        return True

    def _content(self, out: list[dict[str, Any]], end: int) -> None:
        text, self._at = self._held[self._at : end], end
        if text:
            out.append({"content": text})


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
