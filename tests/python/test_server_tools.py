"""Tool calls: the reader of what models write, whatever pieces it comes in, and calls that are forced."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")

from llama4rt import Engine, SamplingParams  # noqa: E402
from llama4rt.server.calls.python_calls import NotACall, parse_calls  # noqa: E402
from llama4rt.server.calls.tool_shaper import ToolShaper  # noqa: E402
from llama4rt.server.shaping import joined_message  # noqa: E402
from serving import RunningServer, engine_fixture, running_server  # noqa: E402

NAMES = ["f", "get_weather", "a.b", "search-web", "3d-render"]

# (what the model wrote, content, calls)
WRITTEN: list[tuple[str, str, list[tuple[str, Any]]]] = [
    ("Hello", "Hello", []),
    ("", "", []),
    ('{"name": "f", "parameters": {"a": 1}}', "", [("f", {"a": 1})]),
    ('{"name": "f", "arguments": {}}', "", [("f", {})]),
    ('{"type": "function", "name": "f", "parameters": {"a": "}]\\"{"}}', "", [("f", {"a": '}]"{'})]),
    ('{ "name" : "f" ,\n "parameters" : { "a" : [1, {"b": null}] } }', "", [("f", {"a": [1, {"b": None}]})]),
    ('{"name": "f", "parameters": {"a": 1}}{"name": "get_weather", "parameters": {"city": "Oslo"}}', "",
     [("f", {"a": 1}), ("get_weather", {"city": "Oslo"})]),
    ('{"name": "f", "parameters": {}}; {"name": "f", "parameters": {}}', "", [("f", {}), ("f", {})]),
    ('[{"name": "f", "parameters": {"x": 1}}, {"name": "f", "parameters": {"x": 2}}]', "",
     [("f", {"x": 1}), ("f", {"x": 2})]),
    ('<|python_start|>{"name": "f", "parameters": {"a": 1}}<|python_end|>', "", [("f", {"a": 1})]),
    ('<|python_start|>Let me see<|python_end|>{"name": "f", "parameters": {}}', "Let me see", [("f", {})]),
    ("[f()]", "", [("f", {})]),
    ("[f(a=1, b=-2.5e3, c='x', d=\"y\", e=True, g=None, h=false)]", "",
     [("f", {"a": 1, "b": -2500.0, "c": "x", "d": "y", "e": True, "g": None, "h": False})]),
    ("[get_weather(city='Oslo'), f(a=[1, [2, [3, {'b': (4, 5)}]]])]", "",
     [("get_weather", {"city": "Oslo"}), ("f", {"a": [1, [2, [3, {"b": [4, 5]}]]]})]),
    ("[ f ( a = 'it\\'s', b=\"[not] (this)\" ) ]", "[ f ( a = 'it\\'s', b=\"[not] (this)\" ) ]", []),
    ("[f(a='it\\'s', b=\"[not] (this)\", c='\\u00e9\\n\\x41')]", "",
     [("f", {"a": "it's", "b": "[not] (this)", "c": "é\nA"})]),
    ("<|python_start|>[f(a=1)]<|python_end|>", "", [("f", {"a": 1})]),
    ("<|python_start|>f(a=1)<|python_end|>", "", [("f", {"a": 1})]),
    ("I will look.\n[f(a=1)]", "I will look.\n", [("f", {"a": 1})]),
    ('Sure: {"name": "f", "parameters": {"a": 1}}', "Sure: ", [("f", {"a": 1})]),
    ("[a.b(x=1), search-web(q='z')]", "", [("a.b", {"x": 1}), ("search-web", {"q": "z"})]),
    ("[f(a=1),]", "", [("f", {"a": 1})]),
    ("[3d-render(x=1)]", "", [("3d-render", {"x": 1})]),
    ('{"name": "3d-render", "parameters": {}}', "", [("3d-render", {})]),
    # text after a call stays as it was; only what separates calls goes
    ('{"name": "f", "parameters": {}}First, I wait, then; [1, 2] ] ,', "First, I wait, then; [1, 2] ] ,", [("f", {})]),
    ("[f(a=1)]\n\nThen, a list: [1, 2];\n", "\n\nThen, a list: [1, 2];\n", [("f", {"a": 1})]),
    ("[f(a=1)], and [f(a=2)]; end", ", and ; end", [("f", {"a": 1}), ("f", {"a": 2})]),
    ("[f(a=1)] ,; [f(a=2)],", ",", [("f", {"a": 1}), ("f", {"a": 2})]),
    ("[f(a=1)]\n ", "", [("f", {"a": 1})]),
    ("[f()]] x", "] x", [("f", {})]),
    ('[{"name": "f", "parameters": {}}, 5] x', ", 5] x", [("f", {})]),
    ('[{"name": "f", "parameters": {}} ,\n]; {"name": "f", "parameters": {}}.', ".", [("f", {}), ("f", {})]),
    ('<|python_start|>[f()]<|python_end|>; <|python_start|>f(a=2)<|python_end|> ok', " ok",
     [("f", {}), ("f", {"a": 2})]),
    ('[{"a": 1}]', '[{"a": 1}]', []),
    ('[{"name": "unknown", "parameters": {}}]', '[{"name": "unknown", "parameters": {}}]', []),
    ('{"name": "f", "parameters": {}, "why": {"x": "}"}} done', " done", [("f", {})]),
    # OpenAI's own forms, and fences
    ('{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}', "", [("f", {"a": 1})]),
    ('{"id": "c1", "type": "function", "function": {"name": "f", "parameters": {"a": 1}}}, then', ", then",
     [("f", {"a": 1})]),
    ('{"tool_calls": [{"name": "f", "parameters": {"a": 1}}, {"type": "function", "function": {"name": "get_weather", '
     '"arguments": "{\\"city\\": \\"Oslo\\"}"}}]}', "", [("f", {"a": 1}), ("get_weather", {"city": "Oslo"})]),
    ('{"name": "f", "arguments": "{\\"a\\": \\"}\\"}"}', "", [("f", {"a": "}"})]),
    ('{"parameters": {"a": 1}, "name": "f"}', "", [("f", {"a": 1})]),
    ('{"name": "f", "arguments": null}', "", [("f", {})]),
    ('```json\n{"name": "f", "parameters": {"a": 1}}\n```', "", [("f", {"a": 1})]),
    ('Look:\n```\n[f(a=1), f(a=2)]\n```\nDone.', "Look:\n\nDone.", [("f", {"a": 1}), ("f", {"a": 2})]),
    ('```json\n[{"name": "f", "parameters": {}}]\n``` ```python\n[f(a=2)]\n```', "", [("f", {}), ("f", {"a": 2})]),
    ('```json\n{"a": 1}\n```', '```json\n{"a": 1}\n```', []),
    ("`f` and ``` and ```js\nx = [1]\n```", "`f` and ``` and ```js\nx = [1]\n```", []),
    ('{"tool_calls": [{"name": "f", "parameters": {}}, {"name": "unknown", "parameters": {}}]}',
     '{"tool_calls": [{"name": "f", "parameters": {}}, {"name": "unknown", "parameters": {}}]}', []),
    ('{"name": "f", "arguments": "no JSON"}', '{"name": "f", "arguments": "no JSON"}', []),
    ('{"name": "f", "arguments": [1]}', '{"name": "f", "arguments": [1]}', []),
    ('{"name": "f"}', '{"name": "f"}', []),
    ('{"tool_calls": [{"name": "f"}]}', '{"tool_calls": [{"name": "f"}]}', []),
    ('[f(a=(1,), b=(1, 2), c=((1),))]', "", [("f", {"a": [1], "b": [1, 2], "c": [1]})]),
    # Python's literals
    ("[f(a='''it's\n\"]\"''', b=\"\"\"(\"\"\", c='', d='')]", "",
     [("f", {"a": 'it\'s\n"]"', "b": "(", "c": "", "d": ""})]),
    ("[f(a=r'C:\\new', b='\\N{GREEK SMALL LETTER ALPHA}\\101\\d', c='\\ud83d\\ude00', d=u'x')]", "",
     [("f", {"a": "C:\\new", "b": "\u03b1A\\d", "c": "\U0001f600", "d": "x"})]),
    ("[f(a=0x1F, b=0o17, c=0b11, d=1_000, e=.5, f=5., g=+2, h=- 3)]", "",
     [("f", {"a": 31, "b": 15, "c": 3, "d": 1000, "e": 0.5, "f": 5.0, "g": 2, "h": -3})]),
    ("[f(a=1, # the ] first\n b='x' \"y\", c=(1), d=(1,), e={1: 2, None: 3})]", "",
     [("f", {"a": 1, "b": "xy", "c": 1, "d": [1], "e": {"1": 2, "null": 3}})]),
    ("[f(a='two\nlines')]", "", [("f", {"a": "two\nlines"})]),
    *[(text, text, []) for text in (
        "[f(a={1, 2})]", "[f(a=b'x')]", "[f(a=f'{1}')]", "[f(a=1j)]", "[f(a=007)]", "[f(a='\\x4')]", "[f(a=1, a=2)]",
        "[f(a='\\N{no such}')]", "[f(a=x)]", "[f(a=(1 2))]", "[f(a=[1 2])]", "[f(**{'a': 1})]", "[f(a=1).b]",
    )],
    # not calls: they stay as they were
    ("[unknown(a=1)]", "[unknown(a=1)]", []),
    ('{"name": "unknown", "parameters": {}}', '{"name": "unknown", "parameters": {}}', []),
    ('{"a": 1}', '{"a": 1}', []),
    ("see [1] and {2} < 3", "see [1] and {2} < 3", []),
    ("[f(a=__import__('os'))]", "[f(a=__import__('os'))]", []),
    ("[f(a=1+1)]", "[f(a=1+1)]", []),
    ("[f(a=1", "[f(a=1", []),
    ("f(a=1)", "f(a=1)", []),
    ("[f(1)]", "[f(1)]", []),
    ("<|python_start|>print(1)", "print(1)", []),
    ("[fx(a=1)]", "[fx(a=1)]", []),
    ("{[<", "{[<", []),
]  # fmt: skip


def shaped(pieces: list[str], **options: Any) -> dict[str, Any]:
    shaper = ToolShaper(NAMES, **options)
    deltas = [delta for piece in pieces for delta in shaper.push(piece)]
    rest, reason = shaper.finish("stop")
    message = joined_message(deltas + rest)
    assert reason == ("tool_calls" if message.get("tool_calls") else "stop")
    return message


@pytest.mark.parametrize(("text", "content", "calls"), WRITTEN)
def test_what_models_write(text: str, content: str, calls: list[tuple[str, Any]]) -> None:
    """Whole, character by character, and cut at random places: always the same."""
    cuts = [[text], list(text)]
    for seed in range(20):
        rng = random.Random(seed)
        places = sorted(rng.sample(range(len(text) + 1), min(len(text), 4)))
        cuts.append([text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)])
    for pieces in cuts:
        message = shaped(pieces)
        assert (message["content"] or "") == content, pieces
        got = [
            (c["function"]["name"], json.loads(c["function"]["arguments"]))
            for c in message.get("tool_calls", [])
        ]
        assert got == calls, pieces
        ids = [c["id"] for c in message.get("tool_calls", [])]
        assert len(set(ids)) == len(ids) and all(i.startswith("call_") for i in ids)


def test_arguments_of_a_json_call_stream() -> None:
    shaper = ToolShaper(NAMES)
    deltas = [d for char in '{"name": "f", "parameters": {"text": "abcdef"}}' for d in shaper.push(char)]
    assert sum("arguments" in d["tool_calls"][0]["function"] for d in deltas) > 10


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("[f(a=1), f(a=2)]", None),
        ('{"name": "f", "parameters": {"a": 1}} {"name": "f", "parameters": {"b": [1]}}', None),
        ('{"name": "f", "parameters": {"a": 1}}; [f(a=2)], and [f(a=3)].', ", and ."),
        ('[{"name": "f", "parameters": {"a": 1}}, {"name": "f", "arguments": {}}]\n', None),
        ('```json\n[{"name": "f", "parameters": {"a": 1}}, {"name": "f", "arguments": {}}]\n```\nOk', "\nOk"),
        ('{"tool_calls": [{"name": "f", "arguments": {"a": 1}}, {"name": "f", "arguments": {}}]}', None),
        ("<|python_start|>f(a=1)<|python_end|><|python_start|>f(a=2)<|python_end|>", None),
    ],
)
def test_one_call_only(text: str, content: str | None) -> None:
    """Nothing of the second call leaks, however it is written and cut."""
    for pieces in ([text], list(text)):
        message = shaped(pieces, single=True)
        assert [call["function"]["arguments"] for call in message["tool_calls"]] == ['{"a": 1}']
        assert message["content"] == content


@pytest.mark.parametrize(
    "unit",
    [
        "[",
        "[f(a=[",
        "{",
        "[f(a='",
        '{"name": "f", ',
        "<",
        "<|python_start|>",
        "f(",
        "[f(a=1),",
        "`",
        "```",
        "```json\n",
        "```json\n[",
        '{"id": 1, ',
        '[{"id": "',
        "[f(a='''",
        "[f(#",
        '{"tool_calls": [',
        "[f()] ,",
        "[f()]```",
    ],
)
def test_hostile_texts_cost_little(unit: str) -> None:
    """Linear: ten times the text does not take a hundred times as long. Nothing raises, nothing is lost."""
    text = unit * (200_000 // len(unit))
    pieces = [text[i : i + 64] for i in range(0, len(text), 64)]
    start = time.process_time()
    message = shaped(pieces)
    assert time.process_time() - start < 20  # a quadratic reader takes minutes
    if "python_start" not in unit and "f()]" not in unit:
        assert message["content"] == text


def test_what_is_too_long_for_a_call_comes_out_before_the_end() -> None:
    shaper = ToolShaper(NAMES)
    deltas = [delta for _ in range(80) for delta in shaper.push("[f(a='" + "x" * 1000)]
    assert any("content" in delta for delta in deltas)


def test_a_call_that_is_cut_off_is_not_reported_as_whole() -> None:
    shaper = ToolShaper(NAMES)
    shaper.push('{"name": "f", "parameters": {"a": 1}} {"name": "f", "parameters": {"a"')
    assert shaper.finish("length")[1] == "length"


def test_deep_nesting_is_no_call() -> None:
    with pytest.raises(NotACall):
        parse_calls("[f(a=" + "[" * 70 + "]" * 70 + ")]")
    for wrong in (
        "",
        "f",
        "[f(a=)]",
        "[f(a=1)] x",
        "[f(a=1e999)]",
        "[f(a='\\x4')]",
        "[f(a=nan)]",
        "[f(a={[1]: 2})]",
    ):
        with pytest.raises(NotACall):
            parse_calls(wrong)


# --- through the server -------------------------------------------------------------------------------------------

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "places": {"type": "array", "items": {"$ref": "#/$defs/place"}},
            },
            "required": ["city", "days"],
            "$defs": {
                "place": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}
            },
        },
    },
}
NOTHING = {"type": "function", "function": {"name": "now"}}
ASK = [{"role": "user", "content": "What is the weather in Oslo?"}]


engine = engine_fixture(max_num_seqs=16)


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[RunningServer]:
    with running_server(engine) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0) as client:
        yield client
    server.wait_idle()


def ask(client: Any, **fields: Any) -> Any:
    fields = {
        "model": "demo",
        "messages": ASK,
        "tools": [WEATHER, NOTHING],
        "max_completion_tokens": 200,
    } | fields
    return client.chat.completions.create(**fields)


def check_call(call: Any) -> None:
    import jsonschema

    arguments = json.loads(call.function.arguments)
    assert call.type == "function" and call.function.name in ("get_weather", "now")
    if call.function.name == "get_weather":
        jsonschema.validate(arguments, WEATHER["function"]["parameters"])  # type: ignore[index]
    else:
        assert arguments == {}


def test_forced_calls_always_parse(client: Any, soak: bool) -> None:
    """At temperature 2, from next to no room to a lot of it."""
    rng = random.Random(time.time_ns())
    named = {"type": "function", "function": {"name": "get_weather"}}
    done = 0
    while done < (500 if soak else 96):
        room = rng.choice([35, 40, 60, 120, 300])
        choice = rng.choice(["required", named])
        reply = ask(
            client,
            tool_choice=choice,
            temperature=2,
            n=16,
            seed=rng.getrandbits(40),
            max_completion_tokens=room,
        )
        for output in reply.choices:
            assert output.message.content is None and len(output.message.tool_calls) == 1
            check_call(output.message.tool_calls[0])
            assert output.finish_reason in ("tool_calls", "length")
        done += 16


def test_a_stop_string_does_not_cut_a_forced_call(client: Any) -> None:
    """Every call holds a quote and a brace; stop tokens are of no more effect."""
    for fields in ({"stop": ['"', "}"]}, {"extra_body": {"stop_token_ids": list(range(1, 250))}}):
        call = ask(client, tool_choice="required", temperature=0, **fields).choices[0]
        assert call.finish_reason == "tool_calls"
        check_call(call.message.tool_calls[0])


def test_names_as_openai_allows_them(client: Any) -> None:
    for name in ("3d", "-x", "_", "a.b-c_9", "A" * 64):
        tool = {"type": "function", "function": {"name": name}}
        reply = ask(client, tools=[tool], tool_choice="required").choices[0].message
        assert reply.tool_calls[0].function.name == name


def test_several_forced_calls(client: Any, engine: Engine) -> None:
    """parallel_tool_calls: true lets a list of calls be written; each parses, within any room."""
    units = {"type": "object", "properties": {"unit": {"enum": ["m", "km"]}}, "required": ["unit"]}
    tools = [NOTHING, {"type": "function", "function": {"name": "distance", "parameters": units}}]
    # This model would seldom begin a list, or go on with one, of its own accord.
    text_ids = {text: engine.tokenizer.encode(text)[0] for text in ("[", ",", "{")}
    counts: set[int] = set()
    for begin, room in (("{", 100), ("[", 60), ("[", 200), ("[", 400)):
        reply = ask(
            client,
            tools=tools,
            tool_choice="required",
            parallel_tool_calls=True,
            temperature=2,
            n=16,
            seed=random.Random(time.time_ns()).getrandbits(40),
            max_completion_tokens=room,
            logit_bias={str(text_ids[begin]): 100, str(text_ids[","]): 20},
        )
        for output in reply.choices:
            calls = output.message.tool_calls
            assert output.message.content is None and 1 <= len(calls) <= (16 if begin == "[" else 1)
            for call in calls:
                arguments = json.loads(call.function.arguments)
                if call.function.name == "now":
                    assert arguments == {}
                else:
                    assert call.function.name == "distance" and arguments in ({"unit": "m"}, {"unit": "km"})
            assert len({call.id for call in calls}) == len(calls)
            assert output.finish_reason in ("tool_calls", "length")
            counts.add(len(calls))
    assert 1 in counts and len(counts) > 1, counts


def test_a_forced_call_streams(client: Any) -> None:
    chunks = list(ask(client, tool_choice="required", temperature=1, seed=4, stream=True))
    deltas = [chunk.choices[0].delta.model_dump() for chunk in chunks if chunk.choices]
    message = joined_message([{**d, "tool_calls": d.get("tool_calls") or []} for d in deltas])
    whole = ask(client, tool_choice="required", temperature=1, seed=4).choices[0].message
    assert [c["function"] for c in message["tool_calls"]] == [
        c.function.model_dump() for c in whole.tool_calls
    ]


def test_the_sdk_s_tool_loop(client: Any) -> None:
    first = ask(client, tool_choice="required", temperature=0).choices[0].message
    answer = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"}
    reply = ask(client, messages=[*ASK, first.model_dump(exclude_none=True), answer], tool_choice="none")
    assert reply.choices[0].message.tool_calls is None and reply.choices[0].message.content is not None


def test_no_room_for_a_call_is_refused_with_both_numbers(client: Any) -> None:
    with pytest.raises(
        openai.BadRequestError, match=r"leaves 4 tokens, and the shortest answer .* has [0-9]+"
    ):
        ask(client, tool_choice="required", max_completion_tokens=4)


def test_auto_and_none(client: Any, engine: Engine) -> None:
    plain = engine.chat(ASK, SamplingParams(temperature=0, max_tokens=20))[0].outputs[0].text
    reply = ask(client, tool_choice="none", temperature=0, max_completion_tokens=20)
    assert reply.choices[0].message.content == plain
    own = (
        engine.chat(ASK, SamplingParams(temperature=0, max_tokens=20), tools=[WEATHER, NOTHING])[0]
        .outputs[0]
        .text
    )
    reply = ask(client, temperature=0, max_completion_tokens=20).choices[0].message
    assert reply.content == own or reply.tool_calls


FORMS: dict[str, Any] = {
    "json_schema": {"json_schema": {"name": "t", "schema": {
        "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"],
        "additionalProperties": False}}},
    "json_object": {},
    "regex": {"regex": "[a-z ]{3,20}"},
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(FORMS))
@pytest.mark.parametrize("choice", [None, "auto"])
def test_a_response_format_beside_tools_leaves_calls_possible(
    client: Any, kind: str, choice: str | None
) -> None:
    """As in OpenAI's API: the model calls where it would call, and its text has the format."""
    import jsonschema

    fields = {} if choice is None else {"tool_choice": choice}
    fields |= {"response_format": {"type": kind, **FORMS[kind]}}
    message = ask(client, temperature=0, **fields).choices[0].message
    (call,) = message.tool_calls
    assert message.content is None and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    chunks = list(ask(client, temperature=0, stream=True, **fields))
    pieces = [p.function for c in chunks for p in c.choices[0].delta.tool_calls or ()]
    assert "".join(piece.arguments for piece in pieces) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"

    texts = []
    for seed in range(40):
        for output in ask(client, seed=seed, temperature=2, n=16, **fields).choices:
            assert output.message.content is None or output.message.tool_calls is None
            if output.finish_reason == "stop":
                texts.append(output.message.content)
        if texts:
            break
    assert texts
    for text in texts:
        if kind == "regex":
            assert re.fullmatch(FORMS[kind]["regex"], text)
        else:
            schema = FORMS[kind].get("json_schema", {"schema": {"type": "object"}})["schema"]
            jsonschema.validate(json.loads(text), schema)


