"""TrackedText is str in everything, and never takes a caller's character for the template's."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llama4rt.text.tracked_text import TrackedText, concatenated, pieces_of, spans_of

THEIR_TEXT = st.text(alphabet="abcß#Ωŉ\u2028", max_size=8)
OUR_TEXT = st.text(alphabet="<|EOT> \n", max_size=8)
PIECES = st.lists(OUR_TEXT.map(TrackedText.trusted) | THEIR_TEXT.map(TrackedText) | THEIR_TEXT, max_size=6)
INDEX = st.none() | st.integers(-12, 12)


def flat(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [text for item in value for text in flat(item)]


def same(ours: Any, theirs: Any) -> None:
    """The same result as str's; trusted are only characters that can be the template's."""
    assert ours == theirs and type(ours) in (type(theirs), TrackedText)
    for text in flat(ours):
        assert "".join(piece for piece, _ in pieces_of(text)) == text
        spans = spans_of(text)
        assert all(a < b for a, b in spans) and all(a[1] < b[0] for a, b in itertools.pairwise(spans))
        for piece, trusted in pieces_of(text):
            assert not trusted or set(piece) <= set("<|EOTeot> \n"), (text, spans)


OPERATIONS: dict[str, Callable[[str, str, int], Any]] = {
    "strip": lambda s, t, n: [s.strip(), s.lstrip(t or None), s.rstrip(), s.strip("<a")],
    "prefix": lambda s, t, n: [s.removeprefix(t), s.removesuffix(t), s.removeprefix(s[:n])],
    "split": lambda s, t, n: [
        s.split(),
        s.split(None, n),
        s.split(t or "|"),
        s.split("|", n),
        s.splitlines(),
    ],
    "rsplit": lambda s, t, n: [s.rsplit(), s.rsplit(None, n), s.rsplit(t or "|", n), s.splitlines(True)],
    "partition": lambda s, t, n: [s.partition(t or "|"), s.rpartition("E")],
    "join": lambda s, t, n: [s.join([t, s, t]), s.join([]), s.join(t), s.join([t])],
    "replace": lambda s, t, n: [s.replace("E", t), s.replace(t, "x", n), s.replace("a", s)],
    "add": lambda s, t, n: [s + t, t + s, "plain" + s, s + s],
    "multiply": lambda s, t, n: [s * n, n * s],
    "index": lambda s, t, n: [s[n:], s[::-1], s[n::2], s[:n:-1], s[-3:-1], *(s[i] for i in range(len(s)))],
    "iterate": lambda s, t, n: [list(s), list(reversed(s)), sorted(s)],
    "pad": lambda s, t, n: [
        s.center(n + 9),
        s.ljust(20, "a"),
        s.rjust(11, "b"),
        s.zfill(9),
        s.center(len(s) + 1),
    ],
    "rest": lambda s, t, n: [s.expandtabs(2), s.translate({97: "bb"}), str(s), f"{s}", s.encode().decode()],
}


@settings(max_examples=300)
@given(PIECES, PIECES, st.integers(-2, 6))
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_str(name: str, pieces: list[str], others: list[str], n: int) -> None:
    text, other = concatenated(pieces), concatenated(others)
    plain, plain_other = "".join(pieces), "".join(others)
    for ours, theirs in zip(
        OPERATIONS[name](text, other, n), OPERATIONS[name](plain, plain_other, n), strict=True
    ):
        same(ours, theirs)


@settings(max_examples=300)
@given(PIECES)
@example([TrackedText.trusted("EOT"), TrackedText("ßŉ"), TrackedText.trusted("EOT")])
def test_case_keeps_places(pieces: list[str]) -> None:
    text, plain = concatenated(pieces), "".join(pieces)
    for name in ("lower", "upper", "title", "capitalize", "swapcase", "casefold"):
        same(getattr(text, name)(), getattr(plain, name)())


@settings(max_examples=500)
@given(
    st.lists(st.sampled_from(["%s", "%%", "%5s", "%d", "%(k)s", "%r", "<|EOT|>", "%.2s", "%"]), max_size=5),
    st.booleans(),
    PIECES,
)
def test_percent_is_that_of_str(form: list[str], trusted: bool, values: list[str]) -> None:
    plain = "".join(form)
    text = TrackedText.trusted(plain) if trusted else TrackedText(plain)
    for arguments in (tuple(values), {"k": concatenated(values)}, concatenated(values), 7):
        try:
            expected = plain % arguments
        except (TypeError, ValueError, KeyError) as error:
            with pytest.raises(type(error)):
                text % arguments
            continue
        result = text % arguments
        assert result == expected
        for piece, ours in pieces_of(result):
            assert not ours or not set(piece) & set("abcß#Ωŉ"), (plain, result)


def test_what_is_known_keeps_its_trust() -> None:
    """The other half: an operation that forgot everything would pass all of the above."""
    ours, theirs = TrackedText.trusted("<E>"), TrackedText("abc")
    whole = ours + theirs + ours
    expected = [("<E>", True), ("abc", False), ("<E>", True)]
    empty, trusted = TrackedText(""), TrackedText.trusted
    results = [
        whole, (" " + whole + " ").strip(), empty.join([ours, theirs, ours]), str(whole), whole[:],
        whole[::-1][::-1], TrackedText("%s%s%s") % (ours, theirs, ours), trusted("<E>%s<E>") % theirs,
        concatenated(list(whole)), (whole + "#").removesuffix("#"), whole.lower().swapcase(),
        empty.join(TrackedText("-").join(whole).split("-")), TrackedText("X").replace("X", whole),
        empty.join((whole + "\n" + whole).splitlines()[:1]), empty.join(whole.partition("b")),
        (whole * 2)[: len(whole)], whole.center(30).strip(), trusted("<E>%(a)s<E>") % {"a": theirs},
    ]  # fmt: skip
    for i, result in enumerate(results):
        assert [(text.lower(), trusted) for text, trusted in pieces_of(result)] == [
            (text.lower(), trusted) for text, trusted in expected
        ], i
