"""Lets the Nth allocation, mapping or thread start fail while an engine is built, opened, stepped or served.

Run by test_allocation_faults.py with the shim preloaded:
    python allocation_fault_worker.py SCENARIO KIND COUNT FILE SCRATCH N...
COUNT calls fail from the Nth on.

Each case is a fork of this process, which has imported everything and has no threads, so that a case takes
milliseconds. It ends like any program, through the interpreter's own end. Prints one JSON object: how many cases ended
how, those that ended wrong, and after how many calls a scenario is over (a case beyond that meets no fault and ends
the list).
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import faulthandler
import http.client
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama4rt.convert  # noqa: F401  what a case imports is imported before the fork
import numpy  # noqa: F401
from llama4rt import Engine, Llama4RTError, SamplingParams, build
from llama4rt._core import EngineFile

KINDS = {"malloc": 1, "mmap": 2, "thread": 4}
HANG_SECONDS = 60.0
# Cases in a row that met no fault: threads make the number of calls differ a little from run to run.
PAST_THE_END = 200
# What CPython, OpenSSL, pybind11 and numpy make of lack of memory here and there. A build passes it on, an engine not.
FOREIGN = (RuntimeError, SystemError, TypeError, ValueError)
OPTIONS: dict[str, Any] = {"max_model_len": 64, "kv_cache_memory": "1MiB", "num_threads": 3}
PARAMS = SamplingParams(max_tokens=6, temperature=0.8, seed=1, n=2, logprobs=1, ignore_eos=True)
PROMPTS = [[1, 2, 3], [4] * 20]

shim = ctypes.CDLL(None)
shim.faults_disarm.restype = ctypes.c_long


class Faults:
    """Armed inside `with`; `calls` afterwards."""

    def __init__(self, kind: int, nth: int, count: int) -> None:
        self.kind, self.nth, self.count = kind, ctypes.c_long(nth), ctypes.c_long(count)
        self.calls = 0

    def __enter__(self) -> None:
        shim.faults_arm(self.kind, self.nth, self.count)

    def __exit__(self, *_: object) -> None:
        self.calls = shim.faults_disarm()


def open_engine(file: str, scratch: Path, faults: Faults) -> None:
    with faults:
        engine = Engine(file, **OPTIONS)
    engine.close()


def step(file: str, scratch: Path, faults: Faults) -> None:
    """From the first request on, so that all threads start inside. After an error the engine says what it is."""
    with Engine(file, **OPTIONS) as engine:
        try:
            with faults:
                outputs = engine.generate(PROMPTS, PARAMS)
        except BaseException:
            with contextlib.suppress(Llama4RTError):  # it was given up
                engine.check_usable()
                assert engine.generate(PROMPTS, PARAMS)[0].finished
            raise
        assert [len(output.outputs) for output in outputs] == [2, 2]


def build_file(file: str, scratch: Path, faults: Faults) -> None:
    target = scratch / f"{os.getpid()}.l4e"
    try:
        with faults:
            build(file, str(target), weights="int4", group_size=32)
    finally:  # the whole file or none, and nothing beside it
        left = [path.name for path in scratch.iterdir() if path.name.startswith(target.name)]
        if target.exists():
            EngineFile(str(target)).verify(1)
            target.unlink()
        assert left in ([], [target.name]), f"left behind: {left}"


def serve(file: str, scratch: Path, faults: Faults) -> None:
    """From the command line to SIGTERM, with a request in between; the client is a process that meets no faults."""
    from llama4rt.cli.main import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    server, client = os.getpid(), os.fork()
    if client == 0:
        ask_and_terminate(server, port)
    try:
        command = ["serve", file, "--port", str(port), "--kv-cache-memory", "1MiB", "--max-model-len", "64"]
        with faults:
            status = main(command)  # as the command does, exits included
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    finally:
        os.kill(client, signal.SIGKILL)
        os.waitpid(client, 0)
    if status != 0:
        raise Exited(f"status {status}")


def ask_and_terminate(server: int, port: int) -> None:
    """A reply may say that there is no memory, or not come; the server must end when it is told."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request(
                    "POST", "/v1/completions", json.dumps({"prompt": [1, 2, 3], "max_tokens": 4}),
                    {"Content-Type": "application/json"},
                )  # fmt: skip
            except ConnectionRefusedError:
                time.sleep(0.05)
                continue
            connection.getresponse().read()
            break
    with contextlib.suppress(OSError):
        os.kill(server, signal.SIGTERM)
        time.sleep(HANG_SECONDS)
    os._exit(0)


