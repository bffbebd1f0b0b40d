"""Picture files that ask for far more work or memory than their size lets one expect."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG of one colour whose last scan comes again and again."""
    data = encoded(Image.new("RGB", (side, side), (90, 120, 30)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    body = data[last:-2]
    have = data.count(b"\xff\xda")
    return data[:last] + body * (scans - have + 1) + data[-2:]


def jpeg_of_segments(count: int) -> bytes:
    data = encoded(Image.new("RGB", (8, 8)), "JPEG")
    return data[:2] + b"\xff\xfe\0\2" * count + data[2:]


def webp(side: int, **options: Any) -> bytes:
    return encoded(Image.new("RGBA", (side, side)), "WEBP", lossless=True, method=0, quality=0, **options)


def animated_webp(side: int, frames: int = 3) -> bytes:
    pictures = [Image.new("RGBA", (side, side), (i, 0, 0, 9)) for i in range(frames)]
    return encoded(pictures[0], "WEBP", save_all=True, append_images=pictures[1:], lossless=True, method=0)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of_chunks(count: int, name: bytes = b"abCd", body: bytes = b"") -> bytes:
    data = encoded(Image.new("RGB", (8, 8)), "PNG")
    return data[:33] + png_chunk(name, body) * count + data[33:]


def tiff(tags: list[tuple[int, int, int, int]], body: bytes = b"") -> bytes:
    """tags: (tag, type, count, value or offset), beside those of a grey picture of 4 x 4 pixels at the end."""
    all_tags = [
        (256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1),
        (278, 3, 1, 4), (279, 4, 1, 16), *tags,
    ]  # fmt: skip
    at = 8 + 2 + 12 * (len(all_tags) + 1) + 4
    all_tags.append((273, 4, 1, at))
    directory = b"".join(struct.pack("<HHII", *tag) for tag in sorted(all_tags))
    return b"II*\0" + struct.pack("<IH", 8, len(all_tags)) + directory + bytes(4) + bytes(range(16)) + body


def overlapping_tags(count: int, size: int, *others: tuple[int, int, int, int]) -> bytes:
    """Every tag holds all of the file."""
    return tiff([*others, *((40_000 + i, 7, size, 8) for i in range(count))], bytes(size))


def exif_of_overlapping_tags(count: int, size: int) -> bytes:
    """And the picture is to be turned by a quarter."""
    return b"Exif\0\0" + overlapping_tags(count, size, (274, 3, 1, 6))


def bmp_of_runs(side: int) -> bytes:
    """RLE of one pixel a run, which Pillow decodes in Python."""
    body = (b"\1\5" * side + b"\0\0") * side + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 256)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(range(256)) * 4 + body


def ppm_of_odd_maximum(side: int) -> bytes:
    return b"P5 %d %d 254\n" % (side, side) + bytes(side * side)
