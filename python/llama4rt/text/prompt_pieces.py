"""Pieces: a prompt's text, with who wrote what; and from there to token ids.

A control token is found only where every character of it was written by the template. One that is half the template's
and half the caller's is text, like all that the caller wrote.
"""

from collections.abc import Iterable, Sequence

from llama4rt.errors import RequestError
from llama4rt.text.tokenizer import Tokenizer

Piece = tuple[str, bool]  # characters, and whether they are the template's


def text_of(pieces: Iterable[Piece]) -> str:
    return "".join(text for text, _ in pieces)


def encode_pieces(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> list[int]:
    """Token ids. What stands between two control tokens is encoded as one text, whoever wrote which part of it."""
    ids: list[int] = []
    waiting: list[str] = []
    for text, trusted in _merged(pieces):
        end = 0
        for match in tokenizer.special_pattern.finditer(text) if trusted else ():
            waiting.append(text[end : match.start()])
            ids += tokenizer.encode("".join(waiting))
            waiting.clear()
            ids.append(tokenizer.special_tokens[match.group()])
            end = match.end()
        waiting.append(text[end:])
    return ids + tokenizer.encode("".join(waiting))


def cut_at(pieces: Sequence[Piece], mark: str) -> list[Piece]:
    """The pieces before the last `mark`, which had a blank behind it: where that was trimmed off, white space before
    the mark goes too. RequestError when the template left the mark out.
    """
    text = text_of(pieces)
    at = text.rfind(mark)
    if at < 0:
        raise RequestError(
            "continue_final_message: the chat template leaves out the end of the final message"
        )
    if text[at + len(mark) : at + len(mark) + 1] != " ":
        at = len(text[:at].rstrip())
    kept = []
    for piece, trusted in pieces:
        kept.append((piece[:at], trusted))
        at -= len(kept[-1][0])
    return kept


def _merged(pieces: Iterable[Piece]) -> list[Piece]:
    """Without empty pieces; neighbours differ in who wrote them."""
    parts: list[tuple[list[str], bool]] = []
    for text, trusted in pieces:
        if not text:
            continue
        if parts and parts[-1][1] == trusted:
            parts[-1][0].append(text)
        else:
            parts.append(([text], trusted))
    return [("".join(texts), trusted) for texts, trusted in parts]
