"""Adapters: the LoRA adapters that an engine knows by name, and those of them that are in memory.

An adapter is read from its directory, checked and packed once (native). Requests share it; one that no request uses may
leave memory when another needs the room, and is read again when it is asked for. Safe to use from many threads.
"""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama4rt import _core
from llama4rt.errors import CheckpointError, ConfigError, RequestError

_MAX_NAME = 200  # characters


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter, as Engine.adapters shows it."""

    name: str
    directory: str
    num_bytes: int  # that it takes when it is in memory
    resident: bool
    num_requests: int  # outputs that are made with it now


@dataclass
class _Entry:
    directory: Path
    digest: bytes
    num_bytes: int
    native: _core.Adapter | None
    used: int  # rising: the largest was asked for last


class Adapters:
    """budget: bytes of factors in memory; 0: the engine takes none. device: as the engine names it."""

    def __init__(self, config: Mapping[str, Any], device: str, budget: int) -> None:
        self._config = config
        self._device = device
        self._budget = budget
        self._lock = threading.Lock()  # guards what follows
        self._entries: dict[str, _Entry] = {}
        self._leaving: list[_core.Adapter] = []  # unloaded, and still used by requests
        self._clock = 0

    def load(self, name: str, directory: str | os.PathLike[str]) -> None:
        self._check_can()
        if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME or not name.isprintable():
            raise ConfigError(
                f"an adapter's name is {name!r:.220}; it must be 1 to {_MAX_NAME} printable characters"
            )
        with self._lock:
            if name in self._entries:
                raise ConfigError(f"an adapter {name!r} is loaded; unload it first, or choose another name")
            native = self._read(name, Path(os.fsdecode(directory)))
            self._make_room(name, native.num_bytes)
            self._entries[name] = _Entry(
                Path(os.fsdecode(directory)), native.digest, native.num_bytes, native, self._tick()
            )

    def unload(self, name: str) -> None:
        with self._lock:
            entry = self._entries.pop(name, None)
            if entry is None:
                raise ConfigError(self._unknown(name))
            if entry.native is not None and entry.native.num_users:
                self._leaving.append(entry.native)

    def infos(self) -> dict[str, AdapterInfo]:
        with self._lock:
            return {
                name: AdapterInfo(
                    name,
                    str(entry.directory),
                    entry.num_bytes,
                    entry.native is not None,
                    entry.native.num_users if entry.native is not None else 0,
                )
                for name, entry in self._entries.items()
            }

    def put_into(self, request: _core.Request, name: str) -> None:
        """Gives the request its adapter, read again where it has left memory. Raises RequestError."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                raise RequestError(self._unknown(name))
            entry.used = self._tick()
            if entry.native is None:
                entry.native = self._again(name, entry)
            request.adapter = entry.native  # under the lock: from here on it is in use

    def _again(self, name: str, entry: _Entry) -> _core.Adapter:
        try:
            native = self._read(name, entry.directory)
        except (CheckpointError, ConfigError, OSError) as error:
            raise RequestError(f"adapter {name!r} cannot be read again: {error}") from error
        if native.digest != entry.digest:
            raise RequestError(
                f"adapter {name!r}: {entry.directory} holds other factors than when it was loaded; unload it, and load "
                "it again"
            )
        self._make_room(name, native.num_bytes)
        return native

    def _make_room(self, name: str, needed: int) -> None:
        """Lets go of adapters that nobody uses, those first that were not asked for the longest."""
        self._leaving = [native for native in self._leaving if native.num_users]
        if needed > self._budget:
            raise ConfigError(
                f"adapter {name!r} takes {needed} bytes; adapter_memory is {self._budget}: open the engine with more"
            )
        resident = [entry for entry in self._entries.values() if entry.native is not None]
        taken = sum(entry.num_bytes for entry in resident) + sum(native.num_bytes for native in self._leaving)
        for entry in sorted(resident, key=lambda entry: entry.used):
            if taken + needed <= self._budget:
                return
            if entry.native is not None and not entry.native.num_users:
                entry.native = None
                taken -= entry.num_bytes
        if taken + needed > self._budget:
            raise RequestError(
                f"adapter {name!r} takes {needed} bytes, and running requests use {taken} of adapter_memory, "
                f"{self._budget}; wait for one of them, or open the engine with more"
            )

    def _read(self, name: str, directory: Path) -> _core.Adapter:
        from llama4rt.convert.lora.lora_changes import read_changes

        return _core.Adapter(json.dumps(self._config), read_changes(directory, name, self._config))

    def _check_can(self) -> None:
        if self._device.startswith("cuda"):
            raise ConfigError(
                f"{self._device} has no kernels for adapters of requests; merge it with `llama4rt build --lora`, or "
                "use a CPU"
            )
        if not self._budget:
            raise ConfigError('no room for adapters: open the engine with adapter_memory, such as "1GiB"')

    def _unknown(self, name: str) -> str:
        there = ", ".join(repr(known) for known in list(self._entries)[:10]) or "none"
        return f"adapter is {name!r:.220}; loaded are: {there}"

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


__all__ = ["AdapterInfo", "Adapters"]
