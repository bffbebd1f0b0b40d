"""Which sequences of tokens write a word that may not come."""

from collections.abc import Sequence

from llama4rt.errors import RequestError
from llama4rt.text.tokenizer import Tokenizer

_MAX_TOKENS = 256  # of one word


def bad_word_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Token ids of each word as text begins with it and after a blank, as vLLM writes them. A word that comes in pieces
    of other tokens, or inside a longer one, is not found. RequestError for one of more than 256 tokens.
    """
    found: dict[tuple[int, ...], None] = {}
    for i, word in enumerate(words):
        bare = word.lstrip(" ")
        for text in (bare, " " + bare):
            ids = tuple(tokenizer.encode(text))
            if len(ids) > _MAX_TOKENS:
                raise RequestError(f"bad_words[{i}] has {len(ids)} tokens; at most {_MAX_TOKENS} are allowed")
            if ids:
                found[ids] = None
    return [list(ids) for ids in found]
