"""How much memory decoding takes, told from a picture's header."""

from typing import TYPE_CHECKING

from llama4rt.errors import ImageError
from llama4rt.images.limits import ImageLimits

if TYPE_CHECKING:
    from PIL.Image import Image

_RGB = 4  # Pillow's bytes per pixel of RGB, and of all modes that are not here:
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# libwebp's canvas and the one before it, the frame, and its copy for Pillow
_WEBP = 12
_COEFFICIENT = 2
_SLOW_DECODERS = ("bmp_rle", "ppm", "ppm_plain")  # of Pillow, in Python: all of the picture is gathered first
_BITS_PER_SAMPLE, _ROWS_PER_STRIP = 258, 278  # tags of TIFF


def check_webp(height: int, width: int, limits: ImageLimits, what: str) -> None:
    """Before its reader opens it, which allocates two canvases."""
    _check(height * width * (_WEBP + _RGB), f"{what} is a WebP of {width} x {height} pixels", limits)


def check_decoded_bytes(image: "Image", name: str, scans: int, limits: ImageLimits, what: str) -> None:
    """For a picture that its reader has opened, of which no pixel is decoded yet."""
    own = _BYTES_PER_PIXEL.get(image.mode, _RGB)
    per_pixel = own + _work(image, name, scans)
    converting = own + _RGB
    if image.mode.startswith("I"):  # numpy's copy of the samples, grey of 8 bits twice
        converting += own + 2
    per_pixel = max(per_pixel, converting, 2 * _RGB)  # the last when it is turned
    _check(
        image.height * image.width * per_pixel,
        f"{what} is a {name} of {image.width} x {image.height} pixels and mode {image.mode}",
        limits,
    )


def _work(image: "Image", name: str, scans: int) -> float:
    """Bytes per pixel that the decoder needs beside the picture."""
    if name == "WebP":
        return _WEBP
    if name == "JPEG" and (
        scans > 1 or "progressive" in image.info
    ):  # all coefficients are kept until the last scan
        layers = [(across, down) for _, across, down, _ in getattr(image, "layer", [])] or [(1, 1)]
        finest = max(across for across, _ in layers) * max(down for _, down in layers)
        return float(_COEFFICIENT * sum(across * down for across, down in layers) / finest)
    if name == "TIFF":  # a strip at once, which may be the whole picture
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, rows = tags.get(_BITS_PER_SAMPLE, (1,)), tags.get(_ROWS_PER_STRIP, image.height)
        of_strip = min(rows, image.height) / image.height if isinstance(rows, int) else 1
        return sum(min(b, 64) for b in bits) / 8 * of_strip if isinstance(bits, tuple) else _RGB
    tiles = getattr(image, "tile", None)
    if tiles and tiles[0][0] in _SLOW_DECODERS:
        return 2 * _BYTES_PER_PIXEL.get(image.mode, _RGB)
    return 0


def _check(needed: float, subject: str, limits: ImageLimits) -> None:
    if needed > limits.max_decoded_bytes:
        raise ImageError(
            f"{subject}, which take {int(needed)} bytes to decode; max_decoded_bytes is {limits.max_decoded_bytes}"
        )
