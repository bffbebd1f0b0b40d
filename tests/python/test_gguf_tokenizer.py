"""The tokenizer in a GGUF file: the ids of the `tokenizers` package for the same tokens and merges, and for Llama 4's
own vocabulary the ids of its tokenizer.model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from gguf_models import small_gguf
from llama4rt.convert.formats.gguf.file import GgufFile
from llama4rt.convert.formats.gguf.text_files import special_ids, text_files
from llama4rt.convert.formats.gguf.tokenizer import vocabulary_of
from llama4rt.errors import CheckpointError
from llama4rt.text.byte_level_bpe import BYTE_OF
from llama4rt.text.chat_template import ChatTemplate
from llama4rt.text.tokenizer import RankTokenizer, TiktokenTokenizer, parse_tiktoken_ranks
from llama4rt.text.vocabulary import Vocabulary

tokenizers = pytest.importorskip("tokenizers")

# The published cuts, as tokenizer.json files have them.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
LLAMA3 = _WORDS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TRAINED_ON = [
    "the cat sat on the mat, the cats' hats; isn't it?",
    "in 1234, 5678 and  90: naïve café 東京 東京タワー",
    "  def f(x):\n\treturn x  ** 2   # twice\n\n\n",
    "aaaa aaaaaa ababab !!! ... ==> <|eot|>",
]


def pre_tokenizer(pre: str) -> Any:
    """What cuts text of a model with this `tokenizer.ggml.pre`, put together from the package's own parts."""
    parts = tokenizers.pre_tokenizers
    whole = parts.ByteLevel(add_prefix_space=False)
    if pre == "gpt-2":
        return whole
    if pre == "smollm":
        return parts.Sequence([parts.Digits(individual_digits=True), whole])
    split = parts.Split(tokenizers.Regex(LLAMA3), "isolated")
    return parts.Sequence([split, parts.ByteLevel(add_prefix_space=False, use_regex=False)])


def trained(pre: str, size: int) -> Any:
    made = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=pre == "llama-bpe"))
    made.pre_tokenizer = pre_tokenizer(pre)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_end|>"],
        show_progress=False,
    )
    made.train_from_iterator(TRAINED_ON * 3, trainer)
    made.encode_special_tokens = True
    return made


def metadata_of(theirs: Any, pre: str, **more: Any) -> dict[str, Any]:
    """The metadata that llama.cpp's converter writes of a tokenizer."""
    content = json.loads(theirs.to_str())
    vocab: dict[str, int] = content["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    special = {entry["content"] for entry in content["added_tokens"] if entry["special"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in content["model"]["merges"]]
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": merges,
    } | {f"tokenizer.{key.replace('__', '.')}": value for key, value in more.items()}


def read(tmp_path: Path, metadata: Mapping[str, Any]) -> Any:
    path = tmp_path / "tokenizer.gguf"
    path.write_bytes(small_gguf(metadata, {}))
    return GgufFile(path).metadata


def tokenizer_of(tmp_path: Path, metadata: Mapping[str, Any]) -> RankTokenizer:
    """As an engine reads it, from the file that it keeps."""
    vocabulary = vocabulary_of(read(tmp_path, metadata))
    assert vocabulary is not None
    return RankTokenizer(Vocabulary.from_file(vocabulary.to_file()))


def random_text(rng: random.Random) -> str:
    """Words of the vocabulary, digits, runs of white space, contractions, any character."""
    pieces = [
        "the", " cats", "'s", "'LL", "naïve", "東京", " ", "  ", "\n", "\r\n", "\t", "1", "42", " 7", "٣", "Ⅷ", "!",
        "...", "_", "\u00a0", "\u2003", "é", "🤗", "́", "<|eot|>", "<|im_end|>", "ß", "ǅ",
    ]  # fmt: skip
    out = []
    for _ in range(rng.randint(0, 14)):
        char = chr(
            rng.choice(
                [rng.randrange(32, 0x250), rng.randrange(0x250, 0x3100), rng.randrange(0xE000, 0x1FB00)]
            )
        )
        out.append(rng.choice(pieces) * rng.choice([1, 1, 1, 2, 5]) if rng.random() < 0.8 else char)
    return "".join(out)


