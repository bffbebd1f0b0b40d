"""The keywords of JSON Schema: which are enforced, which describe only, and what each one's value must be.

What values are right is said by the metaschema of draft 2020-12 (the tests compare with it), and by OpenAPI 3 for the
keywords that it adds.
"""

from collections.abc import Callable, Mapping
from typing import Any

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
FORMATS = (  # that are enforced
    "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown",
)  # fmt: skip

# Keywords whose value is a schema, a list of schemas, or schemas by name.
ONE = ("additionalProperties", "items")
MANY = ("anyOf", "allOf", "oneOf", "prefixItems")
NAMED = ("properties", "patternProperties", "$defs", "definitions")
COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_filled_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _is_schema(value: Any) -> bool:
    return isinstance(value, (Mapping, bool))


def _is_named(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_name_list(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value)


def _is_type(value: Any) -> bool:
    return (
        value in TYPES if _is_text(value) else _is_name_list(value) and bool(value) and set(value) <= {*TYPES}
    )


def _is_id(value: Any) -> bool:
    return _is_text(value) and "#" not in value.removesuffix("#")


def _is_discriminator(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and _is_text(value.get("propertyName"))
        and isinstance(value.get("mapping", {}), Mapping)
        and all(map(_is_text, value.get("mapping", {}).values()))
        and all(name in ("propertyName", "mapping") or name.startswith("x-") for name in value)
    )


# Keyword -> (is this value right?, what it must be).
_Rule = tuple[Callable[[Any], bool], str]
_TEXT: _Rule = (_is_text, "a text")
_BOOL: _Rule = (_is_bool, "true or false")
_NUMBER: _Rule = (_is_number, "a number")
_ANY: _Rule = (lambda value: True, "anything")

ENFORCED: dict[str, _Rule] = {
    "type": (_is_type, f"one of {', '.join(TYPES)}, or a list of different ones"),
    "enum": (_is_list, "a list"),
    "const": _ANY,
    "required": (_is_name_list, "a list of different names"),
    "pattern": _TEXT,
    "format": _TEXT,
    "$ref": _TEXT,
    "minimum": _NUMBER, "maximum": _NUMBER, "exclusiveMinimum": _NUMBER, "exclusiveMaximum": _NUMBER,
    "multipleOf": (_is_positive, "a number greater than 0"),
    "uniqueItems": _BOOL,
    "nullable": _BOOL,
    **dict.fromkeys(COUNTS, (_is_count, "a whole number, 0 or more")),
    **dict.fromkeys(ONE, (_is_schema, "a schema: an object, true or false")),
    **dict.fromkeys(MANY, (_is_filled_list, "a list of schemas, with at least one")),
    **dict.fromkeys(NAMED, (_is_named, "an object of schemas")),
}  # fmt: skip

# They describe and do not constrain: so the standards. discriminator says which property tells schemas apart.
ANNOTATIONS: dict[str, _Rule] = {
    "title": _TEXT, "description": _TEXT, "$comment": _TEXT, "$schema": _TEXT,
    "$id": (_is_id, "a text without a fragment"),
    "default": _ANY, "examples": (_is_list, "a list"),
    "deprecated": _BOOL, "readOnly": _BOOL, "writeOnly": _BOOL,
    "discriminator": (_is_discriminator, "an object of propertyName and, if need be, mapping"),
    "example": _ANY, "externalDocs": (_is_named, "an object"), "xml": (_is_named, "an object"),
}  # fmt: skip

RELAXED = "x-llama4rt-relaxed"  # only at the top
_OTHERS_MEAN = ("x-guidance",)  # the grammar library would obey it


# No keywords of JSON Schema: the grammar library is not shown them. (References may lead into the others.)
OPENAPI = frozenset(["nullable", "discriminator", "example", "externalDocs", "xml"])


def is_foreign(keyword: str) -> bool:
    """Not of JSON Schema, as far as such keywords are taken at all."""
    return keyword in OPENAPI or keyword.startswith("x-")


def is_annotation(keyword: str) -> bool:
    return keyword in ANNOTATIONS or (
        keyword.startswith("x-") and keyword not in _OTHERS_MEAN and keyword != RELAXED
    )


def fault(keyword: str, value: Any) -> str | None:
    """What the value must be, if it is not that."""
    right, must_be = ENFORCED.get(keyword) or ANNOTATIONS.get(keyword) or _ANY
    return None if right(value) else must_be
