"""Clients that come and go by the thousand, at a server in a process of its own, as people run it.

No block leaks, no answer differs from the offline one, memory stays flat; and after `kill -9` it is back in seconds.
The long form, of `make soak`, is 1000 clients for ten minutes (LLAMA4RT_SOAK_SECONDS changes that).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("psutil")
pytest.importorskip("uvicorn")

from llama4rt import Engine, SamplingParams
from llama4rt.demo import engine_path
from serve_process import MIB, ServeProcess, slope

TOKENS = 24


@pytest.mark.timeout(7200)
def test_storm(soak: bool) -> None:
    clients, seconds = (1000, float(os.environ.get("LLAMA4RT_SOAK_SECONDS", 600))) if soak else (60, 4.0)
    texts = [f"number {i} please" for i in range(12)]
    with Engine(engine_path(), num_threads=1, kv_cache_memory="64MiB") as engine:
        params = SamplingParams(temperature=0, max_tokens=TOKENS)
        outputs = engine.chat([[{"role": "user", "content": text}] for text in texts], params)
    bodies = [
        {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": TOKENS}
        for text in texts
    ]
    cases = [
        (json.dumps(body | {"stream": stream}), stream, output.outputs[0].text)
        for body, output in zip(bodies, outputs, strict=True)
        for stream in (False, True)
    ]
    options = ("--threads", "1", "--kv-cache-memory", "64MiB", "--max-num-seqs", "32", "--max-waiting", "900")
    server = ServeProcess(*options, "--log-level", "error")
    try:
        host, port = server.url.removeprefix("http://").split(":")
        worker = Path(__file__).with_name("storm_client.py")
        command = [
            sys.executable,
            str(worker),
            host,
            port,
            str(clients),
            str(seconds),
            str(time.time_ns() % 1000),
        ]
        storm = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert storm.stdin is not None and storm.stdout is not None
        storm.stdin.write(json.dumps(cases))
        storm.stdin.close()
        began = time.monotonic()
        memory: list[tuple[float, float]] = []
        while storm.poll() is None:
            memory.append((time.monotonic() - began, server.memory() / MIB))
            time.sleep(seconds / 60)
        report = json.loads(storm.stdout.read())
        counts = report["counts"]
        print(json.dumps(report), [round(megabytes) for _, megabytes in memory[::6]])
        assert counts["wrong"] == 0, report["wrong"]
        assert counts["answered"] > clients / 2 and counts["left"] > clients / 10, counts
        assert report["most_open"] > clients * 0.8

        server.wait_idle()
        assert [server.ask(body) for body in bodies] == [output.outputs[0].text for output in outputs]
        if soak:  # after a third of the time everything has been used once
            settled = memory[len(memory) // 3 :]
            growth = slope(settled) * (settled[-1][0] - settled[0][0])
            print(f"memory grew by {growth:.1f} MiB in {settled[-1][0] - settled[0][0]:.0f} s")
            assert growth < 16, memory

        server.process.send_signal(signal.SIGKILL)
        server.process.wait(60)
        server = ServeProcess(*options, "--port", port)
        print(f"ready again after {server.seconds_to_start:.1f} s")
        assert server.url.endswith(f":{port}")
        assert server.ask(bodies[0]) == outputs[0].outputs[0].text
        server.process.terminate()
        assert server.process.wait(60) == 0
    finally:
        server.process.kill()
        server.process.wait()
