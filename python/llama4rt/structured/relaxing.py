"""A schema that says `"x-llama4rt-relaxed": true`: what cannot be enforced is left out, and named in the reply."""

import re
from collections.abc import Mapping
from typing import Any

from llama4rt.errors import RequestError
from llama4rt.structured.keywords import ENFORCED, FORMATS, MANY, NAMED, ONE, RELAXED, is_annotation
from llama4rt.structured.schema import MAX_DEPTH, reference_root
from llama4rt.structured.values import exclude_each_other, unique_lists

# Look-around, word borders, references to what was matched.
_NO_PATTERN = re.compile(r"\(\?(?:=|!|<=|<!)|(?<!\\)(?:\\\\)*\\(?:[1-9bBk])")


def asks_to_relax(schema: Mapping[str, Any]) -> bool:
    """RequestError when the flag is neither true nor false."""
    flag = schema.get(RELAXED, False)
    if not isinstance(flag, bool):
        raise RequestError(f"JSON schema: {RELAXED!r} at the top must be true or false")
    return flag


def relaxed(schema: Mapping[str, Any]) -> "tuple[dict[str, Any], list[str]]":
    """(the schema without what cannot be enforced, what that was: "not at /properties/a")."""
    left_out: list[str] = []
    out = _relaxed(schema, reference_root(schema), "", 0, left_out)
    return out, left_out


def _relaxed(schema: Any, root: Mapping[str, Any], place: str, depth: int, left_out: list[str]) -> Any:
    if depth > MAX_DEPTH:
        raise RequestError(f"JSON schema: it is nested deeper than {MAX_DEPTH}")
    if not isinstance(schema, Mapping):
        return schema
    out: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword == RELAXED and not place:
            continue
        if not _enforceable(keyword, value, schema, root):
            left_out.append(f"{keyword:.80} at {place or 'the top'}")
            if keyword == "oneOf":  # one or more of them, at least
                both: list[Any] = out.get("allOf") or schema.get("allOf") or []
                out["allOf"] = [*both, {"anyOf": value}]
            continue
        if keyword != "allOf" or keyword not in out:
            out[keyword] = value
    for name in ONE:
        if name in out:
            out[name] = _relaxed(out[name], root, f"{place}/{name}", depth + 1, left_out)
    for name in MANY:
        if isinstance(out.get(name), list):
            out[name] = [
                _relaxed(sub, root, f"{place}/{name}/{i}", depth + 1, left_out)
                for i, sub in enumerate(out[name])
            ]
    for name in NAMED:
        if isinstance(out.get(name), Mapping):
            out[name] = {
                key: _relaxed(sub, root, f"{place}/{name}/{key:.40}", depth + 1, left_out)
                for key, sub in out[name].items()
            }
    return out


def _enforceable(keyword: str, value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Of malformed values check_schema will speak."""
    if keyword not in ENFORCED:
        return is_annotation(keyword)
    if keyword == "uniqueItems":
        return not value or unique_lists(schema, root) is not None
    if keyword == "oneOf":
        return not isinstance(value, list) or exclude_each_other(value, root)
    if keyword == "format":
        return not isinstance(value, str) or value in FORMATS
    if keyword == "pattern":
        return not isinstance(value, str) or _NO_PATTERN.search(value) is None
    if keyword == "items":
        return not isinstance(value, list)
    return True
