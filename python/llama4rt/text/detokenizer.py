"""Streaming detokenisation: token ids in, text out that nobody has to take back.

Holds back half UTF-8 characters and text that may still become a stop string. What comes out, joined, is what
decoding everything at once and cutting at the first completed stop string would give; where the token
boundaries fall makes no difference.
"""

import codecs
from collections.abc import Sequence

from llama4rt.text.tokenizer import Tokenizer


class Detokenizer:
    """The text of one growing sequence."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        min_tokens: int = 0,
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        before: bytes = b"",
    ) -> None:
        """before: unfinished_bytes of the prompt; they come out when the character is whole."""
        self._tokenizer = tokenizer
        self._skip = tokenizer.special_ids if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._utf8.decode(before)
        self._stops = [_StopString(text) for text in stop]
        self._include_stop = include_stop
        self._tokens_before_stops = min_tokens
        self._held = ""  # decoded, but may be the beginning of a stop string
        self.stopped_by: str | None = None  # the stop string that was found; nothing comes after it

    def push(self, token_id: int) -> str:
        """The text that became certain with this token."""
        self._tokens_before_stops -= 1
        data = b"" if token_id in self._skip else self._tokenizer.token_bytes(token_id)
        return self._release(self._utf8.decode(data))

    def finish(self) -> str:
        """The rest, when no token will follow."""
        text = self._release(self._utf8.decode(b"", final=True))
        if self.stopped_by is None:
            text += self._held
            self._held = ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped_by is not None:
            return ""
        if not self._stops or self._tokens_before_stops > 0:
            return text
        buffer = self._held + text
        for i, char in enumerate(text, len(self._held) + 1):
            # All automata see every character; among stop strings that end here the longest is cut out.
            ended = [stop for stop in self._stops if stop.feed(char)]
            if ended:
                longest = max(ended, key=lambda stop: len(stop.text))
                self.stopped_by = longest.text
                self._held = ""
                return buffer[: i if self._include_stop else i - len(longest.text)]
        held = 0 if self._include_stop else max(stop.matched for stop in self._stops)
        self._held = buffer[len(buffer) - held :]
        return buffer[: len(buffer) - held]


def unfinished_bytes(tokenizer: Tokenizer, token_ids: Sequence[int]) -> bytes:
    """The bytes at the end of these tokens that begin a character and do not finish it; at most three."""
    data = b""
    for token_id in reversed(token_ids):
        data = tokenizer.token_bytes(token_id) + data
        if len(data) >= 3:
            break
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return decoder.getstate()[0]


class TextOffsets:
    """Where in a text each token begins, in characters. Tokens that share a character begin where it does."""

    def __init__(
        self, tokenizer: Tokenizer, skipped: frozenset[int], start: int = 0, before: bytes = b""
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped  # tokens that the text does not show
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._utf8.decode(before)
        self._at = start

    def push(self, token_id: int) -> int:
        """The offset of the next token."""
        data = b"" if token_id in self._skipped else self._tokenizer.token_bytes(token_id)
        begins_anew = bool(self._utf8.getstate()[0]) and bool(data) and data[0] & 0xC0 != 0x80
        if begins_anew:  # what was pending never becomes a character: one replacement stands for it
            self._at += len(self._utf8.decode(b"", final=True))
            self._utf8.reset()
        at = self._at
        self._at += len(self._utf8.decode(data))
        return at


class _StopString:
    """Knuth-Morris-Pratt: `matched` is how much of the stop string the text so far ends with."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        self._fallback = [0] * len(text)
        k = 0
        for i in range(1, len(text)):
            while k and text[i] != text[k]:
                k = self._fallback[k - 1]
            k += text[i] == text[k]
            self._fallback[i] = k

    def feed(self, char: str) -> bool:
        k = self.matched
        while k and char != self.text[k]:
            k = self._fallback[k - 1]
        self.matched = k + (char == self.text[k])
        if self.matched < len(self.text):
            return False
        self.matched = 0
        return True
