"""vision_config of a config.json, in any spelling, to what the engine file stores of the vision tower.

Nothing is filled in from the defaults of published code: they match no released model. Bounds as in
csrc/format/model_config.cpp.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama4rt.convert.fields import Fields, shown
from llama4rt.convert.rope import parse_rope
from llama4rt.errors import ConfigError

_MAX_WIDTH = 1 << 20
_MAX_MLP_WIDTH = 1 << 24
_MAX_LAYERS = 1024
_MAX_HEADS = 4096
_MAX_HEAD_DIM = 512
_MAX_TILE_SIDE = 8192
_MAX_GRID = 256
# LayerNorm's own default, which published code computes with whatever vision_config.norm_eps says.
_NORM_EPS = 1e-5


@dataclass(frozen=True)
class VisionConfig:
    """Field for field the VisionConfig of csrc/format/model_config.h."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    adapter_hidden_size: int
    output_dim: int
    image_size: int  # pixels: side of a tile
    patch_size: int  # pixels
    rope_theta: float
    norm_eps: float
    patch_token_id: int

    @property
    def num_patches(self) -> int:
        """Of one tile."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def patch_dim(self) -> int:
        """Numbers of one patch, all colours."""
        return 3 * self.patch_size**2


def parse_vision(config: Mapping[str, Any], vocab_size: int) -> VisionConfig | None:
    """The vision tower that a config.json describes, or None. Raises ConfigError."""
    values = config.get("vision_config")
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise ConfigError(f"vision_config is {shown(values)}; it must be an object")
    f = Fields(values, "vision_config.")
    hidden = f.integer("hidden_size", 1, _MAX_WIDTH)
    heads = f.integer("num_attention_heads", 1, _MAX_HEADS)
    intermediate = f.integer("intermediate_size", 1, _MAX_MLP_WIDTH)
    image_size, patch_size = _side(f, "image_size"), _side(f, "patch_size")
    output_dim = f.integer("vision_output_dim", 1, _MAX_WIDTH)
    adapter = f.integer("projector_input_dim", 1, _MAX_WIDTH)
    _check_heads(hidden, heads)
    _check_grid(image_size, patch_size)
    _check_adapter(f, hidden, intermediate, adapter, output_dim)
    _check_unsupported(f)
    return VisionConfig(
        hidden_size=hidden,
        num_hidden_layers=f.integer("num_hidden_layers", 1, _MAX_LAYERS),
        num_attention_heads=heads,
        intermediate_size=intermediate,
        adapter_hidden_size=adapter,
        output_dim=output_dim,
        image_size=image_size,
        patch_size=patch_size,
        rope_theta=parse_rope(f, default_theta=10_000.0, kinds=("default",))[0],
        norm_eps=_NORM_EPS,
        patch_token_id=_patch_token(config, vocab_size),
    )


def _side(f: Fields, name: str) -> int:
    """Pixels; two equal numbers mean a square too."""
    value = f.get(name)
    if isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == value[1]:
        f = Fields({name: value[0]}, f.prefix)
    return f.integer(name, 1, _MAX_TILE_SIDE)


def _check_heads(hidden: int, heads: int) -> None:
    if hidden % heads:
        raise ConfigError(
            f"vision_config.hidden_size ({hidden}) is not a multiple of vision_config.num_attention_heads ({heads})"
        )
    head_dim = hidden // heads
    if head_dim % 4 or head_dim > _MAX_HEAD_DIM:
        raise ConfigError(
            f"vision_config: hidden_size / num_attention_heads is {head_dim}; a head must be a multiple of 4, because "
            f"RoPE turns pairs in two directions, and at most {_MAX_HEAD_DIM}"
        )


def _check_grid(image_size: int, patch_size: int) -> None:
    if image_size % patch_size:
        raise ConfigError(
            f"vision_config.image_size ({image_size}) is not a multiple of vision_config.patch_size ({patch_size})"
        )
    grid = image_size // patch_size
    if grid % 2 or grid > _MAX_GRID:
        raise ConfigError(
            f"vision_config: image_size / patch_size is {grid}; it must be even, because 2 x 2 patches become one "
            f"token, and at most {_MAX_GRID}"
        )


def _check_adapter(f: Fields, hidden: int, intermediate: int, adapter: int, output_dim: int) -> None:
    ratio = f.real("pixel_shuffle_ratio", 0, 1, default=0.5)
    if ratio != 0.5:
        raise ConfigError(f"vision_config.pixel_shuffle_ratio is {ratio:g}; it must be 0.5 (2 x 2 patches)")
    if intermediate != 4 * hidden:
        raise ConfigError(
            f"vision_config.intermediate_size is {intermediate}; it must be 4 * hidden_size ({4 * hidden}), because "
            "the adapter reads 2 x 2 patches with it"
        )
    # fc1 is [projector_input_dim, ...], fc2 [projector_output_dim, projector_output_dim]; the projector reads
    # vision_output_dim.
    last = f.integer("projector_output_dim", 1, _MAX_WIDTH, default=adapter)
    if not adapter == last == output_dim:
        raise ConfigError(
            f"vision_config: projector_input_dim is {adapter}, projector_output_dim {last}, vision_output_dim "
            f"{output_dim}; they must be equal, because each is the width that the next layer reads"
        )


def _check_unsupported(f: Fields) -> None:
    """Settings that no Llama 4 uses and that would silently change the results."""
    if f.integer("num_channels", 1, 1 << 20, default=3) != 3:
        raise ConfigError(f"vision_config.num_channels is {shown(f.get('num_channels'))}; it must be 3")
    if f.get("hidden_act") not in (None, "gelu"):
        raise ConfigError(f"vision_config.hidden_act is {shown(f.get('hidden_act'))}; it must be 'gelu'")
    eps = f.real("norm_eps", 0, 1, default=_NORM_EPS)
    if eps != _NORM_EPS:
        warnings.warn(
            f"vision_config.norm_eps is {eps:g}; published code ignores it and computes with {_NORM_EPS:g}, and so "
            "does llama4rt",
            stacklevel=4,
        )


def _patch_token(config: Mapping[str, Any], vocab_size: int) -> int:
    """The id of <|patch|>: image_token_index, or image_token_id of some exports."""
    f = Fields(config)
    said = {
        name: config[name] for name in ("image_token_index", "image_token_id") if config.get(name) is not None
    }
    ids = [f.integer(name, 0, vocab_size - 1) for name in said or ("image_token_index",)]
    if len(set(ids)) > 1:
        raise ConfigError(
            f"image_token_index is {ids[0]} and image_token_id is {ids[1]}; they must be the same id"
        )
    return ids[0]


__all__ = ["VisionConfig", "parse_vision"]
