"""What the log says of a refusal: why, in the server's words, without the client's.

Messages to clients quote what they sent. Quotes are left out here, and so is every word that the request's body holds,
unless it is one of the words that messages are made of.
"""

import re

from llama4rt.server.protocol import field_names

_MOST_CHARS = 300
_QUOTED = re.compile(r"""'(?:\\.|[^'\\])*(?:'|$)|"(?:\\.|[^"\\])*(?:"|$)|`[^`]*(?:`|$)""", re.S)
_WORD = re.compile(r"[\w…]+|[^\x20-\x7e]+")
_COMMON_WORDS = """
a above allowed allows already an and another any are array as asks at be been before bearer below between body
boolean both but by bytes call can cannot characters choice choices content context could deeper decimal dictionary
do does empty equal error exist expected extra field fields finite fit float for form format found frozen from given
gives greater has have here holds in input instance integer into invalid is it item items json key large length less
limit list long longer many maximum may message messages minimum missing model more most must name needed needs
negative nested no not null number object of on one only or other output outputs parse parts picture pictures
positive prompt prompts property read request required role same schema seconds set several should shorter string
supported system take takes text than that the there these they this to token tokens tool tools too true false type
unable unexpected unknown user valid value values was when which while with within without
"""
_COMMON = frozenset(_COMMON_WORDS.split())


def reason_of(message: str, body: bytes | None) -> str:
    """body: of the request; None: it is too large to look through, and every word of unknown origin is left out."""
    text = _QUOTED.sub("…", message[: 4 * _MOST_CHARS])
    return _WORD.sub(lambda word: word[0] if _is_ours(word[0], body) else "…", text)[:_MOST_CHARS]


def _is_ours(word: str, body: bytes | None) -> bool:
    plain = word.lower()
    if plain in _COMMON or plain in field_names() or word == "…":
        return True
    if not word.isascii() or not word.isprintable():
        return False
    # Numbers are limits and counts; a long one may be somebody's.
    if word.isdigit() and len(word) <= 7:
        return True
    return body is not None and all(part.encode() not in body for part in word.split("_") if part)
