"""`llama4rt serve` in a process of its own, as people run it, with its memory, children and files seen from outside."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import httpx2
import psutil
from llama4rt.demo import engine_path
from serving import metric_of

MIB = 1 << 20


class ServeProcess:
    """On a free port. worker: ServerOptions that the command line does not have; then serve_worker.py runs it."""

    def __init__(self, *options: str, worker: dict[str, Any] | None = None) -> None:
        command = [sys.executable, "-m", "llama4rt", "serve", str(engine_path()), "--port", "0", *options]
        if worker is not None:
            own = str(Path(__file__).with_name("serve_worker.py"))
            command = [sys.executable, own, str(engine_path()), json.dumps(worker)]
        began = time.monotonic()
        self.errors: deque[str] = deque(maxlen=2000)  # the latest lines of stderr
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
        assert self.process.stderr is not None
        line = ""
        for line in self.process.stderr:
            self.errors.append(line)
            if line.startswith("ready: "):
                break
        assert line.startswith("ready: "), "".join(self.errors)
        self.seconds_to_start = time.monotonic() - began
        self.url = line.split()[1]
        self.port = int(self.url.rpartition(":")[2])
        threading.Thread(target=self._read_on, daemon=True).start()

    def _read_on(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line)

    def __enter__(self) -> ServeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def failures(self) -> list[str]:
        """What the log says of faults of the server itself."""
        return [line for line in list(self.errors) if "Traceback" in line or "internal_error" in line]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def files(self) -> int:
        return psutil.Process(self.process.pid).num_fds()

    def memory(self) -> int:
        """Resident bytes of the server without its children."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def forget_peak(self) -> int:
        """Resident bytes now; peak() counts from here."""
        with open(f"/proc/{self.process.pid}/clear_refs", "w") as file:
            file.write("5")
        return self.memory()

    def peak(self) -> int:
        """The most resident bytes since forget_peak()."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        assert found
        return int(found[1]) * 1024

    def metric(self, name: str) -> float:
        text = httpx2.get(self.url + "/metrics", timeout=60).text
        assert f"\nllama4rt:{name}" in text, name
        return metric_of(text, name)

    def ask(self, body: Any) -> str:
        reply = httpx2.post(self.url + "/v1/chat/completions", json=body, timeout=120)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["message"]["content"])

    def wait_idle(self, seconds: float = 60) -> None:
        """Nobody is let in, nothing runs or waits, and no block is used."""
        deadline = time.monotonic() + seconds
        names = (
            "num_requests_running",
            "num_requests_waiting",
            "num_requests_admitted",
            "kv_cache_used_blocks",
        )
        while held := [name for name in names if self.metric(name)]:
            assert time.monotonic() < deadline, held
            time.sleep(0.05)

    def terminate(self, seconds: float) -> float:
        """SIGTERM; the seconds until the process had ended, with status 0 and without children left."""
        children = self.children()
        began = time.monotonic()
        self.process.terminate()
        assert self.process.wait(seconds) == 0, self.process.returncode
        took = time.monotonic() - began
        deadline = time.monotonic() + 5
        while any(_runs(child) for child in children):
            assert time.monotonic() < deadline, "children outlive the server"
            time.sleep(0.05)
        return took


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def slope(values: list[tuple[float, float]]) -> float:
    """Of the straight line through (x, y) that fits best."""
    x0 = sum(x for x, _ in values) / len(values)
    y0 = sum(y for _, y in values) / len(values)
    return sum((x - x0) * (y - y0) for x, y in values) / sum((x - x0) ** 2 for x, _ in values)


def quantile(values: list[float], part: float) -> float:
    """0 of no values."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else 0.0
