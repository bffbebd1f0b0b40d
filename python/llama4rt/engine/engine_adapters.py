"""AdapterMethods: the part of Engine and AsyncEngine that loads and unloads adapters (docs/adapters.md)."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from llama4rt.engine.adapters import AdapterInfo

if TYPE_CHECKING:
    from llama4rt.engine.opened_engine import OpenedEngine


class AdapterMethods(ABC):
    """A base of both."""

    @property
    @abstractmethod
    def _opened(self) -> "OpenedEngine": ...

    def load_adapter(self, name: str, directory: str | os.PathLike[str]) -> None:
        """Reads a LoRA adapter of PEFT; from now on requests may name it (SamplingParams.adapter). Needs
        adapter_memory, and a CPU. The directory stays: an adapter that has left memory is read again from there.
        """
        self._opened.loaded_adapters.load(name, directory)

    def unload_adapter(self, name: str) -> None:
        """Forgets an adapter. Requests that run with it go on to their end; its memory is free after them."""
        self._opened.loaded_adapters.unload(name)

    @property
    def adapters(self) -> Mapping[str, AdapterInfo]:
        """Those that are loaded, by name."""
        return self._opened.loaded_adapters.infos()


__all__ = ["AdapterMethods"]
