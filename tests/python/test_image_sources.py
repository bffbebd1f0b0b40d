"""What counts as a picture, what it becomes as RGB, and what is refused with which words."""

from __future__ import annotations

import base64
import contextlib
import os
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import ConfigError, ImageError, ImageLimits, RequestError
from llama4rt.images.decode import FORMATS
from llama4rt.images.message_images import take_pictures
from llama4rt.images.sources import Base64, load_image
from numpy.typing import NDArray
from PIL import Image


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rgb(source: Any, **options: Any) -> NDArray[np.uint8]:
    image = load_image(source, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


PICTURE = noise(13, 17, 3)
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {"compression": "tiff_lzw"}, "PPM": {}}


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSLESS)
def test_every_form_of_a_picture_is_the_same_picture(kind: str, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(PICTURE), kind, **LOSSLESS[kind])
    path = tmp_path / "picture with spaces"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    sources = [
        data, bytearray(data), memoryview(data), path, str(path), Base64(text), Base64(lines),
        f"data:image/{kind.lower()};base64,{text}", f"DATA:;base64,{text.replace('+', '%2B')}",
        f"data:application/octet-stream;base64,{lines}",
        Image.open(BytesIO(data)), Image.fromarray(PICTURE),
        PICTURE, PICTURE[:, ::-1][:, ::-1], np.asfortranarray(PICTURE),
    ]  # fmt: skip
    for source in sources:
        assert np.array_equal(rgb(source), PICTURE), type(source)


def test_every_format_that_is_promised_is_read() -> None:
    image = Image.fromarray(np.kron(noise(4, 4, 3), np.ones((8, 8, 1), dtype=np.uint8)))
    for kind in FORMATS:
        back = rgb(encoded(image, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {})))
        assert np.abs(back.astype(int) - np.asarray(image)).mean() < 12, kind


