"""Text to tokens with the tokenizer of an engine file, without opening an engine."""

from llama4rt import _core
from llama4rt.text.tokenizer import Tokenizer, load_tokenizer, require_tokenizer


def tokenizer_of(file: _core.EngineFile) -> Tokenizer | None:
    names = set(file.names())

    def read(name: str) -> bytes | None:
        stored = f"files/{name}"
        return file.raw(stored).tobytes() if stored in names else None

    return load_tokenizer(read)


def encode_with(file: _core.EngineFile, text: str) -> list[int]:
    """The text's tokens, with nothing in front. Raises RequestError where the file has no tokenizer."""
    return require_tokenizer(tokenizer_of(file), "a text").encode(text)


__all__ = ["encode_with", "tokenizer_of"]
