"""TrackedText: a string that knows which of its characters the template's author wrote.

Used inside the template's child process (template_child.py), where every string of a rendering is one: constants of
the template are trusted, the caller's data is not, and what is made of both keeps the two apart. Only trusted
characters can become a control token. The rule is positive: an operation that is not known here returns a plain str,
and no character of that is trusted. Imports nothing of llama4rt.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

Span = tuple[int, int]  # first character, one past the last
Spans = tuple[Span, ...]  # ascending, apart from one another

_CONVERSION = re.compile(r"%(?:\((?P<key>[^()]*)\))?(?P<form>[#0 +-]*\d*(?:\.\d*)?[hlL]?[a-zA-Z%])")


class TrackedText(str):
    """Equals the str of its characters in everything; `_spans` are the trusted ones."""

    __slots__ = ("_spans",)  # the underscore: no template can read it

    _spans: Spans

    def __new__(cls, text: str = "", spans: Spans = ()) -> "TrackedText":
        self = str.__new__(cls, text)
        self._spans = spans
        return self

    @staticmethod
    def trusted(text: str) -> "TrackedText":
        """Text of the template itself."""
        return TrackedText(text, ((0, len(text)),) if text else ())

    def __str__(self) -> str:
        return self  # so that str(x), which jinja's code applies to everything, keeps the spans

    # --- pieces ---------------------------------------------------------------------------------------------

    def __getitem__(self, index: "SupportsIndex | slice") -> "TrackedText":
        text = str.__getitem__(self, index)
        if not self._spans:
            return TrackedText(text)
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return TrackedText(text, _clipped(self._spans, start, stop))
            return TrackedText(text, _of_mask(_mask(self)[index]))
        at = index.__index__() % len(self)
        return TrackedText(text, _clipped(self._spans, at, at + 1))

    def __iter__(self) -> "Iterator[TrackedText]":
        return (self[i] for i in range(len(self)))

    def strip(self, chars: str | None = None, /) -> "TrackedText":
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> "TrackedText":
        left = len(str.lstrip(self, chars))
        return self if left == len(self) else self[len(self) - left :]

    def rstrip(self, chars: str | None = None, /) -> "TrackedText":
        left = len(str.rstrip(self, chars))
        return self if left == len(self) else self[:left]

    def removeprefix(self, prefix: str, /) -> "TrackedText":
        return self[len(self) - len(str.removeprefix(self, prefix)) :]

    def removesuffix(self, suffix: str, /) -> "TrackedText":
        return self[: len(str.removesuffix(self, suffix))]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> "list[TrackedText]":  # type: ignore[override]
        return self._located(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> "list[TrackedText]":  # type: ignore[override]
        return self._located(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> "list[TrackedText]":  # type: ignore[override]
        lines = []
        at = 0
        for line, whole in zip(str.splitlines(self, keepends), str.splitlines(self, True), strict=True):
            lines.append(self[at : at + len(line)])
            at += len(whole)
        return lines

    def partition(self, sep: str, /) -> "tuple[TrackedText, TrackedText, TrackedText]":
        return self._in_three(str.partition(self, sep))

    def rpartition(self, sep: str, /) -> "tuple[TrackedText, TrackedText, TrackedText]":
        return self._in_three(str.rpartition(self, sep))

    def _in_three(self, parts: tuple[str, str, str]) -> "tuple[TrackedText, TrackedText, TrackedText]":
        first, second = len(parts[0]), len(parts[0]) + len(parts[1])
        return self[:first], self[first:second], self[second:]

    def _located(self, parts: list[str], sep: str | None) -> "list[TrackedText]":
        found = []
        at = 0
        for part in parts:
            if sep is None:  # some white space between; no part but the first begins with it
                at = str.index(self, part, at)
            found.append(self[at : at + len(part)])
            at += len(part) + len(sep or "")
        return found

    # --- put together ---------------------------------------------------------------------------------------

    def __add__(self, other: str, /) -> "TrackedText":
        return _pair(self, other) if _is_text(other) else NotImplemented

    def __radd__(self, other: str) -> "TrackedText":
        return _pair(other, self) if _is_text(other) else NotImplemented

    def __mul__(self, count: SupportsIndex, /) -> "TrackedText":
        text = str.__mul__(self, count)  # a memory limit ends too long a one here
        if text is NotImplemented or not self._spans:
            return TrackedText(text) if isinstance(text, str) else NotImplemented
        if self._spans == ((0, len(self)),):
            return TrackedText.trusted(text)
        return concatenated([self] * (len(text) // len(self)))

    __rmul__ = __mul__

    def join(self, items: Iterable[str], /) -> "TrackedText":
        pieces = list(items)
        str.join(self, pieces)  # refuses what is no text
        if not self or not pieces:
            return concatenated(pieces)
        between: list[str] = [self] * (2 * len(pieces) - 1)
        between[::2] = pieces
        return concatenated(between)

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        text = str.replace(self, old, new, count)
        if not old:
            return text
        return TrackedText(new, spans_of(new)).join(self.split(old, count))

    def __mod__(self, values: Any, /) -> str:
        return checked(str.__mod__(self, values), self._by_percent(values))

    def _by_percent(self, values: Any) -> "TrackedText | None":
        rest = list(values) if isinstance(values, tuple) else [values]
        pieces: list[str] = []
        at = 0
        for match in _CONVERSION.finditer(self):
            pieces.append(self[at : match.start()])
            at = match.end()
            key, form = match["key"], match["form"]
            if form == "%":
                pieces.append(self[at - 1 : at])
                continue
            if (key is None and not rest) or (key is not None and not isinstance(values, Mapping)):
                return None
            value = rest.pop(0) if key is None else values[key]
            pieces.append(value if form == "s" and isinstance(value, str) else ("%" + form) % (value,))
        pieces.append(self[at:])
        return concatenated(pieces)

    def ljust(self, width: SupportsIndex, fillchar: str = " ", /) -> "TrackedText":
        return self._padded(str.ljust(self, width, fillchar), 0)

    def rjust(self, width: SupportsIndex, fillchar: str = " ", /) -> "TrackedText":
        text = str.rjust(self, width, fillchar)
        return self._padded(text, len(text) - len(self))

    def center(self, width: SupportsIndex, fillchar: str = " ", /) -> "TrackedText":
        text = str.center(self, width, fillchar)
        pad = len(text) - len(self)
        return self._padded(text, pad // 2 + (pad & width.__index__() & 1 if pad else 0))

    def _padded(self, text: str, before: int) -> "TrackedText":
        return TrackedText(text, tuple((a + before, b + before) for a, b in self._spans))

    # --- case -----------------------------------------------------------------------------------------------

    def lower(self) -> str:
        return self._mapped(str.lower)

    def upper(self) -> str:
        return self._mapped(str.upper)

    def casefold(self) -> str:
        return self._mapped(str.casefold)

    def swapcase(self) -> str:
        return self._mapped(str.swapcase)

    def capitalize(self) -> str:
        return self._mapped(str.capitalize)

    def title(self) -> str:
        return self._mapped(str.title)

    def _mapped(self, change: Any) -> str:
        """No change of case makes a character vanish, so a text of the same length has each in its old place."""
        text: str = change(self)
        if len(text) == len(self):
            return TrackedText(text, self._spans)
        pieces = [
            TrackedText.trusted(change(p)) if ok else TrackedText(change(p)) for p, ok in pieces_of(self)
        ]
        return checked(text, concatenated(pieces))


def concatenated(pieces: Iterable[str]) -> TrackedText:
    """One after the other; neighbouring trusted characters are one span."""
    pieces = list(pieces)
    spans: list[Span] = []
    at = 0
    for piece in pieces:
        own = spans_of(piece)
        if own:
            if at == 0 and not spans:
                spans = list(own)
            else:
                first = len(spans)
                spans += [(a + at, b + at) for a, b in own]
                if first and spans[first - 1][1] == spans[first][0]:
                    spans[first - 1 : first + 1] = [(spans[first - 1][0], spans[first][1])]
        at += len(piece)
    return TrackedText("".join(pieces), tuple(spans))


def _pair(left: str, right: str) -> TrackedText:
    """concatenated() of two: templates do little else."""
    text, at = str.__add__(left, right), len(left)
    first, second = spans_of(left), spans_of(right)
    if not second:
        return TrackedText(text, first)
    moved = tuple([(a + at, b + at) for a, b in second])
    if first and first[-1][1] == moved[0][0]:
        return TrackedText(text, (*first[:-1], (first[-1][0], moved[0][1]), *moved[1:]))
    return TrackedText(text, first + moved)


def spans_of(text: str) -> Spans:
    """Of a plain str none."""
    return getattr(text, "_spans", ())


def pieces_of(text: str) -> list[tuple[str, bool]]:
    """(characters, trusted) in order, neighbours differing."""
    plain = str.__getitem__(text, slice(None))
    pieces = []
    at = 0
    for start, stop in spans_of(text):
        if start > at:
            pieces.append((plain[at:start], False))
        pieces.append((plain[start:stop], True))
        at = stop
    if at < len(plain):
        pieces.append((plain[at:], False))
    return pieces


def track(value: Any) -> Any:
    """A copy of JSON data whose strings, keys too, are tracked and not trusted."""
    if isinstance(value, str):
        return TrackedText(value)
    if isinstance(value, list):
        return [track(item) for item in value]
    if isinstance(value, dict):
        return {TrackedText(key): track(item) for key, item in value.items()}
    return value


def checked(text: str, tracked: TrackedText | None) -> str:
    """`tracked` where it has the characters that Python's own operation gave, else those, not trusted."""
    return tracked if tracked is not None and tracked == text else TrackedText(text)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not hasattr(value, "__html__")  # Markup wants to escape its neighbour


def _clipped(spans: Spans, start: int, stop: int) -> Spans:
    """Those inside [start, stop), counted from start."""
    if stop <= start:
        return ()
    return tuple((max(a, start) - start, min(b, stop) - start) for a, b in spans if a < stop and b > start)


def _mask(text: TrackedText) -> list[bool]:
    mask = [False] * len(text)
    for start, stop in spans_of(text):
        mask[start:stop] = [True] * (stop - start)
    return mask


def _of_mask(mask: list[bool]) -> Spans:
    edges = [i for i in range(len(mask) + 1) if (i > 0 and mask[i - 1]) != (i < len(mask) and mask[i])]
    return tuple(zip(edges[::2], edges[1::2], strict=True))
