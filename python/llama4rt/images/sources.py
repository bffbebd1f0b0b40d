"""Whatever holds a picture, to RGB: PIL image, numpy array, bytes, path, `data:` URL, and http(s) URL where allowed."""

import base64
import binascii
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from llama4rt.errors import ImageError
from llama4rt.images.decode import decode, to_rgb
from llama4rt.images.limits import ImageLimits

if TYPE_CHECKING:
    from PIL.Image import Image

_SCHEME = re.compile(r"(data|https?|ftp|file|s3|gs|blob):", re.IGNORECASE)  # what is no path
_KINDS = "a PIL image, a uint8 array, bytes, a path, a data: URL or an http(s) URL"


@dataclass(frozen=True)
class Base64:
    """Base64 text of an encoded picture, without the head of a data: URL."""

    text: str


def load_image(
    source: Any, limits: ImageLimits | None = None, *, allow_urls: bool = False, what: str = "the image"
) -> "Image":
    """The picture as a PIL image of mode RGB: upright, first frame, on white where it is transparent.

    what: its name in errors, which are all ImageError. Reads the network only with allow_urls.
    """
    limits = limits or ImageLimits()
    if isinstance(source, (bytes, bytearray, memoryview)):
        limits.check_bytes(memoryview(source).nbytes, what)
        return decode(bytes(source), limits, what)
    if isinstance(source, str) and _SCHEME.match(source):
        return decode(url_bytes(source, limits, allow_urls=allow_urls, what=what), limits, what)
    if isinstance(source, Base64):
        return decode(base64_bytes(source.text, limits, what), limits, what)
    if isinstance(source, (str, os.PathLike)):
        return decode(*_file_bytes(source, limits, what))

    import numpy as np
    from PIL.Image import Image

    if isinstance(source, Image):
        return to_rgb(source, limits, what)
    if isinstance(source, np.ndarray):
        return _from_array(source, limits, what)
    raise ImageError(f"{what} is a {type(source).__name__}; it must be {_KINDS}")


def is_url(text: str) -> bool:
    """Whether a string is read as a URL, not as a path."""
    return _SCHEME.match(text) is not None


def url_bytes(url: str, limits: ImageLimits, *, allow_urls: bool, what: str) -> bytes:
    """What a data: URL holds, or what an http(s) URL answers."""
    scheme = url.split(":", 1)[0].lower()
    if scheme == "data":
        return _data_url_bytes(url, limits, what)
    if scheme not in ("http", "https"):
        raise ImageError(f"{what} is a URL of scheme {scheme:.20}; known are data, http and https")
    if not allow_urls:
        raise ImageError(
            f"{what} is an {scheme} URL, and this engine does not fetch: open it with allow_image_urls=True, "
            "or pass the picture itself"
        )
    from llama4rt.images.fetch import fetch

    return fetch(url, limits, what)


def base64_bytes(text: str, limits: ImageLimits, what: str) -> bytes:
    """Decoded base64; line breaks are ignored."""
    limits.check_bytes(len(text) // 4 * 3 - 2, what)  # a close lower bound, before any copy
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{what}: not base64: {error}") from None


def _data_url_bytes(url: str, limits: ImageLimits, what: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise ImageError(f"{what} is a data: URL without a comma before its data")
    words = [word.strip().lower() for word in head[len("data:") :].split(";")]
    if words[0] and not words[0].startswith("image/") and words[0] != "application/octet-stream":
        raise ImageError(f"{what} is a data: URL of type {words[0]:.80}; it must be an image")
    limits.check_bytes(len(body) // 4 if words[-1] == "base64" else len(body) // 3, what)
    if words[-1] != "base64":
        return unquote_to_bytes(body)
    return base64_bytes(unquote_to_bytes(body).decode("latin-1") if "%" in body else body, limits, what)


def _file_bytes(
    path: "str | os.PathLike[Any]", limits: ImageLimits, what: str
) -> tuple[bytes, ImageLimits, str]:
    what = f"{what} ({os.fspath(path)!r:.200})"
    try:
        # Not blocking: a pipe without a writer would wait here, before it can be told from a file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ImageError(f"{what} is not a regular file")
            limits.check_bytes(found.st_size, what)
            data = file.read(limits.max_encoded_bytes + 1)  # it may be growing
    except OSError as error:
        raise ImageError(f"{what}: {error.strerror or error}") from None
    except ValueError as error:  # a zero byte in the path
        raise ImageError(f"{what}: {error}") from None
    return data, limits, what


def _from_array(array: Any, limits: ImageLimits, what: str) -> "Image":
    from PIL import Image as pil

    shape = "x".join(map(str, array.shape)) or "no dimensions"
    expected = (
        "it must be uint8 [height, width], [height, width, 1], [height, width, 3] or [height, width, 4]"
    )
    if array.dtype.name != "uint8":
        hint = "; multiply values in 0..1 by 255 and round" if array.dtype.kind == "f" else ""
        raise ImageError(f"{what} is an array of {array.dtype.name}; {expected}{hint}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
        hint = "; move the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise ImageError(f"{what} is an array of {shape}; {expected}{hint}")
    limits.check_size(array.shape[0], array.shape[1], what)
    return to_rgb(pil.fromarray(array), limits, what)
