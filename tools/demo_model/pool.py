"""Pictures made ahead of training: their scenes, their tiles as bytes, and what each tile's tokens show.

Nothing here needs torch. The tower learns from `labels`; the language part reads the tower's features of the pool.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llama4rt.images.tiling import Tiling

from tools.demo_model.model import TILE
from tools.demo_model.pixels import picture_tiles, tiling
from tools.demo_model.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene, random_scene

# What a token is asked to say, with the number of classes of each. The last three kinds are about the whole picture:
# only the tile that shows all of it can tell.
LABELS: dict[str, int] = {
    "shape": len(SHAPES) + 1,  # 0: nothing
    "colour": len(COLOURS) + 1,
    "background": len(BACKGROUNDS),
    "size": 2,
    "place": 10,  # 1 + the cell, on the one token of a whole view that is the object's cell; 0 elsewhere
    "rank": 4,  # first, second or third object in reading order, on the same token; 0 elsewhere
    "total": 4,  # objects in the picture; 0: this tile is a part of one
}
_GRID = 3  # tokens along a tile's side
_TOKEN = TILE // _GRID


@dataclass
class Pool:
    """Pictures in random order. Tiles of picture i are rows first[i] to first[i + 1]."""

    scenes: list[Scene]
    tilings: list[Tiling]
    first: np.ndarray  # int64 [pictures + 1]
    pixels: np.ndarray  # bf16 bits as uint16 [tiles, 3, TILE, TILE]
    labels: np.ndarray  # int64 [tiles, 9, len(LABELS)], see token_labels
    # float32 [tiles, 9, 4]: centre and radii of the object, from the token's centre, in tokens
    boxes: np.ndarray


def make_pool(count: int, seed: int, small_share: float = 0.5) -> Pool:
    """`count` pictures, a `small_share` of them of one tile."""
    rng = np.random.default_rng(seed)
    scenes, tilings, first, pixels, labels, boxes = [], [], [0], [], [], []
    for _ in range(count):
        scene = random_scene(rng, small=bool(rng.random() < small_share))
        picture = scene.draw()
        p = tiling(picture)
        tiles = picture_tiles(picture)
        marks, geometry = token_labels(scene, p)
        scenes.append(scene)
        tilings.append(p)
        first.append(first[-1] + len(tiles))
        pixels.append((tiles.view(np.uint32) >> 16).astype(np.uint16))
        labels.append(marks)
        boxes.append(geometry)
    return Pool(
        scenes,
        tilings,
        np.array(first),
        np.concatenate(pixels),
        np.concatenate(labels),
        np.concatenate(boxes),
    )


def token_labels(scene: Scene, p: Tiling) -> tuple[np.ndarray, np.ndarray]:
    """What each token of each tile covers most of, for one picture: classes as in LABELS (-1 unclear), and boxes."""
    labels = np.zeros((p.num_tiles, _GRID * _GRID, len(LABELS)), np.int64)
    boxes = np.zeros((p.num_tiles, _GRID * _GRID, 4), np.float32)
    label = {name: labels[..., i] for i, name in enumerate(LABELS)}  # views
    label["background"][:] = list(BACKGROUNDS).index(scene.background)
    label["size"][:] = -1
    label["total"][-1] = len(scene.things)
    for rank, thing in enumerate(scene.things, 1):
        cell = thing.row * _GRID + thing.col
        label["place"][-1, cell], label["rank"][-1, cell] = cell + 1, rank
    corners = [(r * TILE, c * TILE, p.resized) for r in range(p.rows) for c in range(p.cols)]
    if len(corners) > 1:
        corners.append((0, 0, (TILE, TILE)))  # the global tile
    shortest = min(scene.width, scene.height)
    for tile, (top, left, (height, width)) in enumerate(corners):
        for token in range(_GRID * _GRID):
            y0, x0 = top + token // _GRID * _TOKEN, left + token % _GRID * _TOKEN
            best = 0.0
            for thing in scene.things:
                x, y = thing.x * width, thing.y * height
                rx = thing.radius * shortest * width / scene.width
                ry = thing.radius * shortest * height / scene.height
                wide = min(x + rx, x0 + _TOKEN) - max(x - rx, x0)
                high = min(y + ry, y0 + _TOKEN) - max(y - ry, y0)
                if wide <= 0 or high <= 0:
                    continue
                area = wide * high
                share = max(area / _TOKEN**2, area / (4 * rx * ry))
                if area > best:
                    best = area
                    clear = share > 0.3
                    at = tile, token
                    label["shape"][at] = SHAPES.index(thing.shape) + 1 if clear else -1
                    label["colour"][at] = list(COLOURS).index(thing.colour) + 1 if clear else -1
                    label["size"][at] = thing.big if clear else -1
                    boxes[tile, token] = (
                        (x - x0) / _TOKEN - 0.5,
                        (y - y0) / _TOKEN - 0.5,
                        rx / _TOKEN,
                        ry / _TOKEN,
                    )
    return labels, boxes
