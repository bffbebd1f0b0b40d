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
_WINDOW = 2048  # tokens: contexts as long as most are, and many of them
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
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: the calibration text cannot be read: {error.strerror or error}") from error
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {_MAX_BYTES >> 20} MiB; a few hundred kilobytes calibrate a model")
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
        length for length in (_WINDOW, config.max_position_embeddings, config.attention_chunk_size or _WINDOW)
    )
    windows = _windows(ids, longest - len(begin), max_tokens)
    return CalibrationText(
        name, f"sha256:{hashlib.sha256(content).hexdigest()}", tuple((*begin, *window) for window in windows)
    )


def begin_token(config: ModelConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """What a prompt begins with (text/prompt_builder.py)."""
    from llama4rt.text.tokenizer import BOS_TEXT

    begin = config.bos_token_id
    if begin < 0:
        begin = tokenizer.special_tokens.get(BOS_TEXT, -1)
    return (begin,) if begin >= 0 else ()


def _windows(ids: Sequence[int], length: int, max_tokens: int) -> list[Sequence[int]]:
    if len(ids) <= length:
        return [ids[:max_tokens]]
    length = min(length, max_tokens)
    count = max(1, min(len(ids), max_tokens) // length)
    last = len(ids) - length
    starts = [last * i // max(1, count - 1) for i in range(count)]
    return [ids[start : start + length] for start in starts]


__all__ = ["BUILTIN", "CalibrationText", "begin_token", "calibration_text", "read_text"]
