"""A few seconds of mixed_soak.py, which people can start for days: `make soak-72h`."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("psutil")
pytest.importorskip("uvicorn")

from mixed_soak import HonestUser, Times, run


@pytest.mark.timeout(3600)
def test_honest_users_among_hostile_ones(soak: bool) -> None:
    """Ten minutes in make soak."""
    report, broken = run(
        600 / 3600 if soak else 12 / 3600, 10.0 if soak else 2.0, seed=7, slack=1.0 if soak else 4.0
    )
    print(json.dumps(report))
    assert not broken, broken
    assert sum(report["hostile"].values()) > (1000 if soak else 0), report


class Refuses(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(503)

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_refuses_everybody_is_noticed() -> None:
    """Equal replies alone are no answers."""
    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        user = HonestUser("text", server.server_port, "127.0.0.1", {"messages": []}, 0.01)
        user.thread.start()
        deadline = time.monotonic() + 60
        while user.all.count < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        user.ending = True
        user.thread.join(60)
        server.shutdown()
    assert sum(user.errors.values()) == user.all.count >= 3
    assert all(error.startswith("Refusal: 503") for error in user.errors), user.errors


def test_times() -> None:
    times = Times()
    for i in range(1, 1001):
        times.add(i / 1000)
    assert abs(times.quantile(0.5) - 0.5) < 0.02 and abs(times.quantile(0.99) - 0.99) < 0.03
    assert times.summary()["longest"] == 1.0 and Times().quantile(0.5) == 0.0
