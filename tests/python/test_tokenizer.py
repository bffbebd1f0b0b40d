"""The real Llama 4 tokenizer against Meta's own wrapper and the `tokenizers` package; streaming detokenisation."""

from __future__ import annotations

import base64
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llama4rt import CheckpointError, EngineFileError, RequestError
from llama4rt.convert.tokenizer_files import with_tokenizer
from llama4rt.text.byte_level_bpe import BYTE_OF
from llama4rt.text.detokenizer import Detokenizer
from llama4rt.text.tokenizer import (
    HuggingFaceTokenizer,
    RankTokenizer,
    TiktokenTokenizer,
    Tokenizer,
    llama4_special_tokens,
    load_tokenizer,
    parse_tiktoken_ranks,
    split_for_tiktoken,
)
from llama4rt.text.tokenizer_json import read_tokenizer_json
from llama4rt.text.vocabulary import Vocabulary

meta = pytest.importorskip("llama_models.llama4.tokenizer")
MODEL_FILE = Path(meta.__file__).parent / "tokenizer.model"


@pytest.fixture(scope="module")
def ours() -> TiktokenTokenizer:
    return TiktokenTokenizer(MODEL_FILE.read_bytes())


@pytest.fixture(scope="module")
def metas() -> Any:
    return meta.Tokenizer.get_instance()


# --- the real vocabulary ----------------------------------------------------------------------------------------------

GOLDEN = [
    ("Hello world", [19873, 3817]),
    ("\n\n", [368]),
    ("system", [15651]),
    ("user", [1556]),
    ("assistant", [140680]),
    ("ipython", [607, 6934]),
    ("12345 67", [7235, 2127, 220, 3804]),
    ("I'm DON'T", [23752, 93885, 59842]),
    ("naïve café 東京 🤗", [1499, 164301, 49652, 124590, 119281, 245]),
    ("aaaaaaaaaa", [84715, 6194]),
    (" \t\n", [124731]),
    ("<|eot|>", [40, 104, 81, 359, 159276]),
    ("", []),
]


@pytest.mark.parametrize(("text", "ids"), GOLDEN)
def test_golden_encodings(ours: Tokenizer, text: str, ids: list[int]) -> None:
    assert ours.encode(text) == ids
    assert ours.decode(ids) == text


def test_special_tokens_are_metas(ours: Tokenizer, metas: Any) -> None:
    assert ours.special_tokens == metas.special_tokens
    assert ours.vocab_size == metas.n_words == 202048
    for name, i in [
        ("<|begin_of_text|>", 200000), ("<|header_start|>", 200005), ("<|eom|>", 200007), ("<|eot|>", 200008),
        ("<|python_start|>", 200016), ("<|finetune_right_pad|>", 200018), ("<|image_start|>", 200080),
        ("<|tile_x_separator|>", 200084), ("<|image|>", 200090), ("<|patch|>", 200092),
        ("<|reasoning_thinking_end|>", 201143), ("<|reserved_special_token_0|>", 201144),
        ("<|reserved_special_token_903|>", 202047),
    ]:  # fmt: skip
        assert ours.special_tokens[name] == i


def test_special_tokens_only_when_asked_for(ours: Tokenizer) -> None:
    user = "<|header_start|>user<|header_end|>\n\nHi<|eot|>"
    prompt = f"<|begin_of_text|>{user}<|header_start|>assistant<|header_end|>\n\n"
    ids = [200000, 200005, 1556, 200006, 368, 25181, 200008, 200005, 140680, 200006, 368]
    assert ours.encode(prompt, special=True) == ids
    assert max(ours.encode(prompt)) < 200000
    assert ours.decode(ids, skip_special_tokens=False) == prompt
    assert ours.decode(ids) == "user\n\nHiassistant\n\n"
    assert ours.decode([-1, 202048, 10**9, 19873]) == "Hello"  # a padded row, or nonsense, is no text


