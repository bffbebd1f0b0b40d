"""Reads values of a checkpoint's JSON settings, strictly: what is wrong is a ConfigError that names field and value."""

from collections.abc import Mapping
from typing import Any

from llama4rt.errors import ConfigError


class Fields:
    """Reads the members of one JSON object. A null is a missing key: it takes the default, if there is one."""

    def __init__(self, values: Mapping[str, Any], prefix: str = "", file: str = "config.json") -> None:
        """prefix: what the members are called by in messages; file: where they are from."""
        self.values = values
        self.prefix = prefix
        self.file = file

    def get(self, name: str) -> Any:
        return self.values.get(name)

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        value = self._value(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(
                f"{self.prefix}{name} is {shown(value)}; it must be an integer in {low}..{high}"
            )
        return value

    def real(self, name: str, low: float, high: float, default: float | None = None) -> float:
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ConfigError(
                f"{self.prefix}{name} is {shown(value)}; it must be a number in {low:g}..{high:g}"
            )
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true, false, or a number of early configs (attn_temperature_tuning was 4)."""
        value = self._value(name, default)
        if not isinstance(value, (bool, int)):
            raise ConfigError(f"{self.prefix}{name} is {shown(value)}; it must be true or false")
        return bool(value)

    def integers(self, name: str, low: int, high: int) -> list[int] | None:
        values = self.get(name)
        if values is None:
            return None
        if not isinstance(values, list):
            raise ConfigError(f"{self.prefix}{name} is {shown(values)}; it must be a list")
        for i, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(
                    f"{self.prefix}{name}[{i}] is {shown(value)}; it must be an integer in {low}..{high}"
                )
        return values

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None:
            value = default
        if value is None:
            raise ConfigError(f"{self.prefix}{name} is missing from {self.file}")
        return value


def shown(value: Any) -> str:
    return f"{value!r:.80}"


__all__ = ["Fields", "shown"]
