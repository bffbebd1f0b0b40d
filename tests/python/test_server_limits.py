"""Limits and faults: every refusal has OpenAI's form and names both numbers; nobody's trouble becomes another's."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

httpx2 = pytest.importorskip("httpx2")
pytest.importorskip("uvicorn")

from llama4rt import AsyncEngine, Delta, Engine, NumericError, SamplingParams  # noqa: E402
from llama4rt.demo import engine_path  # noqa: E402
from llama4rt.engine.outputs import Progress  # noqa: E402
from llama4rt.server import ServerOptions  # noqa: E402
from serving import (  # noqa: E402
    CHAT,
    ENDLESS,
    HELLO,
    RunningServer,
    address,
    engine_fixture,
    metric,
    metric_of,
    post,
    received,
    running_server,
)

KEY = "a-key-of-the-test"


engine = engine_fixture(max_num_seqs=4)


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[RunningServer]:
    options = {
        "max_waiting": 4,
        "max_body_bytes": 200_000,
        "max_images": 2,
        "max_messages": 50,
        "max_prompts": 4,
    }
    with running_server(engine, **options, receive_seconds=1.5, slow_reader_seconds=1.0) as server:
        yield server


def error_of(reply: Any) -> Any:
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    for leak in ("Traceback", "0x", ".py", "site-packages"):
        assert leak not in error["message"]
    assert reply.headers["x-request-id"]
    return error


# --- bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "empty"),
        (b"{", 400, "not JSON"),
        (b"[]", 400, ""),
        (b"5", 400, ""),
        (b'"x"', 400, ""),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, ""),
        (b'{"messages": NaN}', 400, ""),
        (b'{"temperature": NaN, "messages": [{"role": "user", "content": "a"}]}', 400, "not JSON"),
        (b'{"seed": 1' + b"0" * 5000 + b"}", 400, ""),
        (b"[" * 100_000, 400, "deeper than 64"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, 400, "deeper than 64"),
        (b" " * 200_001, 413, "200001 bytes; the limit is 200000"),
    ],
)
def test_bodies_that_are_refused(server: RunningServer, body: bytes, status: int, says: str) -> None:
    reply = post(server, CHAT, body)
    assert reply.status_code == status
    assert says in error_of(reply)["message"]


def test_a_chunked_body_is_counted_while_it_comes(server: RunningServer) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(10_000):
            sent += 10_000
            yield b" " * 10_000

    try:
        json_type = {"content-type": "application/json"}
        reply = httpx2.post(server.url + CHAT, content=chunks(), headers=json_type, timeout=60)
        assert reply.status_code == 413
    except httpx2.TransportError:
        pass  # it was refused while we still sent
    assert sent < 100_000_000


def test_a_body_one_byte_too_large_is_refused_however_it_comes(server: RunningServer) -> None:
    json_type = {"content-type": "application/json"}
    for size, refused in ((200_000, False), (200_001, True)):
        pieces = iter([b" " * (size // 2), b" " * (size - size // 2)])
        reply = httpx2.post(server.url + CHAT, content=pieces, headers=json_type, timeout=60)
        assert (reply.status_code == 413) == refused, size
    # One that says so is refused before any of it has come.
    assert b" 413 " in raw(server, json_head(200_001))


def test_other_content_types(server: RunningServer) -> None:
    reply = post(server, CHAT, b"a=b", headers={"content-type": "application/x-www-form-urlencoded"})
    assert reply.status_code == 415 and "application/json" in error_of(reply)["message"]


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"messages": [{"role": "user", "content": "a"}] * 51}, ("51", "50")),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "data:,"}] * 3}]}, ("3", "2")),
    ],
)  # fmt: skip
def test_counts_name_both_numbers(
    server: RunningServer, fields: dict[str, Any], numbers: tuple[str, str]
) -> None:
    reply = post(server, CHAT, HELLO | fields)
    assert reply.status_code == 400 and all(number in error_of(reply)["message"] for number in numbers)


def test_too_many_prompts(server: RunningServer) -> None:
    reply = post(server, "/v1/completions", {"prompt": ["a"] * 5})
    assert reply.status_code == 400 and "5 prompts; at most 4" in error_of(reply)["message"]


def test_unknown_paths_and_methods(server: RunningServer) -> None:
    assert error_of(httpx2.get(server.url + "/nothing"))["type"] == "not_found_error"
    for path in (
        "//v1/models",
        "/V1/models",
        "/v1/models/",
        "/v1/../etc/passwd",
        "/%2e%2e/x",
        "/v1/chat/completions/",
    ):
        assert httpx2.get(server.url + path).status_code in (404, 405)
    reply = httpx2.get(server.url + CHAT)
    assert reply.status_code == 405 and reply.headers["allow"] == "POST"
    assert httpx2.delete(server.url + "/v1/models").status_code == 405
    assert httpx2.head(server.url + "/health").status_code == 200


# --- the head of a request ----------------------------------------------------------------------------------------


def raw(server: RunningServer, data: bytes, seconds: float = 20) -> bytes:
    """What comes back on a connection of our own until it is closed."""
    with socket.create_connection(address(server), seconds) as connection:
        connection.sendall(data)
        return received(connection)


def json_head(length: int, more: bytes = b"") -> bytes:
    """The head of a chat request whose body has so many bytes."""
    fields = b"host: localhost\r\ncontent-type: application/json\r\n" + more
    return b"POST %s HTTP/1.1\r\n%scontent-length: %d\r\n\r\n" % (CHAT.encode(), fields, length)


def test_a_head_probe_has_no_body(server: RunningServer) -> None:
    reply = raw(server, b"HEAD /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200 ") and reply.endswith(b"\r\n\r\n")


def test_large_heads_are_refused(server: RunningServer) -> None:
    head = b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"".join(
        b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(100)
    )
    assert raw(server, head + b"connection: close\r\n\r\n").startswith(b"HTTP/1.1 431")
    small = (
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: " + b"y" * 10_000 + b"\r\n\r\n"
    )
    assert raw(server, small).startswith(b"HTTP/1.1 200")


def test_slow_requests_are_closed(server: RunningServer) -> None:
    """Neither half a head nor half a body holds a connection, and others do not notice."""
    start = time.monotonic()
    waiting = [
        b"GET /hea",
        b"",
        json_head(100) + b"{",
    ] * 8
    threads = [threading.Thread(target=raw, args=(server, data)) for data in waiting]
    for thread in threads:
        thread.start()
    assert post(server, CHAT, HELLO).status_code == 200
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < 19  # otherwise the sockets' own limit of 20 s ended them
    assert b" 408 " in raw(server, json_head(100) + b"{").split(b"\r\n")[0]


def test_garbage_on_the_socket(server: RunningServer) -> None:
    rng = random.Random(7)
    body = json.dumps(HELLO).encode()
    good = json_head(len(body), b"connection: close\r\n") + body
    for _ in range(60):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        cut = bytes(data[: rng.randrange(len(data))]) if rng.random() < 0.3 else bytes(data)
        with socket.create_connection(address(server), 20) as connection:
            connection.sendall(cut)
            if rng.random() < 0.5:
                connection.settimeout(5)
                try:
                    first = connection.recv(64)
                except OSError:
                    first = b""
                assert not first.startswith(b"HTTP/1.1 5") or b"501" in first
    assert httpx2.get(server.url + "/health").status_code == 200
    server.wait_idle()


# --- who is let in ------------------------------------------------------------------------------------------------


def test_the_key(engine: Engine) -> None:
    with running_server(engine, api_keys=(KEY, "second")) as server:
        wrong = [
            {}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": f"Basic {KEY}"},
            {"authorization": f"Bearer {KEY}x"}, {"authorization": f"Bearer {KEY[:-1]}"}, {"x-api-key": ""},
            {"x-api-key": f"{KEY}x"}, {"x-api-key": f"Bearer {KEY}"}, {"authorization": "Bearer x", "x-api-key": KEY},
        ]  # fmt: skip
        for headers in wrong:
            for path in (
                "/v1/models",
                "/metrics",
                "/nothing",
                "//v1/models",
                "/v1%2fmodels",
                "/V1/models",
                "/health/",
            ):
                reply = httpx2.get(server.url + path, headers=headers)
                assert reply.status_code == 401, path
                assert error_of(reply)["code"] == "invalid_api_key" and KEY not in reply.text
            assert post(server, CHAT, HELLO, headers=headers).status_code == 401
            assert post(server, "/tokenize", {"prompt": "a"}, headers=headers).status_code == 401
        for key in (KEY, "second"):
            for right in (
                {"authorization": f"Bearer {key}"},
                {"x-api-key": key},
            ):  # the second is Anthropic's
                assert httpx2.get(server.url + "/v1/models", headers=right).status_code == 200
        for path in ("/", "/health", "/ready", "/version"):
            assert httpx2.get(server.url + path).status_code == 200


def test_a_full_house_answers_at_once(server: RunningServer) -> None:
    """4 run and 4 wait: the ninth hears 429 and when to come again; those that are in get their answers."""
    streams = [httpx2.Client(timeout=60) for _ in range(8)]
    replies = [
        client.send(client.build_request("POST", server.url + CHAT, json=ENDLESS), stream=True)
        for client in streams[:4]
    ]
    late: list[Any] = []
    threads = [threading.Thread(target=lambda: late.append(post(server, CHAT, HELLO))) for _ in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while server.service._admitted < 8:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    reply = post(server, CHAT, HELLO)
    assert reply.status_code == 429 and int(reply.headers["retry-after"]) >= 1
    error = error_of(reply)
    assert (
        error["code"] == "rate_limit_exceeded"
        and "8 outputs" in error["message"]
        and "limit is 8" in error["message"]
    )
    assert post(server, CHAT, HELLO | {"n": 9}).status_code == 429
    for reply in replies:
        reply.close()
    for thread in threads:
        thread.join(60)
    assert [reply.status_code for reply in late] == [200] * 4
    for client in streams:
        client.close()
    server.wait_idle()


def test_clients_that_leave_free_their_blocks(server: RunningServer) -> None:
    """Before the first token, in the middle, while waiting, without ever reading. The requests would go on to the end
    of the context otherwise, so it must not be computed.
    """
    before = server.engine.stats()["generated_tokens"]
    left = metric(server, "requests_disconnected_total")
    for at in (0, 1, 5):
        with (
            httpx2.Client(timeout=60) as client,
            client.stream("POST", server.url + CHAT, json=ENDLESS) as reply,
        ):
            for i, _ in enumerate(reply.iter_raw()):
                if i >= at:
                    break
        server.wait_idle()
    body = json.dumps(ENDLESS | {"stream": False}).encode()
    head = json_head(len(body))
    for wait in (0.0, 0.05, 0.3):
        connection = socket.create_connection(address(server))
        connection.sendall(head + body)
        time.sleep(wait)
        connection.close()
        server.wait_idle()
    assert server.engine.stats()["generated_tokens"] - before < server.engine.max_model_len
    gone = metric(server, "requests_disconnected_total") - left
    assert gone >= 4  # one that is closed at once may not have become a request


def test_a_reader_that_sleeps_is_ended_and_holds_nobody(server: RunningServer, engine: Engine) -> None:
    body = json.dumps(ENDLESS | {"n": 4, "logprobs": True, "top_logprobs": 20}).encode()
    head = json_head(len(body))
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(address(server))
    connection.sendall(head + body)
    ended = metric(server, "slow_readers_total")
    expected = engine.chat(HELLO["messages"], SamplingParams(temperature=0, max_tokens=8))[0].outputs[0].text
    for _ in range(3):
        assert post(server, CHAT, HELLO).json()["choices"][0]["message"]["content"] == expected
    server.wait_idle(60)
    assert metric(server, "slow_readers_total") > ended
    connection.close()


# --- beside the answers -------------------------------------------------------------------------------------------


def test_request_ids(server: RunningServer) -> None:
    assert (
        httpx2.get(server.url + "/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"]
        == "mine-1"
    )
    for wrong in ("a b", "x" * 200, "a\tb", 'a"b'):
        got = httpx2.get(server.url + "/health", headers={"x-request-id": wrong}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", got)


def test_each_stream_carries_its_own_id_only(server: RunningServer) -> None:
    body = {"prompt": "a", "max_tokens": 1, "stream": True}
    for number in range(3):
        ours = {"x-request-id": f"stream-{number}"}
        reply = httpx2.post(f"{server.url}/v1/completions", json=body, headers=ours, timeout=60)
        assert reply.status_code == 200
        assert reply.headers.get_list("x-request-id") == [f"stream-{number}"]


@pytest.mark.parametrize("path", ["completions", "chat/completions", "responses"])
def test_the_log_counts_the_tokens_of_a_stream(
    server: RunningServer, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    question = {"completions": {"prompt": "a"}, "responses": {"input": "a"}}
    body = question.get(path, {"messages": [{"role": "user", "content": "a"}]}) | {"stream": True}
    body |= {"max_output_tokens" if path == "responses" else "max_tokens": 3}
    with caplog.at_level("INFO", "llama4rt.access"):
        assert httpx2.post(f"{server.url}/v1/{path}", json=body, timeout=60).status_code == 200
        deadline = time.monotonic() + 30  # the line is written when the reply has gone
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
    entries = [json.loads(record.getMessage()) for record in caplog.records]
    tokens = [entry["output_tokens"] for entry in entries if entry["path"] == f"/v1/{path}"]
    assert len(tokens) == 1 and 1 <= tokens[0] <= 3


def test_metrics(server: RunningServer) -> None:
    before = httpx2.get(server.url + "/metrics").text
    reply = post(server, CHAT, HELLO).json()
    post(server, CHAT, HELLO | {"temperature": 9})
    after = httpx2.get(server.url + "/metrics").text
    grown = {name: metric_of(after, name) - metric_of(before, name) for name in (
        "generation_tokens_total", "prompt_tokens_total", "time_to_first_token_seconds_count",
        "e2e_request_latency_seconds_count", "inter_token_latency_seconds_count", "requests_refused_total",
        "request_success_total", "prefix_cache_queries_total",
    )}  # fmt: skip
    usage = reply["usage"]
    assert grown["generation_tokens_total"] == usage["completion_tokens"]
    assert grown["inter_token_latency_seconds_count"] == usage["completion_tokens"] - 1
    assert grown["time_to_first_token_seconds_count"] == grown["e2e_request_latency_seconds_count"] == 1
    assert grown["requests_refused_total"] == grown["request_success_total"] == 1
    assert grown["prefix_cache_queries_total"] == usage["prompt_tokens"]
    assert metric_of(after, "num_requests_running") == metric_of(after, "num_requests_waiting") == 0
    for group in ("global", "local"):
        assert f'llama4rt:kv_cache_usage_perc{{group="{group}"}} 0.0' in after


def test_metrics_of_experts(server: RunningServer, engine: Engine) -> None:
    """Each layer's experts share the tokens that were computed: the prompt's, but for those from the cache, and all
    that were generated but the last.
    """

    def by_layer() -> dict[str, float]:
        text = httpx2.get(server.url + "/metrics").text
        counts: dict[str, float] = {}
        for expert, layer, value in re.findall(
            r'llama4rt:expert_tokens_total{expert="(\d+)",layer="(\d+)"} (\S+)', text
        ):
            assert int(expert) < engine.config["num_local_experts"]
            counts[layer] = counts.get(layer, 0) + float(value)
        return counts

    before = by_layer()
    text = f"a text of its own {random.random()}"
    usage = post(server, CHAT, HELLO | {"messages": [{"role": "user", "content": text}]}).json()["usage"]
    computed = usage["total_tokens"] - usage["prompt_tokens_details"]["cached_tokens"] - 1
    after = by_layer()
    assert len(after) == engine.config["num_hidden_layers"]  # this model has experts in every layer
    grown = {layer: after[layer] - before[layer] for layer in after}
    # An end token is computed from the last of the output, which then is not the last that was computed.
    assert set(grown.values()) in ({computed}, {computed + 1}), (grown, usage)


def test_logits_that_are_not_finite_are_a_numeric_error(tmp_path: Path) -> None:
    from test_hostile import join, split

    header, payload = split(Path(engine_path()).read_bytes())
    begin, end = header["norm"]["data_offsets"]
    path = tmp_path / "nan.l4e"
    path.write_bytes(
        join(header, payload[:begin] + b"\x00\x00\xc0\x7f" * ((end - begin) // 4) + payload[end:])
    )
    with (
        Engine(path, num_threads=1, kv_cache_memory="16MiB") as engine,
        running_server(engine) as server,
    ):
        with pytest.raises(NumericError, match="NaN or infinity"):
            engine.generate("Hello", SamplingParams(max_tokens=2))
        reply = post(server, CHAT, HELLO)
        assert reply.status_code == 500 and error_of(reply)["code"] == "numeric_error"
        last = [line for line in post(server, CHAT, HELLO | {"stream": True}).text.splitlines() if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "numeric_error"
        assert httpx2.get(server.url + "/health").status_code == 200


def test_what_waits_for_a_client_that_does_not_read_is_bounded(engine: Engine) -> None:
    """It is told why when it reads on; the engine has let its blocks go long before."""
    # Large events fill the socket soon.
    body = json.dumps(ENDLESS | {"logprobs": True, "top_logprobs": 20}).encode()
    head = json_head(len(body), b"connection: close\r\n")
    with running_server(engine, max_unread_tokens=50, slow_reader_seconds=300) as server:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(address(server))
            client.settimeout(60)
            client.sendall(head + body)
            reply = client.recv(1000)
            assert reply.startswith(b"HTTP/1.1 200")
            deadline = time.monotonic() + 60
            while metric(server, "slow_readers_total") < 1:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            while sum(group["used"] for group in engine.stats()["blocks"].values()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            while more := client.recv(1 << 16):
                reply += more
        events = [json.loads(line) for line in re.findall(rb"data: (\{.*\})\n", reply)]
        error = events[-1]["error"]
        assert error["code"] == "slow_reader" and " 50 tokens" in error["message"]
        assert len(events) > 50 and all(event["choices"] for event in events[:-1])
        server.wait_idle()
        assert post(server, CHAT, HELLO).status_code == 200


def test_progress_of_a_long_prompt(server: RunningServer, engine: Engine) -> None:
    """llama.cpp's events, when asked; nothing of them otherwise, and the same answer."""
    text = " ".join(str(random.random()) for _ in range(200))
    body = HELLO | {"messages": [{"role": "user", "content": text}], "stream": True}
    plain = post(server, CHAT, body).text
    assert "prompt_progress" not in plain
    text2 = "again " + text
    reply = post(
        server, CHAT, body | {"messages": [{"role": "user", "content": text2}], "return_progress": True}
    ).text
    events = [json.loads(line[6:]) for line in reply.splitlines() if line.startswith("data: {")]
    progress = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    total = len(engine.apply_chat_template([{"role": "user", "content": text2}]))
    assert len(progress) >= 2 and all(set(p) == {"total", "cache", "processed", "time_ms"} for p in progress)
    done = [p["processed"] for p in progress]
    assert done == sorted(set(done)) and done[-1] < total and {p["total"] for p in progress} == {total}
    assert all(event["choices"] == [] for event in events if "prompt_progress" in event)


