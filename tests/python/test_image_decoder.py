"""Decoding in child processes: the same bits, within limits, dropped when nobody waits; text never waits for it."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import hostile_pictures as hostile
import image_mutations
import numpy as np
import pytest
from llama4rt import AsyncEngine, Engine, ImageError, ImageLimits, SamplingParams
from llama4rt.errors import Llama4RTError
from llama4rt.images import decode_child
from llama4rt.images.decoder import PictureDecoder
from llama4rt.images.processing import ImageProcessor
from llama4rt.images.sources import Base64, load_image
from llama4rt.workers.child_pool import ChildPool
from llama4rt.workers.child_process import ChildAbandoned, ChildFailed
from llama4rt.workers.client import Client, run_in_context, working_for
from llama4rt.workers.client_threads import ClientThreads
from PIL import Image

PROCESSOR = ImageProcessor()
OPTIONS: dict[str, Any] = {"kv_cache_memory": "16MiB", "max_model_len": 1024}
GREEDY = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
SLOW = hostile.ppm_of_odd_maximum(4000)  # some seven seconds in Pillow's Python


@pytest.fixture(scope="module")
def decoder() -> Iterator[PictureDecoder]:
    decoder = PictureDecoder(ImageLimits(), PROCESSOR)
    yield decoder
    decoder.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_same_bits_as_in_this_process(decoder: PictureDecoder) -> None:
    large = hostile.encoded(Image.effect_noise((1900, 1300), 90).convert("RGB"), "JPEG")
    text = base64.b64encode(large).decode()
    sources = [*image_mutations.seeds(), large, Base64(text), f"data:image/jpeg;base64,{text}"]
    for source in sources:
        expected, got = PROCESSOR(load_image(source)), decoder(source)
        assert np.array_equal(got.tiles, expected.tiles) and not got.tiles.flags.writeable
        assert (got.tiling, got.digest) == (expected.tiling, expected.digest)
    assert len(decoder.pids()) == 1  # one caller needs one process


def test_the_same_words_as_in_this_process(decoder: PictureDecoder) -> None:
    sources = [
        b"", b"hello", b"<svg/>", "data:image/png;base64", "data:text/html,a", Base64("@@"), hostile.webp(8000),
        image_mutations.seeds()[0][:100], hostile.jpeg_of_scans(8, 99), "ftp://a/b", "/nowhere", 5,
    ]  # fmt: skip
    for source in sources:
        with pytest.raises(ImageError) as here:
            load_image(source, what="the third")
        with pytest.raises(ImageError) as there:
            decoder(source, "the third")
        assert str(there.value) == str(here.value)


def test_what_is_no_file_starts_no_process() -> None:
    decoder = PictureDecoder(ImageLimits(), PROCESSOR)
    decoder(np.zeros((4, 4, 3), np.uint8))
    decoder(Image.new("LA", (5, 5)))
    with pytest.raises(ImageError):
        decoder("/nowhere")
    assert decoder.pids() == []


def test_processor_time_has_a_limit() -> None:
    decoder = PictureDecoder(ImageLimits(max_cpu_seconds=1), PROCESSOR)
    try:
        with pytest.raises(ImageError, match=r"the third cannot be decoded within the limits.*more than 1 s"):
            decoder(SLOW, "the third")
        assert decoder(b"P6 1 1 255\nabc").tiles.shape == (1, 336, 336, 3)
    finally:
        decoder.close()


def test_memory_has_a_limit_where_the_estimate_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama4rt.images.decoder.child_memory", lambda *_: 96 << 20)
    decoder = PictureDecoder(ImageLimits(), PROCESSOR)
    try:
        decoder(b"P6 1 1 255\nabc")
        (pid,) = decoder.pids()
        with pytest.raises(
            ImageError, match="cannot be decoded within the limits: the picture asked for more"
        ):
            decoder(hostile.encoded(Image.new("RGB", (6000, 6000)), "PNG"))
        assert not alive(pid)
        assert decoder(b"P6 1 1 255\nabc").tiles.shape == (1, 336, 336, 3)
    finally:
        decoder.close()


def test_the_largest_pictures_within_the_limits_fit(decoder: PictureDecoder) -> None:
    """The process's own limit is behind max_decoded_bytes, never before it."""
    exif = Image.Exif()
    exif[274] = 6
    for mode, kind, side, options in [
        ("RGBA", "PNG", 8190, {"compress_level": 1, "exif": exif.tobytes()}),
        ("RGB", "JPEG", 7300, {"progressive": True, "subsampling": 0}),
        ("RGBA", "WEBP", 5700, {"lossless": True, "method": 0, "quality": 0}),
    ]:
        data = hostile.encoded(Image.new(mode, (side, side)), kind, **options)
        assert decoder(data).tiling.num_tiles > 1


def test_an_answer_of_the_wrong_size_is_our_failure(
    decoder: PictureDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChildPool, "call", lambda *_: decode_child.SIZE.pack(400, 400) + bytes(999))
    with pytest.raises(ChildFailed, match="999 bytes of tiles"):
        decoder(b"P6 1 1 255\nabc")


# --- clients ----------------------------------------------------------------------------------------------------------


