"""Pictures in the calls of Engine, AsyncEngine and the command line: what they take, return and refuse."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import (
    AsyncEngine,
    Engine,
    ImageError,
    ImageLimits,
    PreparedPrompt,
    RequestError,
    SamplingParams,
)
from llama4rt.cli.main import main
from llama4rt.images import decoder
from numpy.typing import NDArray
from PIL import Image

Files = Callable[..., Path]
KIND = "micro_vision"  # tiles of 8 x 8 pixels, 4 tokens each
OPTIONS: dict[str, Any] = {"kv_cache_memory": "16MiB", "max_model_len": 1024}
GREEDY = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


ONE, TWO = noise(8, 8), noise(8, 16, seed=1)


def png(array: NDArray[np.uint8]) -> bytes:
    out = BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def path(vision_engine_file: Files) -> Path:
    return vision_engine_file(KIND)


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[Engine]:
    with Engine(path, **OPTIONS) as engine:
        yield engine


def special(engine: Engine, name: str) -> int:
    assert engine.tokenizer is not None
    return engine.tokenizer.special_tokens[f"<|{name}|>"]


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_placeholders_take_the_pictures_in_order(engine: Engine) -> None:
    (out,) = engine.generate("a<|image|>b<|image|>", GREEDY, images=[ONE, TWO])
    names = (
        "begin_of_text",
        "image_start",
        "image",
        "patch",
        "image_end",
        "tile_x_separator",
        "tile_y_separator",
    )
    bos, start, image, patch, end, x, y = (special(engine, name) for name in names)
    tile = [patch] * 4
    assert out.prompt_token_ids == [
        bos, *b"a", start, image, *tile, end, *b"b", start, *tile, x, *tile, y, image, *tile, end,
    ]  # fmt: skip
    assert out.prompt == "a<|image|>b<|image|>" and len(out.outputs[0].token_ids) == 6


def test_all_calls_agree(engine: Engine) -> None:
    text, pictures = "see <|image|> and <|image|>", [ONE, TWO]
    (out,) = engine.generate(text, GREEDY, images=pictures)
    tokens = out.outputs[0].token_ids
    prepared = engine.prepare(text, images=pictures)
    assert isinstance(prepared, PreparedPrompt) and prepared.text == text and len(prepared.images) == 2
    assert engine.generate(prepared, GREEDY)[0].outputs == out.outputs
    assert engine.generate([prepared, prepared], GREEDY)[1].outputs == out.outputs
    for source, options in ((text, {"images": pictures}), (prepared, {})):
        assert [i for delta in engine.stream(source, GREEDY, **options) for i in delta.token_ids] == tokens
        assert int(engine.score(source, **options)[-1].argmax()) == tokens[0]
    ids = engine.encode_prompt(text.partition("<|image|>")[0])
    image = special(engine, "image")
    by_ids = [*ids, image, *b" and ", image]
    assert engine.generate(by_ids, GREEDY, images=pictures)[0].outputs == out.outputs
    again = engine.generate(prepared.token_ids, GREEDY, images=pictures)  # ids expanded before
    assert again[0].outputs == out.outputs


def test_many_prompts_have_their_own_pictures(engine: Engine) -> None:
    prompts: list[Any] = [
        "<|image|>",
        "no picture",
        "<|image|> <|image|>",
        engine.prepare("<|image|>x", images=[TWO]),
    ]
    outs = engine.generate(prompts, GREEDY, images=[[ONE], None, [TWO, ONE], []])
    alone = [
        engine.generate("<|image|>", GREEDY, images=[ONE]),
        engine.generate("no picture", GREEDY),
        engine.generate("<|image|> <|image|>", GREEDY, images=[TWO, ONE]),
        engine.generate("<|image|>x", GREEDY, images=[TWO]),
    ]
    assert [out.outputs for out in outs] == [out[0].outputs for out in alone]
    assert engine.generate(["<|image|>"], GREEDY, images=[[ONE]])[0].outputs == outs[0].outputs


def test_every_kind_of_source(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png(TWO))
    url = "data:image/png;base64," + base64.b64encode(png(TWO)).decode()
    expected = engine.generate("<|image|>", GREEDY, images=[TWO])[0].outputs
    for source in (Image.fromarray(TWO), png(TWO), str(tmp_path / "p.png"), tmp_path / "p.png", url):
        assert engine.generate("<|image|>", GREEDY, images=[source])[0].outputs == expected
        assert np.array_equal(np.asarray(engine.load_image(source)), TWO)


def test_text_is_text_where_no_pictures_are(engine: Engine) -> None:
    literal = [special(engine, "begin_of_text"), *b"<|image|><|eot|>"]
    (out,) = engine.generate("<|image|><|eot|>", GREEDY)
    assert out.prompt_token_ids == literal
    with pytest.raises(RequestError, match="came with 0 images"):  # an empty list says that there are none
        engine.generate("<|image|><|eot|>", GREEDY, images=[])
    assert engine.encode_prompt("<|image|><|eot|>") == literal
    with_one = engine.prepare("<|image|><|eot|><|patch|>", images=[ONE])
    assert with_one.token_ids[-16:] == list(b"<|eot|><|patch|>")


@pytest.mark.parametrize(
    ("prompt", "images", "words"),
    [
        ("none", [ONE], r"0 <\|image\|> placeholders and came with 1 image;"),
        ("<|image|>", [ONE, TWO], "1 .*placeholder and came with 2 images"),
        ("<|image|><|image|>", [ONE], "2 .*1 image"),
        ("<|image|>", ONE, "ndarray.*list of images"),
        ("<|image|>", "p.png", "images is a str"),
        ("<|image|>", [5], r"images\[0\] is a int"),
        ("<|image|><|image|>", [ONE, b"junk"], r"images\[1\] is none of"),
        ("<|image|>", ["https://example.com/a.png"], "allow_image_urls"),
        (["<|image|>"], [ONE], "list of lists"),
        (["<|image|>", "b"], [[ONE]], "2 prompts and 1 lists"),
        (["a", "<|image|>"], [[], [b""]], r"images\[1\]\[0\] is empty"),
        ([256 + 90, 7], None, "1 .*placeholder and came with 0 images"),
        ([256 + 92, 7], None, r"1 <\|patch\|> token and came with 0 images"),
        ([256 + 92] * 5, [ONE], r"5 <\|patch\|> tokens and came with 1 image, whose tiles have 4"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_runs(
    engine: Engine, prompt: Any, images: Any, words: str
) -> None:
    calls: list[Callable[..., Any]] = [engine.generate]
    if not isinstance(prompt, list) or isinstance(prompt[0], int):
        calls += [engine.stream, engine.score]
    for call in calls:
        with pytest.raises(RequestError, match=words):
            call(prompt, images=images)
    assert engine.stats()["running"] == 0 and engine.stats()["waiting"] == 0


def test_a_prepared_prompt_has_its_pictures(engine: Engine) -> None:
    with pytest.raises(RequestError, match="has its images already"):
        engine.generate(engine.prepare("<|image|>", images=[ONE]), images=[ONE])


def test_a_prompt_too_long_by_its_pictures_is_refused(engine: Engine) -> None:
    with pytest.raises(RequestError, match="1024"):
        engine.generate("<|image|>" * 150, GREEDY, images=[ONE] * 150)


def test_an_engine_without_vision_says_so(text_engine_file: Path, path: Path) -> None:
    with Engine(text_engine_file, **OPTIONS) as engine:
        for call in (engine.generate, engine.stream, engine.score):
            with pytest.raises(RequestError, match="no vision tower"):
                call("<|image|>", images=[ONE])
        message = [{"role": "user", "content": [{"type": "image", "image": ONE}]}]
        for call in (engine.chat, engine.apply_chat_template, engine.prepare_chat):
            with pytest.raises(RequestError, match="no vision tower"):
                call(message)  # type: ignore[operator]
        assert engine.generate([300, 330], GREEDY)[0].outputs  # any ids are just ids


def test_the_engines_limits_hold(path: Path) -> None:
    with Engine(path, **OPTIONS, image_limits=ImageLimits(max_side=15)) as engine:
        engine.prepare("<|image|>", images=[ONE])
        with pytest.raises(ImageError, match=r"images\[0\] is 16 x 8 pixels; max_side is 15"):
            engine.prepare("<|image|>", images=[TWO])


def test_urls_are_fetched_where_the_engine_may(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetch(url: str, limits: ImageLimits, what: str) -> bytes:
        asked.append(url)
        return png(ONE)

    monkeypatch.setattr("llama4rt.images.fetch.fetch", fetch)
    part = {"type": "image_url", "image_url": {"url": "https://example.com/p.png"}}
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "?"}, part]}]
    with Engine(path, **OPTIONS) as closed:
        with pytest.raises(ImageError, match=r"messages\[0\], part 0 .*allow_image_urls"):
            closed.chat(messages)
        assert asked == []
    with Engine(path, **OPTIONS, allow_image_urls=True) as engine:
        ids = engine.chat(messages, GREEDY)[0].prompt_token_ids
        assert asked == ["https://example.com/p.png"]  # one that comes twice is read once
        assert ids.count(special(engine, "patch")) == 8
        assert engine.apply_chat_template(messages).count(special(engine, "image")) == 2 and len(asked) == 1


# --- chat -------------------------------------------------------------------------------------------------------------


def test_parts_of_messages(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png(TWO))
    text = base64.b64encode(png(TWO)).decode()
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{text}"}},
        {"type": "image_url", "image_url": f"data:image/png;base64,{text}"},
        {"type": "image", "image": TWO},
        {"type": "image", "image": Image.fromarray(TWO)},
        {"type": "image", "image": png(TWO)},
        {"type": "image", "image": str(tmp_path / "p.png")},
        {"type": "image", "path": tmp_path / "p.png"},
        {"type": "image", "url": f"data:image/png;base64,{text}"},
        {"type": "image", "base64": text},
    ]
    conversations = [
        [{"role": "user", "content": [part, {"type": "text", "text": "what <|image|>?"}]}] for part in parts
    ]
    outs = engine.chat(conversations, GREEDY)
    assert all(out.outputs == outs[0].outputs for out in outs)
    ids = outs[0].prompt_token_ids
    patch, image = special(engine, "patch"), special(engine, "image")
    assert (
        ids.count(patch) == 12
        and ids.count(image) == 1
        and bytes(i for i in ids if i < 256).count(b"<|image|>") == 1
    )
    with pytest.raises(RequestError, match=r"messages\[0\], part 0 is an image part without an image"):
        engine.chat([{"role": "user", "content": [{"type": "image"}]}])
    with pytest.raises(RequestError, match=r"messages\[0\], part 0 .*none of PNG"):
        engine.chat([{"role": "user", "content": [{"type": "image", "image": b"junk"}]}])
    with pytest.raises(RequestError, match="data:, http"):
        engine.chat(
            [{"role": "user", "content": [{"type": "image_url", "image_url": str(tmp_path / "p.png")}]}]
        )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "{{ m.content[0].type }}",
            r"have 2 pictures, and the .* chat template writes no <\|image\|>: .*text alone",
        ),
        (
            "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}",
            r"have 2 pictures, and the .* chat template writes no <\|image\|>: .*text alone",
        ),
        (
            "<|image|>",
            r"have 2 pictures, and the .* chat template writes 1 <\|image\|>\. It must write one for each",
        ),
        (
            "{% for p in m.content %}<|image|><|image|>{% endfor %}",
            r"2 pictures, .* template writes 4 <\|image",
        ),
    ],
)
def test_a_template_that_loses_pictures_is_named(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    """Also where it only shows the prompt; text alone it may still write."""
    from llama4rt.text.chat_template import ChatTemplate

    pictures = [
        {"role": "user", "content": [{"type": "image", "image": ONE}, {"type": "image", "image": TWO}]}
    ]
    template = ChatTemplate("{{ bos_token }}{% for m in messages %}" + body + "{% endfor %}")
    monkeypatch.setattr(engine._prompts, "_chat_template", template)
    try:
        for use in (engine.chat, engine.apply_chat_template):
            with pytest.raises(RequestError, match=says):
                use(pictures)
        if "image" not in body:
            assert engine.chat([{"role": "user", "content": "Hi"}], GREEDY)
    finally:
        template.close()


# --- asyncio ----------------------------------------------------------------------------------------------------------


def test_async_pictures_are_read_beside_the_loop(
    path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many requests at once: right results, never in the loop's thread, and few pictures read at a time."""
    read, threads, running, most = decoder.encoded_picture, set(), [0], [0]
    lock = threading.Lock()

    def watched(*arguments: Any, **options: Any) -> Any:
        with lock:
            threads.add(threading.current_thread())
            running[0] += 1
            most[0] = max(most[0], running[0])
        try:
            return read(*arguments, **options)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(decoder, "encoded_picture", watched)
    pictures = [[png(noise(8 + i, 30, seed=i)), png(noise(20, 8 + i, seed=i))] for i in range(12)]
    expected = [engine.generate("<|image|>?<|image|>", GREEDY, images=own)[0].outputs for own in pictures]
    threads.clear()

    async def everything() -> list[Any]:
        async with AsyncEngine(path, **OPTIONS) as asynchronous:

            async def one(own: list[bytes]) -> Any:
                last = None
                async for out in asynchronous.generate("<|image|>?<|image|>", GREEDY, images=own):
                    last = out
                assert last is not None
                streamed = asynchronous.stream("<|image|>?<|image|>", GREEDY, images=own)
                tokens = [i async for delta in streamed for i in delta.token_ids]
                assert tokens == last.outputs[0].token_ids
                return last.outputs

            outs = await asyncio.gather(*map(one, pictures))
            content = [{"type": "image", "image": pictures[0][0]}, {"type": "text", "text": "?"}]
            prepared = await asynchronous.prepare_chat([{"role": "user", "content": content}])
            deltas = [delta async for delta in asynchronous.stream(prepared, GREEDY)]
            assert deltas[-1].finish_reason == "length" and len(prepared.images) == 1
            with pytest.raises(ImageError, match=r"images\[0\]"):
                async for _ in asynchronous.generate("<|image|>", images=[b"junk"]):
                    pass
            return outs

    assert asyncio.run(everything()) == expected
    assert threading.main_thread() not in threads and 1 <= most[0] <= 4


