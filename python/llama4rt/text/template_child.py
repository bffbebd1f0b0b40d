"""Renders jinja templates in the child process of template_worker.py: the sandbox and its limits.

Imports nothing of llama4rt: the child needs no native code.
"""

import json
import resource
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OUTPUT_CHARS = 64 << 20
MAX_CPU_SECONDS = 5  # per render; the parent's deadline comes first unless the parent is gone
MAX_MEMORY = 1 << 30


def main() -> None:
    """A line of JSON in, a line of JSON out, until the input ends."""
    environment = sandbox()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = sys.stdout.buffer
    out.write(b"ready\n")
    out.flush()
    for line in sys.stdin.buffer:
        used = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + MAX_CPU_SECONDS, resource.RLIM_INFINITY))
        try:
            request = json.loads(line)
            answer = {"text": _render(environment, request["template"], request["variables"])}
        except MemoryError:
            answer = {"error": "it asked for more than 1 GiB"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        out.write(json.dumps(answer).encode() + b"\n")
        out.flush()


def sandbox() -> ImmutableSandboxedEnvironment:
    """A jinja environment with the names that Hugging Face templates expect."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = tojson  # jinja's own escapes for HTML
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it just shows what is inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _render(environment: ImmutableSandboxedEnvironment, template: str, variables: Mapping[str, Any]) -> str:
    compiled = environment.from_string(template)  # a millisecond or two: jinja keeps no cache of strings
    pieces = []
    total = 0
    for piece in compiled.generate(**variables):
        total += len(piece)
        if total > MAX_OUTPUT_CHARS:
            raise ValueError(f"its output is longer than {MAX_OUTPUT_CHARS} characters")
        pieces.append(piece)
    return "".join(pieces)
