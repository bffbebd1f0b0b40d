"""/v1/messages with Anthropic's own client: the same answers as the engine's, whole and as events."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

anthropic = pytest.importorskip("anthropic")
pytest.importorskip("llguidance")

from llama4rt import Engine, SamplingParams  # noqa: E402
from llama4rt.demo import load_showcase  # noqa: E402
from llama4rt.server.service import Admission  # noqa: E402
from llama4rt.workers.client import Client, working_for  # noqa: E402
from serving import RunningServer, engine_fixture, post, running_server  # noqa: E402

ADD = {
    "name": "add",
    "description": "Adds two numbers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
HELLO = [{"role": "user", "content": "Hello"}]

engine = engine_fixture(kv_cache_memory="64MiB")


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[RunningServer]:
    with running_server(engine, api_keys=("secret",), max_messages=40) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=server.url, api_key="secret", max_retries=0) as client:
        yield client


def ask(client: Any, messages: Any, **fields: Any) -> Any:
    return client.messages.create(**_body(messages, **fields))


def streamed(client: Any, messages: Any, **fields: Any) -> tuple[list[Any], Any]:
    """(the client's events, the message that it put together)."""
    with client.messages.stream(**_body(messages, **fields)) as stream:
        return list(stream), stream.get_final_message()


def _body(messages: Any, **fields: Any) -> dict[str, Any]:
    """temperature: newer clients have no name for it."""
    more = {"temperature": 0} | fields.pop("extra_body", {})
    return {"model": "demo", "max_tokens": 40, "messages": messages, "extra_body": more} | fields


def offline(engine: Engine, messages: Any, **options: Any) -> str:
    return engine.chat(messages, SamplingParams(temperature=0, max_tokens=40), **options)[0].text


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_text(client: Any, engine: Engine) -> None:
    message = ask(client, HELLO)
    assert text_of(message) == offline(engine, HELLO) and message.id.startswith("msg_")
    assert message.stop_reason == "end_turn" and message.stop_sequence is None and message.role == "assistant"
    usage = message.usage
    total = usage.input_tokens + usage.cache_read_input_tokens
    assert total == len(engine.apply_chat_template(HELLO)) and usage.output_tokens > 0
    counted = client.messages.count_tokens(model="demo", messages=HELLO)
    assert counted.input_tokens == total


def test_a_system_prompt_in_blocks_and_a_conversation(client: Any, engine: Engine) -> None:
    talk = [*HELLO, {"role": "assistant", "content": [{"type": "text", "text": "Hi"}]}, *HELLO]
    system = [
        {"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Two."},
    ]
    own = [
        {"role": "system", "content": "One.\n\nTwo."},
        *HELLO,
        {"role": "assistant", "content": "Hi"},
        *HELLO,
    ]
    assert text_of(ask(client, talk, system=system)) == offline(engine, own)
    own[0]["content"] = "One."
    assert text_of(ask(client, talk, system="One.")) == offline(engine, own)


def test_an_answer_goes_on_where_the_client_began_it(client: Any, engine: Engine) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Hello! How"}]
    assert text_of(ask(client, begun)) == offline(engine, begun, continue_final_message=True)


def test_a_stream_is_put_together_again(client: Any, engine: Engine) -> None:
    events, final = streamed(client, HELLO)
    assert text_of(final) == offline(engine, HELLO) and final.stop_reason == "end_turn"
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop" and "content_block_stop" in kinds
    assert final.usage.output_tokens == ask(client, HELLO).usage.output_tokens
    total = final.usage.input_tokens + final.usage.cache_read_input_tokens
    assert total == len(engine.apply_chat_template(HELLO))


def test_stop_sequences_and_length(client: Any) -> None:
    whole = text_of(ask(client, HELLO))
    word = whole.split()[1]
    cut = ask(client, HELLO, stop_sequences=[word, "never"])
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)
    assert text_of(cut) == whole[: whole.index(word)]
    _, final = streamed(client, HELLO, stop_sequences=[word])
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", word)
    assert ask(client, HELLO, max_tokens=2).stop_reason == "max_tokens"


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "add"}])
def test_a_forced_call_and_its_result(client: Any, engine: Engine, choice: Any) -> None:
    question = [{"role": "user", "content": "add 1 and 2"}]
    message = ask(client, question, tools=[ADD], tool_choice=choice)
    (call,) = message.content
    assert call.type == "tool_use" and call.id.startswith("toolu_") and call.name == "add"
    assert isinstance(call.input["a"], int) and message.stop_reason == "tool_use"
    events, final = streamed(client, question, tools=[ADD], tool_choice=choice)
    assert final.content[0].input == call.input and final.stop_reason == "tool_use"
    assert any(event.type == "input_json" for event in events)
    picture = base64.b64encode(load_showcase().pictures[0].path.read_bytes()).decode()
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": picture}}
    result = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": "3"}, image],
    }
    talk = [
        *question,
        {"role": "assistant", "content": [{"type": "text", "text": "I add."}, call.model_dump()]},
        {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
    ]
    function = {"name": "add", "description": ADD["description"], "parameters": ADD["input_schema"]}
    tool = {"type": "function", "function": function}
    own = [
        *question,
        {
            "role": "assistant",
            "content": "I add.",
            "tool_calls": [
                {"id": call.id, "type": "function", "function": {"name": "add", "arguments": call.input}}
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "3"},
        {"role": "user", "content": [{"type": "image", "base64": picture}, {"type": "text", "text": "So?"}]},
    ]
    counted = client.messages.count_tokens(model="demo", messages=talk, tools=[ADD]).input_tokens
    assert counted == len(engine.prepare_chat(own, tools=[tool]).token_ids)
    failed = [*talk[:2], {"role": "user", "content": [{**result, "content": "no", "is_error": True}]}]
    own = [*own[:2], {**own[2], "content": "Error: no"}]
    counted = client.messages.count_tokens(model="demo", messages=failed, tools=[ADD]).input_tokens
    assert counted == len(engine.apply_chat_template(own, tools=[tool]))


def test_a_picture_and_a_document(client: Any, engine: Engine) -> None:
    shown = load_showcase().pictures[0]
    question = shown.questions[0].question
    data = base64.b64encode(shown.path.read_bytes()).decode()
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    own = [
        {
            "role": "user",
            "content": [{"type": "image", "path": str(shown.path)}, {"type": "text", "text": question}],
        }
    ]
    talk = [{"role": "user", "content": [image, {"type": "text", "text": question}]}]
    assert text_of(ask(client, talk)) == offline(engine, own)
    source = {"type": "text", "media_type": "text/plain", "data": "The code is 7."}
    talk = [{"role": "user", "content": [{"type": "document", "source": source, "title": "Note"}]}]
    own = [{"role": "user", "content": [{"type": "text", "text": "Note\n\nThe code is 7."}]}]
    assert text_of(ask(client, talk)) == offline(engine, own)


def test_an_output_of_a_form(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["a"],
        "additionalProperties": False,
    }
    for where in ({"output_config": {"format": {"type": "json_schema", "schema": schema}}},):
        assert isinstance(json.loads(text_of(ask(client, HELLO, extra_body=where)))["a"], int)


def test_thinking_is_ignored_with_words(client: Any, engine: Engine) -> None:
    thought = [
        *HELLO,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "Hi"},
            ],
        },
        *HELLO,
    ]
    message = ask(client, thought, thinking={"type": "enabled", "budget_tokens": 1024})
    assert text_of(message) == offline(engine, [*HELLO, {"role": "assistant", "content": "Hi"}, *HELLO])
    assert message.model_extra["x_llama4rt_ignored"] == [
        "thinking: the model does not reason apart from its answer"
    ]
    assert "x_llama4rt_ignored" not in ask(client, HELLO, thinking={"type": "disabled"}).model_extra


