"""Pictures to tiles and tokens, against transformers' own Llama 4 processor.

Row numbers refer to the table in docs/testing.md: 21 pixels, 22 tokens. Row 20, tilings, is test_image_tiling.py.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import EngineFileError, RequestError
from llama4rt.images.image_tokens import ImageTokens
from llama4rt.images.processing import ImageProcessor, normalisation_table, normalise
from llama4rt.images.sources import load_image
from llama4rt.images.tiling import choose_tiling
from llama4rt.text.tokenizer import TiktokenTokenizer
from numpy.typing import NDArray
from PIL import Image

TABLE = np.array(normalisation_table(), dtype=np.float32)


@pytest.fixture(scope="module")
def theirs() -> Any:
    """transformers' image processor, as published for Llama 4."""
    pytest.importorskip("torchvision", reason="make test installs it beside the environment")
    from transformers.models.llama4.image_processing_llama4 import Llama4ImageProcessor

    return Llama4ImageProcessor()


@pytest.fixture(scope="module")
def tokenizer() -> TiktokenTokenizer:
    meta = pytest.importorskip("llama_models.llama4.tokenizer")
    return TiktokenTokenizer((Path(meta.__file__).parent / "tokenizer.model").read_bytes())


VISION = {"vision": {"image_size": 336, "patch_size": 14, "patch_token_id": 200092}}


def random_picture(rng: random.Random, height: int, width: int) -> NDArray[np.uint8]:
    """Noise, hard edges or a smooth picture: what resizing treats differently."""
    values = np.random.default_rng(rng.randrange(1 << 32))
    kind = rng.randrange(3)
    if kind == 0:
        return values.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if kind == 1:
        return (values.integers(0, 2, (height, width, 3)) * 255).astype(np.uint8)
    smooth = np.add.outer(np.linspace(0, 190, height), np.linspace(0, 60, width))[..., None]
    return (smooth + values.integers(0, 6, 3)).astype(np.uint8)


def codes(pixels: Any) -> NDArray[np.int64]:
    """Pixel values [n, 3, S, S] back to bytes [n, S, S, 3], asserting that each is of the table."""
    values = pixels.float().numpy()
    found = np.searchsorted(TABLE, values)
    assert np.array_equal(TABLE[found], values), "a value that the normalisation table does not have"
    return found.transpose(0, 2, 3, 1)


# --- pixels -----------------------------------------------------------------------------------------------------------


def test_the_normalisation_table_is_bf16_arithmetic() -> None:
    torch = pytest.importorskip("torch")
    byte = torch.arange(256, dtype=torch.uint8)
    steps = (byte.to(torch.bfloat16) * (1 / 255) - 0.5) / torch.tensor(0.5, dtype=torch.bfloat16)
    assert np.array_equal(steps.float().numpy(), TABLE)
    assert (TABLE[0], TABLE[127], TABLE[128], TABLE[255]) == (-1, -0.00390625, 0.0078125, 1)
    assert (np.diff(TABLE) > 0).all()


def sizes(count: int) -> Iterator[tuple[int, int]]:
    rng = random.Random(5)
    for i in range(count):
        if i % 3 == 0:
            yield rng.randint(1, 700), rng.randint(1, 700)
        elif i % 3 == 1:
            yield rng.randint(1, 2500), rng.randint(1, 1500)
        else:
            yield (rng.randint(1, 20), rng.randint(300, 4000))[:: rng.choice((1, -1))]


