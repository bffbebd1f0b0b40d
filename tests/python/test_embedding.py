"""llama4rt inside other people's programs: fork, signals, exit, and memory over many requests.

Each test runs a small program in a process of its own, which is also what its user would write.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

PREAMBLE = """
import os, signal, sys, threading, time
from llama4rt import Engine, Llama4RTError, SamplingParams
path = sys.argv[1]
long = SamplingParams(max_tokens=None, ignore_eos=True, temperature=0.0)
short = SamplingParams(max_tokens=2, ignore_eos=True, temperature=0.0)
def threads_and_files(process):
    time.sleep(0.5)  # the kernel buries threads a moment after they were joined
    return process.num_threads(), process.num_fds()
def steady(work, windows=5):
    # Threads and files stay; returned is the median growth in bytes of windows of work(): the allocator and huge
    # pages settle in steps of megabytes, at any moment, while a leak grows in nearly every window.
    import psutil, statistics
    process = psutil.Process()
    def reading():
        work()
        return process.memory_info().rss, threads_and_files(process)
    readings = [reading() for _ in range(windows + 1)]
    assert len({held for _, held in readings}) == 1, readings
    memory = [rss for rss, _ in readings]
    return statistics.median(b - a for a, b in zip(memory, memory[1:]))
def open_engine(**options):
    return Engine(path, **({"kv_cache_memory": "64MiB", "max_model_len": 4096} | options))
"""


def start(code: str, path: Path) -> subprocess.Popen[str]:
    program = PREAMBLE + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", program, str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], code: int = 0, seconds: float = 60) -> str:
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    assert "terminate called" not in err and "Fatal Python error" not in err
    return out


def run(code: str, path: Path, seconds: float = 60) -> str:
    return finish(start(code, path), seconds=seconds)


@pytest.mark.parametrize(
    "waiting",
    [
        "engine.generate('Hello', long)",
        "engine.generate(['Hello'] * 40, long)",
        "list(engine.stream('Hello', long))",
        "engine.score([5] * 4000)",
    ],
)
def test_ctrl_c_stops_at_once(text_engine_file: Path, waiting: str) -> None:
    code = f"""
    engine = open_engine()
    engine.generate("x", short)
    print("ready", flush=True)
    try:
        while True:
            {waiting}
    except KeyboardInterrupt:
        caught = time.monotonic()
    deadline = time.monotonic() + 20
    while engine.stats()["running"] or engine.stats()["waiting"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert engine.generate("x", short)[0].finished  # and the engine still works
    print(caught)
    """
    process = start(code, text_engine_file)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    caught = float(finish(process))
    assert caught - sent < 0.5  # 100 ms on an idle machine


def test_unhandled_ctrl_c_exits_cleanly(text_engine_file: Path) -> None:
    code = """
    engine = open_engine()
    print("ready", flush=True)
    engine.generate("Hello", long)
    engine.generate(["Hello"] * 100, long)
    while True:
        engine.generate("Hello", long)
    """
    process = start(code, text_engine_file)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    finish(process, code=-signal.SIGINT, seconds=10)


@pytest.mark.parametrize("ending", ["", "sys.exit(3)", "raise SystemExit(3)", "os._exit(3)"])
def test_exit_while_busy_is_quick(text_engine_file: Path, ending: str) -> None:
    code = f"""
    engine = open_engine()
    stream = engine.stream("Hello", long)
    next(stream)
    def work():
        for _ in engine.stream("busy", long):
            pass
    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(0.2)
    print(time.monotonic(), flush=True)
    {ending}
    """
    process = start(code, text_engine_file)
    assert process.stdout is not None
    exit_began = float(process.stdout.readline())
    finish(process, code=3 if ending else 0, seconds=20)
    assert time.monotonic() - exit_began < 5


def test_a_forked_child_is_told_and_may_open_its_own(text_engine_file: Path) -> None:
    code = """
    engine = open_engine()
    first = engine.generate("Hello", short)
    busy = engine.stream("Hello", long)
    next(busy)
    pid = os.fork()
    if pid == 0:
        for call in (lambda: engine.generate("x", short), engine.stats, lambda: next(engine.stream("x", short))):
            try:
                call()
            except Llama4RTError as error:
                assert "fork" in str(error) and str(os.getppid()) in str(error)
            else:
                sys.exit(4)
        engine.close()  # of no effect here
        with open_engine() as own:
            assert own.generate("Hello", short)[0].outputs == first[0].outputs
        sys.exit(0)  # a normal exit: destructors run
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    next(busy)
    assert engine.generate("Hello", short)[0].outputs == first[0].outputs
    """
    run(code, text_engine_file)


def test_multiprocessing_spawn_works(text_engine_file: Path, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing, sys
        from llama4rt import Engine, SamplingParams
        def work(path):
            with Engine(path, kv_cache_memory="16MiB", max_model_len=64) as engine:
                return engine.generate("Hello", SamplingParams(max_tokens=3, temperature=0.0))[0].outputs[0].token_ids
        if __name__ == "__main__":
            here = work(sys.argv[1])
            with multiprocessing.get_context("spawn").Pool(2) as pool:
                assert pool.map(work, [sys.argv[1]] * 2) == [here, here]
        """)
    )
    subprocess.run([sys.executable, str(script), str(text_engine_file)], check=True, timeout=120)


