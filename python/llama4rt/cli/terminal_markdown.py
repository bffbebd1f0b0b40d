"""Markdown as it streams, in a terminal's colours and weights: headings, bold, italics, code, lists and rules.

Nothing is laid out anew, so that words appear as they come; only a few marks wait for the next character. What is
written is a model's: control characters, which could move the cursor or name the window, are dropped.
"""

import os
import re
import sys
from collections.abc import Callable

_BOLD, _ITALIC, _CODE, _DIM, _HEADING, _PLAIN = (
    "\x1b[1m",
    "\x1b[3m",
    "\x1b[36m",
    "\x1b[2m",
    "\x1b[1;4m",
    "\x1b[0m",
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_HEADING_MARK = re.compile(r"#{1,6} ")
_BULLET = re.compile(r"([ \t]*)[-*+] ")
_LONGEST_MARK = 16  # characters at the begin of a line that may still become a mark
_CLOSES_WORD = re.compile(r"\S")


def printable(text: str) -> str:
    """Without characters that mean something to a terminal beside line feeds and tabs."""
    return _CONTROL.sub("", text)


def wants_colour() -> bool:
    """https://no-color.org; a terminal that says it is dumb has none either."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class MarkdownStream:
    """push() what comes, finish() at the end of the answer."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._waiting = ""  # what could not be read yet
        self._line_begins = True
        self._fence = False  # inside a block of code
        self._bold = self._italic = self._code = self._heading = False
        self._last = ""  # the character before

    def push(self, text: str) -> None:
        self._waiting += printable(text)
        self._read(last=False)

    def finish(self) -> None:
        self._read(last=True)
        if self._fence or self._style():
            self._fence = self._bold = self._italic = self._code = self._heading = False
            self._write(_PLAIN)

    def _read(self, last: bool) -> None:
        out: list[str] = []
        while self._waiting:
            taken = self._begin_of_line(out, last) if self._line_begins else self._inside(out, last)
            if not taken:
                break
        if out:
            self._write("".join(out))

    def _begin_of_line(self, out: list[str], last: bool) -> bool:
        """Reads a mark of the line, if there is one. False: more must come first."""
        text = self._waiting
        end = text.find("\n")
        stripped = text.lstrip(" ")
        may_grow = end < 0 and len(text) < _LONGEST_MARK and not last
        if stripped.startswith("```"):
            if end < 0 and not last:  # the language comes on the same line
                return False
            line = text if end < 0 else text[: end + 1]
            self._fence = not self._fence
            out.append(_DIM + line.rstrip("\n") + _PLAIN + ("\n" if end >= 0 else ""))
            if self._fence:
                out.append(_CODE)
            self._waiting = text[len(line) :]
            return True
        if may_grow and (not stripped or "```".startswith(stripped)):
            return False
        self._line_begins = False
        if self._fence:
            return True
        if (may_grow and set(stripped) <= set("#")) or (may_grow and stripped in ("-", "*", "+")):
            self._line_begins = True
            return False
        heading = _HEADING_MARK.match(stripped)
        bullet = _BULLET.match(text)
        if heading:
            self._heading = True
            out.append(_HEADING)
            self._waiting = stripped[heading.end() :]
        elif bullet:
            out.append(bullet[1] + "• ")
            self._waiting = text[bullet.end() :]
        return True

    def _inside(self, out: list[str], last: bool) -> bool:
        text = self._waiting
        char = text[0]
        if char == "\n":
            self._end_line(out)
        elif self._fence:
            end = text.find("\n")
            out.append(text if end < 0 else text[:end])
            self._waiting = "" if end < 0 else text[end:]
            return True
        elif char == "`":
            self._code = not self._code
            out.append(_PLAIN + self._style())
        elif char == "*" and not self._code:
            if len(text) < 2 and not last:
                return False
            return self._star(out, text, last)
        else:
            out.append(char)
        self._last = char
        self._waiting = text[1:]
        return True

    def _star(self, out: list[str], text: str, last: bool) -> bool:
        """One star for italics, two for bold; a star between blanks is a star."""
        double = text.startswith("**")
        size = 2 if double else 1
        if len(text) == size and not last:
            return False
        following = text[size : size + 1]
        is_on = self._bold if double else self._italic
        opens = not is_on and bool(_CLOSES_WORD.match(following))
        closes = is_on and bool(_CLOSES_WORD.match(self._last))
        if opens or closes:
            if double:
                self._bold = opens
            else:
                self._italic = opens
            out.append(_PLAIN + self._style())
        else:
            out.append(text[:size])
            self._last = "*"
        self._waiting = text[size:]
        return True

    def _end_line(self, out: list[str]) -> None:
        """Weights end with their line, so that one lost star does not colour all that follows."""
        if not self._fence and self._style():
            self._bold = self._italic = self._code = self._heading = False
            out.append(_PLAIN)
        out.append("\n")
        self._line_begins = True

    def _style(self) -> str:
        return (
            (_HEADING if self._heading else "")
            + (_BOLD if self._bold else "")
            + (_ITALIC if self._italic else "")
            + (_CODE if self._code else "")
        )