def test_a_client_who_leaves_frees_the_process() -> None:
    decoder = PictureDecoder(ImageLimits(), PROCESSOR)
    try:
        decoder(b"P6 1 1 255\nabc")
        (pid,) = decoder.pids()
        client = Client("someone")
        threading.Timer(0.3, client.gone.set).start()
        with working_for(client), pytest.raises(ChildAbandoned):
            decoder(SLOW)
        assert not alive(pid)
    finally:
        decoder.close()


def test_cancelling_the_task_frees_the_process(vision_engine_file: Any) -> None:
    async def everything() -> None:
        async with AsyncEngine(vision_engine_file("micro_vision"), **OPTIONS) as engine:
            await engine.prepare("<|image|>", images=[b"P6 1 1 255\nabc"])
            decoder = engine.engine.prompts._picture_decoder()
            (pid,) = decoder.pids()
            task = asyncio.create_task(engine.prepare("<|image|>", images=[SLOW]))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            cancelled = time.monotonic()
            while alive(pid) and time.monotonic() < cancelled + 20:
                await asyncio.sleep(0.05)
            assert time.monotonic() < cancelled + 3, "it ran on until its own limit"

    asyncio.run(everything())


def test_text_does_not_wait_for_pictures(vision_engine_file: Any) -> None:
    """Forty slow pictures of ten clients are waiting: a chat of text alone is prepared as if there were none."""

    async def everything() -> None:
        async with AsyncEngine(vision_engine_file("micro_vision"), **OPTIONS) as engine:
            text = [{"role": "user", "content": "Hello"}]
            await engine.prepare_chat(text)  # starts the template's process
            part = {"type": "image", "base64": base64.b64encode(SLOW).decode()}
            tasks = []
            for client in range(10):
                with working_for(Client(f"client {client}")):
                    tasks += [
                        asyncio.create_task(engine.prepare_chat([{"role": "user", "content": [part]}]))
                        for _ in range(4)
                    ]
            await asyncio.sleep(1)
            for _ in range(3):
                await asyncio.wait_for(engine.prepare_chat(text), 5)
                await asyncio.wait_for(engine.prepare("Hello " * 1000), 5)
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(everything())


def test_an_engine_that_gets_no_pictures_starts_no_process(vision_engine_file: Any) -> None:
    with Engine(vision_engine_file("micro_vision"), **OPTIONS) as engine:
        engine.generate("Hello", GREEDY)
        assert engine.prompts._decoder is None
        engine.generate("<|image|>", GREEDY, images=[np.zeros((4, 4, 3), np.uint8)])
        assert engine.prompts._picture_decoder().pids() == []
        engine.generate("<|image|>", GREEDY, images=[b"P6 1 1 255\nabc"])
        (pid,) = engine.prompts._picture_decoder().pids()
    assert not alive(pid)


# --- threads ----------------------------------------------------------------------------------------------------------


def test_one_client_cannot_have_all_threads() -> None:
    threads = ClientThreads("test", 4, 2)
    release, running = threading.Event(), []

    def work(name: str) -> str:
        running.append(name)
        release.wait(20)
        return name

    def submit(name: str) -> Future[str]:
        with working_for(Client(name)):
            return threads.submit(work, name)

    greedy = [submit("greedy") for _ in range(10)]
    others = [submit("a"), submit("b"), submit("c")]
    deadline = time.monotonic() + 10
    while len(running) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert sorted(running) == ["a", "b", "greedy", "greedy"]
    assert greedy[9].cancel()
    release.set()
    assert [future.result(20) for future in greedy[:9] + others] == ["greedy"] * 9 + ["a", "b", "c"]
    assert running.index("c") < 7  # not behind the eight of the greedy one
    deadline = time.monotonic() + 10
    while any(thread.name == "test" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(thread.name == "test" for thread in threading.enumerate())
    assert submit("greedy").result(20) == "greedy"


def test_errors_and_the_end_of_threads() -> None:
    threads = ClientThreads("test", 1, 1)
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(20)
    release = threading.Event()
    first, second = threads.submit(release.wait, 20), threads.submit(int)
    threads.shutdown()
    assert second.cancelled() and not first.done()
    release.set()
    assert first.result(20)
    with pytest.raises(Llama4RTError, match="closed"):
        threads.submit(int)


def test_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = ClientThreads("test", 2, 2)
    release = threading.Event()
    first = threads.submit(release.wait, 20)

    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        second = threads.submit(int)  # the thread that runs will take it
        release.set()
        assert first.result(20) and second.result(20) == 0
        deadline = time.monotonic() + 10
        while threads._threads and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(RuntimeError, match="start new thread"):
            threads.submit(int)
    assert threads.submit(int).result(20) == 0


def test_a_cancelled_future_tells_the_work() -> None:
    async def everything() -> bool:
        threads, started, told = ClientThreads("test", 1, 1), threading.Event(), threading.Event()

        def work() -> None:
            from llama4rt.workers.client import current_client

            started.set()
            deadline = time.monotonic() + 10
            while not current_client().gone.is_set() and time.monotonic() < deadline:
                time.sleep(0.01)
            if current_client().gone.is_set():
                told.set()

        future = run_in_context(threads, work)
        await asyncio.to_thread(started.wait, 10)
        future.cancel()
        return await asyncio.to_thread(told.wait, 10)

    client = Client("someone")
    with working_for(client):
        assert asyncio.run(everything())
    assert not client.gone.is_set()  # its other work goes on
