"""Byte streams that begin as HTTP and go wrong: number -> what a client sends, how, and how it leaves.

A stream is made from its number alone, so a finding names the number: `python http_mutations.py NUMBER` prints it.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from dataclasses import dataclass

MAX_BYTES = 200_000
_HELLO = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 1}
_BODY = json.dumps(_HELLO).encode()
_HOST = b"host: localhost\r\n"
_JSON = b"content-type: application/json\r\n"


def _post(path: bytes, body: bytes, headers: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\n%s%s%scontent-length: %d\r\n\r\n%s" % (
        path, _HOST, _JSON, headers, len(body), body,
    )  # fmt: skip


def _chunked(body: bytes, size: int, trailers: bytes = b"", extension: bytes = b"") -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces)
    head = b"POST /v1/chat/completions HTTP/1.1\r\n%s%stransfer-encoding: chunked\r\n\r\n" % (_HOST, _JSON)
    return head + framed + b"0\r\n" + trailers + b"\r\n"


_GETS = [
    b"GET %s HTTP/1.1\r\n%s\r\n" % (path, _HOST)
    for path in (b"/health", b"/ready", b"/v1/models", b"/version", b"/v1/models/x", b"/none?a=b%20c#d")
]
SEEDS = [
    *_GETS,
    _post(b"/v1/chat/completions", _BODY),
    _post(b"/v1/chat/completions", json.dumps({**_HELLO, "stream": True}).encode()),
    _post(b"/v1/completions", b'{"prompt":[5],"max_tokens":1}', b"expect: 100-continue\r\n"),
    _post(b"/v1/responses", b'{"input":"a","max_output_tokens":1}', b"x-request-id: me\r\n"),
    _post(b"/tokenize", b'{"prompt":"Hello"}', b"connection: keep-alive\r\n"),
    _post(b"/detokenize", b'{"tokens":[1,2]}', b"upgrade: websocket\r\nconnection: upgrade\r\n"),
    _chunked(_BODY, 7),
    _chunked(_BODY, 40, b"x-trailer: value\r\nx-request-id: trailer\r\n", b";name=value"),
    b"OPTIONS /v1/models HTTP/1.1\r\n%sorigin: http://localhost\r\naccess-control-request-method: POST\r\n\r\n"
    % _HOST,
    b"HEAD /health HTTP/1.0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),  # the beginning of TLS
]
_LINES = [
    b"content-length: 5", b"content-length: -1", b"content-length: 18446744073709551616", b"content-length: 1e3",
    b"content-length: +7", b"content-length: 5, 6", b"content-length: 0x10", b"content-length:",
    b"transfer-encoding: chunked", b"transfer-encoding: identity", b"transfer-encoding: chunked, chunked",
    b"transfer-encoding: gzip, chunked", b"transfer-encoding: chunked, gzip", b"transfer-encoding : chunked",
    b"Transfer-Encoding:\x0bchunked", b"host: evil.example", b"host:", b"host: a\r\nhost: b", b"x\x00y: z",
    b"x: a\x00b", b": no name", b"no colon", b" folded: line", b"\tfolded", b"x: \xff\xfe", b"expect: 100-continue",
    b"expect: 999", b"connection: close", b"connection: upgrade", b"connection: " + b"x, " * 500,
    b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk", b"upgrade: websocket",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", b"content-type: text/plain", b"content-encoding: gzip",
    b"origin: null", b"authorization: Bearer " + b"k" * 4000, b"x-forwarded-for: 1.2.3.4", b"range: bytes=0-",
    b"x: " + b"y" * 70_000, b"cookie: " + b"a=b; " * 2000, b"x-request-id: " + b"r" * 129, b"te: trailers",
]  # fmt: skip
_WORDS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b"\xff", b" ", b"\t", b":", b"0\r\n\r\n", b"0", b"ffffffffffffffff\r\n",
    b"-1\r\n", b"1\r\n", b"80000000\r\n", b"GET ", b"POST / HTTP/1.1\r\n", b"HTTP/1.1", b"HTTP/9.9", b"HTTP/1.0",
    b"\r\n0", b"{", b"\"", b"%00", b"%", b"../", b"//", b"?" * 100, b"A" * 5000, b"\xf0\x9f\x98\x80", b"\x1b[31m",
    b";x=" + b"y" * 3000,
]  # fmt: skip
_METHODS = [
    b"GET", b"POST", b"PUT", b"DELETE", b"CONNECT", b"TRACE", b"PATCH", b"get", b"G", b"M-SEARCH", b"QUERY",
    b"A" * 3000, b"\0", b"PROPFIND", b"",
]  # fmt: skip
_TARGETS = [
    b"/", b"*", b"", b"/health", b"http://localhost/health", b"http://evil.example/v1/models", b"//health", b"/%00",
    b"/\xff\xfe", b"/v1/models/" + b"a" * 5000, b"/v1/models/%2e%2e%2f", b"/a b", b"localhost:80", b"/health\x00",
    b"/?" + b"a=b&" * 1000, b"/#", b"\\", b"/v1/models/\xf0\x9f", b"/%zz", b"/v1/chat/completions/../../health",
]  # fmt: skip
_VERSIONS = [
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/0.9",
    b"HTTP/2.0",
    b"HTTP/1.10",
    b"http/1.1",
    b"HTTP/",
    b"",
    b"ICE/1.0",
]


@dataclass(frozen=True)
class Stream:
    """pieces: (bytes, seconds to wait before they are sent). end: "wait" for the server to close, "half" close,
    "reset", "leave" at once, or "drip": a byte every `pause` seconds for as long as the server takes them.
    """

    pieces: list[tuple[bytes, float]]
    end: str
    pause: float = 0.1
    reads: bool = True


def make(number: int) -> Stream:
    rng = random.Random(number)
    data = b"".join(_request(rng) for _ in range(rng.choice([1, 1, 1, 2, 3, 8])))
    for _ in range(rng.choice([0, 0, 0, 1, 2, 5])):
        data = _damaged(data, rng)
    data = data[:MAX_BYTES]
    if rng.random() < 0.15:
        data = data[: rng.randrange(len(data) + 1)]
    pieces = _cut(data, rng)
    end = rng.choices(["wait", "half", "reset", "leave", "drip"], [40, 20, 20, 18, 2])[0]
    return Stream(pieces, end, pause=rng.choice([0.05, 0.2, 0.4]), reads=rng.random() > 0.02)


def _request(rng: random.Random) -> bytes:
    data = rng.choice(SEEDS)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        data = rng.choice([_line, _header, _header, _framing, _word, _damaged])(data, rng)
    return data


def _line(data: bytes, rng: random.Random) -> bytes:
    """Another request line."""
    first, _, rest = data.partition(b"\r\n")
    words = [*first.split(b" ", 2), b"", b""][:3]
    which = rng.randrange(3)
    words[which] = rng.choice((_METHODS, _TARGETS, _VERSIONS)[which])
    return rng.choice([b" ", b" ", b" ", b"\t", b"  "]).join(words) + b"\r\n" + rest


def _header(data: bytes, rng: random.Random) -> bytes:
    """A line more, less or twice."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    at = rng.randrange(1, len(lines) + 1)
    match rng.randrange(4):
        case 0 if at < len(lines):
            del lines[at]
        case 1 if at < len(lines):
            lines.insert(at, lines[at])
        case 2:
            lines[at:at] = [rng.choice(_LINES)] * rng.choice([1, 1, 2, 100])
        case _:
            lines.insert(at, rng.choice(_LINES))
    return rng.choice([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]).join(lines) + b"\r\n\r\n" + body


