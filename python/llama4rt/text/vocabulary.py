"""Vocabulary: the tokens of a byte-level BPE tokenizer as ranks, whichever file they came from; and its own file.

An engine built from a `tokenizer.json` carries this file (`tokenizer.ranks`), so that it needs tiktoken alone to run.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llama4rt.errors import EngineFileError

RANKS_FILE = "tokenizer.ranks"
MAX_TOKEN_ID = 2_000_000
_VERSION = 1
# Bytes that a vocabulary may lack, since no text of assigned characters but control characters has them: they stand in
# no UTF-8 or begin unassigned planes, or are control characters without a use in text. Such tokenizers drop them.
_DISPENSABLE = bytes(
    [*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)]
)


@dataclass(frozen=True)
class Vocabulary:
    """pattern: the regular expression that cuts text into pieces. tokens: by rank; of two neighbours in a piece those
    are merged first whose token has the lowest. ids: the token id of each rank. special: control tokens, by name.
    added: further tokens that text may hold, found before it is cut. unused: tokens that no text becomes, by id.
    """

    pattern: str
    tokens: list[bytes]
    ids: list[int]
    special: dict[str, int]
    added: dict[str, int] = field(default_factory=dict)
    unused: dict[int, bytes] = field(default_factory=dict)

    @property
    def missing_bytes(self) -> list[int]:
        """Single bytes without a token, in order."""
        known = {token[0] for token in self.tokens if len(token) == 1}
        return [byte for byte in range(256) if byte not in known]

    def bytes_by_id(self) -> dict[int, bytes]:
        found = {**self.unused, **dict(zip(self.ids, self.tokens, strict=True))}
        for names in (self.added, self.special):
            found |= {i: name.encode("utf-8", "replace") for name, i in names.items()}
        return found

    def to_file(self) -> bytes:
        """JSON; bytes in base64."""
        content = {
            "version": _VERSION,
            "pattern": self.pattern,
            "tokens": [base64.b64encode(token).decode() for token in self.tokens],
            "ids": self.ids,
            "special": self.special,
            "added": self.added,
            "unused": {str(i): base64.b64encode(token).decode() for i, token in self.unused.items()},
        }
        return json.dumps(content, separators=(",", ":")).encode()

    @staticmethod
    def from_file(data: bytes) -> "Vocabulary":
        """Raises EngineFileError."""
        try:
            content = json.loads(data)
            if content["version"] != _VERSION:
                raise EngineFileError(f"{RANKS_FILE}: version {content['version']!r}; known is {_VERSION}")
            vocabulary = Vocabulary(
                str(content["pattern"]),
                [base64.b64decode(token, validate=True) for token in content["tokens"]],
                [checked_id(i) for i in content["ids"]],
                _ids_by_name(content["special"]),
                _ids_by_name(content["added"]),
                {checked_id(int(i)): base64.b64decode(token) for i, token in content["unused"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise EngineFileError(f"{RANKS_FILE}: {type(error).__name__}: {error}") from None
        if len(vocabulary.tokens) != len(vocabulary.ids):
            raise EngineFileError(
                f"{RANKS_FILE}: {len(vocabulary.tokens)} tokens have {len(vocabulary.ids)} ids"
            )
        vocabulary.check(RANKS_FILE)
        return vocabulary

    def check(self, where: str) -> None:
        """Raises EngineFileError unless every text can be encoded, and no token or id comes twice."""
        known = set(self.tokens)
        missing = self.missing_bytes
        needed = [byte for byte in missing if byte not in _DISPENSABLE]
        if needed:
            raise EngineFileError(
                f"{where}: {len(missing)} single bytes have no token, the first that texts need is {needed[0]}"
            )
        if b"" in known or len(known) != len(self.tokens) or len(set(self.ids)) != len(self.ids):
            raise EngineFileError(f"{where}: a token is empty or comes twice")
        if "" in self.added or "" in self.special:
            raise EngineFileError(f"{where}: an added token is empty")


def checked_id(value: Any) -> int:
    """ValueError for what is no token id."""
    if type(value) is not int or not 0 <= value < MAX_TOKEN_ID:
        raise ValueError(f"{value!r:.80} is not a token id below {MAX_TOKEN_ID}")
    return value


def _ids_by_name(names: Mapping[str, Any]) -> dict[str, int]:
    return {name: checked_id(i) for name, i in names.items()}
