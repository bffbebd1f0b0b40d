"""StructuredOutput: what a text must follow. Checked when it is made, as far as that goes without a tokenizer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llama4rt.errors import RequestError
from llama4rt.structured.keywords import RELAXED
from llama4rt.structured.relaxing import asks_to_relax, relaxed
from llama4rt.structured.rewriting import rewritten
from llama4rt.structured.schema import check_schema
from llama4rt.structured.sizes import minimal_size

MAX_SCHEMA_BYTES = 64 << 10
MAX_TEXT_BYTES = 64 << 10  # of a regular expression or grammar
MAX_CHOICES = 2000

# How Python, and so most of what models have read, writes JSON. Free white space would let a model write nothing else.
# Without escapes by number a name can be written in one way only: "\u0061" would pass for another property than "a".
_JSON_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrbtf\\"',
}
_NAMES = {
    "json_schema": "JSON schema", "regex": "regular expression", "choice": "list of choices", "grammar": "grammar",
}  # fmt: skip


@dataclass(frozen=True)
class StructuredOutput:
    """Made by its class methods; equal ones share one compiled grammar.

    complete: an output that nears its limit of tokens is led to its end in time, so that what comes out is always
    whole. Otherwise it is cut off there, like any text, with finish_reason "length".
    """

    kind: str  # "json_schema", "regex", "choice" or "grammar"
    source: str  # the schema or choices as JSON text, the expression, the grammar
    complete: bool = False
    reserve: int = 64  # characters that a started optional part of the output may still need at least
    not_enforced: tuple[str, ...] = ()  # keywords that a schema with "x-llama4rt-relaxed" does without
    alternative: str | None = None  # a JSON schema that the output may follow instead

    @staticmethod
    def json_schema(
        schema: "Mapping[str, Any] | bool | str", *, complete: bool = False
    ) -> "StructuredOutput":
        """JSON of a schema (draft 2020-12). Every keyword is enforced, or refused here or at submit by its name; where
        the schema says "x-llama4rt-relaxed": true, what cannot be enforced is in not_enforced instead.
        """
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except (ValueError, RecursionError) as error:
                raise RequestError(f"the JSON schema is not JSON: {error}") from None
        if not isinstance(schema, (Mapping, bool)):
            raise RequestError(f"the JSON schema is a {type(schema).__name__}; it must be an object")
        if schema is False:
            raise RequestError("the JSON schema is false: nothing follows it")
        plain: Mapping[str, Any] = {} if schema is True else schema
        try:
            source = json.dumps(plain, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"the JSON schema is not JSON: {error}") from None
        if len(source) > MAX_SCHEMA_BYTES:
            raise RequestError(
                f"the JSON schema has {len(source)} bytes; at most {MAX_SCHEMA_BYTES} are allowed"
            )
        taken: dict[str, Any] = json.loads(source)  # a copy that nobody else changes
        not_enforced: list[str] = []
        if asks_to_relax(taken):
            taken, not_enforced = relaxed(taken)
        taken.pop(RELAXED, None)
        check_schema(taken)
        source = json.dumps(taken)
        reserve = minimal_size(taken) + 32
        return StructuredOutput("json_schema", source, complete, reserve, tuple(not_enforced))

    @staticmethod
    def json_object() -> "StructuredOutput":
        """Any JSON object."""
        return StructuredOutput("json_schema", '{"type": "object"}')

    @staticmethod
    def regex(pattern: str) -> "StructuredOutput":
        """Text that a regular expression matches from its first to its last character (Rust's syntax)."""
        return StructuredOutput("regex", _text(pattern, "the regular expression"))

    @staticmethod
    def choice(choices: Sequence[str]) -> "StructuredOutput":
        """One of these texts."""
        if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
            raise RequestError("choice must be a list of texts, with at least one")
        if len(choices) > MAX_CHOICES:
            raise RequestError(f"choice has {len(choices)} texts; at most {MAX_CHOICES} are allowed")
        if not all(isinstance(text, str) and text for text in choices):
            raise RequestError("choice must be a list of texts, none of them empty")
        return StructuredOutput("choice", _text(json.dumps(list(choices)), "choice"))

    @staticmethod
    def grammar(text: str) -> "StructuredOutput":
        """A context-free grammar in Lark's syntax, as llguidance reads it, or in llama.cpp's GBNF."""
        return StructuredOutput("grammar", _text(text, "the grammar"))

    def or_json(self, schema: "Mapping[str, Any]") -> "StructuredOutput":
        """This, or else JSON of that schema."""
        if self.complete or self.alternative is not None:
            raise RequestError(
                "an output that must be complete, or has an alternative, takes no other form beside"
            )
        return replace(self, alternative=StructuredOutput.json_schema(schema).source)

    @property
    def what(self) -> str:
        """How errors name it."""
        return _NAMES[self.kind]

    def compiled_form(self) -> str:
        """What llguidance takes. ValueError or RecursionError for what it refuses already here."""
        form = self._own_form()
        if self.alternative is None:
            return form
        grammars = [_named("own", form), _named("other", _json_form(self.alternative))]
        return json.dumps({"grammars": [{"lark_grammar": "start: @own | @other"}, *grammars]})

    def _own_form(self) -> str:
        import llguidance

        matcher = llguidance.LLMatcher
        if self.kind == "json_schema":
            return _json_form(self.source)
        if self.kind == "regex":
            return matcher.grammar_from_regex(self.source)
        if self.kind == "choice":
            return matcher.grammar_from_lark(
                "start: "
                + " | ".join(json.dumps(text, ensure_ascii=False) for text in json.loads(self.source))
            )
        return llguidance.grammar_from("grammar", self.source)


def _json_form(source: str) -> str:
    import llguidance

    schema = json.dumps(rewritten(json.loads(source)))
    return llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=_JSON_STYLE)  # type: ignore[arg-type]


def _named(name: str, form: str) -> dict[str, Any]:
    """A grammar as a part of another one. form: Lark's, or the library's own JSON with one grammar."""
    try:
        (grammar,) = json.loads(form)["grammars"]
    except ValueError:
        grammar = {"lark_grammar": form}
    return {**grammar, "name": name}


def _text(text: Any, what: str) -> str:
    if not isinstance(text, str) or not text:
        raise RequestError(f"{what} is {text!r:.80}; it must be a text that is not empty")
    if len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        raise RequestError(f"{what} has {len(text)} characters; at most {MAX_TEXT_BYTES} bytes are allowed")
    return text
