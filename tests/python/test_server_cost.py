"""What a hostile body costs: time and memory grow with its size and with nothing else, whatever field holds what.

Every field of every request, and every shape below, goes through the code that an endpoint runs before it may refuse.
The yardstick is json.loads of the same bytes, in processor time of the thread.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import threading
import time
import tracemalloc
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

pytest.importorskip("starlette")

from hostile_bodies import KINDS, SHAPES, body_of, fields_of, listed
from llama4rt import _core
from llama4rt.server import protocol
from llama4rt.server.api_errors import ApiError
from llama4rt.server.chat_messages import plain_messages, template_options, text_size
from llama4rt.server.constraints import forced_call, structured_output
from llama4rt.server.http import parse
from llama4rt.server.open_json import MAX_JSON_BYTES, MAX_TOKENS, prompts, token_ids
from llama4rt.server.response_input import kept_form
from llama4rt.server.responses import chat_request
from llama4rt.server.sampling_fields import sampling_params

MAX_TEXT = 1 << 20  # bytes of a context
FLOOR_MEMORY = 24 << 20  # of 2^17 small objects, or 2^19 token ids: the most that may come of a small body
FLOOR_SECONDS = 0.15  # what the garbage collector and the first use of a decoder take, whatever the body


def read(kind: Any, body: bytes) -> str:
    """What the endpoint does with the body before the engine sees it. "" or the refusal."""
    try:
        request = parse(kind, body, max_text=MAX_TEXT)
        if isinstance(request, protocol.DetokenizeRequest):
            token_ids(request.tokens, "tokens")
        elif isinstance(request, protocol.CompletionRequest):
            prompts(request.prompt, max_prompts=256, max_tokens=10_000)
            structured_output(request, request.response_format)
        if isinstance(request, protocol.ResponsesRequest):
            for name in ("text", "tools", "tool_choice", "metadata"):
                kept_form(getattr(request, name), name)
            request, _ = chat_request(request)
        if isinstance(request, protocol.ChatRequest | protocol.TokenizeRequest) and request.messages:
            if text_size(request, request.tools or ()) > MAX_TEXT:
                raise ApiError(400, "too much text")
            plain_messages(request.messages, max_messages=2048, max_images=10)
            template_options(request, request.tools or ())
        if isinstance(request, protocol.ChatRequest):
            structured_output(request, request.response_format)
            forced_call(request)
        if isinstance(request, protocol.Sampling):
            sampling_params(request, max_tokens=10, logprobs=None)
    except ApiError as error:
        refusal = error
    else:
        return ""
    assert refusal.status == 400
    assert len(refusal.message) < 1000 and len(refusal.param or "") <= 200, "the refusal grows with the body"
    return refusal.message


@pytest.fixture(autouse=True, scope="module")
def only_what_bodies_make() -> Iterator[None]:
    """What other tests have loaded (torch, transformers) is no business of the garbage collector's passes here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@cache
def yardstick(shape: str, size: int) -> float:
    """Seconds of json.loads of the value, or of as far as it comes."""
    value = SHAPES[shape](size)
    started = time.thread_time()
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(value)
    return time.thread_time() - started


