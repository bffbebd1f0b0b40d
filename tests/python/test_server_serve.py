"""`llama4rt serve` as a process of its own: starts, answers, drains, dies and starts again."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

httpx2 = pytest.importorskip("httpx2")
pytest.importorskip("uvicorn")


class Process:
    """A running `llama4rt serve`; its log is read all the time, so that it never waits for us."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "llama4rt",
                "serve",
                "--port",
                "0",
                "--kv-cache-memory",
                "64MiB",
                "-t",
                "1",
                *args,
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "LLAMA4RT_API_KEY": ""},
        )
        self.log: list[str] = []
        self._ready = threading.Event()
        self.url = ""
        threading.Thread(target=self._read, daemon=True).start()
        assert self._ready.wait(60), self.log
        assert self.url, self.log

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if match := re.match(r"ready: (http://\S+)", line):
                self.url = match[1]
                self._ready.set()
        self._ready.set()

    def get(self, path: str, **more: Any) -> Any:
        return httpx2.get(self.url + path, timeout=30, **more)

    def chat(self, text: str = "Hello", **fields: Any) -> Any:
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8} | fields
        return httpx2.post(self.url + "/v1/chat/completions", json=body, timeout=60)


@contextlib.contextmanager
def serve(*args: str) -> Iterator[Process]:
    process = Process(*args)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()


def test_the_demo_model_is_served_without_a_file() -> None:
    with serve() as server:
        assert server.get("/health").status_code == server.get("/ready").status_code == 200
        assert server.get("/v1/models").json()["data"][0]["id"] == "demo"
        assert server.chat("a secret word").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        log = "".join(server.log)
    assert '"path": "/v1/chat/completions", "status": 200' in log and '"prompt_tokens"' in log
    assert "secret" not in log


