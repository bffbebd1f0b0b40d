"""The server's edge: bytes that are no request, browsers, clients that share, probes, and logs of refusals."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

httpx2 = pytest.importorskip("httpx2")
pytest.importorskip("uvicorn")

from llama4rt import Engine  # noqa: E402
from llama4rt.server.client_names import client_name  # noqa: E402
from llama4rt.server.refusal_reason import reason_of  # noqa: E402
from serving import (  # noqa: E402
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

MIB = 1 << 20


engine = engine_fixture(max_num_seqs=4)


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[RunningServer]:
    with running_server(engine, receive_seconds=5.0, max_body_bytes=4 * MIB) as server:
        yield server


def connect(server: RunningServer, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(address(server), 30, (source, 0))


def reply_of(data: bytes) -> tuple[int, dict[str, str], bytes]:
    """The one reply in these bytes; its length must be what it says."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    assert int(headers["content-length"]) == len(body)
    return int(lines[0].split()[1]), headers, body


# --- bytes beside the body ----------------------------------------------------------------------------------------

CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
CHUNKED += b"transfer-encoding: chunked\r\n\r\n"


def endless(kind: str) -> Iterator[bytes]:
    """64 MiB that are no body."""
    first = {
        "head": b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n",
        "one header": b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: ",
        "blank lines": b"",
        "trailers": CHUNKED + b"2\r\n{}\r\n0\r\n",
        "one trailer": CHUNKED + b"2\r\n{}\r\n0\r\nx: ",
        "chunk extension": CHUNKED + b"2;x=",
        "tiny chunks": CHUNKED,
    }[kind]
    more = {
        "head": b"x-header: value\r\n",
        "blank lines": b"\r\n",
        "trailers": b"x-trailer: value\r\n",
        "tiny chunks": b"1\r\n \r\n",
    }.get(kind, b"y")
    yield first
    for _ in range(64):
        yield more * (MIB // len(more))


@pytest.mark.parametrize(
    "kind", ["head", "one header", "blank lines", "trailers", "one trailer", "chunk extension", "tiny chunks"]
)
def test_what_is_no_body_is_bounded(server: RunningServer, kind: str) -> None:
    psutil = pytest.importorskip("psutil")
    process = psutil.Process()
    before, began, sent = process.memory_info().rss, time.monotonic(), 0
    with connect(server) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for piece in endless(kind):
                connection.sendall(piece)
                sent += len(piece)
        reply = received(connection)
    assert reply or sent < 64 * MIB, "all of it was taken"
    if reply:  # else it was lost, as the connection was closed while we still sent
        status, _, body = reply_of(reply)
        assert (status, json.loads(body)["error"]["code"]) == (431, "headers_large")
    assert process.memory_info().rss - before < 48 * MIB
    assert time.monotonic() - began < 20
    assert httpx2.get(server.url + "/v1/models").status_code == 200


def test_a_refused_head_has_a_whole_reply(server: RunningServer) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 70_000 + b"\r\n\r\n")
        status, headers, body = reply_of(received(connection))
    assert (
        status == 431 and headers["connection"] == "close" and "65536" in json.loads(body)["error"]["message"]
    )
    with connect(server) as connection:
        connection.sendall(b"NO HTTP\r\n\r\n")
        status, _, body = reply_of(received(connection))
    assert status == 400 and json.loads(body)["error"]["code"] == "not_http"


def test_small_trailers_are_taken_and_are_no_headers(server: RunningServer) -> None:
    body = json.dumps(HELLO | {"max_tokens": 1}).encode()
    request = CHUNKED + b"%x\r\n%s\r\n0\r\nx-request-id: from-a-trailer\r\n\r\n" % (len(body), body)
    with connect(server) as connection:
        connection.sendall(request)
        head = connection.recv(1 << 16)
    assert head.startswith(b"HTTP/1.1 200") and b"from-a-trailer" not in head


