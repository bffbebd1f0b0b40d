"""Canvas, resized size and token count of pictures, against the functions of transformers' image processor."""

import ast
import importlib.util
import random
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from llama4rt import RequestError
from llama4rt.images.tiling import choose_tiling

SEED = 20260117


class Size(NamedTuple):
    height: int
    width: int


@pytest.fixture(scope="module")
def oracle() -> dict[str, Any]:
    """The pure functions of the published processor. Its module imports torchvision, which these do not need, so they
    are compiled alone from its source.
    """
    torch = pytest.importorskip("torch")
    package = importlib.util.find_spec("transformers")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "models" / "llama4" / "image_processing_llama4.py"
    names = {"get_factors", "get_max_res_without_distortion", "find_supported_resolutions", "get_best_fit"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    assert {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} == names
    import math

    space: dict[str, Any] = {
        "torch": torch,
        "math": math,
        "defaultdict": defaultdict,
        "lru_cache": lru_cache,
        "SizeDict": Size,
    }
    exec(compile(tree, str(path), "exec"), space)
    return space


def sizes() -> list[tuple[int, int]]:
    rng = random.Random(SEED)
    uniform = [(rng.randint(1, 6000), rng.randint(1, 6000)) for _ in range(2000)]
    thin = [(rng.randint(1, 40), rng.randint(1, 9000))[:: rng.choice((1, -1))] for _ in range(500)]
    # Around multiples of a tile, where the choice of canvas changes.
    edges = [tuple(336 * rng.randint(1, 17) + rng.randint(-2, 2) for _ in range(2)) for _ in range(1000)]
    # Where double precision gives another size.
    rounded = [(7624, 10483), (2562, 9943), (2793, 1197), (1343, 158)]
    return [(h, w) for h, w in uniform + thin + edges + rounded]


@pytest.mark.parametrize("full", [False, True], ids=["as published", "resize_to_max_canvas"])
def test_plans_equal_the_published_processor(oracle: dict[str, Any], full: bool) -> None:
    """In the very types of its own code: a canvas is a tensor, and what min() takes from it stays one."""
    import torch

    canvases = torch.tensor(
        oracle["find_supported_resolutions"](max_num_chunks=16, patch_size=Size(336, 336))
    )
    for height, width in sizes():
        canvas = oracle["get_best_fit"]((height, width), canvases, resize_to_max_canvas=full)
        target = canvas
        if not full:
            target = (min(max(height, 336), canvas[0]), min(max(width, 336), canvas[1]))
        resized = tuple(
            max(int(x), 1) for x in oracle["get_max_res_without_distortion"]((height, width), target)
        )
        tiling = choose_tiling(height, width, resize_to_max_canvas=full)
        assert (tiling.canvas, tiling.resized) == (tuple(canvas.tolist()), resized), (height, width)
        assert (tiling.rows * 336, tiling.cols * 336) == tiling.canvas


@pytest.mark.parametrize(
    ("size", "canvas", "resized", "tiles"),
    [
        ((100, 100), (336, 336), (336, 336), 1),
        ((337, 336), (672, 336), (337, 336), 3),
        ((480, 640), (672, 672), (480, 640), 5),
        ((1080, 1920), (1008, 1680), (945, 1680), 16),
        ((4000, 3000), (1344, 1008), (1344, 1008), 13),
        ((1, 2000), (336, 2016), (1, 2000), 7),
        ((5376, 336), (5376, 336), (5376, 336), 17),
    ],
)
def test_known_tilings(
    size: tuple[int, int], canvas: tuple[int, int], resized: tuple[int, int], tiles: int
) -> None:
    tiling = choose_tiling(*size)
    assert (tiling.canvas, tiling.resized, tiling.num_tiles) == (canvas, resized, tiles)


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((336, 336), 147),
        ((336, 672), 437),
        ((672, 672), 727),
        ((1008, 1680), 2322),
        ((1344, 1344), 2467),
        ((5376, 336), 2467),
    ],
)
def test_token_counts(size: tuple[int, int], tokens: int) -> None:
    assert choose_tiling(*size).num_tokens() == tokens


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (1 << 21, 5)])
def test_impossible_sizes_are_typed_errors(size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match=str(min(size) if min(size) < 1 else max(size))):
        choose_tiling(*size)
