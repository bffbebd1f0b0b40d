"""Ollama's and llama-server's endpoints: Ollama's own client, and the forms that llama-server's clients read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

ollama = pytest.importorskip("ollama")
pytest.importorskip("llguidance")

from llama4rt import Engine, SamplingParams  # noqa: E402
from llama4rt.demo import load_showcase  # noqa: E402
from serving import RunningServer, engine_fixture, post, running_server  # noqa: E402

HELLO = [{"role": "user", "content": "Hello"}]
GREEDY = {"temperature": 0, "num_predict": 40}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}

engine = engine_fixture(kv_cache_memory="64MiB")


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[RunningServer]:
    with running_server(engine) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Any:
    return ollama.Client(host=server.url)


def offline(engine: Engine, messages: Any, **fields: Any) -> str:
    return engine.chat(messages, SamplingParams(temperature=0, max_tokens=40, **fields))[0].text


@pytest.mark.parametrize("model", ["demo", "demo:latest"])
def test_chat(client: Any, engine: Engine, model: str) -> None:
    reply = client.chat(model, messages=HELLO, options=GREEDY)
    assert reply.message.content == offline(engine, HELLO) and reply.done and reply.done_reason == "stop"
    assert reply.prompt_eval_count == len(engine.apply_chat_template(HELLO)) and reply.eval_count > 0
    parts = list(client.chat(model, messages=HELLO, options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == offline(engine, HELLO)
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == reply.eval_count
    assert client.chat(model, messages=HELLO, options=GREEDY | {"num_predict": 2}).done_reason == "length"
    assert client.chat(model, messages=[]).done_reason == "load"


def test_generate(client: Any, engine: Engine) -> None:
    reply = client.generate("demo", prompt="Hello", system="Answer.", options=GREEDY)
    assert reply.response == offline(engine, [{"role": "system", "content": "Answer."}, *HELLO])
    raw = engine.generate("Hello", SamplingParams(temperature=0, max_tokens=4))[0].text
    options = GREEDY | {"num_predict": 4}
    assert client.generate("demo", prompt="Hello", raw=True, options=options).response == raw
    parts = list(client.generate("demo", prompt="Hello", raw=True, options=options, stream=True))
    assert "".join(part.response for part in parts) == raw and parts[-1].done_reason == "length"
    assert client.generate("demo", prompt="").done_reason == "load"


def test_a_picture(client: Any, engine: Engine) -> None:
    shown = load_showcase().pictures[0]
    question = shown.questions[0].question
    own = [
        {
            "role": "user",
            "content": [{"type": "image", "path": str(shown.path)}, {"type": "text", "text": question}],
        }
    ]
    talk = [{"role": "user", "content": question, "images": [str(shown.path)]}]
    assert client.chat("demo", messages=talk, options=GREEDY).message.content == offline(engine, own)
    reply = client.generate("demo", prompt=question, images=[shown.path.read_bytes()], options=GREEDY)
    assert reply.response == offline(engine, own)


def test_forms_and_options(client: Any, engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["a"],
        "additionalProperties": False,
    }
    reply = client.chat("demo", messages=HELLO, format=schema, options=GREEDY)
    assert isinstance(json.loads(reply.message.content)["a"], int)
    whole = offline(engine, HELLO)
    word = whole.split()[1]
    options = GREEDY | {"stop": [word], "num_ctx": 512, "repeat_last_n": 64, "repeat_penalty": 1.0}
    assert client.chat("demo", messages=HELLO, options=options).message.content == whole[: whole.index(word)]
    asks_nothing = {
        "mirostat": 0,
        "mirostat_tau": 5.0,
        "mirostat_eta": None,
        "f16_kv": True,
        "logits_all": False,
    }
    reply = client.chat("demo", messages=HELLO, options=GREEDY | asks_nothing)
    assert reply.message.content == whole


def test_durations_can_be_divided_by(client: Any) -> None:
    """Clients show eval_count / eval_duration as tokens a second: of a whole reply, of calls, of one token."""
    replies = [
        client.chat("demo", messages=HELLO, options=GREEDY),
        client.generate("demo", "Hello", options=GREEDY | {"num_predict": 1}, raw=True),
        *client.chat("demo", messages=HELLO, options=GREEDY, tools=[ADD], stream=True),
        *client.generate("demo", "Hello", options=GREEDY, stream=True),
    ]
    done = [reply for reply in replies if reply.done]
    assert len(done) == 4
    for reply in done:
        assert reply.eval_duration > 0 and reply.prompt_eval_duration > 0
        assert reply.eval_duration + reply.prompt_eval_duration == reply.total_duration


def test_tools(client: Any, server: RunningServer, engine: Engine) -> None:
    """The model chooses whether it calls; what it says is read as by the chat endpoint."""
    question = [{"role": "user", "content": "What is 1 plus 2? Call add."}]
    chat = post(
        server,
        "/v1/chat/completions",
        {"messages": question, "tools": [ADD], "temperature": 0, "max_tokens": 40},
    ).json()["choices"][0]["message"]
    theirs = [
        (c["function"]["name"], json.loads(c["function"]["arguments"])) for c in chat.get("tool_calls") or ()
    ]
    body = {"model": "demo", "messages": question, "tools": [ADD], "options": GREEDY}
    whole = post(server, "/api/chat", body | {"stream": False}).json()["message"]
    ours = [(c["function"]["name"], c["function"]["arguments"]) for c in whole.get("tool_calls", ())]
    assert ours == theirs and whole["content"] == (chat["content"] or "")
    lines = [json.loads(line)["message"] for line in post(server, "/api/chat", body).text.splitlines()]
    streamed = [
        (c["function"]["name"], c["function"]["arguments"]) for m in lines for c in m.get("tool_calls", ())
    ]
    assert streamed == ours and "".join(m["content"] for m in lines) == whole["content"]
    call = {"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    talk = [
        *question,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "add", "content": "3"},
    ]
    assert client.chat("demo", messages=talk, tools=[ADD], options=GREEDY).prompt_eval_count > 30


def test_what_there_is(client: Any, server: RunningServer, engine: Engine) -> None:
    (model,) = client.list().models
    assert model.model == "demo" and model.size > 0
    shown = client.show("demo")
    assert shown.capabilities == ["completion", "tools", "vision"]
    assert shown.modelinfo["llama4.context_length"] == engine.max_model_len
    assert client.ps().models[0].model == "demo"
    assert httpx2.get(server.url + "/api/version").json()["version"]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/api/chat", {"model": "other", "messages": HELLO}, 404, "does not exist"),
        ("/api/chat", {"model": "demo", "messages": HELLO, "options": {"temperature": 9}}, 400, "options.temperature"),
        ("/api/chat", {"model": "demo", "messages": HELLO, "options": {"mirostat": 1}}, 400, "options.mirostat"),
        ("/api/chat", {"model": "demo", "messages": HELLO, "options": {"temprature": 1}}, 400, "did you mean"),
        ("/api/chat", {"model": "demo", "messages": HELLO, "options": {"num_predict": 0}}, 400, "options.num_predict"),
        ("/api/chat", {"model": "demo", "messages": HELLO, "think": True}, 400, "does not reason"),
        ("/api/chat", {"model": "demo", "messages": HELLO, "format": "xml"}, 400, "format"),
        ("/api/chat", {"model": "demo", "messages": [{"role": "foo", "content": "x"}]}, 400, "messages.0.role"),
        ("/api/chat", {"model": "demo", "messages": [{"role": "user", "images": ["?"]}]}, 400, "base64"),
        ("/api/generate", {"model": "demo", "prompt": "x", "suffix": "y"}, 400, "does not fill in"),
        ("/api/generate", {"model": "demo", "prompt": "x", "template": "{{ x }}"}, 400, "belongs to the model"),
        ("/api/generate", {"model": "demo", "prompt": "x", "context": [1]}, 400, "send messages to /api/chat"),
        ("/api/show", {}, 400, "model: is missing"),
        ("/api/embed", {}, 404, "no embeddings"),
        ("/api/pull", {}, 404, "one model runs"),
        ("/api/nothing", {}, 404, "there are GET /"),
    ],
)  # fmt: skip
def test_refusals(server: RunningServer, path: str, body: Any, status: int, says: str) -> None:
    refused = post(server, path, body)
    assert refused.status_code == status and says in refused.json()["error"], refused.text


def test_ollama_s_error_in_its_client(client: Any) -> None:
    with pytest.raises(ollama.ResponseError, match="does not exist") as caught:
        client.chat("other", messages=HELLO)
    assert caught.value.status_code == 404


def test_a_beat_of_a_stream_is_a_line_of_its_form(engine: Engine) -> None:
    """Nothing comes for a while: what goes out then is read by the client as nothing said."""
    with running_server(engine, heartbeat_seconds=0.001) as server:
        parts = list(ollama.Client(host=server.url).chat("demo", messages=HELLO, options=GREEDY, stream=True))
        assert "".join(part.message.content for part in parts) == offline(engine, HELLO)


# --- llama-server's ---------------------------------------------------------------------------------------------------


def test_completion(server: RunningServer, engine: Engine) -> None:
    expected = engine.generate("Hello", SamplingParams(temperature=0, max_tokens=4))[0].text
    body = {"prompt": "Hello", "n_predict": 4, "temperature": 0, "cache_prompt": True}
    whole = post(server, "/completion", body).json()
    assert whole["content"] == expected and whole["stop"] and whole["stop_type"] == "limit"
    assert whole["tokens_predicted"] == 4 and whole["tokens_evaluated"] == len(engine.encode_prompt("Hello"))
    streamed = post(server, "/completion", body | {"stream": True}).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: ")]
    assert "".join(event["content"] for event in events) == expected and events[-1]["stop"]
    lined = {"prompt": "Hello", "grammar": 'root ::= "a\\n" "b"', "n_predict": 8}
    assert post(server, "/completion", lined).json()["has_new_line"]
    assert '"has_new_line":true' in post(server, "/completion", lined | {"stream": True}).text
    word = expected.split()[1]
    stopped = post(server, "/completion", body | {"stop": [word]}).json()
    assert (stopped["stop_type"], stopped["stopping_word"]) == ("word", word)
    ids = engine.encode_prompt("Hello")
    assert post(server, "/completion", body | {"prompt": ids}).json()["content"] == expected
    for wrong, says in (
        ({"prompt": ["a", "b"]}, "list of prompts"),
        ({"mirostat": 2}, "mirostat"),
        ({"n": 2}, "n is not 1"),
        ({"temperature": 9}, "temperature"),
    ):
        refused = post(server, "/completion", body | wrong)
        assert refused.status_code == 400 and says in refused.json()["error"]["message"]
    server.wait_idle()


def test_props_and_tokens(server: RunningServer, engine: Engine) -> None:
    props = httpx2.get(server.url + "/props").json()
    assert props["default_generation_settings"]["n_ctx"] == engine.max_model_len
    assert props["total_slots"] == engine.max_num_seqs and props["modalities"] == {
        "vision": True,
        "audio": False,
    }
    assert engine.tokenizer is not None
    ids = engine.tokenizer.encode("Hello there")
    assert post(server, "/tokenize", {"content": "Hello there"}).json()["tokens"] == ids
    with_begin = post(server, "/tokenize", {"content": "Hello there", "add_special": True}).json()["tokens"]
    assert with_begin == engine.encode_prompt("Hello there")
    pieces = post(server, "/tokenize", {"content": "Hello there", "with_pieces": True}).json()["tokens"]
    assert "".join(piece["piece"] for piece in pieces) == "Hello there"
    assert post(server, "/detokenize", {"tokens": ids}).json()["content"] == "Hello there"
    refused = post(server, "/infill", {"input_prefix": "a", "input_suffix": "b"})
    assert refused.status_code == 404 and "fill-in-the-middle" in refused.json()["error"]["message"]