def test_the_log_is_json_whatever_a_picture_holds(capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff would write between its lines of its own accord, as it does here."""
    import image_mutations
    from llama4rt import ImageError
    from llama4rt.images.decode import decode
    from llama4rt.images.limits import ImageLimits

    noisy: list[bytes] = []
    for seed in range(20_000):
        source = image_mutations.damaged_source(random.Random(seed))
        if not isinstance(source, bytes) or source[:2] not in (b"II", b"MM"):
            continue
        capfd.readouterr()
        with contextlib.suppress(ImageError):
            decode(source, ImageLimits())
        if capfd.readouterr().err:
            noisy.append(source)
        if len(noisy) == 3:
            break
    if not noisy:
        pytest.skip("this Pillow's libtiff is quiet")
    with serve() as server:
        for source in noisy:
            url = "data:image/tiff;base64," + base64.b64encode(source).decode()
            body = {
                "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
            }
            reply = httpx2.post(
                server.url + "/v1/chat/completions", json=body | {"max_tokens": 1}, timeout=60
            )
            assert reply.status_code in (200, 400)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
    entries = [json.loads(line) for line in server.log if not line.startswith("ready: ")]
    assert sum(entry.get("path") == "/v1/chat/completions" for entry in entries) == len(noisy)


def long_stream(server: Process, seen: threading.Event, out: list[str]) -> None:
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "ignore_eos": True,
        "n_predict": -1,
        "temperature": 0,
    }
    with (
        contextlib.suppress(httpx2.HTTPError),
        httpx2.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=60) as reply,
    ):
        for line in reply.iter_lines():
            out.append(line)
            seen.set()


def test_sigterm_drains_and_a_second_one_ends() -> None:
    with serve("--drain-seconds", "60") as server:
        seen, out = threading.Event(), []
        reader = threading.Thread(target=long_stream, args=(server, seen, out))
        reader.start()
        assert seen.wait(60)
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        while server.get("/ready").status_code != 503:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert server.get("/health").status_code == 200
        refused = server.chat()
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert server.process.poll() is None, "it waits for the stream"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        reader.join(20)
    assert '"code":"shutting_down"' in out[-1] or '"code":"shutting_down"' in out[-2]


def test_what_does_not_end_while_draining_is_told_so() -> None:
    with serve("--drain-seconds", "0.3") as server:
        seen, out = threading.Event(), []
        reader = threading.Thread(target=long_stream, args=(server, seen, out))
        reader.start()
        assert seen.wait(60)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        reader.join(20)
    assert any('"code":"shutting_down"' in line for line in out)


def test_it_starts_again_after_kill_9() -> None:
    with serve() as server:
        first = server.chat().json()["choices"]
        port = server.url.rpartition(":")[2]
        server.process.kill()
        server.process.wait()
        with serve("--port", port) as again:
            assert again.url == server.url
            assert again.chat().json()["choices"] == first


# --- never alive and deaf -----------------------------------------------------------------------------------------

# What `serve` does, with something planted. plant(server, engine) is called on the event loop.
PLANTED = """
import sys, time
from llama4rt import AsyncEngine, Engine
from llama4rt.demo import engine_path
from llama4rt.server import ServerOptions, build_app
from llama4rt.cli.supervisor import Supervisor
from llama4rt.server.uvicorn_server import Server

{plant}

def main():
    with Engine(engine_path(), num_threads=1, kv_cache_memory="16MiB") as engine:
        options = ServerOptions(drain_seconds=1.0)
        def make():
            import asyncio
            asyncio.get_running_loop().call_later(0.3, plant, server, engine)
            return build_app(AsyncEngine(engine), options)
        server = Server(make, options, host="127.0.0.1", port=0,
                        ready=lambda port: print(f"ready: http://127.0.0.1:{{port}}", file=sys.stderr, flush=True))
        Supervisor(server, options.drain_seconds).run()

try:
    main()
except Exception as error:
    sys.exit(f"error: {{error}}")
"""


@contextlib.contextmanager
def planted(plant: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL, once it is ready."""
    command = [sys.executable, "-c", PLANTED.format(plant=plant)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = ""
        while not line.startswith("ready: "):
            line = process.stderr.readline()
            assert line, "it did not start"
        yield process, line.split()[1]
    finally:
        process.kill()
        process.wait()


BLOCK_LOOP = "def plant(server, engine): time.sleep(1000)"
# The engine's thread is in a step for ever, as with a lost lock or a device that hangs.
BLOCK_STEP = """
import threading
def plant(server, engine):
    forever = threading.Event()
    engine._core = None
    engine.close = lambda: forever.wait()
"""


@pytest.mark.parametrize("plant", [BLOCK_LOOP, BLOCK_STEP], ids=["loop", "engine"])
def test_sigterm_ends_it_in_time_whatever_hangs(plant: str) -> None:
    with planted(plant) as (process, url):
        time.sleep(1.0)
        assert httpx2.get(url + "/health", timeout=20).status_code == 200
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
        assert time.monotonic() - began < 1.0 + 5.0 + 1.0  # drain, end, a loaded machine
        assert code == 1 and process.stderr is not None
        assert "did not end in time" in process.stderr.read()


DEAD_ENGINE = """
def plant(server, engine):
    from llama4rt.errors import Llama4RTError
    def dead(): raise Llama4RTError("this Engine has failed and must be opened anew: planted")
    server._app.service.engine.check_usable = dead
"""
DEAD_LOOP = """
def plant(server, engine):
    async def fail(counter): raise MemoryError("planted")
    server.on_tick = fail
"""


@pytest.mark.parametrize("plant", [DEAD_ENGINE, DEAD_LOOP], ids=["engine", "loop"])
def test_a_dead_engine_or_loop_ends_the_process_with_a_message(plant: str) -> None:
    with planted(plant) as (process, _):
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert re.search("^error: .*planted", process.stderr.read(), re.M)


def test_out_of_memory_is_no_deaf_process() -> None:
    """A large body when there is no room for it: an error, or the end with a message; never silence."""
    resource = pytest.importorskip("resource")
    psutil = pytest.importorskip("psutil")
    with serve("--drain-seconds", "1", "--max-num-seqs", "2") as server:
        assert server.chat().status_code == 200
        mapped = psutil.Process(server.process.pid).memory_info().vms
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (mapped + (4 << 20), resource.RLIM_INFINITY))
        body = json.dumps({"prompt": ["a" * 50] * 110_000}).encode()
        json_type = {"content-type": "application/json"}
        with contextlib.suppress(httpx2.HTTPError):
            reply = httpx2.post(server.url + "/v1/completions", content=body, headers=json_type, timeout=60)
            assert reply.status_code in (400, 413, 500, 503)
        time.sleep(0.5)
        if server.process.poll() is None:
            assert server.get("/health").status_code in (200, 503)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)
        assert time.monotonic() - began < 1 + 5 + 1


def test_log_formats() -> None:
    with serve("--log-format", "text") as server:
        assert server.chat(temperature=9).status_code == 400
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        log = "".join(server.log)
    line = re.search(r"^\d\d:\d\d:\d\d INFO +POST /v1/chat/completions 400 in \S+ s .*", log, re.M)
    assert line is not None and "param=temperature" in line[0] and "expected float <= 2.0" in line[0]


def test_a_port_that_is_taken_is_said_so() -> None:
    with serve() as server:
        command = [sys.executable, "-m", "llama4rt", "serve", "--port", server.url.rpartition(":")[2]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "cannot listen on 127.0.0.1" in done.stderr
        assert "Traceback" not in done.stderr


def test_wrong_options_are_named() -> None:
    for args, says, code in (
        (["--max-waiting", "0"], "argument --max-waiting: ", 2),
        (["--max-body", "many"], "argument --max-body: ", 2),
        (["--allowed-origins", "chat.example.com"], "not an origin", 1),
    ):
        command = [sys.executable, "-m", "llama4rt", "serve", *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == code and says in done.stderr and "Traceback" not in done.stderr
