"""Importing llama4rt is quick, quiet and lazy; what it promises is there and typed."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import llama4rt
import pytest


def python(code: str, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_quick_and_starts_nothing() -> None:
    code = """
import sys, time
start = time.perf_counter()
import llama4rt
seconds = time.perf_counter() - start
import threading
heavy = {"numpy", "PIL", "torch", "tiktoken", "jinja2", "huggingface_hub", "asyncio", "llama4rt._core"}
print(seconds, threading.active_count(), sorted(heavy & set(sys.modules)))
"""
    best = min(float(python(code).split()[0]) for _ in range(3))
    assert best < 0.3
    assert python(code).split(" ", 1)[1].strip() == "1 []"


def test_opening_the_api_starts_no_thread() -> None:
    code = """
import threading
from llama4rt import AsyncEngine, Engine, SamplingParams, RequestError
import os
print(threading.active_count(), len(os.listdir("/proc/self/task")))
"""
    assert python(code).split() == ["1", "1"]


def test_everything_promised_is_there() -> None:
    for name in llama4rt.__all__:
        assert getattr(llama4rt, name) is not None
    assert set(llama4rt.__all__) <= set(dir(llama4rt))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llama4rt.nothing


def test_the_version_is_one() -> None:
    from llama4rt import _core

    assert llama4rt.__version__ == _core.version() == llama4rt.build_info()["version"]
    try:
        installed = importlib.metadata.version("llama4rt")
    except importlib.metadata.PackageNotFoundError:
        return  # run from a build tree
    assert installed == llama4rt.__version__


def test_errors_have_their_bases() -> None:
    assert issubclass(llama4rt.RequestError, llama4rt.Llama4RTError)
    assert issubclass(llama4rt.RequestError, ValueError) and issubclass(llama4rt.ConfigError, ValueError)
    for name in ("EngineFileError", "CheckpointError", "ConfigError"):
        assert issubclass(getattr(llama4rt, name), llama4rt.Llama4RTError)
    assert not issubclass(llama4rt.Llama4RTError, ValueError)


def test_the_package_is_typed() -> None:
    folder = Path(llama4rt.__file__).parent
    assert (folder / "py.typed").exists() and (folder / "_core.pyi").exists()


def test_stubs_name_what_the_native_module_has() -> None:
    """Every public class, function and method of _core is in _core.pyi, and the other way round."""
    import ast

    from llama4rt import _core

    stub = ast.parse((Path(llama4rt.__file__).parent / "_core.pyi").read_text())
    declared: dict[str, set[str]] = {}
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            members = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
            members |= {
                n.target.id
                for n in node.body
                if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
            }
            declared[node.name] = members - {"__init__"}
        elif isinstance(node, ast.FunctionDef):
            declared[node.name] = set()
    public = {name for name in vars(_core) if not name.startswith("_")}
    assert public == set(declared)
    for name, members in declared.items():
        if members:
            assert {m for m in vars(getattr(_core, name)) if not m.startswith("_")} == members, name