@pytest.mark.parametrize("size", [260, 300, 380])
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe"])
def test_ids_are_those_of_the_tokenizers_package(pre: str, size: int, tmp_path: Path) -> None:
    theirs = trained(pre, size)
    ours = tokenizer_of(tmp_path, metadata_of(theirs, pre))
    assert ours.special_tokens == {"<|endoftext|>": 0, "<|im_end|>": 1}
    rng = random.Random(size)
    for _ in range(3000):
        text = random_text(rng)
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids, repr(text)
        assert ours.decode(ids, skip_special_tokens=False) == text


def test_white_space_before_digits_is_cut_as_published(tmp_path: Path) -> None:
    """Where one pattern could differ from two cuts, one after the other."""
    theirs = trained("smollm", 380)
    ours = tokenizer_of(tmp_path, metadata_of(theirs, "smollm"))
    for gap in (" ", "  ", "   ", "\n", " \n ", "\t ", "\u00a0 "):
        for left in ("", "a", "1", "!", "'"):
            for right in ("", "1", "a", "!", "'s", "1s", "٣", "½", " "):
                text = left + gap + right
                assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, repr(text)


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """All ways to put a token together from two others, token by token: as published files were made from the ranks."""
    merges: list[tuple[bytes, bytes]] = []
    for token in ranks:
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def test_llama_4s_vocabulary(tmp_path: Path) -> None:
    """200,000 tokens with their 400,000 merges: the ids of tokenizer.model."""
    meta = pytest.importorskip("llama_models.llama4.tokenizer", reason="it holds the tokenizer of Llama 4")
    data = (Path(meta.__file__).parent / "tokenizer.model").read_bytes()
    real, ranks = TiktokenTokenizer(data), parse_tiktoken_ranks(data)
    letters = {byte: char for char, byte in BYTE_OF.items()}
    spelt = {token: "".join(letters[byte] for byte in token) for token in ranks}
    special = sorted(real.special_tokens, key=real.special_tokens.__getitem__)
    metadata = {
        "general.architecture": "llama4",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama4",
        "tokenizer.ggml.tokens": [*spelt.values(), *special],
        "tokenizer.ggml.token_type": [1] * len(ranks) + [3] * len(special),
        "tokenizer.ggml.merges": [f"{spelt[left]} {spelt[right]}" for left, right in merges_of(ranks)],
        "tokenizer.ggml.bos_token_id": 200000,
        "tokenizer.ggml.eos_token_id": 200008,
    }
    opened = read(tmp_path, metadata)
    vocabulary = vocabulary_of(opened)
    assert vocabulary is not None
    ids = special_ids(opened, vocabulary, adds_bos=True)
    assert ids == {"bos_token_id": 200000, "eos_token_id": [200008, 200007, 200001]}
    ours = RankTokenizer(vocabulary)
    assert ours.special_tokens == real.special_tokens and ours.vocab_size == real.vocab_size
    rng = random.Random(4)
    for _ in range(3000):
        text = random_text(rng)
        assert ours.encode(text) == real.encode(text), repr(text)
        assert ours.encode(text, special=True) == real.encode(text, special=True), repr(text)


def small(**changes: Any) -> dict[str, Any]:
    """Single bytes, one merge, a token of each kind."""
    letters = {byte: char for char, byte in BYTE_OF.items()}
    tokens = [letters[byte] for byte in range(256)] + ["ab", "<s>", "<think>", "[PAD]", "<unk>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 257 + [3, 4, 5, 2],
        "tokenizer.ggml.merges": ["a b"],
    } | {f"tokenizer.{key}": value for key, value in changes.items()}


def test_kinds_of_tokens(tmp_path: Path) -> None:
    ours = tokenizer_of(tmp_path, small())
    assert ours.special_tokens == {"<s>": 257, "<unk>": 260}
    a, b = ord("a"), ord("b")
    assert ours.encode("ab<think>ba") == [256, 258, b, a]  # found before text is cut
    assert 259 not in ours.encode("[PAD]") and ours.token_bytes(259) == b"[PAD]"
    assert ours.encode("<s>") == [ord(c) for c in "<s>"] and ours.encode("<s>", special=True) == [257]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ggml.model": "llama"}, "tokenizer.ggml.model is 'llama'; byte-level BPE"),
        ({"ggml.pre": "tekken"}, "tokenizer.ggml.pre is 'tekken'; known ways to cut text are gpt-2, smollm"),
        ({"ggml.pre": 3}, "tokenizer.ggml.pre is 3; it must be a string"),
        ({"ggml.tokens": ["a", "b"]}, "token_type has 261 numbers for 2 tokens"),
        ({"ggml.token_type": [1] * 260 + [9]}, r"token_type\[260\] is 9"),
        ({"ggml.tokens": ["a"] * 261}, r"tokens\[1\], 'a', is there before"),
        ({"ggml.tokens": 7}, "tokens is 7; it must be an array of strings"),
        ({"ggml.tokens": [b"\xff"] + ["x"] * 260}, "is not UTF-8"),
        ({"ggml.merges": ["a zz"]}, "the merge of b'a' and b'zz' is not of tokens"),
        ({"ggml.merges": ["a"]}, "merges: "),
        ({"ggml.tokens": ["a", "b", "ab", *(f"t{i}" for i in range(258))]}, "254 single bytes have no token"),
    ],
)  # fmt: skip
def test_what_is_no_such_tokenizer_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        vocabulary_of(read(tmp_path, small(**changes)))


