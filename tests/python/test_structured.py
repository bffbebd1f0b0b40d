"""Structured output: each keyword of JSON Schema is enforced, as the jsonschema package judges, or refused by name."""

from __future__ import annotations

import datetime
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

from llama4rt import Engine, RequestError, SamplingParams, StructuredOutput  # noqa: E402
from llama4rt.demo import engine_path  # noqa: E402
from llama4rt.structured.keywords import ANNOTATIONS  # noqa: E402
from llama4rt.structured.keywords import ENFORCED as KEYWORDS  # noqa: E402
from llama4rt.structured.rewriting import _FORMATS  # noqa: E402
from llama4rt.structured.sizes import minimal_size  # noqa: E402

# One or more schemas that put each keyword to use. Every keyword of drafts 4 to 2020-12 is in this table or the next.
ENFORCED: dict[str, list[Any]] = {
    "type": [{"type": t} for t in ("null", "boolean", "integer", "number", "string", "array", "object")]
    + [{"type": ["integer", "null"]}],
    "enum": [{"enum": ["a", 1, None, True, [1], {"b": 2}]}],
    "const": [{"const": {"a": [1, "x"]}}, {"const": 2}],
    "properties": [{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}}],
    "required": [{"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a", "z"]}],
    "additionalProperties": [
        {"type": "object", "properties": {"a": True}, "additionalProperties": False},
        {"type": "object", "additionalProperties": {"type": "integer"}},
    ],
    "patternProperties": [
        {"type": "object", "patternProperties": {"^a[0-9]$": {"type": "null"}}, "additionalProperties": False}
    ],
    "minProperties": [{"type": "object", "minProperties": 1, "additionalProperties": {"type": "null"}}],
    "maxProperties": [{"type": "object", "maxProperties": 1, "additionalProperties": {"type": "null"}}],
    "items": [{"type": "array", "items": {"type": "integer"}}],
    "prefixItems": [{"type": "array", "prefixItems": [{"type": "null"}, {"const": 1}], "items": False}],
    "minItems": [{"type": "array", "minItems": 2, "items": {"type": "boolean"}}],
    "maxItems": [{"type": "array", "maxItems": 2, "items": {"type": "boolean"}}],
    "uniqueItems": [
        {"type": "array", "items": {"enum": ["a", "b", 1]}, "uniqueItems": True},
        {"type": "array", "items": {"$ref": "#/$defs/a"}, "uniqueItems": True, "minItems": 2,
         "$defs": {"a": {"enum": list("abcdefgh"), "type": "string", "title": "Letter"}}},
        {"type": "array", "items": {"type": ["boolean", "null"]}, "uniqueItems": True, "maxItems": 2},
    ],
    "minLength": [{"type": "string", "minLength": 3, "maxLength": 9}],
    "maxLength": [{"type": "string", "maxLength": 2}],
    "pattern": [{"type": "string", "pattern": "^[a-c]{2,4}$"}, {"type": "string", "pattern": "x.y"}],
    "format": [{"type": "string", "format": f} for f in ("date", "ipv4", "uuid", "time")],
    "minimum": [{"type": "integer", "minimum": 7}, {"type": "number", "minimum": -1.5, "maximum": 0.25}],
    "maximum": [{"type": "integer", "maximum": -7}],
    "exclusiveMinimum": [{"type": "integer", "exclusiveMinimum": 3, "maximum": 5}],
    "exclusiveMaximum": [{"type": "integer", "exclusiveMaximum": 3, "minimum": 1}],
    "multipleOf": [{"type": "integer", "multipleOf": 3}],
    "anyOf": [{"anyOf": [{"type": "null"}, {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}]}],
    "allOf": [{"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 40}]}],
    "oneOf": [{"oneOf": [{"type": "boolean"}, {"type": "integer"}]}],
    "$ref": [
        {"type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}, "required": ["next"],
         "additionalProperties": False},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}},
    ],
    "$defs": [{"$defs": {"a": {"enum": ["p", "q"]}}, "type": "array", "items": {"$ref": "#/$defs/a"}, "maxItems": 3}],
    "definitions": [{"definitions": {"a/b": {"const": 5}}, "$ref": "#/definitions/a~1b"}],
}  # fmt: skip

