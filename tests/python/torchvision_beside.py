"""Lets transformers' Llama 4 image processor run beside any build of torch.

It needs torchvision, whose builds on pip's default index belong to torch's CUDA builds. Its Python part is all the
processor uses, but importing it asks torch about two operators of its native part, which the CPU build of torch cannot
load. So `make test` installs it without dependencies in a folder of its own (not in the environment, where transformers
would find it and fail to import), and here the two operators are declared when it is first imported; where the native
part does load, it has declared them itself, and a second time would abort the process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = Path(sys.prefix) / "torchvision"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_library: Any = None  # declarations last as long as this


class _DeclareFirst:
    """A finder that finds nothing, and is asked before the others."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        global _library
        if name == "torchvision" and _library is None:
            import torch

            try:
                torch.ops.load_library(FOLDER / "torchvision/_C.so")
                _library = torch.ops.torchvision
            except OSError:
                _library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
                for operator in ("nms", "qnms"):
                    _library.define(operator + _SCHEMA)
        return None


def enable() -> None:
    """Makes torchvision importable where it was installed; call before transformers is imported."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
        sys.meta_path.insert(0, _DeclareFirst())