def test_bytes_without_a_token_are_dropped(tmp_path: Path) -> None:
    """SmolLM2 lacks some control characters and bytes that no text has; a text loses them, as with its own tokenizer.
    Bytes that texts need may not be missing.
    """
    metadata = small()
    missing = [0x04, 0x13, 0xC0, 0xF1, 0xFF]
    for byte in missing:
        metadata["tokenizer.ggml.tokens"][byte] = f"missing {byte}"
        metadata["tokenizer.ggml.token_type"][byte] = 5
    ours = tokenizer_of(tmp_path, metadata)
    assert ours.encode("a\x04b\x13ab") == [ord("a"), ord("b"), 256]
    assert ours.decode(ours.encode("x\x04\n😀y")) == "x\n😀y"
    metadata["tokenizer.ggml.tokens"][0xF0] = "missing too"
    metadata["tokenizer.ggml.token_type"][0xF0] = 5
    with pytest.raises(
        CheckpointError, match="6 single bytes have no token, the first that texts need is 240"
    ):
        vocabulary_of(read(tmp_path, metadata))


# --- what else is about text -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "begins", "bos", "ends"),
    [
        ({}, False, None, []),
        ({}, True, None, []),
        ({"ggml.bos_token_id": 257, "ggml.eos_token_id": 256}, True, 257, [256]),
        ({"ggml.bos_token_id": 257, "ggml.eos_token_id": 256}, False, None, [256]),
        ({"ggml.bos_token_id": 257, "ggml.add_bos_token": True}, False, 257, []),
        ({"ggml.bos_token_id": 257, "ggml.add_bos_token": False}, True, None, []),
        (
            {"ggml.eos_token_id": 256, "ggml.eot_token_id": 260, "ggml.eom_token_id": 256},
            True,
            None,
            [256, 260],
        ),
    ],
)
def test_ids_that_begin_and_end(
    more: dict[str, Any], begins: bool, bos: int | None, ends: list[int], tmp_path: Path
) -> None:
    metadata = read(tmp_path, small(**more))
    assert special_ids(metadata, vocabulary_of(metadata), begins) == {
        "bos_token_id": bos,
        "eos_token_id": ends,
    }


def test_templates_sampling_and_origin_are_kept(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ bos_token }}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    metadata = small(**{"ggml.bos_token_id": 257, "ggml.eos_token_id": 256, "chat_template": template})
    metadata |= {
        "tokenizer.chat_template.tool_use": "{{ tools[0] }}",
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": 40,
        "general.license": "llama4",
        "general.name": "A model",
        "general.base_model.0.repo_url": "https://example.org/base",
    }
    opened = read(tmp_path, metadata)
    files = text_files(opened, vocabulary_of(opened))
    chat = ChatTemplate.from_files(files.get)
    try:
        assert chat.render([{"role": "user", "content": "hi"}]) == "<s>hiab"
        assert "x" in chat.render([{"role": "user", "content": "hi"}], tools=[{"name": "x"}])
    finally:
        chat.close()
    assert json.loads(files["generation_config.json"]) == {"temperature": 0.6, "top_k": 40}
    notice = files["NOTICE.gguf.txt"].decode()
    assert "general.license: llama4\n" in notice and "repo_url: https://example.org/base\n" in notice


def test_a_file_without_a_tokenizer(tmp_path: Path) -> None:
    opened = read(tmp_path, {"general.architecture": "llama4"})
    assert vocabulary_of(opened) is None
    assert text_files(opened, None) == {}
    opened = read(tmp_path, {"tokenizer.ggml.model": "none"})
    assert vocabulary_of(opened) is None