def _framing(data: bytes, rng: random.Random) -> bytes:
    """The body's framing says another thing than its bytes."""
    head, _, body = data.partition(b"\r\n\r\n")
    match rng.randrange(6):
        case 0:  # a chunk's size
            sizes = [
                b"0",
                b"1",
                b"ff",
                b"ffffffff",
                b"7fffffffffffffff",
                b"10000000000000000",
                b"-1",
                b"0x1",
                b" 5",
                b"5 ",
            ]
            body = rng.choice(sizes) + b"\r\n" + body
        case 1:  # many small chunks
            body = b"1\r\n \r\n" * rng.randrange(1, 3000) + body
        case 2:  # trailers
            body = body.removesuffix(b"\r\n") + rng.choice(_LINES) + b"\r\n" * rng.randrange(3)
        case 3:  # chunk extensions
            body = body.replace(b"\r\n", b";" + rng.choice(_WORDS) + b"=" + rng.choice(_WORDS) + b"\r\n", 1)
        case 4:
            body = body[: rng.randrange(len(body) + 1)]
        case _:
            body += rng.choice(_WORDS) * rng.randrange(1, 50)
    return head + b"\r\n\r\n" + body


def _word(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(_WORDS) + data[at + rng.choice([0, 0, 1, 4]) :]


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, gone, doubled or moved."""
    if not data:
        return data
    at, length = rng.randrange(len(data)), rng.choice([1, 1, 2, 8, 64])
    part = data[at : at + length]
    match rng.randrange(5):
        case 0:
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        case 1:
            return data[:at] + data[at + length :]
        case 2:
            return data[:at] + part * rng.choice([2, 3, 200]) + data[at + length :]
        case 3:
            return data[:at] + rng.randbytes(length) + data[at + length :]
        case _:
            to = rng.randrange(len(data))
            return data[:to] + part + data[to:]


def _cut(data: bytes, rng: random.Random) -> list[tuple[bytes, float]]:
    """How it reaches the socket: mostly at once, else in a few pieces, now and then slowly."""
    match rng.choices(["whole", "pieces", "slowly"], [70, 25, 5])[0]:
        case "whole":
            return [(data, 0.0)]
        case "pieces":
            cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 6)))
            ends = [0, *cuts, len(data)]
            return [(data[a:b], 0.0) for a, b in itertools.pairwise(ends)]
    return [(data[at : at + 1], 0.02) for at in range(min(len(data), 12))] + [(data[12:], 0.05)]


if __name__ == "__main__":
    print(make(int(sys.argv[1])))
