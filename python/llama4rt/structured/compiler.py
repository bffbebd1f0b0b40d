"""Compiler: grammars for one engine's tokenizer, compiled once and walked by many outputs."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from llama4rt.errors import RequestError
from llama4rt.structured.closing import Closing, Vocabulary
from llama4rt.structured.guide import Guide, MaskThreads
from llama4rt.structured.structured_output import StructuredOutput
from llama4rt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_MAX_KEPT = 128
_COMPILE_SECONDS = 2.0  # a schema within the limits takes milliseconds
_THREADS = 4  # of masks: they release the GIL


class Compiler:
    """Safe to use from many threads. Loads nothing before the first grammar comes."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = list(end_ids)
        self._lock = threading.Lock()
        self._native: LLTokenizer | None = None
        self._vocabulary: Vocabulary | None = None
        self._kept: OrderedDict[StructuredOutput, LLMatcher] = OrderedDict()
        self._masks = MaskThreads(_THREADS)
        self._compiling = ThreadPoolExecutor(_THREADS, "llama4rt-grammars")

    def close(self) -> None:
        self._masks.close()
        self._compiling.shutdown(wait=False, cancel_futures=True)

    def guides(self, output: StructuredOutput, count: int, budget: int) -> list[Guide]:
        """Guides for `count` outputs of at most `budget` tokens each. RequestError for a grammar that is refused."""
        matcher = self._matcher(output)
        guides = []
        for i in range(count):
            closing = None
            if output.complete:
                assert self._vocabulary is not None
                closing = Closing(self._vocabulary, output.source, budget, output.reserve)
                if i == 0:
                    closing.check(matcher.deep_copy())
                    first = closing
                closing.free_until = first.free_until
            guide = Guide(matcher.deep_copy(), self._vocab_size, self._masks, closing)
            guide.begin()
            guides.append(guide)
        return guides

    def _matcher(self, output: StructuredOutput) -> "LLMatcher":
        with self._lock:
            known = self._kept.get(output)
            if known is not None:
                self._kept.move_to_end(output)
                return known
        future = self._compiling.submit(self._compiled, output)
        try:
            matcher = future.result(_COMPILE_SECONDS if self._native is not None else 60)
        except TimeoutError:
            raise RequestError(
                f"the {_NAMES[output.kind]} takes longer than {_COMPILE_SECONDS:g} s to compile"
            ) from None
        with self._lock:
            self._kept[output] = matcher
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return matcher

    def _compiled(self, output: StructuredOutput) -> "LLMatcher":
        import llguidance

        native = self._native_tokenizer()
        try:
            form = output.compiled_form()
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the {_NAMES[output.kind]} is refused: {_first_line(error)}") from None
        limits = llguidance.LLParserLimits(verbose_errors=False)
        matcher = llguidance.LLMatcher(native, form, log_level=0, limits=limits)
        if matcher.is_error():
            raise RequestError(f"the {_NAMES[output.kind]} is refused: {_first_line(matcher.get_error())}")
        return matcher

    def _native_tokenizer(self) -> "LLTokenizer":
        with self._lock:
            if self._native is None:
                try:
                    import llguidance
                except ImportError:
                    raise RequestError(
                        "structured output needs llguidance: pip install 'llama4rt[serve]'"
                    ) from None
                wrapped = _Wrapped(self._tokenizer, self._vocab_size, self._end_ids)
                self._vocabulary = Vocabulary(wrapped.tokens, self._end_ids)
                self._native = llguidance.LLTokenizer(
                    llguidance.TokenizerWrapper(wrapped), n_vocab=self._vocab_size, eos_token=self._end_ids
                )
            return self._native


_NAMES = {
    "json_schema": "JSON schema", "regex": "regular expression", "choice": "list of choices", "grammar": "grammar",
}  # fmt: skip


class _Wrapped:
    """Our tokenizer as llguidance asks for one."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end_ids[0]
        self.bos_token_id = None
        self.tokens = [tokenizer.token_bytes(i) for i in range(vocab_size)]
        self.special_token_ids = sorted(i for i in tokenizer.special_ids if i < vocab_size)

    def __call__(self, text: Any) -> list[int]:
        return self._tokenizer.encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))


def _first_line(error: object) -> str:
    """A grammar library's message, short and without the source that it repeats."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "it cannot be compiled"
    last = next((line for line in lines if line.startswith("error:")), "")
    return f"{text} {last}".strip()[:300]
