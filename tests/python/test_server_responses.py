"""/v1/responses with the official client: the same answers as the engine's, whole and as events."""

from __future__ import annotations

import base64
import json
import typing
from collections.abc import Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")

from llama4rt import Engine, SamplingParams  # noqa: E402
from llama4rt.demo import load_showcase  # noqa: E402
from serving import engine_fixture, running_server  # noqa: E402

ADD = {
    "type": "function",
    "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
}


engine = engine_fixture(kv_cache_memory="64MiB")


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Any]:
    with (
        running_server(engine) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="-", max_retries=0) as client,
    ):
        yield client


def respond(client: Any, given: Any, **fields: Any) -> Any:
    fields = {"model": "demo", "input": given, "temperature": 0, "max_output_tokens": 40} | fields
    return client.responses.create(**fields)


def offline(engine: Engine, messages: Any) -> str:
    return engine.chat(messages, SamplingParams(temperature=0, max_tokens=40))[0].outputs[0].text


def test_text(client: Any, engine: Engine) -> None:
    reply = respond(client, "What can you do?", instructions="Answer.", metadata={"a": "b"})
    messages = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "What can you do?"}]
    assert reply.output_text == offline(engine, messages)
    assert reply.status in ("completed", "incomplete") and reply.metadata == {"a": "b"}
    assert reply.usage.input_tokens == len(engine.apply_chat_template(messages))


def test_items_and_a_picture(client: Any, engine: Engine) -> None:
    picture = load_showcase().pictures[0]
    question = picture.questions[0].question
    url = "data:image/png;base64," + base64.b64encode(picture.path.read_bytes()).decode()
    items = [
        {"role": "user", "content": "Hello"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}]},
        {
            "role": "user",
            "content": [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": question}],
        },
    ]
    own = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {
            "role": "user",
            "content": [{"type": "image", "path": str(picture.path)}, {"type": "text", "text": question}],
        },
    ]
    assert respond(client, items).output_text == offline(engine, own)


def test_a_stream_is_put_together_again(client: Any, engine: Engine) -> None:
    with client.responses.stream(model="demo", input="Hello", temperature=0, max_output_tokens=40) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == offline(engine, [{"role": "user", "content": "Hello"}])
    assert [event.sequence_number for event in events] == sorted({event.sequence_number for event in events})
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == final.output_text and events[0].type == "response.created"
    assert final.usage.output_tokens > 0


def test_length(client: Any) -> None:
    reply = respond(client, "Hello", max_output_tokens=2)
    assert reply.status == "incomplete" and reply.incomplete_details.reason == "max_output_tokens"


def test_a_forced_call_and_its_result(client: Any) -> None:
    reply = respond(client, "add 1", tools=[ADD], tool_choice="required")
    (call,) = reply.output
    assert call.type == "function_call" and isinstance(json.loads(call.arguments)["a"], int)
    events = list(
        respond(client, "add 1", tools=[ADD], tool_choice={"type": "function", "name": "add"}, stream=True)
    )
    streamed = "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta")
    assert streamed == call.arguments == events[-1].response.output[0].arguments
    items = [
        {"role": "user", "content": "add 1"},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "3"},
    ]
    assert respond(client, items, tools=[ADD]).status in ("completed", "incomplete")


def test_a_schema(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"x": {"type": "boolean"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    reply = respond(client, "Hi", text={"format": {"type": "json_schema", "name": "t", "schema": schema}})
    assert isinstance(json.loads(reply.output_text)["x"], bool)


def test_log_probabilities_of_a_stream_are_those_of_the_whole(client: Any) -> None:
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    (message,) = respond(client, "Hello", **fields).output
    whole = [entry.model_dump() for entry in message.content[0].logprobs]
    assert len(whole) > 3 and all(len(entry["top_logprobs"]) == 2 for entry in whole)
    events = list(respond(client, "Hello", stream=True, **fields))
    in_deltas = [e.logprobs for e in events if e.type == "response.output_text.delta"]
    assert all(in_deltas[:3]), "they come with their text"
    in_deltas = [entry for entries in in_deltas for entry in entries]
    assert [entry.token for entry in in_deltas] == [entry["token"] for entry in whole][: len(in_deltas)]
    assert len(whole) - len(in_deltas) <= 1  # the end of the turn has no text
    (message,) = events[-1].response.output
    assert [entry.model_dump() for entry in message.content[0].logprobs] == whole


def test_includes_are_known_and_named_where_there_is_nothing(client: Any) -> None:
    """Each name that OpenAI's client knows is taken; what nothing can be said of, the reply names with the reason."""
    known = list(typing.get_args(openai.types.responses.ResponseIncludable))
    assert respond(client, "Hi", include=["message.output_text.logprobs"]).model_extra == {"store": False}
    reply = respond(client, "Hi", include=known)
    named = [text.partition(": ")[0] for text in reply.x_llama4rt_not_included]
    assert sorted([*named, "message.output_text.logprobs"]) == sorted(known)
    assert "reasoning.encrypted_content: the model does not reason" in str(reply.x_llama4rt_not_included)
    final = list(respond(client, "Hi", include=known, stream=True))[-1].response
    assert final.x_llama4rt_not_included == reply.x_llama4rt_not_included
    with pytest.raises(
        openai.BadRequestError, match=r"did you mean 'message\.output_text\.logprobs'"
    ) as caught:
        respond(client, "Hi", include=["message.output_text.logprob"])
    assert caught.value.param == "include"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"include": ["everything"]}, "include"),
        ({"extra_body": {"prompt_logprobs": 1}}, "prompt_logprobs"),
        ({"extra_body": {"return_progress": True}, "stream": True}, "return_progress"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"stream_options": {"continuous_usage_stats": True}, "stream": True}, "stream_options"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"input": []}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_refusals(client: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        respond(
            client, **({"given": "Hi"} | {("given" if k == "input" else k): v for k, v in fields.items()})
        )
    assert caught.value.param == param
