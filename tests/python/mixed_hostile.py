"""Hostile users of test_server_mixed.py and mixed_soak.py, each a thread with an address of its own.

    python mixed_hostile.py PORT SEED

Prints "ready" first. A line on stdin says that the server is about to end: what goes wrong afterwards does not count.
When stdin closes it prints how often each kind has asked, and which replies came, as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import random
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import http_mutation_client
from hostile_bodies import KINDS, PATHS, SHAPES, body_of, fields_of
from hostile_grammars import HOSTILE as GRAMMARS
from hostile_pictures import animated_webp, bmp_of_runs, jpeg_of_scans, jpeg_of_segments, png_of_chunks, webp
from llama4rt.server import protocol

CHAT = PATHS[protocol.ChatRequest]
_PIECES = [
    "<|eot|>",
    "<|header_start|>",
    "system",
    "<|header_end|>",
    "<",
    "|",
    "<|python_start|>",
    " ",
    "\n",
    "[f(a=",
    "{",
]


class Hostile:
    ending = threading.Event()  # the server is
    stop = threading.Event()

    def __init__(self, port: int, source: str, seed: int, counts: Counter[str]) -> None:
        self.port = port
        self.source = source
        self.rng = random.Random(seed)
        self.counts = counts

    def post(self, path: str, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=300, source_address=(self.source, 0)
        )
        try:
            connection.request("POST", path, data, {"content-type": "application/json"})
            reply = connection.getresponse()
            reply.read()
            self.counts[f"status {reply.status}"] += 1
            if reply.status >= 500 and reply.status != 503:
                self.counts["wrong"] += 1
                print(path, data[:300], file=sys.stderr)
        finally:
            connection.close()

    def unread(self, body: dict[str, Any]) -> socket.socket:
        """A request whose reply nobody reads."""
        data = json.dumps(body).encode()
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.bind((self.source, 0))
        connection.connect(("127.0.0.1", self.port))
        head = b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        connection.sendall(head % (CHAT.encode(), len(data)) + data)
        return connection

    # --- kinds: each asks once ----------------------------------------------------------------------------------

    def bytes(self) -> None:
        first = self.rng.randrange(1 << 40)
        found = asyncio.run(http_mutation_client.campaign(self.port, first, 100, 10, 150.0, 1e9))
        if self.ending.is_set():
            return
        self.counts["wrong"] += len(found.wrong)
        for wrong in found.wrong[:3]:
            print(wrong, file=sys.stderr)

    def bodies(self) -> None:
        kind = self.rng.choice(KINDS)
        size = self.rng.choice([1 << 10, 32 << 10, 256 << 10, 1 << 20, 1 << 20, 4 << 20, 31 << 20])
        field, shape = self.rng.choice(fields_of(kind)), self.rng.choice(list(SHAPES))
        self.post(PATHS[kind], body_of(kind, field, SHAPES[shape](size)))

    def grammars(self) -> None:
        name = self.rng.choice(list(GRAMMARS))
        kind, source = GRAMMARS[name]
        if kind == "json_schema":
            source = {**source, "title": str(self.rng.random())}  # another one than the last time
        self.post(
            CHAT,
            {
                **_say("Hello"),
                "max_tokens": 8,
                "guided_json" if kind == "json_schema" else f"guided_{kind}": source,
            },
        )

    def pictures(self) -> None:
        rng = self.rng
        data = rng.choice([
            lambda: jpeg_of_scans(rng.choice([64, 2000, 8000]), rng.choice([3, 100, 500])),
            lambda: jpeg_of_segments(rng.choice([10, 100_000])),
            lambda: webp(rng.choice([10, 1000, 9000])),
            lambda: animated_webp(rng.choice([10, 2000])),
            lambda: bmp_of_runs(rng.choice([10, 1000])),
            lambda: png_of_chunks(rng.choice([10, 100_000])),
        ])()  # fmt: skip
        if rng.random() < 0.5:
            at = rng.randrange(len(data))
            data = data[:at] + rng.randbytes(8) + data[at + 8 :]
        url = "data:image/png;base64," + base64.b64encode(data).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}] * rng.choice([1, 1, 3])
        self.post(CHAT, {"messages": [{"role": "user", "content": content}], "max_tokens": 4})

    def slow_readers(self) -> None:
        body = {**_say("Hello"), "stream": True, "ignore_eos": True, "n": 4}
        held = [self.unread({**body, "seed": self.rng.randrange(1000)}) for _ in range(8)]
        self.stop.wait(self.rng.choice([1.0, 15.0]))
        for connection in held:
            connection.close()

    def leavers(self) -> None:
        body = {
            **_say("Hello " * self.rng.choice([1, 500])),
            "stream": self.rng.random() < 0.5,
            "ignore_eos": True,
        }
        held = [self.unread(body) for _ in range(50)]
        self.stop.wait(self.rng.choice([0.0, 0.1, 1.0]))
        for connection in held:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()

    def texts(self) -> None:
        """Long prompts, control tokens, and templates' variables."""
        rng = self.rng
        text = "".join(rng.choice(_PIECES) for _ in range(rng.choice([10, 1000, 20_000])))
        function = {
            "name": "f",
            "description": text[:2000],
            "parameters": {"type": "object", "properties": {text[:50]: {}}},
        }
        body = {
            "messages": [
                {
                    "role": rng.choice(["user", "system", "tool", text[:60]]),
                    "content": text,
                    "name": text[:40],
                },
                {"role": "user", "content": "Hello"},
            ],
            "tools": [{"type": "function", "function": function}] if rng.random() < 0.5 else None,
            "chat_template_kwargs": {text[:9]: text[:100], "bos_token": text[:20]}
            if rng.random() < 0.5
            else None,
            "max_tokens": 16,
            "temperature": 2,
        }
        self.post(CHAT, body)

    def run(self, kind: str, pause: float) -> None:
        ask: Callable[[], None] = getattr(self, kind)
        while not self.stop.wait(pause * self.rng.random()):
            with contextlib.suppress(OSError, http.client.HTTPException):  # the server may end a connection
                ask()
            self.counts[kind] += 1


# Seconds that a kind waits at most between two questions: what one process can send beside the others.
HOSTILE_KINDS = {
    "bytes": 1.0, "bodies": 1.0, "grammars": 0.5, "pictures": 1.0, "slow_readers": 2.0, "leavers": 2.0, "texts": 0.5,
}  # fmt: skip


def _say(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def main() -> None:
    port, seed = int(sys.argv[1]), int(sys.argv[2])
    counts: Counter[str] = Counter()
    threads = []
    for i, (kind, pause) in enumerate(HOSTILE_KINDS.items()):
        hostile = Hostile(port, f"127.0.1.{i + 1}", seed * 100 + i, counts)
        threads.append(threading.Thread(target=hostile.run, args=(kind, pause), daemon=True))
        threads[-1].start()
    print("ready", flush=True)
    sys.stdin.readline()
    Hostile.ending.set()
    sys.stdin.read()
    Hostile.stop.set()
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
