"""Renders jinja templates that came with a checkpoint, in a child process that can be killed: the parent's side.

The sandbox stops a template from reaching Python, but not from looping or asking for gigabytes; limits on the
child's memory and processor time (template_child.py), and the deadline held here, do. The child starts with
the first render, stays for the next, and ends with the parent.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from llama4rt.errors import Llama4RTError, RequestError

RENDER_SECONDS = 2.0
START_SECONDS = 30.0  # a cold interpreter on a busy machine

# -I keeps the working directory and PYTHON* variables out; the parent's own search path comes as an argument.
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from llama4rt.text.template_child import main; main()"
)


class TemplateWorker:
    """The parent's side. Safe to use from many threads: renders take turns."""

    def __init__(self, render_seconds: float = RENDER_SECONDS) -> None:
        self._render_seconds = render_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0  # of the process that started the child: after a fork it is not ours
        self._finalizer: Any = None

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """The rendered text. RequestError when the template refuses, fails, or runs over a limit."""
        line = json.dumps({"template": template, "variables": variables}).encode() + b"\n"
        with self._lock:
            process = self._started()
            try:
                answer = json.loads(self._exchange(process, line, self._render_seconds))
            except BaseException as error:  # Ctrl-C too: a child in the middle of a render is of no more use
                self._kill()
                if isinstance(error, TimeoutError):
                    raise RequestError(
                        f"the chat template ran for more than {self._render_seconds:g} s"
                    ) from None
                if isinstance(error, (OSError, ValueError, EOFError)):
                    raise RequestError(
                        "the chat template ran into a limit of its process (1 GiB, 5 s)"
                    ) from None
                raise
        if "error" in answer:
            raise RequestError(f"chat template: {answer['error']}")
        return str(answer["text"])

    def close(self) -> None:
        with self._lock:
            self._kill()

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._pid == os.getpid() and self._process.poll() is None:
            return self._process
        if not sys.executable:
            raise Llama4RTError("this chat template needs a child process, and sys.executable is not set")
        search_path = json.dumps([os.path.abspath(p) for p in sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOTSTRAP, search_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C is the parent's business
        )
        self._pid = os.getpid()
        self._finalizer = weakref.finalize(self, _end_child, self._process, self._pid)
        try:
            self._exchange(self._process, b"", START_SECONDS)
        except (OSError, EOFError):
            self._kill()
            raise Llama4RTError(f"the chat template process did not start ({sys.executable})") from None
        return self._process

    def _exchange(self, process: "subprocess.Popen[bytes]", line: bytes, seconds: float) -> bytes:
        """Sends a line and reads one, both before the deadline (TimeoutError)."""
        assert process.stdin is not None and process.stdout is not None
        deadline = time.monotonic() + seconds
        to_send = memoryview(line)
        received = bytearray()
        os.set_blocking(process.stdin.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if to_send:
                selector.register(process.stdin, selectors.EVENT_WRITE)
            while not received.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                for key, _ in selector.select(min(left, 0.1)):
                    if key.fileobj is process.stdin:
                        to_send = to_send[os.write(process.stdin.fileno(), to_send) :]
                        if not to_send:
                            selector.unregister(process.stdin)
                    else:
                        data = os.read(process.stdout.fileno(), 1 << 20)
                        if not data:
                            raise EOFError
                        received += data
        return bytes(received)

    def _kill(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = None


def _end_child(process: "subprocess.Popen[bytes]", pid: int) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if pid == os.getpid():
        process.kill()
        process.wait()
