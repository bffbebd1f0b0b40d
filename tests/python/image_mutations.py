"""Picture files and chat messages, damaged in every way that comes to mind. The same seed gives the same damage."""

from __future__ import annotations

import base64
import functools
import random
import struct
from io import BytesIO
from typing import Any

import hostile_pictures
import numpy as np
from PIL import Image, ImageCms


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """Good files of every format and of the parts of formats that readers treat apart."""
    values = np.random.default_rng(0)
    rgba = Image.fromarray(values.integers(0, 256, (23, 31, 4), dtype=np.uint8))
    smooth = Image.fromarray(np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)).convert("RGB")
    rgb, grey, palette = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("RGB").quantize(16)
    deep = Image.fromarray(values.integers(0, 1 << 16, (19, 17), dtype=np.uint16))
    exif = Image.Exif()
    exif[274], exif[305] = 6, "llama4rt"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    extra: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": profile}
    frames: dict[str, Any] = {
        "save_all": True,
        "append_images": [rgb.rotate(90), rgb.rotate(180)],
        "duration": 20,
    }
    tiff = [
        _saved(image, "TIFF", compression=compression)
        for image in (rgb, grey)
        for compression in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg")
    ]
    return (
        _saved(rgb, "PNG"), _saved(rgba, "PNG", **extra), _saved(palette, "PNG", transparency=3), _saved(deep, "PNG"),
        _saved(grey.convert("1"), "PNG"), _saved(rgb, "PNG", **frames),
        _saved(smooth, "JPEG"), _saved(rgb, "JPEG", progressive=True, **extra), _saved(grey, "JPEG"),
        _saved(rgb.convert("CMYK"), "JPEG"),
        _saved(palette, "GIF", transparency=3), _saved(rgb, "GIF", **frames), _saved(grey, "GIF", interlace=1),
        _saved(rgb, "WEBP", **extra), _saved(rgba, "WEBP", lossless=True), _saved(rgb, "WEBP", **frames),
        _saved(rgb, "BMP"), _saved(palette, "BMP"), _saved(rgba, "BMP"), _saved(grey.convert("1"), "BMP"),
        *tiff, _saved(deep, "TIFF"), _saved(rgba, "TIFF", **frames), _saved(rgb.convert("CMYK"), "TIFF"),
        _saved(grey.convert("1"), "TIFF", compression="group4"), _saved(rgb, "TIFF", exif=exif.tobytes()),
        _saved(rgb, "PPM"), _saved(grey, "PPM"), _saved(deep, "PPM"),
        b"P3 2 1 255 0 1 2 3 4 5\n", b"P1 3 2\n1 0 1 0 1 0\n", b"P5 3 2 200\nabcdef",
        hostile_pictures.jpeg_of_scans(40, 30), hostile_pictures.bmp_of_runs(12), hostile_pictures.tiff([]),
    )  # fmt: skip


_NUMBERS = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
]


