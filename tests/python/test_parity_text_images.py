"""Text and pictures, end to end: from what a caller has to logits, against transformers' model and image processor.

The checkpoints are tiny and random, with small tiles; limits are those of text (test_parity_text.py). The published
processor may resize by one step of 255 otherwise (test_parity_images.py), so its model gets our tiles here.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import Engine, SamplingParams
from llama4rt.images.processing import normalisation_table, normalise
from numpy.typing import NDArray
from PIL import Image

Files = Callable[..., Path]
Pictures = list[NDArray[np.uint8]]

FP32_LIMIT = 1e-4
CPU = {"device": "cpu", "kv_cache_dtype": "f32", "activations": "int16"}
REFERENCE = {"device": "reference"}
KIND_NAMES = ["scout_vision", "maverick_vision", "micro_vision", "int4_vision"]
GREEDY = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)


def open_engine(path: Path, **options: Any) -> Engine:
    return Engine(path, **({"kv_cache_memory": "64MiB", "max_model_len": 2048} | options))


@pytest.fixture(scope="session")
def vision_oracle(vision_checkpoint: Files) -> Callable[[str], Any]:
    """The checkpoint as a transformers model in fp32, and its image processor."""

    @functools.cache
    def load(kind: str) -> Any:
        pytest.importorskip("torchvision", reason="make test installs it beside the environment")
        from tiny_checkpoints import load_oracle
        from transformers.models.llama4.image_processing_llama4 import Llama4ImageProcessor

        directory = vision_checkpoint(kind)
        return load_oracle(directory), Llama4ImageProcessor.from_pretrained(directory)

    return load


def tile_side(kind: str) -> int:
    from tiny_checkpoints import KINDS

    vision = KINDS[kind].vision
    assert vision is not None
    return int(vision["image_size"])


def picture(kind: str, rng: random.Random, most: float = 3.5) -> NDArray[np.uint8]:
    """Noise of some size, up to `most` tiles a side; mostly of sizes that need no resizing."""
    side = tile_side(kind)
    sizes = [rng.randint(side, int(most * side)) for _ in range(2)]
    if rng.random() < 0.3:
        sizes = [rng.randint(1, int(6 * side)) for _ in range(2)]
    return np.random.default_rng(rng.randrange(1 << 32)).integers(0, 256, (*sizes, 3), dtype=np.uint8)


def their_logits(oracle: Any, ids: Sequence[int], tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """One forward pass over the whole prompt; the tiles of all pictures in order."""
    import torch

    from tools import stock_model

    model, _ = oracle
    pixels = torch.tensor(np.concatenate([normalise(t) for t in tiles])) if tiles else None
    with torch.no_grad():
        logits = stock_model.logits(model, torch.tensor([list(ids)]), pixels)
    return np.asarray(logits[0].float())


def check_tiles(oracle: Any, pictures: Pictures, tiles: Sequence[NDArray[np.uint8]]) -> None:
    """Our tiles are the processor's, at most a step of 255 apart."""
    _, processor = oracle
    for image, own in zip(pictures, tiles, strict=True):
        theirs = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"].float().numpy()
        assert theirs.shape == (len(own), 3, *own.shape[1:3])
        assert np.abs(theirs - normalise(own)).max() <= np.diff(normalisation_table()).max()


def mixed_text(rng: random.Random, count: int) -> str:
    """`count` placeholders anywhere: first, last, side by side, with text between."""
    words = ["", "", "Look at this: ", " and\n", "é🤗", "what?", "<|eot|>"]
    return "".join(rng.choice(words) + "<|image|>" for _ in range(count)) + rng.choice([*words[2:], "."])


# --- logits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [REFERENCE, CPU], ids=["reference", "cpu"])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_logits_of_mixed_prompts(
    kind: str, device: dict[str, Any], vision_engine_file: Files, vision_oracle: Any
) -> None:
    """0 to 10 pictures anywhere in the text, each of 1 to 17 tiles."""
    rng = random.Random(kind)
    oracle = vision_oracle(kind)
    most_tiles = 0
    with open_engine(vision_engine_file(kind), **device, max_model_len=4096) as engine:
        for count in (0, 1, 2, 3, 5, 10):
            pictures = [picture(kind, rng) for _ in range(count)]
            text = mixed_text(rng, count)
            prepared = engine.prepare(text, images=pictures)
            tiles = [image.tiles for image in prepared.images]
            most_tiles = max([most_tiles, *(len(t) for t in tiles)])
            check_tiles(oracle, pictures, tiles)
            expected = their_logits(oracle, prepared.token_ids, tiles)
            scores = engine.score(text, images=pictures)
            assert scores.shape == expected.shape and np.abs(expected).max() > 1
            assert np.abs(scores - expected).max() < FP32_LIMIT, (count, text)
            if count:  # the pictures matter
                blank = [np.full_like(t, 255) for t in tiles]
                assert np.abs(their_logits(oracle, prepared.token_ids, blank) - expected).max() > 0.1
    assert most_tiles > 6


