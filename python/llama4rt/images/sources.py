"""Whatever holds a picture, to RGB: PIL image, numpy array, bytes, path, `data:` URL, and http(s) URL where allowed.

What comes as a file or as text goes in two steps, so that the second can run in another process (decoder.py):
encoded_picture() gets hold of it, file_bytes() and decode() read it.
"""

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
    from typing import TypeAlias

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    # What load_image takes.
    ImageSource: TypeAlias = (
        str | os.PathLike[str] | bytes | bytearray | memoryview | Image | NDArray[np.uint8]
    )

_SCHEME = re.compile(r"(data|https?|ftp|file|s3|gs|blob):", re.IGNORECASE)  # what is no path
_KINDS = "a PIL image, a uint8 array, bytes, a path, a data: URL or an http(s) URL"
_BLANKS = b" \t\n\r\v\f"


@dataclass(frozen=True)
class Base64:
    """Base64 text of an encoded picture, without the head of a data: URL."""

    text: str


@dataclass(frozen=True)
class EncodedPicture:
    """kind: what `data` is: "file", the bytes of one; "data", a data: URL; "base64". what: its name in errors."""

    kind: str
    data: bytes
    what: str


def load_image(
    source: Any, limits: ImageLimits | None = None, *, allow_urls: bool = False, what: str = "the image"
) -> "Image":
    """The picture as a PIL image of mode RGB: upright, first frame, on white where it is transparent.

    what: its name in errors, which are all ImageError. Reads the network only with allow_urls.
    """
    limits = limits or ImageLimits()
    encoded = encoded_picture(source, limits, allow_urls=allow_urls, what=what)
    if encoded is not None:
        return decode(file_bytes(encoded, limits), limits, encoded.what)
    return decoded_picture(source, limits, what)


def decoded_picture(source: Any, limits: ImageLimits, what: str) -> "Image":
    """load_image for what is no file: a PIL image or an array."""
    import numpy as np
    from PIL.Image import Image

    if isinstance(source, Image):
        return to_rgb(source, limits, what)
    if isinstance(source, np.ndarray):
        return _from_array(source, limits, what)
    raise ImageError(f"{what} is a {type(source).__name__}; it must be {_KINDS}")


def encoded_picture(
    source: Any, limits: ImageLimits, *, allow_urls: bool, what: str
) -> EncodedPicture | None:
    """What `source` holds, read or fetched but not looked into; None for what is no file (decoded_picture)."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        limits.check_bytes(memoryview(source).nbytes, what)
        return EncodedPicture("file", bytes(source), what)
    if isinstance(source, Base64):
        return EncodedPicture("base64", _text_bytes(source.text, limits, what), what)
    if isinstance(source, str) and _SCHEME.match(source):
        if source[:5].lower() == "data:":
            return EncodedPicture("data", _text_bytes(source, limits, what), what)
        return EncodedPicture("file", _fetched(source, limits, allow_urls=allow_urls, what=what), what)
    if isinstance(source, (str, os.PathLike)):
        return _read_file(source, limits, what)
    return None


def file_bytes(encoded: EncodedPicture, limits: ImageLimits) -> bytes:
    """The bytes of the picture's file."""
    if encoded.kind == "data":
        return _data_url_bytes(encoded.data, limits, encoded.what)
    if encoded.kind == "base64":
        return _base64_bytes(encoded.data, limits, encoded.what)
    return encoded.data


def is_url(text: str) -> bool:
    """Whether a string is read as a URL, not as a path."""
    return _SCHEME.match(text) is not None


def _fetched(url: str, limits: ImageLimits, *, allow_urls: bool, what: str) -> bytes:
    scheme = url.split(":", 1)[0].lower()
    if scheme not in ("http", "https"):
        raise ImageError(f"{what} is a URL of scheme {scheme:.20}; known are data, http and https")
    if not allow_urls:
        raise ImageError(
            f"{what} is an {scheme} URL, and this engine does not fetch: open it with allow_image_urls=True, "
            "or pass the picture itself"
        )
    from llama4rt.images.fetch import fetch

    return fetch(url, limits, what)


def _text_bytes(text: str, limits: ImageLimits, what: str) -> bytes:
    # Twelve characters can be three bytes: base64, each character percent-encoded. The true count is checked later.
    limits.check_bytes((len(text) - 1000) // 4, what)
    return text.encode("utf-8", "surrogatepass")


def _base64_bytes(text: bytes, limits: ImageLimits, what: str) -> bytes:
    """Decoded base64; line breaks are ignored."""
    limits.check_bytes(len(text) // 4 * 3 - 2, what)  # a close lower bound, before any copy
    try:
        return base64.b64decode(text.translate(None, _BLANKS), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"{what}: not base64: {error}") from None


def _data_url_bytes(url: bytes, limits: ImageLimits, what: str) -> bytes:
    head, comma, body = url.partition(b",")
    if not comma:
        raise ImageError(f"{what} is a data: URL without a comma before its data")
    words = [word.strip().lower() for word in head[len("data:") :].split(b";")]
    if words[0] and not words[0].startswith(b"image/") and words[0] != b"application/octet-stream":
        kind = words[0][:80].decode("utf-8", "replace")
        raise ImageError(f"{what} is a data: URL of type {kind}; it must be an image")
    limits.check_bytes(len(body) // 4 if words[-1] == b"base64" else len(body) // 3, what)
    if words[-1] != b"base64":
        return unquote_to_bytes(body)
    return _base64_bytes(unquote_to_bytes(body) if b"%" in body else body, limits, what)


def _read_file(path: "str | os.PathLike[Any]", limits: ImageLimits, what: str) -> EncodedPicture:
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
    limits.check_bytes(len(data), what)
    return EncodedPicture("file", data, what)


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
