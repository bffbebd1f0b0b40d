"""Reads a `tokenizer.json` of byte-level BPE; refuses what byte_level_bpe.py's ranks and a pattern cannot express."""

import json
import re
from collections.abc import Mapping
from typing import Any

from llama4rt.errors import EngineFileError
from llama4rt.text.byte_level_bpe import GPT2_PATTERN, byte_level_vocabulary, spelt
from llama4rt.text.vocabulary import Vocabulary, checked_id

_WHERE = "tokenizer.json"
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
        found = {checked_id(i): spelt(piece) for piece, i in content["model"]["vocab"].items()}
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
    return byte_level_vocabulary(
        _WHERE,
        _pattern(content.get("pre_tokenizer")),
        {piece: checked_id(i) for piece, i in model["vocab"].items()},
        model["merges"],
        special,
        added,
        whole_pieces=bool(model.get("ignore_merges")),
    )


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
        return GPT2_PATTERN
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
