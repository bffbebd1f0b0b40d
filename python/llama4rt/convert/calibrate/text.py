"""The calibration text: as windows of tokens, each the beginning of a sequence of its own."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from llama4rt.convert.config import ModelConfig
from llama4rt.errors import ConfigError
from llama4rt.text.tokenizer import Tokenizer

BUILTIN = "builtin"
_BUILTIN_FILE = "builtin.txt"
_MAX_BYTES = 256 << 20  # of a text file: more than any calibration reads
# Tokens of the windows, by turns: long contexts, and many beginnings, since every token attends to the first of its
# sequence.
_LENGTHS = (1024, 256, 64, 256, 64, 64, 256, 64)
_FEWEST = 256  # tokens of a text


@dataclass(frozen=True)
class CalibrationText:
    name: str  # for people: "builtin", or a file's name
    digest: str  # "sha256:..." of its bytes
    windows: tuple[tuple[int, ...], ...]  # token ids

    @property
    def tokens(self) -> int:
        return sum(map(len, self.windows))

    @property
    def lengths(self) -> list[int]:
        return list(map(len, self.windows))


def read_text(source: str | os.PathLike[str]) -> tuple[str, bytes]:
    """(name, bytes) of a file, or of the text that comes with llama4rt. Raises ConfigError."""
    if source == BUILTIN:
        return BUILTIN, resources.files(__package__).joinpath(_BUILTIN_FILE).read_bytes()
    path = os.fspath(source)
    try:
        with open(path, "rb") as file:
            content = file.read(min(os.fstat(file.fileno()).st_size, _MAX_BYTES) + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: the calibration text cannot be read: {error.strerror or error}"
        ) from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(
            f"{path}: is larger than {_MAX_BYTES >> 20} MiB; a few hundred kilobytes calibrate a model"
        )
    return os.path.basename(path), content


def calibration_text(
    source: str | os.PathLike[str], tokenizer: Tokenizer, config: ModelConfig, max_tokens: int
) -> CalibrationText:
    """At most max_tokens of the text, in windows spread evenly over it. Raises ConfigError."""
    name, content = read_text(source)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: is not UTF-8 text: {error.reason} at byte {error.start}") from None
    ids = tokenizer.encode(text)
    if len(ids) < _FEWEST:
        raise ConfigError(
            f"{name}: is a text of {len(ids)} tokens; calibration needs {_FEWEST}, and is better with tens of thousands"
        )
    begin = begin_token(config, tokenizer)
    longest = min(
        config.max_position_embeddings, config.attention_chunk_size or config.max_position_embeddings
    )
    windows = [
        (*begin, *window)[:longest] if i % 2 == 0 else tuple(window)
        for i, window in enumerate(_windows(ids, min(longest, max(_LENGTHS)), max_tokens))
    ]
    return CalibrationText(name, f"sha256:{hashlib.sha256(content).hexdigest()}", tuple(windows))


def begin_token(config: ModelConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """What a prompt begins with (text/prompt_builder.py)."""
    from llama4rt.text.tokenizer import BOS_TEXT

    begin = config.bos_token_id
    if begin < 0:
        begin = tokenizer.special_tokens.get(BOS_TEXT, -1)
    return (begin,) if begin >= 0 else ()


def _windows(ids: Sequence[int], longest: int, max_tokens: int) -> list[Sequence[int]]:
    """Pieces of the lengths in _LENGTHS by turns, spread evenly over the text, of at most max_tokens together."""
    lengths: list[int] = []
    budget = min(len(ids), max_tokens)
    while budget > 0:
        lengths.append(min(_LENGTHS[len(lengths) % len(_LENGTHS)], longest, budget))
        budget -= lengths[-1]
    gap = (len(ids) - sum(lengths)) / len(lengths)  # of text that is left out behind each window
    windows, start = [], 0.0
    for length in lengths:
        windows.append(ids[int(start) : int(start) + length])
        start += length + gap
    return windows


def some_windows(windows: Sequence[Sequence[int]], tokens: int) -> Sequence[Sequence[int]]:
    """Windows of about so many tokens, spread evenly, long and short ones as there are."""
    turns = [windows[at : at + len(_LENGTHS)] for at in range(0, len(windows), len(_LENGTHS))]
    count = max(1, round(len(turns) * tokens / sum(map(len, windows))))
    if count >= len(turns):
        return windows
    return [window for i in range(count) for window in turns[i * len(turns) // count]]


__all__ = ["BUILTIN", "CalibrationText", "begin_token", "calibration_text", "read_text", "some_windows"]
