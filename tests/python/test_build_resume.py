"""An interrupted build goes on where it was, to the same bytes as one that was never interrupted; and what is left of
another build, or was tampered with, costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import build
from llama4rt.convert.build import BuildReport
from llama4rt.errors import CheckpointError
from lora_adapters import Adapter
from random_checkpoints import SMALL, models, random_values, write_values

CONFIG: dict[str, Any] = SMALL | {"num_hidden_layers": 4, "interleave_moe_layer_step": 2}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_values(tmp_path_factory.mktemp("resume") / "source", CONFIG, random_values(CONFIG), shards=2)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What an uninterrupted build makes."""
    path = tmp_path_factory.mktemp("whole") / "out.l4e"
    build(source, path)
    return digest(path)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def interrupted(
    source: Path, out: Path, part: float, error: BaseException | None = None, **options: Any
) -> None:
    """Stops a build once `part` of it is done."""

    def stop(done: int, total: int) -> None:
        if done > part * total:
            raise error or KeyboardInterrupt

    with pytest.raises(type(error) if error else KeyboardInterrupt):
        build(source, out, progress=stop, **options)
    assert not out.exists()


def journal(out: Path) -> Path:
    return Path(f"{out}.journal")


def temporary(out: Path) -> Path:
    return Path(f"{out}.tmp")


