"""Schemas and grammars over HTTP: what is wrong with them is the client's fault, 400, and is said by name."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("llguidance")
pytest.importorskip("psutil")

import httpx2
from hostile_grammars import HOSTILE
from llama4rt import Engine
from llama4rt.demo import engine_path
from serve_process import ServeProcess
from serving import CHAT, RunningServer, post, running_server

FIELDS = {"json_schema": "guided_json", "regex": "guided_regex", "grammar": "guided_grammar"}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}},
                                                   "required": ["city"]}},
}  # fmt: skip
ANSWER = {"type": "object", "properties": {"answer": {"enum": [4, 5]}}, "required": ["answer"]}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with (
        Engine(engine_path(), num_threads=1, kv_cache_memory="64MiB", max_model_len=4096) as engine,
        running_server(engine, served_model_names=("demo",)) as server,
    ):
        engine.warm_structured_output()
        yield server


def chat(server: RunningServer, **fields: Any) -> httpx2.Response:
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 40}
    return post(server, CHAT, body | fields)


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_no_grammar_is_our_fault(server: RunningServer, name: str) -> None:
    """As response_format, in a guided_ field, and as the parameters of a forced tool."""
    kind, source = HOSTILE[name]
    bodies: list[dict[str, Any]] = [{FIELDS[kind]: source, "max_tokens": 3}]
    if kind == "json_schema":
        bodies.append({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": source}},
                       "max_tokens": 3})  # fmt: skip
        tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": source}}}}
        bodies.append({"tools": [tool], "tool_choice": "required", "max_tokens": 200})
    for body in bodies:
        reply = chat(server, **body)
        assert reply.status_code in (200, 400), reply.text
        if reply.status_code == 400:
            assert len(reply.json()["error"]["message"]) > 20


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("multipleOf", -1), ("minLength", -3), ("type", "strnig"), ("required", "a"), ("enum", {}), ("pattern", 5),
     ("anyOf", []), ("properties", []), ("items", 7), ("minimum", "3"), ("$ref", 1), ("maxItems", 1.5)],
)  # fmt: skip
def test_a_malformed_keyword_is_named(server: RunningServer, keyword: str, value: Any) -> None:
    schema = {"type": "object", "properties": {"a": {keyword: value}}}
    for body in (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        {"guided_json": schema},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}], "tool_choice": "required"},
    ):  # fmt: skip
        reply = chat(server, **body)
        assert reply.status_code == 400
        message = reply.json()["error"]["message"]
        assert repr(keyword) in message or f"/{keyword}" in message


def test_a_forced_tool_goes_with_a_response_format(server: RunningServer) -> None:
    """As in OpenAI's API: the call comes; the format is for text, and there is none."""
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": ANSWER}}
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        for kind in (form, {"type": "json_object"}, {"type": "text"}):
            reply = chat(server, tools=[WEATHER], tool_choice=choice, response_format=kind)
            assert reply.status_code == 200, reply.text
            message = reply.json()["choices"][0]["message"]
            assert not message["content"]
            (call,) = message["tool_calls"]
            assert json.loads(call["function"]["arguments"])["city"] in ("Oslo", "Rome")
    reply = chat(server, tools=[WEATHER], tool_choice="none", response_format=form, max_tokens=60)
    assert isinstance(json.loads(reply.json()["choices"][0]["message"]["content"])["answer"], int)
    response = post(server, "/v1/responses", {
        "model": "demo", "input": "Hi", "max_output_tokens": 60, "tool_choice": "required",
        "tools": [{"type": "function", **WEATHER["function"]}],
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": ANSWER}},
    })  # fmt: skip
    assert [item["type"] for item in response.json()["output"]] == ["function_call"]
    broken = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": 5}}}
    reply = chat(server, tools=[WEATHER], tool_choice="required", response_format=broken)
    assert reply.status_code == 400 and "'type'" in reply.text


def test_what_is_not_enforced_is_named_in_the_reply(server: RunningServer) -> None:
    schema = {
        "type": "array",
        "items": {"type": "boolean"},
        "uniqueItems": True,
        "maxItems": 3,
        "prefixItems": [{"type": "null"}],
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    reply = chat(server, response_format=form)
    assert reply.status_code == 400 and "'uniqueItems' at the top" in reply.text
    assert "x_llama4rt_not_enforced" not in chat(server).json()
    form["json_schema"]["schema"] = schema | {"x-llama4rt-relaxed": True}  # type: ignore[index]
    reply = chat(server, response_format=form)
    assert reply.json()["x_llama4rt_not_enforced"] == ["uniqueItems at the top"]
    assert json.loads(reply.json()["choices"][0]["message"]["content"]) is not None
    streamed = chat(server, response_format=form, stream=True).text
    first = json.loads(streamed.split("data: ")[1])
    assert first["x_llama4rt_not_enforced"] == ["uniqueItems at the top"]
    completion = {
        "model": "demo",
        "prompt": "Hi",
        "max_tokens": 20,
        "guided_json": form["json_schema"]["schema"],
    }  # type: ignore[index]
    assert post(server, "/v1/completions", completion).json()["x_llama4rt_not_enforced"]
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "null"}}, "not": {},
                                        "x-llama4rt-relaxed": True}}  # fmt: skip
    reply = chat(server, tools=[{"type": "function", "function": tool}], tool_choice="required")
    assert reply.json()["x_llama4rt_not_enforced"] == ["not at the top of f"]
    body: dict[str, Any] = {
        "model": "demo", "input": "Hi", "max_output_tokens": 30,
        "text": {"format": {"type": "json_schema", "name": "x", "schema": form["json_schema"]["schema"]}},  # type: ignore[index]
    }  # fmt: skip
    assert post(server, "/v1/responses", body).json()["x_llama4rt_not_enforced"]
    streamed = post(server, "/v1/responses", body | {"stream": True}).text
    assert '"x_llama4rt_not_enforced"' in streamed.split("\n\n")[-2]


def test_sigterm_ends_the_server_whatever_compiles() -> None:
    """Eight costly schemas at once: the process ends within its drain and a little, and no child stays."""
    options = ("--drain-seconds", "1", "--kv-cache-memory", "64MiB", "--threads", "1")
    with ServeProcess(*options) as server:

        def attack(i: int) -> None:
            schema = {"title": str(i), **HOSTILE["allOf of twenty patterns"][1]}
            body = {"model": "demo", "messages": [{"role": "user", "content": "x"}], "guided_json": schema}
            with contextlib.suppress(httpx2.HTTPError):
                httpx2.post(server.url + CHAT, json=body, timeout=60)

        threads = [threading.Thread(target=attack, args=(i,), daemon=True) for i in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert server.children()
        took = server.terminate(60)
        assert took < 1 + 5, took
        for thread in threads:
            thread.join(10)
