"""Closing: leads an output to its end before its tokens run out.

Knows a short way from wherever the grammar stands to where it may end: forced text, else the likeliest enders
(`"`, `}`, `]`, `0`). While there is room for more than that, the model is free. When little is left, it may no longer
begin anything optional; when only the short way fits, it goes that way. To find the way costs a mask for each of its
tokens, so it is looked for again only when what came since could have made it too long.
"""

import ctypes
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llama4rt.errors import RequestError
from llama4rt.structured.mask_budget import CpuTimer

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from numpy.typing import NDArray

    from llama4rt import _core

_MAX_WAY = 8192  # tokens
_WAY_SECONDS = 0.25  # of processor time
# Where nothing is forced: what ends something first, then the shortest values, then whatever else may come.
_ENDERS = b'"}]0123456789tfn{[,: -eE.abcdefghijklmnopqrsuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_'
_OPENERS = b"{[,"
# What one token can add to the way where nothing optional may begin: an escape that wants four digits, three bytes of a
# character, digits until a number is a multiple again.
_SLACK = 12
_PATTERN = re.compile(r'"pattern": "((?:[^"\\]|\\.)*)"')
_HINTS = b"1234567890Za@b.c-+:/P1DT"  # what the formats of JSON Schema need
_STUCK = 2  # the same choice so often in a row leads nowhere: the grammar wants something else


class Vocabulary:
    """What closing needs to know of the tokens, made once per tokenizer."""

    def __init__(self, tokens: Sequence[bytes], end_ids: Sequence[int]) -> None:
        self.ends = frozenset(end_ids)
        single = {token[0]: i for i, token in enumerate(tokens) if len(token) == 1}
        self.single = single
        self.by_preference = [single[byte] for byte in _ENDERS if byte in single]
        self.size = len(tokens)
        openers = np.array([any(byte in token for byte in _OPENERS) for token in tokens])
        self.no_openers = np.packbits(~openers, bitorder="little")  # [ceil(V / 8)]


class Closing:
    """One output's budget. Not thread-safe: its Guide is."""

    def __init__(self, vocabulary: Vocabulary, source: str, budget: int, reserve: int) -> None:
        """source: the schema, whose characters are worth trying. budget: tokens that may come, the end token not among
        them. reserve: what a token that begins something optional can add to the way.
        """
        self._vocabulary = vocabulary
        self._left = budget
        self._reserve = reserve
        self._look_at = 0  # no look at the way while more tokens than this are left
        self._plain = False  # until then: nothing optional may begin
        self._way: list[int] = []
        hints = "".join(_PATTERN.findall(source)).encode() + _HINTS + source.encode()[:1000]
        self._hints = [vocabulary.single[byte] for byte in hints if byte in vocabulary.single]

    def begin(self, way: int) -> None:
        """way: shortest(), of the grammar's beginning. RequestError when not even that fits."""
        if way > self._left:
            raise RequestError(
                f"max_tokens leaves {self._left} tokens, and the shortest answer that was found for the schema has "
                f"{way}"
            )
        self._plan(way)

    def shortest(self, matcher: "LLMatcher") -> int:
        """The tokens of a short way. RequestError when none was found."""
        way = self._shortest_way(matcher)
        if way is None:
            raise RequestError(
                "no short text was found that fits the schema, so that it could not be ended in time"
            )
        return len(way)

    def spend(self) -> None:
        self._left -= 1

    def restrict(self, matcher: "LLMatcher", mask: "_core.TokenMask") -> None:
        """Takes from the mask, just computed, what would leave too little room for the end."""
        if self._way:
            _only(_bits(mask), self._way.pop(0))
            return
        if self._left <= self._look_at:
            way = self._shortest_way(matcher)
            if way is None:
                return
            if len(way) + _SLACK >= self._left:
                if way:
                    self._way = way[1:]
                    _only(_bits(mask), way[0])
                    return
                _only_any(_bits(mask), self._vocabulary.ends)  # here it may end
                return
            self._plan(len(way))
        if self._plain:
            bits = _bits(mask)
            plain = bits & self._vocabulary.no_openers[: len(bits)]
            if plain.any():
                bits[:] = plain
            else:  # something has to begin, and that may be longer than the way knows
                self._look_at = self._left

    def _plan(self, way: int) -> None:
        """When to look again, the way now being so long: before it could be as long as what is left."""
        room = self._left - way - _SLACK
        growth = self._reserve + _SLACK  # of one token and of the token it takes
        self._plain = room <= growth
        if self._plain:
            growth = _SLACK
        self._look_at = self._left - max(1, room // (growth + 1))

    def _shortest_way(self, matcher: "LLMatcher") -> list[int] | None:
        """Tokens after which the output may end; None when none was found."""
        walker = matcher.deep_copy()
        way: list[int] = []
        last, repeats, tried = -1, 0, 0
        timer = CpuTimer()
        while not walker.is_accepting():
            if len(way) > _MAX_WAY or timer.seconds > _WAY_SECONDS:
                return None
            forced = walker.compute_ff_tokens()
            if not forced:
                allowed = np.frombuffer(walker.compute_bitmask(), np.uint8)
                token = self._preferred(allowed)
                if token is None:
                    return None
                repeats = repeats + 1 if token == last else 0
                last = token
                if repeats >= _STUCK:
                    token, tried = self._hinted(allowed, tried, token)
                forced = [token]
            if walker.try_consume_tokens(forced) != len(forced):
                return None
            way += forced
        return way

    def _preferred(self, allowed: "NDArray[np.uint8]") -> int | None:
        for token in self._vocabulary.by_preference:
            if allowed[token >> 3] >> (token & 7) & 1:
                return token
        rest = np.flatnonzero(np.unpackbits(allowed, bitorder="little")[: self._vocabulary.size])
        return next((int(token) for token in rest if int(token) not in self._vocabulary.ends), None)

    def _hinted(self, allowed: "NDArray[np.uint8]", tried: int, otherwise: int) -> tuple[int, int]:
        """(the next of the hints that may come, where to go on)."""
        for i in range(tried, tried + len(self._hints)):
            token = self._hints[i % len(self._hints)]
            if allowed[token >> 3] >> (token & 7) & 1:
                return token, i + 1
        return otherwise, tried


def _bits(mask: "_core.TokenMask") -> "NDArray[np.uint8]":
    """The mask's own memory."""
    return np.ctypeslib.as_array(ctypes.cast(mask.address, ctypes.POINTER(ctypes.c_uint8)), (mask.num_bytes,))


def _only(bits: "NDArray[np.uint8]", token: int) -> None:
    bits[:] = 0
    bits[token >> 3] = 1 << (token & 7)


def _only_any(bits: "NDArray[np.uint8]", tokens: frozenset[int]) -> None:
    allowed = [token for token in tokens if bits[token >> 3] >> (token & 7) & 1]
    bits[:] = 0
    for token in allowed:
        bits[token >> 3] |= 1 << (token & 7)