class Exited(Exception):
    """The command line ended with an error; the message is on stderr."""


SCENARIOS: dict[str, Callable[[str, Path, Faults], None]] = {
    "open": open_engine,
    "step": step,
    "build": build_file,
    "serve": serve,
}


def cpythons_own(error: BaseException) -> bool:
    """Where CPython makes a Lock, and where it forgets to say MemoryError (3.11: slices of the module re)."""
    no_lock = isinstance(error, RuntimeError) and str(error) == "can't allocate lock"
    return no_lock or (
        isinstance(error, SystemError) and "without" in str(error) and "exception" in str(error)
    )


def interpreter_crashed(message: str) -> bool:
    """CPython does not survive every lack of memory itself. Of 3.12.1 in a step a core had frames of libpython alone,
    making a function; 3.13.0 crashed in a program of a few generators, without llama4rt. No older one is known to.
    """
    crash = re.search(r"^crashed in (\S+)$", message, re.M)
    own = crash is not None and re.search(r"(libpython3|/python3?)[\w.]*$", crash[1]) is not None
    return sys.version_info >= (3, 12) and own


def case(scenario: str, file: str, scratch: Path, faults: Faults, report: int) -> None:
    """In the child. MemoryError is Python's own type for it; an OSError carries the system's word."""
    faulthandler.enable()
    shim.faults_name_crashes()
    faulthandler.dump_traceback_later(HANG_SECONDS - 10, exit=True)
    try:
        SCENARIOS[scenario](file, scratch, faults)
        end = "done"
    except (Llama4RTError, MemoryError, OSError, Exited) as error:
        end = type(error).__name__
        if not str(error) and not isinstance(error, MemoryError):
            end = f"wrong: {end} without a word"
    except BaseException as error:
        end = f"wrong: {type(error).__name__}: {error}"
        if (scenario == "build" and isinstance(error, FOREIGN)) or cpythons_own(error):
            end = f"{type(error).__name__} of a library"
    os.write(report, json.dumps([end, faults.calls]).encode())


def run_case(scenario: str, kind: str, count: int, file: str, scratch: Path, nth: int) -> tuple[str, int]:
    """How it ended, and how many calls it saw (0: it did not say)."""
    reading, writing = os.pipe()
    faults = Faults(KINDS[kind], nth, count)
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            case(scenario, file, scratch, faults, writing)
            sys.exit()
        os.close(writing)
        status = wait(child)
        data = os.read(reading, 1 << 16)
        os.close(reading)
        errors.seek(0)
        message = errors.read().decode(errors="replace").strip()
    end, calls = json.loads(data) if data else ("", 0)
    if status is None or "Timeout (" in message:
        return f"wrong: it hangs: {end} {message[-3000:]}", calls
    if os.WIFSIGNALED(status) and interpreter_crashed(message):
        return "the interpreter crashed", calls
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGSEGV, signal.SIGBUS):
        return f"wrong: signal {os.WTERMSIG(status)}: {end} {message[-3000:]}", calls
    if end == "Exited" and not message:
        return "wrong: an exit without a word", calls
    if os.WIFSIGNALED(status) or not end:
        if os.environ.get("LLAMA4RT_TEST_VERBOSE"):
            print(f"{scenario}, {kind} {nth}: status {status}, {message[-1500:]}", file=sys.stderr)
        return ("ended with a message" if message else f"wrong: ended by {status} without a word"), calls
    return end, calls


def wait(child: int) -> int | None:
    """Its status, or None when it had to be killed."""
    deadline = time.monotonic() + HANG_SECONDS
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    scenario, kind, count, file, scratch = sys.argv[1:6]
    if scenario == "serve":
        import llama4rt.server.uvicorn_server  # noqa: F401  before the fork, as above
    ends: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    length = 0
    warm, done_in_a_row = "done", 0
    for nth in [1 << 40, *map(int, sys.argv[6:])]:  # the first meets no fault
        end, calls = run_case(scenario, kind, int(count), file, Path(scratch), nth)
        if nth == 1 << 40:
            warm, length = end, calls
            continue
        if end.startswith("wrong"):
            wrong.append(f"{scenario}, {count} {kind} from {nth}: {end}")
        ends[end.split(":")[0]] += 1
        done_in_a_row = done_in_a_row + 1 if end == "done" else 0
        if nth > length and done_in_a_row == PAST_THE_END:
            break
    print(json.dumps({"without": warm, "calls": length, "ends": dict(ends), "wrong": wrong}))


if __name__ == "__main__":
    main()