# --- command line -----------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_generate_takes_pictures(
    path: Path, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "one.png", tmp_path / "two.png"]
    for file, array in zip(files, (ONE, TWO), strict=True):
        file.write_bytes(png(array))
    options = [
        path,
        "--max-model-len",
        512,
        "--kv-cache-memory",
        "16MiB",
        "-n",
        5,
        "--temperature",
        0,
        "--json",
    ]
    given = ["--image", files[0], "--image", files[1]]
    code, out, _ = run(capsys, "generate", *options, "-p", "both?", *given)
    assert code == 0
    # In front, as the prompt has none.
    ids = engine.prepare("<|image|><|image|>both?", images=files).token_ids
    assert json.loads(out)["prompt_token_ids"] == ids
    code, out, _ = run(capsys, "generate", *options, "-p", "a <|image|> b <|image|>", *given)
    assert code == 0
    assert (
        json.loads(out)["prompt_token_ids"]
        == engine.prepare("a <|image|> b <|image|>", images=files).token_ids
    )
    code, out, _ = run(capsys, "generate", *options, "-p", "<|image|> text")
    assert code == 0 and special(engine, "image") not in json.loads(out)["prompt_token_ids"]
    for arguments, words in [
        (["-p", "a <|image|> b", *given], "1 <|image|> placeholder and came with 2 images"),
        (["-p", "a", "--image", tmp_path / "none.png"], "none.png"),
        (["-p", "a", "--image", tmp_path], "directory"),
    ]:
        code, _, err = run(capsys, "generate", *options, *arguments)
        assert code == 1 and err.startswith("error: ") and words in err