def check_nobody_waits_for_a_long_prompt(engine: Engine, tokens: int, seconds: float) -> None:
    """Between two pieces of somebody's long prefill every running output gets its token."""
    order: list[tuple[str, Any]] = []  # as the engine thread hands them out

    async def main() -> None:
        async_engine = AsyncEngine(engine)
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()

        def deliver(name: str, item: Any) -> None:
            order.append((name, item))
            if name == "long" and isinstance(item, Delta):
                loop.call_soon_threadsafe(ended.set)

        endless = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
        short = [
            await async_engine.start([5], endless, deliver=partial(deliver, f"short {i}")) for i in range(3)
        ]
        while len({name for name, _ in order}) < 3:
            await asyncio.sleep(0.01)
        ids = [random.randrange(4, 300) for _ in range(tokens)]
        asked = SamplingParams(temperature=0, max_tokens=1, report_progress=True)
        long = await async_engine.start(ids, asked, deliver=partial(deliver, "long"))
        await asyncio.wait_for(ended.wait(), seconds)
        for running in (long, *short):
            running.close()

    asyncio.run(main())
    pieces = [i for i, (name, item) in enumerate(order) if name == "long" and isinstance(item, Progress)]
    assert len(pieces) >= tokens // 600
    for a, b in itertools.pairwise(pieces):
        between = [name for name, item in order[a:b] if isinstance(item, Delta)]
        assert sorted(between) == ["short 0", "short 1", "short 2"]


