"""Text to token ids and back, for the two forms in which Llama 4 tokenizers come.

`tokenizer.model` is tiktoken's rank file; a `tokenizer.json` becomes ranks too (tokenizer_json.py), when the engine is
built. Both are given to tiktoken, and give the same ids. Text encodes with special tokens as plain text: only a
chat template may say `<|eot|>` and mean it (`encode(text, special=True)`). No streaming here: that is
detokenizer.py.
"""

import base64
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

from llama4rt.errors import EngineFileError, RequestError
from llama4rt.text.tokenizer_habits import TransformersHabits
from llama4rt.text.tokenizer_json import read_tokenizer_json
from llama4rt.text.vocabulary import RANKS_FILE, Vocabulary

# The o200k split rule of Llama 4.
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}"
_LOWER = r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
SPLIT_PATTERN = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

# tiktoken panics on very long pieces. These are the cuts of Meta's own tokenizer: cutting changes the ids of
# pathological texts, so the numbers are part of the model, not ours to tune.
MAX_ENCODE_CHARS = 400_000
MAX_RUN_CHARS = 25_000
_LONG_RUN = re.compile(rf"\s{{{MAX_RUN_CHARS + 1},}}|\S{{{MAX_RUN_CHARS + 1},}}")

BOS_TEXT = "<|begin_of_text|>"
NUM_SPECIAL_TOKENS = 2048
_MAX_RANKS = 2_000_000


def llama4_special_tokens(num_ranks: int) -> dict[str, int]:
    """The 2048 special tokens, which follow the ranks in this order."""

    def reserved(family: str, first: int, last: int) -> list[str]:
        return [f"<|{family}reserved_special_token_{i}|>" for i in range(first, last + 1)]

    def named(words: str) -> list[str]:
        return [f"<|{word}|>" for word in words.split()]

    names = [
        *named("begin_of_text end_of_text fim_prefix fim_middle fim_suffix"),
        *named("header_start header_end eom eot step"),
        *reserved("text_post_train_", 0, 5),
        *named("python_start python_end finetune_right_pad"),
        *reserved("text_post_train_", 8, 68),  # 6 and 7 became the python marks
        *named("image_start image_end"),
        *reserved("vision_", 0, 1),
        *named("tile_x_separator tile_y_separator"),
        *reserved("vision_", 2, 5),
        *named("image"),
        *reserved("vision_", 6, 6),
        *named("patch"),
        *reserved("vision_", 7, 1047),
        *reserved("reasoning_", 0, 7),
        *named("reasoning_thinking_start reasoning_thinking_end"),
    ]
    names += reserved("", 0, NUM_SPECIAL_TOKENS - len(names) - 1)
    return {name: num_ranks + i for i, name in enumerate(names)}


class Tokenizer(TransformersHabits):
    """What the engine needs of a tokenizer. Safe to use from many threads."""

    special_tokens: dict[str, int]
    vocab_size: int

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; b"" for an id that the tokenizer does not know (a padded embedding row)."""

    @abstractmethod
    def _encode_plain(self, text: str) -> list[int]:
        """Ids of text without special tokens."""

    @property
    @abstractmethod
    def max_token_bytes(self) -> int:
        """The length of the longest token, so that a hopelessly long text is refused before it is encoded."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of `text`, without begin-of-text. special=True reads `<|eot|>` and its like as the special tokens."""
        if not isinstance(text, str):
            raise RequestError(f"the text is a {type(text).__name__}; it must be a str")
        if not special:
            return self._guarded(text)
        ids: list[int] = []
        end = 0
        for match in self.special_pattern.finditer(text):
            ids += self._guarded(text[end : match.start()])
            ids.append(self.special_tokens[match.group()])
            end = match.end()
        return ids + self._guarded(text[end:])

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        skip = self.special_ids if skip_special_tokens else frozenset()
        return b"".join(self.token_bytes(i) for i in ids if i not in skip).decode("utf-8", "replace")

    def _with_begin(self, text: str, begin: bool) -> list[int]:
        ids = self.encode(text)
        return [self.special_tokens[BOS_TEXT], *ids] if begin and BOS_TEXT in self.special_tokens else ids

    @cached_property
    def special_ids(self) -> frozenset[int]:
        return frozenset(self.special_tokens.values())

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Matches any special token; the longest where one begins another."""
        names = sorted(self.special_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def _guarded(self, text: str) -> list[int]:
        """Native panics are BaseExceptions that would kill the calling thread; here they are typed errors."""
        if not text:
            return []
        try:
            return self._encode_plain(without_lone_surrogates(text))
        except (Exception, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            raise RequestError(f"the tokenizer failed on a text of {len(text)} characters: {error}") from None


class RankTokenizer(Tokenizer):
    """The tokenizer of a Vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        import tiktoken

        self.special_tokens = dict(vocabulary.special)
        self._bytes = vocabulary.bytes_by_id()
        self.vocab_size = max(self._bytes) + 1
        self._added = vocabulary.added
        names = sorted(self._added, key=len, reverse=True)
        self._added_pattern = re.compile("|".join(map(re.escape, names))) if names else None
        # tiktoken wants all bytes; those without a token get ranks behind all others, and no id: they are dropped.
        silent = [bytes([byte]) for byte in vocabulary.missing_bytes]
        in_order = not silent and vocabulary.ids == list(range(len(vocabulary.ids)))
        self._ids = None if in_order else vocabulary.ids
        ranks = {token: rank for rank, token in enumerate([*vocabulary.tokens, *silent])}
        try:
            self._encoding = tiktoken.Encoding(
                name="llama4", pat_str=vocabulary.pattern, mergeable_ranks=ranks, special_tokens={}
            )
        except (ValueError, TypeError) as error:
            raise EngineFileError(
                f"tokenizer: the pattern that cuts text is not understood: {error}"
            ) from None

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes.get(token_id, b"")

    @cached_property
    def max_token_bytes(self) -> int:
        return max(map(len, self._bytes.values()))

    def _encode_plain(self, text: str) -> list[int]:
        if self._added_pattern is None:
            return self._encode_pieces(text)
        ids: list[int] = []
        end = 0
        for match in self._added_pattern.finditer(text):
            ids += self._encode_pieces(text[end : match.start()])
            ids.append(self._added[match.group()])
            end = match.end()
        return ids + self._encode_pieces(text[end:])

    def _encode_pieces(self, text: str) -> list[int]:
        ranks: list[int] = []
        for piece in split_for_tiktoken(text):
            ranks += self._encoding.encode_ordinary(piece)
        if self._ids is None:
            return ranks
        known = len(self._ids)
        return [self._ids[rank] for rank in ranks if rank < known]


