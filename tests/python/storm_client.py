"""A thousand clients in one cheap process, for test_server_storm.py: sockets and bytes, no HTTP library.

    python storm_client.py HOST PORT CLIENTS SECONDS SEED < requests and expected answers as JSON

Each client asks again and again, one question at a time, streamed or whole. Three of ten leave early: at once, while
they wait, or in the middle of the answer. All others must get the expected text. Prints counts as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from typing import Any

LEAVING = 0.3


class Reply(asyncio.Protocol):
    """One connection: sends a request, collects what comes until the server closes or `enough` bytes are there."""

    def __init__(self, request: bytes, enough: int | None) -> None:
        self._request = request
        self._enough = enough
        self.data = bytearray()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self._enough is not None and len(self.data) >= self._enough:
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def text_of(data: bytes, streamed: bool) -> str:
    head, _, body = data.partition(b"\r\n\r\n")
    if not streamed:
        return str(json.loads(body)["choices"][0]["message"]["content"])
    assert b"chunked" in head
    lines = bytearray()
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        lines += body[:length]
        body = body[length + 2 :]
    events = [json.loads(line[6:]) for line in bytes(lines).split(b"\n") if line.startswith(b"data: {")]
    assert lines.endswith(b"data: [DONE]\n\n"), bytes(lines[-300:])
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)


async def storm(
    host: str, port: int, clients: int, seconds: float, seed: int, cases: list[Any]
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    counts = {"answered": 0, "left": 0, "asked again": 0, "reset": 0, "wrong": 0}
    wrong: list[Any] = []
    open_now = most_open = 0
    end = time.monotonic() + seconds

    async def visit(rng: random.Random) -> None:
        nonlocal open_now, most_open
        body, streamed, expected = rng.choice(cases)
        request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body.encode())}\r\n\r\n{body}"
        ).encode()
        leaves = rng.random() < LEAVING
        enough = rng.randrange(1, 4000) if leaves and rng.random() < 0.5 else None
        while True:
            _, reply = await loop.create_connection(lambda: Reply(request, enough), host, port)
            open_now += 1
            most_open = max(most_open, open_now)
            try:
                if leaves and enough is None:
                    await asyncio.wait([reply.ended], timeout=rng.random() ** 3 * 30)
                else:
                    await reply.ended
            finally:
                open_now -= 1
                reply.transport.abort()
            if leaves:
                counts["left"] += 1
                return
            if not reply.data.startswith(b"HTTP/1.1 429"):
                break
            counts["asked again"] += 1
            await asyncio.sleep(0.5 + rng.random())
        try:
            assert reply.data.startswith(b"HTTP/1.1 200"), bytes(reply.data[:300])
            got = text_of(bytes(reply.data), streamed)
            assert got == expected, (got, expected)
            counts["answered"] += 1
        except Exception as error:
            counts["wrong"] += 1
            wrong.append(f"{type(error).__name__}: {error}"[:600])

    async def client(number: int) -> None:
        rng = random.Random(seed * 1_000_003 + number)
        await asyncio.sleep(rng.random() * min(seconds / 4, 10))  # not all in the same millisecond
        while time.monotonic() < end:
            try:
                await visit(rng)
            except OSError:  # the accept queue was full
                counts["reset"] += 1
                await asyncio.sleep(0.2)

    await asyncio.gather(*(client(i) for i in range(clients)))
    return {"counts": counts, "most_open": most_open, "wrong": wrong[:5]}


def main() -> None:
    host, port, clients, seconds, seed = sys.argv[1:]
    cases = json.load(sys.stdin)
    try:
        import uvloop

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    print(json.dumps(run(storm(host, int(port), int(clients), float(seconds), int(seed), cases))))


if __name__ == "__main__":
    main()