def test_a_long_prompt_holds_others_for_one_piece_at_most(engine: Engine) -> None:
    check_nobody_waits_for_a_long_prompt(engine, 12_000, 120)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_prompt_of_100k_tokens_holds_others_for_one_piece_at_most(tmp_path: Path) -> None:
    from llama4rt import build
    from tiny_checkpoints import KINDS, write_checkpoint

    short = KINDS["real_floor_scale"]
    long = dataclasses.replace(short, config=short.config | {"max_position_embeddings": 131_072})
    path = tmp_path / "long.l4e"
    build(write_checkpoint(long, tmp_path / "long"), path)
    with Engine(path, num_threads=1, kv_cache_memory="256MiB", max_num_seqs=4) as engine:
        check_nobody_waits_for_a_long_prompt(engine, 100_000, 1500)


def test_heartbeats_while_nothing_comes(engine: Engine) -> None:
    """One after the other for as long as nothing comes, then the answer."""
    with running_server(engine, heartbeat_seconds=0.1) as server:
        # Replies in one piece, which nobody has to read: streams would be paused and leave their places.
        body = json.dumps(ENDLESS | {"stream": False}).encode()
        busy = [socket.create_connection(address(server), 60) for _ in range(4)]
        for other in busy:
            other.sendall(json_head(len(body)) + body)
        deadline = time.monotonic() + 60
        while engine.stats()["running"] < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with (
            httpx2.Client(timeout=60) as client,
            client.stream("POST", server.url + CHAT, json=ENDLESS) as reply,
        ):
            lines = reply.iter_lines()
            came = []
            while len(came) < 4:
                line = next(lines)
                if line:
                    assert line == ": heartbeat"
                    came.append(time.monotonic())
            assert came[-1] - came[0] > 0.15, "they come all at once"
            for other in busy:
                other.close()
            assert any(line.startswith("data: ") for line in lines)


