"""A picture to the numbers the tower sees: Llama 4's image preprocessing for tiles of any side, with Pillow."""

from __future__ import annotations

from functools import cache

import numpy as np
from llama4rt.images.plan import ImagePlan, plan_image
from PIL import Image

from tools.demo_model.model import MAX_TILES, TILE


def plan(image: Image.Image) -> ImagePlan:
    return plan_image(image.height, image.width, TILE, MAX_TILES)


def picture_tiles(image: Image.Image) -> np.ndarray:
    """float32 [tiles, 3, TILE, TILE]: the canvas row by row, then the global tile where there is more than one."""
    p = plan(image)
    height, width = p.resized
    canvas = np.zeros((*p.canvas, 3), np.uint8)  # black: padding happens before normalising
    canvas[:height, :width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    tiles = [
        canvas[r * TILE : (r + 1) * TILE, c * TILE : (c + 1) * TILE]
        for r in range(p.rows)
        for c in range(p.cols)
    ]
    if len(tiles) > 1:
        tiles.append(np.asarray(image.resize((TILE, TILE), Image.Resampling.BILINEAR)))
    return normalisation()[np.stack(tiles)].transpose(0, 3, 1, 2)


@cache
def normalisation() -> np.ndarray:
    """float32 [256], the value of each byte: scaled to -1..1 with every step rounded to bf16, as published."""
    scaled = _bf16(np.arange(256, dtype=np.float32) * np.float32(1 / 255))
    return _bf16(_bf16(scaled - np.float32(0.5)) * np.float32(2))


def _bf16(x: np.ndarray) -> np.ndarray:
    """Rounds float32 to bf16 values, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)
