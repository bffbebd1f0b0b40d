"""Each message in a fork of a child that is ready: what runs over a limit is killed and nothing has to start anew.

For children whose start takes longer than their work (a tokenizer of 200,000 tokens). The fork's limits end it; the
child between waits, says how it ended, and keeps nothing of what it did. Used by child_main.py, in the child.
"""

import contextlib
import gc
import math
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

_READ_BYTES = 1 << 20


class ForkedAnswers:
    """Single-threaded. SIGUSR1 ends the fork at work: nobody waits for its answer any more."""

    def __init__(self, answered: Callable[[bytes], bytes], limits: "dict[str, Any]") -> None:
        """answered: message to answer, run in the fork. limits: the fields of ChildLimits."""
        self._answered = answered
        self._limits = limits
        self._fork = 0
        self._cancelled = False
        signal.signal(signal.SIGUSR1, self._cancel)
        gc.freeze()  # a collection in a fork would copy every page

    def answer(self, message: bytes) -> bytes:
        """As child_main's: what follows the first byte depends on it."""
        source, sink = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._work(message, sink)
        self._fork = pid
        os.close(sink)
        if self._cancelled:  # while it was made
            self._cancel(0, None)
        parts = []
        while part := os.read(source, _READ_BYTES):
            parts.append(part)
        os.close(source)
        _, status = os.waitpid(pid, 0)
        self._fork = 0
        self._cancelled = False
        answer = b"".join(parts)
        if os.WIFEXITED(status):
            return answer or b"m"  # not even the words of a MemoryError had room
        how = os.WTERMSIG(status)
        if how in (signal.SIGPROF, signal.SIGXCPU):
            return b"t"
        if how == signal.SIGALRM:
            return b"w"
        return b"a" if how == signal.SIGUSR1 else b"c"

    def _cancel(self, number: int, frame: object) -> None:
        self._cancelled = True
        if self._fork:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._fork, signal.SIGUSR1)

    def _work(self, message: bytes, sink: int) -> None:
        """In the fork; does not return."""
        try:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            os.nice(self._limits["nice"])
            memory = mapped_bytes() + self._limits["memory"]
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            whole = math.ceil(self._limits["cpu_seconds"]) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (whole, whole))
            # Their default action ends the process, in native code too.
            signal.setitimer(signal.ITIMER_PROF, self._limits["cpu_seconds"])
            signal.setitimer(signal.ITIMER_REAL, self._limits["seconds"])
            answer = memoryview(self._answered(message))
            while answer:
                answer = answer[os.write(sink, answer) :]
        finally:
            os._exit(0)


def mapped_bytes() -> int:
    """Address space of this process."""
    return _pages(0) * resource.getpagesize()


def resident_bytes() -> int:
    """Memory of this process, without what it maps from files."""
    return (_pages(1) - _pages(2)) * resource.getpagesize()


def _pages(column: int) -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[column])
