"""The one thread that calls the native Engine.step, and the way in and out of it.

Starts with the first request and waits without polling when there is no work. It knows nothing of text or of
asyncio: it hands each event to the request it belongs to. Holds no reference to llama4rt.Engine, so that
dropping the last reference to one stops its thread.

Whatever happens to the thread, nobody waits for ever. Memory may run out at any line of it, so its life is told by
an object that only the running thread holds, not by a flag that it would have to set; and what it could not tell its
requests any more, reap() tells them, which readers call while they wait.
"""

import _thread
import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from llama4rt import _core
from llama4rt.engine.deferred_wakeups import together
from llama4rt.errors import DeviceLostError, Llama4RTError

log = logging.getLogger("llama4rt.kv_store")

THREAD_NAME = "llama4rt-engine"  # as top and gdb show it
_SECOND_FAILURE_SECONDS = 10.0
_END_POLL_SECONDS = 0.002


class Handler(Protocol):
    """What the thread needs of a request."""

    @property
    def finished(self) -> bool:
        """Its reader has been told of its end."""

    def on_event(self, event: _core.Event, stop_sequence: Callable[[int, int], None]) -> None: ...
    def fail(self, error: BaseException) -> None: ...


class EngineThread:
    """Owns a native engine. Every method may be called from any thread."""

    def __init__(self, core: _core.Engine, has_store: bool = False) -> None:
        self._core = core
        self._has_store = has_store
        self._pid = os.getpid()
        # Guards what follows. Not a Condition: to leave one needs memory, and there may be none.
        self._lock = threading.Lock()
        self._handlers: dict[int, Handler] = {}
        self._untold: dict[int, Handler] = {}  # of those, the ones that have ended and could not be told
        self._life: weakref.ref[Any] | None = None  # of what the thread runs; dead as soon as it has ended
        self._ident = 0  # of the thread, while it runs
        self._closing = False
        self._released = False  # the native engine, too
        self._failure: str | None = None  # why the engine is given up
        self._last_failure_time = float("-inf")
        # Locked while there is nothing new to look at; to unlock it wakes the thread.
        self._bell = threading.Lock()
        self._bell.acquire()
        _living.add(self)

    def check_usable(self) -> None:
        """Raises Llama4RTError in a forked child, after close, and after the engine has failed for good: memory ran
        out in a step, two steps in a row failed, or the thread ended.
        """
        self.reap()
        self._check()

    def submit(self, request: _core.Request, handler: Handler) -> int:
        """Queues a request. Its handler is called in the engine thread from now on."""
        self.reap()
        request_id = None
        try:
            with self._lock:  # _dispatch() takes it, so a first event finds its handler
                self._check()
                if self._life is None:
                    self._start()
                request_id = self._core.submit(request)
                self._handlers[request_id] = handler
            self._ring()
        except BaseException:  # Ctrl-C too
            if request_id is not None:
                self.abandon(request_id)
            raise
        return request_id

    def abort(self, request_id: int) -> None:
        """The request ends with finish_reason "abort" in the next step. Unknown and finished ones are ignored."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            known = request_id in self._handlers and not self._closing
            if known:
                self._core.abort(request_id)
        if known:
            self._ring()

    def hold(self, request_id: int, held: bool) -> None:
        """Takes a request out of the steps, or back in. Unknown and finished ones are ignored."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            known = request_id in self._handlers and not self._closing
            if known:
                self._core.hold(request_id, held)
        if known:
            self._ring()

    def abandon(self, request_id: int) -> None:
        """Aborts a request whose reader is gone: nothing is delivered any more."""
        self.abort(request_id)
        if os.getpid() == self._pid:
            with self._lock:
                self._handlers.pop(request_id, None)
                self._untold.pop(request_id, None)

    def reap(self) -> None:
        """Tells requests of their end where the thread could not: it has died, or had no memory for the message.

        Readers call it from time to time while they wait. It does nothing, and quickly, when all is well.
        """
        if os.getpid() != self._pid:
            return
        if self._life is not None and not self._runs() and not self._released:
            with self._lock:
                if self._failure is None and not self._closing:
                    self._failure = "its thread has ended"
            self._release()
        if self._untold:
            with self._lock:
                untold = dict(self._untold)
            for request_id, handler in untold.items():
                self._tell(request_id, handler, Llama4RTError(self._last_words()))

    def close(self) -> None:
        """Stops the thread after the step in progress and frees the engine. Requests still running fail."""
        if os.getpid() != self._pid:
            return  # the thread and the native threads exist only in the parent
        with self._lock:
            self._closing = True
        self._ring()
        if self._runs() and self._ident == _thread.get_ident():
            return  # called by a handler: the thread ends after this step
        try:
            self._wait_for_end()
        finally:
            if not self._runs():
                self._release()

    def forget_after_fork(self) -> None:
        """In the child the thread does not exist, and the lock may have been held when the fork came."""
        self._lock = threading.Lock()
        self._handlers, self._untold = {}, {}
        self._life = None

    # --- the thread -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Called under the lock. A daemon, as all threads of _thread are, because Python waits for others before
        atexit could stop them.

        Not threading.Thread: its start() waits until the new thread says that it runs, for ever where there is no
        memory left to say so.
        """
        runs = partial(self._run)
        self._life = weakref.ref(runs)
        problem: Exception | None = None
        try:
            _thread.start_new_thread(runs, ())
        except (RuntimeError, MemoryError) as error:
            self._life = None
            problem = error
        finally:
            del runs  # from here on the thread alone holds it: tracebacks would, too
        if problem is not None:
            raise Llama4RTError(
                f"the engine's thread cannot be started: {_words(problem)}; the system's or the user's limit of "
                "threads or of memory is reached, and a later request tries again"
            )

    def _runs(self) -> bool:
        return self._life is not None and self._life() is not None

    def _ring(self) -> None:
        if self._bell.locked():
            with contextlib.suppress(RuntimeError):  # somebody else unlocked it just now
                self._bell.release()

    def _wait_for_end(self) -> None:
        """Waits for the thread even through Ctrl-C, and raises that afterwards."""
        interrupt: BaseException | None = None
        while True:
            try:
                while self._runs():
                    time.sleep(_END_POLL_SECONDS)
                break
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def _run(self) -> None:
        try:
            self._ident = _thread.get_ident()
            _core.name_thread(THREAD_NAME)
            self._turn()
        except BaseException as error:
            # Not a failed step, which _turn() knows what to do about: memory that ran out between two of them, a bug.
            self._failure = self._failure or _words(error)
        # Should this fail, too, reap() and close() repeat it.
        with contextlib.suppress(BaseException):
            self._release()

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
            self._log_notes()

    def _log_notes(self) -> None:
        """What the store of keys and values has to say: damaged blocks, a full disk."""
        if not self._has_store:
            return
        with contextlib.suppress(Exception):  # no memory, a handler that fails: no reason to end the thread
            for note in self._core.take_store_notes():
                log.warning("%s", note)

    def _wait_for_work(self) -> bool:
        while not self._closing:
            if self._core.has_work():
                return True
            self._bell.acquire()
        return False

    def _dispatch(self, events: list[_core.Event]) -> None:
        """Hands the events of a step to their requests. One that is abandoned meanwhile may still hear of this step."""
        with self._lock:  # submit() registers under the same lock, so a first event finds its handler
            handlers = [self._handlers.get(event.request_id) for event in events]
        ended: set[int] = set()
        for event, handler in zip(events, handlers, strict=True):
            if handler is None or handler.finished:
                continue
            try:
                handler.on_event(event, self._stop_sequence)
            except BaseException as error:
                # A reader that is gone (a closed event loop), a library that panicked, no memory, or our own
                # mistake: end this request only.
                self._core.abort(event.request_id)
                self._tell(event.request_id, handler, _typed(error))
            else:
                if handler.finished:
                    ended.add(event.request_id)
        if ended:
            with self._lock:
                for request_id in ended:
                    self._handlers.pop(request_id, None)

    def _stop_sequence(self, request_id: int, index: int) -> None:
        self._core.abort_sequence(request_id, index, "stop")

    def _survived(self, error: BaseException) -> bool:
        """A failed step ends the requests that were in it; a second failure soon after ends the engine, and so does
        one for lack of memory, which leaves the step half done, or the loss of the device.
        """
        now = time.monotonic()
        with self._lock:
            lasting = isinstance(error, MemoryError | DeviceLostError)
            fatal = lasting or now - self._last_failure_time < _SECOND_FAILURE_SECONDS
            self._last_failure_time = now
            if fatal:
                self._failure = _words(error)
            handlers = dict(self._handlers)
        for request_id, handler in handlers.items():
            if not fatal:
                self._core.abort(request_id)
            kind = DeviceLostError if isinstance(error, DeviceLostError) else Llama4RTError
            self._tell(request_id, handler, kind(f"the engine failed: {_words(error)}"))
        return not fatal

    # --- ends -----------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise Llama4RTError(
                f"this Engine belongs to process {self._pid} and does not work after a fork: "
                "open it in the child, or start children with multiprocessing's 'spawn' method"
            )
        if self._closing:
            raise Llama4RTError("this Engine is closed")
        if self._failure is not None:
            raise Llama4RTError(f"this Engine has failed and must be opened anew: {self._failure}")

    def _release(self) -> None:
        with self._lock:
            handlers = dict(self._handlers)
            released, self._released = self._released, True
        try:
            if not released:
                self._core.close()
                self._log_notes()
        finally:
            for request_id, handler in handlers.items():
                self._tell(request_id, handler, Llama4RTError(self._last_words()))

    def _last_words(self) -> str:
        if self._failure is not None:
            return f"the engine failed: {self._failure}"
        if self._closing:
            return "the Engine was closed while the request was running"
        return "the request has ended; there was no memory to say why"

    def _tell(self, request_id: int, handler: Handler, error: BaseException) -> None:
        """Ends a request by an error. Where memory is short it is kept for reap()."""
        try:
            handler.fail(error)
        except MemoryError:
            self._untold[request_id] = handler
            return
        except Exception:  # its event loop may be closed: nobody is left to hear it
            pass
        with self._lock:
            self._handlers.pop(request_id, None)
            self._untold.pop(request_id, None)


def _words(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "out of memory"
    return str(error) or type(error).__name__


def _typed(error: BaseException) -> Llama4RTError:
    """Readers catch Llama4RTError. A native library's panic is not even an Exception."""
    if isinstance(error, Llama4RTError):
        return error
    typed = Llama4RTError(f"the request failed: {type(error).__name__}: {error}")
    typed.__cause__ = error
    return typed


_living: "weakref.WeakSet[EngineThread]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for thread in list(_living):
        thread.forget_after_fork()


@atexit.register
def _close_living() -> None:
    """For what an interrupt kept from closing: a finalizer runs only once, whether or not it came to its end.

    An interrupt may end this early, too. Then _core's own handler, which runs after this one and which no interrupt
    reaches, sees to it that no thread is in native code when the interpreter ends (csrc/bindings/gil.h).
    """
    for thread in list(_living):
        thread.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