def test_tiles_are_theirs_to_the_last_bit_but_one(theirs: Any, soak: bool) -> None:
    """Row 21: at most one step of 255 where a picture is resized, in both directions."""
    rng = random.Random(6)
    ours = ImageProcessor()
    worst = {"enlarged": 0, "shrunk": 0, "global": 0}
    for height, width in sizes(600 if soak else 45):
        picture = random_picture(rng, height, width)
        processed = ours(picture)
        expected = theirs(Image.fromarray(picture), return_tensors="pt")
        tiling = processed.tiling
        assert expected["aspect_ratios"].tolist() == [[tiling.rows, tiling.cols]], (height, width)
        step = np.abs(codes(expected["pixel_values"]) - processed.tiles)
        assert step.shape == (tiling.num_tiles, 336, 336, 3)
        area = step[: tiling.rows * tiling.cols]
        if tiling.resized == (height, width):
            assert area.max() == 0, (height, width)
        else:
            way = "enlarged" if tiling.resized > (height, width) else "shrunk"
            worst[way] = max(worst[way], int(area.max()))
        if tiling.num_tiles > 1:
            worst["global"] = max(worst["global"], int(step[-1].max()))
    # 0 would mean that nothing was resized.
    assert max(worst.values()) <= 1 and min(worst.values()) == 1, worst


def test_tiles_are_exact_where_nothing_is_resized(theirs: Any) -> None:
    rng = random.Random(7)
    for height, width in [(336, 336), (337, 336), (672, 336), (400, 1000), (1344, 1344), (336, 5376)]:
        picture = random_picture(rng, height, width)
        processed = ImageProcessor()(picture)
        assert processed.tiling.resized == (height, width)
        expected = theirs(Image.fromarray(picture), return_tensors="pt")["pixel_values"].float().numpy()
        mine = normalise(processed.tiles)
        assert mine.dtype == np.float32 and mine.shape == expected.shape
        last = -1 if processed.tiling.num_tiles > 1 else None
        assert np.array_equal(mine[:last], expected[:last])


def on_white(picture: Image.Image) -> Image.Image:
    """What shows of a picture with transparent parts before white."""
    whole = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")


def keeps_hidden_colours() -> bool:
    """Of transformers 5.20, the newest for Python 3.10: it shows what transparent parts hide."""
    from transformers.image_transforms import convert_to_rgb

    clear = convert_to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0)))
    return bool(np.asarray(clear).max() == 0)


def test_pictures_of_every_mode_are_theirs(theirs: Any) -> None:
    rng = random.Random(8)
    base = Image.fromarray(np.dstack([random_picture(rng, 400, 350), random_picture(rng, 400, 350)[..., :1]]))
    pictures = [base, *(base.convert(mode) for mode in ("RGB", "L", "LA", "P", "1", "CMYK"))]
    pictures[4].info["transparency"] = 5
    for picture in pictures:
        processed = ImageProcessor()(load_image(picture))
        see_through = "A" in picture.getbands() or "transparency" in picture.info
        shown = on_white(picture) if see_through and keeps_hidden_colours() else picture
        expected = theirs(shown, return_tensors="pt")["pixel_values"]
        assert np.abs(codes(expected) - processed.tiles).max() <= 1, picture.mode


def test_resizing_to_the_largest_canvas_is_theirs() -> None:
    pytest.importorskip("torchvision")
    from transformers.models.llama4.image_processing_llama4 import Llama4ImageProcessor

    theirs: Any = Llama4ImageProcessor(resize_to_max_canvas=True, max_patches=6)
    ours = ImageProcessor(336, 6, resize_to_max_canvas=True)
    rng = random.Random(9)
    for height, width in [(100, 100), (337, 336), (50, 300), (2000, 900), (700, 700)]:
        picture = random_picture(rng, height, width)
        processed = ours(picture)
        expected = theirs(Image.fromarray(picture), return_tensors="pt")
        assert expected["aspect_ratios"].tolist() == [[processed.tiling.rows, processed.tiling.cols]]
        assert np.abs(codes(expected["pixel_values"]) - processed.tiles).max() <= 1