def resumed(source: Path, out: Path, **options: Any) -> tuple[BuildReport, list[str]]:
    """The report, and what was warned of; nothing is left beside the file."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        report = build(source, out, **options)
    assert not journal(out).exists() and not temporary(out).exists()
    return report, [str(warning.message) for warning in said]


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.95])
def test_the_same_bytes(part: float, source: Path, whole: str, tmp_path: Path) -> None:
    out = tmp_path / "out.l4e"
    interrupted(source, out, part, num_threads=2)
    report, said = resumed(source, out)
    assert digest(out) == whole and not said
    # Whole weights count: the largest of this model is a sixth of it.
    assert part - 0.2 < report.resumed < part + 0.01
    assert report.resumed > 0 or part < 0.1
    plain = tmp_path / "plain.l4e"
    assert build(source, plain).worst == report.worst  # the errors of what was done before are reported too


def test_interrupted_again_and_again(source: Path, whole: str, tmp_path: Path) -> None:
    out = tmp_path / "out.l4e"
    for i in range(1, 10):
        interrupted(source, out, i / 10)
    report, _ = resumed(source, out)
    assert digest(out) == whole and report.resumed > 0.7


def test_work_that_is_done_is_not_done_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.l4e"
    interrupted(source, out, 0.5)
    calls: list[tuple[int, int]] = []
    report, _ = resumed(source, out, progress=lambda *call: calls.append(call))
    first, total = calls[0]
    assert first == report.resumed * total and first > 0.3 * total
    assert calls[-1] == (total, total)


def test_an_error_leaves_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.l4e"
    interrupted(source, out, 0.5, RuntimeError("of a progress function"))
    assert not os.listdir(tmp_path)
    values = random_values(CONFIG)
    values["model.layers.3.self_attn.o_proj.weight"][0, 0] = np.nan
    bad = write_values(tmp_path / "bad", CONFIG, values)
    with pytest.raises(CheckpointError):
        build(bad, out)
    assert os.listdir(tmp_path) == ["bad"]


def test_bad_numbers_are_found_again(tmp_path: Path) -> None:
    """A weight that could not be used is not taken for done."""
    values = random_values(CONFIG)
    values["model.layers.0.self_attn.o_proj.weight"][0, 0] = np.nan
    source = write_values(tmp_path / "source", CONFIG, values)
    out = tmp_path / "out.l4e"
    interrupted(source, out, 0.6)
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.o_proj"):
        build(source, out)


# --- what is of another build


def other_weights(source: Path, tmp_path: Path) -> Path:
    """Of the same names, sizes and headers."""
    return write_values(tmp_path / "other", CONFIG, random_values(CONFIG, seed=1), shards=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "int8"}, "options, plan not the same"),
        ({"group_size": 64}, "options, plan not the same"),
        ({"rope_scaling": {}}, "plan not the same"),
        ({"target": "cuda"}, "options not the same"),
    ],
)
def test_other_options_begin_anew(options: dict[str, Any], words: str, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.l4e"
    interrupted(source, out, 0.5)
    report, said = resumed(source, out, **options)
    assert report.resumed == 0
    assert len(said) == 1 and "is of another build" in said[0] and words in said[0], said
    build(source, tmp_path / "fresh.l4e", **options)
    assert digest(out) == digest(tmp_path / "fresh.l4e")


def test_other_weights_begin_anew(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.l4e"
    interrupted(source, out, 0.5)
    other = other_weights(source, tmp_path)
    report, said = resumed(other, out)
    assert report.resumed == 0 and "source files not the same" in said[0]
    build(other, tmp_path / "fresh.l4e")
    assert digest(out) == digest(tmp_path / "fresh.l4e")


def test_a_touched_shard_begins_anew(tmp_path: Path) -> None:
    source = write_values(tmp_path / "source", CONFIG, random_values(CONFIG))
    out = tmp_path / "out.l4e"
    interrupted(source, out, 0.5)
    os.utime(source / "model.safetensors", (1, 1))
    assert "source files not the same" in resumed(source, out)[1][0]


def test_adapters_are_part_of_what_is_built(source: Path, whole: str, tmp_path: Path) -> None:
    adapter = Adapter()
    adapter.linear("model.layers.0.self_attn.q_proj", 32, 32)
    where = adapter.write(tmp_path / "adapter")
    out = tmp_path / "out.l4e"
    interrupted(source, out, 0.5, lora=[where])
    report, said = resumed(source, out)
    assert report.resumed == 0 and "checkpoint, source files" in said[0]
    assert digest(out) == whole
    interrupted(source, tmp_path / "two.l4e", 0.5, lora=[where])
    report, _ = resumed(source, tmp_path / "two.l4e", lora=[where])
    assert report.resumed > 0.2


def test_resume_can_be_declined(source: Path, whole: str, tmp_path: Path) -> None:
    out = tmp_path / "out.l4e"
    interrupted(source, out, 0.5)
    report, said = resumed(source, out, resume=False)
    assert report.resumed == 0 and not said and digest(out) == whole


# --- what is damaged


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "no journal": lambda out: journal(out).unlink(),
    "an empty journal": lambda out: journal(out).write_bytes(b""),
    "a torn journal": lambda out: journal(out).write_bytes(journal(out).read_bytes()[:-40]),
    "half a journal": lambda out: journal(out).write_bytes(
        journal(out).read_bytes()[: journal(out).stat().st_size // 2]
    ),
    "no first line": lambda out: journal(out).write_bytes(journal(out).read_bytes().split(b"\n", 1)[1]),
    "a list": lambda out: journal(out).write_bytes(b"[]\n"),
    "zeros": lambda out: journal(out).write_bytes(bytes(journal(out).stat().st_size)),
    "no temporary": lambda out: temporary(out).unlink(),
    "a short temporary": lambda out: os.truncate(temporary(out), temporary(out).stat().st_size // 2),
    "a long temporary": lambda out: os.truncate(temporary(out), temporary(out).stat().st_size + 1),
    "another temporary": lambda out: temporary(out).write_bytes(os.urandom(temporary(out).stat().st_size)),
    "zeros in its place": lambda out: temporary(out).write_bytes(bytes(temporary(out).stat().st_size)),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_damage_costs_time_and_nothing_else(name: str, source: Path, whole: str, tmp_path: Path) -> None:
    out = tmp_path / "out.l4e"
    interrupted(source, out, 0.7)
    DAMAGE[name](out)
    report, _ = resumed(source, out)
    assert digest(out) == whole
    if name == "a torn journal":
        assert report.resumed > 0.3


def hashed(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text


def test_lines_of_every_kind(source: Path, whole: str, tmp_path: Path) -> None:
    """Lines that are no promise, or a false one."""
    out = tmp_path / "out.l4e"
    interrupted(source, out, 0.7)
    lines = journal(out).read_bytes().splitlines()
    good = json.loads(lines[1].partition(b" ")[2])
    for value in (
        None, 7, "text", {}, [1],
        {"name": "no such weight", "checksums": {}, "error": ["0x0p+0"] * 3},
        good | {"checksums": dict.fromkeys(good["checksums"], -1)},
        good | {"checksums": dict.fromkeys(good["checksums"], 1 << 70)},
        good | {"checksums": dict.fromkeys(good["checksums"], 7)},
        good | {"error": [1, 2, 3]}, good | {"error": ["0x1p+0"]}, good | {"checksums": []},
    ):  # fmt: skip
        lines.insert(2, hashed(json.dumps(value).encode()))
    lines[2:2] = [b"", b"null", b"\xff\xfe", hashed(b"{" * 100_000), hashed(b"[1"), lines[1][:-1] + b"X"]
    journal(out).write_bytes(b"\n".join(lines) + b"\n")
    resumed(source, out)
    assert digest(out) == whole


def test_any_damage(source: Path, whole: str, tmp_path: Path, soak: bool) -> None:
    """Bits of either file."""
    out = tmp_path / "out.l4e"
    for seed in range(500 if soak else 15):
        rng = random.Random(seed)
        interrupted(source, out, rng.random(), resume=False)
        for _ in range(rng.choice((1, 3))):
            path = rng.choice((journal(out), temporary(out)))
            if path.exists():
                flip(path, rng.randrange(path.stat().st_size))
        resumed(source, out)
        assert digest(out) == whole, seed
        out.unlink()


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_something_in_the_journals_place(kind: str, source: Path, whole: str, tmp_path: Path) -> None:
    """It stays, and is said; the build is made."""
    out = tmp_path / "out.l4e"
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if kind == "directory":
        journal(out).mkdir()
    elif kind == "link":
        journal(out).symlink_to(victim)
    else:
        os.mkfifo(journal(out))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        build(source, out)
    assert digest(out) == whole
    assert victim.read_text() == "precious"
    if kind == "directory":
        assert journal(out).is_dir()
        assert "this build cannot go on later" in str(said[0].message)


# --- real interruptions


def test_killed_builds_go_on(tmp_path: Path) -> None:
    """SIGKILL and Ctrl-C, at moments of a real process."""
    config = models.PRESETS["tiny"] | {
        "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "vision_config": None,
    }  # fmt: skip
    models.write_checkpoint(config, tmp_path / "source")
    out = tmp_path / "out.l4e"
    command = [
        sys.executable,
        "-m",
        "llama4rt",
        "build",
        str(tmp_path / "source"),
        "-o",
        str(out),
        "--threads",
        "1",
    ]
    for sign in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        before = journal(out).stat().st_size if journal(out).exists() else 0
        # Until this build has added something: two lines more than there were.
        while process.poll() is None and (
            not journal(out).exists() or journal(out).stat().st_size < before + 500
        ):
            time.sleep(0.002)
        process.send_signal(sign)
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0, "the build was over before it was stopped"
        assert not out.exists() and journal(out).exists() and temporary(out).exists()
        if sign == signal.SIGINT:
            assert "goes on where it stopped" in errors
    report, said = resumed(tmp_path / "source", out)
    assert report.resumed > 0 and not said
    build(tmp_path / "source", tmp_path / "fresh.l4e")
    assert digest(out) == digest(tmp_path / "fresh.l4e")
