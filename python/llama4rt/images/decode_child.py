"""Pictures to tiles in a child process: the child's side of decoder.py."""

import json
import struct
from typing import Any

from llama4rt.errors import ImageError, RequestError
from llama4rt.images.decode import decode, import_readers
from llama4rt.images.limits import ImageLimits
from llama4rt.images.processing import ImageProcessor
from llama4rt.images.sources import EncodedPicture, file_bytes
from llama4rt.workers.child_main import Refused

SIZE = struct.Struct("<II")  # height and width of the picture, before its tiles
HEAD = struct.Struct("<I")  # bytes of JSON, before the picture's file

_limits: ImageLimits
_processor: ImageProcessor


def begin(setup: bytes) -> None:
    """setup: JSON with the fields of ImageLimits and of ImageProcessor."""
    global _limits, _processor
    import numpy  # noqa: F401

    import_readers()
    settings: dict[str, Any] = json.loads(setup)
    _limits, _processor = ImageLimits(**settings["limits"]), ImageProcessor(**settings["processor"])


def answer(message: bytes) -> bytes:
    """message: HEAD, JSON with the other fields of EncodedPicture, and its data."""
    (length,) = HEAD.unpack_from(message)
    start = HEAD.size + length
    encoded = EncodedPicture(**json.loads(message[HEAD.size : start]), data=message[start:])
    del message
    try:
        picture = decode(file_bytes(encoded, _limits), _limits, encoded.what)
        return SIZE.pack(picture.height, picture.width) + _processor.tiles(picture).tobytes()
    except ImageError as error:
        if isinstance(error.__cause__, MemoryError):
            raise error.__cause__ from None  # this process is of no more use
        raise Refused(str(error)) from None
    except RequestError as error:
        raise Refused(f"{encoded.what}: {error}") from None
