"""Mutated HTTP (http_mutations.py) against a server in a process of its own: it lives, its memory is bounded, every
connection ends in bounded time, no reply is a 500, and honest requests between are answered as ever.

In make soak 1,000,000 streams (LLAMA4RT_STREAMS=N: N of them; a million take about an hour on two cores).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

httpx2 = pytest.importorskip("httpx2")
pytest.importorskip("psutil")
pytest.importorskip("uvicorn")

import http_mutations  # noqa: E402
from serve_process import MIB, ServeProcess  # noqa: E402
from serving import HELLO  # noqa: E402

TIMES = {"receive_seconds": 1.5, "keep_alive_seconds": 1, "slow_reader_seconds": 3.0, "paused_seconds": 2.0}
# The longest honest end is the sum of the times above and an answer of a whole context; a loaded machine takes longer.
PATIENCE = 60.0
GROWTH = 48 * MIB  # over all streams after the first; buffers of the connections that are open together
PART = 5000  # streams between two looks


@pytest.mark.timeout(4 * 3600)
def test_mutated_streams(soak: bool) -> None:
    count = int(os.environ.get("LLAMA4RT_STREAMS", 1_000_000)) if soak else 3000
    at_once = 256 if soak else 128
    client = str(Path(__file__).with_name("http_mutation_client.py"))
    with ServeProcess(worker={**TIMES, "drain_seconds": 5.0}) as server:
        expected = server.ask(HELLO)
        files, memory, replies, slowest = server.files(), 0, {}, 0.0
        began, first = time.monotonic(), 0
        while first < count:
            part = min(PART if soak else 1000, count - first)
            command = [
                sys.executable,
                client,
                str(server.port),
                str(first),
                str(part),
                str(at_once),
                str(PATIENCE),
            ]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            report = json.loads(ran.stdout)
            assert not report["wrong_count"], report
            assert report["streams"] == part
            for status, times in report["replies"].items():
                replies[status] = replies.get(status, 0) + times
            slowest = max(slowest, report["slowest"][0][0])
            assert server.process.poll() is None, "".join(server.errors)
            assert not server.failures(), server.failures()[:5]
            assert server.ask(HELLO) == expected
            memory = memory or server.memory()  # after the first part everything has been used once
            assert server.memory() - memory < GROWTH, (memory, server.memory(), first)
            first += part
        seconds = time.monotonic() - began
        print(f"{count} streams in {seconds:.0f} s; replies {replies}; the longest end {slowest} s; "
              f"memory {memory / MIB:.0f} MiB, later {server.memory() / MIB:.0f} MiB")  # fmt: skip
        assert replies.get("200", 0) > count / 100, "the streams are no HTTP at all"
        assert replies.get("400", 0) > count / 100, "nothing is wrong with the streams"
        server.wait_idle()
        deadline = time.monotonic() + 30
        while server.files() > files + 4:
            assert time.monotonic() < deadline, (files, server.files())
            time.sleep(0.1)
        server.terminate(5 + 5 + 20)


def test_streams_come_from_their_number_alone() -> None:
    assert [http_mutations.make(i) for i in range(50)] == [http_mutations.make(i) for i in range(50)]
    assert len({repr(http_mutations.make(i)) for i in range(1000)}) > 900  # some are whole and honest