class TiktokenTokenizer(RankTokenizer):
    """The tokenizer of a `tokenizer.model` file."""

    def __init__(self, data: bytes) -> None:
        super().__init__(read_tokenizer_model(data))


class HuggingFaceTokenizer(RankTokenizer):
    """The tokenizer of a `tokenizer.json` file. Byte-level BPE only, which is what Llama 4 has."""

    def __init__(self, data: bytes) -> None:
        super().__init__(read_tokenizer_json(data))


def load_tokenizer(read_file: Callable[[str], bytes | None]) -> Tokenizer | None:
    """The tokenizer among an engine's files, or None. Which of a checkpoint's files counts was decided when the
    engine was built (convert/tokenizer_files.py): that is tokenizer.ranks, where there is one.
    """
    ranks = read_file(RANKS_FILE)
    if ranks is not None:
        return RankTokenizer(Vocabulary.from_file(ranks))
    model = read_file("tokenizer.model")
    json_file = read_file("tokenizer.json")
    if model is not None:
        try:
            return TiktokenTokenizer(model)
        except EngineFileError:
            # Else it is another family's tokenizer.model, and tokenizer.json is the real one.
            if json_file is None:
                raise
    return HuggingFaceTokenizer(json_file) if json_file is not None else None


def read_tokenizer_model(data: bytes) -> Vocabulary:
    """Raises EngineFileError."""
    ranks = parse_tiktoken_ranks(data)
    return Vocabulary(SPLIT_PATTERN, list(ranks), list(range(len(ranks))), llama4_special_tokens(len(ranks)))


def parse_tiktoken_ranks(data: bytes) -> dict[bytes, int]:
    """Lines of `base64 rank`, ranks 0, 1, 2, ... in order, every single byte among them."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split()
            token = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise EngineFileError(f"tokenizer.model: line {number} is not `base64 rank`") from None
        if rank != b"%d" % len(ranks) or not token or token in ranks:
            raise EngineFileError(
                f"tokenizer.model: line {number} repeats a token or is not rank {len(ranks)}"
            )
        ranks[token] = len(ranks)
        if len(ranks) > _MAX_RANKS:
            raise EngineFileError(f"tokenizer.model: more than {_MAX_RANKS} ranks")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise EngineFileError(
            f"tokenizer.model: {len(missing)} single bytes have no rank, the first is {missing[0]}"
        )
    return ranks


def split_for_tiktoken(text: str) -> Iterator[str]:
    """Cuts as Meta's tokenizer does: every 400,000 characters, and inside them every 25,000 of a run of white
    space or of anything else.
    """
    for window_start in range(0, len(text), MAX_ENCODE_CHARS):
        window = text[window_start : window_start + MAX_ENCODE_CHARS]
        start = 0
        for run in _LONG_RUN.finditer(window):
            for cut in range(run.start() + MAX_RUN_CHARS, run.end(), MAX_RUN_CHARS):
                yield window[start:cut]
                start = cut
        yield window[start:]


def without_lone_surrogates(text: str) -> str:
    """Pairs become the character they mean, lone ones U+FFFD; neither native encoder takes surrogates."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def require_tokenizer(tokenizer: Tokenizer | None, why: str) -> Tokenizer:
    """The tokenizer, or a typed error that says what to do."""
    if tokenizer is None:
        raise RequestError(
            f"{why} needs a tokenizer, and this engine file has none: pass token ids, or rebuild it with "
            "`llama4rt build` from a checkpoint directory that holds tokenizer.model or tokenizer.json"
        )
    return tokenizer


__all__ = [
    "BOS_TEXT",
    "HuggingFaceTokenizer",
    "RankTokenizer",
    "TiktokenTokenizer",
    "Tokenizer",
    "llama4_special_tokens",
    "load_tokenizer",
    "parse_tiktoken_ranks",
    "read_tokenizer_model",
    "require_tokenizer",
    "split_for_tiktoken",
    "without_lone_surrogates",
]
