"""Guide: walks one output through its grammar, and keeps the sampler's mask up to date."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from llama4rt import _core
from llama4rt.structured.closing import Closing

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Guide:
    """One output's. begin() before the request is submitted; then advance() with each token, from the engine thread.

    The mask is computed in the pool's threads while the model runs; the sampler waits for it.
    """

    def __init__(
        self, matcher: "LLMatcher", vocab_size: int, pool: ThreadPoolExecutor, closing: Closing | None
    ) -> None:
        self.mask = _core.TokenMask(vocab_size)
        self._matcher = matcher
        self._pool = pool
        self._closing = closing
        self._lock = threading.Lock()  # tokens come one after another; the pool's threads are several

    def begin(self) -> None:
        """Computes the first mask, here."""
        self._publish()

    def advance(self, token_id: int) -> None:
        """Says which token was chosen. Returns at once."""
        self._pool.submit(self._step, token_id)

    def _step(self, token_id: int) -> None:
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
            raise

    def _publish(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self.mask.address, self.mask.num_bytes)
        if self._closing is not None:
            self._closing.restrict(self._matcher, self.mask)
        if self._matcher.is_error():
            self.mask.fail(f"the grammar stopped: {self._matcher.get_error()[:200]}")
        else:
            self.mask.publish()


GuideMaker = Callable[[int], "list[Guide]"]
