"""/v1/responses: custom tools, allowed_tools, files of text, and ids in OpenAI's forms."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")

from llama4rt import Engine, SamplingParams  # noqa: E402
from serving import engine_fixture, running_server  # noqa: E402

PATCH: dict[str, Any] = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Takes a patch.",
    "format": {"type": "text"},
}
FUNCTIONS: list[dict[str, Any]] = [
    {
        "type": "function",
        "name": name,
        "parameters": {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]},
    }
    for name in ("first", "second", "third")
]

engine = engine_fixture(kv_cache_memory="64MiB")


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[Any]:
    with (
        running_server(engine) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="-", max_retries=0) as client,
    ):
        yield client


def respond(client: Any, given: Any, **fields: Any) -> Any:
    fields = {"model": "demo", "input": given, "temperature": 0, "max_output_tokens": 60} | fields
    return client.responses.create(**fields)


def prompt_tokens(client: Any, given: Any, **fields: Any) -> int:
    return int(respond(client, given, max_output_tokens=1, **fields).usage.input_tokens)


def test_ids(client: Any) -> None:
    reply = respond(client, "Hello")
    assert reply.id.startswith("resp_") and reply.output[0].id.startswith("msg_")
    (call,) = respond(client, "call", tools=FUNCTIONS, tool_choice="required").output
    assert call.id.startswith("fc_") and call.call_id.startswith("call_")


@pytest.mark.parametrize("choice", ["required", {"type": "custom", "name": "apply_patch"}])
def test_a_custom_tool_takes_a_text(client: Any, engine: Engine, choice: Any) -> None:
    more = {"tools": [PATCH], "tool_choice": choice, "max_output_tokens": 400}
    # Ends where the text is long enough, whatever a small model writes.
    reply = respond(client, "Hello", **more)
    (call,) = reply.output
    assert call.type == "custom_tool_call" and call.id.startswith("ctc_") and call.name == "apply_patch"
    assert isinstance(call.input, str)
    events = list(respond(client, "Hello", stream=True, **more))
    deltas = "".join(e.delta for e in events if e.type == "response.custom_tool_call_input.delta")
    (done,) = [e for e in events if e.type == "response.custom_tool_call_input.done"]
    assert deltas == done.input == call.input == events[-1].response.output[0].input
    assert not [e for e in events if e.type.startswith("response.function_call")]
    items = [
        {"role": "user", "content": "Hello"},
        {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": 'say "x"\n'},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
    ]
    own = [
        {"role": "user", "content": "Hello"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "apply_patch", "arguments": {"input": 'say "x"\n'}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]
    assert prompt_tokens(client, items) == len(engine.apply_chat_template(own))


def test_allowed_tools(client: Any) -> None:
    named = [{"type": "function", "name": "second"}]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": named}
    for question in ("call first", "call third"):
        (call,) = respond(client, question, tools=FUNCTIONS, tool_choice=allowed).output
        assert call.name == "second" and json.loads(call.arguments)["a"] in (1, 2)
    automatic = {**allowed, "mode": "auto"}
    assert prompt_tokens(client, "x", tools=FUNCTIONS, tool_choice=automatic) == prompt_tokens(
        client, "x", tools=FUNCTIONS[1:2]
    )


def test_files_of_text(client: Any, engine: Engine) -> None:
    data = base64.b64encode("Ärger: 7".encode()).decode()
    for given in (data, "data:text/plain;base64," + data):
        part = {"type": "input_file", "filename": "note.txt", "file_data": given}
        items = [{"role": "user", "content": [part, {"type": "input_text", "text": "Which number?"}]}]
        own = [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "note.txt\n\nÄrger: 7"},
                    {"type": "text", "text": "Which number?"},
                ],
            }
        ]
        answer = engine.chat(own, SamplingParams(temperature=0, max_tokens=60))[0].text
        assert respond(client, items).output_text == answer


def file(**fields: Any) -> list[Any]:
    return [
        {"role": "user", "content": "Hello"},
        {"role": "user", "content": [{"type": "input_file", **fields}]},
    ]


@pytest.mark.parametrize(
    ("given", "fields", "says"),
    [
        (file(file_id="f1"), {}, r"input\.1\.0: an input_file needs file_data"),
        (file(file_data="?"), {}, r"input\.1\.0: file_data is not base64"),
        (file(file_data=base64.b64encode(b"%PDF-1.7").decode()), {}, "is a PDF"),
        (file(file_data=base64.b64encode(b"\xff\xfe\x00").decode()), {}, "not a text in UTF-8"),
        (
            [{"role": "user", "content": [{"type": "input_audio"}]}],
            {},
            r"known are 'input_text', 'input_image'",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}],
                }
            ],
            {"instructions": "x"},
            r"input\.0\.content\.0",
        ),
        ("x", {"tools": [{"type": "local_shell"}]}, "'function' and 'custom' are"),
        (
            "x",
            {"tools": [PATCH | {"format": {"type": "grammar", "syntax": "lark", "definition": "a"}}]},
            "'text' is",
        ),
        (
            "x",
            {"tools": FUNCTIONS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
            "no tools",
        ),
        (
            "x",
            {
                "tools": FUNCTIONS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "no"}],
                },
            },
            "'no', which is not among",
        ),
    ],
)
def test_refusals(client: Any, given: Any, fields: Any, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        respond(client, given, **fields)
