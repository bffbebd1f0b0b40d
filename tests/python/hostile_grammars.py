"""Schemas, regular expressions and grammars that cost far more than their size: by name, (kind, source)."""

from __future__ import annotations

import random
from typing import Any

_letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]


def _counted(k: int) -> dict[str, Any]:
    return {"type": "string", "pattern": f".*a.{{{k}}}b"}


def _deep(depth: int) -> dict[str, Any]:
    if not depth:
        return {"type": "string"}
    return {"anyOf": [
        {"type": "object", "properties": {"a": _deep(depth - 1)}, "required": ["a"]},
        {"type": "array", "items": _deep(depth - 1)},
    ]}  # fmt: skip


def _product(count: int) -> dict[str, Any]:
    return {"type": "string", "allOf": [
        {"anyOf": [{"pattern": f"^{_letters[i]}"}, {"pattern": f"{_letters[i]}$"}, {"minLength": i + 1}]}
        for i in range(count)
    ]}  # fmt: skip


def _object_product(count: int) -> dict[str, Any]:
    return {"type": "object", "allOf": [
        {"anyOf": [{"properties": {f"{x}{i}": {"type": "null"}}, "required": [f"{x}{i}"]} for x in "ab"]}
        for i in range(count)
    ]}  # fmt: skip


def _rules(count: int, body: str) -> str:
    rules = [body.format(i=i, next=i + 1) for i in range(count)]
    return "\n".join(["start: r0", *rules, f'r{count}: "c"\n'])


HOSTILE: dict[str, tuple[str, Any]] = {
    "allOf of twenty patterns": ("json_schema", {"allOf": [_counted(k) for k in range(1, 21)]}),
    "allOf of six patterns": ("json_schema", {"allOf": [_counted(k) for k in range(1, 7)]}),
    "one counted pattern": ("json_schema", _counted(200)),
    "reference to itself": ("json_schema", {"$ref": "#"}),
    "references in a ring": (
        "json_schema",
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    ),
    "512 optional properties": (
        "json_schema",
        {"type": "object", "properties": {f"p{i}": {} for i in range(512)}},
    ),
    "2000 references in a chain": (
        "json_schema",
        {"$ref": "#/$defs/0", "$defs": {**{str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(2000)}, "2000": {}}},
    ),
    "1500 rules, one within another": ("grammar", _rules(1500, "r{i}: r{next}")),
    "1500 rules with a choice": ("grammar", _rules(1500, 'r{i}: "a" r{next} | "b"')),
    "5000 rules": ("grammar", _rules(4500, "r{i}: r{next}")[:65_000].rsplit("\n", 1)[0] + '\nr9: "c"'),
    "doubling rules": ("grammar", _rules(25, "r{i}: r{next} r{next}")),
    "doubling terminals": ("grammar", _rules(20, "r{i}: r{next} r{next}").replace("r", "R").replace("staRt", "start")),
    "ambiguous rules": ("grammar", 'start: s\ns: s s | s s s | "a" | \n'),
    "nullable rules": ("grammar", 'start: a a a a a a a a\na: b*\nb: c*\nc: d+\nd: "x"* "y"?\n'),
    "rules that count in each other": ("grammar", 'start: ((("a"{0,50}){0,50}){0,50}){0,50}\n'),
    "rule counted to 100000": ("grammar", 'start: x{1,100000}\nx: "a" | "ab" | "b"\n'),
    "terminals that must all match": (
        "grammar",
        "start: T\nT: A & B & C\nA: /.*a.{9}b.*/\nB: /.*c.{9}d.*/\nC: /.*e.{9}f.*/\n",
    ),
    "terminals that must not match": ("grammar", "start: T\nT: /.*a.{14}b/ & ~/.*c.{14}d/\n"),
    "300 overlapping terminals": (
        "grammar",
        "start: (" + " | ".join(f"T{i}" for i in range(300)) + ")*\n"
        + "".join(f"T{i}: /.*{_letters[i % 26]}.{{{i % 17}}}{_letters[i % 23]}/\n" for i in range(300)),
    ),
    "ignored text that counts": ("grammar", "%ignore /.*a.{12}b/\nstart: A B A B\nA: /.*c.{10}/\nB: /.*d.{10}e/\n"),
    "GBNF with 2000 optional parts": ("grammar", "root ::= " + " ".join(['("a" | "b")?'] * 2000)),
    "GBNF with 500 brackets": ("grammar", "root ::= " + "(" * 500 + '"a"' + ")" * 500),
    "quantifiers in quantifiers": ("regex", "((a{0,100}){0,100}){0,100}"),
    "stars in stars": ("regex", "((((a+)+)+)+)+b"),
    "a group counted to 100000": ("regex", "(abc|abd){1,100000}"),
    "any text counted to 100000": ("regex", ".{1,100000}x"),
    "many ways to count": ("regex", "(.*a){12}.{12}b(.*c.{9}d)"),
    "overlapping alternatives": ("regex", "|".join(f".*{_letters[i]}.{{{i + 3}}}z" for i in range(12))),
    "Unicode classes": ("regex", r"(\p{L}{3}\p{N}{2}){50}\p{Lu}*"),
    "enum of 2000 random texts": (
        "json_schema",
        {"enum": [random.Random(i).randbytes(12).hex() for i in range(2000)]},
    ),
    "enum of 2000 texts with one beginning": ("json_schema", {"enum": ["x" * 20 + str(i) for i in range(2000)]}),
    "anyOf in anyOf": ("json_schema", _deep(7)),
    "product of anyOf": ("json_schema", _product(20)),
    "product of objects": ("json_schema", _object_product(16)),
    "small product of objects": ("json_schema", _object_product(8)),
    "oneOf of overlapping patterns": (
        "json_schema",
        {"oneOf": [{"type": "string", "pattern": f"^.*{letter}.*$"} for letter in _letters[:10]]},
    ),
    "patternProperties that clash": (
        "json_schema",
        {"type": "object", "patternProperties": {f".*{_letters[i]}.{{{i}}}z": {} for i in range(12)}},
    ),
    "minLength": ("json_schema", {"type": "string", "minLength": 100_000}),
    "maxLength": ("json_schema", {"type": "string", "maxLength": 100_000}),
    "minItems": ("json_schema", {"type": "array", "minItems": 100_000, "items": {"type": "integer"}}),
    "multipleOf a large prime": ("json_schema", {"type": "integer", "multipleOf": 99991}),
    "multipleOf several primes": (
        "json_schema",
        {"allOf": [{"type": "integer", "multipleOf": prime} for prime in (97, 89, 83, 79, 73)]},
    ),
    "unique items of many values": (
        "json_schema",
        {"type": "array", "items": {"type": "array", "uniqueItems": True, "items": {"enum": list(range(5))}}}
        | {"prefixItems": [{"type": "array", "uniqueItems": True, "items": {"enum": list(range(i, i + 10))}}
                           for i in range(40)]},
    ),
    "a product of unique items": (
        "json_schema",
        {"type": "array", "allOf": [{"uniqueItems": True, "items": {"enum": list("abcde")}} for _ in range(6)]},
    ),
}  # fmt: skip
