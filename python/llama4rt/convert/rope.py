"""How positions are rotated, from the places where a config.json may say it, exactly as transformers reads them.

`rope_scaling` (of transformers 4) is taken before `rope_parameters` (of version 5) where both say something, and then
alone: a rope_theta comes from the object that is taken, else from the key beside it. An entry that this package does
not compute is refused: to leave it out would be another model.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llama4rt.convert.fields import Fields, shown
from llama4rt.errors import ConfigError

MAX_POSITIONS = 1 << 40
_SCALING_FIELDS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_KINDS = ("rope_type", "type")
# What each rope_type computes with, beside rope_theta.
_USED = {"default": (), "llama3": _SCALING_FIELDS}
_LAYER_TYPES = ("full_attention", "chunked_attention", "sliding_attention")


@dataclass(frozen=True)
class RopeScaling:
    """The llama3 rule."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: float


def parse_rope(
    f: Fields, default_theta: float, kinds: tuple[str, ...] = ("llama3", "default")
) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) of a text or vision config. kinds: the rope_types that its model may have."""
    _check_whole(f)
    where, values = _taken(f)
    r = Fields(values, f"{f.prefix}{where}.")
    _check_whole(r)
    theta_at = r if r.get("rope_theta") is not None else f
    theta = theta_at.real("rope_theta", 1e-6, 1e15, default=default_theta)
    kind = _kind(r, kinds)
    for name in r.values:
        known = name in (*_KINDS, "rope_theta", "partial_rotary_factor", *_USED[kind])
        if not known and r.get(name) is not None:
            raise ConfigError(f"{r.prefix}{name:.80} is {shown(r.get(name))}; {_misplaced(name, kind)}")
    return theta, None if kind == "default" else scaling_of(r)


def _taken(f: Fields) -> tuple[str, Mapping[str, Any]]:
    """(name, members) of the object that counts; an empty one counts as none."""
    found = {}
    for name in ("rope_scaling", "rope_parameters"):
        value = f.get(name)
        if value is not None and not isinstance(value, Mapping):
            raise ConfigError(f"{f.prefix}{name} is {shown(value)}; it must be an object or null")
        if value:
            found[name] = value
    if not found:
        return "rope_parameters", {}
    if len(found) == 2 and any(
        found["rope_parameters"].get(name) not in (None, value)
        for name, value in found["rope_scaling"].items()
    ):
        warnings.warn(
            f"{f.prefix}rope_scaling and {f.prefix}rope_parameters are both there and differ; rope_scaling is taken, "
            "as transformers takes it",
            stacklevel=5,
        )
    return next(iter(found.items()))


def _kind(r: Fields, kinds: tuple[str, ...]) -> str:
    said = {name: r.get(name) for name in _KINDS if r.get(name) is not None}
    if len(set(map(shown, said.values()))) > 1:
        raise ConfigError(
            f"{r.prefix}rope_type is {shown(said['rope_type'])} and {r.prefix}type is {shown(said['type'])}; they must "
            "be equal, or one left out"
        )
    kind = next(iter(said.values()), "default")
    if kind not in kinds:
        raise ConfigError(f"{r.prefix}rope_type is {shown(kind)}; it must be {' or '.join(map(repr, kinds))}")
    return str(kind)


def _misplaced(name: str, kind: str) -> str:
    if name in _LAYER_TYPES:
        return "Llama 4 rotates all its layers alike: the settings must stand here themselves, not by type of layer"
    if name in _SCALING_FIELDS:
        return f"rope_type '{kind}' does not scale; say rope_type 'llama3' if it should, or leave it out"
    return f"rope_type '{kind}' does not use it, and llama4rt cannot leave it out unasked; remove it"


def _check_whole(f: Fields) -> None:
    if f.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise ConfigError(
            f"{f.prefix}partial_rotary_factor is {shown(f.get('partial_rotary_factor'))}; it must be 1"
        )


def scaling_of(r: Fields) -> RopeScaling:
    factor, low, high = (r.real(name, 1e-6, 1e6) for name in _SCALING_FIELDS[:3])
    original = r.real(_SCALING_FIELDS[3], 1e-6, MAX_POSITIONS)
    if high < low:
        raise ConfigError(
            f"{r.prefix}high_freq_factor ({high:g}) is less than {r.prefix}low_freq_factor ({low:g})"
        )
    return RopeScaling(factor, low, high, original)


def override_scaling(scaling: RopeScaling | None, numbers: Mapping[str, float]) -> RopeScaling | None:
    """`scaling` with some of its numbers replaced; no numbers: no scaling."""
    unknown = sorted(set(numbers) - set(_SCALING_FIELDS))
    if unknown:
        raise ConfigError(
            f"rope_scaling override: unknown {', '.join(unknown)}; known are {', '.join(_SCALING_FIELDS)}"
        )
    if not numbers:
        return None
    base: Mapping[str, Any] = asdict(scaling) if scaling else {}
    return scaling_of(Fields({**base, **numbers}, "rope_scaling override: "))


__all__ = ["MAX_POSITIONS", "RopeScaling", "override_scaling", "parse_rope", "scaling_of"]
