"""Byte-level BPE, given as tokens and a list of pairs to merge, as ranks; what ranks cannot express is refused.

A list of merges says which pairs to join, tiktoken's ranks whole tokens: it joins any neighbours that make a token.
Both do the same if each token, spelt in single bytes, ends as that token under the listed merges: neighbours that make
a token then only ever meet as the last pair of that spelling, so its place in the list is the token's rank.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from llama4rt.errors import EngineFileError
from llama4rt.text.vocabulary import Vocabulary

# The cut of GPT-2.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_NO_MERGE = 1 << 62  # a place behind those of all merges


def byte_level_vocabulary(
    where: str,
    pattern: str,
    tokens: Mapping[str, int],
    merges: Iterable[Any],
    special: Mapping[str, int],
    added: Mapping[str, int],
    *,
    whole_pieces: bool,
) -> Vocabulary:
    """tokens: in GPT-2's alphabet. merges: pairs of them, or "left right". special, added: as in Vocabulary; tokens of
    their names are they. whole_pieces: a piece of text that is a token becomes that token whether merges lead there or
    not. Raises EngineFileError, naming what is wrong or cannot be expressed, and `where`; ValueError for other merges.
    """
    names = {*special, *added}
    pieces: dict[bytes, int] = {}
    unspelt: dict[int, bytes] = {}
    for piece, number in tokens.items():
        if piece in names and not _is_byte(piece):
            continue
        if all(char in BYTE_OF for char in piece):
            pieces[spelt(piece)] = number
        else:  # not in the byte-level alphabet: no text becomes it
            unspelt[number] = piece.encode("utf-8", "replace")
    pairs = _pairs(merges)
    for left, right in pairs:
        if left not in pieces or right not in pieces or left + right not in pieces:
            raise ValueError(f"the merge of {left!r:.60} and {right!r:.60} is not of tokens")
    ranked, unused = _ranked(where, pieces, pairs, whole_pieces)
    vocabulary = Vocabulary(
        pattern,
        ranked,
        [pieces[token] for token in ranked],
        dict(special),
        dict(added),
        {**unspelt, **{pieces[token]: token for token in unused}},
    )
    vocabulary.check(where)
    return vocabulary


def _ranked(
    where: str, pieces: Mapping[bytes, int], pairs: Mapping[tuple[bytes, bytes], int], whole_pieces: bool
) -> tuple[list[bytes], list[bytes]]:
    """(tokens by rank, tokens that no text becomes)."""
    merged: list[tuple[int, bytes]] = []
    only_whole: list[bytes] = []
    unused: list[bytes] = []
    for token in pieces:
        if len(token) == 1:
            continue
        parts, last = _merge(token, pairs)
        if parts == 1:
            merged.append((last, token))
        elif not whole_pieces:
            unused.append(token)
        elif parts == 2:
            raise EngineFileError(
                f"{where}: the token {token!r:.80} is made of two others that no merge joins; ranks cannot say that"
            )
        else:
            only_whole.append(token)
    single = sorted((token for token in pieces if len(token) == 1), key=pieces.__getitem__)
    only_whole.sort(key=pieces.__getitem__)
    return [*single, *(token for _, token in sorted(merged)), *only_whole], unused


def _merge(token: bytes, pairs: Mapping[tuple[bytes, bytes], int]) -> tuple[int, int]:
    """(how many tokens its bytes become, the place in the list of the last merge)."""
    parts = [token[i : i + 1] for i in range(len(token))]
    places = [pairs.get(pair, _NO_MERGE) for pair in itertools.pairwise(parts)]
    last = -1
    while places and (first := min(places)) < _NO_MERGE:
        last, at = first, places.index(first)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del places[at]
        if at > 0:
            places[at - 1] = pairs.get((parts[at - 1], parts[at]), _NO_MERGE)
        if at < len(places):
            places[at] = pairs.get((parts[at], parts[at + 1]), _NO_MERGE)
    return len(parts), last


def _pairs(merges: Any) -> dict[tuple[bytes, bytes], int]:
    pairs: dict[tuple[bytes, bytes], int] = {}
    for place, merge in enumerate(merges):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        pairs[spelt(left), spelt(right)] = (
            place  # of one that comes twice the last counts, as in `tokenizers`
        )
    return pairs


def spelt(piece: str) -> bytes:
    """The bytes of a token in GPT-2's alphabet; one with other letters stands for itself."""
    try:
        return bytes(map(BYTE_OF.__getitem__, piece))
    except KeyError:
        return piece.encode("utf-8", "replace")


def _is_byte(piece: str) -> bool:
    return len(piece) == 1 and piece in BYTE_OF


def _byte_level_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-ins: bytes that print are themselves, others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(0x100 + i) for i, b in enumerate(others)}}


BYTE_OF = {char: byte for byte, char in _byte_level_alphabet().items()}

__all__ = ["BYTE_OF", "GPT2_PATTERN", "byte_level_vocabulary", "spelt"]
