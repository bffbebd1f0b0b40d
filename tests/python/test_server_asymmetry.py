"""What a hostile body costs others: every field of every request x 10 shapes x 4 sizes, sent to a server in a process
of its own, while another client asks for /health and a third one chats.

Bounds, in make soak: /health 250 ms, a chat 1 s beyond what it takes alone, memory 4 x the body. A case that breaks one
is sent twice more and fails when it breaks one each time: a busy machine does not repeat itself, a fault of the server
does. make test sends a sample and allows ten times as long.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("psutil")
pytest.importorskip("uvicorn")

from hostile_bodies import KINDS, PATHS, SHAPES, body_of, fields_of
from llama4rt.server import protocol
from serve_process import MIB, ServeProcess, quantile

HOSTILE = [
    "ids", "ids, then a text", "texts, then a number", "messages", "calls", "tools", "deep", "wide text", "backslashes",
    "no UTF-8",
]  # fmt: skip
SIZES = [1 << 10, 32 << 10, 1 << 20, (32 << 20) - 4096]  # the last with the rest of its request
# Objects that a small body may make, threads' buffers, and what malloc keeps in arenas.
FLOOR = 32 * MIB
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8}


def ask(port: int, source: str, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """From an address of its own: another client than those of other addresses."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120, source_address=(source, 0))
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@dataclass
class Neighbour:
    """Asks again and again in a thread; (begin, seconds) of each answer."""

    port: int
    source: str
    method: str
    path: str
    body: bytes | None = None
    times: list[tuple[float, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _since: float | None = None

    def __enter__(self) -> Neighbour:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)

    def _run(self) -> None:
        expected: bytes | None = None
        while not self._stop.wait(0.02):
            began = self._since = time.monotonic()
            try:
                status, reply = ask(self.port, self.source, self.method, self.path, self.body)
            except OSError as error:
                self.wrong.append(repr(error))
                return
            self.times.append((began, time.monotonic() - began))
            if self.method == "POST":
                reply = json.dumps(json.loads(reply).get("choices")).encode()
            expected = expected or reply
            if status != 200 or reply != expected:
                self.wrong.append(f"{status}: {reply[:200]!r}")

    def slowest(self, since: float, until: float) -> float:
        """Of the answers that were waited for between the two times."""
        running = self._since
        times = [
            seconds for began, seconds in self.times[-2000:] if began < until and began + seconds > since
        ]
        if running is not None and running < until and (not self.times or self.times[-1][0] < running):
            times.append(time.monotonic() - running)
        return max(times, default=0.0)


def hostile_body(kind: Any, name: str, shape: str, size: int) -> bytes:
    body = body_of(kind, name, SHAPES[shape](size - 200))
    limit = "max_output_tokens" if kind is protocol.ResponsesRequest else "max_tokens"
    if kind in (protocol.TokenizeRequest, protocol.DetokenizeRequest) or name == limit:
        return body
    return b'{"%s":4,' % limit.encode() + body[1:]  # if it is taken, it is short


def send(server: ServeProcess, path: str, body: bytes) -> int:
    """The status; 0 where the server closed the connection first."""
    try:
        return ask(server.port, "127.0.0.66", "POST", path, body)[0]
    except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
        if isinstance(error, socket.timeout):
            raise
        return 0


@pytest.mark.timeout(6 * 3600)
def test_nobody_else_pays(soak: bool) -> None:
    patience = 1.0 if soak else 10.0
    cases = [
        (kind, name, shape, size)
        for size in SIZES
        for kind in KINDS
        for name in fields_of(kind)
        for shape in HOSTILE
    ]
    if not soak:
        rng = random.Random(13)
        cases = [case for size in SIZES for case in rng.sample([c for c in cases if c[3] == size], 12)]
        cases.append((protocol.ChatRequest, "user", "wide text", SIZES[0]))  # one that is taken, for certain
    if "LLAMA4RT_CASES" in os.environ:  # so many, by chance
        cases = random.Random(1).sample(cases, int(os.environ["LLAMA4RT_CASES"]))
    options = ("--threads", "1", "--kv-cache-memory", "64MiB", "--log-level", "error")
    with (
        ServeProcess(*options) as server,
        Neighbour(server.port, "127.0.0.3", "GET", "/health") as probe,
        Neighbour(
            server.port, "127.0.0.4", "POST", PATHS[protocol.ChatRequest], json.dumps(HELLO).encode()
        ) as chat,
    ):
        time.sleep(3)
        own = quantile([seconds for _, seconds in chat.times], 0.5)
        began = time.monotonic()
        failures: list[str] = []
        statuses: dict[int, int] = {}
        worst = {"health": 0.0, "chat": 0.0, "memory": 0.0}
        for kind, name, shape, size in cases:
            body = hostile_body(kind, name, shape, size)
            complaints: list[str] = []
            for _ in range(3):
                base = server.forget_peak()
                since = time.monotonic()
                status = send(server, PATHS[kind], body)
                until = time.monotonic()
                health, chatted = probe.slowest(since, until), chat.slowest(since, until) - own
                memory = (server.peak() - base - FLOOR) / len(body)
                complaints = []
                if status in (0, 500) or not 200 <= status < 600:
                    complaints.append(f"status {status}")
                if health > 0.25 * patience:
                    complaints.append(f"/health took {health:.3f} s")
                if chatted > 1.0 * patience:
                    complaints.append(f"a chat took {chatted:.3f} s longer than alone ({own:.3f} s)")
                if memory > 4:
                    complaints.append(f"{memory:.1f} x its body")
                if not complaints:
                    break
            statuses[status] = statuses.get(status, 0) + 1
            for what, value in (("health", health), ("chat", chatted), ("memory", memory)):
                worst[what] = max(worst[what], value)
            if complaints:
                failures.append(f"{kind.__name__}.{name}: {shape} of {size}: {'; '.join(complaints)}")
        print(
            f"{len(cases)} cases in {time.monotonic() - began:.0f} s; statuses {statuses}; "
            f"worst of the accepted tries {worst}; "
            f"/health p99 {quantile([s for _, s in probe.times], 0.99) * 1e3:.0f} ms; "
            f"a chat alone {own * 1e3:.0f} ms, p99 {quantile([s for _, s in chat.times], 0.99) * 1e3:.0f} ms"
        )
        assert not failures, "\n".join([f"{len(failures)} of {len(cases)}", *failures[:40]])
        assert not probe.wrong and not chat.wrong, (probe.wrong[:3], chat.wrong[:3])
        assert not server.failures(), server.failures()[:3]
        assert len(statuses) > 1
