"""Honest and hostile users at one server for hours, and what the honest ones saw of it.

    python tests/python/mixed_soak.py --hours 72          (make soak-72h; HOURS=2 make soak-72h)

A line of JSON every --report seconds, and a last one with the whole: times of honest users by kind (p50, p99, the
longest), their errors, memory of the server and its slope, child processes, open files, and the seconds from SIGTERM,
which comes while all of them are still there, to the end. Status 1 where a bound is broken; the last line names it.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import math
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
from PIL import Image
from serve_process import MIB, ServeProcess, slope

CHAT = "/v1/chat/completions"
DRAIN_SECONDS = 10.0
MOST_P99 = {
    "health": 1.0,
    "text": 10.0,
    "stream": 10.0,
    "schema": 20.0,
    "picture": 20.0,
}  # seconds, on two cores
_SLOPE_HOURS = 1.0  # shorter runs say nothing about growth by the hour


class Times:
    """Quantiles of millions of times in a few hundred numbers, to 2 %."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[round(math.log(max(seconds, 1e-6)) * 50)] += 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    def quantile(self, part: float) -> float:
        """0 without any."""
        left = part * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return math.exp(bucket / 50)
        return 0.0

    def summary(self) -> dict[str, float]:
        return {
            "count": self.count,
            "p50": round(self.quantile(0.5), 4),
            "p99": round(self.quantile(0.99), 4),
            "longest": round(self.longest, 3),
        }


class Refusal(Exception):
    """A reply that is no answer."""


class HonestUser:
    """Asks one question again and again from an address of its own; every answer must be the first one, and every
    refusal is an error.
    """

    def __init__(self, kind: str, port: int, source: str, body: dict[str, Any] | None, pause: float) -> None:
        self.kind = kind
        self.all = Times()
        self.latest = Times()
        self.errors: Counter[str] = Counter()
        self.ending = False  # the server is; errors are no more counted
        self._port = port
        self._source = source
        self._body = json.dumps(body).encode() if body else None
        self._pause = pause
        self._expected: str | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self.ending:
            began = time.monotonic()
            try:
                answer = self._ask()
                self._expected = answer if self._expected is None else self._expected
                wrong = "" if answer == self._expected else f"not the first answer: {answer}"
            except (OSError, http.client.HTTPException, ValueError, LookupError, Refusal) as error:
                wrong = f"{type(error).__name__}: {error}"
            seconds = time.monotonic() - began
            if self.ending:
                return
            self.all.add(seconds)
            self.latest.add(seconds)
            if wrong:
                self.errors[wrong[:200]] += 1
            time.sleep(self._pause)

    def _ask(self) -> str:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=300, source_address=(self._source, 0)
        )
        try:
            method, path = ("POST", CHAT) if self._body else ("GET", "/health")
            connection.request(
                method, path, self._body, {"content-type": "application/json"} if self._body else {}
            )
            reply = connection.getresponse()
            data = reply.read().decode()
        finally:
            connection.close()
        if reply.status != 200:
            raise Refusal(f"{reply.status} {data}")
        if self._body is None:
            return data
        if not data.startswith(("data:", ":")):
            return str(json.loads(data)["choices"][0]["message"]["content"])
        lines = [line[6:] for line in data.splitlines() if line.startswith("data: ")]
        if lines[-1] != "[DONE]":
            raise Refusal(lines[-1])
        events = [json.loads(line) for line in lines[:-1]]
        return "".join(
            choice["delta"].get("content") or "" for event in events for choice in event["choices"]
        )


def honest_bodies() -> Iterator[tuple[str, dict[str, Any] | None, float]]:
    """Kind, body and the pause between two questions."""
    out = BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(out, "PNG")
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    text = {"temperature": 0, "max_tokens": 16, "messages": [{"role": "user", "content": "Hello"}]}
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    picture = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    yield "health", None, 0.1
    yield "text", text, 0.2
    yield "stream", {**text, "stream": True}, 0.2
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    yield "schema", {**text, "response_format": form}, 0.3
    yield "picture", {**text, "messages": [{"role": "user", "content": picture}]}, 0.5


def _state(server: ServeProcess) -> dict[str, float]:
    children = server.children()
    resident = 0
    for child in children:
        try:
            resident += child.memory_info().rss
        except psutil.Error:  # it has ended meanwhile
            continue
    return {
        "memory_mib": round(server.memory() / MIB, 1),
        "children": len(children),
        "children_mib": round(resident / MIB, 1),
        "files": server.files(),
    }


