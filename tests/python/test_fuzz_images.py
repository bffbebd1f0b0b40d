"""Damaged pictures and messages end in typed errors or in an answer; the engine serves on, and nothing is left behind.

A few hundred of each here; in a soak run 20,000, and a million files through the processes that decode.
"""

from __future__ import annotations

import gc
import random
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import image_mutations
import numpy as np
import psutil
import pytest
from llama4rt import Engine, ImageError, ImageLimits, RequestError, SamplingParams
from llama4rt.images.decode import FORMATS, decode
from llama4rt.images.decoder import PictureDecoder
from llama4rt.images.processing import ImageProcessor
from llama4rt.images.sources import load_image
from llama4rt.workers.child_process import ChildLimit

Files = Callable[..., Path]
MIB = 1 << 20
GREEDY = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
# Small ones, so that the soak run is not spent on large pictures; the limits themselves have their own tests.
LIMITS = ImageLimits(max_pixels=1 << 20)


def rss() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def test_the_good_files_are_good() -> None:
    read = {decode(data, LIMITS).size for data in image_mutations.seeds()}
    assert len(read) > 3
    heads = {data[:2] for data in image_mutations.seeds()}
    assert len(heads) >= len(FORMATS)


def test_damaged_files(soak: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """ImageError or a picture, nothing warned and nothing printed (but by libtiff, which prints its errors itself)."""
    ends: Counter[str] = Counter()
    longest = ""
    for seed in range(14_000 if soak else 1500):
        source = image_mutations.damaged_source(random.Random(seed))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                image = load_image(source, LIMITS)
            except ImageError as error:
                longest = max(longest, str(error), key=len)
                ends["refused"] += 1
            except BaseException as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
            else:
                assert image.mode == "RGB" and np.asarray(image).shape == (image.height, image.width, 3)
                ends["read"] += 1
        printed = capfd.readouterr()
        tiff = isinstance(source, (bytes, str)) and source[:2] in (b"II", b"MM", "da")
        assert tiff or (printed.out, printed.err) == ("", ""), seed
    assert min(ends["refused"], ends["read"]) > 100, ends
    assert 20 < len(longest) < 1000, longest


class Campaign:
    """Damaged files through the processes that decode, from several threads."""

    def __init__(self, limits: ImageLimits, threads: int = 2) -> None:
        self.ends: Counter[str] = Counter()
        self.longest = 0.0  # seconds of processor time
        self._limits = limits
        self._threads = threads
        self._lock = threading.Lock()

    def run(self, first: int, last: int) -> None:
        with ThreadPoolExecutor(self._threads) as threads:
            parts = [range(first + i, last, self._threads) for i in range(self._threads)]
            for future in [threads.submit(self._decode, part) for part in parts]:
                future.result()

    def _decode(self, seeds: range) -> None:
        decoder = PictureDecoder(
            self._limits, ImageProcessor()
        )  # its own, so that one process does this thread's work
        good = decoder(b"P6 1 1 255\nabc").digest
        (pid,) = decoder.pids()
        child = psutil.Process(pid)
        ends: Counter[str] = Counter()
        used, longest = 0.0, 0.0
        for seed in seeds:
            source = image_mutations.damaged_picture(random.Random(f"picture {seed}"))
            try:
                picture = decoder(source)
            except ImageError as error:
                if isinstance(error.__cause__, ChildLimit):
                    raise AssertionError(f"seed {seed}: {error}") from error
                ends["refused"] += 1
            except BaseException as error:
                raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
            else:
                assert picture.tiles.shape[0] == picture.tiling.num_tiles
                ends["read"] += 1
            before, used = used, sum(child.cpu_times()[:2])
            longest = max(longest, used - before)
        assert decoder.pids() == [pid] and decoder(b"P6 1 1 255\nabc").digest == good
        decoder.close()
        with self._lock:
            self.ends += ends
            self.longest = max(self.longest, longest)


def test_damaged_files_in_children(soak: bool) -> None:
    """No picture takes two seconds of processor time or ends its process, and the processes are free afterwards."""
    count = 1_000_000 if soak else 1500
    for limits, first, last in (
        (
            ImageLimits(max_cpu_seconds=2),
            0,
            count // 20,
        ),  # large ones too, as far as a header can promise them
        (ImageLimits(max_cpu_seconds=2, max_pixels=1 << 20), count // 20, count),
    ):
        campaign = Campaign(limits)
        campaign.run(first, last)
        assert campaign.ends.total() == last - first and campaign.longest < 2
        assert min(campaign.ends["refused"], campaign.ends["read"]) > (last - first) // 20, campaign.ends


def check_messages(engine: Engine, start: int, count: int) -> Counter[str]:
    ends: Counter[str] = Counter()
    for seed in range(start, start + count):
        rng = random.Random(f"messages {seed}")
        messages = image_mutations.damaged_messages(rng)
        try:
            prepared = engine.prepare_chat(messages)
            if rng.random() < 0.1:
                (out,) = engine.generate(prepared, GREEDY)
                assert out.finished
        except RequestError:
            ends["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        else:
            ends["answered"] += 1
    return ends


def test_damaged_messages(vision_engine_file: Files, soak: bool) -> None:
    """RequestError or an answer; afterwards the engine answers as before, and holds nothing more than before."""
    limits = {"kv_cache_memory": "16MiB", "max_model_len": 1024, "image_limits": LIMITS}
    good = np.arange(30 * 20 * 3, dtype=np.uint8).reshape(30, 20, 3)
    process = psutil.Process()
    with Engine(vision_engine_file("micro_vision"), **limits) as engine:  # type: ignore[arg-type]

        def answer() -> list[int]:
            return engine.generate("What is <|image|>?", GREEDY, images=[good])[0].outputs[0].token_ids

        expected = answer()
        warm = check_messages(engine, 0, 6_000 if soak else 150)
        before, files, threads = rss(), process.num_fds(), process.num_threads()
        ends = warm + check_messages(engine, 100_000, 6_000 if soak else 150)
        assert min(ends["refused"], ends["answered"]) > 20, ends
        assert answer() == expected
        assert engine.stats()["running"] == 0 and engine.stats()["waiting"] == 0
        # Threads for pictures start when none is idle: up to four, however many messages come.
        assert (process.num_fds() <= files, process.num_threads() <= threads + 4) == (True, True)
        assert rss() - before < 48 * MIB