def test_tiles_of_other_sizes_are_theirs() -> None:
    pytest.importorskip("torchvision")
    from transformers.models.llama4.image_processing_llama4 import Llama4ImageProcessor

    rng = random.Random(10)
    for tile, most in ((28, 4), (56, 16), (112, 1)):
        theirs: Any = Llama4ImageProcessor(size={"height": tile, "width": tile}, max_patches=most)
        for _ in range(12):
            picture = random_picture(rng, rng.randint(1, 300), rng.randint(1, 300))
            processed = ImageProcessor(tile, most)(picture)
            expected = theirs(Image.fromarray(picture), return_tensors="pt")
            assert expected["aspect_ratios"].tolist() == [[processed.tiling.rows, processed.tiling.cols]]
            assert np.abs(codes(expected["pixel_values"]) - processed.tiles).max() <= 1


def test_digests_tell_tiles_apart() -> None:
    rng = random.Random(11)
    picture = random_picture(rng, 100, 90)
    one = ImageProcessor(28)(picture)
    assert one.digest == ImageProcessor(28)(picture.copy()).digest and len(one.digest) == 32
    other = picture.copy()
    other[50, 50, 1] ^= 0x40
    assert ImageProcessor(28)(other).digest != one.digest
    assert ImageProcessor(14)(picture).digest != one.digest
    with pytest.raises(ValueError):
        one.tiles[0, 0, 0, 0] = 1  # shared between requests


# --- settings ---------------------------------------------------------------------------------------------------------


def files(**named: Any) -> Any:
    texts = {name.replace("__", "."): json.dumps(value).encode() for name, value in named.items()}
    return texts.get


def test_settings_come_from_the_checkpoint(tmp_path: Path) -> None:
    assert ImageProcessor.from_files(files(), {}) is None
    default = ImageProcessor.from_files(files(), VISION)
    assert default is not None and (default.tile, default.max_tiles, default.resize_to_max_canvas) == (
        336,
        16,
        False,
    )
    pytest.importorskip("torchvision")
    from transformers.models.llama4.image_processing_llama4 import Llama4ImageProcessor

    Llama4ImageProcessor(size={"height": 336, "width": 336}, max_patches=4).save_pretrained(tmp_path)
    saved = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    theirs = ImageProcessor.from_files(saved.get, VISION)
    assert theirs is not None and theirs.max_tiles == 4
    inside = files(
        processor_config__json={"image_processor": {"max_patches": 3, "resize_to_max_canvas": True}}
    )
    nested = ImageProcessor.from_files(inside, VISION)
    assert nested is not None and nested.max_tiles == 3 and nested.resize_to_max_canvas


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": {"height": 448, "width": 448}}, "size.*336 x 336"),
        ({"size": {"height": 336, "width": 448}}, "size"),
        ({"image_mean": [0.48, 0.45, 0.4]}, "image_mean.*0.5"),
        ({"image_std": 0.25}, "image_std"),
        ({"rescale_factor": 1}, "rescale_factor.*1/255"),
        ({"resample": 3}, "resample.*bilinear"),
        ({"do_normalize": False}, "do_normalize.*true"),
        ({"max_patches": 0}, "max_patches is 0"),
        ({"max_patches": True}, "max_patches"),
        ({"max_patches": "16"}, "max_patches"),
        ({"resize_to_max_canvas": 1}, "resize_to_max_canvas"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_followed_are_named(change: dict[str, Any], words: str) -> None:
    settings = {"size": {"height": 336, "width": 336}, "max_patches": 16, "image_mean": [0.5] * 3} | change
    with pytest.raises(EngineFileError, match=f"preprocessor_config.json: {words}"):
        ImageProcessor.from_files(files(preprocessor_config__json=settings), VISION)


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokens(tokenizer: TiktokenTokenizer) -> ImageTokens:
    found = ImageTokens.of(VISION, tokenizer)
    assert found is not None and found.complete
    return found


def their_layout(rows: int, cols: int) -> str:
    module = pytest.importorskip("transformers.models.llama4.processing_llama4")
    return str(module.Llama4Processor._prompt_split_image(None, (rows, cols), 144))


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ((336, 336), 147), ((336, 672), 437), ((672, 672), 727), ((1008, 1680), 2322), ((1344, 1344), 2467),
        ((5376, 336), 2467),
    ],
)  # fmt: skip
def test_layouts_are_theirs(
    size: tuple[int, int], count: int, tokens: ImageTokens, tokenizer: TiktokenTokenizer
) -> None:
    """Row 22."""
    pytest.importorskip("torchvision")
    tiling = choose_tiling(*size)
    ids = tokens.layout(tiling)
    assert len(ids) == count == tiling.num_tokens()
    assert ids == tokenizer.encode(their_layout(tiling.rows, tiling.cols), special=True)