REFUSED: dict[str, Any] = {
    "not": {"type": "string"}, "if": {}, "then": {}, "else": {}, "contains": {}, "minContains": 1, "maxContains": 1,
    "propertyNames": {"maxLength": 1}, "dependentRequired": {"a": ["b"]}, "dependentSchemas": {},
    "dependencies": {}, "unevaluatedProperties": False, "unevaluatedItems": False, "additionalItems": False,
    "$dynamicRef": "#a", "$dynamicAnchor": "a", "$recursiveRef": "#", "$recursiveAnchor": True, "$anchor": "a",
    "$vocabulary": {}, "contentEncoding": "base64", "contentMediaType": "text/plain", "contentSchema": {},
    "x-guidance": {"lenient": True}, "requierd": ["a"], "id": "x", "extends": {},
    "disallow": "any", "divisibleBy": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(engine_path(), num_threads=1, kv_cache_memory="128MiB", max_num_seqs=16) as engine:
        yield engine


def written(engine: Engine, structured: StructuredOutput, **params: Any) -> Any:
    params = {"temperature": 2.0, "max_tokens": 100, "seed": time.time_ns() % 2**40} | params
    return engine.generate("Write:", SamplingParams(structured=structured, **params))[0].outputs


def test_the_tables_hold_every_keyword() -> None:
    assert set(ENFORCED) | {"nullable"} == set(KEYWORDS)  # nullable: test_schema_keywords.py
    assert not set(REFUSED) & (set(KEYWORDS) | set(ANNOTATIONS))
    known = set(ENFORCED) | set(REFUSED) | set(ANNOTATIONS)
    for validator in (
        jsonschema.Draft4Validator,
        jsonschema.Draft7Validator,
        jsonschema.Draft202012Validator,
    ):
        assert set(validator.VALIDATORS) <= known
        assert set(validator.META_SCHEMA["properties"]) if "properties" in validator.META_SCHEMA else True


def test_dates_are_those_of_the_calendar() -> None:
    """Every day that there is, from the year 1 on, and no other: days 0 to 32 of months 0 to 13 of some years."""
    pattern = re.compile(_FORMATS["date"])
    years = {0, 1, 4, 96, 100, 400, 1000, 1900, 2000, 2023, 2024, 9999, *random.sample(range(10_000), 40)}
    for year in years:
        for month in range(14):
            for day in range(33):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    datetime.date(year, month, day)
                    exists = True
                except ValueError:
                    exists = False
                assert bool(pattern.match(text)) == exists, text


@pytest.mark.parametrize("keyword", sorted(ENFORCED))
def test_a_keyword_is_enforced(engine: Engine, keyword: str, soak: bool) -> None:
    """Random text under the grammar, led to its end: valid by the judgement of another library."""
    for schema in ENFORCED[keyword]:
        check = jsonschema.Draft202012Validator.FORMAT_CHECKER
        validator = jsonschema.Draft202012Validator(schema, format_checker=check)
        structured = StructuredOutput.json_schema(schema, complete=True)
        for _ in range(20 if soak else 1):
            for output in written(engine, structured, n=8):
                value = json.loads(output.text)
                assert not list(validator.iter_errors(value)), (schema, output.text)


def takes(engine: Engine, schema: Any, text: str) -> bool:
    """Whether an output may be exactly this text. schema: or a StructuredOutput."""
    assert engine.tokenizer is not None
    if not isinstance(schema, StructuredOutput):
        schema = StructuredOutput.json_schema(schema)
    matcher = engine._grammars()._compiled(schema).matcher
    ids = [*engine.tokenizer.encode(text), engine.config["eos_token_ids"][0]]
    return bool(matcher.deep_copy().validate_tokens(ids) == len(ids))


def test_a_name_has_one_spelling(engine: Engine) -> None:
    """Else the type of a property could be evaded: "\\u0061" is "a"."""
    for schema in (
        {"type": "object", "properties": {"ab": {"type": "integer"}}},
        {"type": "object", "patternProperties": {"^a": {"type": "integer"}}},
        {"type": "array", "items": {"properties": {"ab": {"type": "integer"}}}},
    ):
        left, right = ("[", "]") if schema["type"] == "array" else ("", "")
        assert takes(engine, schema, f'{left}{{"ab": 1}}{right}')
        assert takes(engine, schema, f'{left}{{"x\\n\\"": "b"}}{right}')
        assert not takes(engine, schema, f'{left}{{"ab": "b"}}{right}')
        assert not takes(engine, schema, f'{left}{{"\\u0061b": "b"}}{right}')
        assert not takes(engine, schema, f'{left}{{"a\\u0062": "b"}}{right}')


def test_dates_are_in_the_calendar(engine: Engine) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    for year in (1900, 2000, 2023, 2024):
        for month in range(14):
            for day in (0, 1, 28, 29, 30, 31, 32):
                text = f"{year}-{month:02}-{day:02}"
                right = jsonschema.Draft202012Validator({"format": "date"}, format_checker=checker).is_valid(
                    text
                )
                assert takes(engine, {"format": "date"}, json.dumps(text)) == right, text
    stamp = {"type": "string", "format": "date-time", "pattern": "Z$"}
    assert takes(engine, stamp, '"2024-02-29T23:59:59.5Z"')
    for wrong in (
        "2023-02-29T00:00:00Z",
        "2024-02-28T24:00:00Z",
        "2024-02-28T10:00:60Z",
        "2024-02-28T10:00:00+01:00",
    ):
        assert not takes(engine, stamp, json.dumps(wrong)), wrong


def test_white_space_is_that_of_javascript(engine: Engine) -> None:
    space = "\u00a0\u2003\ufeff "
    for text, schema, right in (
        (space, r"^\s+$", True), (space, r"\S", False), ("a", r"^[^\s]$", True), (" ", r"^[\S]$", False),
        ("\\s", r"^\\s$", True), ("\x85", r"^\S$", True),
    ):  # fmt: skip
        written_as = json.dumps(text, ensure_ascii=False)
        assert takes(engine, {"type": "string", "pattern": schema}, written_as) == right, (text, schema)


@pytest.mark.parametrize("value", ["a\x01", {"\x00": 1}, ["\\\x1f"]])
def test_what_cannot_be_written_is_refused(value: Any) -> None:
    for schema in ({"const": value}, {"type": "array", "items": {"enum": [1, value]}}):
        with pytest.raises(RequestError, match="control character"):
            StructuredOutput.json_schema(schema)
    StructuredOutput.json_schema({"enum": ["\\u0001", "\n", "\\\\u001f"]})  # backslashes, and a new line


@pytest.mark.parametrize("keyword", sorted(REFUSED))
def test_a_keyword_is_refused_by_name(keyword: str) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"anyOf": [{"type": "array", keyword: REFUSED[keyword]}]}},
    }
    with pytest.raises(RequestError, match=re.escape(repr(keyword)) + r" at /properties/a/anyOf/0 "):
        StructuredOutput.json_schema(schema)
    with pytest.raises(RequestError, match="at the top"):
        StructuredOutput.json_schema({keyword: REFUSED[keyword]})


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "foo"}, "foo"),
        ({"type": "string", "format": "bogus"}, "bogus"),
        ({"type": "string", "pattern": "^a(?=b)"}, "look-ahead"),
        ({"$ref": "http://localhost/x"}, "retriev"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"enum": []}, "nsatisfiable"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "minimum"),
        (False, "false"),
        ({"items": [{}]}, "prefixItems"),
        ({"properties": {"a": 5}}, "no schema"),
        ({"properties": {str(i): {} for i in range(600)}}, "600 properties"),
        ({"enum": list(range(3000))}, "3000 enum"),
        ({"type": "string", "minLength": 10**9}, "minLength"),
        ({"description": "x" * 70_000}, "65536"),
        ("{", "not JSON"),
        ([], "must be an object"),
    ],
)
def test_schemas_that_cannot_be_met_are_refused(engine: Engine, schema: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        written(engine, StructuredOutput.json_schema(schema))


def test_deep_and_wide_schemas_end_soon(engine: Engine) -> None:
    deep: Any = {}
    for _ in range(100):
        deep = {"items": deep}
    with pytest.raises(RequestError, match="deeper than 32"):
        StructuredOutput.json_schema(deep)
    tree: Any = {"type": "null"}
    for _ in range(12):
        tree = {"anyOf": [tree, tree]}
    start = time.process_time()
    minimal_size(tree)
    assert time.process_time() - start < 20


def test_what_is_complete_ends_in_time(engine: Engine) -> None:
    """From the shortest possible limit upwards, always whole JSON; never an error for lack of room in between."""
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "list": {"type": "array", "items": {"$ref": "#"}},
            "n": {"minimum": 0},
        },
        "required": ["name"],
    }
    structured = StructuredOutput.json_schema(schema, complete=True)
    with pytest.raises(RequestError) as caught:
        written(engine, structured, max_tokens=1)
    shortest = int(str(caught.value).split()[-1])
    for room in range(shortest, shortest + 30):
        for output in written(engine, structured, max_tokens=room, n=4):
            jsonschema.validate(json.loads(output.text), schema)
            assert len(output.token_ids) <= room


