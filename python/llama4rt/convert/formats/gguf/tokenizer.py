"""The tokenizer in a GGUF file's metadata: byte-level BPE as tokens, merges, kinds of tokens, and the name of a cut."""

from collections.abc import Mapping
from dataclasses import replace

from llama4rt.convert.formats.gguf.metadata import Metadata
from llama4rt.errors import CheckpointError, EngineFileError
from llama4rt.text.byte_level_bpe import GPT2_PATTERN, byte_level_vocabulary
from llama4rt.text.tokenizer import SPLIT_PATTERN
from llama4rt.text.vocabulary import MAX_TOKEN_ID, Vocabulary

_PREFIX = "tokenizer.ggml."
MODEL, TOKENS = f"{_PREFIX}model", f"{_PREFIX}tokens"
# What tokens are (token_type); kind 6 are the bytes of sentencepiece.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5

# SmolLM cuts every digit off first, and the rest as GPT-2 does. White space before a digit is then white space at the
# end of a text, which GPT-2's cut takes whole: so a digit counts as white space where that cut looks ahead.
_DIGITS_APART = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
# tokenizer.ggml.pre -> (the cut, whether a piece that is a token is taken whole)
_CUTS: Mapping[str, tuple[str, bool]] = {
    "gpt-2": (GPT2_PATTERN, False),
    "smollm": (_DIGITS_APART, False),
    "llama-bpe": (_LLAMA3, True),
    "llama3": (_LLAMA3, True),
    "llama-v3": (_LLAMA3, True),
    "gpt-4o": (SPLIT_PATTERN, True),
    "llama4": (SPLIT_PATTERN, True),
}
# Of these llama.cpp puts the begin token first without being told.
_BEGINNING = ("llama-bpe", "llama3", "llama-v3")


def vocabulary_of(metadata: Metadata) -> Vocabulary | None:
    """None where the file has no tokenizer. Raises CheckpointError for one of another family."""
    if MODEL not in metadata and TOKENS not in metadata:
        return None
    model = metadata.string(MODEL)
    if model in ("none", "no_vocab"):
        return None
    if model != "gpt2":
        raise _error(metadata, f"{MODEL} is {model!r:.40}; byte-level BPE, 'gpt2', is read")
    pre = metadata.string(f"{_PREFIX}pre", default="default")
    if pre not in _CUTS:
        raise _error(metadata, f"{_PREFIX}pre is {pre!r:.40}; known ways to cut text are {', '.join(_CUTS)}")
    pattern, whole_pieces = _CUTS[pre]
    tokens, special, added, unused = _tokens(metadata)
    try:
        vocabulary = byte_level_vocabulary(
            metadata.source,
            pattern,
            tokens,
            metadata.strings(f"{_PREFIX}merges"),
            special,
            added,
            whole_pieces=whole_pieces,
        )
    except ValueError as error:
        raise _error(metadata, f"{_PREFIX}merges: {error}") from None
    except EngineFileError as error:
        raise CheckpointError(str(error)) from None
    unreached = {number: text.encode() for text, number in unused.items()}
    return replace(vocabulary, unused=vocabulary.unused | unreached)


def _tokens(metadata: Metadata) -> tuple[dict[str, int], ...]:
    """Normal tokens, control tokens, added ones and unused ones: each id by its text."""
    texts = metadata.strings(TOKENS)
    if len(texts) > MAX_TOKEN_ID:
        raise _error(metadata, f"{TOKENS} has {len(texts)} tokens; at most {MAX_TOKEN_ID} are read")
    kinds_key = f"{_PREFIX}token_type"
    kinds = metadata.integers(kinds_key) if kinds_key in metadata else [_NORMAL] * len(texts)
    if len(kinds) != len(texts):
        raise _error(metadata, f"{kinds_key} has {len(kinds)} numbers for {len(texts)} tokens")
    tokens: dict[str, int] = {}
    special: dict[str, int] = {}
    added: dict[str, int] = {}
    unused: dict[str, int] = {}
    of_kind = {_NORMAL: tokens, _UNKNOWN: special, _CONTROL: special, _USER_DEFINED: added, _UNUSED: unused}
    seen: set[str] = set()
    for number, (text, kind) in enumerate(zip(texts, kinds, strict=True)):
        names = of_kind.get(kind)
        if names is None:
            raise _error(
                metadata, f"{kinds_key}[{number}] is {kind}; known in byte-level BPE are 1 to {_UNUSED}"
            )
        if text in seen or not text:
            fault = "is there before" if text else "is empty"
            raise _error(metadata, f"{TOKENS}[{number}], {text!r:.60}, {fault}")
        seen.add(text)
        names[text] = number
    return tokens, special, added, unused


def begins_with_bos(metadata: Metadata) -> bool:
    """Whether prompts of a model with this cut begin with the begin token, where its file does not say."""
    return metadata.string(f"{_PREFIX}pre", default="default") in _BEGINNING


def _error(metadata: Metadata, problem: str) -> CheckpointError:
    return CheckpointError(f"{metadata.source}: {problem}")


__all__ = ["MODEL", "TOKENS", "begins_with_bos", "vocabulary_of"]