def run(
    hours: float, report_seconds: float, seed: int, slack: float = 1.0
) -> tuple[dict[str, Any], list[str]]:
    """What was seen, and the bounds that were broken. slack: times as long as MOST_P99 are allowed."""
    options = (
        "--threads",
        "1",
        "--kv-cache-memory",
        "128MiB",
        "--log-level",
        "error",
        "--log-format",
        "json",
    )
    broken: list[str] = []
    memory: list[tuple[float, float]] = []
    with ServeProcess(*options, "--drain-seconds", f"{DRAIN_SECONDS:g}") as server:
        users = [
            HonestUser(kind, server.port, f"127.0.2.{i + 1}", body, pause)
            for i, (kind, body, pause) in enumerate(honest_bodies())
        ]
        for user in users:
            user.thread.start()
        time.sleep(min(5.0, hours * 3600 / 4))  # each has its expected answer
        quiet = {"quiet": {user.kind: user.all.summary() for user in users}, **_state(server)}
        print(json.dumps(quiet), flush=True)
        own = Path(__file__).with_name("mixed_hostile.py")
        command = [sys.executable, str(own), str(server.port), str(seed)]
        hostile = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert hostile.stdin is not None and hostile.stdout is not None
        try:
            hostile.stdout.readline()  # it is ready
            began = time.monotonic()
            while (left := began + hours * 3600 - time.monotonic()) > 0 and server.process.poll() is None:
                time.sleep(min(report_seconds, left))
                state = _state(server)
                memory.append(((time.monotonic() - began) / 3600, state["memory_mib"]))
                line: dict[str, Any] = {"hours": round(memory[-1][0], 3), **state}
                for user in users:
                    latest, user.latest = user.latest, Times()
                    line[user.kind] = {**latest.summary(), "errors": sum(user.errors.values())}
                print(json.dumps(line), flush=True)
            if server.process.poll() is not None:
                broken.append(f"the server has ended with status {server.process.returncode}")
            for user in users:
                user.ending = True
            report: dict[str, Any] = {
                "hours": round((time.monotonic() - began) / 3600, 3),
                "honest": {
                    user.kind: {**user.all.summary(), "errors": dict(user.errors.most_common(5))}
                    for user in users
                },
            }
            if not broken:
                report["at_the_end"] = _state(server)
                hostile.stdin.write("the server ends\n")
                hostile.stdin.flush()
                try:
                    report["seconds_from_sigterm"] = round(server.terminate(DRAIN_SECONDS + 30), 2)
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    broken.append(f"SIGTERM: {error}")
                else:
                    if report["seconds_from_sigterm"] > DRAIN_SECONDS + 5:
                        broken.append(f"SIGTERM took {report['seconds_from_sigterm']} s")
            hostile.stdin.close()
            report["hostile"] = json.loads(hostile.stdout.read())
        finally:
            hostile.kill()
            hostile.wait()
        settled = memory[len(memory) // 3 :]
        if len(settled) > 2:
            report["memory_mib_per_hour"] = round(slope(settled), 2)
            report["memory_mib"] = {
                "first": memory[0][1],
                "most": max(m for _, m in memory),
                "last": memory[-1][1],
            }
            if hours >= _SLOPE_HOURS and report["memory_mib_per_hour"] > 32 / math.sqrt(hours):
                broken.append(f"memory grows by {report['memory_mib_per_hour']} MiB an hour")
        for user in users:
            if user.errors:
                broken.append(
                    f"{user.kind}: {sum(user.errors.values())} wrong answers: {user.errors.most_common(2)}"
                )
            if not user.all.count or user.all.quantile(0.99) > MOST_P99[user.kind] * slack:
                broken.append(f"{user.kind}: p99 {user.all.quantile(0.99):.3f} s of {user.all.count}")
        if report["hostile"].get("wrong"):
            broken.append(f"{report['hostile']['wrong']} wrong replies or endless connections")
        if server.failures():
            broken.append(f"the server's log: {server.failures()[:3]}")
    return report, broken


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hours", type=float, default=72.0)
    parser.add_argument("--report", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    report, broken = run(args.hours, args.report, args.seed)
    print(json.dumps({**report, "broken": broken}), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