MIXED = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=" \t\n\r\u00a0\u2003\u0085\x1c", max_size=60),
    st.text(alphabet="aZéß東🤗́'sdtmre019<|>_/\n ", max_size=60),
    st.sampled_from(["<|eot|>", "x<|begin_of_text|>y", "<|eot", "\ud83e\udd17", "\ud800", "a\x00b"]),
)


@settings(max_examples=1000)
@given(MIXED)
def test_ids_are_metas(ours: Tokenizer, metas: Any, text: str) -> None:
    assert ours.encode(text) == metas.encode(text, bos=False, eos=False)
    if not any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        assert ours.decode(ours.encode(text), skip_special_tokens=False) == text


@settings(max_examples=300)
@given(st.lists(MIXED | st.sampled_from(["<|eot|>", "<|image|>", "<|patch|>"]), max_size=6).map("".join))
def test_special_ids_are_metas(ours: Tokenizer, metas: Any, text: str) -> None:
    assert ours.encode(text, special=True) == metas.encode(text, bos=False, eos=False, allowed_special="all")


@given(st.lists(st.tuples(st.sampled_from(" ab\n"), st.integers(1, 60_000)), max_size=12))
@settings(max_examples=20)
@example([(" ", 25_000)])
@example([(" ", 25_001)])
@example([("a", 399_999), (" ", 25_002)])
@example([("a", 50_001), (" ", 75_003), ("b", 1)])
def test_long_texts_are_cut_where_meta_cuts(runs: list[tuple[str, int]]) -> None:
    text = "".join(char * count for char, count in runs)
    expected = [
        piece
        for i in range(0, len(text), 400_000)
        for piece in meta.Tokenizer._split_whitespaces_or_nonwhitespaces(text[i : i + 400_000], 25_000)
    ]
    assert list(split_for_tiktoken(text)) == expected


@pytest.mark.parametrize("char", [" ", "\n", "a", "字", "\u2003", "1", "!", "́"])
def test_a_million_of_one_character_neither_panics_nor_hangs(ours: Tokenizer, metas: Any, char: str) -> None:
    text = char * 1_000_000
    start = time.perf_counter()
    ids = ours.encode(text)
    assert time.perf_counter() - start < 10
    assert ours.decode(ids) == text
    assert ours.encode(text[:50_010]) == metas.encode(text[:50_010], bos=False, eos=False)


