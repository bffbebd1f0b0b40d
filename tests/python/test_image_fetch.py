"""Pictures by URL: only when allowed, only from public addresses, and never for long. The servers are local ones, let
in by another address policy than the real one.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from llama4rt import ImageError, ImageLimits
from llama4rt.images import fetch as fetch_module
from llama4rt.images.fetch import fetch, is_public
from llama4rt.images.sources import load_image
from llama4rt.workers.child_process import ChildAbandoned
from llama4rt.workers.client import Client, working_for

STEP = fetch_module._REFUSAL_STEP_SECONDS
LIMITS = ImageLimits(max_encoded_bytes=100_000, max_url_seconds=10)


@pytest.fixture(autouse=True)
def without_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals wait for the end of a step only where a test looks at that."""
    monkeypatch.setattr(fetch_module, "_REFUSAL_STEP_SECONDS", 0.0)


def anywhere(_: object) -> bool:
    return True


# --- addresses --------------------------------------------------------------------------------------------------------

REFUSED = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.8.9.1 168.63.129.16 169.254.169.254
169.254.0.1 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.5 192.88.99.1 192.168.0.1 198.18.0.1 198.51.100.1
203.0.113.9 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1::
3fff::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1 ff0e::1
"""
ALLOWED = "1.1.1.1 8.8.8.8 93.184.215.14 172.15.0.1 172.32.0.1 2606:4700::1111 2a00:1450:4001::200e"


def test_only_public_addresses_are_public() -> None:
    for text in REFUSED.split():
        assert not is_public(ipaddress.ip_address(text)), text
    for text in ALLOWED.split():
        assert is_public(ipaddress.ip_address(text)), text


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "0", "[::1]", "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]", "169.254.169.254", "10.0.0.1", "192.168.1.1", "[fe80::1%25lo]", "[fe80::1]",
        "255.255.255.255",
    ],
)  # fmt: skip
def test_private_addresses_are_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(ImageError, match=r"^the image: \S+ has no public address$"):
        fetch(f"http://{host}:9/a.png", LIMITS)


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers("93.184.215.14", "10.1.2.3"))
    with pytest.raises(ImageError, match=r"example\.com has no public address$"):
        fetch("http://example.com/a.png", LIMITS)


def no_such_name(*_: object, **__: object) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def server_failure(*_: object, **__: object) -> Any:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def test_errors_do_not_tell_whether_a_private_name_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same words and same time, whatever the name server of this machine knows and however fast it says so."""
    monkeypatch.setattr(fetch_module, "_REFUSAL_STEP_SECONDS", STEP)

    def slowly(call: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        def getaddrinfo(*arguments: Any, **options: Any) -> Any:
            time.sleep(seconds)
            return call(*arguments, **options)

        return getaddrinfo

    told, times = set(), []
    for lookup in (
        answers("10.1.2.3"), answers("192.168.0.9", "10.0.0.1"), answers("93.184.215.14", "fd00::5"), answers(),
        answers("127.0.0.1"), no_such_name, server_failure, slowly(no_such_name, 0.4), slowly(answers("10.1.2.3"), 0.2),
    ):  # fmt: skip
        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        start = time.monotonic()
        with pytest.raises(ImageError) as caught:
            fetch("http://vault.corp.internal:8443/a.png", LIMITS)
        times.append(time.monotonic() - start)
        told.add(str(caught.value))
    assert told == {"the image: vault.corp.internal has no public address"}
    assert min(times) >= STEP and max(times) - min(times) < 0.3 * STEP, times


def test_a_redirect_does_not_tell_either(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def lookup(name: Callable[..., Any]) -> Callable[..., Any]:
        return lambda host, *rest, **options: (
            name(host, *rest) if host == "vault.corp.internal" else real(host, *rest, **options)
        )

    def is_local(address: object) -> bool:
        return str(address) == "127.0.0.1"

    told = set()
    with serving(a=to("https://vault.corp.internal/x"), b=to("http://vault.corp.internal:22/")) as (url, _):
        for path in "ab":
            for name in (answers("10.1.2.3"), no_such_name, server_failure):
                monkeypatch.setattr(socket, "getaddrinfo", lookup(name))
                with pytest.raises(ImageError) as caught:
                    fetch(f"{url}/{path}", LIMITS, may_connect=is_local)
                told.add(str(caught.value))
    assert told == {"the image: vault.corp.internal has no public address"}


def test_a_private_address_is_never_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that open, closed and filtered ports of this network are all the same."""
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, where: asked.append(where))
    for address in ("127.0.0.1", "10.0.0.1", "[::1]"):
        for port in (1, 22, 443):
            with pytest.raises(ImageError, match="has no public address"):
                fetch(f"http://{address}:{port}/", LIMITS)
    assert asked == []


@pytest.mark.parametrize(
    "talk",
    [
        lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.9 secret\r\n\r\n"),
        lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n"),
        lambda connection: connection.sendall(b"HTTP/1.1 404 secret\r\nContent-Length: 0\r\n\r\n"),
        lambda connection: connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"),
    ],
    ids=["ssh", "no chunks", "reason", "reset"],
)  # fmt: skip
def test_errors_do_not_repeat_what_a_server_said(talk: Callable[[socket.socket], object]) -> None:
    def answer(connection: socket.socket, _: threading.Event) -> None:
        connection.recv(65536)
        talk(connection)

    for scheme in ("http", "https"):
        with raw_server(answer) as url, pytest.raises(ImageError) as caught:
            get(url.replace("http:", f"{scheme}:"))
        assert not any(word in str(caught.value) for word in ("secret", "SSH", "rrno", "SSL", "_ssl")), (
            caught.value
        )


def test_a_client_who_leaves_ends_the_download() -> None:
    client = Client("someone")
    threading.Timer(0.3, client.gone.set).start()
    start = time.monotonic()
    with raw_server(silence) as url, working_for(client), pytest.raises(ChildAbandoned):
        get(url)
    assert time.monotonic() - start < 5


def answers(*addresses: str) -> Callable[..., Any]:
    def getaddrinfo(host: str, port: int, **_: object) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return getaddrinfo


# --- a server ---------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        self.server.routes[self.path](self)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None: ...

    def answer(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


def to(location: str, status: int = 302) -> Callable[[Handler], None]:
    return lambda handler: handler.answer(b"", status, Location=location)


@contextmanager
def serving(**routes: Callable[[Handler], None]) -> Iterator[tuple[str, Any]]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.seen = []
    server.routes = {f"/{name}": route for name, route in routes.items()}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def raw_server(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """One connection, handled by hand; the event is set when the test is over."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                talk(connection, over)
        except OSError:
            pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x"
    finally:
        over.set()
        listener.close()
        thread.join()


def get(url: str, limits: ImageLimits = LIMITS) -> bytes:
    return fetch(url, limits, may_connect=anywhere)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_a_body_comes_back_whole() -> None:
    body = np.random.default_rng(1).bytes(99_000)

    def chunked(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for i in range(0, len(body), 7000):
            piece = body[i : i + 7000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")

    with serving(
        plain=lambda h: h.answer(body), chunked=chunked, **{"q?a=b&c": lambda h: h.answer(b"q")}
    ) as (url, server):
        assert get(f"{url}/plain") == get(f"{url}/chunked") == body
        assert get(f"{url}/q?a=b&c#part") == b"q"
        for _, headers in server.seen:
            assert set(headers) == {"Host", "Accept-Encoding", "Accept", "User-Agent"}
            assert headers["Accept-Encoding"] == "identity" and headers["Host"] == url.removeprefix("http://")


def test_the_environment_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serving(a=lambda h: h.answer(b"direct")) as (url, _):
        assert get(f"{url}/a") == b"direct"


def test_redirects_are_followed_a_few_times() -> None:
    routes: dict[str, Any] = {
        f"hop{i}": to(f"/hop{i - 1}", (301, 302, 303, 307, 308)[i % 5]) for i in range(1, 6)
    }
    routes["hop0"] = lambda h: h.answer(b"there")
    routes["loop"] = to("loop")
    routes["nowhere"] = lambda h: h.answer(b"", 302)
    routes["script"] = to("javascript:alert(1)")
    routes["file"] = to("file:///etc/hostname")
    with serving(**routes) as (url, server):
        assert get(f"{url}/hop3") == b"there"
        for path, words in [
            ("hop4", "more than 3 redirects"), ("loop", "more than 3 redirects"), ("nowhere", "redirects to nowhere"),
            ("script", "scheme 'javascript'"), ("file", "scheme 'file'"),
        ]:  # fmt: skip
            with pytest.raises(ImageError, match=words):
                get(f"{url}/{path}")
        assert sum(path == "/loop" for path, _ in server.seen) == 4


def test_a_redirect_is_checked_like_the_first_address() -> None:
    def only_first(address: Any) -> bool:
        return str(address) == "127.0.0.1"

    with serving(evil=to("http://169.254.169.254/latest/meta-data"), other=to("http://127.0.0.2:1/")) as (
        url,
        _,
    ):
        for path, address in (("evil", "169.254.169.254"), ("other", "127.0.0.2")):
            with pytest.raises(ImageError, match=f"{address} has no public address"):
                fetch(f"{url}/{path}", LIMITS, may_connect=only_first)


def test_a_redirect_stays_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str | bytes] = ["http://example.com/b", b"from anybody"]
    monkeypatch.setattr(fetch_module, "_get", lambda *_: answers.pop(0))
    with pytest.raises(ImageError, match="redirects from https to something else"):
        fetch("https://example.com/a", ImageLimits())
    answers[:] = ["https://example.com/b", b"the picture"]
    assert fetch("http://example.com/a", ImageLimits()) == b"the picture"


def test_the_address_that_was_checked_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that answers otherwise the second time is never asked a second time."""
    real, asked = socket.getaddrinfo, []

    def rebinding(host: str, port: int, **options: Any) -> Any:
        if host != "rebind.example":
            return real(host, port, **options)
        asked.append(host)
        return answers("127.0.0.1" if len(asked) == 1 else "10.0.0.1")(host, port)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with serving(a=lambda h: h.answer(b"first")) as (url, server):
        port = url.rpartition(":")[2]
        assert get(f"http://rebind.example:{port}/a") == b"first"
        assert asked == ["rebind.example"] and server.seen[0][1]["Host"] == f"rebind.example:{port}"


def test_other_answers_are_errors() -> None:
    routes: dict[str, Any] = {
        "missing": lambda h: h.answer(b"no", 404),
        "error": lambda h: h.answer(b"no", 500),
        "partial": lambda h: h.answer(b"no", 206),
        "zipped": lambda h: h.answer(b"no", Content_Encoding="gzip"),
        "large": lambda h: h.answer(bytes(100_001)),
        "promises": lambda h: h.answer(b"", length=1 << 60),
        "short": lambda h: h.answer(b"abc", length=10),
    }
    with serving(**routes) as (url, _):
        for path, words in [
            ("missing", "answers 404"), ("error", "answers 500"), ("partial", "answers 206"),
            ("zipped", "Content-Encoding"), ("large", "100001 bytes; max_encoded_bytes is 100000"),
            ("promises", f"{1 << 60} bytes; max_encoded_bytes"), ("short", "7 bytes early|IncompleteRead"),
        ]:  # fmt: skip
            with pytest.raises(ImageError, match=f"the second: .*{words}"):
                fetch(f"{url}/{path}", LIMITS, "the second", may_connect=anywhere)


def test_an_endless_answer_is_cut_at_the_limit() -> None:
    sent = 0

    def pour(connection: socket.socket, over: threading.Event) -> None:
        nonlocal sent
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not over.is_set():
            sent += connection.send(bytes(65536))

    with raw_server(pour) as url, pytest.raises(ImageError, match="max_encoded_bytes is 100000"):
        get(url)
    assert sent < 50_000_000  # what socket buffers hold


def drip(connection: socket.socket, over: threading.Event) -> None:
    """A byte at a time, each soon enough for a plain time-out."""
    connection.recv(65536)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n" + drip_headers + b"\r\n"
    for byte in head + bytes(5000):
        if over.wait(0.02):
            return
        connection.send(bytes([byte]))


drip_headers = b""


def silence(_: socket.socket, over: threading.Event) -> None:
    over.wait()


@pytest.mark.parametrize("talk", [drip, silence], ids=["drip", "silence"])
def test_one_deadline_covers_everything(talk: Any) -> None:
    start = time.monotonic()
    with raw_server(talk) as url, pytest.raises(ImageError, match=r"within 1 s \(max_url_seconds\)"):
        get(url, ImageLimits(max_url_seconds=1))
    assert time.monotonic() - start > 0.9


def test_looking_up_a_name_has_the_deadline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
    try:
        start = time.monotonic()
        with pytest.raises(ImageError, match=r"slow\.example has no public address"):
            get("http://slow.example/", ImageLimits(max_url_seconds=1))
        assert 0.9 < time.monotonic() - start < 5
    finally:
        over.set()


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"\0" * 100, b"HTTP/9.9 banana\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab", b"HTTP/1.1 302 \r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 302 \r\nLocation: http://127.0.0.1:99999/\r\n\r\n", b"HTTP/1.1 302 \r\nLocation: \xff\xfe\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_not_http_is_an_error(answer: bytes) -> None:
    def talk(connection: socket.socket, _: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with raw_server(talk) as url, pytest.raises(ImageError):
        get(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://", "names no host"), ("http:///a", "names no host"), ("http://a b/", "percent-encoded"),
        ("http://a/\r\nX: y", "percent-encoded"), ("http://a/é", "percent-encoded"),
        ("http://a\\@b/", "percent-encoded"),
        ("http://user:secret@example.com/", "user name"), ("http://user@example.com/", "user name"),
        ("http://a:0/", "no host"), ("http://a:70000/", "[Pp]ort"), ("http://a:b/", "[Pp]ort|cast"),
        ("http://[/", "URL"),
        ("http://" + "a" * 100 + ".example/", "no public"), ("http://" + "a" * 9999, "9999 characters"),
        ("gopher://a/", "scheme"),
    ],
)  # fmt: skip
def test_odd_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        get(url)
    assert "secret" not in str(caught.value)


def test_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ImageError, match=rf"127\.0\.0\.1 takes no connection at port {port}$") as caught:
        get(f"http://127.0.0.1:{port}/")
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)  # for the log, not for the stranger


def test_https_wants_a_certificate_it_can_trust() -> None:
    def not_tls(connection: socket.socket, _: threading.Event) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with raw_server(not_tls) as url, pytest.raises(ImageError):
        get(url.replace("http:", "https:"))
    context = ssl.create_default_context()
    assert context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname  # what fetch() uses


def test_load_image_fetches_only_when_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module.fetch, "__kwdefaults__", {"may_connect": anywhere})
    with serving(p=lambda h: h.answer(b"P5 2 1 255\n\x00\xff"), html=lambda h: h.answer(b"<html>")) as (
        url,
        server,
    ):
        with pytest.raises(ImageError, match="allow_image_urls"):
            load_image(f"{url}/p")
        assert server.seen == []
        assert np.asarray(load_image(f"{url}/p", allow_urls=True)).tolist() == [[[0] * 3, [255] * 3]]
        with pytest.raises(ImageError, match="none of PNG"):
            load_image(f"{url}/html", allow_urls=True)
