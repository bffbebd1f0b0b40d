"""A picture to the numbers the tower sees: the package's own preprocessing, at the demo model's tile size."""

from __future__ import annotations

import numpy as np
from llama4rt.images.processing import ImageProcessor, normalise
from llama4rt.images.tiling import Tiling, choose_tiling
from PIL import Image

from tools.demo_model.model import MAX_TILES, TILE

_PROCESSOR = ImageProcessor(TILE, MAX_TILES)


def tiling(image: Image.Image) -> Tiling:
    return choose_tiling(image.height, image.width, TILE, MAX_TILES)


def picture_tiles(image: Image.Image) -> np.ndarray:
    """float32 [tiles, 3, TILE, TILE]: the canvas row by row, then the global tile where there is more than one."""
    return normalise(_PROCESSOR(image).tiles)
