"""Pictures, from pixels to logits: the vision tower and early fusion give transformers' numbers.

Rows 18 and 27 of the table in docs/testing.md. Limits on features are relative to the largest (fp32) or to the rms of
all.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver import Driver
from numpy.typing import NDArray
from tiny_checkpoints import (
    KINDS,
    VISION,
    VISION_INT8,
    Kind,
    load_oracle,
    oracle_features,
    oracle_logits,
    patch_ids,
    random_ids,
    random_tiles,
    write_checkpoint,
)

FP32_LIMIT = 1e-5  # worst element, relative to the largest
BF16_LIMIT = 0.02  # rms
INT8_LIMIT = 0.02  # rms
CPU_INT8_LIMIT = 1e-4  # rms: the CPU's int16 activations
LOGITS_LIMIT = 1e-4  # absolute, as in test_parity_text.py

DEVICES = pytest.mark.parametrize("device", ["reference", "cpu"])

TOWERS = {
    kind.name: kind
    for kind in [
        KINDS["scout_vision"],  # two heads of 88, as the published ones
        KINDS["maverick_vision"],  # three heads of 20, a 6 x 6 grid, another theta
        KINDS["micro_vision"],  # one layer, heads of 4
        Kind(  # the published grid: 24 x 24 patches of 14, 577 rows a tile
            "full_grid",
            KINDS["micro_vision"].config,
            seed=31,
            vision=VISION | {"num_hidden_layers": 3, "image_size": 336, "patch_size": 14},
        ),
        Kind(  # one token a tile, one head, many layers
            "deep",
            KINDS["micro_vision"].config,
            seed=32,
            vision=VISION
            | {
                "hidden_size": 32,
                "num_attention_heads": 1,
                "num_hidden_layers": 7,
                "intermediate_size": 128,
                "image_size": 10,
                "patch_size": 5,
                "projector_input_dim": 72,
                "projector_output_dim": 72,
                "vision_output_dim": 72,
            },
        ),
        Kind(
            "int8_groups", KINDS["int4_vision"].config, seed=33, vision=VISION_INT8 | {"num_hidden_layers": 5}
        ),
    ]
}
ALL_TOWERS = pytest.mark.parametrize("tower", TOWERS)


class Towers:
    """Checkpoints of TOWERS with their oracles and engines, each made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoint = functools.cache(lambda name: write_checkpoint(TOWERS[name], root / name))
        self.oracle = functools.cache(lambda name, dtype: load_oracle(self.checkpoint(name), dtype))
        self.expected = functools.cache(self._expected)
        self.engine_file = functools.cache(self._engine_file)

    def _expected(self, name: str, num_tiles: int, dtype: str = "float32") -> NDArray[np.float32]:
        """transformers' features of random_tiles(..., num_tiles)."""
        return oracle_features(
            self.oracle(name, dtype), random_tiles(TOWERS[name], num_tiles, seed=num_tiles)
        )

    def _engine_file(self, name: str, vision: str = "bf16") -> Path:
        from llama4rt import build

        path = self.root / f"{name}-{vision}.l4e"
        build(str(self.checkpoint(name)), str(path), weights="bf16", vision=vision)
        return path

    def features(
        self, name: str, num_tiles: int, vision: str = "bf16", **options: Any
    ) -> NDArray[np.float32]:
        with Driver(self.engine_file(name, vision), **options) as driver:
            return driver.engine.encode_image(random_tiles(TOWERS[name], num_tiles, seed=num_tiles))


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Towers:
    return Towers(tmp_path_factory.mktemp("towers"))


def worst(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Largest difference against the largest true value."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def rms(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b.astype(np.float64) ** 2)))


@DEVICES
@ALL_TOWERS
def test_features_equal_transformers(tower: str, device: str, towers: Towers) -> None:
    for count in [1] if tower == "full_grid" else [1, 2, 7]:
        ours = towers.features(tower, count, device=device)
        theirs = towers.expected(tower, count)
        assert ours.shape == theirs.shape and ours.dtype == np.float32
        assert worst(ours, theirs) < FP32_LIMIT, f"{count} tiles"


@ALL_TOWERS
def test_features_are_near_transformers_in_bf16(tower: str, towers: Towers) -> None:
    """transformers then rounds to bf16 after every step. We do not, and are as near to that as its own fp32 run is."""
    theirs = towers.expected(tower, 2, "bfloat16")
    own = rms(towers.expected(tower, 2), theirs)
    ours = rms(towers.features(tower, 2, device="cpu"), theirs)
    assert 100 * FP32_LIMIT < own < BF16_LIMIT
    assert ours < min(BF16_LIMIT, 1.01 * own)


def test_int8_tower(towers: Towers) -> None:
    """What int8 costs is in the weights: both devices compute with the same, and find the same."""
    theirs = towers.expected("int8_groups", 4)
    on_cpu = towers.features("int8_groups", 4, "int8", device="cpu")
    assert 100 * FP32_LIMIT < rms(on_cpu, theirs) < INT8_LIMIT
    assert rms(on_cpu, towers.features("int8_groups", 4, "int8", device="reference")) < CPU_INT8_LIMIT


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_tile_has_the_same_bits_alone(threads: int, towers: Towers) -> None:
    kind = TOWERS["maverick_vision"]
    tiles = random_tiles(kind, 6, seed=1)
    with Driver(towers.engine_file("maverick_vision"), device="cpu", num_threads=threads) as driver:
        together = driver.engine.encode_image(tiles)
        alone = [driver.engine.encode_image(tile[None]) for tile in tiles]
    assert np.array_equal(together, np.concatenate(alone))


@DEVICES
@pytest.mark.parametrize("tower", ["scout_vision", "maverick_vision"])
def test_logits_with_pictures_equal_transformers(tower: str, device: str, towers: Towers) -> None:
    """Row 27: rows of two pictures replace the patch tokens of a prompt of several chunks, in prefill slices of 7."""
    kind = TOWERS[tower]
    first, second = random_tiles(kind, 3, seed=5), random_tiles(kind, 1, seed=6)
    text = random_ids(kind, 3 * kind.chunk + 5, seed=7)
    ids = text[:9] + patch_ids(kind, 3) + text[9:20] + patch_ids(kind, 1) + text[20:]
    images = [(bytes([1] * 32), first), (bytes([2] * 32), second)]
    options = {"device": device, "kv_cache_dtype": "f32", "max_batched_tokens": 7, "max_num_seqs": 1}
    with Driver(towers.engine_file(tower), **options) as driver:
        (output,) = driver.run([{"ids": ids, "images": images, "return_logits": True}])
    theirs = oracle_logits(towers.oracle(tower, "float32"), ids, np.concatenate([first, second]))
    assert np.abs(np.concatenate(output.logits) - theirs).max() < LOGITS_LIMIT
