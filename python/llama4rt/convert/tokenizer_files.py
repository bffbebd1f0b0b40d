"""Which of a checkpoint's tokenizer files counts, decided when the engine is built."""

import unicodedata
from collections.abc import Mapping

from llama4rt.errors import CheckpointError, EngineFileError
from llama4rt.text.tokenizer import RankTokenizer, read_tokenizer_model
from llama4rt.text.tokenizer_json import parse_tokenizer_json, read_tokenizer_json, token_bytes_by_id
from llama4rt.text.vocabulary import RANKS_FILE, Vocabulary

_MODEL, _JSON = "tokenizer.model", "tokenizer.json"


def with_tokenizer(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """`files` sorted by name, with `tokenizer.ranks` where tokenizer.json is the tokenizer.

    Of two files the one that holds more counts: tokens were added to it, or names given to reserved ones. Raises
    CheckpointError where each has what the other lacks, and for a file that cannot be used.
    """
    try:
        vocabulary = _from_json(files)
        if vocabulary is None:
            return dict(files)
        tokenizer = RankTokenizer(vocabulary)
    except EngineFileError as error:
        raise CheckpointError(str(error)) from None
    text = _every_kind_of_character()
    if tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) != text:
        raise CheckpointError(f"{_JSON}: the pattern that cuts text leaves characters out")
    return dict(sorted({**files, RANKS_FILE: vocabulary.to_file()}.items()))


def _from_json(files: Mapping[str, bytes]) -> Vocabulary | None:
    """None where tokenizer.model counts, or there is neither."""
    model = None
    if _MODEL in files:
        try:
            model = read_tokenizer_model(files[_MODEL])
        except EngineFileError:
            if _JSON not in files:
                raise
            # Another family's tokenizer.model, such as sentencepiece's: the tokenizer is the other.
    if _JSON not in files:
        return None
    if model is not None and not _json_holds_more(model, files[_JSON]):
        return None
    return read_tokenizer_json(files[_JSON])


def _json_holds_more(model: Vocabulary, json_file: bytes) -> bool:
    ours = model.bytes_by_id()
    theirs = token_bytes_by_id(parse_tokenizer_json(json_file))
    reserved = {i for name, i in model.special.items() if "reserved_special_token" in name}
    different = [i for i in ours if i in theirs and ours[i] != theirs[i]]
    added = sum(i not in ours for i in theirs) + sum(i in reserved for i in different)
    lost = [i for i in ours if i not in theirs and i not in reserved]
    conflicts = [i for i in different if i not in reserved]
    if conflicts or (added and lost):
        first = min(conflicts or lost)
        raise CheckpointError(
            f"{_MODEL} has {len(ours)} tokens and {_JSON} {len(theirs)}, and neither holds all of the other's: token "
            f"{first} is {ours[first]!r:.60} in the first and {theirs.get(first)!r:.60} in the second; remove the file "
            "that does not belong to this checkpoint"
        )
    return added > 0


def _every_kind_of_character() -> str:
    kinds = {unicodedata.category(chr(i)): chr(i) for i in range(0x20000) if not 0xD800 <= i < 0xE000}
    return "".join(f"{char}{char} {char}\n" for char in kinds.values())
