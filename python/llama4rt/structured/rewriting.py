"""Schemas said in other words, where the grammar library reads less into a keyword than the standard does.

- `format`: its date, time and date-time take the 30th of February, and a leap second at any time of day.
- `pattern`: the expressions are those of JavaScript, whose white space is another set of characters than that of Rust.
- `oneOf` is `anyOf` where surely no value follows two of its schemas.
- `uniqueItems` of few values: all such lists are written out.
- `nullable` (OpenAPI 3.0) is one more type.
"""

from collections.abc import Mapping
from typing import Any

from llama4rt.structured.keywords import MANY, NAMED, ONE, TYPES, is_foreign
from llama4rt.structured.schema import reference_root
from llama4rt.structured.values import exclude_each_other, unique_lists

_DAY = r"(0[1-9]|1[0-9]|2[0-8])"
# Without the year 0000, which most calendars lack and so refuse.
_YEAR = r"([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_DIVISIBLE_BY_4 = r"(0[48]|[2468][048]|[13579][26])"  # of 01 to 99
_LEAP_YEAR = rf"([0-9]{{2}}{_DIVISIBLE_BY_4}|{_DIVISIBLE_BY_4}00)"
_DATE = rf"({_YEAR}-((0[1-9]|1[0-2])-{_DAY}|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)|{_LEAP_YEAR}-02-29)"
# A leap second is right at one moment of the day only, which an offset moves about: none is written.
_TIME = r"(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))"
_FORMATS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}[Tt]{_TIME}$"}

_SPACE = r"\t\n\x0B\x0C\r \u{A0}\u{1680}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}\u{FEFF}"
_CLASSES = {"s": f"[{_SPACE}]", "S": f"[^{_SPACE}]"}  # a class may stand inside another one


def rewritten(schema: Any, root: Any = None) -> Any:
    """The schema that the grammar library gets for this one, which check_schema has passed."""
    root = reference_root(schema) if root is None else root
    if not isinstance(schema, Mapping):
        return schema
    out = {
        name: _member(name, value, root)
        for name, value in schema.items()
        if not is_foreign(name) and name != "uniqueItems"
    }
    pattern = _FORMATS.get(out["format"]) if isinstance(out.get("format"), str) else None
    if pattern is not None:
        del out["format"]
        if "pattern" in out:  # both hold
            out["allOf"] = [*out.get("allOf", ()), {"pattern": pattern}]
        else:
            out["pattern"] = pattern
    if "oneOf" in out and exclude_each_other(schema["oneOf"], root):
        _add_any_of(out, out.pop("oneOf"))
    if schema.get("uniqueItems"):
        _write_out_lists(out, schema, root)
    return _nullable(out) if schema.get("nullable") else out


def _member(name: str, value: Any, root: Any) -> Any:
    if name == "pattern" and isinstance(value, str):
        return _in_rust(value)
    if name in ONE:
        return rewritten(value, root)
    if name in MANY and isinstance(value, list):
        return [rewritten(item, root) for item in value]
    if name == "patternProperties" and isinstance(value, Mapping):
        return {_in_rust(key): rewritten(item, root) for key, item in value.items()}
    if name in NAMED and isinstance(value, Mapping):
        return {key: rewritten(item, root) for key, item in value.items()}
    return value


def _add_any_of(schema: dict[str, Any], branches: list[Any]) -> None:
    if "anyOf" in schema:  # both hold
        schema["allOf"] = [*schema.get("allOf", ()), {"anyOf": branches}]
    else:
        schema["anyOf"] = branches


def _write_out_lists(out: dict[str, Any], schema: Mapping[str, Any], root: Any) -> None:
    lists = unique_lists(schema, root)
    if not lists:  # uniqueItems says nothing, or there are none: too few values for minItems
        if lists == [] and schema.get("maxItems", 2) > 1:
            out["items"] = False
        return
    for name in ("items", "minItems", "maxItems"):
        out.pop(name, None)
    branches: list[Any] = [
        {
            "type": "array", "prefixItems": [{"const": item} for item in items], "items": False,
            "minItems": len(items), "maxItems": len(items),
        } if items else {"type": "array", "maxItems": 0}
        for items in lists
    ]  # fmt: skip
    types = out.get("type", list(TYPES))
    others = [name for name in ([types] if isinstance(types, str) else types) if name != "array"]
    _add_any_of(out, [*branches, {"type": others}] if others else branches)


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.0's `nullable: true`, as its converters read it: null is one more value. Changed in place where that is
    possible, so that references into it still hold.
    """
    holds = set(schema) & {"allOf", "anyOf", "oneOf", "$ref"}
    if not holds:
        if "const" in schema:
            schema["enum"] = [schema.pop("const")]
        if "enum" in schema and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
        if "type" in schema:
            types = [schema["type"]] if isinstance(schema["type"], str) else list(schema["type"])
            schema["type"] = types if "null" in types else [*types, "null"]
        return schema
    if holds == {"anyOf"} and not set(schema) & {"type", "enum", "const"}:
        schema["anyOf"] = [*schema["anyOf"], {"type": "null"}]
        return schema
    definitions: dict[str, Any] = {
        name: schema.pop(name) for name in ("$defs", "definitions") if name in schema
    }
    return {"anyOf": [schema, {"type": "null"}], **definitions}


def _in_rust(pattern: str) -> str:
    out = []
    at = 0
    while at < len(pattern):
        if pattern[at] != "\\" or at + 1 == len(pattern):
            out.append(pattern[at])
            at += 1
        else:
            out.append(_CLASSES.get(pattern[at + 1], pattern[at : at + 2]))
            at += 2
    return "".join(out)
