"""Clients that close their sending side and still read get their replies; clients that are gone are not computed for.

Both send the same bytes: shutdown(SHUT_WR) and close() differ in what the client's kernel says to a reply.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("uvicorn")

from llama4rt import Engine
from serving import (
    CHAT,
    ENDLESS,
    HELLO,
    RunningServer,
    address,
    engine_fixture,
    metric,
    post,
    received,
    running_server,
)

engine = engine_fixture(max_num_seqs=1)


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def server(engine: Engine, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "asyncio":
            patch.setitem(sys.modules, "uvloop", None)  # uvicorn takes it where it is
        else:
            pytest.importorskip("uvloop")
        # Nothing here is to end by waiting.
        with running_server(engine, heartbeat_seconds=600.0, keep_alive_seconds=600) as server:
            yield server


def request_of(path: str, body: Any = None, *, more: bytes = b"", chunked: bool = False) -> bytes:
    if body is None:
        return b"GET %s HTTP/1.1\r\nhost: localhost\r\n%s\r\n" % (path.encode(), more)
    data = json.dumps(body).encode()
    head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n" % path.encode()
    if chunked:
        return head + more + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
    return head + more + b"content-length: %d\r\n\r\n%s" % (len(data), data)


def half_closed(server: RunningServer, data: bytes, pause: float = 0.0) -> bytes:
    """All that comes back, to the server's own end of the connection."""
    with socket.create_connection(address(server), 60) as connection:
        connection.sendall(data)
        time.sleep(pause)
        connection.shutdown(socket.SHUT_WR)
        return received(connection)


def content(reply: bytes) -> str:
    """Of a whole chat reply."""
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    text = json.loads(body)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("pause", [0.0, 0.05])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_whole_reply(server: RunningServer, chunked: bool, pause: float) -> None:
    expected = post(server, CHAT, HELLO).json()["choices"][0]["message"]["content"]
    slow = HELLO | {"max_tokens": 400, "ignore_eos": True}
    assert content(half_closed(server, request_of(CHAT, HELLO, chunked=chunked), pause)) == expected
    assert content(half_closed(server, request_of(CHAT, slow, chunked=chunked), pause)).startswith(expected)


def test_a_stream(server: RunningServer) -> None:
    expected = post(server, CHAT, HELLO).json()["choices"][0]["message"]["content"]
    for pause in (0.0, 0.02):
        reply = half_closed(server, request_of(CHAT, HELLO | {"stream": True}), pause)
        assert reply.startswith(b"HTTP/1.1 200 OK\r\n") and reply.endswith(b"0\r\n\r\n")
        events = re.findall(rb"^data: (\{.*\})\r?$", reply, re.M)
        deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
        assert "".join(delta.get("content") or "" for delta in deltas) == expected
        assert b"data: [DONE]" in reply


def test_a_stream_that_has_begun_goes_on(server: RunningServer) -> None:
    body = HELLO | {"stream": True, "max_tokens": 300, "ignore_eos": True}
    with socket.create_connection(address(server), 60) as connection:
        connection.sendall(request_of(CHAT, body))
        reply = connection.recv(1 << 16)
        connection.shutdown(socket.SHUT_WR)
        reply += received(connection)
    assert reply.count(b"HTTP/1.1") == 1 and reply.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request_of("/v1/models"), 200),
        (request_of("/health"), 200),
        (request_of("/nothing"), 404),
        (request_of(CHAT, {"messages": []}), 400),
        (request_of("/v1/completions", {"prompt": "Hi", "max_tokens": 0}), 400),
        (b"GET /v1/models HTTP/1.0\r\nhost: localhost\r\n\r\n", 200),
        (request_of(CHAT, HELLO, more=b"expect: 100-continue\r\n"), 200),
    ],
)
def test_other_replies(server: RunningServer, data: bytes, status: int) -> None:
    head, _, body = half_closed(server, data).partition(b"\r\n\r\n")
    while head == b"HTTP/1.1 100 Continue":
        head, _, body = body.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and json.loads(body)


def test_requests_in_one_piece_are_all_answered(server: RunningServer) -> None:
    data = request_of(CHAT, HELLO) + request_of("/v1/models") + request_of(CHAT, HELLO | {"stream": True})
    reply = half_closed(server, data)
    assert reply.count(b"HTTP/1.1 200 OK\r\n") == 3 and reply.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_half_a_request_gets_no_reply(server: RunningServer) -> None:
    whole = request_of(CHAT, ENDLESS)
    for end in (3, 60, len(whole) - 1):
        assert half_closed(server, whole[:end], 0.02) == b""
    server.wait_idle()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_who_is_gone_is_not_computed_for(server: RunningServer, stream: bool, pause: float) -> None:
    """To the end of the context it would be 4,000 tokens and more."""
    before = server.engine.stats()["generated_tokens"]
    for _ in range(3):
        connection = socket.create_connection(address(server), 60)
        connection.sendall(request_of(CHAT, ENDLESS | {"stream": stream}))
        time.sleep(pause)
        connection.shutdown(socket.SHUT_WR)  # what close() sends, and now nobody may answer for it any more
        connection.close()
        server.wait_idle()
    assert server.engine.stats()["generated_tokens"] - before < server.engine.max_model_len


@pytest.mark.parametrize("stream", [False, True])
def test_who_is_gone_while_waiting_makes_room(server: RunningServer, stream: bool) -> None:
    """Behind another's endless request no token would ever be written: it is the probe that finds out."""
    with socket.create_connection(address(server), 60) as first:
        first.sendall(request_of(CHAT, ENDLESS))
        assert first.recv(1 << 16)
        gone = metric(server, "requests_disconnected_total")
        waiting = socket.create_connection(address(server), 60)
        waiting.sendall(request_of(CHAT, ENDLESS | {"stream": stream}))
        deadline = time.monotonic() + 20
        while server.service._admitted < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        if stream:  # closed with something unread it would be reset at once
            assert waiting.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        waiting.close()
        while server.service._admitted == 2 and not _ended(first):
            assert time.monotonic() < deadline, "it still waits"
            time.sleep(0.01)
        if not _ended(first):
            assert metric(server, "requests_disconnected_total") == gone + 1
    server.wait_idle()


def _ended(connection: socket.socket) -> bool:
    """Reads what has come; whether that was the end."""
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while data := connection.recv(1 << 16):
            if data.endswith(b"0\r\n\r\n"):
                return True
    return False
