"""The one thread that calls the native Engine.step, and the way in and out of it.

Starts with the first request and waits without polling when there is no work. It knows nothing of text or of
asyncio: it hands each event to the request it belongs to. Holds no reference to llama4rt.Engine, so that
dropping the last reference to one stops its thread.
"""

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from llama4rt import _core
from llama4rt.engine.deferred_wakeups import together
from llama4rt.errors import Llama4RTError

_SECOND_FAILURE_SECONDS = 10.0
_END_POLL_SECONDS = 0.002


class Handler(Protocol):
    """What the thread needs of a request."""

    @property
    def finished(self) -> bool: ...
    def on_event(self, event: _core.Event, stop_sequence: Callable[[int, int], None]) -> None: ...
    def fail(self, error: BaseException) -> None: ...


class EngineThread:
    """Owns a native engine. Every method may be called from any thread."""

    def __init__(self, core: _core.Engine) -> None:
        self._core = core
        self._pid = os.getpid()
        self._wake = threading.Condition(threading.Lock())  # guards everything below
        self._handlers: dict[int, Handler] = {}
        self._thread: threading.Thread | None = None
        self._closing = False
        self._closed = False  # the native engine, too
        self._ended = False  # the thread's last act
        self._failure: BaseException | None = None  # steps failed twice in a row: the engine is given up
        self._last_failure_time = float("-inf")
        _living.add(self)

    def check_usable(self) -> None:
        """Raises Llama4RTError in a forked child, after close, and after the engine has failed for good."""
        if os.getpid() != self._pid:
            raise Llama4RTError(
                f"this Engine belongs to process {self._pid} and does not work after a fork: "
                "open it in the child, or start children with multiprocessing's 'spawn' method"
            )
        if self._closing:
            raise Llama4RTError("this Engine is closed")
        if self._failure is not None:
            raise Llama4RTError(f"this Engine has failed and must be opened anew: {self._failure}")

    def submit(self, request: _core.Request, handler: Handler) -> int:
        """Queues a request. Its handler is called in the engine thread from now on."""
        with self._wake:
            self.check_usable()
            request_id = self._core.submit(request)
            self._handlers[request_id] = handler
            if self._thread is None:
                # A daemon, because Python waits for other threads before atexit could stop them. It is
                # always joined: by close(), by the Engine's finalizer, or at exit.
                self._thread = threading.Thread(target=self._run, name="llama4rt-engine", daemon=True)
                self._thread.start()
            self._wake.notify()
        return request_id

    def abort(self, request_id: int) -> None:
        """The request ends with finish_reason "abort" in the next step. Unknown and finished ones are ignored."""
        if os.getpid() != self._pid:
            return
        with self._wake:
            if request_id in self._handlers and not self._closing:
                self._core.abort(request_id)
                self._wake.notify()

    def hold(self, request_id: int, held: bool) -> None:
        """Takes a request out of the steps, or back in. Unknown and finished ones are ignored."""
        if os.getpid() != self._pid:
            return
        with self._wake:
            if request_id in self._handlers and not self._closing:
                self._core.hold(request_id, held)
                self._wake.notify()

    def abandon(self, request_id: int) -> None:
        """Aborts a request whose reader is gone: nothing is delivered any more."""
        self.abort(request_id)
        if os.getpid() == self._pid:
            with self._wake:
                self._handlers.pop(request_id, None)

    def close(self) -> None:
        """Stops the thread after the step in progress and frees the engine. Requests still running fail."""
        if os.getpid() != self._pid:
            return  # the thread and the native threads exist only in the parent
        with self._wake:
            self._closing = True
            thread = self._thread
            self._wake.notify()
        if thread is None:
            self._release()
        elif thread is not threading.current_thread():
            self._wait_for_end()
            thread.join()

    def _wait_for_end(self) -> None:
        """Waits for the thread even through Ctrl-C, and raises that afterwards: were the interpreter to end while the
        thread is in native code, Python would kill it there, and C++ then aborts the process.

        Thread.join() alone cannot do that: an interrupted one takes the thread for ended (CPython before 3.13), and a
        Condition may be left in disorder.
        """
        interrupt = None
        while not self._ended:
            try:
                time.sleep(_END_POLL_SECONDS)
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _run(self) -> None:
        try:
            self._turn()
        finally:
            self._release()
            self._ended = True

    def _turn(self) -> None:
        while self._wait_for_work():
            try:
                events = self._core.step()
            except BaseException as error:
                if not self._survived(error):
                    return
            else:
                with together():
                    self._dispatch(events)

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not self._closing and not self._core.has_work():
                self._wake.wait()
            return not self._closing

    def _dispatch(self, events: list[_core.Event]) -> None:
        """Hands the events of a step to their requests. One that is abandoned meanwhile may still hear of this step."""
        with self._wake:  # submit() registers under the same lock, so a first event finds its handler
            handlers = [self._handlers.get(event.request_id) for event in events]
        ended = set()
        for event, handler in zip(events, handlers, strict=True):
            if handler is None or handler.finished:
                continue
            try:
                handler.on_event(event, self._stop_sequence)
            except BaseException as error:
                # A reader that is gone (a closed event loop), or our own mistake: end this request only.
                self._core.abort(event.request_id)
                _fail_quietly(handler, error)
                ended.add(event.request_id)
            else:
                if handler.finished:
                    ended.add(event.request_id)
        if ended:
            with self._wake:
                for request_id in ended:
                    self._handlers.pop(request_id, None)

    def _stop_sequence(self, request_id: int, index: int) -> None:
        self._core.abort_sequence(request_id, index, "stop")

    def _survived(self, error: BaseException) -> bool:
        """A failed step ends the requests that were in it; a second failure soon after ends the engine."""
        now = time.monotonic()
        with self._wake:
            again = now - self._last_failure_time < _SECOND_FAILURE_SECONDS
            self._last_failure_time = now
            if again:
                self._failure = error
            handlers = dict(self._handlers)
            self._handlers.clear()
        for request_id, handler in handlers.items():
            if not again:
                self._core.abort(request_id)
            _fail_quietly(handler, Llama4RTError(f"the engine failed: {error}"))
        return not again

    def _release(self) -> None:
        with self._wake:
            handlers = list(self._handlers.values())
            self._handlers.clear()
            closed, self._closed = self._closed, True
        if not closed:
            self._core.close()
        for handler in handlers:
            _fail_quietly(handler, Llama4RTError("the Engine was closed while the request was running"))

    def forget_after_fork(self) -> None:
        """In the child the thread does not exist, and the lock may have been held when the fork came."""
        self._wake = threading.Condition(threading.Lock())
        self._handlers = {}
        self._thread = None


def _fail_quietly(handler: Handler, error: BaseException) -> None:
    with contextlib.suppress(Exception):  # its event loop may be closed: nobody is left to hear it
        handler.fail(error)


_living: "weakref.WeakSet[EngineThread]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for thread in list(_living):
        thread.forget_after_fork()


@atexit.register
def _close_living() -> None:
    """For what an interrupt kept from closing: a finalizer runs only once, whether or not it came to its end."""
    for thread in list(_living):
        thread.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
