"""Types of the command line's numbers, for argparse: every one has a range, and its error says which.

Bounds are those of what reads the number: SamplingParams, csrc/runtime/engine/engine.cpp, sockets. test_cli.py walks
all parsers and tries what lies outside.
"""

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class Integer:
    """An integer in low..high."""

    low: int
    high: int

    def __call__(self, text: str) -> int:
        value = int(text) if re.fullmatch(r"[+-]?\d{1,30}", text, re.ASCII) else None
        if value is None or not self.low <= value <= self.high:
            raise argparse.ArgumentTypeError(f"{text!r:.80} is not an integer in {self.low}..{self.high}")
        return value


@dataclass(frozen=True)
class Tokens:
    """A number of tokens in low..high: 8192, 8k (8192) or 1M (1,048,576)."""

    low: int
    high: int

    def __call__(self, text: str) -> int:
        match = re.fullmatch(r"(\d{1,30})([kKmM]?)", text, re.ASCII)
        value = int(match[1]) << {"": 0, "k": 10, "m": 20}[match[2].lower()] if match else None
        if value is None or not self.low <= value <= self.high:
            raise argparse.ArgumentTypeError(
                f"{text!r:.80} is no number of tokens in {self.low}..{self.high}; write 8192, 128k or 1M"
            )
        return value


@dataclass(frozen=True)
class Integers:
    """Integers with commas between, each as `each` says."""

    each: Callable[[str], int]

    def __call__(self, text: str) -> list[int]:
        try:
            return [self.each(part.strip()) for part in text.split(",")]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}; write numbers with commas between, 1,2,3") from None


@dataclass(frozen=True)
class Real:
    """A number in [low, high]; above_low: low itself is excluded."""

    low: float
    high: float
    above_low: bool = False

    def __call__(self, text: str) -> float:
        try:
            value = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not self.low <= value <= self.high or (self.above_low and value == self.low):  # NaN is in no range
            bracket = "(" if self.above_low else "["
            raise argparse.ArgumentTypeError(
                f"{text!r:.80} is not a number in {bracket}{self.low:g}, {self.high:g}]"
            )
        return value


@dataclass(frozen=True)
class Quantity:
    """A number with a unit, read by `read`, which raises ConfigError with the words for the person."""

    read: Callable[[str], int]

    def __call__(self, text: str) -> str:
        from llama4rt.errors import ConfigError

        try:
            if not text.isascii():  # other scripts have digits too
                raise ConfigError(f"{text!r:.80} is not written in ASCII")
            self.read(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return text


def human_bytes(count: int) -> str:
    """As people read it: 1.08 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count} B"


def _bytes(text: str) -> int:
    from llama4rt.engine.engine_options import parse_bytes

    return parse_bytes("the size", text)


THREADS = Integer(1, 1024)
THREADS_OR_ALL = Integer(0, 1024)  # 0: all
COUNT = Integer(1, INT32_MAX)
SEQUENCES = Integer(1, 4096)
BATCHED_TOKENS = Integer(1, 65_536)
GROUP_SIZE = Integer(32, 128)  # beside choices
SEED = Integer(-(2**63), 2**64 - 1)
SIZE = Quantity(_bytes)  # as engine_options.parse_bytes reads it
BITS = Real(4, 9, above_low=True)  # convert/calibrate/options.py
CALIBRATION_TOKENS = Integer(256, 1 << 24)
