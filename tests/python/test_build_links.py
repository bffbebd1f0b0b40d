"""The files of a build: no link is followed out of the checkpoint or onto another file, and a file that an engine has
open is not built over; one that is written to all the same is noticed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from llama4rt import Engine, SamplingParams, build
from llama4rt._core import EngineFile
from llama4rt.errors import CheckpointError, EngineFileError, Llama4RTError
from random_checkpoints import SMALL, TINY, random_values, write_values


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_values(tmp_path_factory.mktemp("tiny") / "checkpoint", TINY, random_values(TINY))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_values(tmp_path / "sharded", SMALL, random_values(SMALL), shards=3)


# --- links


def linked(source: Path, blobs: Path, snapshot: Path) -> Path:
    """A snapshot of links to numbered blobs, as the hub's cache has it."""
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, blobs / f"{i:040x}")
        target = os.path.relpath(blobs / f"{i:040x}", snapshot)
        (snapshot / path.name).symlink_to(target)
    return snapshot


@pytest.mark.parametrize(
    ("blobs", "snapshot"),
    [("models--a--b/blobs", "models--a--b/snapshots/0123abcd"), ("blobs", "snapshot"), ("own/.blobs", "own")],
)
def test_links_may_lead_into_the_repository_s_blobs(
    blobs: str, snapshot: str, sharded: Path, tmp_path: Path
) -> None:
    (sharded / "LICENSE").write_text("the licence\n")
    if blobs == "own/.blobs":  # links inside the directory itself
        shutil.copytree(sharded, tmp_path / "own")
        (tmp_path / "own" / "LICENSE").rename(tmp_path / "own" / "text")
        (tmp_path / "own" / "LICENSE").symlink_to("text")
    else:
        linked(sharded, tmp_path / blobs, tmp_path / snapshot)
    (tmp_path / "home").symlink_to(tmp_path / snapshot, target_is_directory=True)  # and a link to all of it
    for source in (tmp_path / snapshot, tmp_path / "home"):
        build(source, tmp_path / "out.l4e")
        assert bytes(EngineFile(str(tmp_path / "out.l4e")).raw("files/LICENSE")) == b"the licence\n"