def test_a_session_of_a_coding_agent(client: Any, engine: Engine) -> None:
    """A large system prompt and many tools, turn after turn: what was read before is not read again."""
    tools = [
        {
            **ADD,
            "name": f"mcp__server_of_some_length__{'tool' * 10}_{i}",
            "cache_control": {"type": "ephemeral"},
        }
        for i in range(20)
    ]
    system = [{"type": "text", "text": "You are careful. " * 60, "cache_control": {"type": "ephemeral"}}]
    talk: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    seen = []
    for _ in range(3):
        message = ask(
            client, talk, system=system, tools=tools, metadata={"user_id": "u"}, max_tokens=20,
            extra_headers={"anthropic-beta": "x"}, extra_query={"beta": "true"},
        )  # fmt: skip
        seen.append(message.usage)
        talk += [
            {"role": "assistant", "content": [block.model_dump() for block in message.content] or "."},
            {"role": "user", "content": [{"type": "text", "text": "Go on."}]},
        ]
    assert seen[0].input_tokens > 500
    for usage in seen[1:]:
        assert usage.cache_read_input_tokens > 500 and usage.input_tokens < 200


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_tokens": 0}, "max_tokens: expected int >= 1"),
        ({"model": "other"}, "does not exist"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "a tool that Anthropic's models know"),
        ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "none"}}, "none"),
        ({"mcp_servers": [{"url": "x"}]}, "the server calls no other servers"),
        ({"messages": []}, "messages"),
        ({"messages": HELLO * 41}, "at most 40"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, r"messages\.0\.content\.0.*'video'"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file"}}]}]}, "base64"),
        (
            {"system": "s", "messages": [{"role": "user", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]}]},
            r"messages\.0\.content\.0",
        ),
        (
            {"messages": [{"role": "user", "content": [
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}]}]},
            "--allow-image-urls",
        ),
        ({"messages": [{"role": "user", "content": "word " * 70_000}]}, "max_model_len"),
        (
            {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]},
            "only blocks of thinking",
        ),
        (
            {"system": "s", "messages": [{"role": "user", "content": [{"type": "redacted_thinking", "data": "x"}]}]},
            "only blocks of thinking",
        ),
        ({"system": [{"type": "image"}]}, r"system\.0: .*may stand in a message of the user"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]},
            "may stand in a message of the assistant",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"content\.0\.text: is missing"),
        ({"output_config": {"format": {"type": "json_schema"}}}, r"output_config\.format\.schema: is missing"),
        ({"output_format": {"type": "json_schema"}}, r"output_format\.schema: is missing"),
    ],
)  # fmt: skip
def test_refusals(client: Any, fields: Any, says: str) -> None:
    body = {"model": "demo", "max_tokens": 8, "messages": HELLO} | fields
    with pytest.raises(anthropic.APIStatusError, match=says) as caught:
        client.post("/v1/messages", body=body, cast_to=object)
    error = caught.value.body
    assert error["type"] == "error" and error["request_id"] == caught.value.response.headers["x-request-id"]
    kind = "not_found_error" if caught.value.status_code == 404 else "invalid_request_error"
    assert error["error"]["type"] == kind


