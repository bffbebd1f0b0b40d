"""Bodies of JSON that cost more than their size: any field of any request, shapes of any size."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from llama4rt.server import protocol

PATHS: dict[type, str] = {
    protocol.ChatRequest: "/v1/chat/completions",
    protocol.CompletionRequest: "/v1/completions",
    protocol.ResponsesRequest: "/v1/responses",
    protocol.TokenizeRequest: "/tokenize",
    protocol.DetokenizeRequest: "/detokenize",
}
KINDS = list(PATHS)
NEEDED: dict[type, dict[str, Any]] = {
    protocol.ChatRequest: {"messages": [{"role": "user", "content": "a"}]},
    protocol.CompletionRequest: {"prompt": "a"},
    protocol.ResponsesRequest: {"input": "a"},
    protocol.TokenizeRequest: {"prompt": "a"},
    protocol.DetokenizeRequest: {"tokens": [1]},
}


def listed(item: bytes, last: bytes = b"") -> Callable[[int], bytes]:
    """A list of one item again and again, and at its end another."""
    return lambda size: b"[" + (item + b",") * (size // (len(item) + 1)) + (last or item) + b"]"


def distinct_keys(size: int) -> bytes:
    return b"{" + b",".join(b'"%x":1' % i for i in range(size // 9)) + b"}"


SHAPES: dict[str, Callable[[int], bytes]] = {
    "ones": listed(b"1"),
    "ids": listed(b"99999"),
    "ids, then a text": listed(b"99999", b'"a"'),
    "reals": listed(b"0.5"),
    "texts": listed(b'"ab"'),
    "texts, then a number": listed(b'"ab"', b"1"),
    "lists": listed(b"[]"),
    "lists of one": listed(b"[1]", b'"a"'),
    "objects": listed(b"{}"),
    "null": listed(b"null"),
    "messages": listed(b'{"role":"a","content":"b"}'),
    "messages, then a number": listed(b'{"role":"a","content":"b"}', b"1"),
    "parts": lambda size: b'[{"role":"a","content":' + listed(b'{"type":"text","text":"a"}')(size) + b"}]",
    "calls": lambda size: (
        b'[{"role":"a","tool_calls":' + listed(b'{"function":{"name":"f","arguments":{"a":1}}}')(size) + b"}]"
    ),
    "arguments": lambda size: (
        b'[{"role":"a","tool_calls":[{"function":{"name":"f","arguments":' + distinct_keys(size) + b"}}]}]"
    ),
    "tools": listed(b'{"type":"function","function":{"name":"f","parameters":{"a":[1]}}}'),
    "one tool": lambda size: (
        b'[{"type":"function","function":{"name":"f","parameters":{"a":' + listed(b"1")(size) + b"}}}]"
    ),
    "keys": distinct_keys,
    "one key": lambda size: b"{" + b",".join([b'"a":1'] * (size // 6)) + b"}",
    "deep": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "deep objects": lambda size: b'{"a":' * (size // 6) + b"1" + b"}" * (size // 6),
    "text": lambda size: b'"' + b"a" * size + b'"',
    "wide text": lambda size: b'"' + b"a" * size + "\U0001f600".encode() + b'"',
    "escapes": lambda size: b'"' + b"\\u00e9" * (size // 6) + b'"',
    "backslashes": lambda size: b'"' + b"\\\\" * (size // 2) + b'"',
    "brackets": lambda size: b'"' + b"[{" * (size // 2) + b'"',
    "digits": lambda size: b"1" * size,
    "fraction": lambda size: b"0." + b"1" * size,
    "unfinished": lambda size: b'"' + b"a" * size,
    "blanks": lambda size: b" " * size + b"1",
    "no UTF-8": lambda size: b'"' + b"\xff" * size + b'"',
}


def body_of(kind: type, field: str, value: bytes) -> bytes:
    rest = b"".join(
        b',"%s":%s' % (name.encode(), json.dumps(given).encode())
        for name, given in NEEDED[kind].items()
        if name != field
    )
    return b'{"%s":%s%s}' % (field.encode(), value, rest)


def fields_of(kind: Any) -> list[str]:
    return [*kind.__struct_encode_fields__, "mirostat", "user", "nobody_knows"]
