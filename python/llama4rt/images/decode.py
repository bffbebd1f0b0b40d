"""Encoded pictures to RGB, with Pillow, for files that strangers made.

The format is told by the first bytes, never by a name, and only a short list of Pillow's readers is used. Sizes, memory
and passes over the pixels are checked as soon as the header is read, before pixels are. All that a reader can raise
becomes ImageError.
"""

import struct
import threading
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any

from llama4rt.errors import ImageError
from llama4rt.images.decoded_bytes import check_decoded_bytes, check_webp
from llama4rt.images.limits import ImageLimits
from llama4rt.images.pillow_warnings import pillow_silenced
from llama4rt.images.structure import directory_is_sane, read_structure

if TYPE_CHECKING:
    from PIL.Image import Image

# Beginning of a file -> Pillow's reader. JpegImageFile itself: the registered one would look for a second picture.
_READERS = [
    (b"\x89PNG\r\n\x1a\n", "PNG", "PngImagePlugin", "PngImageFile"),
    (b"\xff\xd8\xff", "JPEG", "JpegImagePlugin", "JpegImageFile"),
    (b"GIF87a", "GIF", "GifImagePlugin", "GifImageFile"),
    (b"GIF89a", "GIF", "GifImagePlugin", "GifImageFile"),
    (b"RIFF....WEBP", "WebP", "WebPImagePlugin", "WebPImageFile"),
    (b"BM", "BMP", "BmpImagePlugin", "BmpImageFile"),
    *(
        (magic, "TIFF", "TiffImagePlugin", "TiffImageFile")
        for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    ),
    *((b"P%d" % kind, "PPM", "PpmImagePlugin", "PpmImageFile") for kind in range(1, 7)),
]
FORMATS = tuple(dict.fromkeys(name for _, name, _, _ in _READERS))
_CONVERT = "convert it to PNG or JPEG first"

_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags
_ORIENTATION = 274  # EXIF tag
_COMPOSITE_PIXELS = 1 << 20  # at a time
_load_lock = threading.Lock()


def decode(data: bytes, limits: ImageLimits, what: str = "the image") -> "Image":
    """The picture in `data` as RGB: upright, first frame, on white where it is transparent."""
    limits.check_bytes(len(data), what)
    name, module, reader = _reader(data, what)
    size = _webp_size(data) if name == "WebP" else None
    if size is not None:  # its reader allocates the canvas when it opens
        limits.check_size(*size, what)
        check_webp(*size, limits, what)
    structure = read_structure(data, name, limits.max_scans, what)
    del data
    try:
        with pillow_silenced():
            image = getattr(import_module(f"PIL.{module}"), reader)(BytesIO(structure.data))
            limits.check_size(image.height, image.width, what)
            if name == "TIFF":
                _check_tiff_tiles(image, limits, what)
            check_decoded_bytes(image, name, structure.scans, limits, what)
            _check_passes(image, structure.scans, limits, what)
            return _rgb_of_file(image, what)
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{what}: not enough memory to decode this {name}") from error
    except Exception as error:  # readers raise anything on damaged files
        raise ImageError(f"{what}: damaged {name}: {_text(error)}") from None


def import_readers() -> None:
    """Imports all that decode() needs, before memory is limited."""
    for _, _, module, _ in _READERS:
        import_module(f"PIL.{module}")


def to_rgb(image: "Image", limits: ImageLimits, what: str = "the image") -> "Image":
    """The picture as RGB. `image` itself is loaded, if it was not, but not changed."""
    limits.check_size(image.height, image.width, what)
    try:
        with pillow_silenced():
            with _load_lock if getattr(image, "fp", None) is not None else _no_lock:
                image.load()  # two threads must not load one picture at once
            return _upright(_opaque(image, what), _orientation(image))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{what}: {_text(error)}") from None


def _rgb_of_file(image: Any, what: str) -> "Image":
    """to_rgb() for a picture that nobody else has: its own pixels are freed on the way."""
    image.load()
    vars(image).pop("_decoder", None)  # of WebP, which holds two canvases
    orientation = _orientation(image)
    rgb = _opaque(image, what)
    if rgb is not image:
        image.close()
    return _upright(rgb, orientation)