def test_two_engines_and_many_openings(text_engine_file: Path) -> None:
    code = """
    with open_engine() as a, open_engine() as b:
        assert a.generate("Hello", short)[0].outputs == b.generate("Hello", short)[0].outputs
    def cycles():
        for _ in range(30):
            with open_engine() as engine:
                engine.generate([[256, 72]], short)
    assert steady(cycles) < 3 << 20  # 100 KB a cycle
    """
    run(code, text_engine_file, seconds=120)


def test_memory_is_flat_over_many_requests(text_engine_file: Path, soak: bool) -> None:
    count = 10_000 if soak else 1_000
    code = f"""
    engine = open_engine(max_model_len=256)
    def requests(count, offset):
        for i in range(offset, offset + count, 50):
            engine.generate([[256, 5 + j % 250, j // 250 % 250] for j in range(i, i + 50)],
                            SamplingParams(max_tokens=3, stop=["abc"], logprobs=1))
            next(engine.stream("x" * (i % 50 + 1), long))
    starts = iter(range(0, 10 * {count}, {count} // 4))
    assert steady(lambda: requests({count} // 4, next(starts))) < (2 << 20)
    deadline = time.monotonic() + 20
    while engine.stats()["running"] or engine.stats()["waiting"]:
        assert time.monotonic() < deadline
    assert not engine._thread._handlers
    """
    run(code, text_engine_file, seconds=280)


def test_signals_of_the_program_stay_its_own(text_engine_file: Path) -> None:
    code = """
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)}
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.append(threading.current_thread() is threading.main_thread()))
    engine = open_engine()
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
    for _ in range(20):
        engine.generate("Hello", SamplingParams(max_tokens=200, ignore_eos=True))
        if seen:
            break
    assert seen == [True]
    assert before == {s: signal.getsignal(s) for s in before}
    """
    run(code, text_engine_file)


def test_nothing_is_printed(text_engine_file: Path) -> None:
    code = """
    with open_engine() as engine:
        engine.generate("Hello", short)
        engine.chat([{"role": "user", "content": "hi"}], short)
        try:
            engine.generate("")
        except Llama4RTError:
            pass
    """
    process = start(code, text_engine_file)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


def test_threads_in_the_environment_are_read(text_engine_file: Path) -> None:
    code = """
    for text in ("0", "x", "-1"):
        os.environ["LLAMA4RT_NUM_THREADS"] = text
        try:
            open_engine()
        except Llama4RTError as error:
            assert "LLAMA4RT_NUM_THREADS" in str(error)
        else:
            sys.exit(4)
    os.environ["LLAMA4RT_NUM_THREADS"] = "1"
    open_engine().close()
    open_engine(num_threads=2).close()
    """
    run(code, text_engine_file)