def test_tokens_there_and_back(server: RunningServer, engine: Engine) -> None:
    for text in ("Hello, wörld! 你好 <|eot|>", "", " "):
        reply = post(
            server, "/tokenize", {"prompt": text, "add_special_tokens": False, "return_token_strs": True}
        ).json()
        assert reply["tokens"] == engine.tokenizer.encode(text) and reply["count"] == len(reply["tokens"])
        assert reply["max_model_len"] == engine.max_model_len and len(reply["token_strs"]) == reply["count"]
        assert post(server, "/detokenize", {"tokens": reply["tokens"]}).json()["prompt"] == text
    with_bos = post(server, "/tokenize", {"prompt": "Hello"}).json()["tokens"]
    assert with_bos == engine.encode_prompt("Hello")
    chat = post(server, "/tokenize", {"messages": HELLO["messages"]}).json()["tokens"]
    assert chat == engine.apply_chat_template(HELLO["messages"])
    assert post(server, "/tokenize", {}).status_code == 400
    assert post(server, "/detokenize", {"tokens": [2**31 - 1]}).status_code == 400
    assert post(server, "/detokenize", {"tokens": [-1]}).status_code == 400


def test_without_a_tokenizer_texts_are_refused_by_400(engine_file: Callable[..., Path]) -> None:
    with (
        Engine(engine_file("scout"), num_threads=1, kv_cache_memory="64MiB", max_model_len=256) as engine,
        running_server(engine) as server,
    ):
        scored = {"prompt": [1, 20], "max_tokens": 2, "logprobs": 1}
        for path, body in ((CHAT, HELLO), ("/v1/completions", {"prompt": "a"}), ("/v1/completions", scored)):
            for stream in (False, True):
                reply = httpx2.post(server.url + path, json=body | {"stream": stream}, timeout=60)
                assert reply.status_code == 400 and "llama4rt build" in error_of(reply)["message"]
        ids = httpx2.post(
            server.url + "/v1/completions", json={"prompt": [1, 20], "max_tokens": 2}, timeout=60
        )
        assert ids.status_code == 200 and ids.json()["usage"]["completion_tokens"] == 2


