"""Schemas said in other words, where the grammar library reads less into a keyword than the standard does.

- `format`: its date, time and date-time take the 30th of February, and a leap second at any time of day.
- `pattern`: the expressions are those of JavaScript, whose white space is another set of characters than that of Rust.
"""

from collections.abc import Mapping
from typing import Any

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


def rewritten(schema: Any) -> Any:
    """The schema that the grammar library gets for this one, which check_schema has passed."""
    if not isinstance(schema, Mapping):
        return schema
    out = {name: _member(name, value) for name, value in schema.items()}
    pattern = _FORMATS.get(out["format"]) if isinstance(out.get("format"), str) else None
    if pattern is not None:
        del out["format"]
        if "pattern" in out:  # both hold
            out["allOf"] = [*out.get("allOf", ()), {"pattern": pattern}]
        else:
            out["pattern"] = pattern
    return out


def _member(name: str, value: Any) -> Any:
    if name == "pattern" and isinstance(value, str):
        return _in_rust(value)
    if name in ("additionalProperties", "items"):
        return rewritten(value)
    if name in ("anyOf", "allOf", "oneOf", "prefixItems") and isinstance(value, list):
        return [rewritten(item) for item in value]
    if name == "patternProperties" and isinstance(value, Mapping):
        return {_in_rust(key): rewritten(item) for key, item in value.items()}
    if name in ("properties", "$defs", "definitions") and isinstance(value, Mapping):
        return {key: rewritten(item) for key, item in value.items()}
    return value


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
