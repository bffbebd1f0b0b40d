"""What can be said of a schema's values beforehand: all of them where they are few, and whether two schemas share any.

On this rest the translations of keywords that the grammar library cannot enforce by itself (rewriting.py).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from llama4rt.structured.keywords import ENFORCED, TYPES

# Lists of different values, each written down as one alternative: in any order while there are so many, ...
_MAX_ORDERED = 400
_MAX_UNORDERED = 1100  # ... else in the order of the enumeration.
_MAX_BRANCHES = 64
_MAX_REFERENCES = 32


def resolved(reference: Any, root: Mapping[str, Any]) -> Any:
    """What a reference into the schema itself leads to; None for any other."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: Any = root
    for part in unquote(reference[1:]).split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, list) and part.isdecimal() and len(part) < 6 and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


def key(value: Any) -> Any:
    """Equal for equal JSON values, of whatever Python types."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return (type(value).__name__, value)
    if isinstance(value, (int, float)):
        return ("number", value)
    if isinstance(value, Mapping):
        return ("object", frozenset((name, key(item)) for name, item in value.items()))
    return ("array", tuple(key(item) for item in value))


def all_values(schema: Any, root: Mapping[str, Any]) -> list[Any] | None:
    """Every value that follows the schema; None where they are not known or not few."""
    schema = _followed(schema, root)
    if not isinstance(schema, Mapping):
        return None
    if set(schema) & set(ENFORCED) - {"enum", "const", "type", "$defs", "definitions"}:
        return None
    types = _types(schema)
    if "const" in schema:
        values = [schema["const"]]
        if "enum" in schema:
            return None
    elif "enum" in schema:
        values = list(schema["enum"])
    elif types <= {"boolean", "null"}:
        return [
            value for name, value in (("boolean", False), ("boolean", True), ("null", None)) if name in types
        ]
    else:
        return None
    different = {key(value): value for value in values if _type_of(value) & types}
    return list(different.values())


def unique_lists(schema: Mapping[str, Any], root: Mapping[str, Any]) -> list[Sequence[Any]] | None:
    """All lists that follow a schema with uniqueItems, some only in one order if they are many; None if too many.
    Where the lists hold one item at most, uniqueItems says nothing: [].
    """
    most = schema.get("maxItems")
    if most is not None and most <= 1:
        return []
    if "prefixItems" in schema:
        return None
    values = all_values(schema.get("items"), root)
    if values is None:
        return None
    least = int(schema.get("minItems", 0))
    most = len(values) if most is None else min(int(most), len(values))
    sizes = range(least, most + 1)
    if sum(math.perm(len(values), size) for size in sizes) <= _MAX_ORDERED:
        return [list_ for size in sizes for list_ in itertools.permutations(values, size)]
    if sum(math.comb(len(values), size) for size in sizes) <= _MAX_UNORDERED:
        return [list_ for size in sizes for list_ in itertools.combinations(values, size)]
    return None


def exclude_each_other(branches: Sequence[Any], root: Mapping[str, Any]) -> bool:
    """Whether surely no value follows two of them: their types differ, or the values of a property that both require
    (of the discriminator, mostly).
    """
    if len(branches) > _MAX_BRANCHES:
        return False
    followed = [_followed(branch, root) for branch in branches]
    if not all(isinstance(branch, Mapping) for branch in followed):
        return False
    marks = [_marks(branch, root) for branch in followed]
    return all(one.excludes(other) for one, other in itertools.combinations(marks, 2))


@dataclass(frozen=True)
class _Marks:
    """What tells a branch from others. values: all it has, where they are known. required: the same by property."""

    types: set[str]
    values: set[Any] | None
    required: dict[str, set[Any]]

    def excludes(self, other: "_Marks") -> bool:
        shared = self.types & other.types
        if not shared:
            return True
        if self.values is not None and other.values is not None and not self.values & other.values:
            return True
        if shared != {"object"}:
            return False
        return any(
            not values & other.required[name]
            for name, values in self.required.items()
            if name in other.required
        )


def _marks(schema: Mapping[str, Any], root: Mapping[str, Any]) -> _Marks:
    required = {}
    for name in schema.get("required", ()):
        if (values := _keys(schema.get("properties", {}).get(name), root)) is not None:
            required[name] = values
    return _Marks(_types(schema), _keys(schema, root), required)


def _keys(schema: Any, root: Mapping[str, Any]) -> set[Any] | None:
    values = all_values(schema, root)
    return None if values is None else {key(value) for value in values}


def _followed(schema: Any, root: Mapping[str, Any]) -> Any:
    """What a schema that is no more than a reference leads to."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            return schema
        if set(schema) & set(ENFORCED) - {"$ref", "$defs", "definitions"}:
            return None
        schema = resolved(schema["$ref"], root)
    return None


def _types(schema: Mapping[str, Any]) -> set[str]:
    """Types whose values may follow the schema; "integer" comes with "number" as well."""
    types = schema.get("type", TYPES)
    types = {types} if isinstance(types, str) else set(types)
    if schema.get("nullable"):
        types.add("null")
    return types | {"integer"} if "number" in types else types


def _type_of(value: Any) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, (int, float)):
        return {"number", "integer"} if value == int(value) else {"number"}
    return {"string"} if isinstance(value, str) else {"array"} if isinstance(value, list) else {"object"}
