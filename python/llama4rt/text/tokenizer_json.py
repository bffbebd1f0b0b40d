"""Reads a `tokenizer.json` of byte-level BPE and turns it into ranks; refuses what ranks cannot express.

A tokenizer.json lists pairs to merge, tiktoken ranks whole tokens: it merges any neighbours that make a token. Both do
the same if each token, spelt in single bytes, ends as that token under the listed merges: neighbours that make a token
then only ever meet as the last pair of that spelling, so its place in the list is the token's rank.
"""

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

from llama4rt.errors import EngineFileError
from llama4rt.text.vocabulary import Vocabulary, checked_id

_WHERE = "tokenizer.json"
# The cut of ByteLevel itself, GPT-2's.
_GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Patterns of this end leave no character out: letters, numbers, all else, white space.
_COMPLETE = re.compile(r"\\p\{N\}.*\[\^(?:\\s|\\r\\n)\\p\{L\}\\p\{N\}\]\+.*\\s\+\(\?!\\S\)\|\\s\+", re.DOTALL)


def read_tokenizer_json(data: bytes) -> Vocabulary:
    """Raises EngineFileError, naming what is wrong or cannot be expressed."""
    content = parse_tokenizer_json(data)
    try:
        return _vocabulary(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineFileError(f"{_WHERE}: {type(error).__name__}: {error}") from None


def parse_tokenizer_json(data: bytes) -> dict[str, Any]:
    """The JSON object. Raises EngineFileError."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EngineFileError(f"{_WHERE}: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise EngineFileError(f"{_WHERE}: has no model")
    return content


def token_bytes_by_id(content: Mapping[str, Any]) -> dict[int, bytes]:
    """All tokens of a parsed tokenizer.json, added ones too, without looking at the merges. EngineFileError."""
    try:
        found = {checked_id(i): _spelt(piece) for piece, i in content["model"]["vocab"].items()}
        for entry in content.get("added_tokens") or ():
            found[checked_id(entry["id"])] = entry["content"].encode("utf-8", "replace")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineFileError(f"{_WHERE}: {type(error).__name__}: {error}") from None
    return found


def _vocabulary(content: Mapping[str, Any]) -> Vocabulary:
    model = content["model"]
    _check_expressible(content)
    special: dict[str, int] = {}
    added: dict[str, int] = {}
    for entry in content.get("added_tokens") or ():
        name, number = entry["content"], checked_id(entry["id"])
        if not isinstance(name, str) or not name:
            raise ValueError("an added token is empty")
        if entry.get("special"):
            special[name] = number
        elif entry.get("lstrip") or entry.get("rstrip") or entry.get("single_word"):
            raise EngineFileError(
                f"{_WHERE}: the added token {name!r:.80} is not special and swallows or wants what is beside it "
                "(lstrip, rstrip, single_word); that is not supported"
            )
        else:
            added[name] = number
    names = set(special) | set(added)
    pieces: dict[bytes, int] = {}
    unspelt: dict[int, bytes] = {}
    for piece, i in model["vocab"].items():
        number = checked_id(i)
        if piece in names and not _is_byte(piece):
            continue
        if all(char in _BYTE_OF for char in piece):
            pieces[_spelt(piece)] = number
        else:  # not in the byte-level alphabet: no text becomes it
            unspelt[number] = piece.encode("utf-8", "replace")
    pairs = _pairs(model["merges"])
    for left, right in pairs:
        if left not in pieces or right not in pieces or left + right not in pieces:
            raise ValueError(f"the merge of {left!r:.60} and {right!r:.60} is not of tokens")
    ranked, unused = _ranked(pieces, pairs, bool(model.get("ignore_merges")))
    vocabulary = Vocabulary(
        _pattern(content.get("pre_tokenizer")),
        ranked,
        [pieces[token] for token in ranked],
        special,
        added,
        {**unspelt, **{pieces[token]: token for token in unused}},
    )
    vocabulary.check(_WHERE)
    return vocabulary


def _ranked(
    pieces: Mapping[bytes, int], pairs: Mapping[tuple[bytes, bytes], int], whole_pieces: bool
) -> tuple[list[bytes], list[bytes]]:
    """(tokens by rank, tokens that no text becomes). whole_pieces: a piece of text that is a token becomes that token
    whether merges lead there or not.
    """
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
                f"{_WHERE}: the token {token!r:.80} is made of two others that no merge joins; ranks cannot say that"
            )
        else:
            only_whole.append(token)
    single = sorted((token for token in pieces if len(token) == 1), key=pieces.__getitem__)
    only_whole.sort(key=pieces.__getitem__)
    return [*single, *(token for _, token in sorted(merged)), *only_whole], unused


def _merge(token: bytes, pairs: Mapping[tuple[bytes, bytes], int]) -> tuple[int, int]:
    """(how many tokens its bytes become, the place in the list of the last merge)."""
    parts = [token[i : i + 1] for i in range(len(token))]
    last = -1
    while len(parts) > 1:
        places = [pairs.get(pair, -1) for pair in itertools.pairwise(parts)]
        possible = [place for place in places if place >= 0]
        if not possible:
            break
        last = min(possible)
        at = places.index(last)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return len(parts), last


def _pairs(merges: Any) -> dict[tuple[bytes, bytes], int]:
    pairs: dict[tuple[bytes, bytes], int] = {}
    for place, merge in enumerate(merges):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        pairs[_spelt(left), _spelt(right)] = (
            place  # of one that comes twice the last counts, as in `tokenizers`
        )
    return pairs


def _check_expressible(content: Mapping[str, Any]) -> None:
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise EngineFileError(f"{_WHERE}: the model is {model['type']!r:.40}, not byte-level BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise EngineFileError(f"{_WHERE}: the model has {name}, which is not supported")
    normalizer = content.get("normalizer")
    if normalizer and normalizer.get("normalizers", True):
        raise EngineFileError(f"{_WHERE}: it has a normalizer ({normalizer.get('type')}); none is supported")
    decoder: dict[str, Any] = content.get("decoder") or {}
    steps: list[dict[str, Any]] = decoder["decoders"] if decoder.get("type") == "Sequence" else [decoder]
    if [step.get("type") for step in steps] != ["ByteLevel"]:
        raise EngineFileError(f"{_WHERE}: the decoder is {decoder.get('type')}, not ByteLevel")


def _pattern(pre_tokenizer: Any) -> str:
    """One pattern for what `pre_tokenizer` does. EngineFileError where there is none."""
    whole: dict[str, Any] = pre_tokenizer or {}
    steps: list[dict[str, Any]] = whole["pretokenizers"] if whole.get("type") == "Sequence" else [whole]
    kinds = [step.get("type") for step in steps]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise EngineFileError(
            f"{_WHERE}: text is cut by {kinds}; supported is ByteLevel, alone or after one Split"
        )
    last = steps[-1]
    if last.get("add_prefix_space", True) or last.get("use_regex", True) != (len(steps) == 1):
        raise EngineFileError(
            f"{_WHERE}: ByteLevel puts a space before the text, or does not cut once: not supported"
        )
    if len(steps) == 1:
        return _GPT2_PATTERN
    split = steps[0]
    pattern = split["pattern"]
    if (
        split.get("behavior") != "Isolated"
        or split.get("invert")
        or list(pattern) not in (["Regex"], ["String"])
    ):
        raise EngineFileError(f"{_WHERE}: Split is not of kind Isolated, or inverted: not supported")
    cut: str = pattern["Regex"] if "Regex" in pattern else re.escape(pattern["String"])
    # What the pattern leaves out is a piece too; tiktoken would drop it.
    return cut if _COMPLETE.search(cut) else rf"(?:{cut})|(?:(?!{cut})[\s\S])+"


def _spelt(piece: str) -> bytes:
    """The bytes of a token in GPT-2's alphabet; one with other letters stands for itself."""
    try:
        return bytes(map(_BYTE_OF.__getitem__, piece))
    except KeyError:
        return piece.encode("utf-8", "replace")


def _is_byte(piece: str) -> bool:
    return len(piece) == 1 and piece in _BYTE_OF


def _byte_level_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-ins: bytes that print are themselves, others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(0x100 + i) for i, b in enumerate(others)}}


_BYTE_OF = {char: byte for byte, char in _byte_level_alphabet().items()}
