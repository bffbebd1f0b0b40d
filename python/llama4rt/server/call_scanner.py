"""Finds the calls that a model writes as a Python list: [f(a=1), g(b=[{"c": None}])]

A linear scanner of its own, over text that nobody vouches for: no eval, no regular expression that could go back.
"""

from typing import Any

MAX_DEPTH = 64
_SPACE = " \t\r\n"
_WORDS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "a": "\a", "v": "\v"}


class NotACall(Exception):
    """The text is something else."""


class BracketScan:
    """Looks for the closing bracket, piece by piece: each character is looked at once."""

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def feed(self, text: str, start: int = 0) -> int:
        """The index in `text` after the closing bracket, or -1."""
        for i in range(start, len(text)):
            char = text[i]
            if self._quote:
                if self._escaped:
                    self._escaped = False
                elif char == "\\":
                    self._escaped = True
                elif char == self._quote:
                    self._quote = ""
            elif char in "\"'":
                self._quote = char
            elif char in "[{(":
                self._depth += 1
            elif char in "]})":
                self._depth -= 1
                if self._depth <= 0:
                    return i + 1
        return -1


def parse_calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """[f(a=1), ...] or f(a=1) to names and arguments. NotACall for anything else."""
    parser = _Parser(text)
    return parser.calls()


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
        name = self._name(dots=True)
        self._expect("(")
        arguments: dict[str, Any] = {}
        while self._peek() != ")":
            key = self._name()
            self._expect("=")
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
        if char in ("[", "("):
            return self._items("]" if char == "[" else ")", depth)
        if char == "{":
            return self._dict(depth)
        if char in ('"', "'"):
            return self._string()
        if char.isdigit() or char in ("-", "+", "."):
            return self._number()
        word = self._name()
        if word not in _WORDS:
            raise NotACall
        return _WORDS[word]

    def _items(self, closing: str, depth: int) -> list[Any]:
        self._at += 1
        items = []
        while self._peek() != closing:
            items.append(self._value(depth + 1))
            if self._peek() != ",":
                break
            self._at += 1
        self._expect(closing)
        return items

    def _dict(self, depth: int) -> dict[str, Any]:
        self._at += 1
        items: dict[str, Any] = {}
        while self._peek() != "}":
            key = self._value(depth + 1)
            if not isinstance(key, (str, int, float)) and key is not None:
                raise NotACall
            self._expect(":")
            items[key if isinstance(key, str) else str(key)] = self._value(depth + 1)
            if self._peek() != ",":
                break
            self._at += 1
        self._expect("}")
        return items

    def _string(self) -> str:
        """Adjacent ones are one, as in Python."""
        parts: list[str] = []
        while (quote := self._peek()) in ('"', "'") and quote:
            self._at += 1
            while True:
                char = self._next()
                if char == quote:
                    break
                parts.append(self._escape() if char == "\\" else char)
        return "".join(parts)

    def _escape(self) -> str:
        char = self._next()
        if char in "xuU":
            digits = self._text[self._at : self._at + {"x": 2, "u": 4, "U": 8}[char]]
            self._at += len(digits)
            try:
                code = chr(int(digits, 16))
            except (ValueError, OverflowError):
                raise NotACall from None
            return code if not 0xD800 <= ord(code) <= 0xDFFF else "\ufffd"
        if char == "\n":
            return ""
        return _ESCAPES.get(char, char if char in "\\'\"/" else "\\" + char)

    def _number(self) -> int | float:
        start = self._at
        while self._at < len(self._text) and (
            self._text[self._at].isalnum() or self._text[self._at] in "+-._"
        ):
            self._at += 1
        text = self._text[start : self._at]
        if len(text) > 64:
            raise NotACall
        try:
            return int(text)
        except ValueError:
            pass
        try:
            number = float(text)
        except ValueError:
            raise NotACall from None
        if number != number or number in (float("inf"), float("-inf")):
            raise NotACall
        return number

    def _name(self, dots: bool = False) -> str:
        self._peek()
        start = self._at
        while self._at < len(self._text) and (
            self._text[self._at].isalnum() or self._text[self._at] in ("_.-" if dots else "_")
        ):
            self._at += 1
        if start == self._at:
            raise NotACall
        return self._text[start : self._at]

    def _peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while self._at < len(self._text) and self._text[self._at] in _SPACE:
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise NotACall
        self._at += 1
        return self._text[self._at - 1]

    def _expect(self, char: str) -> None:
        if self._peek() != char:
            raise NotACall
        self._at += 1
