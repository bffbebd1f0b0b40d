"""Guide: walks one output through its grammar, and keeps the sampler's mask up to date."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from llama4rt import _core
from llama4rt.engine.deferred_wakeups import wake
from llama4rt.structured.closing import Closing

if TYPE_CHECKING:
    from llguidance import LLMatcher


class MaskThreads:
    """Threads that compute masks. What a step of the engine asks for goes to them together, in a share for each."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, "llama4rt-masks")
        self._asked: list[tuple[Guide, int]] = []  # since the last start; only the engine thread adds

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=False)  # the sampler may wait for one

    def advance(self, guide: "Guide", token_id: int) -> None:
        self._asked.append((guide, token_id))
        if len(self._asked) == 1:
            wake(self._start)

    def _start(self) -> None:
        asked, self._asked = self._asked, []
        for i in range(min(self._count, len(asked))):
            share = asked[i :: self._count]
            try:
                self._pool.submit(_advance_all, share)
            except RuntimeError:  # closed
                for guide, _ in share:
                    guide.mask.fail("the engine was closed")


def _advance_all(share: "list[tuple[Guide, int]]") -> None:
    for guide, token_id in share:
        guide.step(token_id)


class Guide:
    """One output's. begin() before the request is submitted; then advance() with each token, from the engine thread.

    The mask is computed in other threads while the model runs; the sampler waits for it.
    """

    def __init__(
        self, matcher: "LLMatcher", vocab_size: int, threads: MaskThreads, closing: Closing | None
    ) -> None:
        self.mask = _core.TokenMask(vocab_size)
        self._matcher = matcher
        self._threads = threads
        self._closing = closing
        self._lock = threading.Lock()  # tokens come one after another; the pool's threads are several

    def begin(self) -> None:
        """Computes the first mask, here."""
        self._publish()

    def advance(self, token_id: int) -> None:
        """Says which token was chosen. Returns at once."""
        self._threads.advance(self, token_id)

    def step(self, token_id: int) -> None:
        """What advance() has done elsewhere. Never raises: an error ends the output."""
        try:
            with self._lock:
                if not self._matcher.consume_token(token_id):
                    self.mask.fail(f"the grammar stopped: {self._matcher.get_error()[:200]}")
                    return
                if self._closing is not None:
                    self._closing.spend()
                self._publish()
        except BaseException as error:  # the sampler must not wait for nothing
            self.mask.fail(f"the grammar failed: {type(error).__name__}: {error}"[:300])

    def _publish(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self.mask.address, self.mask.num_bytes)
        if self._closing is not None:
            self._closing.restrict(self._matcher, self.mask)
        if self._matcher.is_error():
            self.mask.fail(f"the grammar stopped: {self._matcher.get_error()[:200]}")
        else:
            self.mask.publish()


GuideMaker = Callable[[int], "list[Guide]"]
