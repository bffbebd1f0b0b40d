"""RGB pictures to the tiles that the vision tower takes, exactly as the published image processor cuts them."""

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from llama4rt.errors import EngineFileError
from llama4rt.file_json import read_json_object
from llama4rt.images.tiling import Tiling, choose_tiling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

_BILINEAR = 2  # Pillow's number, which preprocessor_config.json uses
_MAX_TILES = 1024  # of a picture
_DEFAULT_TILES = 16  # of the published models
# One of these keys makes a file the settings of an image processor.
_SETTINGS = frozenset(
    [
        "max_patches",
        "resize_to_max_canvas",
        "size",
        "image_mean",
        "image_std",
        "rescale_factor",
        "resample",
        "do_resize",
        "do_rescale",
        "do_normalize",
        "do_convert_rgb",
    ]
)


@dataclass(frozen=True)
class ProcessedImage:
    """A picture, ready for the engine. Equal digests mean equal tiles."""

    tiles: "NDArray[np.uint8]"  # [n, S, S, 3] rows, columns, RGB; the global tile last
    tiling: Tiling
    digest: bytes


class ImageProcessor:
    """The preprocessing of one model. tile: pixels, the side of a tile (S)."""

    def __init__(
        self, tile: int = 336, max_tiles: int = _DEFAULT_TILES, resize_to_max_canvas: bool = False
    ) -> None:
        self.tile = tile
        self.max_tiles = max_tiles
        self.resize_to_max_canvas = resize_to_max_canvas

    @staticmethod
    def from_files(
        read_file: Callable[[str], bytes | None], config: Mapping[str, Any]
    ) -> "ImageProcessor | None":
        """The processor of an engine with these files and this model config; None when it has no vision."""
        vision = config.get("vision")
        if vision is None:
            return None
        tile = int(vision["image_size"])
        for name in ("preprocessor_config.json", "processor_config.json"):
            settings = read_json_object(read_file, name)
            settings = settings.get("image_processor", settings)  # transformers 5 has it inside
            if isinstance(settings, dict) and not _SETTINGS.isdisjoint(settings):
                return ImageProcessor(tile, *_checked(settings, name, tile))
        return ImageProcessor(tile)

    def __call__(self, image: "Image | NDArray[np.uint8]") -> ProcessedImage:
        """image: a PIL image of mode RGB, or uint8 [height, width, 3]."""
        import numpy as np
        from PIL import Image as pil

        picture = pil.fromarray(image) if isinstance(image, np.ndarray) else image
        return self.processed(picture.height, picture.width, self.tiles(picture))

    def processed(self, height: int, width: int, tiles: "NDArray[np.uint8]") -> ProcessedImage:
        """tiles: what tiles() made of a picture of height x width pixels."""
        tiling = self.tiling(height, width)
        tiles.flags.writeable = False
        return ProcessedImage(tiles, tiling, digest_of(self.tile, tiles))

    def tiles(self, picture: "Image") -> "NDArray[np.uint8]":
        """[n, S, S, 3] of a picture of mode RGB."""
        import numpy as np
        from PIL.Image import Resampling

        assert picture.mode == "RGB", picture.mode
        tiling = self.tiling(picture.height, picture.width)
        side = self.tile

        def resized(height: int, width: int) -> "NDArray[np.uint8]":
            # Pillow widens the triangle's support when it shrinks, which is what "antialiased" means.
            same = picture.size == (width, height)
            return np.asarray(picture if same else picture.resize((width, height), Resampling.BILINEAR))

        canvas = np.zeros((*tiling.canvas, 3), dtype=np.uint8)
        canvas[: tiling.resized[0], : tiling.resized[1]] = resized(*tiling.resized)
        tiles = np.empty((tiling.num_tiles, side, side, 3), dtype=np.uint8)
        grid = canvas.reshape(tiling.rows, side, tiling.cols, side, 3).swapaxes(1, 2)
        tiles[: tiling.rows * tiling.cols] = grid.reshape(-1, side, side, 3)
        if tiling.num_tiles > 1:
            tiles[-1] = resized(side, side)  # of the whole picture, its shape not kept
        return tiles

    def tiling(self, height: int, width: int) -> Tiling:
        """Of a picture of height x width pixels."""
        return choose_tiling(height, width, self.tile, self.max_tiles, self.resize_to_max_canvas)


def normalise(tiles: "NDArray[np.uint8]") -> "NDArray[np.float32]":
    """float32 [n, 3, S, S]: the values the tower computes with, which are the published processor's, bit for bit."""
    import numpy as np

    table = np.array(normalisation_table(), dtype=np.float32)
    return np.ascontiguousarray(table[tiles].transpose(0, 3, 1, 2))


@cache
def normalisation_table() -> tuple[float, ...]:
    """What each byte becomes: rescaled by 1/255, less 0.5, divided by 0.5, each step rounded to bf16."""
    scale = _fp32(1 / 255)
    return tuple(_bf16(_bf16(_bf16(_fp32(byte * scale)) - 0.5) * 2) for byte in range(256))


def _checked(settings: Mapping[str, Any], name: str, tile: int) -> tuple[int, bool]:
    """(max_tiles, resize_to_max_canvas) of a preprocessor config that this package can follow."""

    def expect(key: str, ok: bool, wanted: str) -> None:
        if not ok:
            raise EngineFileError(f"{name}: {key} is {settings.get(key)!r:.80}; it must be {wanted}")

    size = settings.get("size", tile)
    sides = list(size.values()) if isinstance(size, dict) else [size]
    expect(
        "size",
        bool(sides) and all(side == tile for side in sides),
        f"the vision tower's image_size, {tile} x {tile}",
    )
    for key in ("image_mean", "image_std"):
        value = settings.get(key, 0.5)
        expect(key, value == 0.5 or value == [0.5, 0.5, 0.5], "0.5 for each channel")
    factor = settings.get("rescale_factor", 1 / 255)
    expect("rescale_factor", isinstance(factor, float) and abs(factor * 255 - 1) < 1e-6, "1/255")
    expect("resample", settings.get("resample", _BILINEAR) == _BILINEAR, f"{_BILINEAR}, bilinear")
    for key in ("do_resize", "do_rescale", "do_normalize", "do_convert_rgb"):
        expect(key, settings.get(key, True) in (True, None), "true")
    tiles, full = settings.get("max_patches", _DEFAULT_TILES), settings.get("resize_to_max_canvas", False)
    expect("max_patches", type(tiles) is int and 1 <= tiles <= _MAX_TILES, f"an integer in 1..{_MAX_TILES}")
    expect("resize_to_max_canvas", isinstance(full, bool), "true or false")
    return tiles, full


def digest_of(tile: int, tiles: "NDArray[np.uint8]") -> bytes:
    return hashlib.blake2b(struct.pack("<Q", tile) + tiles.tobytes(), digest_size=32).digest()


def _fp32(x: float) -> float:
    return float(struct.unpack("f", struct.pack("f", x))[0])


def _bf16(x: float) -> float:
    """Rounded to nearest, ties to even; x must be an fp32 value."""
    (bits,) = struct.unpack("<I", struct.pack("<f", x))
    bits = bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])
