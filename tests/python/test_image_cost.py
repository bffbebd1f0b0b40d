"""What a small file may cost: memory, passes over the pixels and reading are bounded before anything is decoded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import hostile_pictures as hostile
import numpy as np
import pytest
from llama4rt import ImageError, ImageLimits
from llama4rt.images import decode as decode_module
from llama4rt.images import decoded_bytes
from llama4rt.images.decode import decode
from llama4rt.images.decoder import PictureDecoder
from llama4rt.images.processing import ImageProcessor
from PIL import Image

MIB = 1 << 20


def cpu_seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: hostile.jpeg_of_scans(8000, 500), "JPEG of 500 scans; max_scans is 64"),
        (lambda: hostile.jpeg_of_scans(16, 65), "JPEG of 65 scans"),
        (lambda: hostile.jpeg_of_scans(8000, 20), "JPEG of 20 scans over 8000 x 8000 pixels; it can have 16"),
        (lambda: hostile.jpeg_of_segments(10_000), "JPEG of more than 4096 segments"),
        (lambda: hostile.webp(8000), r"WebP of 8000 x 8000 .* take \d+ bytes to decode; max_decoded_bytes"),
        (lambda: hostile.animated_webp(6000, 2), "WebP of 6000 x 6000 .* max_decoded_bytes"),
        (lambda: hostile.png_of_chunks(5000), "PNG of too many chunks"),
        (lambda: hostile.png_of_chunks(140_000, b"IDAT"), "PNG of too many chunks"),
        (lambda: hostile.overlapping_tags(60, 100_000), "they overlap"),
        (lambda: hostile.overlapping_tags(5000, 1), "directory of 5009 tags; it can have 4096"),
        (lambda: hostile.tiff([(40_000, 3, 1 << 20, 8)], bytes(3 * MIB)), "tag of 1048576 values"),
        (lambda: hostile.tiff([(40_000 + i, 3, 1 << 30, 8) for i in range(9)]), "they overlap"),
        (lambda: b"P6\n#" + bytes(MIB) + b"\n1 1 255\nabc", "PPM without a header in its first 65536 bytes"),
        (lambda: b"P6" + b"\n#" * MIB + b"\n1 1 255\nabc", "PPM without a header"),
    ],
)  # fmt: skip
def test_a_file_that_asks_for_too_much_is_refused_at_once(data: Callable[[], bytes], words: str) -> None:
    file = data()

    def read() -> None:
        with pytest.raises(ImageError, match=f"the third.*{words}"):
            decode(file, ImageLimits(), "the third")

    assert cpu_seconds(read) < 0.5


def test_what_an_honest_file_asks_for_is_given() -> None:
    picture = Image.effect_noise((300, 200), 90).convert("RGB")
    limits = ImageLimits()
    assert decode(hostile.jpeg_of_scans(64, 64), limits).size == (64, 64)
    assert decode(hostile.jpeg_of_scans(8000, 16), limits).size == (8000, 8000)
    assert decode(hostile.png_of_chunks(4000), limits).size == (8, 8)
    assert decode(hostile.png_of_chunks(100_000, b"IDAT"), limits).size == (8, 8)
    assert decode(hostile.tiff([(700, 7, 50_000, 8)], bytes(50_000)), limits).size == (4, 4)
    assert decode(b"P6 # words\n# and more\n 1 1\n255\nabc", limits).size == (1, 1)
    profile = bytes(4_000_000)  # in 62 segments
    assert decode(hostile.encoded(picture, "JPEG", icc_profile=profile), limits).size == (300, 200)


def test_what_follows_a_jpeg_is_not_counted_and_not_read() -> None:
    """A second picture, as in stereo files, or a film, in which any bytes may stand."""
    file = hostile.encoded(Image.effect_noise((300, 200), 90).convert("RGB"), "JPEG", progressive=True)
    expected = np.asarray(decode(file, ImageLimits()))
    for rest in (file * 40, b"\xff\xda" * 500, bytes(1000)):
        assert np.array_equal(np.asarray(decode(file + rest, ImageLimits())), expected)


@pytest.mark.parametrize(
    "trick",
    [
        b"\xff\xfe\0\x08\xff\xd9\xff\xd9\xff\xd9",  # the end marker inside a comment
        b"\xff\x05\xff\xff",  # a reserved marker with a long segment, which libjpeg does not skip after damage
        b"\xff" * 20,  # fill bytes
        b"\xff\xd3\xff\x01",  # markers without segments
        b"garbage",
    ],
)
def test_scans_cannot_be_hidden(trick: bytes) -> None:
    file = hostile.jpeg_of_scans(64, 100)
    at = file.index(b"\xff\xda") + 200
    middle = file.index(b"\xff\xda", at)
    for hidden in (file[:middle] + trick + file[middle:], file.replace(b"\xff\xda", trick + b"\xff\xda")):
        with pytest.raises(ImageError, match=r"scans|segments"):
            decode(hidden, ImageLimits())


def test_exif_data_that_overlap_are_not_read() -> None:
    exif = hostile.exif_of_overlapping_tags(3000, 20_000)  # 60 MB, were each read
    file = hostile.encoded(Image.new("RGB", (8, 6)), "JPEG", exif=exif)
    assert cpu_seconds(lambda: decode(file, ImageLimits())) < 0.5
    assert decode(file, ImageLimits()).size == (8, 6)  # not turned
    few = hostile.encoded(Image.new("RGB", (8, 6)), "JPEG", exif=hostile.exif_of_overlapping_tags(1, 100))
    assert decode(few, ImageLimits()).size == (6, 8)


# --- memory -----------------------------------------------------------------------------------------------------------

SIDE = 2048


def picture(mode: str) -> Image.Image:
    rgb = Image.effect_noise((64, 64), 90).resize((SIDE, SIDE)).convert("RGB")
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 200)
    return rgb.quantize(16) if mode == "P" else rgb.convert(mode)


def turned() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return exif.tobytes()


KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "png": ("RGB", "PNG", {"compress_level": 1}),
    "png turned": ("RGBA", "PNG", {"compress_level": 1, "exif": turned()}),
    "png of 16 bits": ("I;16", "PNG", {"compress_level": 1}),
    "png with a palette": ("P", "PNG", {"transparency": 3}),
    "jpeg": ("RGB", "JPEG", {"exif": turned()}),
    "progressive jpeg": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "progressive jpeg with fewer colours": ("RGB", "JPEG", {"progressive": True, "subsampling": 2}),
    "progressive jpeg of four inks": ("CMYK", "JPEG", {"progressive": True}),
    "webp": ("RGB", "WEBP", {"method": 0}),
    "lossless webp": ("RGBA", "WEBP", {"method": 0, "lossless": True, "quality": 0}),
    "gif": ("P", "GIF", {"transparency": 3}),
    "bmp": ("RGB", "BMP", {}),
    "ppm": ("I;16", "PPM", {}),
    "tiff": ("RGB", "TIFF", {"compression": "tiff_lzw"}),
    "tiff in one strip": ("RGBA", "TIFF", {"compression": "tiff_deflate", "tiffinfo": {278: SIDE}}),
    "tiff with jpeg inside": ("RGB", "TIFF", {"compression": "jpeg"}),
    "tiff of 16 bits": ("I;16", "TIFF", {"compression": "tiff_lzw"}),
}


def peak(pid: int) -> int:
    """Bytes of memory that a process has had at most."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