@pytest.mark.parametrize("end", ["reset", "garbage", "garbage at once"])
def test_requests_in_one_piece_end_with_their_connection(
    server: RunningServer, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    """Streams that wait behind each other: none runs on, none writes to a closed connection, no place is lost."""
    body = json.dumps(ENDLESS).encode()
    request = CHUNKED.replace(b"transfer-encoding: chunked", b"content-length: %d" % len(body)) + body
    expect = request.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n", 1)
    for _ in range(20):
        with connect(server) as connection:
            data = request + expect + request
            if end == "garbage at once":
                data += b"\0no HTTP\r\n\r\n"
            connection.sendall(data)
            if end == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif end == "garbage":
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
                connection.sendall(b"\0no HTTP\r\n\r\n")
            else:
                reply = received(connection)
                assert b"HTTP/1.1 4" not in reply, "a refusal among the replies to earlier requests"
    server.wait_idle()
    assert not [record for record in caplog.records if record.exc_info]
    assert post(server, CHAT, HELLO).status_code == 200


def test_the_heads_of_a_kept_connection_do_not_add_up(server: RunningServer) -> None:
    """30 heads of 20 KB on one connection, with a limit of 64 KiB for each."""
    with connect(server) as connection:
        for _ in range(30):
            connection.sendall(
                b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 20_000 + b"\r\n\r\n"
            )
            got = b""
            while b'"data"' not in got:
                piece = connection.recv(1 << 16)
                assert piece, got
                got += piece
            assert got.startswith(b"HTTP/1.1 200")


def test_blank_lines_do_not_keep_an_idle_connection(engine: Engine) -> None:
    with (
        running_server(engine, receive_seconds=0.5, keep_alive_seconds=1) as server,
        connect(server) as connection,
    ):
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert connection.recv(1 << 16)
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 20:
                connection.sendall(b"\r\n")
                time.sleep(0.2)
        assert time.monotonic() - began < 15


def test_the_room_for_bodies_is_given_back(engine: Engine) -> None:
    """Together they are larger than what may be held at once; one after the other they are not."""
    body = json.dumps(HELLO | {"max_tokens": 1, "user": "x" * 100_000})
    with running_server(engine, max_bodies_bytes=250_000) as server:
        for _ in range(6):
            assert post(server, CHAT, body).status_code == 200
        refused = json.dumps(HELLO | {"temperature": 9, "user": "x" * 100_000})
        for _ in range(6):
            assert post(server, CHAT, refused).status_code == 400
        with connect(server) as one, connect(server) as two:  # held while they wait for their last byte
            for connection in (one, two):
                connection.sendall(
                    CHUNKED.replace(b"transfer-encoding: chunked", b"content-length: 100001") + b" " * 100_000
                )
            deadline = time.monotonic() + 20
            while (reply := post(server, CHAT, body)).status_code == 200 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert reply.status_code == 503 and reply.json()["error"]["code"] == "overloaded"
        deadline = time.monotonic() + 20
        while (reply := post(server, CHAT, body)).status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert reply.status_code == 200


# --- probes -------------------------------------------------------------------------------------------------------


def test_probes_are_answered_while_the_event_loop_does_not_turn(server: RunningServer) -> None:
    release = threading.Event()
    blocked = threading.Event()

    def block() -> None:
        blocked.set()
        release.wait(30)

    before = metric(server, "health_latency_seconds_count")
    server.call(block)
    assert blocked.wait(20)
    try:
        for path in ("/health", "/ready", "/health?x=1"):
            began = time.monotonic()
            assert httpx2.get(server.url + path, timeout=10).status_code == 200
            assert time.monotonic() - began < 2
        assert httpx2.head(server.url + "/health", timeout=10).content == b""
        with connect(server) as connection:  # in pieces
            for piece in (
                b"GET /he",
                b"alth HTTP/1.1\r\nho",
                b"st: somewhere-else\r\nx-request-id: me\r\n\r\n",
            ):
                connection.sendall(piece)
                time.sleep(0.05)
            status, headers, body = reply_of(received(connection))
        assert status == 200 and json.loads(body) == {"status": "ok"} and headers["x-request-id"] == "me"
        time.sleep(0.6)
    finally:
        release.set()
    assert metric(server, "health_latency_seconds_count") == before + 5
    deadline = time.monotonic() + 20
    text = ""
    while not re.search(r'event_loop_lag_seconds_bucket{le="\+Inf"} [1-9]', text) or (
        metric(server, "event_loop_lag_seconds_sum") < 0.4
    ):
        assert time.monotonic() < deadline, text
        text = httpx2.get(server.url + "/metrics").text


def test_connections_that_are_reset_hold_nobody(server: RunningServer) -> None:
    """Several hundred chats, reset at once while a long prompt is computed: probes and others go on."""
    long = {"prompt": [5] * (server.engine.max_model_len - 10), "max_tokens": 1}
    prefill = threading.Thread(target=post, args=(server, "/v1/completions", long))
    prefill.start()
    body = json.dumps(ENDLESS).encode()
    request = CHUNKED.replace(b"transfer-encoding: chunked", b"content-length: %d" % len(body)) + body
    slowest = 0.0
    for _ in range(4):
        connections = [connect(server) for _ in range(150)]
        for connection in connections:
            connection.sendall(request)
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()  # with a reset
        began = time.monotonic()
        assert httpx2.get(server.url + "/health", timeout=30).status_code == 200
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 1.0, slowest
    assert post(server, CHAT, HELLO).status_code == 200
    prefill.join(60)
    server.wait_idle(60)


def test_connections_beyond_what_the_loop_can_hold_are_refused_and_counted(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = metric(server, "requests_refused_total")
    with monkeypatch.context() as patched:
        patched.setattr(server.server._door, "_full", lambda: True)
        reply = httpx2.get(server.url + "/v1/models", timeout=30)
        assert httpx2.get(server.url + "/health", timeout=30).status_code == 200
    assert reply.status_code == 503 and reply.headers["x-request-id"]
    assert reply.json()["error"] == {
        "message": "too many connections",
        "type": "server_error",
        "param": None,
        "code": "overloaded",
    }
    assert metric(server, "requests_refused_total") == before + 1


# --- browsers -----------------------------------------------------------------------------------------------------


def test_a_content_type_is_asked_for(server: RunningServer) -> None:
    body = json.dumps(HELLO).encode()
    for path in (CHAT, "/v1/completions", "/v1/responses", "/tokenize", "/detokenize"):
        reply = httpx2.post(server.url + path, content=body)
        assert reply.status_code == 415 and "application/json" in reply.json()["error"]["message"]
    for wrong in ("text/plain", "text/plain; x=application/json", ""):
        assert (
            httpx2.post(server.url + CHAT, content=body, headers={"content-type": wrong}).status_code == 415
        )


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:1234", 200), ("127.0.0.1:80", 200), ("[::1]:8000", 200), ("127.9.9.9", 200),
        ("localhost.", 200), ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.nip.io", 403),
        ("192.168.1.1", 403), ("8.8.8.8", 403), ("evil.example:8000", 403), ("", 400), ("a b", 400),
        ("user@localhost", 400), ("localhost:x", 400), ("localhost/x", 400), ("ours.example", 200),
        ("a.many.example", 200), ("many.example", 403), ("amany.example", 403),
    ],
)  # fmt: skip
def test_hosts(browsers_server: RunningServer, host: str, status: int) -> None:
    reply = httpx2.get(browsers_server.url + "/v1/models", headers={"host": host})
    assert reply.status_code == status
    if status != 200:
        assert reply.json()["error"]["code"] == "host_not_allowed"


