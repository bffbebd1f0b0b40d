"""ImageLimits: how large a picture may be. Checked before anything large is allocated."""

from dataclasses import dataclass, fields

from llama4rt.errors import ConfigError, ImageError

_MAX_SIDE = 1 << 20  # what images/tiling.py can tile


@dataclass(frozen=True)
class ImageLimits:
    """Limits on one picture. The defaults take any photograph, and bound what a hostile file can cost to a few seconds
    of one processor and half a gigabyte.
    """

    max_encoded_bytes: int = 32 << 20  # of a file, of bytes, of a download
    max_pixels: int = 64 << 20  # height times width, once decoded
    max_side: int = 32_768  # pixels
    max_aspect_ratio: int = 2_048  # of the longer side to the shorter one
    max_decoded_bytes: int = (
        512 << 20
    )  # that decoding takes, the picture and what its decoder needs beside it
    max_scans: int = (
        64  # of a JPEG, each a pass over its pixels; of the largest pictures a quarter; usual are 1 to 15
    )
    max_cpu_seconds: int = 5  # of processor time, from the file to its tiles, in a process of its own
    max_url_seconds: int = 20  # from looking up the host to the last byte, redirects included

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"ImageLimits: {field.name} is {value!r:.80}; it must be an integer of at least 1"
                )
        if self.max_side > _MAX_SIDE:
            raise ConfigError(f"ImageLimits: max_side is {self.max_side}; it can be at most {_MAX_SIDE}")

    def check_bytes(self, count: int, what: str) -> None:
        if count > self.max_encoded_bytes:
            raise ImageError(f"{what} has {count} bytes; max_encoded_bytes is {self.max_encoded_bytes}")

    def check_size(self, height: int, width: int, what: str) -> None:
        """Raises ImageError for a picture without pixels or beyond a limit."""
        size = f"{what} is {width} x {height} pixels"
        if height < 1 or width < 1:
            raise ImageError(f"{size}; it needs at least one")
        if max(height, width) > self.max_side:
            raise ImageError(f"{size}; max_side is {self.max_side}")
        if height * width > self.max_pixels:
            raise ImageError(f"{size}, together {height * width}; max_pixels is {self.max_pixels}")
        if max(height, width) > self.max_aspect_ratio * min(height, width):
            raise ImageError(
                f"{size}, a ratio of {max(height, width) / min(height, width):.0f}; "
                f"max_aspect_ratio is {self.max_aspect_ratio}"
            )