def damaged_file(rng: random.Random) -> bytes:
    """One to four edits of a good file."""
    data = bytearray(rng.choice(seeds()))
    for _ in range(rng.choice([1, 1, 2, 4])):
        if not data:
            break
        # Headers decide most: half of the edits are among the first bytes.
        at = rng.randrange(min(len(data), 64) if rng.random() < 0.5 else len(data))
        kind = rng.randrange(9)
        if kind == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at] = rng.randrange(256)
        elif kind == 2:  # a number of 1, 2 or 4 bytes, either way round
            width = rng.choice([1, 2, 4])
            number = rng.choice(_NUMBERS) % (1 << 8 * width)
            data[at : at + width] = number.to_bytes(width, rng.choice(["little", "big"]))
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + rng.randrange(1, 40)]
        elif kind == 5:
            data[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif kind == 6:
            start = rng.randrange(len(data))
            data[at:at] = data[start : start + rng.randrange(1, 200)]
        elif kind == 7:
            other = rng.choice(seeds())
            data[at:] = other[rng.randrange(len(other)) :]
        else:
            data += rng.randbytes(rng.randrange(1, 100))
    return bytes(data)


def header_of(rng: random.Random) -> bytes:
    """A header that promises much, and nothing behind it."""
    width, height = rng.choice(_NUMBERS), rng.choice(_NUMBERS)
    kind = rng.randrange(5)
    if kind == 0:
        return b"P6 %d %d 255\n" % (width, height)
    if kind == 1:
        return (
            b"GIF89a"
            + struct.pack("<HHBBB", width & 0xFFFF, height & 0xFFFF, 0xF7, 0, 0)
            + rng.randbytes(900)
        )
    if kind == 2:
        size = struct.pack(
            "<IiiHHIIiiII",
            40,
            width - (1 << 31),
            height - (1 << 31),
            1,
            rng.choice([1, 8, 24]),
            0,
            0,
            0,
            0,
            0,
            0,
        )
        return b"BM" + bytes(8) + struct.pack("<I", 54) + size
    if kind == 3:
        canvas = (width & 0xFFFFFF).to_bytes(3, "little") + (height & 0xFFFFFF).to_bytes(3, "little")
        return b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + canvas + b"VP8L" + rng.randbytes(40)
    entries = [(256, width), (257, height), (258, 8), (259, rng.choice([1, 5, 8, 32773])), (262, 1), (273, 8), (277, 1),
               (278, rng.choice(_NUMBERS)), (279, rng.choice(_NUMBERS)), (322, width), (323, height),
               (324, 8)]  # fmt: skip
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


_NO_PICTURES: list[Any] = [
    None, 5, 1.5, "", "\0", "no/such/file", "http://127.0.0.1/", "https://[::1]/", "file:///dev/zero", "javascript:0",
    "data:", "data:,", "data:;base64,", [], {}, object(), b"", bytearray(3), memoryview(b"GIF89a"), "x" * 70_000,
]  # fmt: skip


def damaged_picture(rng: random.Random) -> bytes | str:
    """A damaged file, or a header that promises much; sometimes in a data: URL."""
    data = header_of(rng) if rng.random() < 0.1 else damaged_file(rng)
    return "data:;base64," + base64.b64encode(data).decode() if rng.random() < 0.05 else data


def damaged_source(rng: random.Random) -> Any:
    """What stands for a picture in a request: mostly bytes, sometimes in another dress, sometimes nonsense."""
    data = header_of(rng) if rng.random() < 0.1 else damaged_file(rng)
    kind = rng.randrange(12)
    if kind == 0:
        return "data:image/png;base64," + base64.b64encode(data).decode()
    if kind == 1:
        text = "data:image/png;base64," + base64.b64encode(data).decode()
        at = rng.randrange(len(text))
        return (
            text[:at]
            + rng.choice(["", "=", "%", "%zz", "é", "\0", ",", " ", ";"])
            + text[at + rng.randrange(3) :]
        )
    if kind == 2:
        shape = rng.choice(
            [(), (0,), (5,), (4, 4), (4, 0, 3), (4, 4, 1), (3, 4, 4), (4, 4, 4), (1, 5000, 3), (2, 2, 2, 3)]
        )
        return np.zeros(shape, rng.choice(["uint8", "uint8", "float32", "int64", "bool", "object", "U3"]))
    if kind == 3:
        mode = rng.choice(["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB",
                           "HSV", "I", "F", "I;16", "I;16B"])  # fmt: skip
        return Image.new(mode, (rng.choice([0, 1, 7, 40]), rng.choice([0, 1, 7, 3000])))
    if kind == 4:
        return rng.choice(_NO_PICTURES)
    return data


def damaged_messages(rng: random.Random) -> Any:
    """A conversation with pictures, some of its values replaced."""
    picture = damaged_source(rng) if rng.random() < 0.4 else rng.choice(seeds())
    key = rng.choice(["url", "path", "base64", "image_url"]) if rng.random() < 0.15 else "image"
    good = base64.b64encode(rng.choice(seeds())).decode()
    conversation: Any = [
        {"role": "system", "content": "Look."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{good}"}},
                {"type": "text", "text": "What <|image|> is\nthis?"},
                {"type": "image", key: picture},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": [{"type": "image", "image": good[:20]}]},
        {
            "role": "user",
            "content": [{"type": "image", "base64": good}, {"type": "text", "text": "And this?"}],
        },
    ]
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        conversation = _replaced(rng, conversation)
    return conversation


_ODD: list[Any] = [
    None, True, 0, -1, 2.5, "", "image", "<|image|>", b"\xff", [], {}, [[]], {"type": "image"}, {"type": 5},
    {"type": "image_url", "image_url": {"url": 5}}, {"role": "user", "content": 7}, "\ud800", object(),
    float("nan"), {5: 6}, (1, 2),
]  # fmt: skip


def _replaced(rng: random.Random, value: Any) -> Any:
    """`value` with one value somewhere inside replaced, doubled or dropped."""
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        kind = rng.randrange(8)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return [*value[:at], value[at], *value[at:]]
        return [*value[:at], _replaced(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        kind = rng.randrange(8)
        if kind == 0:
            return {k: v for k, v in value.items() if k != key}
        if kind == 1:
            return value | {rng.choice(["type", "image", "url", "content", "role", "x"]): rng.choice(_ODD)}
        return value | {key: _replaced(rng, value[key])}
    return rng.choice(_ODD)
