"""Texts to measure quality on that are wherever Python is. Never calibrate on what is measured on."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

_LONG = 400  # characters of a docstring that is prose rather than a label


def topics() -> str:
    """The language reference's topics, as help() prints them: about 450,000 characters."""
    from pydoc_data.topics import topics as by_name

    return "\n\n".join(by_name[name] for name in sorted(by_name))


def docstrings() -> str:
    """The long docstrings of the standard library's modules, read without importing them: what functions are for, in
    the words of many authors.
    """
    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text and len(text) >= _LONG:
                    found.append(text)
    return "\n\n".join(found)


TEXTS = {"topics": topics, "docstrings": docstrings}
