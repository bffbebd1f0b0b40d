"""Calls that a model writes as Python: [f(a=1), g(b=[{"c": None}])]

A linear scanner over text that nobody vouches for: no eval of the whole, no recursion beyond a fixed depth. Values are
Python's literals in all their forms, with JSON's true, false and null; each string literal by itself is read by
Python's own parser.
"""

import ast
import json
import re
from typing import Any

MAX_DEPTH = 64
_MAX_NUMBER = 256  # characters
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_SPACE = re.compile(r"(?:[ \t\r\n\f]|#[^\n]*|\\\r?\n)*")
# Tools may be called search-web or 3d.render, which Python's names may not.
_FUNCTION = re.compile(r"[^\W.-][\w.-]*")
_WORD = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(
    r"(?:0[xX][\da-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[\d_]*\.?[\d_]*(?:[eE][+-]?[\d_]+)?)(?![\w.])"
)
_STRING = re.compile(
    r"""([rRuU]?)(?:'''((?:[^\\]|\\.)*?)'''|\"\"\"((?:[^\\]|\\.)*?)\"\"\"|'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")""",
    re.DOTALL,
)
# Escapes that Python keeps as they are, with a warning (doubled, they mean the same without one), and octal ones above
# \377, which it also warns of.
_ESCAPE = re.compile(r"""\\(?:([4-7][0-7]{2})|([\n\r'"\\abfnrtvxNuU0-7])|)""")
# Not one that a backslash takes away.
_BARE_LINE_END = re.compile(r"(?<!\\)\r?\n")


class NotACall(Exception):
    """The text is something else."""


def parse_calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """[f(a=1), ...] or f(a=1) to names and arguments. NotACall for anything else."""
    return _Parser(text).calls()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def calls(self) -> list[tuple[str, dict[str, Any]]]:
        listed = self._peek() == "["
        if listed:
            self._at += 1
        found = [self._call()]
        while self._peek() == ",":
            self._at += 1
            if listed and self._peek() == "]":
                break
            found.append(self._call())
        if listed:
            self._expect("]")
        if self._peek():
            raise NotACall
        return found

    def _call(self) -> tuple[str, dict[str, Any]]:
        name = self._take(_FUNCTION)
        self._expect("(")
        arguments: dict[str, Any] = {}
        while self._peek() != ")":
            key = self._take(_WORD)
            self._expect("=")
            if key in arguments:
                raise NotACall
            arguments[key] = self._value(0)
            if self._peek() != ",":
                break
            self._at += 1
        self._expect(")")
        return name, arguments

    def _value(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise NotACall
        char = self._peek()
        if char == "[":
            return self._items("]", depth)[0]
        if char == "(":
            items, commas = self._items(")", depth)
            return items if commas or not items else items[0]  # (1) is 1, (1,) is a tuple
        if char == "{":
            return self._dict(depth)
        if char.isdecimal() or (char and char in "-+."):
            return self._number()
        strings = self._strings()
        if strings is not None:
            return strings
        word = self._take(_WORD)
        if word not in _WORDS:
            raise NotACall
        return _WORDS[word]

    def _items(self, closing: str, depth: int) -> tuple[list[Any], int]:
        """(the items, how many commas there were)."""
        self._at += 1
        items, commas = [], 0
        while self._peek() != closing:
            items.append(self._value(depth + 1))
            if self._peek() != ",":
                break
            self._at += 1
            commas += 1
        self._expect(closing)
        return items, commas

    def _dict(self, depth: int) -> dict[str, Any]:
        """A set, {1, 2}, has no colon: NotACall."""
        self._at += 1
        items: dict[str, Any] = {}
        while self._peek() != "}":
            key = self._value(depth + 1)
            if not isinstance(key, (str, int, float)) and key is not None:
                raise NotACall
            self._expect(":")
            items[key if isinstance(key, str) else json.dumps(key)] = self._value(depth + 1)
            if self._peek() != ",":
                break
            self._at += 1
        self._expect("}")
        return items

    def _strings(self) -> str | None:
        """Neighbours are one, as in Python. None when no string begins here."""
        parts: list[str] = []
        while (match := _STRING.match(self._text, self._at)) is not None:
            self._at = match.end()
            parts.append(_string_value(match))
            self._peek()
        if not parts:
            return None
        # Halves of a surrogate pair are one character, as in JSON; a half alone is none.
        return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _number(self) -> int | float:
        negative = False
        while (char := self._peek()) in ("-", "+") and char:
            negative ^= char == "-"
            self._at += 1
        match = _NUMBER.match(self._text, self._at)
        if match is None or not 0 < match.end() - match.start() <= _MAX_NUMBER:
            raise NotACall
        self._at = match.end()
        try:
            number: int | float = int(match[0], 0)
        except ValueError:
            try:
                number = float(match[0])
            except ValueError:
                raise NotACall from None
            if match[0].isdecimal() and match[0].strip("0"):
                raise NotACall from None  # 007
        if number == float("inf"):
            raise NotACall
        return -number if negative else number

    def _take(self, pattern: re.Pattern[str]) -> str:
        self._peek()
        match = pattern.match(self._text, self._at)
        if match is None:
            raise NotACall
        self._at = match.end()
        return match[0]

    def _peek(self) -> str:
        """The next character that is neither space nor comment; "" at the end."""
        space = _SPACE.match(self._text, self._at)
        assert space is not None
        self._at = space.end()
        return self._text[self._at : self._at + 1]

    def _expect(self, char: str) -> None:
        if self._peek() != char:
            raise NotACall
        self._at += 1


def _string_value(match: re.Match[str]) -> str:
    raw = match[1] in ("r", "R")
    literal = match[0]
    if not raw:
        literal = match[1] + _ESCAPE.sub(_known_escape, literal[len(match[1]) :])
        if match[2] is None and match[3] is None:  # models write line ends between single quotes
            literal = _BARE_LINE_END.sub(r"\\n", literal)
    try:
        value = ast.literal_eval(literal)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # \x4, \N{no such name}, a NUL
        raise NotACall from None
    assert isinstance(value, str)
    return value


def _known_escape(match: re.Match[str]) -> str:
    if match[1] is not None:
        return f"\\u{int(match[1], 8):04x}"
    return match[0] if match[2] is not None else "\\\\"
