"""What the keywords of a schema may be: malformed values are refused by name, OpenAPI's keywords are translated."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

import pytest

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

from llama4rt import Engine, RequestError, StructuredOutput  # noqa: E402
from llama4rt.demo import engine_path  # noqa: E402
from llama4rt.structured.keywords import ANNOTATIONS, ENFORCED, FORMATS, OPENAPI, fault  # noqa: E402

METASCHEMA = jsonschema.Draft202012Validator(jsonschema.Draft202012Validator.META_SCHEMA)
# Of every JSON type and about every border that a keyword has.
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2.0, 0.5, -0.5, 1e300, "", "a", "string", "^a", "#", "a#b", "date", [], ["a"],
    ["a", "a"], ["string", "null"], ["string", "string"], ["string", "bogus"], [1], [{}], [True], [None], [[]], {},
    {"a": {}}, {"a": True}, {"a": 1}, {"a": []}, {"a": None}, {"type": "null"}, {"type": 5}, [{"type": 5}],
    {"a": {"type": 5}}, {"a": {"minLength": -1}}, [[{}]],
]  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(engine_path(), num_threads=1, kv_cache_memory="16MiB") as engine:
        yield engine


@pytest.mark.parametrize("keyword", sorted({*ENFORCED, *ANNOTATIONS} - {*OPENAPI}))
def test_a_value_is_refused_where_the_metaschema_refuses_it(keyword: str) -> None:
    """With the keyword's name. What the metaschema takes may be refused for another reason, in other words."""
    refused = taken = 0
    for value in VALUES:
        schema = {keyword: value}
        right = METASCHEMA.is_valid(schema)
        for nested in (schema, {"properties": {"p": {"items": schema}}}, {"anyOf": [True, schema]}):
            try:
                StructuredOutput.json_schema(nested)
                message = ""
            except RequestError as error:
                message = str(error)
            if right:
                assert "must be" not in message, (nested, message)
                taken += 1
            else:
                inner = re.findall(r"'(type|minLength)' at", message)  # of a schema within the value
                assert f"'{keyword}' at" in message or inner or "is no schema" in message, (nested, message)
                refused += 1
    assert taken and (refused or keyword in ("const", "default"))


