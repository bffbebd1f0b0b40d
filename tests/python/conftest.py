"""Fixtures shared by the Python tests: tiny checkpoints, their transformers oracles and engine files, made once."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torchvision_beside
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test talks to a network
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The oracles' matrices are tiny: waking threads costs more than the work. torch is told in load_oracle().
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

torchvision_beside.enable()

# A loaded machine is slow, not wrong.
settings.register_profile("llama4rt", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("llama4rt")

# A job in the background of a shell inherits an ignored SIGINT, and so would every child that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SOAK = os.environ.get("LLAMA4RT_SOAK", "") not in ("", "0")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not SOAK and item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="a long run: make soak (LLAMA4RT_SOAK=1)"))
        if SOAK and "soak" in getattr(item, "fixturenames", ()):  # its long form belongs to the soak run
            item.add_marker(pytest.mark.soak)


@pytest.fixture(scope="session")
def soak() -> bool:
    """For tests that only count further in a soak run."""
    return SOAK


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """checkpoint("scout") -> the directory of that tiny checkpoint."""
    root = tmp_path_factory.mktemp("checkpoints")

    @functools.cache
    def make(kind: str) -> Path:
        from tiny_checkpoints import KINDS, write_checkpoint

        return write_checkpoint(KINDS[kind], root / kind)

    return make


@pytest.fixture(scope="session")
def oracle(checkpoint: Callable[[str], Path]) -> Callable[..., PreTrainedModel]:
    """oracle("scout") -> the checkpoint as a transformers model in fp32 with eager attention."""

    @functools.cache
    def load(kind: str, dtype: str = "float32", attention: str = "eager") -> PreTrainedModel:
        from tiny_checkpoints import load_oracle

        return load_oracle(checkpoint(kind), dtype, attention)

    return load


@pytest.fixture(scope="session")
def greedy(oracle: Callable[..., PreTrainedModel]) -> Callable[[str, tuple[int, ...], int], list[int]]:
    """greedy("scout", prompt, 20) -> what transformers' generate() continues with; computed once."""

    @functools.cache
    def generate(kind: str, prompt: tuple[int, ...], count: int) -> list[int]:
        from tiny_checkpoints import oracle_greedy

        return oracle_greedy(oracle(kind), prompt, count)

    return generate


@pytest.fixture(scope="session")
def engine_file(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """engine_file("scout", weights="int4", group_size=32) -> the built engine file."""
    root = tmp_path_factory.mktemp("engines")

    @functools.cache
    def make(kind: str, **options: Any) -> Path:
        from llama4rt import build

        options = {"weights": "bf16"} | options
        name = "-".join([kind, *(f"{key}_{value}" for key, value in sorted(options.items()))])
        build(str(checkpoint(kind)), str(root / f"{name}.l4e"), **options)
        return root / f"{name}.l4e"

    return make


@pytest.fixture(scope="session")
def text_engine_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine that speaks text: "scout" with a tokenizer of single bytes (BOS 256, end tokens 257 and 264)."""
    from dataclasses import replace

    from llama4rt import build
    from tiny_checkpoints import KINDS, write_byte_tokenizer, write_checkpoint

    scout = KINDS["scout"]
    ends = {"bos_token_id": 256, "eos_token_id": [257, 264]}
    root = tmp_path_factory.mktemp("text")
    source = write_checkpoint(replace(scout, config=scout.config | ends), root / "scout-text")
    write_byte_tokenizer(source)
    build(str(source), str(root / "text.l4e"), weights="bf16")
    return root / "text.l4e"


@pytest.fixture(scope="session")
def vision_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """vision_checkpoint("scout_vision") -> the directory of that tiny checkpoint, with a tokenizer of single bytes."""
    root = tmp_path_factory.mktemp("vision")

    @functools.cache
    def make(kind: str) -> Path:
        from tiny_checkpoints import KINDS, write_byte_tokenizer, write_checkpoint

        assert KINDS[kind].vision
        source = write_checkpoint(KINDS[kind], root / kind)
        write_byte_tokenizer(source)
        return source

    return make


@pytest.fixture(scope="session")
def vision_engine_file(
    vision_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """vision_engine_file("scout_vision", vision="int8") -> an engine that speaks text and looks at pictures."""
    root = tmp_path_factory.mktemp("vision-engines")

    @functools.cache
    def make(kind: str, **options: Any) -> Path:
        from llama4rt import build

        options = {"weights": "bf16"} | options
        name = "-".join([kind, *(f"{key}_{value}" for key, value in sorted(options.items()))])
        build(str(vision_checkpoint(kind)), str(root / f"{name}.l4e"), **options)
        return root / f"{name}.l4e"

    return make
