"""Runs pytest again and again in forks of a process that has imported all but llama4rt: half of a short test's time are
imports. Each line of the input is {"arguments": [...], "limit": seconds, "output": path}; the answer is a line with the
exit status, or "hang".
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import time

LIBRARIES = (
    "numpy", "hypothesis.strategies", "httpx2", "openai", "openai.types.chat", "uvicorn.protocols.http.httptools_impl",
    "uvloop", "starlette.requests", "starlette.responses", "starlette.routing", "starlette.concurrency", "msgspec",
    "prometheus_client", "jsonschema", "tiktoken", "llguidance", "jinja2.sandbox", "PIL.Image", "psutil",
)  # fmt: skip


def run(arguments: list[str], limit: float, output: str) -> str:
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(target, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        status = 3  # pytest's own failure
        try:
            import pytest

            status = int(pytest.main(arguments))
            sys.stdout.flush()
        finally:
            os._exit(status)
    deadline = time.monotonic() + limit
    hangs = False
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended or hangs:
            break
        if time.monotonic() > deadline:
            hangs = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # children that outlive it
    return "hang" if hangs else str(os.waitstatus_to_exitcode(status))


def main() -> None:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads do not survive a fork
    for name in ("pytest", *LIBRARIES):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert "llama4rt" not in sys.modules, "each fork must import the tree's own"
    for line in sys.stdin:
        print(run(**json.loads(line)), flush=True)


main()