@pytest.mark.parametrize(
    ("keyword", "right", "wrong"),
    [
        ("nullable", [True, False], [None, "true", 1]),
        (
            "discriminator",
            [
                {"propertyName": "a"},
                {"propertyName": "a", "mapping": {"b": "#/c"}},
                {"propertyName": "a", "x-b": 1},
            ],
            [{}, "a", {"propertyName": 1}, {"propertyName": "a", "mapping": []},
             {"propertyName": "a", "mapping": {"b": 1}}, {"propertyName": "a", "mappings": {}}],
        ),
        ("example", [1, None, {}], []),
        ("externalDocs", [{}], ["a", None]),
        ("xml", [{}], ["a"]),
    ],
)  # fmt: skip
def test_values_of_openapi_keywords(keyword: str, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        assert fault(keyword, value) is None
        StructuredOutput.json_schema({keyword: value})
    for value in wrong:
        with pytest.raises(RequestError, match=f"'{keyword}' at the top"):
            StructuredOutput.json_schema({keyword: value})


def takes(engine: Engine, schema: Any, value: Any) -> bool:
    """Whether an output may be exactly this value."""
    assert engine.tokenizer is not None
    matcher = engine._grammars()._compiled(StructuredOutput.json_schema(schema)).matcher
    ids = [*engine.tokenizer.encode(json.dumps(value)), engine.config["eos_token_ids"][0]]
    return bool(matcher.deep_copy().validate_tokens(ids) == len(ids))


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "nullable": True}, ["a", None], [1]),
        ({"type": "string", "nullable": False}, ["a"], [1, None]),
        ({"type": "string", "enum": ["a", "b"], "nullable": True}, ["a", "b", None], ["c"]),
        ({"const": 5, "nullable": True}, [5, None], [6]),
        ({"type": ["integer", "null"], "nullable": True}, [5, None], ["a"]),
        ({"type": "object", "properties": {"a": {"type": "integer", "nullable": True}}, "required": ["a"]},
         [{"a": 1}, {"a": None}], [{"a": "x"}, {}, None]),
        ({"$ref": "#/$defs/a", "nullable": True, "$defs": {"a": {"type": "integer"}}}, [1, None], ["a"]),
        ({"allOf": [{"$ref": "#/$defs/a"}], "nullable": True, "$defs": {"a": {"type": "integer"}}}, [1, None], ["a"]),
        ({"anyOf": [{"type": "integer"}, {"type": "boolean"}], "nullable": True}, [1, True, None], ["a"]),
        ({"oneOf": [{"type": "integer"}, {"type": "boolean"}], "nullable": True}, [1, True, None], ["a"]),
        ({"type": "array", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"type": "boolean", "nullable": True}}},
         [[None, True]], [[1]]),
        ({"properties": {"nullable": {"type": "null"}, "xml": {"type": "integer"}}, "type": "object"},
         [{"nullable": None, "xml": 1}], [{"nullable": 1}, {"xml": "a"}]),
    ],
)  # fmt: skip
def test_nullable_is_null_too(engine: Engine, schema: Any, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        assert takes(engine, schema, value), value
    for value in wrong:
        assert not takes(engine, schema, value), value


PET = {
    "discriminator": {"propertyName": "kind", "mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}},
    "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
    "$defs": {
        "Cat": {"type": "object", "title": "Cat", "properties": {"kind": {"const": "cat", "type": "string"},
                "lives": {"type": "integer"}}, "required": ["kind", "lives"]},
        "Dog": {"type": "object", "title": "Dog", "properties": {"kind": {"enum": ["dog", "hound"]},
                "name": {"type": "string"}}, "required": ["kind"], "additionalProperties": False},
    },
}  # fmt: skip


def test_a_discriminator_tells_schemas_apart(engine: Engine) -> None:
    """As Pydantic and OpenAPI generators write unions: oneOf with a property that says which."""
    for value in ({"kind": "cat", "lives": 7}, {"kind": "hound", "name": "x"}):
        assert takes(engine, PET, value)
    for value in ({"kind": "cat"}, {"kind": "dog", "name": 1}, {"kind": "cow", "lives": 1}, {"lives": 7}):
        assert not takes(engine, PET, value)
    overlapping = json.loads(json.dumps(PET).replace('"hound"', '"cat"'))
    with pytest.raises(RequestError, match="oneOf"):
        takes(engine, overlapping, {})


def test_unique_items_of_few_values(engine: Engine) -> None:
    """Five values in any order, up to ten in the order of the enumeration, more not at all."""
    schema: dict[str, Any] = {"type": "array", "uniqueItems": True}
    few = schema | {"items": {"enum": list("abcde")}}
    for value in ([], ["a"], ["c", "a"], list("edcba")):
        assert takes(engine, few, value)
    for value in (["a", "a"], ["a", "b", "a"], list("abcdea"), ["f"], "a", None):
        assert not takes(engine, few, value)
    ten = schema | {"items": {"enum": list("abcdefghij")}, "minItems": 1}
    assert takes(engine, ten, list("abcdefghij")) and takes(engine, ten, ["c", "j"])
    assert not takes(engine, ten, ["a", "a"]) and not takes(engine, ten, [])
    for items in ({"enum": list(range(12))}, {"type": "integer"}, {}, {"enum": [1], "minimum": 0}):
        with pytest.raises(RequestError, match="'uniqueItems' at the top can be enforced only"):
            StructuredOutput.json_schema(schema | {"items": items})
    assert takes(engine, schema | {"maxItems": 1}, ["anything"])
    assert not takes(engine, schema | {"maxItems": 1}, [1, 1])
    assert takes(engine, {"type": ["array", "null"], "uniqueItems": True, "items": {"type": "boolean"}}, None)
    assert takes(engine, {"uniqueItems": True, "items": {"type": "boolean"}}, {"a": 1})
    moved = {"$id": "https://example.org/a", "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {}}}
    with pytest.raises(RequestError, match="uniqueItems"):  # the reference leads to the inner definition
        StructuredOutput.json_schema({"prefixItems": [schema | moved], "$defs": {"a": {"enum": [1]}}})
    equal = schema | {"items": {"enum": [1, 1.0, True, {"a": 1}, {"a": 1.0}]}}
    assert takes(engine, equal, [True, 1]) and not takes(engine, equal, [1, 1])
    with pytest.raises(RequestError):
        takes(engine, schema | {"items": {"enum": [1, 2]}, "minItems": 3}, [1, 2])


def test_what_cannot_be_enforced_is_named_when_relaxed(engine: Engine) -> None:
    schema = {
        "x-llama4rt-relaxed": True,
        "type": "object",
        "properties": {
            "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "one": {"oneOf": [{"type": "number"}, {"type": "integer"}], "x-order": 3},
            "text": {"type": "string", "pattern": "^(?!a)", "format": "iban"},
            "sure": {"type": "string", "pattern": r"^a\\b$", "format": "date"},
        },
        "if": {"required": ["tags"]},
        "then": {"required": ["one"]},
        "requierd": ["sure"],
    }
    output = StructuredOutput.json_schema(schema)
    assert output.not_enforced == (
        "if at the top", "then at the top", "requierd at the top", "uniqueItems at /properties/tags",
        "oneOf at /properties/one", "pattern at /properties/text", "format at /properties/text",
    )  # fmt: skip
    assert takes(engine, schema, {"tags": ["a", "a"], "one": 1, "text": "b"})
    assert not takes(engine, schema, {"tags": [1]}) and not takes(engine, schema, {"one": "a"})
    assert StructuredOutput.json_schema({"type": "null", "x-llama4rt-relaxed": True}).not_enforced == ()
    for flag in (1, "true", None):
        with pytest.raises(RequestError, match="x-llama4rt-relaxed"):
            StructuredOutput.json_schema({"x-llama4rt-relaxed": flag})
    with pytest.raises(RequestError, match="'x-llama4rt-relaxed' is at /items"):
        StructuredOutput.json_schema({"items": {"x-llama4rt-relaxed": True}})
    with pytest.raises(RequestError, match="multipleOf"):  # malformed all the same
        StructuredOutput.json_schema({"x-llama4rt-relaxed": True, "multipleOf": 0})
    with pytest.raises(RequestError, match="'not'"):
        StructuredOutput.json_schema({"x-llama4rt-relaxed": False, "not": {}})


def test_formats_are_those_of_the_grammar_library(engine: Engine) -> None:
    for name in FORMATS:
        engine._grammars()._compiled(StructuredOutput.json_schema({"type": "string", "format": name}))
    for name in ("idn-email", "regex", "iri", "json-pointer", "int32", "binary"):
        with pytest.raises(RequestError, match=name):
            engine._grammars()._compiled(StructuredOutput.json_schema({"type": "string", "format": name}))


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"$ref": "#"}, "'\\$ref' at the top leads back to itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "back to itself"),
        ({"allOf": [{"$ref": "#"}]}, "no text follows"),
        ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "is refused: "),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "is refused: "),
        ({"multipleOf": -1}, "'multipleOf' at the top is -1"),
        ({"multipleOf": 0}, "'multipleOf' at the top is 0"),
    ],
)  # fmt: skip
def test_schemas_of_which_nothing_follows(engine: Engine, schema: Any, says: str) -> None:
    for complete in (False, True):
        with pytest.raises(RequestError, match=f"{says}|no short text"):
            engine._grammars()._compiled(StructuredOutput.json_schema(schema, complete=complete))


def test_long_chains_and_many_properties_are_taken(engine: Engine) -> None:
    chain: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(1000)}
    assert takes(engine, {"$ref": "#/$defs/d0", "$defs": {**chain, "d1000": {"type": "null"}}}, None)
    nested = {
        f"d{i}": {"properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}}, "required": ["a"]} for i in range(400)
    }
    StructuredOutput.json_schema({"$ref": "#/$defs/d0", "$defs": {**nested, "d400": {"type": "null"}}})
    wide = {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(512)}}
    names = sorted(random.Random(1).sample(range(512), 20))
    assert takes(engine, wide, {f"p{i}": i for i in names})
    assert not takes(engine, wide, {"p3": "a"})