def test_what_is_complete_ends_however_deep_it_went(engine: Engine) -> None:
    """Each level that is opened owes more than its own end, for hundreds of tokens."""
    schema = {
        "$ref": "#/$defs/node",
        "$defs": {"node": {"type": "array", "prefixItems": [{"$ref": "#/$defs/more"}, {"const": "the end of this"}],
                           "minItems": 2, "items": False},
                  "more": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    }  # fmt: skip
    structured = StructuredOutput.json_schema(schema, complete=True)
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    opening = {i: 50.0 for i in range(tokenizer.vocab_size) if b"[" in tokenizer.token_bytes(i)}
    deepest = 0
    for room in (60, 200, 500):
        for output in written(engine, structured, max_tokens=room, n=8, logit_bias=opening):
            jsonschema.validate(json.loads(output.text), schema)
            assert output.finish_reason == "stop"
            deepest = max(deepest, output.text.count("["))
    assert deepest > 20


@pytest.mark.parametrize("pattern", ["[0-9]{3}-[a-z]{2,5}", "(yes|no)( sir)?", "a+b*c", "ü{2}€"])
def test_regex(engine: Engine, pattern: str) -> None:
    for output in written(engine, StructuredOutput.regex(pattern), n=8):
        if output.finish_reason == "stop":
            assert re.fullmatch(pattern, output.text)


def test_choice(engine: Engine) -> None:
    choices = ["red", "green", 'quo"te', "line\nbreak", "größer", "redder"]
    seen = {o.text for _ in range(6) for o in written(engine, StructuredOutput.choice(choices), n=16)}
    assert seen <= set(choices) and len(seen) >= 3


def test_grammar(engine: Engine) -> None:
    lark = 'start: "(" start ")" | "x"'
    for output in written(engine, StructuredOutput.grammar(lark), n=8):
        if output.finish_reason == "stop":
            assert re.fullmatch(r"\(*x\)*", output.text) and output.text.count("(") == output.text.count(")")
    gbnf = 'root ::= "yes" | "no"'
    assert {o.text for o in written(engine, StructuredOutput.grammar(gbnf), n=8)} <= {"yes", "no"}


OTHER = {"type": "object", "properties": {"name": {"enum": ["f"]}, "parameters": {"type": "object"}},
         "required": ["name", "parameters"], "additionalProperties": False}  # fmt: skip
NAMED: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"age": {"type": "integer"}},
}