def test_every_layout_is_theirs(tokens: ImageTokens, tokenizer: TiktokenTokenizer) -> None:
    pytest.importorskip("torchvision")
    for tiles in range(1, 17):
        for rows in (rows for rows in range(1, tiles + 1) if tiles % rows == 0):
            tiling = choose_tiling(rows * 336, tiles // rows * 336)
            assert (tiling.rows, tiling.cols) == (rows, tiles // rows)
            assert tokens.layout(tiling) == tokenizer.encode(
                their_layout(tiling.rows, tiling.cols), special=True
            )


def test_prompts_expand_as_theirs(theirs: Any, tokens: ImageTokens, tokenizer: TiktokenTokenizer) -> None:
    """The whole processor, its tokenizer replaced by one that keeps the expanded text."""
    from transformers.models.llama4.processing_llama4 import Llama4Processor

    rng = random.Random(12)
    for count in range(11):
        pictures = [random_picture(rng, rng.randint(1, 900), rng.randint(1, 900)) for _ in range(count)]
        words = ["", "Look: ", " and\n\n", "é🤗", "<|not special|>", "."]
        text = rng.choice(words) + "".join("<|image|>" + rng.choice(words) for _ in range(count))
        tilings = [ImageProcessor()(picture).tiling for picture in pictures]
        split = iter(
            [
                Llama4Processor._prompt_split_image(None, (tiling.rows, tiling.cols), 144)  # type: ignore[arg-type]
                for tiling in tilings
            ]
        )
        pieces = text.split("<|image|>")
        expanded = pieces[0] + "".join(next(split) + piece for piece in pieces[1:])
        ids = tokenizer.encode(text, special=True)
        assert tokens.expand(ids, tilings) == tokenizer.encode(expanded, special=True)


def test_counts_must_agree(tokens: ImageTokens) -> None:
    small, large = choose_tiling(336, 336), choose_tiling(336, 672)
    image, patch = tokens.image, tokens.patch
    assert tokens.expand([5, 6], []) == [5, 6]
    for ids, tilings, words in [
        ([image], [], r"1 <\|image\|> placeholder and came with 0 images"),
        ([5], [small], r"0 <\|image\|> placeholders and came with 1 image;"),
        ([image, image, 5], [small] * 3, "2 .*3 images"),
        ([patch] * 144, [], r"144 <\|patch\|> tokens and came with 0 images, whose tiles have 0"),
        ([patch] * 144, [large], "144 .* 1 image, whose tiles have 432"),
        ([patch] * 143, [small], "143"),
    ]:  # fmt: skip
        with pytest.raises(RequestError, match=words):
            tokens.expand(ids, tilings)
    ready = [*tokens.layout(small), 7, *tokens.layout(large)]
    assert tokens.expand(ready, [small, large]) == ready  # expanded by the caller


def test_without_a_tokenizer_only_expanded_ids_are_taken() -> None:
    bare = ImageTokens.of({"vision": {"image_size": 28, "patch_size": 14, "patch_token_id": 5}}, None)
    assert bare is not None and not bare.complete and bare.patches_per_tile == 1
    tiling = choose_tiling(28, 56, 28)
    assert bare.expand([9, 5, 5, 5, 9], [tiling]) == [9, 5, 5, 5, 9]
    with pytest.raises(RequestError, match=r"no tokenizer.*<\|patch\|> \(5\)"):
        bare.expand([9, 8], [tiling])
