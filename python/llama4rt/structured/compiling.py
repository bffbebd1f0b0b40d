"""From StructuredOutput to a grammar of llguidance, in parent and child: the library's limits, tokenizer and words."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from llama4rt.errors import RequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer


def limits() -> "LLParserLimits":
    """Of one grammar and of one mask."""
    import llguidance

    return llguidance.LLParserLimits(
        max_items_in_row=8_000,  # 512 optional properties need 2055
        step_max_items=30_000,
        step_lexer_fuel=100_000,
        max_lexer_states=50_000,  # of each output, about 1 kB each
        verbose_errors=False,
    )


def matcher_of(native: "LLTokenizer", form: str, what: str) -> "LLMatcher":
    """form: StructuredOutput.compiled_form(). what: StructuredOutput.what. RequestError for a grammar that the library
    refuses.
    """
    import llguidance

    matcher = llguidance.LLMatcher(native, form, log_level=0, limits=limits())
    if matcher.is_error():
        raise refusal(what, matcher.get_error())
    return matcher


def refusal(what: str, error: object) -> RequestError:
    """A grammar library's message, short and without the source that it repeats. what: StructuredOutput.what."""
    if "NoExtension" in str(error):
        return RequestError(f"the {what} is refused: no text follows it to its end")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "it cannot be compiled"
    last = next((line for line in lines if line.startswith("error:")), "")
    return RequestError(f"the {what} is refused: {f'{text} {last}'.strip()[:300]}")


class TokenTable:
    """The tokens as llguidance asks for them."""

    def __init__(
        self, tokens: Sequence[bytes], special_ids: Sequence[int], end_ids: Sequence[int],
        encode: Callable[[str], "list[int]"],
    ) -> None:  # fmt: skip
        """encode: text to ids, as the model has learnt to write it."""
        self.tokens = list(tokens)
        self.special_token_ids = list(special_ids)
        self.end_ids = list(end_ids)
        self.eos_token_id = end_ids[0]
        self.bos_token_id = None
        self._encode = encode

    def __call__(self, text: Any) -> "list[int]":
        return self._encode(text if isinstance(text, str) else text.decode("utf-8", "replace"))

    def native(self) -> "LLTokenizer":
        try:
            import llguidance
        except ImportError:
            raise RequestError("structured output needs llguidance: pip install 'llama4rt[serve]'") from None
        wrapper = llguidance.TokenizerWrapper(self)
        return llguidance.LLTokenizer(wrapper, n_vocab=len(self.tokens), eos_token=self.end_ids)