@pytest.mark.parametrize(
    ("own", "right", "wrong"),
    [
        (StructuredOutput.json_schema(NAMED), ['{"name": "f"}', '{"name": "x", "age": 3}'], ['{"age": 3}', "3"]),
        (StructuredOutput.json_object(), ["{}", '{"name": "f", "age": 3}'], ["[]", "3"]),
        (StructuredOutput.json_schema({"type": "array", "items": {"type": "boolean"}}), ["[true]"], ["[1]"]),
        (StructuredOutput.regex(r"[a-z]+|\{x\}"), ["abc", "{x}"], ["{y}", "3"]),
        (StructuredOutput.choice(["red", "green"]), ["red", "green"], ["gray", "r"]),
        (StructuredOutput.grammar('start: "{" WORD "}"\nWORD: /[a-z]+/'), ["{word}"], ["{3}", "word"]),
        (StructuredOutput.grammar('root ::= "yes" | "no"'), ["yes"], ["maybe"]),
    ],
)  # fmt: skip
def test_another_form_beside(
    engine: Engine, own: StructuredOutput, right: list[str], wrong: list[str]
) -> None:
    """What it takes alone, JSON of the other schema, and nothing between the two."""
    both = own.or_json(OTHER)
    for text in right:
        assert takes(engine, own, text) and takes(engine, both, text), text
    for text in ('{"name": "f", "parameters": {}}', '{"name": "f", "parameters": {"a": [1, {}]}}'):
        assert takes(engine, both, text), text
        assert takes(engine, own, text) == (own == StructuredOutput.json_object()), text
    for text in (*wrong, '{"name": "g", "parameters": {}}', '{"name": "f", "age": 3, "parameters": {}}'):
        assert not takes(engine, both, text) or takes(engine, own, text), text
    with pytest.raises(RequestError, match="no other form"):
        both.or_json(OTHER)