def test_chat_takes_pictures(
    path: Path,
    engine: Engine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "my one.png").write_bytes(png(ONE))
    (tmp_path / "two.png").write_bytes(png(TWO))
    prompts: list[list[int]] = []
    prepare_chat = Engine.prepare_chat

    def recording(self: Engine, messages: Any) -> PreparedPrompt:
        prepared = prepare_chat(self, messages)
        prompts.append(prepared.token_ids)
        return prepared

    monkeypatch.setattr(Engine, "prepare_chat", recording)
    lines = [
        "first",
        f"/image {tmp_path / 'two.png'}",
        "/image nowhere.png",
        "/image",
        "second",
        "/reset",
        "third",
    ]
    monkeypatch.setattr("sys.stdin", StringIO("\n".join(lines)))
    code, out, err = run(
        capsys, "chat", path, "--max-model-len", 512, "--kv-cache-memory", "16MiB", "-n", 3, "--temperature", 0,
        "--image", tmp_path / "my one.png",
    )  # fmt: skip
    assert code == 0 and len(out.splitlines()) >= 3
    assert "nowhere.png" in err and "No such file" in err
    image = special(engine, "image")
    assert [ids.count(image) for ids in prompts] == [1, 2, 0]
    assert prompts[1][: len(prompts[0])] == prompts[0]


def test_image_cache_memory_bounds_what_is_kept(vision_engine_file: Files) -> None:
    path = vision_engine_file(KIND)
    with Engine(path, image_cache_memory=1, **OPTIONS) as engine:
        first = engine.generate("<|image|>a", GREEDY, images=[ONE])[0].outputs
        stats = engine.stats()
        assert stats["images"]["cached"] == 0 and stats["bytes"]["images"] == 0
        assert engine.generate("<|image|>a", GREEDY, images=[ONE])[0].outputs == first
        assert engine.stats()["images"]["reused"] == 0
    with Engine(path, **OPTIONS) as engine:
        assert engine.generate("<|image|>a", GREEDY, images=[ONE])[0].outputs == first
        assert engine.stats()["images"]["cached"] == 1 and engine.stats()["bytes"]["images"] > 0
    with pytest.raises(ValueError, match="image_cache_memory"):
        Engine(path, image_cache_memory=-1, **OPTIONS)