def test_the_guards_of_the_server_hold(server: RunningServer, client: Any) -> None:
    body = {"model": "demo", "max_tokens": 8, "messages": HELLO}
    for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer wrong", "x-api-key": "secret"}):
        refused = post(server, "/v1/messages", body, headers=headers)
        assert refused.status_code == 401 and refused.json()["error"]["type"] == "authentication_error"
    refused = post(
        server, "/v1/messages", body, headers={"x-api-key": "secret", "origin": "https://evil.example"}
    )
    assert refused.status_code == 403 and refused.json()["error"]["type"] == "permission_error"
    assert client.models.list().data[0].id == "demo"
    endless = {**body, "stream": True, "max_tokens": 16_000}
    with httpx2.stream(
        "POST", server.url + "/v1/messages", json=endless, headers={"x-api-key": "secret"}, timeout=60
    ) as stream:
        next(stream.iter_lines())
    server.wait_idle()


def test_a_full_house(engine: Engine) -> None:
    with running_server(engine, max_streams_per_client=1) as server:
        admissions: list[Admission] = []
        done = threading.Event()

        def fill() -> None:
            with working_for(Client("127.0.0.1")):
                admissions.append(server.service.admit(1))
            done.set()

        server.call(fill)
        assert done.wait(20)
        for path, kind in (("/v1/messages", "rate_limit_error"), ("/api/chat", None)):
            full = post(server, path, {"model": "demo", "max_tokens": 8, "messages": HELLO})
            assert full.status_code == 429 and full.headers["retry-after"] == "1"
            error = full.json()["error"]
            assert (error["type"] == kind) if kind else "the limit is 1" in error
        server.call(admissions[0].release)
