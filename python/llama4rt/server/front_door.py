"""FrontDoor: accepts connections in a thread of its own, answers health probes there, hands the others to the loop.

So a probe has its answer whatever the event loop is doing, on the port that everybody knows. The door looks at the
first bytes of a connection without taking them (MSG_PEEK): what is no probe reaches the event loop untouched. The loop
never sees connections that are closed before they say anything.
"""

import contextlib
import errno
import json
import logging
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence

from llama4rt.server.api_errors import ApiError

log = logging.getLogger("llama4rt.server")

_PEEK_BYTES = 4096  # a probe's head is smaller; what is larger goes to the event loop
# The kernel would keep megabytes for a client that does not read, and the server would hear of it late.
_SEND_BUFFER_BYTES = 64 << 10
_ACCEPTS_AT_ONCE = 256
_LINGER_SECONDS = 1.0  # for the client to take the answer
_TICK_SECONDS = 0.5  # between two looks at deadlines
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PROBE = re.compile(rb"(GET|HEAD) (/health|/ready)(?:\?[^ \r\n]*)? HTTP/1\.[01]\r\n")
_STARTS = (b"GET /health", b"GET /ready", b"HEAD /health", b"HEAD /ready")
_HAS_BODY = re.compile(rb"\r\n(?:content-length|transfer-encoding|upgrade):", re.I)
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([A-Za-z0-9_.:-]{1,128})[ \t]*\r\n", re.I)
_LAST_DATA_RECV = 52  # offset of tcpi_last_data_recv (ms, uint32) in Linux' struct tcp_info

# path -> status and JSON of the answer; called in the door's thread.
Answer = Callable[[str], tuple[int, dict[str, str]]]


