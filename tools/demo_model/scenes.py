"""The world of the pictures: one to three coloured shapes on a plain background, and how they are drawn.

Objects stand near the cells of a 3 x 3 grid. Drawing is antialiased: everything is painted at several times the
size and averaged down. All randomness comes from the generator that the caller passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (44, 160, 60),
    "blue": (40, 80, 214),
    "yellow": (240, 214, 40),
    "orange": (243, 134, 30),
    "purple": (140, 50, 170),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "grey": (150, 150, 150),
    "black": (20, 20, 20),
}
PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)
BIG, SMALL = 0.45, 0.29  # radius in units of the shorter side of a cell
MAX_OBJECTS = 3


@dataclass(frozen=True)
class Thing:
    """One object. `row` and `col` are its grid cell; x, y and radius are fractions of width, height and of the
    picture's shorter side.
    """

    shape: str
    colour: str
    big: bool
    row: int
    col: int
    x: float
    y: float
    radius: float

    @property
    def size(self) -> str:
        return "big" if self.big else "small"

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> str:
        return PLACES[self.row][self.col]


@dataclass(frozen=True)
class Scene:
    """What is in a picture, in reading order, and the picture's size in pixels."""

    things: tuple[Thing, ...]
    background: str
    width: int
    height: int
    seed: int  # of the small variations in colour

    def draw(self) -> Image.Image:
        """The picture, RGB."""
        rng = np.random.default_rng(self.seed)
        scale = 4 if max(self.width, self.height) <= 100 else 2
        size = (self.width * scale, self.height * scale)
        image = Image.new("RGB", size, _vary(BACKGROUNDS[self.background], rng))
        pen = ImageDraw.Draw(image)
        for thing in self.things:
            _paint(pen, thing, size, _vary(COLOURS[thing.colour], rng))
        return image.reduce(scale)


def random_size(rng: np.random.Generator, small: bool) -> tuple[int, int]:
    """Width and height in pixels. A small picture is one tile, others are several tiles and the global one."""
    if small:
        # Nearly a tile, so that a token of the tile is a cell of the picture: what is missing is padding.
        return int(rng.integers(44, 49)), int(rng.integers(44, 49))
    aspect = 2 ** rng.uniform(-0.75, 0.75)
    area = rng.uniform(80, 300) ** 2
    width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return int(np.clip(width, 60, 320)), int(np.clip(height, 60, 320))


def random_scene(
    rng: np.random.Generator, max_objects: int = MAX_OBJECTS, small: bool | None = None
) -> Scene:
    """A scene of 1 to max_objects objects; no two objects share both shape and colour."""
    if small is None:
        small = bool(rng.random() < 0.35)
    width, height = random_size(rng, small)
    count = int(rng.choice([1, 2, 3][:max_objects], p=_SHARES[max_objects]))
    cells = sorted(int(c) for c in rng.choice(9, count, replace=False))
    shortest = min(width, height)
    cell_side = min(width, height) / 3
    things: list[Thing] = []
    for cell in cells:
        while True:
            shape = str(rng.choice(SHAPES))
            colour = str(rng.choice(list(COLOURS)))
            if all((t.shape, t.colour) != (shape, colour) for t in things):
                break
        big = bool(rng.random() < 0.5)
        row, col = divmod(cell, 3)
        radius = (BIG if big else SMALL) * rng.uniform(0.93, 1.05) * cell_side
        jitter = 0.03 if big else 0.1
        x = ((col + 0.5 + rng.uniform(-jitter, jitter)) * width / 3) / width
        y = ((row + 0.5 + rng.uniform(-jitter, jitter)) * height / 3) / height
        things.append(Thing(shape, colour, big, row, col, x, y, radius / shortest))
    background = str(rng.choice(list(BACKGROUNDS), p=[0.5, 0.25, 0.25]))
    return Scene(tuple(things), background, width, height, int(rng.integers(1 << 31)))


_SHARES = {1: [1.0], 2: [0.35, 0.65], 3: [0.25, 0.45, 0.3]}


def _vary(colour: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = (int(np.clip(c + rng.integers(-9, 10), 0, 255)) for c in colour)
    return r, g, b


def _paint(
    pen: ImageDraw.ImageDraw, thing: Thing, size: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    x, y, r = thing.x * size[0], thing.y * size[1], thing.radius * min(size)
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    elif thing.shape == "square":
        s = 0.88 * r
        pen.rectangle((x - s, y - s, x + s, y + s), fill=colour)
    elif thing.shape == "triangle":
        pen.polygon([(x, y - r), (x + r, y + 0.85 * r), (x - r, y + 0.85 * r)], fill=colour)
    elif thing.shape == "star":
        points = []
        for i in range(10):
            reach = r * (1.1 if i % 2 == 0 else 0.45)
            angle = math.pi * i / 5
            points.append((x + reach * math.sin(angle), y - reach * math.cos(angle)))
        pen.polygon(points, fill=colour)
    else:  # a cross of two bars
        bar = 0.3 * r
        pen.rectangle((x - r, y - bar, x + r, y + bar), fill=colour)
        pen.rectangle((x - bar, y - r, x + bar, y + r), fill=colour)
