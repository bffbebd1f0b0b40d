"""Guide: walks one output through its grammar, and keeps the sampler's mask up to date."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llama4rt import _core
from llama4rt.engine.deferred_wakeups import wake
from llama4rt.errors import RequestError
from llama4rt.structured.closing import Closing
from llama4rt.structured.grammar_guesses import GrammarGuesses
from llama4rt.structured.mask_budget import CpuTimer, MaskBudget, MasksTooSlow

if TYPE_CHECKING:
    from llguidance import LLMatcher


class MaskThreads:
    """Threads that compute masks. What a step of the engine asks for goes to them together, in a share for each.

    Daemons: the end of the program does not wait for a mask. Started with the first one.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._shares: queue.SimpleQueue[list[_Asked] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._asked: list[_Asked] = []  # since the last start; only the engine thread adds

    def close(self) -> None:
        """Ends the threads after what they have been asked for: the sampler may wait for it."""
        self._closed = True
        for _ in self._threads:
            self._shares.put(None)

    def advance(self, guide: "Guide", token_ids: Sequence[int]) -> None:
        self._asked.append((guide, token_ids))
        if len(self._asked) == 1:
            wake(self._start)

    def _start(self) -> None:
        asked, self._asked = self._asked, []
        try:
            self._start_threads(min(self._count, len(asked)))
        except RuntimeError as error:  # the system gives no more
            if not self._threads:
                self._fail(asked, f"no thread for masks: {error}")
                return
        if self._closed:
            self._fail(asked, "the engine was closed")
            return
        for i in range(min(self._count, len(asked))):
            self._shares.put(asked[i :: self._count])

    def _start_threads(self, count: int) -> None:
        while len(self._threads) < count and not self._closed:
            name = f"llama4rt-masks-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _work(self) -> None:
        while (share := self._shares.get()) is not None:
            _advance_all(share)

    @staticmethod
    def _fail(asked: "list[_Asked]", why: str) -> None:
        for guide, _ in asked:
            guide.mask.fail(why)


def _advance_all(share: "list[_Asked]") -> None:
    for guide, token_ids in share:
        guide.step(token_ids)


class Guide:
    """One output's. begin() before the request is submitted; then advance() with each token, from the engine thread.

    The mask is computed in other threads while the model runs; the sampler waits for it.
    """

    def __init__(
        self,
        matcher: "LLMatcher",
        vocab_size: int,
        threads: MaskThreads,
        closing: Closing | None,
        too_slow: Callable[[], MasksTooSlow],
        guesses: GrammarGuesses | None = None,
    ) -> None:
        """too_slow: told when the masks cost too much; makes the error that then ends the output. guesses: where the
        engine speculates.
        """
        self.mask = _core.TokenMask(vocab_size)
        self.failure: RequestError | None = None  # why the output ended, where its grammar is at fault
        self._matcher = matcher
        self._threads = threads
        self._closing = closing
        self._too_slow = too_slow
        self._guesses = guesses
        self.mask.will_offer(guesses is not None)
        self._budget = MaskBudget()
        self._lock = threading.Lock()  # tokens come one after another; the pool's threads are several

    def begin(self) -> None:
        """Computes the first mask, here."""
        self._compute()
        self._publish()

    def advance(self, token_ids: Sequence[int]) -> None:
        """Says which tokens were chosen. Returns at once."""
        self._threads.advance(self, token_ids)

    def step(self, token_ids: Sequence[int]) -> None:
        """What advance() has done elsewhere. Never raises: an error ends the output."""
        try:
            with self._lock:
                timer = CpuTimer()
                for token_id in token_ids:
                    if not self._matcher.consume_token(token_id):
                        self._stop(self._error())
                        return
                    if self._closing is not None:
                        self._closing.spend()
                self._compute()
                self._budget.spend(timer.seconds, len(token_ids))
                if self._budget.spent:
                    self._stop(self._too_slow())
                else:
                    self._publish()
                    if self._guesses is not None:
                        self._guesses.offer(self._matcher, self.mask, token_ids)
        except BaseException as error:  # the sampler must not wait for nothing
            self.mask.fail(f"the grammar failed: {type(error).__name__}: {error}"[:300])

    def _compute(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self.mask.address, self.mask.num_bytes)
        if self._closing is not None:
            self._closing.restrict(self._matcher, self.mask)

    def _publish(self) -> None:
        if self._matcher.is_error():
            self._stop(self._error())
        else:
            self.mask.publish()

    def _error(self) -> RequestError:
        return RequestError(f"the grammar stopped: {self._matcher.get_error().splitlines()[0]:.200}")

    def _stop(self, failure: RequestError) -> None:
        self.failure = failure
        self.mask.fail(str(failure))


_Asked = tuple[Guide, Sequence[int]]
GuideMaker = Callable[[int], "list[Guide]"]