class FrontDoor:
    """start() once, close() once. The listening sockets belong to it."""

    def __init__(
        self,
        listening: Sequence[socket.socket],
        adopt: Callable[[list[socket.socket]], None],
        answer: Answer,
        *,
        observe: Callable[[float], object],
        new_id: Callable[[], str],
        receive_seconds: float,
        full: Callable[[], bool],
        refused: Callable[[int], object],
    ) -> None:
        """adopt: takes connections, in this thread; RuntimeError when the loop has ended. observe: told the seconds of
        each probe. receive_seconds: for a connection's first bytes. full: whether the loop has all the connections it
        can hold; then others get 503, and refused is told that status.
        """
        self._listening = {listener.fileno(): listener for listener in listening}
        self._adopt = adopt
        self._answer = answer
        self._observe = observe
        self._new_id = new_id
        self._receive_seconds = receive_seconds
        self._full = full
        self._refused = refused
        self._epoll = select.epoll()
        self._wake, self._woken = socket.socketpair()
        # By file descriptor, oldest first: those that have said too little, and those that have been answered.
        self._waiting: dict[int, tuple[socket.socket, float]] = {}
        self._leaving: dict[int, tuple[socket.socket, float]] = {}
        self._for_loop: list[socket.socket] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="llama4rt-door", daemon=True)

    def start(self) -> None:
        for listener in self._listening.values():
            listener.setblocking(False)
            self._epoll.register(listener, select.EPOLLIN)
        self._epoll.register(self._woken, select.EPOLLIN)
        self._thread.start()

    def close(self) -> None:
        """Takes no more connections; those that are not the loop's are closed."""
        if not self._closing:
            self._closing = True
            with contextlib.suppress(OSError):
                self._wake.send(b"x")
            self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            try:
                self._turn()
            except Exception as error:  # out of memory, say: there must be a door afterwards
                with contextlib.suppress(Exception):
                    log.error("the thread that accepts connections: %s: %s", type(error).__name__, error)
                time.sleep(0.05)
        held = [*self._listening.values(), self._wake, self._woken]
        held += [each for table in (self._waiting, self._leaving) for each, _ in table.values()]
        for each in (*held, *self._for_loop):
            each.close()
        self._epoll.close()

    def _turn(self) -> None:
        for fd, _ in self._epoll.poll(_TICK_SECONDS):
            if fd in self._listening:
                self._accept(self._listening[fd])
            elif fd in self._waiting:
                self._look(self._waiting[fd][0])
            elif fd in self._leaving:
                self._drain(self._leaving[fd][0])
        self._hand_over()
        self._drop_late()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_FILES:
                    if not self._waiting:
                        time.sleep(0.02)  # until somebody leaves
                        return
                    self._drop(self._waiting, next(iter(self._waiting)))
                continue  # a client that is gone already is an error of accept, too
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            fd = connection.fileno()
            self._waiting[fd] = connection, time.monotonic() + self._receive_seconds
            # Edge-triggered: half a line does not wake us again until more of it comes.
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
            self._look(connection)

    def _look(self, connection: socket.socket) -> None:
        fd = connection.fileno()
        try:
            data = connection.recv(_PEEK_BYTES, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._drop(self._waiting, fd)
            return
        probe = _PROBE.match(data)
        if probe is None:
            may_become_one = any(
                data.startswith(start) if len(data) >= len(start) else start.startswith(data)
                for start in _STARTS
            )
            if may_become_one and b"\n" not in data and len(data) < _PEEK_BYTES:
                return
            self._pass_on(connection)
            return
        end = data.find(b"\r\n\r\n")
        if end < 0 and len(data) < _PEEK_BYTES:
            return
        if end < 0 or _HAS_BODY.search(data, 0, end):
            self._pass_on(connection)
            return
        late = _since_data(connection)
        began = time.monotonic()
        connection.recv(end + 4)
        status, reply = self._answer(probe[2].decode())
        given = _REQUEST_ID.search(data, 0, end + 2)
        request_id = given[1].decode() if given else self._new_id()
        self._reply(connection, status, reply, request_id, head_only=probe[1] == b"HEAD")
        self._observe(late + time.monotonic() - began)

    def _pass_on(self, connection: socket.socket) -> None:
        if self._full():
            error = ApiError(503, "too many connections", code="overloaded")
            self._refused(error.status)
            self._reply(connection, error.status, error.body(), self._new_id())
            return
        fd = connection.fileno()
        self._epoll.unregister(fd)
        del self._waiting[fd]
        self._for_loop.append(connection)

    def _hand_over(self) -> None:
        if self._for_loop:
            connections, self._for_loop = self._for_loop, []
            try:
                self._adopt(connections)
            except RuntimeError:  # the loop has ended
                for connection in connections:
                    connection.close()

    def _reply(
        self, connection: socket.socket, status: int, reply: object, request_id: str, head_only: bool = False
    ) -> None:
        """Sends the answer, which fits into any socket's buffer, and waits for the client to close."""
        fd = connection.fileno()
        body = json.dumps(reply, separators=(",", ":")).encode()
        phrase = "OK" if status == 200 else "Service Unavailable"
        head = (
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"cache-control: no-store\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        del self._waiting[fd]
        self._leaving[fd] = connection, time.monotonic() + _LINGER_SECONDS
        try:
            connection.send(head.encode() + (b"" if head_only else body))
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(self._leaving, fd)
            return
        self._drain(connection)

    def _drain(self, connection: socket.socket) -> None:
        """Takes what a client still sends: closing with bytes unread would reset the answer on its way."""
        try:
            for _ in range(16):
                if not connection.recv(1 << 16):
                    break
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._drop(self._leaving, connection.fileno())

    def _drop_late(self) -> None:
        now = time.monotonic()
        for table in (self._waiting, self._leaving):
            while table and table[fd := next(iter(table))][1] < now:
                self._drop(table, fd)

    def _drop(self, table: dict[int, tuple[socket.socket, float]], fd: int) -> None:
        connection, _ = table.pop(fd)
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)
        connection.close()


def _since_data(connection: socket.socket) -> float:
    """Seconds since the kernel had the request: what a client waited before this thread came to it."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return float(struct.unpack_from("=I", info, _LAST_DATA_RECV)[0]) / 1000
    except (OSError, struct.error, AttributeError):
        return 0.0
