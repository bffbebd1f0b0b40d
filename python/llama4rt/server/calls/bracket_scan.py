"""BracketScan: finds the bracket that closes the first one, piece by piece, past strings and comments."""

_OPENING, _CLOSING, _QUOTES = "[{(", "]})", "\"'"


class BracketScan:
    """Each character is looked at once, however the text is cut.

    python: strings may have three quotes, and `#` begins a comment. Otherwise the text is JSON.
    """

    def __init__(self, *, python: bool) -> None:
        self._python = python
        self._depth = 0
        self._quote = ""  # of the string that the text is in
        self._triple = False
        # Quotes that have come one after another: of an opening, or in a string of three of a closing.
        self._run = 0
        self._opening = False  # _run counts an opening: "" may be empty or become \"""
        self._escaped = False
        self._comment = False

    def feed(self, text: str, start: int = 0) -> int:
        """The index in `text` after the closing bracket, or -1 when it has not come."""
        for i in range(start, len(text)):
            char = text[i]
            if self._opening:
                if char == self._quote:
                    self._run += 1
                    if self._run == 3:
                        self._opening, self._triple, self._run = False, True, 0
                    continue
                self._opening = False
                if self._run == 2:
                    self._quote = ""  # it was empty
                self._run = 0
            if self._quote:
                self._in_string(char)
            elif self._comment:
                self._comment = char != "\n"
            elif char in _QUOTES:
                self._quote, self._triple = char, False
                self._opening, self._run = self._python, 1
            elif char == "#" and self._python:
                self._comment = True
            elif char in _OPENING:
                self._depth += 1
            elif char in _CLOSING:
                self._depth -= 1
                if self._depth <= 0:
                    return i + 1
        return -1

    def _in_string(self, char: str) -> None:
        if self._escaped:
            self._escaped = False
        elif char == "\\":
            self._escaped, self._run = True, 0
        elif char != self._quote:
            self._run = 0
        elif not self._triple:
            self._quote, self._run = "", 0
        else:
            self._run += 1
            if self._run == 3:
                self._quote, self._run = "", 0