def test_arrays_of_other_shapes() -> None:
    grey = noise(9, 5)
    assert np.array_equal(rgb(grey), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(rgb(grey[..., None]), rgb(grey))
    alpha = noise(9, 5, 4)
    expected = alpha[..., :3] * (alpha[..., 3:] / 255) + 255 * (1 - alpha[..., 3:] / 255)
    assert np.abs(rgb(alpha) - expected).max() <= 1
    assert np.array_equal(
        rgb(np.dstack([noise(9, 5, 3), np.zeros((9, 5), np.uint8)])), np.full((9, 5, 3), 255)
    )


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32.*0..1 by 255"),
        (np.zeros((4, 4, 3), np.int64), "int64.*uint8"),
        (np.zeros((3, 4, 5), np.uint8), "3x4x5.*channels last"),
        (np.zeros((4, 4, 2), np.uint8), "4x4x2"),
        (np.zeros((4,), np.uint8), "array of 4;"),
        (np.zeros((), np.uint8), "no dimensions"),
        (np.zeros((2, 4, 4, 3), np.uint8), "2x4x4x3"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels; it needs at least one"),
        (5, "is a int; it must be a PIL image"),
        (None, "NoneType"),
        ([PICTURE], "list"),
        (b"", "0 bytes"),
        (b"hello", "none of PNG, JPEG.*b'hello'"),
        (b"\x00" * 100, "none of"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\xef\xbb\xbf \n<?xml version='1.0'?><!DOCTYPE svg><SVG/>", "SVG"),
        (b"\0\0\0\x20ftypavif", "AVIF"),
        (b"%PDF-1.7", "PDF"),
        ("data:image/png;base64", "comma"),
        ("data:image/png;base64,@@@@", "base64"),
        ("data:image/png;base64,abc", "base64"),
        ("data:image/png;base64,é", "base64"),
        ("data:image/png,hello", "none of"),
        ("data:text/html;base64,aGVsbG8=", "text/html"),
        ("data:image/svg+xml;utf8,<svg/>", "SVG"),
        ("ftp://example.com/a.png", "scheme ftp"),
        ("file:///etc/hostname", "scheme file"),
        ("https://example.com/a.png", "allow_image_urls"),
        ("/nowhere/at/all.png", "all.png.*No such file"),
        ("", "No such file"),
        ("a\0b", "null"),
        ("x" * 5000, "too long"),
        (Path("/"), "'/'.*(?:Is a directory|not a regular)"),
        (Path("/dev/zero"), "not a regular file"),
        (Image.new("F", (4, 4)), "floating-point"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "70000..70000.*16 bits"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused_by_name(source: Any, words: str) -> None:
    with pytest.raises(ImageError, match=f"(?s)the third.*{words}"):
        load_image(source, what="the third")


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="not a regular file"):
        load_image(tmp_path / "pipe")


# --- colours ----------------------------------------------------------------------------------------------------------


def over_white(image: Image.Image) -> NDArray[np.uint8]:
    rgba = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB"))


def palette_with_transparency(entries: bool) -> Image.Image:
    image = Image.fromarray(noise(12, 10, 3)).quantize(16)
    image.info["transparency"] = bytes(range(0, 256, 16)) if entries else 3
    return image


TRANSPARENT: dict[str, Callable[[], tuple[Image.Image, str, dict[str, Any]]]] = {
    "rgba": lambda: (Image.fromarray(noise(11, 7, 4)), "PNG", {}),
    "rgba webp": lambda: (Image.fromarray(noise(11, 7, 4)), "WEBP", {"lossless": True, "exact": True}),
    "rgba tiff": lambda: (Image.fromarray(noise(11, 7, 4)), "TIFF", {}),
    "la": lambda: (Image.merge("LA", [Image.fromarray(noise(11, 7, seed=s)) for s in (1, 2)]), "PNG", {}),
    "palette bytes": lambda: (palette_with_transparency(True), "PNG", {}),
    "palette index": lambda: (palette_with_transparency(False), "PNG", {"transparency": 3}),
    "palette gif": lambda: (palette_with_transparency(False), "GIF", {"transparency": 3}),
    "grey key": lambda: (Image.fromarray(noise(11, 7) // 64), "PNG", {"transparency": 2}),
    "rgb key": lambda: (Image.fromarray(noise(11, 7, 3) // 128), "PNG", {"transparency": (1, 0, 1)}),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_is_composited_on_white(name: str) -> None:
    image, kind, options = TRANSPARENT[name]()
    data = encoded(image, kind, **options)
    with (
        warnings.catch_warnings(action="ignore") if sys.version_info >= (3, 11) else contextlib.nullcontext()
    ):
        opaque = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    expected = over_white(Image.open(BytesIO(data)))
    assert (expected != opaque).any(), "nothing is transparent"
    assert np.array_equal(rgb(data), expected)
    assert np.array_equal(rgb(Image.open(BytesIO(data))), expected)


def test_a_large_transparent_picture_has_no_seams() -> None:
    image = Image.fromarray(np.kron(noise(50, 75, 4), np.ones((30, 20, 1), dtype=np.uint8)))
    assert image.width * image.height > 2 << 20  # composited in more than two strips
    assert np.array_equal(rgb(image), over_white(image))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_keeps_its_range(kind: str) -> None:
    samples = np.random.default_rng(3).integers(0, 1 << 16, (40, 30), dtype=np.uint16)
    samples[0, :2] = 0, 0xFFFF
    data = encoded(Image.fromarray(samples), kind)
    expected = np.rint(samples / 257).astype(int)
    for back in (rgb(data), rgb(Image.open(BytesIO(data))), rgb(Image.fromarray(samples.astype(np.int32)))):
        assert np.abs(back - expected[..., None]).max() <= (1 if kind == "PPM" else 0)
    assert back[0, 0, 0] == 0 and back[0, 1, 0] == 255


def test_grey_of_16_bits_with_a_transparent_value() -> None:
    samples = np.array([[7, 1000, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(samples), "PNG", transparency=1000)
    assert rgb(data)[0, :, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX", "RGBa", "La", "PA", "I;16", "I;16B"]
)
def test_every_mode_of_pillow_is_rgb_in_the_end(mode: str) -> None:
    image = Image.fromarray(noise(8, 9, 4))
    if mode in ("RGBa", "La", "PA"):
        image = image.convert({"La": "LA", "PA": "PA"}.get(mode, "RGBA")).convert(mode)
    elif mode.startswith("I;16"):
        image = Image.new(mode, (9, 8), 0x8000)
    else:
        image = image.convert("RGB").convert(mode)
    back = rgb(image)
    assert back.shape == (8, 9, 3)
    if mode.startswith("I;16"):
        assert (back == 128).all()
    elif mode == "CMYK":
        for kind in ("JPEG", "TIFF"):
            file = encoded(image, kind)
            assert np.array_equal(rgb(file), np.asarray(Image.open(BytesIO(file)).convert("RGB")))


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(noise(20, 24, 3, seed=s)) for s in range(3)]
    for kind, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
        assert Image.open(BytesIO(data)).n_frames == 3  # type: ignore[attr-defined]
        first = rgb(data)
        if kind != "GIF":
            assert np.array_equal(first, np.asarray(frames[0])), kind
        distances = [np.abs(first.astype(int) - np.asarray(frame)).mean() for frame in frames]
        assert distances[0] < 0.5 * min(distances[1:]), kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_stand_as_their_exif_data_says(kind: str) -> None:
    picture = np.kron(noise(3, 5, 3), np.ones((16, 16, 1), dtype=np.uint8))
    turned = {
        1: picture, 2: picture[:, ::-1], 3: picture[::-1, ::-1], 4: picture[::-1],
        5: picture.transpose(1, 0, 2), 6: picture[::-1].transpose(1, 0, 2),
        7: picture[::-1, ::-1].transpose(1, 0, 2), 8: picture[:, ::-1].transpose(1, 0, 2),
    }  # fmt: skip
    for orientation, expected in turned.items():
        exif = Image.Exif()
        exif[274] = orientation
        options = (
            {"quality": 95, "subsampling": 0}
            if kind == "JPEG"
            else {"lossless": True}
            if kind == "WEBP"
            else {}
        )
        data = encoded(Image.fromarray(picture), kind, exif=exif.tobytes(), **options)
        for source in (data, Image.open(BytesIO(data))):
            back = rgb(source)
            assert back.shape == expected.shape
            assert np.abs(back.astype(int) - expected).mean() < (4 if kind == "JPEG" else 0.01), orientation


def test_exif_data_that_make_no_sense_turn_nothing() -> None:
    for exif in (
        b"Exif\0\0II*\0",
        b"Exif\0\0" + bytes(range(200)),
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x12" * 40,
    ):
        assert rgb(encoded(Image.fromarray(PICTURE), "JPEG", exif=exif)).shape == PICTURE.shape


# --- limits -----------------------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large and holds nothing."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data)
    )


def bombs() -> dict[str, bytes]:
    def patched(kind: str, at: int, form: str, *values: int) -> bytes:
        data = bytearray(encoded(Image.new("RGB", (16, 16)), kind))
        struct.pack_into(form, data, at, *values)
        return bytes(data)

    jpeg = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 60_000, 60_000)
    tiff = encoded(Image.new("RGB", (16, 16)), "TIFF")
    for tag in (256, 257):
        entry = struct.pack("<HHIHH", tag, 3, 1, 16, 0)
        longer = struct.pack("<HHII", tag, 4, 1, 60_000)
        assert entry in tiff or struct.pack("<HHII", tag, 4, 1, 16) in tiff
        tiff = tiff.replace(entry, longer).replace(struct.pack("<HHII", tag, 4, 1, 16), longer)
    webp = (
        b"RIFF\x26\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (59_999).to_bytes(3, "little") * 2 + b"VP8 " + bytes(20)
    )
    return {
        "png": png_header(60_000, 60_000),
        "jpeg": bytes(jpeg),
        "gif": patched("GIF", 6, "<HH", 60_000, 60_000),
        "bmp": patched("BMP", 18, "<ii", 60_000, 60_000),
        "ppm": b"P6 60000 60000 255\n",
        "tiff": tiff,
        "webp": webp,
    }


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "ppm", "tiff", "webp"])
def test_bombs_are_refused_from_the_header(kind: str) -> None:
    data = bombs()[kind]
    limits = ImageLimits(max_side=100_000)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with pytest.raises(
            ImageError, match=r"60000 x 60000 pixels, together 3600000000; max_pixels is 67108864"
        ):
            load_image(data, limits)
        with pytest.raises(ImageError, match=r"60000 x 60000 pixels; max_side is 32768"):
            load_image(data)
    assert not heard


def test_sides_and_shapes_have_limits() -> None:
    for width, height, words in [
        (100_000, 1, "100000 x 1 pixels; max_side is 32768"),
        (1, 100_000, "1 x 100000 pixels; max_side is 32768"),
        (1, 4000, "a ratio of 4000; max_aspect_ratio is 2048"),
        (0, 7, "0 x 7"),
        (7, 0, "7 x 0"),
    ]:
        with pytest.raises(ImageError, match=words if width and height else "damaged PNG|0 x 7|7 x 0"):
            load_image(png_header(width, height))
    assert rgb(np.zeros((1, 2000, 3), np.uint8)).shape == (1, 2000, 3)
    with pytest.raises(ImageError, match="max_aspect_ratio is 3"):
        load_image(np.zeros((1, 4, 3), np.uint8), ImageLimits(max_aspect_ratio=3))
    with pytest.raises(ImageError, match="max_side"):
        load_image(Image.new("L", (1, 100_000)))


def test_encoded_bytes_have_a_limit(tmp_path: Path) -> None:
    data = encoded(Image.fromarray(PICTURE), "PNG")
    (tmp_path / "p.png").write_bytes(data)
    text = base64.b64encode(data).decode()
    sources = [data, tmp_path / "p.png", Base64(text), f"data:;base64,{text}", f"data:,{'%20' * len(data)}"]
    for source in sources:
        with pytest.raises(ImageError, match=f"bytes; max_encoded_bytes is {len(data) - 1}"):
            load_image(source, ImageLimits(max_encoded_bytes=len(data) - 1))
        if source is not sources[-1]:
            assert rgb(source, limits=ImageLimits(max_encoded_bytes=len(data))).shape == PICTURE.shape


def test_limits_are_checked_numbers() -> None:
    for field in ("max_encoded_bytes", "max_pixels", "max_side", "max_aspect_ratio", "max_url_seconds"):
        for value in (0, -1, 1.5, True, "4"):
            with pytest.raises(ConfigError, match=field):
                ImageLimits(**{field: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_side"):
        ImageLimits(max_side=1 << 21)


@pytest.mark.parametrize("kind", [*FORMATS])
def test_truncated_files_are_errors(kind: str) -> None:
    data = encoded(Image.fromarray(noise(64, 48, 3)), kind)
    for length in range(0, len(data) * 9 // 10, max(len(data) // 200, 1)):
        with pytest.raises(ImageError):
            load_image(data[:length])


def test_a_tile_may_not_hide_a_bomb() -> None:
    """A TIFF of 16 x 16 pixels whose one tile says it has 2**32."""
    entries = [
        (256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
        (322, 4, 1, 1 << 16), (323, 4, 1, 1 << 16), (324, 4, 1, 8), (325, 4, 1, 100),
    ]  # fmt: skip
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + body + bytes(104)
    with pytest.raises(ImageError, match=r"65536 x 65536 pixels; max_pixels"):
        load_image(data)


# --- manners ----------------------------------------------------------------------------------------------------------


def test_decoding_is_quiet_and_leaves_warnings_as_they_were() -> None:
    tiff = bytearray(encoded(Image.fromarray(PICTURE), "TIFF"))
    # A tag longer than the file.
    struct.pack_into("<I", tiff, tiff.index(struct.pack("<HH", 258, 3)) + 4, 1 << 20)
    noisy = bytes(tiff)
    with pytest.warns(UserWarning, match="larger than file|orrupt|Truncated"), contextlib.suppress(Exception):
        Image.open(BytesIO(noisy)).load()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with contextlib.suppress(ImageError):
            load_image(noisy)
        assert not heard
        warnings.warn("still heard", stacklevel=1)
        filters = len(warnings.filters)
        for _ in range(3):
            load_image(PICTURE)
        assert len(warnings.filters) == filters
        assert [str(item.message) for item in heard] == ["still heard"]


def test_many_threads_read_one_picture(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(encoded(Image.fromarray(noise(200, 300, 3)), "PNG"))
    lazy = Image.open(path)  # its pixels are read by whoever comes first
    seen: list[Any] = []

    def read() -> None:
        try:
            seen.append(rgb(lazy))
        except BaseException as error:
            seen.append(error)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8 and all(np.array_equal(picture, noise(200, 300, 3)) for picture in seen)


def test_the_callers_picture_is_not_changed() -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = Image.open(BytesIO(encoded(Image.fromarray(noise(5, 9, 4)), "PNG", exif=exif.tobytes())))
    assert rgb(image).shape == (9, 5, 3)
    assert image.size == (9, 5) and image.mode == "RGBA" and image.getexif()[274] == 6
    array = noise(5, 9, 4)
    load_image(array)
    assert np.array_equal(array, noise(5, 9, 4))


# --- messages ---------------------------------------------------------------------------------------------------------


def test_pictures_are_taken_out_of_messages(tmp_path: Path) -> None:
    url = "data:image/png;base64,AAAA"
    parts: list[Any] = [
        {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
        {"type": "text", "text": "and"},
        {"type": "image_url", "image_url": url},
        {"type": "image", "image": PICTURE},
        {"type": "image", "url": url},
        {"type": "image", "path": tmp_path},
        {"type": "image", "path": "p.png"},
        {"type": "image", "base64": "AAAA"},
        {"type": "image"},
    ]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": parts, "name": "n"}]
    plain, pictures = take_pictures(messages)
    assert plain == [
        messages[0],
        {
            "role": "user",
            "name": "n",
            "content": [p if p["type"] == "text" else {"type": "image"} for p in parts],
        },
    ]
    assert list(pictures) == [f"messages[1], part {j}" for j in (0, 2, 3, 4, 5, 6, 7, 8)]
    assert list(pictures.values()) == [url, url, PICTURE, url, tmp_path, "p.png", Base64("AAAA"), None]
    tool = [{"role": "tool", "content": [{"type": "image"}]}]
    assert take_pictures(tool) == (tool, {})
    for odd in (None, 5, "text", [5], [{"content": 5}], [{"content": [None, {"type": "audio"}]}]):
        assert take_pictures(odd) == (odd, {})


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image_url"}, "no 'image_url'"),
        ({"type": "image_url", "image_url": {}}, "NoneType"),
        ({"type": "image_url", "image_url": 5}, "int"),
        ({"type": "image_url", "image_url": "/etc/hostname"}, "no data:, http: or https: URL"),
        ({"type": "image", "url": "picture.png"}, "use 'path'"),
        ({"type": "image", "path": 5}, "int"),
        ({"type": "image", "base64": b"AAAA"}, "bytes"),
        ({"type": "image", "path": "a", "image": PICTURE}, "both 'image' and 'path'"),
    ],
)
def test_odd_image_parts_are_named(part: Any, words: str) -> None:
    with pytest.raises(RequestError, match=rf"messages\[0\], part 0.*{words}"):
        take_pictures([{"role": "user", "content": [part]}])