@pytest.fixture(scope="module")
def browsers_server(engine: Engine) -> Iterator[RunningServer]:
    allowed: dict[str, Any] = {"allowed_hosts": ("ours.example", "*.many.example")}
    with running_server(engine, allowed_origins=("https://chat.example.com",), **allowed) as server:
        yield server


def test_foreign_origins_are_refused(server: RunningServer) -> None:
    own = server.url
    for origin in (
        "https://evil.example",
        "null",
        own.replace("127.0.0.1", "127.0.0.2"),
        "http://127.0.0.1:1",
        "x",
    ):
        for send in (httpx2.get, httpx2.options):
            reply = send(own + "/v1/models", headers={"origin": origin})
            assert reply.status_code == 403 and reply.json()["error"]["code"] == "origin_not_allowed"
            assert "access-control-allow-origin" not in reply.headers
        assert post(server, CHAT, HELLO, headers={"origin": origin}).status_code == 403
    assert post(server, CHAT, HELLO, headers={"origin": own}).status_code == 200


def test_allowed_origins_and_their_preflight(engine: Engine, browsers_server: RunningServer) -> None:
    origin = {"origin": "https://chat.example.com"}
    asks = origin | {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
        "access-control-request-private-network": "true",
    }
    url = browsers_server.url + CHAT
    reply = httpx2.options(url, headers=asks)
    assert reply.status_code == 204 and reply.content == b""
    assert reply.headers["access-control-allow-origin"] == origin["origin"]
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert reply.headers["access-control-allow-headers"] == asks["access-control-request-headers"]
    assert reply.headers["access-control-allow-private-network"] == "true"
    assert "origin" in reply.headers["vary"].lower()
    exposed = reply.headers["access-control-expose-headers"].lower()
    assert "x-request-id" in exposed and "retry-after" in exposed
    assert httpx2.options(url, headers=asks | {"origin": "https://evil.example"}).status_code == 403
    assert httpx2.options(url, headers=origin).status_code == 405  # no preflight
    for body, status in ((HELLO, 200), (HELLO | {"temperature": 9}, 400), (HELLO | {"stream": True}, 200)):
        reply = post(browsers_server, CHAT, body, headers=origin)
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == origin["origin"]
    with running_server(engine, allowed_origins=("*",), api_keys=("k",)) as server:
        assert (
            httpx2.options(server.url + CHAT, headers=asks).status_code == 204
        )  # browsers send no key with it
        reply = httpx2.get(server.url + "/v1/models", headers=origin)
        assert reply.status_code == 401 and reply.headers["access-control-allow-origin"] == "*"