def test_native_panics_become_typed_errors(ours: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def panic(text: str) -> list[int]:
        raise Panic("index out of bounds")

    monkeypatch.setattr(ours, "_encode_plain", panic)
    with pytest.raises(RequestError, match="index out of bounds"):
        ours.encode("x")


# --- tokenizer.json ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def json_file(ours: TiktokenTokenizer) -> bytes:
    """The same vocabulary as a tokenizer.json, converted by transformers."""
    tokenizers = pytest.importorskip("tokenizers")
    convert = pytest.importorskip("transformers.convert_slow_tokenizer")
    converter = convert.TikTokenConverter(
        vocab_file=str(MODEL_FILE),
        pattern=ours._encoding._pat_str,
        extra_special_tokens=list(ours.special_tokens),
    )
    converted = converter.converted()
    # ignore_merges and no added prefix space, as in the published file.
    settings_of = json.loads(converted.to_str())
    settings_of["model"]["ignore_merges"] = True
    for token in settings_of["added_tokens"]:
        token["special"] = True
    return bytes(tokenizers.Tokenizer.from_str(json.dumps(settings_of)).to_str().encode())


@pytest.fixture(scope="module")
def hugging_face(json_file: bytes) -> RankTokenizer:
    """What an engine that was built from it reads."""
    return RankTokenizer(Vocabulary.from_file(read_tokenizer_json(json_file).to_file()))


def test_both_forms_are_one_tokenizer(ours: TiktokenTokenizer, hugging_face: RankTokenizer) -> None:
    assert hugging_face.special_tokens == ours.special_tokens
    assert hugging_face.vocab_size == ours.vocab_size
    for i in [*range(0, 202048, 97), *range(199990, 200100), 202047]:
        assert hugging_face.token_bytes(i) == ours.token_bytes(i)


@settings(max_examples=300)
@given(MIXED)
def test_both_forms_encode_alike(ours: TiktokenTokenizer, hugging_face: RankTokenizer, text: str) -> None:
    assert hugging_face.encode(text) == ours.encode(text)
    assert hugging_face.encode(text, special=True) == ours.encode(text, special=True)


TRAINED_ON = [
    "the cat sat on the mat, the cats' hats",
    "1234 5678 naïve café 東京 東京タワー",
    "aaaa aaaaaa ababab\n\n  x",
]
CUTS = {
    "gpt2": None,
    "llama": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "with gaps": r"\p{L}+|\d",
}


def trained(cut: str, size: int, *, whole: bool = False, added: tuple[Any, ...] = ()) -> Any:
    """A byte-level BPE of the tokenizers package."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=whole))
    pre = tokenizers.pre_tokenizers
    pattern = CUTS[cut]
    if pattern is None:
        made.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    else:
        split = pre.Split(tokenizers.Regex(pattern), "isolated")
        made.pre_tokenizer = pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre.ByteLevel.alphabet(),
        special_tokens=["<|eot|>"],
        show_progress=False,
    )
    made.train_from_iterator(TRAINED_ON * 3, trainer)
    made.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in added])
    made.encode_special_tokens = True
    return made


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("size", [258, 280, 330])
@pytest.mark.parametrize("cut", CUTS)
def test_trained_vocabularies_become_ranks(cut: str, size: int, whole: bool) -> None:
    """Ids that do not follow the merges, cuts of other kinds, added tokens: the ids of the tokenizers package."""
    theirs = trained(cut, size, whole=whole, added=("<think>", "<think", "東京駅"))
    theirs = with_other_ids(theirs, random.Random(size))
    ours = HuggingFaceTokenizer(theirs.to_str().encode())
    assert ours.special_tokens == {"<|eot|>": theirs.token_to_id("<|eot|>")}
    assert ours.vocab_size == theirs.get_vocab_size(with_added_tokens=True)
    rng = random.Random(size)
    alphabet = [*"the cats' hats 1234, aaabn\n\n  \t東京駅タワïé🤗<|>", "<|eot|>", "<think>", "<think"]
    for _ in range(400):
        text = "".join(rng.choices(alphabet, k=rng.randrange(40)))
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text), skip_special_tokens=False) == text


def with_other_ids(tokenizer: Any, rng: random.Random) -> Any:
    """The same merges, with the ids of all but added tokens dealt out anew."""
    content = json.loads(tokenizer.to_str())
    vocab = content["model"]["vocab"]
    added = {entry["content"] for entry in content["added_tokens"]}
    words = [word for word in vocab if word not in added]
    ids = [vocab[word] for word in words]
    rng.shuffle(ids)
    vocab |= dict(zip(words, ids, strict=True))
    made = type(tokenizer).from_str(json.dumps(content))
    made.encode_special_tokens = True
    return made


def small_json(**model: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(trained("gpt2", 270).to_str())
    content["model"] |= model
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "Unigram"),
        ({"normalizer": {"type": "NFC"}}, "NFC"),
        ({"decoder": {"type": "Metaspace"}}, "Metaspace"),
        ({"decoder": None}, "not ByteLevel"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "space before"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "255 single bytes"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}, "-1"),
        ({"model": {"type": "BPE", "vocab": [], "merges": []}}, "AttributeError"),
        ({"added_tokens": [{"id": 3, "content": "x", "special": False, "lstrip": True}]}, "lstrip"),
        ({"added_tokens": [{"id": 3}]}, "KeyError"),
        ({"added_tokens": 7}, "TypeError"),
    ],
)
def test_what_ranks_cannot_say_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineFileError, match=message):
        HuggingFaceTokenizer(json.dumps(small_json() | change).encode())


def test_tokens_that_merges_do_not_reach() -> None:
    content = small_json()
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    vocab |= {"xy": 400, "qqq": 401}
    text = "xy qqq qqqq"
    theirs = __import__("tokenizers").Tokenizer.from_str(json.dumps(content))
    assert HuggingFaceTokenizer(json.dumps(content).encode()).encode(text) == theirs.encode(text).ids
    content["model"]["ignore_merges"] = True
    with pytest.raises(
        EngineFileError, match="made of two others"
    ):  # tiktoken would merge x and y everywhere
        HuggingFaceTokenizer(json.dumps(content).encode())
    del vocab["xy"]
    theirs = __import__("tokenizers").Tokenizer.from_str(json.dumps(content))
    ids = theirs.encode(text).ids
    assert 401 not in ids  # a piece is " qqq", with its space
    assert HuggingFaceTokenizer(json.dumps(content).encode()).encode("qqq") == [401]
    merges.append(["nowhere", "x"])
    with pytest.raises(EngineFileError, match="nowhere"):
        HuggingFaceTokenizer(json.dumps(content).encode())


# --- which file counts --------------------------------------------------------------------------------------


def pair_of_files(change: Any = None) -> dict[str, bytes]:
    """tokenizer.model of 258 ranks, and the same as tokenizer.json after `change`(vocab, added)."""
    model = TiktokenTokenizer(small_ranks())
    letters = {byte: char for char, byte in BYTE_OF.items()}
    vocab = {"".join(letters[b] for b in model.token_bytes(i)): i for i in range(258)}
    added = [{"id": i, "content": name, "special": True} for name, i in model.special_tokens.items()]
    if change is not None:
        change(vocab, added)
    content = small_json(vocab=vocab, merges=[["h", "e"], ["l", "l"], ["ll", "o"]][:1])
    content["model"]["ignore_merges"] = False
    content["added_tokens"] = added
    return {"tokenizer.model": small_ranks(), "tokenizer.json": json.dumps(content).encode()}


def test_of_two_files_the_one_that_holds_more_counts() -> None:
    assert set(with_tokenizer(pair_of_files())) == {"tokenizer.json", "tokenizer.model"}
    assert type(load_tokenizer(with_tokenizer(pair_of_files()).get)) is TiktokenTokenizer

    def more(vocab: Any, added: Any) -> None:
        added.append({"id": 258 + 2048, "content": "<|mine|>", "special": True})

    files = with_tokenizer(pair_of_files(more))
    assert list(files) == ["tokenizer.json", "tokenizer.model", "tokenizer.ranks"]
    tokenizer = load_tokenizer(files.get)
    assert tokenizer is not None and tokenizer.encode("he<|mine|>", special=True) == [256, 258 + 2048]

    def renamed(vocab: Any, added: Any) -> None:
        name = "<|reserved_special_token_0|>"
        next(entry for entry in added if entry["content"] == name)["content"] = "<|mine|>"

    assert "tokenizer.ranks" in with_tokenizer(pair_of_files(renamed))

    def fewer(vocab: Any, added: Any) -> None:
        added.pop()
        del added[0]

    assert "tokenizer.ranks" not in with_tokenizer(pair_of_files(fewer))


def test_two_files_that_disagree_are_refused_with_both_counts() -> None:
    def other_word(vocab: Any, added: Any) -> None:
        vocab["hx"] = vocab.pop("he")

    def other_special(vocab: Any, added: Any) -> None:
        added[0]["content"] = "<|start|>"

    def more_and_less(vocab: Any, added: Any) -> None:
        added[0]["id"] = 5000

    for change in (other_word, other_special, more_and_less):
        with pytest.raises(
            CheckpointError, match=r"tokenizer\.model has 2306 tokens and tokenizer\.json 2306"
        ):
            with_tokenizer(pair_of_files(change))


def test_a_tokenizer_that_cannot_be_used_stops_the_build() -> None:
    for files in ({"tokenizer.json": b"{}"}, {"tokenizer.model": b"\x0a\x0bsentencepiece"}):
        with pytest.raises(CheckpointError, match="tokenizer"):
            with_tokenizer(files)
    only = {"tokenizer.json": pair_of_files()["tokenizer.json"]}
    assert "tokenizer.ranks" in with_tokenizer(only)
    assert "tokenizer.ranks" in with_tokenizer({**only, "tokenizer.model": b"\x0a\x0bsentencepiece"})
    assert with_tokenizer({"config.json": b"{}"}) == {"config.json": b"{}"}


def test_no_engine_needs_the_tokenizers_package(monkeypatch: pytest.MonkeyPatch) -> None:
    files = with_tokenizer({"tokenizer.json": small_file()})
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    tokenizer = load_tokenizer({"tokenizer.ranks": files["tokenizer.ranks"]}.get)
    assert tokenizer is not None and tokenizer.decode(tokenizer.encode("the cat")) == "the cat"
    old = load_tokenizer({"tokenizer.json": files["tokenizer.json"]}.get)  # built before there were ranks
    assert old is not None and old.encode("the cat") == tokenizer.encode("the cat")


def small_file() -> bytes:
    return json.dumps(small_json()).encode()


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_mutated_ranks_and_json_are_read_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    for data, read in MUTABLE:
        changed = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(changed))] = rng.choice(b'0129"[]{},:aE-\\ntr\xff')
        try:
            tokenizer = read(bytes(changed))
        except EngineFileError:
            continue
        tokenizer.encode("any text: 字")


MUTABLE: list[tuple[bytes, Any]] = []


@pytest.fixture(scope="module", autouse=True)
def mutable_files() -> None:
    data = small_file()
    MUTABLE[:] = [
        (data, HuggingFaceTokenizer),
        (read_tokenizer_json(data).to_file(), lambda d: RankTokenizer(Vocabulary.from_file(d))),
    ]


# --- files ------------------------------------------------------------------------------------------------------------


def small_ranks(extra: tuple[bytes, ...] = (b"he", b"llo")) -> bytes:
    tokens = [bytes([i]) for i in range(256)] + list(extra)
    return b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens))


def test_a_small_vocabulary_has_its_specials_behind_it() -> None:
    small = TiktokenTokenizer(small_ranks())
    assert small.vocab_size == 258 + 2048 and small.special_tokens["<|begin_of_text|>"] == 258
    assert small.decode(small.encode("hello, wörld")) == "hello, wörld"
    assert llama4_special_tokens(0)["<|eot|>"] == 8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "256 single bytes"),
        (b"\x00\xff", "line 1"),
        (b"AA== 0 0\n", "line 1"),
        (b"AA== x\n", "line 1"),
        (b"A 0\n", "line 1"),
        (b"AA== 1\n", "not rank 0"),
        (b"AA== 0\nAA== 1\n", "line 2"),
        (b" 0\n", "line 1"),
        (small_ranks()[:2000], "single bytes|line"),
        (b"AQ== " + b"9" * 5000, "line 1"),
    ],
)
def test_bad_rank_files_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(EngineFileError, match=message):
        parse_tiktoken_ranks(data)


@settings(max_examples=300)
@given(st.integers(0, 2**32))
def test_mutated_rank_files_are_read_or_refused(seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(small_ranks())
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    try:
        tokenizer = TiktokenTokenizer(bytes(data))
    except EngineFileError:
        return
    assert tokenizer.decode(tokenizer.encode("any text: 字")) == "any text: 字"


def test_which_file_is_taken() -> None:
    files = {"tokenizer.model": small_ranks()}
    assert isinstance(load_tokenizer(files.get), TiktokenTokenizer)
    assert load_tokenizer({}.get) is None
    with pytest.raises(EngineFileError):
        load_tokenizer({"tokenizer.model": b"\x0a\x0bsentencepiece"}.get)
    with pytest.raises(EngineFileError, match=r"tokenizer\.json"):
        load_tokenizer({"tokenizer.json": b"{"}.get)


# --- streaming --------------------------------------------------------------------------------------------------------


def whole_text(data: bytes, stops: list[str], *, include: bool) -> tuple[str, str | None]:
    """Everything decoded at once, cut at the stop string that is complete first."""
    text = data.decode("utf-8", "replace")
    for end in range(1, len(text) + 1):
        here = [stop for stop in stops if text[:end].endswith(stop)]
        if here:
            stop = max(here, key=len)
            return (text[:end] if include else text[: end - len(stop)]), stop
    return text, None


@settings(max_examples=1000)
@given(
    data=st.one_of(st.binary(max_size=40), st.text(alphabet="ab字🤗\n", max_size=30).map(str.encode)),
    cuts=st.lists(st.integers(1, 3), max_size=60),
    stops=st.lists(st.text(alphabet="ab字🤗\n\ufffd", min_size=1, max_size=5), max_size=3),
    include=st.booleans(),
)
def test_streamed_text_is_the_text(data: bytes, cuts: list[int], stops: list[str], include: bool) -> None:
    """Bytes cut into tokens anywhere, even inside characters, give the same text and the same stop."""
    pieces = []
    rest = data
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    pieces.append(rest)
    stream = Detokenizer(FakeTokenizer(pieces), stop=stops, include_stop=include)
    expected, stop = whole_text(data, stops, include=include)
    seen = ""
    for i in range(len(pieces)):
        seen += stream.push(i)
        assert expected.startswith(seen)  # nothing has to be taken back
        if stream.stopped_by is not None:
            break
    seen += stream.finish()
    assert (seen, stream.stopped_by) == (expected, stop)
    assert stream.finish() == ""


def test_half_a_character_waits_for_the_other_half(ours: Tokenizer) -> None:
    stream = Detokenizer(ours)
    assert [stream.push(i) for i in [1499, 164301, 49652, 124590, 119281, 245]] == [
        "na", "ïve", " café", " 東京", " ", "🤗",
    ]  # fmt: skip
    assert stream.push(119281) == " " and stream.finish() == "\ufffd"


def test_text_is_held_only_while_it_may_become_a_stop_string() -> None:
    stream = Detokenizer(FakeTokenizer([b"ab", b"a", b"b", b"x", b"aba"]), stop=["abac"])
    assert [stream.push(i) for i in range(5)] == ["", "", "ab", "abx", ""]
    assert stream.finish() == "aba" and stream.stopped_by is None


def test_stop_strings_count_only_after_min_tokens() -> None:
    stream = Detokenizer(FakeTokenizer([b"stop", b"stop", b"stop"]), stop=["stop"], min_tokens=2)
    assert stream.push(0) == "stop" and stream.stopped_by is None
    assert stream.push(1) == "" and stream.stopped_by == "stop"


def test_special_tokens_are_left_out_unless_wanted(ours: Tokenizer) -> None:
    ids = [200005, 1556, 200006]
    assert "".join(map(Detokenizer(ours).push, ids)) == "user"
    shown = Detokenizer(ours, skip_special_tokens=False)
    assert "".join(map(shown.push, ids)) == "<|header_start|>user<|header_end|>"


class FakeTokenizer(Tokenizer):
    """Token i is the i-th piece."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.special_tokens = {}
        self._pieces = pieces

    def token_bytes(self, token_id: int) -> bytes:
        return self._pieces[token_id]

    def _encode_plain(self, text: str) -> list[int]:
        raise NotImplementedError

    @property
    def max_token_bytes(self) -> int:
        return 4
