"""Reads the options of Engine: sizes, counts and what the environment says. ConfigError for anything else."""

import os
import re

from llama4rt.errors import ConfigError

KV_STORE_SIZE = "20GiB"  # of a directory, unless said otherwise
_NO_LIMIT = 2**31 - 1
_UNITS = {"": 1, "B": 1, **{f"{k}{suffix}": base ** (e + 1) for e, k in enumerate("KMGT")
                            for suffix, base in (("", 1024), ("B", 1000), ("IB", 1024))}}  # fmt: skip


def parse_bytes(name: str, value: int | str | None) -> int:
    """Bytes of 4294967296, "4GiB", "4G" (both 1024-based), "512MB" (1000-based) or None (0: the engine chooses)."""
    if value is None:
        return 0
    amount: float = -1
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,19}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*", value)
        if match and match[2].upper() in _UNITS:
            amount = float(match[1]) * _UNITS[match[2].upper()]
    elif isinstance(value, int) and not isinstance(value, bool):
        amount = value
    if not 1 <= amount < 2**62:
        raise ConfigError(
            f'{name} is {value!r:.80}; it must be a number of bytes, or text such as "4GiB" or "512MB"'
        )
    return int(amount)


def count(name: str, value: int | None) -> int:
    """A positive option as the native module takes it: 0 stands for None."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _NO_LIMIT:
        raise ConfigError(f"{name} is {value!r:.80}; it must be None or an integer of at least 1")
    return value


def threads(value: int | None) -> int:
    """The option, else LLAMA4RT_NUM_THREADS, else 0: as many as the processors this process may use."""
    text = os.environ.get("LLAMA4RT_NUM_THREADS")
    if value is not None or not text:
        return count("num_threads", value)
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"LLAMA4RT_NUM_THREADS is {text!r:.80}; it must be an integer of at least 1")
    return int(text)