# --- sharing ------------------------------------------------------------------------------------------------------


def test_names_of_clients() -> None:
    def name(peer: str | None, key: bytes | None = None) -> str:
        return client_name({"client": (peer, 1) if peer else None}, key)

    assert name("10.1.2.3") == "10.1.2.3" == name("::ffff:10.1.2.3")
    assert name("2001:db8::1") == name("2001:db8::ffff:2") != name("2001:db8:0:1::1")
    assert name("10.1.2.3", b"a" * 32) == name("10.9.9.9", b"a" * 32) != name("10.1.2.3", b"b" * 32)
    assert "unknown" in name(None)


def unread(server: RunningServer, source: str, **fields: Any) -> socket.socket:
    """A stream whose client never reads."""
    body = json.dumps(ENDLESS | fields).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.bind((source, 0))
    connection.connect(address(server))
    head = CHUNKED.replace(b"transfer-encoding: chunked", b"content-length: %d" % len(body))
    connection.sendall(head + body)
    return connection


@pytest.mark.parametrize("neighbour", ["127.0.0.1", "127.0.0.9"])
def test_slow_readers_hold_nobody(engine: Engine, neighbour: str) -> None:
    """16 requests of n=4 on 4 places, from another client or the chat's own: the chat has its answer at once, the slow
    ones are paused, then ended.
    """
    with running_server(engine, max_waiting=200, max_unread_tokens=50, paused_seconds=3.0) as server:
        alone = time.monotonic()
        expected = post(server, CHAT, HELLO).json()["choices"][0]["message"]["content"]
        alone = time.monotonic() - alone
        slow = [unread(server, neighbour, n=4, seed=i) for i in range(16)]
        try:
            deadline = time.monotonic() + 30
            while server.service._admitted < 64:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for _ in range(3):
                began = time.monotonic()
                reply = post(server, CHAT, HELLO)
                took = time.monotonic() - began
                assert reply.json()["choices"][0]["message"]["content"] == expected
                assert took < 3 + 5 * alone, took
            while metric(server, "requests_paused_total") < 1 or metric(server, "slow_readers_total") < 1:
                assert time.monotonic() < deadline + 60
                time.sleep(0.1)
        finally:
            for connection in slow:
                connection.close()
        server.wait_idle(60)


def test_a_paused_stream_goes_on_with_the_same_answer(engine: Engine) -> None:
    body = ENDLESS | {"max_tokens": 3000, "logprobs": True, "top_logprobs": 5}
    with running_server(engine, max_unread_tokens=20, paused_seconds=60.0) as server:
        straight = post(server, CHAT, body).text
        connection = unread(server, "127.0.0.1", max_tokens=3000, logprobs=True, top_logprobs=5)
        deadline = time.monotonic() + 60
        while metric(server, "requests_paused_total") < 1:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        got = b""
        with connection:
            while b"[DONE]" not in got:
                piece = connection.recv(1 << 16)
                assert piece
                got += piece
        assert metric(server, "slow_readers_total") == 0

    def text(stream: str) -> str:
        events = [json.loads(found) for found in re.findall(r"data: (\{.*\})\n", stream)]
        return "".join(c["delta"].get("content") or "" for event in events for c in event["choices"])

    assert text(got.decode("utf-8", "replace")) == text(straight)