def test_an_engine_that_is_gone_is_said_so() -> None:
    with Engine(engine_path(), num_threads=1, kv_cache_memory="16MiB") as engine:
        server = RunningServer(engine, ServerOptions()).start()
        engine.close()
        assert httpx2.get(server.url + "/health").status_code == 503
        assert httpx2.get(server.url + "/ready").status_code == 503
        reply = post(server, CHAT, HELLO)
        assert reply.status_code == 500 and error_of(reply)["code"] == "engine_error"
        assert httpx2.get(server.url + "/metrics").status_code == 500
        server.stop()


# --- many at once -------------------------------------------------------------------------------------------------


async def visit(client: Any, url: str, i: int, rng: random.Random, expected: dict[str, str]) -> str:
    """One client: leaves early in 3 of 10 cases, else must get what the engine says offline."""
    text = rng.choice(list(expected))
    body = {
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 24,
        "stream": i % 2 == 0,
    }
    if rng.random() < 0.3:

        async def read_some() -> None:
            async with client.stream("POST", url, json=body) as reply:
                async for _ in reply.aiter_raw():
                    if rng.random() < 0.3:
                        break

        with contextlib.suppress(asyncio.TimeoutError, TimeoutError, httpx2.HTTPError):
            await asyncio.wait_for(read_some(), rng.random() * 0.5)
        return "left"
    for _ in range(1000):
        reply = await client.post(url, json=body)
        if reply.status_code != 429:
            break
        await asyncio.sleep(0.02 + rng.random() * 0.1)
    assert reply.status_code == 200, reply.text
    if body["stream"]:
        events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
        got = "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e["choices"])
    else:
        got = reply.json()["choices"][0]["message"]["content"]
    assert got == expected[text]
    return "answered"


