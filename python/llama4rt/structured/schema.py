"""Which JSON schemas are taken: every keyword is enforced or refused by name, none is passed over.

The grammar library refuses most of what it cannot enforce, and says nothing of keywords it does not know; a schema with
a misspelt `requierd` must not look as if it were obeyed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llama4rt.errors import RequestError

MAX_DEPTH = 32
MAX_PROPERTIES = 512  # of all objects together
MAX_ENUM = 2000  # of all enumerations together
MAX_REPEAT = 100_000  # items or characters that a bound may ask for

_ENFORCED = frozenset({
    "type", "enum", "const", "properties", "required", "additionalProperties", "patternProperties", "minProperties",
    "maxProperties", "items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "anyOf", "allOf", "oneOf", "$ref",
    "$defs", "definitions",
})  # fmt: skip
# They describe and do not constrain: so the standard.
_ANNOTATIONS = frozenset(
    [
        "title",
        "description",
        "default",
        "examples",
        "$comment",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$schema",
        "$id",
    ]
)
# As json.dumps writes what has no escape of two characters. A backslash before it would itself be escaped.
_UNWRITABLE = re.compile(r"(?<!\\)(?:\\\\)*\\u00(?:[01][0-9a-f]|7f)")
_ONE = ("additionalProperties", "items")
_MANY = ("anyOf", "allOf", "oneOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_BOUNDS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises RequestError with the keyword and its place."""
    properties = enum = 0
    for place, sub in _schemas(schema, "", 0):
        if isinstance(sub, bool):
            continue
        if not isinstance(sub, Mapping):
            raise RequestError(
                f"JSON schema: {place or 'the schema'} is no schema but a {type(sub).__name__}"
            )
        for keyword in sub:
            if keyword not in _ENFORCED and keyword not in _ANNOTATIONS:
                raise RequestError(
                    f"JSON schema: the keyword {keyword!r:.80} at {place or 'the top'} is not supported"
                )
        for name in ("const", "enum"):
            if name in sub and _UNWRITABLE.search(json.dumps(sub[name])):
                raise RequestError(
                    f"JSON schema: {name} at {place or 'the top'} holds a control character that JSON has no short "
                    "escape for; those are not written"
                )
        if isinstance(sub.get("items"), list):
            raise RequestError(
                f"JSON schema: 'items' at {place or 'the top'} is a list; that is 'prefixItems' since draft 2020-12"
            )
        for name in _BOUNDS:
            bound = sub.get(name, 0)
            if isinstance(bound, (int, float)) and bound > MAX_REPEAT:
                raise RequestError(
                    f"JSON schema: {name} at {place or 'the top'} is {bound}; at most {MAX_REPEAT}"
                )
        properties += len(sub["properties"]) if isinstance(sub.get("properties"), Mapping) else 0
        enum += len(sub["enum"]) if isinstance(sub.get("enum"), list) else 0
    if properties > MAX_PROPERTIES:
        raise RequestError(
            f"JSON schema: there are {properties} properties; at most {MAX_PROPERTIES} are allowed"
        )
    if enum > MAX_ENUM:
        raise RequestError(f"JSON schema: there are {enum} enum values; at most {MAX_ENUM} are allowed")


def _schemas(schema: Any, place: str, depth: int) -> Iterator[tuple[str, Any]]:
    """All schemas in it, with where they stand."""
    if depth > MAX_DEPTH:
        raise RequestError(f"JSON schema: it is nested deeper than {MAX_DEPTH}")
    yield place, schema
    if not isinstance(schema, Mapping):
        return
    for name in _ONE:
        if name in schema:
            yield from _schemas(schema[name], f"{place}/{name}", depth + 1)
    for name in _MANY:
        if isinstance(schema.get(name), list):
            for i, sub in enumerate(schema[name]):
                yield from _schemas(sub, f"{place}/{name}/{i}", depth + 1)
    for name in _NAMED:
        if isinstance(schema.get(name), Mapping):
            for key, sub in schema[name].items():
                yield from _schemas(sub, f"{place}/{name}/{key:.40}", depth + 1)


def minimal_size(schema: Mapping[str, Any]) -> int:
    """About the most characters that any one part of the schema needs at least: how much a token that begins an
    optional part can add to what must still be said.
    """
    sizes = _Sizes(schema)
    return max(sizes.of(sub) for _, sub in _schemas(schema, "", 0))


class _Sizes:
    """About the characters of each schema's shortest value. Each is looked at once; recursion counts as nothing."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[int, int] = {}

    def of(self, schema: Any) -> int:
        if not isinstance(schema, Mapping):
            return 2
        key = id(schema)
        if key not in self._known:
            self._known[key] = 2
            self._known[key] = min(self._computed(schema), 1 << 20)
        return self._known[key]

    def _computed(self, schema: Mapping[str, Any]) -> int:
        sizes = [2, _number(schema.get("minLength")) + 2, _number(schema.get("minProperties")) * 8]
        sizes += [self.of(sub) for sub in _list(schema, "allOf")]
        if "$ref" in schema:
            sizes.append(self.of(_resolved(schema["$ref"], self._root)))
        for name in ("anyOf", "oneOf"):
            sizes.append(min((self.of(sub) for sub in _list(schema, name)), default=0))
        sizes.append(min((len(str(value)) + 2 for value in _list(schema, "enum")), default=0))
        sizes.append(len(str(schema.get("const", ""))) + 2)
        own = schema.get("properties")
        own = own if isinstance(own, Mapping) else {}
        sizes.append(sum(len(str(key)) + 6 + self.of(own.get(key)) for key in _list(schema, "required")))
        sizes.append(_number(schema.get("minItems")) * (2 + self.of(schema.get("items"))))
        return max(sizes)


def _list(schema: Mapping[str, Any], name: str) -> list[Any]:
    value = schema.get(name)
    return value if isinstance(value, list) else []


def _resolved(reference: Any, root: Mapping[str, Any]) -> Any:
    found: Any = root
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    for part in reference[1:].split("/")[1:]:
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _number(value: Any) -> int:
    return (
        int(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e6
        else 0
    )
