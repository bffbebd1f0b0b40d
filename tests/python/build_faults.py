"""A program for test_build_faults.py: builds under tests/faults/io_faults.c, once for each fault.

    LD_PRELOAD=io_faults.so python build_faults.py SOURCE FOLDER < cases.json > results.json

Every case is a forked child that is armed with one fault and builds SOURCE to FOLDER/out.l4e; what it left there, and
whether a clean build over it gives the same file, is the result. cases: [[what, nth call, errno, old file?], ...];
what 0: only list the calls.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import llama4rt
from llama4rt.errors import Llama4RTError

SECONDS = 60  # of one case; then it hangs

faults = ctypes.CDLL(None)
faults.io_faults_calls.restype = ctypes.c_long
faults.io_faults_hit.restype = ctypes.c_char_p
faults.io_faults_name.restype = ctypes.c_char_p
faults.io_faults_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int]
faults.io_faults_name.argtypes = faults.io_faults_flags.argtypes = [ctypes.c_long]


def digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def child(source: str, out: Path, case: list[Any], pipe: int) -> None:
    """Never returns."""
    what, nth, error, _ = case
    faults.io_faults_arm(nth, what, error)
    try:
        llama4rt.build(source, out, num_threads=1)
        result: dict[str, Any] = {"outcome": "built"}
    except (Llama4RTError, MemoryError) as problem:
        result = {"outcome": "typed error", "error": str(problem)}
    except BaseException:
        result = {"outcome": "other error", "error": traceback.format_exc()}
    faults.io_faults_disarm()
    result["hit"] = (faults.io_faults_hit() or b"").decode()
    if what == 0:
        count = faults.io_faults_calls()
        calls = [(faults.io_faults_name(i).decode(), faults.io_faults_flags(i)) for i in range(1, count + 1)]
        result["calls"] = calls
    os.write(pipe, json.dumps(result).encode())
    os._exit(0)


def run(source: str, out: Path, case: list[Any]) -> dict[str, Any]:
    """The child's own words, or how it died."""
    ends = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ends[0])
        child(source, out, case, ends[1])
    os.close(ends[1])
    signal.alarm(SECONDS)
    try:
        with os.fdopen(ends[0], "rb") as pipe:
            words = pipe.read()
        _, status = os.waitpid(pid, 0)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return {"outcome": "hang"}
    finally:
        signal.alarm(0)
    if os.WIFSIGNALED(status):
        return {"outcome": f"signal {os.WTERMSIG(status)}"}
    return dict(json.loads(words))


def main() -> None:
    def stop(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    source, folder = sys.argv[1], Path(sys.argv[2])
    out, old = folder / "out.l4e", folder.parent / "old.l4e"
    llama4rt.build(source, out, num_threads=1)  # also imports all that a build imports
    new = digest(out)
    llama4rt.build(source, old, num_threads=1, weights="bf16")
    names = {new: "new", digest(old): "old", None: "nothing"}
    cases = json.load(sys.stdin)
    results = []
    start = time.monotonic()
    for case in cases:
        for path in folder.iterdir():
            path.unlink()
        if case[3]:
            out.write_bytes(old.read_bytes())
        result = run(source, out, case)
        result["left"] = names.get(digest(out), "half a file")
        result["beside"] = sorted(path.name for path in folder.iterdir() if path != out)
        if result["outcome"] != "built":
            llama4rt.build(source, out, num_threads=1)
            result["after"] = names.get(digest(out), "another file")
            result["beside after"] = sorted(path.name for path in folder.iterdir() if path != out)
        results.append(result)
    json.dump({"results": results, "seconds": time.monotonic() - start}, sys.stdout)


if __name__ == "__main__":
    main()
