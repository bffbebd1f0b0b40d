"""Wake-ups that wait for the end of a step.

To wake another thread is a system call, and the woken one then fights the waking one for the interpreter. Done for
each token, it would cost more than everything else a token needs in Python; so a step's tokens are handed out first.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

_this_thread = threading.local()


def wake(call: Callable[[], object]) -> None:
    """Calls `call`: now, or at the end of the together() block that this thread is in."""
    held: list[Callable[[], object]] | None = getattr(_this_thread, "held", None)
    if held is None:
        call()
    else:
        held.append(call)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Calls given to wake() by this thread inside the block happen at its end."""
    held: list[Callable[[], object]] = []
    _this_thread.held = held
    try:
        yield
    finally:
        _this_thread.held = None
        for call in held:
            with contextlib.suppress(Exception):  # a loop that cannot be woken keeps no other asleep
                call()
