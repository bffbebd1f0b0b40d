"""How a picture becomes tiles: which canvas it gets, what size it is resized to, how many tokens it costs.

Pure integers and one rounding to fp32; no picture is touched here. The rules are those of the published image
processor, and tests compare them with it on thousands of sizes.
"""

import struct
from dataclasses import dataclass
from functools import cache

from llama4rt.errors import RequestError

_MAX_SIDE = 1 << 20  # pixels; beyond it fp32 arithmetic on sides is no longer exact enough to mean anything


@dataclass(frozen=True)
class Tiling:
    """Sizes are (height, width) in pixels. The canvas is cut into rows * cols tiles, row by row; when that is more than
    one, a global tile (the whole picture, resized without keeping its shape) follows them.
    """

    canvas: tuple[int, int]
    resized: tuple[int, int]
    rows: int
    cols: int

    @property
    def num_tiles(self) -> int:
        tiles = self.rows * self.cols
        return tiles if tiles == 1 else tiles + 1

    def num_tokens(self, tokens_per_tile: int = 144) -> int:
        """Tokens in the prompt: patches, image start, image and image end, and one separator after each tile."""
        separators = 0 if self.num_tiles == 1 else self.rows * self.cols
        return 3 + self.num_tiles * tokens_per_tile + separators


def choose_tiling(
    height: int, width: int, tile: int = 336, max_tiles: int = 16, resize_to_max_canvas: bool = False
) -> Tiling:
    """Chooses the canvas for a picture of height x width pixels, with at most max_tiles tiles of tile x tile pixels.

    The canvas is the one that enlarges the picture least, or where all are too small, shrinks it least; among
    equals the smallest. A picture is enlarged only until a side reaches one tile; with resize_to_max_canvas it takes
    the canvas that enlarges it most, and fills it. Raises RequestError for a side of 0 or beyond 1,048,576 pixels.
    """
    for name, side in (("height", height), ("width", width)):
        if not 1 <= side <= _MAX_SIDE:
            raise RequestError(f"image {name} is {side} pixels; it must be in 1..{_MAX_SIDE}")
    candidates = _canvases(tile, max_tiles)
    scales = [min(_fp32(h / height), _fp32(w / width)) for h, w in candidates]
    enough = [s for s in scales if s >= 1]
    best = min(enough) if enough and not resize_to_max_canvas else max(scales)
    canvas = min((c for c, s in zip(candidates, scales, strict=True) if s == best), key=lambda c: c[0] * c[1])

    # The published processor has the canvas as a tensor, and a side that the canvas limits stays one: from there on its
    # arithmetic is in fp32, elsewhere in double precision.
    sides = (height, width)
    wanted = canvas if resize_to_max_canvas else tuple(max(side, tile) for side in sides)
    limited = [resize_to_max_canvas or c < w for c, w in zip(canvas, wanted, strict=True)]
    target = tuple(min(w, c) for w, c in zip(wanted, canvas, strict=True))
    scale = [
        _fp32(t / side) if fp32 else t / side for t, side, fp32 in zip(target, sides, limited, strict=True)
    ]
    if any(limited):
        wide = _fp32(scale[1]) >= _fp32(scale[0])
    else:
        wide = scale[1] >= scale[0]
    if wide:  # the height decides
        fitting = width * scale[0]
        resized = (target[0], min(int(_fp32(fitting) if limited[0] else fitting), target[1]))
    else:
        fitting = height * scale[1]
        resized = (min(int(_fp32(fitting) if limited[1] else fitting), target[0]), target[1])
    return Tiling(canvas, (max(resized[0], 1), max(resized[1], 1)), canvas[0] // tile, canvas[1] // tile)


@cache
def _canvases(tile: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """Every canvas of up to max_tiles tiles, grouped by shape in the order shapes are first met, which breaks ties."""
    by_shape: dict[float, list[tuple[int, int]]] = {}
    for tiles in range(max_tiles, 0, -1):
        for rows in range(1, tiles + 1):
            if tiles % rows == 0:
                cols = tiles // rows
                by_shape.setdefault(rows / cols, []).append((rows * tile, cols * tile))
    return tuple(canvas for group in by_shape.values() for canvas in group)


def _fp32(x: float) -> float:
    return float(struct.unpack("f", struct.pack("f", x))[0])