def _reader(data: bytes, what: str) -> tuple[str, str, str]:
    for magic, name, module, reader in _READERS:
        start = data[: len(magic)]
        if start == magic or (name == "WebP" and start[:4] + start[8:] == b"RIFFWEBP"):
            return name, module, reader
    if not data:
        raise ImageError(f"{what} is empty: 0 bytes")
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start or start.startswith(b"<?xml"):
        raise ImageError(f"{what} is SVG, which is not read; {_CONVERT}")
    if data[4:8] == b"ftyp":
        raise ImageError(f"{what} is HEIC or AVIF, which is not read; {_CONVERT}")
    if data[:4] == b"%PDF":
        raise ImageError(f"{what} is PDF, which is not read; {_CONVERT}")
    raise ImageError(f"{what} is none of {', '.join(FORMATS)}; it begins with {data[:12]!r}")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of the canvas as the header has them; None for a header that is not WebP's."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[7:10], "little"), 1 + int.from_bytes(body[4:7], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", body[1:5])
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return height & 0x3FFF, width & 0x3FFF
    return None


def _check_tiff_tiles(image: Any, limits: ImageLimits, what: str) -> None:
    """A TIFF's tiles may be larger than its picture, and whole tiles are decoded."""
    width, height = image.tag_v2.get(_TILE_WIDTH, 0), image.tag_v2.get(_TILE_LENGTH, 0)
    if isinstance(width, int) and isinstance(height, int) and width * height > limits.max_pixels:
        raise ImageError(
            f"{what} is stored in tiles of {width} x {height} pixels; max_pixels is {limits.max_pixels}"
        )


def _check_passes(image: "Image", scans: int, limits: ImageLimits, what: str) -> None:
    """The larger the picture, the fewer scans: of one of max_pixels a quarter."""
    most = max(limits.max_scans * limits.max_pixels // (4 * image.height * image.width), 1)
    if scans > most:
        raise ImageError(
            f"{what} is a JPEG of {scans} scans over {image.width} x {image.height} pixels; it can have {most}: "
            f"max_scans is {limits.max_scans}, and a quarter of that at max_pixels"
        )


def _opaque(image: "Image", what: str) -> "Image":
    """A loaded picture of any mode as RGB, on white where it is transparent."""
    from PIL import Image as pil

    mode = image.mode
    if mode.startswith("I"):
        return _from_16_bit(image, what)
    if mode == "F":
        raise ImageError(f"{what} has floating-point samples, whose white is unknown; scale it to 8 bits")
    transparent = mode in ("LA", "PA", "La", "RGBA", "RGBa") or (
        mode in ("1", "L", "P", "RGB") and image.info.get("transparency") is not None
    )
    if not transparent:
        return image.convert("RGB") if mode != "RGB" else image
    width, height = image.size
    out = pil.new("RGB", image.size)
    rows = max(_COMPOSITE_PIXELS // width, 1)
    for top in range(0, height, rows):  # in strips, for the sake of memory
        strip = image.crop((0, top, width, min(top + rows, height)))
        if mode in ("La", "RGBa"):  # premultiplied
            strip = strip.convert({"La": "LA", "RGBa": "RGBA"}[mode])
        strip = strip.convert("RGBA")
        white = pil.new("RGBA", strip.size, (255, 255, 255, 255))
        out.paste(pil.alpha_composite(white, strip).convert("RGB"), (0, top))
    return out


def _from_16_bit(image: "Image", what: str) -> "Image":
    """Grey of 0..65535, which Pillow's own conversion would cut off at 255."""
    import numpy as np
    from PIL import Image as pil

    samples = np.asarray(image)
    if samples.dtype.itemsize > 2 and (int(samples.min()) < 0 or int(samples.max()) > 0xFFFF):
        raise ImageError(
            f"{what} has samples in {samples.min()}..{samples.max()}; grey is read up to 16 bits, 0..65535"
        )
    eight_bits = ((np.arange(1 << 16, dtype=np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)
    grey = eight_bits[samples]
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return pil.fromarray(grey).convert("RGB")


def _orientation(image: "Image") -> Any:
    """As the EXIF data have it; None where they cannot be read."""
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and not directory_is_sane(exif):
        return None
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:
        return None


def _upright(rgb: "Image", orientation: Any) -> "Image":
    from PIL.Image import Transpose

    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return rgb.transpose(turn[orientation]) if orientation in turn else rgb


class _NoLock:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


_no_lock = _NoLock()


def _text(error: Exception) -> str:
    return f"{error}"[:300] or type(error).__name__
