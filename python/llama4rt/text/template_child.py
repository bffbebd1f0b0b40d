"""Renders jinja templates that came with a checkpoint, in a child process: the sandbox, and who wrote what.

Every string constant and all text of the template become trusted, the caller's data does not (tracked_text.py), so an
answer says of each piece of the prompt whether the template's author wrote it. Imports nothing of llama4rt that needs
native code.
"""

import functools
import gc
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from llama4rt.text.tracked_text import TrackedText, checked, concatenated, pieces_of, spans_of, track
from llama4rt.workers.child_main import Refused

MAX_OUTPUT_CHARS = 64 << 20
IMAGE = "<|image|>"
# A role out of this list is a choice, not text of the caller: `'<|' + message.role + '|>'` may be a control token.
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "ipython", "function"})


def begin(setup: bytes) -> None:
    """setup: nothing."""
    gc.set_threshold(200_000)  # a rendering makes many small objects, and few that the collector has to find
    _environment()


def answer(message: bytes) -> bytes:
    """JSON in: "template", "texts" (bos_token and the like), "variables", "flat" (which messages have their parts
    put together to one string). JSON out: a list of [text, trusted].
    """
    request = json.loads(message)
    variables: dict[str, Any] = {name: TrackedText.trusted(text) for name, text in request["texts"].items()}
    variables |= {name: track(value) for name, value in request["variables"].items()}
    messages = variables.get("messages", [])
    for entry in messages:
        if entry.get("role") in _ROLES:
            entry["role"] = TrackedText.trusted(entry["role"])
    for i in request["flat"]:
        messages[i]["content"] = _flat(messages[i]["content"])
    try:
        pieces = _render(request["template"], variables)
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(f"chat template: {type(error).__name__}: {error}") from None
    return json.dumps(pieces).encode()


def _flat(parts: Iterable[Mapping[str, Any]]) -> TrackedText:
    """As vLLM does for a template that takes strings: one line for each part."""
    return TrackedText("\n").join(
        part["text"] if part["type"] == "text" else TrackedText.trusted(IMAGE) for part in parts
    )


def _render(template: str, variables: Mapping[str, Any]) -> list[tuple[str, bool]]:
    pieces = []
    total = 0
    for piece in _compiled(template).generate(**variables):
        total += len(piece)
        if total > MAX_OUTPUT_CHARS:
            raise ValueError(f"its output is longer than {MAX_OUTPUT_CHARS} characters")
        pieces.append(piece)
    return pieces_of(concatenated(pieces))


@functools.lru_cache(8)  # an engine has one template, or a few by name
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


# --- the environment ----------------------------------------------------------------------------------------


class _TrackingCode(CodeGenerator):
    """Code in which the template's own text is trusted, and `~` and output keep who wrote what."""

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return _literal("".join(group))

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        self.write(_constant(node.as_const(frame.eval_ctx)))

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super().visit_TemplateData(node, frame)
        else:
            self.write(_literal(node.data))

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super().visit_Concat(node, frame)
            return
        self.write("concat(map(str, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")


def _constant(value: Any) -> str:
    """Source of a constant; jinja's optimizer makes one of a list or dict of constants."""
    if type(value) is str:
        return _literal(value)
    if type(value) is list:
        return "[" + ", ".join(map(_constant, value)) + "]"
    if type(value) is tuple:
        return "(" + "".join(_constant(item) + ", " for item in value) + ")"
    if type(value) is dict:
        return "{" + ", ".join(f"{_constant(key)}: {_constant(item)}" for key, item in value.items()) + "}"
    return repr(value)


def _literal(text: str) -> str:
    return f"environment.literal({text!r})"


class _Sandbox(ImmutableSandboxedEnvironment):
    code_generator_class = _TrackingCode
    concat = staticmethod(concatenated)
    literal = staticmethod(functools.lru_cache(4096)(TrackedText.trusted))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        form = getattr(value, "__self__", None)
        if wrapped is None or not isinstance(form, TrackedText):
            return wrapped
        formatter = _TrackingFormatter(self)

        def call(*args: Any, **kwargs: Any) -> str:
            text = wrapped(*args, **kwargs)
            named = args[0] if value.__name__ == "format_map" else kwargs
            return checked(text, formatter.tracked(form, args, named))

        return call


class _TrackingFormatter(SandboxedFormatter):
    def tracked(
        self, form: TrackedText, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> TrackedText | None:
        """None where a field's format holds fields itself."""
        literal = TrackedText.trusted if form and spans_of(form) == ((0, len(form)),) else TrackedText
        pieces: list[str] = []
        number = 0
        for text, name, spec, conversion in self.parse(form):
            pieces.append(literal(text))
            if name is None:
                continue
            if not name or name[0] in ".[":
                name = f"{number}{name}"
                number += 1
            if spec and "{" in spec:
                return None
            value, _ = self.get_field(name, args, kwargs)
            if not spec and conversion in (None, "s") and isinstance(value, str):
                pieces.append(value)
            else:
                value = self.convert_field(value, conversion) if conversion else value
                pieces.append(self.format_field(value, spec or ""))
        return concatenated(pieces)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it just shows what is inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


@functools.cache
def _environment() -> _Sandbox:
    """With the names that Hugging Face templates expect."""
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    environment.filters |= {"tojson": _tojson, "join": _join, "indent": _indent, "safe": _safe}
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:  # jinja's own escapes for HTML
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@jinja2.pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], d: str = "", attribute: Any = None) -> str:
    if context.autoescape:
        return str(FILTERS["join"](context, value, d, attribute))
    if attribute is not None:
        value = map(make_attrgetter(context.environment, attribute), value)
    return TrackedText(str(d), spans_of(d)).join(map(str, value))


def _indent(s: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    text: str = FILTERS["indent"](s, width, first, blank)
    if not isinstance(s, TrackedText):
        return text
    by = width if isinstance(width, str) else TrackedText(" " * width)
    lines = (s + "\n").splitlines()
    done = [by + line if (i or first) and (line or blank or not i) else line for i, line in enumerate(lines)]
    return checked(text, TrackedText("\n").join(done))


def _safe(value: Any) -> Any:
    """Nothing is escaped here, so there is nothing to keep from it."""
    return value
