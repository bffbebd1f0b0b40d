"""Supervisor: the main thread of `llama4rt serve`. The event loop runs in another thread; this one takes the signals,
and sees to it that the process never stays alive and deaf.

- A signal begins the end, and from then on a clock runs that needs neither the event loop nor the engine: when it has
  run out, the process exits, whatever hangs.
- When the event loop's thread dies, or the engine has failed for good, the process ends with a message and status 1.
"""

import contextlib
import faulthandler
import logging
import os
import select
import signal
import socket
import threading
import time
from types import FrameType

from llama4rt.errors import Llama4RTError
from llama4rt.server.uvicorn_server import Server

log = logging.getLogger("llama4rt.server")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK_SECONDS = 0.5
# After drain_seconds: uvicorn's grace, closing the engine, the interpreter's own end. Less than the 5 s that are
# promised, as the processor may be busy.
_END_SECONDS = 4.5
# Given back before the end begins: a process that has run out of memory could not even say so.
_RESERVE_BYTES = 8 << 20


class Supervisor:
    """run() once, in the main thread of a program that exits soon afterwards: the clock does not stop."""

    def __init__(self, server: Server, drain_seconds: float) -> None:
        self._server = server
        self._drain_seconds = drain_seconds
        self._failure: BaseException | None = None
        self._signals: list[int] = []
        self._reserve: bytearray | None = bytearray(_RESERVE_BYTES)
        self._deadline: float | None = None
        self._armed = threading.Event()
        # Both are started before anything can go wrong: later there may be no memory for a thread's stack.
        self._clock = threading.Thread(target=self._watch_the_clock, name="llama4rt-clock", daemon=True)
        self._loop = threading.Thread(target=self._serve, name="llama4rt-loop", daemon=True)
        self._wake, self._woken = socket.socketpair()

    def run(self) -> None:
        """Serves until a signal. Llama4RTError when the server could not start, or could not go on."""
        _start(self._clock)
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        old_handlers = {sig: signal.signal(sig, self._on_signal) for sig in _SIGNALS}
        old_fd = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        try:
            _start(self._loop)
            trouble = self._watch()
        finally:
            signal.set_wakeup_fd(old_fd)
            for sig, handler in old_handlers.items():
                signal.signal(sig, signal.SIG_DFL if self._signals else handler)
        if isinstance(self._failure, Llama4RTError):
            raise self._failure
        if self._failure is not None:
            raise Llama4RTError(
                f"the server has failed: {type(self._failure).__name__}: {self._failure}"
            ) from self._failure
        if trouble is not None:
            raise Llama4RTError(f"the server has ended: {trouble}")

    def _serve(self) -> None:
        try:
            self._server.run()
        except BaseException as error:
            self._failure = error
        finally:
            with contextlib.suppress(OSError):
                self._wake.send(b"\0")

    def _watch(self) -> str | None:
        """Until the event loop has ended. Returns what was wrong, if something was."""
        trouble: str | None = None
        handled = 0
        while self._loop.is_alive():
            try:
                select.select([self._woken], [], [], _LOOK_SECONDS)
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(4096)
                while handled < len(self._signals):
                    self._begin_end(self._drain_seconds if handled == 0 else 0.0)
                    self._server.signalled(self._signals[handled])
                    handled += 1
                if trouble is None and not handled and (trouble := self._server.trouble()) is not None:
                    self._begin_end(0.0)
                    log.error("the server ends: %s", trouble)
                    self._server.signalled(signal.SIGTERM)
                    self._server.signalled(signal.SIGTERM)  # nobody's request can end well
            except MemoryError:
                time.sleep(0.05)
        if not self._signals and trouble is None and self._failure is None and self._server.started:
            trouble = "its event loop stopped"
        if self._deadline is None:
            self._begin_end(0.0)
        return trouble

    def _on_signal(self, sig: int, frame: FrameType | None) -> None:
        self._signals.append(sig)

    def _begin_end(self, seconds: float) -> None:
        self._reserve = None
        deadline = time.monotonic() + seconds + _END_SECONDS
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        self._armed.set()

    def _watch_the_clock(self) -> None:
        self._armed.wait()
        while self._deadline is None or time.monotonic() < self._deadline:
            with contextlib.suppress(MemoryError):
                time.sleep(0.05)
        with contextlib.suppress(Exception):
            _say_what_hangs()
        os._exit(1)


def _say_what_hangs() -> None:
    """To the file descriptor: another thread may hold the lock of sys.stderr, or wait for its reader."""
    if not os.isatty(2):
        os.set_blocking(2, False)
    os.write(2, b"error: the server did not end in time; the process exits. What it was doing:\n")
    faulthandler.dump_traceback(file=2, all_threads=True)


def _start(thread: threading.Thread) -> None:
    """Llama4RTError, with words, where Python says "can't start new thread"."""
    try:
        thread.start()
    except RuntimeError as error:
        raise Llama4RTError(
            f"the thread {thread.name} cannot be started ({error}): the system's or the user's limit of threads or of "
            "memory is reached"
        ) from None
