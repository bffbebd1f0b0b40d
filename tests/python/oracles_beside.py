"""The programs that write quantised checkpoints, as judges of the readers: found where `make oracles` puts them.

They are large, and some change what transformers does as soon as they can be found. So they lie in a folder of their
own, and only `make oracles`, which runs their tests in a process of their own, looks there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tarfile
import warnings
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(sys.prefix) / "oracles"


def program(name: str) -> ModuleType:
    """program("bitsandbytes.functional"); skips the test where it is not asked for, or not installed."""
    skip_unless_asked()
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except (ImportError, OSError) as error:
        pytest.skip(f"{name} cannot be imported: {error}")


def skip_unless_asked() -> None:
    if os.environ.get("LLAMA4RT_ORACLES", "") in ("", "0"):
        pytest.skip("compares with large programs: make oracles")


def file_of_source(archive: str, inside: str, place: Path) -> ModuleType:
    """A module of a source archive (archive-*.tar.gz) that is read without its package; skips where it is not there."""
    skip_unless_asked()
    found = sorted(FOLDER.glob(f"{archive}-*.tar.gz"))
    if not found:
        pytest.skip(f"{archive} is not in {FOLDER}")
    with tarfile.open(found[-1]) as tar:
        member = next(m for m in tar.getmembers() if m.name.endswith(inside))
        content = tar.extractfile(member)
        assert content is not None
        (place / "module.py").write_bytes(content.read())
    spec = importlib.util.spec_from_file_location(f"{archive}_file", place / "module.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


__all__ = ["FOLDER", "file_of_source", "program"]
