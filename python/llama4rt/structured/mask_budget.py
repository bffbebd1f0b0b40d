"""MaskBudget: how much processor time the masks of one output may take. All outputs of a step wait for the slowest."""

import time

from llama4rt.errors import RequestError

BURST_SECONDS = 0.25  # once: a lexer builds most of its states in the first masks
SECONDS_PER_TOKEN = 0.01  # on average beyond that; masks of ordinary schemas take 0.0001


class CpuTimer:
    """Processor time of this thread since it was made: it does not depend on what else the machine does."""

    def __init__(self) -> None:
        self._started = time.thread_time()

    @property
    def seconds(self) -> float:
        return time.thread_time() - self._started


class MaskBudget:
    """One output's."""

    def __init__(self) -> None:
        self._left = BURST_SECONDS

    def spend(self, seconds: float, tokens: int = 1) -> None:
        """What so many tokens took."""
        self._left = min(self._left + tokens * SECONDS_PER_TOKEN - seconds, BURST_SECONDS)

    @property
    def spent(self) -> bool:
        return self._left < 0


class MasksTooSlow(RequestError):
    """A grammar that would hold up the outputs of others."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the {what} is refused: to find which tokens may come takes more than {BURST_SECONDS:g} s and "
            f"{SECONDS_PER_TOKEN * 1000:g} ms for each token"
        )
