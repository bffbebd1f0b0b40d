"""ChildProcess: one killable child that answers messages, the parent's side. child_main.py is the child's.

A library that reads untrusted input (a grammar, a picture, a template) can loop, ask for gigabytes, or crash. In a
child those end in an error of one request: the kernel limits its memory and processor time, and the parent kills it
when the deadline passes or when nobody waits for the answer any more.
"""

import contextlib
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
import weakref
from dataclasses import asdict, dataclass
from typing import Any

from llama4rt.errors import Llama4RTError, RequestError
from llama4rt.workers.client import Client, current_client

START_SECONDS = 60.0  # a cold interpreter on a busy machine
_POLL_SECONDS = 0.05  # between two looks at whether the client has gone
_FORK_SECONDS = 5.0  # beyond its own deadline, until the child is taken for dead
_READ_BYTES = 1 << 20
_LENGTH = struct.Struct("<Q")

# -I keeps the working directory and PYTHON* variables out; the parent's own search path comes as an argument.
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from importlib import import_module; from llama4rt.workers.child_main import serve; "
    "serve(import_module(sys.argv[2]), json.loads(sys.argv[3]))"
)


class ChildFailed(Llama4RTError):
    """The child could not start, or answered with a failure of its own code: our fault, not the request's."""


class ChildLimit(RequestError):
    """The work ran over a limit of its process. reason: "time" (of the processor; without forks also the
    deadline), "deadline", "memory" or "crash"."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ChildAbandoned(RequestError):
    """The client left while its work was being done; the child was killed."""


@dataclass(frozen=True)
class ChildLimits:
    """Of one message. seconds: until the answer. cpu_seconds: of processor time; it also ends a child whose parent is
    gone. memory: bytes beyond what the child has mapped when it is ready.

    fork: each message is answered in a fork of the child, which keeps nothing of it and need not start anew when the
    fork was killed. Then cpu_seconds is exact; otherwise it is rounded up to whole seconds.
    """

    seconds: float
    cpu_seconds: float
    memory: int
    fork: bool = False
    nice: int = 0  # of forks: above 0, what else runs on the machine goes first


class ChildProcess:
    """Used by one thread at a time. Starts with the first call, and anew after a child was killed or died."""

    def __init__(self, module: str, limits: ChildLimits, what: str, setup: bytes = b"") -> None:
        """module: imported in the child, which calls its functions `begin(setup)` once, and `answer(message)` for
        each call. what: how errors name the work ("the picture").
        """
        self._module = module
        self._limits = limits
        self._what = what
        self._setup = setup
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0  # of the process that started the child: after a fork it is not ours
        self._finalizer: Any = None

    @property
    def pid(self) -> int | None:
        """Of the child, for tests and metrics; None when there is none."""
        return None if self._process is None else self._process.pid

    def call(self, message: bytes, client: Client | None = None) -> bytes:
        """The child's answer.

        RequestError: the child refused the input. ChildLimit: it ran over a limit, or died. ChildAbandoned: the client
        (None: of this context) has gone. ChildFailed: it cannot be started, or its code failed.
        """
        client = client or current_client()
        self.start()
        seconds = self._limits.seconds + (_FORK_SECONDS if self._limits.fork else 0)
        try:
            answer = self._exchange(message, seconds, client)
            # Meant for the message before, whose fork had just ended.
            if answer[:1] == b"a" and not client.gone.is_set():
                answer = self._exchange(message, seconds, client)
        except BaseException as error:  # Ctrl-C too: a child in the middle of something is of no more use
            code = self._kill()
            if isinstance(error, TimeoutError):
                raise ChildLimit(
                    f"{self._what} took longer than {self._limits.seconds:g} s",
                    "deadline" if self._limits.fork else "time",
                ) from None
            if isinstance(error, (OSError, EOFError)):
                raise self._death(code) from None
            raise
        if answer[:1] == b"a" or (self._limits.fork and client.gone.is_set()):
            raise ChildAbandoned(f"{self._what}: nobody waits for it any more")
        return self._checked(answer)

    def close(self) -> None:
        """Ends the child. Safe to call more than once; not while another thread is in call()."""
        self._kill()

    def start(self) -> None:
        """Starts the child, where it does not run, before the first call needs it. ChildFailed."""
        if self._process is not None and self._pid == os.getpid() and self._process.poll() is None:
            return
        self._kill()
        if not sys.executable:
            raise ChildFailed(f"{self._what} needs a child process, and sys.executable is not set")
        search_path = json.dumps([os.path.abspath(path) for path in sys.path])
        limits = json.dumps(asdict(self._limits))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOTSTRAP, search_path, self._module, limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={
                    **os.environ,
                    "OPENBLAS_NUM_THREADS": "1",
                },  # numpy's library maps memory for each thread
                start_new_session=True,  # Ctrl-C is the parent's business
            )
        except OSError as error:
            raise ChildFailed(f"the process for {self._what} cannot start: {error.strerror}") from None
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(self, _end_child, self._process, self._pid)
        try:
            self._checked(self._exchange(self._setup, START_SECONDS, _PATIENT))
        except BaseException as error:
            self._kill()
            if isinstance(error, (OSError, EOFError)):  # TimeoutError is an OSError
                raise ChildFailed(f"the process for {self._what} did not start ({sys.executable})") from None
            raise

    def _checked(self, answer: bytes) -> bytes:
        status, body = answer[:1], answer[1:]
        if status == b"+":
            return body
        text = body.decode("utf-8", "replace")
        if status == b"-":
            raise RequestError(text)
        if status == b"m":
            if not self._limits.fork:
                self._kill()  # what it had allocated may not come back
            raise ChildLimit(f"{self._what} asked for more than {self._limits.memory >> 20} MiB", "memory")
        if status in (b"t", b"c"):
            raise self._death(-signal.SIGXCPU if status == b"t" else None)
        if status == b"w":
            raise ChildLimit(f"{self._what} took longer than {self._limits.seconds:g} s", "deadline")
        raise ChildFailed(f"{self._what}: {text}")

    def _death(self, code: int | None) -> ChildLimit:
        if code == -signal.SIGXCPU:
            return ChildLimit(
                f"{self._what} took more than {self._limits.cpu_seconds:g} s of processor time", "time"
            )
        return ChildLimit(
            f"{self._what} ended its process: a limit of {self._limits.memory >> 20} MiB, or a fault in the "
            "library that reads it",
            "crash",
        )

    def _exchange(self, message: bytes, seconds: float, client: Client) -> bytes:
        """Sends a message and reads one, both before the deadline (TimeoutError)."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + seconds
        to_send = [memoryview(_LENGTH.pack(len(message))), memoryview(message)]
        received = bytearray()
        wanted = _LENGTH.size
        cancelled = False
        os.set_blocking(process.stdin.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(process.stdin, selectors.EVENT_WRITE)
            while len(received) < wanted:
                if client.gone.is_set() and not cancelled:
                    if to_send or not self._limits.fork:
                        raise ChildAbandoned(f"{self._what}: nobody waits for it any more")
                    cancelled = True  # the fork ends, and its child says so
                    process.send_signal(signal.SIGUSR1)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                for key, _ in selector.select(min(left, _POLL_SECONDS)):
                    if key.fileobj is process.stdin:
                        to_send[0] = to_send[0][os.write(process.stdin.fileno(), to_send[0]) :]
                        while to_send and not to_send[0]:
                            to_send.pop(0)
                        if not to_send:
                            selector.unregister(process.stdin)
                        continue
                    data = os.read(process.stdout.fileno(), min(_READ_BYTES, wanted - len(received)))
                    if not data:
                        raise EOFError
                    received += data
                    if wanted == len(received) == _LENGTH.size:
                        wanted += _LENGTH.unpack(received)[0]
        return bytes(memoryview(received)[_LENGTH.size :])

    def _kill(self) -> int | None:
        """The exit status, or None where there was no child."""
        process, self._process = self._process, None
        if process is None:
            return None
        own = self._pid == os.getpid()
        if own:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)  # one that has died by itself: keep its own status
        self._finalizer()
        return process.returncode if own else None


_PATIENT = Client("start")


def _end_child(process: "subprocess.Popen[bytes]", pid: int) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if pid == os.getpid():
        if process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)  # its fork too: it is the first of a group of its own
        process.kill()
        process.wait()
