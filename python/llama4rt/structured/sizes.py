"""About how long the shortest value of a schema is: what closing.py reckons with."""

from collections.abc import Mapping
from typing import Any

from llama4rt.structured.schema import schemas
from llama4rt.structured.values import resolved

_MAX_DEPTH = 100  # of references and what they lead to


def minimal_size(schema: Mapping[str, Any]) -> int:
    """About the most characters that any one part of the schema, which check_schema has passed, needs at least: how
    much a token that begins an optional part can add to what must still be said.
    """
    sizes = _Sizes(schema)
    return max(sizes.of(sub) for _, sub in schemas(schema))


class _Sizes:
    """About the characters of each schema's shortest value. Each is looked at once; recursion counts as nothing."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._known: dict[int, int] = {}
        self._depth = 0

    def of(self, schema: Any) -> int:
        if not isinstance(schema, Mapping) or self._depth > _MAX_DEPTH:
            return 2
        key = id(schema)
        if key not in self._known:
            self._known[key] = 2
            self._depth += 1
            self._known[key] = min(self._computed(schema), 1 << 20)
            self._depth -= 1
        return self._known[key]

    def _computed(self, schema: Mapping[str, Any]) -> int:
        sizes = [2, _number(schema.get("minLength")) + 2, _number(schema.get("minProperties")) * 8]
        sizes += [self.of(sub) for sub in _list(schema, "allOf")]
        if "$ref" in schema:
            sizes.append(self.of(resolved(schema["$ref"], self._root)))
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


def _number(value: Any) -> int:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < 1e6 else 0