FILES = ["LICENSE", "NOTICE.txt", "USE_POLICY.md", "config.json", "generation_config.json", "tokenizer.json",
         "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json",
         "model.safetensors.index.json", "model-00002-of-00003.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["absolute", "relative", "two steps", "false blobs", "neighbour"])
def test_links_that_leave_the_checkpoint_are_refused(
    name: str, how: str, sharded: Path, tmp_path: Path
) -> None:
    """Else whatever they point to would be in the engine file, for all who get it."""
    path, secret = sharded / name, tmp_path / "elsewhere" / "secret"
    secret.parent.mkdir()
    content = path.read_bytes() if path.exists() else b"{}"
    secret.write_bytes(content)
    path.unlink(missing_ok=True)
    if how == "absolute":
        path.symlink_to(secret)
    elif how == "relative":
        path.symlink_to("../elsewhere/secret")
    elif how == "two steps":
        (sharded / "step").symlink_to(secret)
        path.symlink_to("step")
    elif how == "false blobs":  # a folder called blobs that is a link itself
        (tmp_path / "blobs").symlink_to(secret.parent)
        path.symlink_to("../blobs/secret")
    else:  # a folder whose name begins like the checkpoint's
        secret.parent.rename(tmp_path / "sharded-secret")
        path.symlink_to("../sharded-secret/secret")
    with pytest.raises(CheckpointError, match=rf"{name}: is a link to .*secret.*outside the checkpoint"):
        build(sharded, tmp_path / "out.l4e")
    assert not [entry for entry in os.listdir(tmp_path) if entry.startswith("out.l4e")]


def test_links_to_nothing_are_refused(sharded: Path, tmp_path: Path) -> None:
    for name, target in (("LICENSE", "gone"), ("tokenizer.model", "tokenizer.model")):
        (sharded / name).symlink_to(target)
        with pytest.raises(CheckpointError, match=name):
            build(sharded, tmp_path / "out.l4e")
        (sharded / name).unlink()


@pytest.mark.parametrize("kind", ["symbolic", "hard", "pipe", "folder"])
def test_a_temporary_that_no_build_left_is_not_written_to(kind: str, tiny: Path, tmp_path: Path) -> None:
    victim, temporary = tmp_path / "victim", tmp_path / "out.l4e.tmp"
    victim.write_text("precious")
    make = {
        "symbolic": lambda: temporary.symlink_to(victim),
        "hard": lambda: temporary.hardlink_to(victim),
        "pipe": lambda: os.mkfifo(temporary),
        "folder": temporary.mkdir,
    }
    make[kind]()
    with pytest.raises(Llama4RTError, match=r"out\.l4e\.tmp: is .*no build left it there; remove it"):
        build(tiny, tmp_path / "out.l4e")
    assert victim.read_text() == "precious" and os.path.lexists(temporary)
    assert not (tmp_path / "out.l4e").exists()


def test_the_output_may_be_a_link_which_is_replaced(tiny: Path, tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out.l4e"
    victim.write_text("precious")
    for link in (out.symlink_to, out.hardlink_to):
        link(victim)
        build(tiny, out)
        assert victim.read_text() == "precious" and not out.is_symlink()
        assert EngineFile(str(out)).verify() == []
        out.unlink()


# --- a file in use


def test_an_open_engine_is_not_built_over(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.l4e"
    build(tiny, out)
    before = sha256(out)
    with Engine(out, device="cpu") as engine:
        with pytest.raises(
            Llama4RTError, match=r"out\.l4e: an engine has this file open; close it, or build"
        ):
            build(tiny, out, weights="int8")
        program = "import sys, llama4rt; llama4rt.build(*sys.argv[1:])"
        done = subprocess.run([sys.executable, "-c", program, tiny, out], capture_output=True, check=False)
        assert b"an engine has this file open" in done.stderr
        assert sha256(out) == before
        assert sorted(os.listdir(tmp_path)) == ["out.l4e"]
        # The way to do it: a rename leaves the running engine what it has opened.
        build(tiny, tmp_path / "new.l4e", weights="int8")
        (tmp_path / "new.l4e").rename(out)
        assert len(engine.generate([[1, 2, 3]], SamplingParams(max_tokens=2))[0].outputs[0].token_ids) == 2
    build(tiny, out)


@pytest.mark.parametrize("how", ["cp", "touch", "cut", "one byte"])
def test_a_file_changed_under_an_engine_is_an_error(how: str, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.l4e"
    build(tiny, out)
    shutil.copy(out, tmp_path / "other.l4e")
    ids, params = [[1, 2, 3]], SamplingParams(max_tokens=2)
    with Engine(out, device="cpu") as engine:
        engine.generate(ids, params)
        if how == "cp":
            subprocess.run(["cp", tmp_path / "other.l4e", out], check=True)
        elif how == "touch":
            os.utime(out)
        elif how == "cut":
            os.truncate(out, out.stat().st_size - 4096)
        else:
            with open(out, "r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"x")
        with pytest.raises(EngineFileError, match=r"out\.l4e: the file (has been written|had \d+ bytes)"):
            engine.generate(ids, params)
        with pytest.raises(EngineFileError, match=r"out\.l4e"):
            engine._core.file_bytes("tokenizer.model")  # what the tokenizer is loaded from, later


def test_a_change_in_the_middle_of_a_request_ends_it(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.l4e"
    build(tiny, out)
    with Engine(out, device="cpu") as engine:
        stream = engine.stream([1, 2, 3], SamplingParams(max_tokens=2000, ignore_eos=True))
        next(stream)
        os.utime(out)
        with pytest.raises(Llama4RTError, match="written to since it was opened"):
            list(stream)