@pytest.mark.parametrize("kind", [*KINDS, "bmp of runs", "ppm of an odd maximum", "animated webp"])
def test_decoding_takes_no_more_memory_than_the_header_told(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "bmp of runs":
        data = hostile.bmp_of_runs(SIDE // 2)
    elif kind == "ppm of an odd maximum":
        data = hostile.ppm_of_odd_maximum(SIDE // 2)
    elif kind == "animated webp":
        data = hostile.animated_webp(SIDE)
    else:
        mode, form, options = KINDS[kind]
        data = hostile.encoded(picture(mode), form, **options)
    told: list[float] = []
    monkeypatch.setattr(decoded_bytes, "_check", lambda needed, *_: told.append(needed))
    decode_module.decode(data, ImageLimits())
    decoder = PictureDecoder(ImageLimits(), ImageProcessor())
    try:
        decoder(b"P6 1 1 255\nabc")
        (pid,) = decoder.pids()
        before = peak(pid)
        decoder(data)
        took = peak(pid) - before
    finally:
        decoder.close()
    # The file comes in a message and is cut from it; 16 MiB are Pillow's arena and the tiles.
    assert took <= max(told) + 2 * len(data) + 16 * MIB
    assert max(told) < 3 * took, "an honest picture would be refused for nothing"