def test_what_constrains_all_output_leaves_no_calls(client: Any) -> None:
    """vLLM's guided_ fields are for whatever comes."""
    for output in ask(client, extra_body={"guided_regex": "a{3,9}"}, temperature=2, n=16).choices:
        assert output.message.tool_calls is None and set(output.message.content) == {"a"}


def test_a_call_stands_at_the_beginning_of_formatted_text_or_nowhere() -> None:
    call = '{"name": "f", "parameters": {"a": 1}}'
    for text, content, calls in (
        (call, None, 1),
        (f"[{call}, {call}]", None, 2),
        (f'{{"calls": [{call}]}}', f'{{"calls": [{call}]}}', 0),
        (f'["x", {call}]', f'["x", {call}]', 0),
        (f'{{"name": "g", "of": {call}}}', f'{{"name": "g", "of": {call}}}', 0),
        (f"f {call}", f"f {call}", 0),
    ):
        for pieces in ([text], list(text)):
            message = shaped(pieces, only_first=True)
            assert message["content"] == content and len(message.get("tool_calls", ())) == calls, pieces


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice", "'other'"),
        ({"tools": [{"type": "function", "function": {"name": "x y"}}]}, "tools.0.function.name", "pattern"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}],
          "tool_choice": "required"}, "tools", "'object'"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"not": {}}}}}}],
          "tool_choice": "required"}, "tools", "'not'"),
        ({"tool_choice": "required", "extra_body": {"guided_regex": "a"}}, "tool_choice", "other form"),
        ({"tool_choice": "required", "response_format": {"type": "text"}, "extra_body": {"guided_regex": "a"}},
         "tool_choice", "other form"),
        ({"tools": [5]}, "tools.0", ""),
    ],
)  # fmt: skip
def test_tools_that_are_refused(client: Any, fields: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **fields)
    assert caught.value.param == param and says in caught.value.message