@pytest.mark.parametrize("kind", ["scout_vision", "maverick_vision"])
def test_a_chat_with_pictures(kind: str, vision_engine_file: Files, vision_oracle: Any) -> None:
    """Turns with pictures before, between and after text; rendered by transformers' template, expanded as it does."""
    from llama4rt.images.tiling import choose_tiling
    from transformers.models.llama4.processing_llama4 import Llama4Processor, chat_template
    from transformers.utils.chat_template_utils import render_jinja_template

    rng = random.Random(1)
    oracle = vision_oracle(kind)
    pictures = [picture(kind, rng) for _ in range(4)]

    def image(index: int) -> dict[str, Any]:
        return {"type": "image", "image": pictures[index]}

    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [image(0), {"type": "text", "text": "What is <|image|> this?"}]},
        {"role": "assistant", "content": "A picture."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "And "}, image(1), image(2), {"type": "text", "text": "?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Two."}]},
        {"role": "user", "content": [{"type": "text", "text": "Last:"}, image(3)]},
    ]
    with open_engine(vision_engine_file(kind), **CPU) as engine:
        prepared = engine.prepare_chat(messages)
        tokenizer = engine.tokenizer
        assert tokenizer is not None
        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=chat_template, add_generation_prompt=True,
            bos_token="<|begin_of_text|>",
        )  # fmt: skip
        # The words of the user that look like a placeholder: transformers would take them for one, we must not.
        rendered_text = rendered[0].replace("What is <|image|> this?", "What is \ue000 this?")
        side = tile_side(kind)
        vision = engine.config["vision"]
        per_tile = (vision["image_size"] // vision["patch_size"] // 2) ** 2
        pieces = rendered_text.split("<|image|>")
        assert len(pieces) == 5
        ids: list[int] = []
        for piece, shown in zip(pieces, [*pictures, None], strict=True):
            halves = piece.split("\ue000")
            ids += tokenizer.encode(halves[0], special=True)
            for half in halves[1:]:
                ids += tokenizer.encode("<|image|>") + tokenizer.encode(half, special=True)
            if shown is not None:
                tiling = choose_tiling(shown.shape[0], shown.shape[1], side)
                layout = Llama4Processor._prompt_split_image(None, (tiling.rows, tiling.cols), per_tile)  # type: ignore[arg-type]
                ids += tokenizer.encode(layout, special=True)
        assert prepared.token_ids == ids
        tiles = [image.tiles for image in prepared.images]
        check_tiles(oracle, pictures, tiles)
        expected = their_logits(oracle, ids, tiles)
        assert np.abs(engine.score(prepared) - expected).max() < FP32_LIMIT
        first = int(expected[-1].argmax())
        (out,) = engine.chat(messages, GREEDY)
        assert out.prompt_token_ids == ids and out.outputs[0].token_ids[0] == first
        placeholders = engine.apply_chat_template(messages)
        again = engine.generate(placeholders, GREEDY, images=pictures)
        assert again[0].prompt_token_ids == ids and again[0].outputs == out.outputs


def test_greedy_answers_are_theirs(vision_engine_file: Files, vision_oracle: Any) -> None:
    """Token by token after pictures, each step compared with a whole forward pass."""
    kind = "scout_vision"
    rng = random.Random(2)
    oracle = vision_oracle(kind)
    pictures = [picture(kind, rng) for _ in range(2)]
    with open_engine(vision_engine_file(kind), **CPU) as engine:
        prepared = engine.prepare("A <|image|> and <|image|>?", images=pictures)
        (out,) = engine.generate(prepared, GREEDY)
        ids = list(prepared.token_ids)
        for token in out.outputs[0].token_ids:
            logits = their_logits(oracle, ids, [image.tiles for image in prepared.images])[-1]
            assert logits.max() - logits[token] < FP32_LIMIT
            ids.append(token)


# --- however it is cut ------------------------------------------------------------------------------------------------


def prompts_with_pictures(kind: str, seed: int, count: int) -> list[tuple[str, Pictures]]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        pictures = [picture(kind, rng) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        made.append((mixed_text(rng, len(pictures)), pictures))
    return made


@pytest.mark.parametrize("tokens", [7, 16, 33])
def test_prefill_split_inside_a_picture(tokens: int, vision_engine_file: Files, vision_oracle: Any) -> None:
    kind = "scout_vision"
    path = vision_engine_file(kind)
    prompts = prompts_with_pictures(kind, 3, 4)
    assert any(pictures for _, pictures in prompts)
    with open_engine(path, **CPU) as whole, open_engine(path, **CPU, max_batched_tokens=tokens) as split:
        for text, pictures in prompts:
            prepared = whole.prepare(text, images=pictures)
            expected = their_logits(
                vision_oracle(kind), prepared.token_ids, [image.tiles for image in prepared.images]
            )
            assert np.abs(split.score(prepared) - expected).max() < FP32_LIMIT
            assert split.generate(prepared, GREEDY)[0].outputs == whole.generate(prepared, GREEDY)[0].outputs


@pytest.mark.parametrize("device", [REFERENCE, CPU], ids=["reference", "cpu"])
def test_the_same_bits_in_any_company(device: dict[str, Any], vision_engine_file: Files) -> None:
    """Alone, together in any order, through small steps, without the prefix cache, with one thread or two."""
    kind = "maverick_vision"
    path = vision_engine_file(kind)
    prompts = prompts_with_pictures(kind, 4, 6)
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, logprobs=3, prompt_logprobs=1)
    texts, pictures = [text for text, _ in prompts], [own for _, own in prompts]

    def results(order: Sequence[int], **options: Any) -> dict[int, Any]:
        with open_engine(path, **(device | options)) as engine:
            outs = engine.generate([texts[i] for i in order], params, images=[pictures[i] for i in order])
            return {i: (out.outputs, out.prompt_logprobs) for i, out in zip(order, outs, strict=True)}

    together = results(range(6), num_threads=1)
    alone: dict[int, Any] = {}
    for i in range(6):
        alone |= results([i], num_threads=2)
    assert together == alone
    for options in ({"max_batched_tokens": 16}, {"max_num_seqs": 2}, {"prefix_cache": False}):
        assert results(random.Random(5).sample(range(6), 6), **options) == alone, options


# --- the prefix cache -------------------------------------------------------------------------------------------------


def test_a_repeated_picture_is_neither_encoded_nor_prefilled_again(vision_engine_file: Files) -> None:
    kind = "scout_vision"
    rng = random.Random(6)
    shown = picture(kind, rng)
    with open_engine(vision_engine_file(kind), **CPU) as engine:
        first = engine.generate("What is <|image|> here?", GREEDY, images=[shown])[0]
        assert first.num_cached_tokens == 0
        encoded = engine.stats()["images"]["encoded_tiles"]
        assert encoded == len(engine.prepare("<|image|>", images=[shown]).images[0].tiles)
        again = engine.generate("What is <|image|> here?", GREEDY, images=[shown.copy()])[0]
        assert again.num_cached_tokens >= len(first.prompt_token_ids) - 16 and again.outputs == first.outputs
        longer = engine.generate("What is <|image|> here? And why?", GREEDY, images=[shown])[0]
        assert longer.num_cached_tokens >= len(first.prompt_token_ids) - 32
        assert engine.stats()["images"]["encoded_tiles"] == encoded


def test_another_picture_with_the_same_tokens_is_no_hit(vision_engine_file: Files) -> None:
    """The ids are equal, so only the picture's content can tell the two apart."""
    kind = "scout_vision"
    rng = random.Random(7)
    one = picture(kind, rng)
    other = one.copy()
    other[-1, -1, 2] ^= 0x80  # one value of one pixel
    text = "What is <|image|> here? " + "word " * 8
    with open_engine(vision_engine_file(kind), **CPU) as engine:
        engine.generate(text, GREEDY, images=[one])
        mine = engine.generate(text, GREEDY, images=[other])[0]
        before = mine.prompt_token_ids.index(engine.config["vision"]["patch_token_id"])
        assert mine.num_cached_tokens <= before
        swapped = engine.generate("<|image|><|image|>" + text, GREEDY, images=[one, other, one])[0]
        mirrored = engine.generate("<|image|><|image|>" + text, GREEDY, images=[other, one, one])[0]
        assert mirrored.num_cached_tokens < 16 and mirrored.prompt_token_ids == swapped.prompt_token_ids
    for options in ({"prefix_cache": False}, {}):
        with open_engine(vision_engine_file(kind), **CPU, **options) as fresh:
            assert fresh.generate(text, GREEDY, images=[other])[0].outputs == mine.outputs
