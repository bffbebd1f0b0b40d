"""The programs in examples/, run as people run them, and what `llama4rt bench serve` says of a server."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama4rt import Engine, SamplingParams
from llama4rt.cli.bench_serve import Request, summary, table
from llama4rt.demo import engine_path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUESTIONS = ["Hello", "What can you do?", "How are you?"]


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    with Engine(engine_path(), num_threads=1, kv_cache_memory="64MiB") as engine:
        conversations = [[{"role": "user", "content": question}] for question in QUESTIONS]
        results = engine.chat(conversations, SamplingParams(temperature=0, max_tokens=64))
        return {q: r.outputs[0].text for q, r in zip(QUESTIONS, results, strict=True)}


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "ENGINE": str(engine_path()),
        "KV_CACHE_MEMORY": "64MiB",
        "LLAMA4RT_NUM_THREADS": "1",
    }


def test_batch(answers: dict[str, str]) -> None:
    command = [sys.executable, str(EXAMPLES / "batch.py"), str(engine_path())]
    done = subprocess.run(
        command,
        input="\n".join(QUESTIONS),
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=True,
    )
    assert {line["prompt"]: line["answer"] for line in map(json.loads, done.stdout.splitlines())} == answers


def test_batch_of_nothing() -> None:
    command = [sys.executable, str(EXAMPLES / "batch.py")]
    done = subprocess.run(command, input="\n", capture_output=True, text=True, timeout=120, env=environment())
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_fastapi_service(answers: dict[str, str]) -> None:
    httpx2 = pytest.importorskip("httpx2")
    pytest.importorskip("fastapi")
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--app-dir",
        str(EXAMPLES),
        "--port",
        str(port),
        "fastapi_service:app",
    ]
    process = subprocess.Popen(
        command, env=environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: httpx2.get(url + "/docs", timeout=5).status_code == 200, process)
        for question, answer in answers.items():
            assert httpx2.post(url + "/summary", json={"text": question}, timeout=60).json() == {
                "answer": answer
            }
            assert httpx2.post(url + "/stream", json={"text": question}, timeout=60).text == answer
        for path in ("/summary", "/stream"):
            refused = httpx2.post(url + path, json={"text": "a", "max_tokens": 0}, timeout=60)
            assert refused.status_code == 400 and "max_tokens is 0" in refused.json()["detail"]
        process.terminate()
        assert process.wait(60) in (0, -15)
    finally:
        process.kill()
        process.wait()


def wait_for(ready: Any, process: subprocess.Popen[Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if ready():
                return
        except Exception:
            pass
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no Ray: make soak installs it")
def test_ray_serve_with_two_replicas(answers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both replicas answer, and answer the same; one that is killed is missed only for a moment."""
    import httpx2
    import ray
    from ray import serve

    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REPLICA_CPUS", "0.1")
    # Ray kills a proxy that has not answered within 15 seconds, and on a busy machine it imports for longer than that.
    monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "300")
    monkeypatch.setenv("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "300")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"ENGINE": str(engine_path())}})
    try:
        port = free_port()
        for _ in range(5):
            # Ray waits for a minute, and goes on where it was when asked again.
            with contextlib.suppress(TimeoutError):
                serve.start(http_options={"host": "127.0.0.1", "port": port})
                break
        import ray_serve

        serve.run(ray_serve.app)
        seen = set()
        for i in range(60):
            question = QUESTIONS[i % len(QUESTIONS)]
            reply = httpx2.post(f"http://127.0.0.1:{port}/", json={"text": question}, timeout=120).json()
            assert reply["answer"] == answers[question]
            seen.add(reply["replica"])
            if len(seen) == 2 and i > 10:
                break
        assert len(seen) == 2
        os.kill(next(iter(seen)), 9)
        for i in range(20):
            reply = httpx2.post(f"http://127.0.0.1:{port}/", json={"text": QUESTIONS[i % 3]}, timeout=120)
            assert reply.status_code == 200 and reply.json()["answer"] == answers[QUESTIONS[i % 3]]
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def served() -> Iterator[Any]:
    pytest.importorskip("uvicorn")
    from serving import running_server

    with (
        Engine(engine_path(), num_threads=1, kv_cache_memory="64MiB") as engine,
        running_server(engine, api_keys=("k",)) as server,
    ):
        yield server


def test_agent_loop(served: Any) -> None:
    openai = pytest.importorskip("openai")
    spec = importlib.util.spec_from_file_location("agent_loop", EXAMPLES / "agent_loop.py")
    assert spec is not None and spec.loader is not None
    agent = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(agent)
    calls: list[str] = []
    with openai.OpenAI(base_url=served.url + "/v1", api_key="k", max_retries=0) as client:
        answer = agent.run_agent(client, "What is 12 plus 30?", calls.append, must_call=True)
    # Whether a call is wise depends on the model; that it is run, and answered, does not.
    assert calls and answer
    for call in calls:
        found = re.fullmatch(r"(add|multiply)\((.*)\) = (.*)", call)
        assert found is not None, call
        numbers = json.loads(found[2])
        wanted = numbers["a"] + numbers["b"] if found[1] == "add" else numbers["a"] * numbers["b"]
        assert float(found[3]) == pytest.approx(wanted)
    assert agent.run_call("fly", "{}") == "error: there is no function fly; there are add, multiply"
    for wrong in ("no JSON", "[]", '{"a": 1}', '{"a": [], "b": 2}'):
        assert agent.run_call("add", wrong).startswith("error: ")


def test_long_text_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("There was a red square on a hill. " * 60 + "The code is 4711.")
    command = [
        sys.executable,
        str(EXAMPLES / "long_text.py"),
        str(tmp_path / "text.txt"),
        str(tmp_path / "kv"),
    ]
    runs = [
        subprocess.run(
            command,
            input="What is the code?\n\nWhat can you do?\n",
            capture_output=True,
            text=True,
            timeout=120,
            env=environment(),
            check=True,
        ).stdout.splitlines()
        for _ in range(2)
    ]
    (read, *first), second = runs
    tokens = int(read.removeprefix("read: ").removesuffix(" tokens"))
    assert tokens > 500
    for line, again in zip(first, second, strict=True):
        (said, reused), (said_again, reused_again) = (
            re.split(r" \[(?=\d+ tokens)", x) for x in (line, again)
        )
        assert said == said_again
        assert min(int(x.split()[0]) for x in (reused, reused_again)) > tokens - 40


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llama4rt", "bench", "serve", "--num-prompts", "6", *args]
    command += ["--random-input-len", "20", "--random-output-len", "9", "--max-concurrency", "3"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_bench_serve(served: Any) -> None:
    done = bench("--base-url", served.url, "--api-key", "k", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["completed"] == 6 and report["failed_requests"] == 0
    assert report["total_input_tokens"] == 120 and report["total_output_tokens"] == 54
    assert report["output_throughput"] == pytest.approx(54 / report["duration"])
    for name in ("ttft", "e2el"):
        assert 0 < report[f"median_{name}_ms"] <= report[f"p99_{name}_ms"]
    for name in ("tpot", "itl"):  # no figure where a busy machine sent all of an answer in one piece
        median = report[f"median_{name}_ms"]
        assert median is None or 0 < median <= report[f"p99_{name}_ms"]
    assert report["mean_ttft_ms"] < report["mean_e2el_ms"]
    done = bench("--base-url", served.url, "--api-key", "k", "--request-rate", "50")
    for words in (
        "Request throughput (req/s):",
        "Mean TTFT (ms):",
        "Median TPOT (ms):",
        "P99 ITL (ms):",
        "Mean E2EL",
    ):
        assert words in done.stdout
    served.wait_idle()


def test_bench_serve_sums_up_in_the_words_of_vllm() -> None:
    slow = Request(input_tokens=7, output_tokens=5, times=[0.1, 0.2, 0.5], end=0.6)
    at_once = Request(input_tokens=3, output_tokens=4, times=[0.2], end=0.3)
    report = summary([slow, at_once], 2.0)
    assert (report["total_input_tokens"], report["total_output_tokens"]) == (10, 9)
    assert report["output_throughput"] == 4.5 and report["total_token_throughput"] == 9.5
    assert report["mean_ttft_ms"] == pytest.approx(150) and report["median_e2el_ms"] == pytest.approx(450)
    assert (
        report["mean_tpot_ms"] == report["p99_tpot_ms"] == pytest.approx(100)
    )  # of `slow`: 0.4 s for 4 tokens
    assert report["mean_itl_ms"] == pytest.approx(200) and report["p99_itl_ms"] == pytest.approx(300)
    alone = summary([at_once], 1.0)
    assert alone["median_tpot_ms"] is None and alone["p99_itl_ms"] is None and alone["median_ttft_ms"] == 200
    shown = table({**alone, "failed_requests": 0})
    assert re.search(r"^Median ITL \(ms\): +-$", shown, re.M) and "Mean TTFT (ms):" in shown


def test_bench_serve_says_what_failed(served: Any) -> None:
    done = bench("--base-url", served.url, "--api-key", "wrong")
    assert done.returncode == 1 and "6 requests failed" in done.stderr and "401" in done.stderr
    done = bench("--base-url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1 and "6 requests failed" in done.stderr