def test_refusals_belong_to_a_form_and_what_stands_beside(engine: Engine) -> None:
    own = StructuredOutput.grammar("start: nothing_like_it")
    for structured in (own, own.or_json(OTHER)):
        with pytest.raises(RequestError):
            written(engine, structured)
    fine = StructuredOutput.json_schema(NAMED)
    with pytest.raises(RequestError):
        written(engine, fine.or_json({"allOf": [{"type": "string"}, {"type": "integer"}]}))
    assert takes(engine, fine, '{"name": "f"}')


def test_wrong_sources(engine: Engine) -> None:
    for make in (
        lambda: StructuredOutput.regex("(a"),
        lambda: StructuredOutput.regex(""),
        lambda: StructuredOutput.regex("(?=a)b"),
        lambda: StructuredOutput.choice([]),
        lambda: StructuredOutput.choice(["a", ""]),
        lambda: StructuredOutput.grammar("start: nothing_like_it"),
        lambda: StructuredOutput.grammar("x" * 70_000),
    ):
        with pytest.raises(RequestError):
            written(engine, make())


def test_masks_leave_the_model_s_choice_among_what_is_allowed(engine: Engine) -> None:
    """Greedy: the first token is the allowed one of the highest logit, computed here from the logits. (Later ones may
    be forced text, whose tokens are the tokenizer's own.)
    """
    choices = ["apple pie", "green", "The end", "banana", "cold", "zero", "is it", "of"]
    tokenizer = engine.tokenizer
    assert tokenizer is not None
    allowed = [i for i in range(tokenizer.vocab_size) if (b := tokenizer.token_bytes(i))
               and i not in tokenizer.special_ids and any(c.encode().startswith(b) for c in choices)]  # fmt: skip
    for prompt in ("Write:", "The colour of the circle is", "Once upon a time", "3 + 4 ="):
        params = SamplingParams(temperature=0, structured=StructuredOutput.choice(choices))
        output = engine.generate(prompt, params)[0].outputs[0]
        logits = engine.score(prompt)[-1]
        assert output.token_ids[0] == max(allowed, key=lambda i: logits[i])
        assert output.text in choices


def test_structured_and_plain_requests_share_a_batch(engine: Engine) -> None:
    """Neither changes the other: the same tokens as alone. Logprobs are the model's own, before the mask."""
    rng = random.Random(5)
    prompts = [f"item {rng.random()}" for _ in range(12)]
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    structured = StructuredOutput.json_schema(schema, complete=True)
    params = [
        SamplingParams(
            structured=structured if i % 2 else None, seed=i, max_tokens=40, temperature=1.0, logprobs=0
        )
        for i in range(12)
    ]
    together = engine.generate(prompts, params)
    for prompt, own, out in zip(prompts, params, together, strict=True):
        assert engine.generate(prompt, own)[0].outputs == out.outputs
    assert all(o.logprob <= 0 for out in together for o in out.outputs[0].logprobs or ())


def test_what_does_not_go_together() -> None:
    for fields in ({"ignore_eos": True}, {"min_tokens": 3}):
        with pytest.raises(RequestError, match="structured output"):
            SamplingParams(structured=StructuredOutput.json_object(), **fields)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="StructuredOutput"):
        SamplingParams(structured={"type": "object"})  # type: ignore[arg-type]


def test_aborted_outputs_leave_nothing_behind(engine: Engine) -> None:
    structured = StructuredOutput.json_object()
    for _ in range(20):
        for i, _delta in enumerate(
            engine.stream("Write:", SamplingParams(structured=structured, max_tokens=200))
        ):
            if i == 3:
                break
    deadline = time.monotonic() + 20
    while engine.stats()["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_closed_engine_leaves_no_threads_of_masks() -> None:
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("llama4rt-masks")}

    before = threads()
    with Engine(engine_path(), num_threads=1, kv_cache_memory="16MiB") as engine:
        written(engine, StructuredOutput.choice(["red", "green"]), n=4)
        assert threads() - before
    for thread in threads() - before:
        thread.join(20)
    assert not threads() - before
