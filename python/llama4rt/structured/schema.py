"""Which JSON schemas are taken: every keyword is enforced or refused by name, none is passed over.

The grammar library refuses most of what it cannot enforce, and says nothing of keywords it does not know; a schema with
a misspelt `requierd` must not look as if it were obeyed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llama4rt.errors import RequestError
from llama4rt.structured.keywords import COUNTS, ENFORCED, MANY, NAMED, ONE, RELAXED, fault, is_annotation
from llama4rt.structured.values import resolved, unique_lists

MAX_DEPTH = 32
MAX_PROPERTIES = 512  # of all objects together
MAX_ENUM = 2000  # of all enumerations together
MAX_REPEAT = 100_000  # items or characters that a bound may ask for

# As json.dumps writes what has no escape of two characters. A backslash before it would itself be escaped.
_UNWRITABLE = re.compile(r"(?<!\\)(?:\\\\)*\\u00(?:[01][0-9a-f]|7f)")


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises RequestError with the keyword and its place."""
    properties = enum = 0
    ending: set[int] = set()  # ids of schemas whose references end
    root = reference_root(schema)
    for place, sub in schemas(schema):
        if isinstance(sub, bool):
            continue
        where = place or "the top"
        if not isinstance(sub, Mapping):
            raise RequestError(
                f"JSON schema: {place or 'the schema'} is no schema but a {type(sub).__name__}"
            )
        _check_keywords(sub, where)
        _check_references(sub, root, where, ending)
        if sub.get("uniqueItems") and unique_lists(sub, root) is None:
            raise RequestError(
                f"JSON schema: 'uniqueItems' at {where} can be enforced only where 'items' has few values (enum, "
                "const, boolean, null)"
            )
        properties += len(sub.get("properties", ()))
        enum += len(sub.get("enum", ()))
    if properties > MAX_PROPERTIES:
        raise RequestError(
            f"JSON schema: there are {properties} properties; at most {MAX_PROPERTIES} are allowed"
        )
    if enum > MAX_ENUM:
        raise RequestError(f"JSON schema: there are {enum} enum values; at most {MAX_ENUM} are allowed")


def _check_keywords(schema: Mapping[str, Any], where: str) -> None:
    if isinstance(schema.get("items"), list):
        raise RequestError(
            f"JSON schema: 'items' at {where} is a list; that is 'prefixItems' since draft 2020-12"
        )
    for keyword, value in schema.items():
        if keyword == RELAXED:
            raise RequestError(f"JSON schema: {RELAXED!r} is at {where}; it can only be at the top")
        if keyword not in ENFORCED and not is_annotation(keyword):
            raise RequestError(f"JSON schema: the keyword {keyword!r:.80} at {where} is not supported")
        if must_be := fault(keyword, value):
            raise RequestError(
                f"JSON schema: {keyword!r} at {where} is {_shown(value)}; it must be {must_be}"
            )
        if keyword in COUNTS and value > MAX_REPEAT:
            raise RequestError(f"JSON schema: {keyword!r} at {where} is {value}; at most {MAX_REPEAT}")
        if keyword in ("const", "enum") and _UNWRITABLE.search(json.dumps(value)):
            raise RequestError(
                f"JSON schema: {keyword!r} at {where} holds a control character that JSON has no short escape for; "
                "those are not written"
            )


def _check_references(
    schema: Mapping[str, Any], root: Mapping[str, Any], where: str, ending: set[int]
) -> None:
    """A reference to a reference, and so on, must arrive somewhere. ending: what is known to; more is added."""
    chain: set[int] = set()
    while isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str) and id(schema) not in ending:
        if id(schema) in chain:
            raise RequestError(f"JSON schema: '$ref' at {where} leads back to itself")
        chain.add(id(schema))
        schema = resolved(schema["$ref"], root)
    ending |= chain


def reference_root(schema: Any) -> Mapping[str, Any]:
    """What "#/..." begins at in all of it; an empty schema where an `$id` inside makes that depend on the place."""
    if not isinstance(schema, Mapping):
        return {}
    inner = (sub for place, sub in schemas(schema) if place and isinstance(sub, Mapping))
    return {} if any("$id" in sub for sub in inner) else schema


def schemas(schema: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """All schemas in it, with where they stand."""
    if depth > MAX_DEPTH:
        raise RequestError(f"JSON schema: it is nested deeper than {MAX_DEPTH}")
    yield place, schema
    if not isinstance(schema, Mapping):
        return
    for name in ONE:
        if name in schema:
            yield from schemas(schema[name], f"{place}/{name}", depth + 1)
    for name in MANY:
        if isinstance(schema.get(name), list):
            for i, sub in enumerate(schema[name]):
                yield from schemas(sub, f"{place}/{name}/{i}", depth + 1)
    for name in NAMED:
        if isinstance(schema.get(name), Mapping):
            for key, sub in schema[name].items():
                yield from schemas(sub, f"{place}/{name}/{key:.40}", depth + 1)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