def test_a_newcomer_is_let_in_where_another_has_taken_all(engine: Engine) -> None:
    """One client has filled the room; it hears 429, another is served. A limit of its own comes before that."""
    with running_server(engine, max_waiting=4) as server:
        first = [unread(server, "127.0.0.7", max_tokens=None) for _ in range(8)]
        deadline = time.monotonic() + 30
        while server.service._admitted < 8:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with httpx2.Client(transport=httpx2.HTTPTransport(local_address="127.0.0.7")) as client:
            assert client.post(server.url + CHAT, json=HELLO).status_code == 429
        assert post(server, CHAT, HELLO).status_code == 200
        assert post(server, CHAT, HELLO | {"n": 5}).status_code == 429  # its share is 4
        for connection in first:
            connection.close()
        server.wait_idle(60)
    with running_server(engine, max_streams_per_client=2) as server:
        reply = post(server, CHAT, HELLO | {"n": 3})
        assert reply.status_code == 429 and "limit is 2" in reply.json()["error"]["message"]
        assert post(server, CHAT, HELLO | {"n": 2}).status_code == 200


# --- faults and logs ----------------------------------------------------------------------------------------------


class Panic(BaseException):
    """As pyo3's: no Exception."""


@pytest.mark.parametrize(
    "error", [MemoryError(), Panic("out of memory"), OSError(12, "Cannot allocate memory")]
)
def test_one_request_s_fault_is_a_500(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(server.service, "check_open", fail)
        reply = post(server, CHAT, HELLO)
    assert reply.status_code == 500 and reply.json()["error"]["code"] == "internal_error"
    assert not str(error) or str(error) not in reply.json()["error"]["message"]
    assert post(server, CHAT, HELLO).status_code == 200


def logged(caplog: pytest.LogCaptureFixture, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 20
    while len(caplog.records) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "llama4rt.access"]


def test_refusals_are_logged_with_their_reason(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "xyzzyplugh"
    word = {"messages": [{"role": "user", "content": f"my {secret} is here"}]}
    cases: list[tuple[Any, int, str | None, str]] = [
        (HELLO | {"temperature": 9}, 400, "temperature", "expected float <= 2.0"),
        (word | {"model": secret}, 404, "model", "does not exist"),
        (word | {"stop": [secret] * 40}, 400, "stop", ""),
        (word | {"response_format": {"type": "json_schema", "json_schema": {
            "name": "n", "schema": {"type": "object", "properties": {secret: {secret: 1}}}}}}, 400, None, ""),
        (word | {"tools": [{"type": secret, "function": {"name": secret}}]}, 400, "tools", ""),
        (b'{"messages": "' + secret.encode(), 400, None, "not JSON"),
    ]  # fmt: skip
    for body, status, param, says in cases:
        caplog.clear()
        with caplog.at_level("INFO", "llama4rt.access"):
            assert post(server, CHAT, body).status_code == status
            entry = logged(caplog, 1)[0]
        assert entry["status"] == status and says in entry["reason"] and entry["error"]
        assert secret not in json.dumps(entry), entry
        if param is not None:
            assert entry["param"] == param
    caplog.clear()
    with caplog.at_level("INFO", "llama4rt.access"):
        with connect(server) as connection:
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nx: " + b"y" * 70_000)
            received(connection)
        assert logged(caplog, 1) == [{"status": 431, "error": "headers_large", "client": "127.0.0.1"}]


def test_reasons_keep_the_server_s_words_only() -> None:
    assert reason_of("temperature: Input should be at most 2", b'{"temperature": 9}') == (
        "temperature: Input should be at most 2"
    )
    body = b'{"a": "my secret property, cut"}'
    assert (
        reason_of("'my secret' is not it; secret.property: is wrong", body)
        == "… is not it; ….property: is wrong"
    )
    assert "secret" not in reason_of("the name 'it\\'s secr", body)
    assert "secret" not in reason_of('name "x\' secret" and secret', body)
    assert reason_of("thing failed", None) == "… …"


def test_text_lines_cannot_be_forged() -> None:
    import logging

    from llama4rt.server.logs import TextLines

    entry = {"method": "GET", "path": "/a\n12:00:00 INFO forged\x1b[31m", "status": 404, "seconds": 0.1}
    record = logging.LogRecord(
        "llama4rt.access", 20, "", 0, json.dumps(entry | {"reason": "no path"}), None, None
    )
    line = TextLines().format(record)
    assert "\n" not in line and "\x1b" not in line
    assert "GET /a\\n12:00:00 INFO forged" in line and "404 in 0.1 s" in line and line.endswith(": no path")
