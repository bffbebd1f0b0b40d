"""Sends mutated streams (http_mutations.py) from one process, many at once, for test_server_bytes.py.

    python http_mutation_client.py PORT FIRST COUNT AT-ONCE PATIENCE [SECONDS]

A connection has PATIENCE seconds to end after its last byte was taken. SECONDS: begin no stream after that. Prints
counts, the longest ends and the findings as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import sys
import time
from collections import Counter
from typing import Any

import http_mutations

_STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")
_KNOWN = {100, 200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 429, 431, 503}


class Findings:
    def __init__(self) -> None:
        self.replies: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.slowest: list[tuple[float, int]] = []
        self.wrong: list[str] = []
        self.done = 0

    def note_end(self, number: int, seconds: float) -> None:
        self.slowest = sorted([*self.slowest, (round(seconds, 2), number)], reverse=True)[:5]


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.start = b""  # of what came
        self.statuses: list[int] = []
        self._tail = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.start = (self.start + data)[:16] if len(self.start) < 16 else self.start
        seen = self._tail + data
        self.statuses += [int(found) for found in _STATUS.findall(seen)]
        self._tail = seen[-12:]

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def send(port: int, number: int, patience: float, findings: Findings) -> None:
    stream = http_mutations.make(number)
    loop = asyncio.get_running_loop()
    try:
        transport, connection = await asyncio.wait_for(
            loop.create_connection(_Connection, "127.0.0.1", port), patience
        )
    except OSError as error:
        findings.wrong.append(f"{number}: not connected: {error}")
        return
    if not stream.reads:
        transport.pause_reading()
    try:
        for piece, pause in stream.pieces:
            if pause:
                await asyncio.sleep(pause)
            if transport.is_closing():
                break
            transport.write(piece)
        began = time.monotonic()
        if stream.end == "drip":
            while not connection.ended.done() and time.monotonic() - began < patience:
                transport.write(b"a")
                await asyncio.wait([connection.ended], timeout=stream.pause)
        elif stream.end == "half" and not transport.is_closing():
            with contextlib.suppress(OSError):
                transport.write_eof()
        elif stream.end == "reset":
            own = transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        elif stream.end == "leave":
            transport.close()
        if not stream.reads:  # what the socket holds is small; then it must see the end as all others do
            await asyncio.sleep(1.0)
            with contextlib.suppress(RuntimeError):
                transport.resume_reading()
        await asyncio.wait([connection.ended], timeout=patience)
        seconds = time.monotonic() - began
        if not connection.ended.done():
            findings.wrong.append(f"{number}: still open after {seconds:.1f} s ({stream.end})")
        findings.note_end(number, seconds)
        findings.ends[stream.end] += 1
        findings.replies.update(str(status) for status in connection.statuses)
        if connection.start and not connection.start.startswith(b"HTTP/1.1 "[: len(connection.start)]):
            findings.wrong.append(f"{number}: a reply begins {connection.start!r}")
        if unknown := set(connection.statuses) - _KNOWN:
            findings.wrong.append(f"{number}: status {unknown}")
    finally:
        transport.abort()
        findings.done += 1


async def campaign(
    port: int, first: int, count: int, at_once: int, patience: float, seconds: float
) -> Findings:
    findings = Findings()
    numbers = iter(range(first, first + count))
    until = time.monotonic() + seconds

    async def work() -> None:
        for number in numbers:
            if time.monotonic() > until or len(findings.wrong) > 100:
                return
            await send(port, number, patience, findings)

    await asyncio.gather(*(work() for _ in range(at_once)))
    return findings


def main() -> None:
    port, first, count, at_once = map(int, sys.argv[1:5])
    patience = float(sys.argv[5])
    seconds = float(sys.argv[6]) if len(sys.argv) > 6 else 1e9
    found = asyncio.run(campaign(port, first, count, at_once, patience, seconds))
    print(json.dumps({
        "streams": found.done, "replies": found.replies, "ends": found.ends, "slowest": found.slowest,
        "wrong": found.wrong[:20], "wrong_count": len(found.wrong),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