def check(kind: Any, field: str, shape: str, size: int, failures: list[str]) -> None:
    body = body_of(kind, field, SHAPES[shape](size))
    started = time.thread_time()
    read(kind, body)
    seconds = time.thread_time() - started
    # Some shapes json.loads refuses at once, and a body that is well-formed must be read to its end.
    most = FLOOR_SECONDS + 3 * max(yardstick(shape, size), len(body) / 200e6)
    if seconds > most:
        failures.append(f"{kind.__name__}.{field}: {shape} of {size}: {seconds:.3f} s, at most {most:.3f}")
    tracemalloc.start()
    read(kind, body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if peak > 4 * len(body) + FLOOR_MEMORY:
        failures.append(f"{kind.__name__}.{field}: {shape} of {size}: {peak / len(body):.1f} x the body")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_with_every_shape(kind: Any) -> None:
    failures: list[str] = []
    for field in fields_of(kind):
        for shape in SHAPES:
            check(kind, field, shape, 64 << 10, failures)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("size", [1 << 20, 8 << 20], ids=["1MiB", "8MiB"])
def test_large_bodies(size: int, soak: bool) -> None:
    """Fields that take lists, objects or text; all of them in make soak."""
    failures: list[str] = []
    fields = [
        "messages",
        "tools",
        "prompt",
        "input",
        "tokens",
        "stop",
        "logit_bias",
        "allowed_token_ids",
        "user",
    ]
    cases = [(kind, field, shape) for kind in KINDS for field in fields_of(kind) for shape in SHAPES]
    if not soak:
        cases = [case for case in cases if case[1] in fields]
        cases = random.Random(13).sample(cases, len(cases) // (2 if size <= 1 << 20 else 6))
    for kind, field, shape in cases:
        check(kind, field, shape, size, failures)
    assert not failures, "\n".join(failures)


@pytest.mark.soak
def test_bodies_of_32_mib() -> None:
    failures: list[str] = []
    for kind in KINDS:
        for field in fields_of(kind):
            for shape in SHAPES:
                check(kind, field, shape, 32 << 20, failures)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        # One wrong element at the end, or of every branch of a union.
        (protocol.CompletionRequest, "prompt", listed(b'"a"', b"1")(8 << 20)),
        (protocol.CompletionRequest, "prompt", listed(b"1", b'"a"')(8 << 20)),
        (protocol.CompletionRequest, "prompt", listed(b"[1]", b'["a"]')(8 << 20)),
        (protocol.ResponsesRequest, "input", listed(b"1")(8 << 20)),
        (protocol.ChatRequest, "messages", listed(b'{"role":"a","content":[1]}')(8 << 20)),
    ],
)
def test_a_refusal_names_one_thing(kind: Any, field: str, value: bytes) -> None:
    tracemalloc.start()
    message = read(kind, body_of(kind, field, value))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message and len(message) < 300
    assert peak < 2 * len(value) + (1 << 20), f"{peak / len(value):.1f} x the body"


def test_others_run_while_a_large_body_is_looked_at() -> None:
    """The first pass has let go of the interpreter's lock: another thread runs beside it."""
    body = body_of(protocol.ChatRequest, "user", SHAPES["brackets"](64 << 20))
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        started = time.perf_counter()
        for _ in range(5):
            _core.json_shape(body, 300)
        seconds = time.perf_counter() - started
    finally:
        stop.set()
        thread.join()
    during = [at for at in ticks if started <= at <= started + seconds]
    assert len(during) >= 10, f"{len(during)} ticks in {seconds:.3f} s"


def test_limits_are_where_they_are_said_to_be() -> None:
    def messages(count: int) -> bytes:
        return body_of(protocol.ChatRequest, "user", b"[" + b",".join([b'""'] * count) + b"]")

    fits = (1 << 17) - 30
    assert read(protocol.ChatRequest, messages(fits)) == ""
    assert read(protocol.ChatRequest, messages(fits + 100)) == (
        f"the body has more than {1 << 17} texts, names, lists and objects"
    )
    many = b'{"prompt":"a"' + b"".join(b',"f%d":1' % i for i in range(256)) + b"}"
    assert "more than 256 fields" in read(protocol.CompletionRequest, many)
    tokens = b"[" + b"1," * MAX_TOKENS + b"1]"
    assert f"has {MAX_TOKENS + 1} entries" in read(
        protocol.DetokenizeRequest, body_of(protocol.DetokenizeRequest, "tokens", tokens)
    )
    schema = b'{"a":"' + b"x" * MAX_JSON_BYTES + b'"}'
    assert f"at most {MAX_JSON_BYTES} are allowed" in read(
        protocol.ChatRequest, body_of(protocol.ChatRequest, "guided_json", schema)
    )


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a":' * 3000 + "1" + "}" * 3000,
        "[" * 3000 + "]" * 3000,
        '[{"a":' * 1500 + "1" + "}]" * 1500,
        '{"a":' * 65 + "1" + "}" * 65,
    ],
)
def test_deep_arguments_are_the_clients_mistake(arguments: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = json.dumps([{"role": "assistant", "tool_calls": [call]}]).encode()
    message = read(protocol.ChatRequest, body_of(protocol.ChatRequest, "messages", messages))
    assert message.startswith("messages.0.tool_calls.0.function.arguments: is nested")
    item = json.dumps(
        [{"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}]
    ).encode()
    assert "is nested" in read(protocol.ResponsesRequest, body_of(protocol.ResponsesRequest, "input", item))
