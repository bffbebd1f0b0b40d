"""PictureDecoder: pictures to tiles, those that come as files in child processes that can be killed.

Libraries that read pictures have faults again and again, and small files can ask for minutes and gigabytes. A child
has limits of memory and processor time, and is killed when nobody waits for its picture any more. What comes back is
tiles, a few megabytes whatever the picture's size; everything else about them is worked out here.
"""

import json
import math
import os
from dataclasses import asdict
from typing import Any

from llama4rt.errors import ImageError, RequestError
from llama4rt.images.decode_child import HEAD, SIZE
from llama4rt.images.limits import ImageLimits
from llama4rt.images.processing import ImageProcessor, ProcessedImage
from llama4rt.images.sources import decoded_picture, encoded_picture
from llama4rt.workers.child_pool import ChildPool, ChildrenBusy
from llama4rt.workers.child_process import ChildAbandoned, ChildFailed, ChildLimit, ChildLimits

_SECONDS = 60.0  # until a picture's tiles; far beyond max_cpu_seconds, for machines that are busy
_SPARE_BYTES = 96 << 20  # what allocators and libraries keep for themselves


class PictureDecoder:
    """Safe to use from many threads: calls block theirs. Starts no process before the first picture that is a file."""

    def __init__(self, limits: ImageLimits, processor: ImageProcessor, allow_urls: bool = False) -> None:
        self._limits = limits
        self._processor = processor
        self._allow_urls = allow_urls
        settings = {
            "tile": processor.tile,
            "max_tiles": processor.max_tiles,
            "resize_to_max_canvas": processor.resize_to_max_canvas,
        }
        self._pool = ChildPool(
            "llama4rt.images.decode_child",
            max(2, min(os.cpu_count() or 1, 4)),
            ChildLimits(_SECONDS, limits.max_cpu_seconds, child_memory(limits, processor)),
            "the picture",
            setup=json.dumps({"limits": asdict(limits), "processor": settings}).encode(),
        )

    def __call__(self, source: Any, what: str = "the image") -> ProcessedImage:
        """The tiles of anything load_image takes. PIL images and arrays stay in this process: their owner is local."""
        encoded = encoded_picture(source, self._limits, allow_urls=self._allow_urls, what=what)
        if encoded is None:
            return self._processor(decoded_picture(source, self._limits, what))
        what = encoded.what
        head = json.dumps({"kind": encoded.kind, "what": what}).encode()
        message = b"".join((HEAD.pack(len(head)), head, encoded.data))
        del encoded  # many may wait for their turn, each with one copy of its picture
        return self._in_child(message, what)

    def close(self) -> None:
        self._pool.close()

    def pids(self) -> list[int]:
        """Of the children that run, for tests."""
        return self._pool.pids()

    def _in_child(self, message: bytes, what: str) -> ProcessedImage:
        import numpy as np

        try:
            answer = self._pool.call(message)
        except (ChildAbandoned, ChildrenBusy):
            raise
        except ChildLimit as error:
            raise ImageError(f"{what} cannot be decoded within the limits: {error}") from error
        except RequestError as error:
            raise ImageError(str(error)) from None
        height, width = SIZE.unpack_from(answer)
        side = self._processor.tile
        shape = (self._processor.tiling(height, width).num_tiles, side, side, 3)
        tiles = np.frombuffer(answer, np.uint8, offset=SIZE.size)
        if tiles.size != math.prod(shape):  # a child that a picture has taken over may answer anything
            raise ChildFailed(f"{what}: the process that decodes answered {tiles.size} bytes of tiles")
        return self._processor.processed(height, width, tiles.reshape(shape))


def child_memory(limits: ImageLimits, processor: ImageProcessor) -> int:
    """Bytes that one picture within the limits may take in a child."""
    canvas = processor.tile**2 * processor.max_tiles
    # Pillow resizes one side first: what it has then are as many pixels as the geometric mean of both pictures, and for
    # the global tile a strip of its width.
    between = math.isqrt(canvas * limits.max_pixels) + processor.tile * limits.max_side
    tiling = 4 * between + (4 + 3 + 3 + 3) * canvas  # resized, laid on the canvas, cut, answered
    file = 5 * limits.max_encoded_bytes  # the message, a data: URL's text and bytes, and Pillow's reader
    return limits.max_decoded_bytes + tiling + file + _SPARE_BYTES
