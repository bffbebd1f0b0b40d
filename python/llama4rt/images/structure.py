"""What a picture's file is made of, read before any library decodes it: how much work it asks for.

A few hundred kilobytes can ask for five hundred passes over every pixel, or for megabytes read thousands of times. What
no honest file holds is refused here. All of it is bounded by the length of the file, and nothing is decoded.
"""

import re
from dataclasses import dataclass

from llama4rt.errors import ImageError

_MAX_SEGMENTS = 4096  # of a JPEG; a large colour profile has 255
_MAX_CHUNKS = 1 << 17  # of a PNG: 32 MiB in pieces of 256 bytes
_MAX_OTHER_CHUNKS = 4096  # of a PNG, that hold no pixels: each may be inflated to a megabyte
_MAX_TAGS = 4096  # of a directory of TIFF or EXIF
_MAX_VALUES = 1 << 19  # of a tag: as many tiles as the largest picture has
_MAX_HEADER_BYTES = 1 << 16  # of a PPM, comments included; they are read byte by byte

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_MARKER_AFTER_PIXELS = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_PPM_WORD = re.compile(rb"(?:[ \t\r\n\v\f]|#[^\r\n]*)*[^ \t\r\n\v\f#]+")
_TIFF_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_BYTES, _TEXT, _UNDEFINED = 1, 2, 7  # types of TIFF


@dataclass(frozen=True)
class Structure:
    """data: the file, up to where its picture ends. scans: passes over the pixels."""

    data: bytes
    scans: int = 1


def read_structure(data: bytes, name: str, max_scans: int, what: str) -> Structure:
    """Of a file whose format is `name`. ImageError when it asks for more work than an honest picture."""
    if name == "JPEG":
        return _jpeg(data, max_scans, what)
    if name == "PNG":
        _check_png(data, what)
    elif name == "TIFF":
        _check_directory(data, what)
    elif name == "PPM":
        _check_ppm(data, what)
    return Structure(data)


def directory_is_sane(exif: bytes) -> bool:
    """Whether the first directory of EXIF data can be read at a cost that its length bounds."""
    try:
        _check_directory(exif.removeprefix(b"Exif\0\0"), "it")
    except ImageError:
        return False
    return True


def _jpeg(data: bytes, max_scans: int, what: str) -> Structure:
    """Segments are stepped over by their lengths. From the first scan on every start-of-scan marker counts, wherever it
    stands: after damage libjpeg may look for markers where this reader sees the inside of a segment. It never sees what
    follows the end marker found here (a second picture, a film).
    """
    at, first_scan, pattern = 2, 0, _MARKER
    for _ in range(_MAX_SEGMENTS):
        marker = pattern.search(data, at)
        if marker is None:
            end = len(data)
            break
        at = end = marker.end()
        code = data[at - 1]
        if code == _END_OF_IMAGE:
            break
        if code in _STANDALONE:
            continue
        if code == _START_OF_SCAN:
            first_scan = first_scan or marker.start()
            pattern = _MARKER_AFTER_PIXELS
        at += max(int.from_bytes(data[at : at + 2], "big"), 2)
    else:
        raise ImageError(f"{what} is a JPEG of more than {_MAX_SEGMENTS} segments")
    scans = data.count(b"\xff\xda", first_scan, end)
    if scans > max_scans:
        raise ImageError(f"{what} is a JPEG of {scans} scans; max_scans is {max_scans}")
    return Structure(data if end == len(data) else data[:end], scans)


def _check_png(data: bytes, what: str) -> None:
    at, chunks, others = 8, 0, 0
    while at + 8 <= len(data):
        chunks += 1
        others += data[at + 4 : at + 8] not in (b"IDAT", b"fdAT")
        if chunks > _MAX_CHUNKS or others > _MAX_OTHER_CHUNKS:
            raise ImageError(
                f"{what} is a PNG of too many chunks; it can have {_MAX_CHUNKS}, and {_MAX_OTHER_CHUNKS} without pixels"
            )
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _check_directory(data: bytes, what: str) -> None:
    """The first directory of a TIFF: every tag is copied when it is read, and many may point at the same bytes."""
    order = "little" if data[:1] == b"I" else "big"
    big = data[2:4] in (b"+\0", b"\0+")
    width, count_width, entry = (
        (8, 8, 20) if big else (4, 2, 12)
    )  # of an offset, of the number of tags, of a tag

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    at = number(8 if big else 4, width)
    tags = number(at, count_width)
    if tags > _MAX_TAGS:
        raise ImageError(f"{what} has a directory of {tags} tags; it can have {_MAX_TAGS}")
    at += count_width
    total = 0
    for start in range(at, min(at + tags * entry, len(data)), entry):
        kind, values = number(start + 2, 2), number(start + 4, width)
        size = values * _TIFF_BYTES.get(kind, 0)  # tags of unknown types are left out
        if size > len(data):  # read to the end, and then dropped
            total += len(data)
            continue
        if size and values > _MAX_VALUES and kind not in (_BYTES, _TEXT, _UNDEFINED):
            raise ImageError(f"{what} has a tag of {values} values; it can have {_MAX_VALUES}")
        if size > width:
            total += size
    if total > 2 * len(data):
        raise ImageError(f"{what} has tags of {total} bytes in {len(data)}: they overlap")


def _check_ppm(data: bytes, what: str) -> None:
    header = data[:_MAX_HEADER_BYTES]
    at = 2
    for _ in range(
        2 if data[1:2] in b"14" else 3
    ):  # width, height, and the largest value of what is no bitmap
        word = _PPM_WORD.match(header, at)
        if word is None or word.end() == _MAX_HEADER_BYTES:
            raise ImageError(f"{what} is a PPM without a header in its first {_MAX_HEADER_BYTES} bytes")
        at = word.end()
