"""Compiler: grammars for one engine's tokenizer, tried in a child, compiled once, walked by many outputs."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from llama4rt.errors import Llama4RTError, RequestError
from llama4rt.structured.closing import Closing, Vocabulary
from llama4rt.structured.compiling import TokenTable, matcher_of
from llama4rt.structured.grammar_guesses import GrammarGuesses
from llama4rt.structured.guide import Guide, MaskThreads
from llama4rt.structured.mask_budget import MasksTooSlow
from llama4rt.structured.structured_output import StructuredOutput
from llama4rt.structured.trials import MAX_COMPILE_BYTES, Trials
from llama4rt.text.tokenizer import Tokenizer
from llama4rt.workers.child_pool import ChildrenBusy
from llama4rt.workers.child_process import ChildAbandoned, ChildLimit
from llama4rt.workers.client import current_client

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_MAX_KEPT = 128
_MAX_KEPT_BYTES = 256 << 20
_MAX_REFUSALS = 4096
_MASK_THREADS = 4  # they release the GIL
_POLL_SECONDS = 0.05


class Compiler:
    """Safe to use from many threads. Loads nothing before the first grammar comes."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._end_ids = list(end_ids)
        self._loading = threading.Lock()
        self._loaded: _Loaded | None = None
        self._lock = threading.Lock()  # guards what follows
        self._closed = False
        self._kept: OrderedDict[StructuredOutput, _Kept] = OrderedDict()
        self._refusals: OrderedDict[bytes, str] = OrderedDict()  # _digest -> why
        self._flights: dict[
            tuple[str, StructuredOutput], threading.Event
        ] = {}  # being compiled, for a client
        self._masks = MaskThreads(_MASK_THREADS)

    def warm(self) -> None:
        """Loads what the first grammar needs, and starts a child. RequestError without llguidance."""
        self._load().trials.start()

    def close(self) -> None:
        """Ends children and threads. Whoever waits for a grammar gets a RequestError."""
        self._masks.close()
        with self._lock:
            self._closed = True
        if self._loaded is not None:
            self._loaded.trials.close()

    def guides(
        self, output: StructuredOutput, count: int, budget: int, *, seen: Sequence[int] | None = None
    ) -> list[Guide]:
        """Guides for `count` outputs of at most `budget` tokens each. RequestError for a grammar that is refused.

        seen: where the engine speculates, the tokens that an output may repeat: those of the prompt.
        """
        kept = self._compiled(output)
        guides = []
        for _ in range(count):
            closing = None
            if output.complete:
                closing = Closing(self._load().vocabulary, output.source, budget, output.reserve)
                if kept.shortest is None:
                    kept.shortest = closing.shortest(kept.matcher)
                closing.begin(kept.shortest)
            too_slow = partial(self._too_slow, output)
            # What leads an output to its end in time looks at one mask after the other.
            guesses = None if seen is None or closing is not None else GrammarGuesses(seen, self._end_ids)
            guide = Guide(kept.matcher.deep_copy(), self._vocab_size, self._masks, closing, too_slow, guesses)
            guide.begin()
            guides.append(guide)
        return guides

    def _compiled(self, output: StructuredOutput) -> "_Kept":
        """From what is kept; else from a trial, which equal outputs of one client share."""
        client = current_client()
        flight_of = (client.name, output)
        while True:
            with self._lock:
                if (kept := self._known(output)) is not None:
                    return kept
                flight = self._flights.get(flight_of)
                mine = flight is None
                if flight is None:
                    flight = self._flights[flight_of] = threading.Event()
            if mine:
                try:
                    return self._tried(output)
                finally:
                    with self._lock:
                        del self._flights[flight_of]
                    flight.set()
            while not flight.wait(_POLL_SECONDS):
                if client.gone.is_set():
                    raise ChildAbandoned("nobody waits for this grammar any more")

    def _known(self, output: StructuredOutput) -> "_Kept | None":
        """Raises what is known to be refused. Under the lock."""
        if self._closed:
            raise Llama4RTError("the engine is closed")
        why = self._refusals.get(_digest(output))
        if why is not None:
            raise RequestError(why)
        kept = self._kept.get(output)
        if kept is not None:
            self._kept.move_to_end(output)
        return kept

    def _tried(self, output: StructuredOutput) -> "_Kept":
        loaded = self._load()
        try:
            passed = loaded.trials.passed(output)
            matcher = matcher_of(loaded.native, passed.form, output.what)
        except (ChildrenBusy, ChildAbandoned):
            raise
        except ChildLimit as error:
            why = str(error)
            if error.reason == "crash":  # of the stack, as a rule
                why = f"it is nested too deeply, or takes more than {MAX_COMPILE_BYTES >> 20} MiB to compile"
            refused = RequestError(f"the {output.what} is refused: {why}")
            if error.reason != "deadline":  # which says something of the machine, not of the grammar
                self._refuse(output, str(refused))
            raise refused from None
        except RequestError as error:
            if not self._closed:
                self._refuse(output, str(error))
            raise
        kept = _Kept(matcher, passed.bytes)
        with self._lock:
            self._kept[output] = kept
            while len(self._kept) > _MAX_KEPT or (
                len(self._kept) > 1 and sum(each.bytes for each in self._kept.values()) > _MAX_KEPT_BYTES
            ):
                self._kept.popitem(last=False)
        return kept

    def _refuse(self, output: StructuredOutput, why: str) -> None:
        with self._lock:
            self._kept.pop(output, None)
            self._refusals[_digest(output)] = why
            while len(self._refusals) > _MAX_REFUSALS:
                self._refusals.popitem(last=False)

    def _too_slow(self, output: StructuredOutput) -> MasksTooSlow:
        error = MasksTooSlow(output.what)
        self._refuse(output, str(error))
        return error

    def _load(self) -> "_Loaded":
        with self._loading:
            if self._loaded is None:
                tokenizer = self._tokenizer
                special_ids = sorted(i for i in tokenizer.special_ids if i < self._vocab_size)
                tokens = [tokenizer.token_bytes(i) for i in range(self._vocab_size)]
                table = TokenTable(tokens, special_ids, self._end_ids, tokenizer.encode)
                self._loaded = _Loaded(table.native(), Vocabulary(tokens, self._end_ids), Trials(table))
            return self._loaded


@dataclass(frozen=True)
class _Loaded:
    """What is made of the tokenizer."""

    native: "LLTokenizer"
    vocabulary: Vocabulary
    trials: Trials


@dataclass
class _Kept:
    """bytes: about what it takes, with one output. shortest: tokens of the shortest output, once it was asked for."""

    matcher: "LLMatcher"
    bytes: int
    shortest: int | None = None


def _digest(output: StructuredOutput) -> bytes:
    """Refusals are many and their sources long."""
    return hashlib.sha256(repr(output).encode("utf-8", "surrogatepass")).digest()
