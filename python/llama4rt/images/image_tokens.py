"""Pictures in token ids: each `<|image|>` becomes the tokens of its picture's tiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama4rt.errors import RequestError
from llama4rt.images.tiling import Tiling
from llama4rt.text.tokenizer import Tokenizer

PLACEHOLDER = "<|image|>"


@dataclass(frozen=True)
class ImageTokens:
    """The special tokens of pictures, and how many patches a tile has. Without a tokenizer only `patch` is known."""

    patch: int
    patches_per_tile: int
    image: int = -1  # the placeholder; in the layout it announces the global tile
    image_start: int = -1
    image_end: int = -1
    tile_x: int = -1
    tile_y: int = -1

    @staticmethod
    def of(config: Mapping[str, Any], tokenizer: Tokenizer | None) -> "ImageTokens | None":
        """Those of an engine with this config; None when it has no vision."""
        vision = config.get("vision")
        if vision is None:
            return None
        grid = int(vision["image_size"]) // int(vision["patch_size"])
        ids = tokenizer.special_tokens if tokenizer is not None else {}
        return ImageTokens(
            patch=int(vision["patch_token_id"]),
            patches_per_tile=(grid // 2) ** 2,
            image=ids.get(PLACEHOLDER, -1),
            image_start=ids.get("<|image_start|>", -1),
            image_end=ids.get("<|image_end|>", -1),
            tile_x=ids.get("<|tile_x_separator|>", -1),
            tile_y=ids.get("<|tile_y_separator|>", -1),
        )

    @property
    def complete(self) -> bool:
        return min(self.image, self.image_start, self.image_end, self.tile_x, self.tile_y) >= 0

    def layout(self, tiling: Tiling) -> list[int]:
        """The tokens of one picture: tiles row by row, each row closed by tile_y, then the global (or only) tile."""
        tile = [self.patch] * self.patches_per_tile
        ids = [self.image_start]
        if tiling.num_tiles > 1:
            row = [*tile, self.tile_x] * tiling.cols
            row[-1] = self.tile_y
            ids += row * tiling.rows
        return [*ids, self.image, *tile, self.image_end]

    def check(self, ids: Sequence[int], pictures: int) -> None:
        """Raises RequestError unless `ids` have a place for each picture. Ids that hold patch tokens were expanded by
        the caller: those are counted once the pictures' sizes are known.
        """
        if self.patch in ids:
            return
        if pictures and not self.complete:
            raise RequestError(
                "this engine file has no tokenizer with image tokens, so <|image|> cannot be placed: "
                f"pass token ids in which <|patch|> ({self.patch}) stands for each patch of the images"
            )
        placeholders = ids.count(self.image) if self.image >= 0 else 0
        if placeholders != pictures:
            raise RequestError(
                f"the prompt has {_count(placeholders, '<|image|> placeholder')} and came with "
                f"{_count(pictures, 'image')}; there must be one for each"
            )

    def expand(self, ids: Sequence[int], tilings: Sequence[Tiling]) -> list[int]:
        """`ids` with each placeholder replaced by the next picture's tokens."""
        self.check(ids, len(tilings))
        patches = ids.count(self.patch)
        if patches:
            expected = sum(tiling.num_tiles for tiling in tilings) * self.patches_per_tile
            if patches != expected:
                raise RequestError(
                    f"the prompt holds {_count(patches, '<|patch|> token')} and came with "
                    f"{_count(len(tilings), 'image')}, whose tiles have {expected} patches"
                )
            return list(ids)
        expanded: list[int] = []
        pictures = iter(tilings)
        for token in ids:
            if token == self.image:
                expanded += self.layout(next(pictures))
            else:
                expanded.append(token)
        return expanded


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
