"""A build that succeeds opens: what opening refuses is refused before anything is quantised, in the same words."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
from llama4rt import Engine, SamplingParams, build
from llama4rt.errors import CheckpointError, ConfigError
from random_checkpoints import SMALL, VISION, random_values, write_config, write_values


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """With a vision tower, and without."""
    root = tmp_path_factory.mktemp("sources")
    return {
        vision: write_values(root / str(vision), SMALL, random_values(SMALL, vision=vision), vision=vision)
        for vision in (False, True)
    }


@pytest.fixture
def source(sources: dict[bool, Path], tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    vision = getattr(request, "param", False)
    copy = Path(shutil.copytree(sources[vision], tmp_path / "source"))
    tiny_checkpoints.write_byte_tokenizer(copy)
    if vision:
        tiny_checkpoints.write_preprocessor_config(copy, VISION["image_size"])
    return copy


def refused(source: Path, tmp_path: Path, words: str, **options: Any) -> None:
    with pytest.raises((CheckpointError, ConfigError)) as error:
        build(source, tmp_path / "out.l4e", **options)
    assert re.search(words, str(error.value)), str(error.value)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("source", [False, True], indirect=True)
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_good_one_builds(source: Path, target: str, tmp_path: Path) -> None:
    build(source, tmp_path / "out.l4e", target=target)
    if target == "cpu":
        with Engine(tmp_path / "out.l4e") as engine:
            engine.apply_chat_template([{"role": "user", "content": "Hello"}])
            assert engine.generate([[1, 2]], SamplingParams(max_tokens=1))


@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize("size", [1, 8, 20, 100, 8191])
def test_chunks_that_no_cache_can_hold(size: int, target: str, source: Path, tmp_path: Path) -> None:
    write_config(source, SMALL | {"attention_chunk_size": size})
    refused(source, tmp_path, f"attention_chunk_size {size}, which must be a multiple of 16", target=target)


@pytest.mark.parametrize("size", [16, 48, 8192])
def test_chunks_that_one_can_hold(size: int, source: Path, tmp_path: Path) -> None:
    write_config(source, SMALL | {"attention_chunk_size": size})
    build(source, tmp_path / "out.l4e")
    with Engine(tmp_path / "out.l4e", device="cpu") as engine:
        assert engine.generate([[1, 2]], SamplingParams(max_tokens=1))


def test_the_memory_of_this_machine_is_no_matter(source: Path, tmp_path: Path) -> None:
    """It may be built here for another."""
    write_config(source, SMALL | {"max_position_embeddings": 1 << 40})
    build(source, tmp_path / "out.l4e")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.model", b"not base64 rank", r"tokenizer\.model: line 1 is not"),
        ("tokenizer.model", b"", r"tokenizer\.model: 256 single bytes"),
        ("tokenizer.json", b"{}", r"tokenizer\.json"),
        ("tokenizer.json", b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}',
         r"tokenizer\.json: the model is 'WordLevel', not byte-level BPE"),
        ("tokenizer_config.json", b"{", r"chat template cannot be used.*tokenizer_config\.json"),
        ("chat_template.jinja", b"{% if %}", "chat template cannot be used.*"),
        ("chat_template.jinja", b"{{ messages[0].content.no.such() }}", "chat template cannot be used"),
        ("chat_template.jinja", b"{% for i in range(10 ** 9) %}x{% endfor %}", "chat template cannot be used"),
        ("chat_template.json", b'{"chat_template": "{{ oops"}', "chat template cannot be used"),
        ("generation_config.json", b'{"temperature": -1}', r"generation_config\.json.*temperature is -1"),
        ("generation_config.json", b'{"top_p": 2}', "top_p is 2"),
    ],
)  # fmt: skip
def test_files_that_opening_refuses(
    name: str, content: bytes, words: str, source: Path, tmp_path: Path
) -> None:
    if name == "tokenizer.json":
        (source / "tokenizer.model").unlink()
    (source / name).write_bytes(content)
    refused(source, tmp_path, words)


@pytest.mark.parametrize("source", [True], indirect=True)
@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resample": 3}, "resample is 3; it must be 2, bilinear"),
        ({"resample": 0}, "resample is 0"),
        ({"size": {"height": 448, "width": 448}}, "size is .*448"),
        ({"size": {"height": [1], "width": 448}}, "size is "),
        ({"image_mean": [0.48, 0.45, 0.4]}, "image_mean is"),
        ({"image_std": [0.2, 0.2, 0.2]}, "image_std is"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"do_normalize": False}, "do_normalize is False"),
        ({"max_patches": 0}, "max_patches is 0"),
    ],
)
def test_other_preprocessing_than_the_trained_one(
    changes: dict[str, Any], words: str, whole: bool, name: str, source: Path, tmp_path: Path
) -> None:
    """whole: among all the keys that transformers saves; else alone, where it used to go unseen."""
    path = source / "preprocessor_config.json"
    settings = json.loads(path.read_text()) | changes if whole else changes
    path.unlink()
    (source / name).write_text(
        json.dumps({"image_processor": settings} if name.startswith("processor") else settings)
    )
    refused(source, tmp_path, f"image processor cannot be used.*{name}: {words}")
    build(source, tmp_path / "out.l4e", vision="none")  # which reads no pictures