def test_clients_come_and_go(engine: Engine) -> None:
    """No block leaks and no answer is wrong; with a client of other people's. test_server_storm.py has more clients."""
    clients, seconds = 60, 4.0
    texts = [f"number {i} please" for i in range(12)]
    params = SamplingParams(temperature=0, max_tokens=24)
    expected = {t: engine.chat([{"role": "user", "content": t}], params)[0].outputs[0].text for t in texts}
    counts = {"left": 0, "answered": 0}

    async def main(url: str) -> None:
        end = time.monotonic() + seconds
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(timeout=None, limits=limits) as client:

            async def one(i: int) -> None:
                rng = random.Random(i * 7919)
                while time.monotonic() < end:
                    counts[await visit(client, url, i, rng, expected)] += 1

            await asyncio.gather(*(one(i) for i in range(clients)))

    # Many clients in one thread are slow to send and to come back: that is not what is tested here.
    patient = {"receive_seconds": 600.0, "keep_alive_seconds": 600, "slow_reader_seconds": 600.0}
    with running_server(engine, max_waiting=256, **patient) as server:
        asyncio.run(main(server.url + CHAT))
        server.wait_idle(60)
        assert httpx2.get(server.url + "/health").status_code == 200
    assert counts["left"] > 10 and counts["answered"] > 10, counts
