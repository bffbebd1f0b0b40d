"""A picture as lines of text: each character is two pixels, one above the other, in 24-bit colours."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def half_blocks(image: "Image", columns: int, rows: int) -> list[str]:
    """Lines of `columns` characters, at most `rows` of them, with the RGB picture as large as fits, on the left."""
    import numpy as np
    from PIL import Image as Pillow

    scale = min(columns / image.width, 2 * rows / image.height)
    width = max(1, round(image.width * scale))
    height = max(2, 2 * round(image.height * scale / 2))
    pixels = np.asarray(image.resize((width, height), Pillow.Resampling.LANCZOS))
    lines = []
    for upper, lower in zip(pixels[0::2], pixels[1::2], strict=True):
        cells = [
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m▀"
            for a, b in zip(upper, lower, strict=True)
        ]
        lines.append("".join(cells) + "\x1b[0m" + " " * (columns - width))
    return lines
