"""`llama4rt demo`: what it prints, draws and judges, with a random model in the place of the trained one."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama4rt import Engine, EngineFileError, Llama4RTError, demo
from llama4rt.cli.contact_sheet import draw_sheet
from llama4rt.cli.demo import Answered, FoundNeedle, Report, Speed, find_needle, look
from llama4rt.cli.half_blocks import half_blocks
from llama4rt.cli.main import main
from PIL import Image, ImageDraw

TEXT = "Read this. " + "The cat sleeps. " * 20 + "Note: red door A471. " + "The dog runs. " * 9
Capsys = pytest.CaptureFixture[str]


def write_folder(folder: Path, engine: Path) -> None:
    """A folder as make_showcase.py writes it, with answers that a random model will not give."""
    folder.mkdir()
    shutil.copy(engine, folder / "demo.l4e")
    for i, (size, colour) in enumerate([((60, 40), "red"), ((28, 28), "blue"), ((30, 90), "lime")], 1):
        picture = Image.new("RGB", size, "white")
        ImageDraw.Draw(picture).ellipse((5, 5, 20, 20), fill=colour)
        picture.save(folder / f"scene-{i}.png")
    (folder / "needle.txt").write_text(TEXT + "\n")
    asked = [{"question": "What colour is it?", "answer": "It is red."}]
    index = {
        "pictures": [{"file": f"scene-{i}.png", "questions": asked} for i in (1, 2, 3)],
        "texts": [{"question": "What is 1 + 1?", "answer": "2."}, {"question": "A story?", "answer": None}],
        "needle": {
            "file": "needle.txt",
            "question": "What is the code of the red door?",
            "answer": "The code of the red door is A471.",
            "tokens": 400,
        },
    }
    (folder / "showcase.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def folder(vision_engine_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "showcase"
    write_folder(folder, vision_engine_file("scout_vision"))
    return folder


def edit_index(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((folder / "showcase.json").read_text())
    change(index)
    (folder / "showcase.json").write_text(json.dumps(index))


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_asks_times_and_draws(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llama4rt", "demo", "--folder", str(folder), "-t", "1"]
    done = subprocess.run(
        [*command, "--sheet", str(tmp_path / "sheet.png")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    out = done.stdout
    flowing = " ".join(out.split())
    assert out.count("What colour is it?") == 3 and "60 x 40 pixels" in flowing
    assert "\x1b" not in out and out.count("[wrong]") == 5 and "expected: It is red." in out
    assert "0 of 5 answers are right." in out  # the story is not judged
    hidden = r"One fact in a text of \d+ tokens, \d+ attention chunks; the fact stands in chunk \d+"
    assert re.search(hidden, flowing)
    assert re.search(r"reads [\d,]+ tokens/s, writes [\d,]+ tokens/s\..* \d+ % of the", flowing)
    assert "llama4rt build meta-llama/Llama-4-Scout" in out[-700:]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG" and sheet.width == 2160 and sheet.height > sheet.width // 2


def test_right_answers_are_told_from_wrong_ones(folder: Path, tmp_path: Path, capsys: Capsys) -> None:
    """The model's own answers as the expected ones: all right; with one changed, all but one."""
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shown = demo.load_showcase(again)
    with Engine(demo.engine_path(again)) as engine:
        pictures = [look(engine, picture)[0].answer for picture in shown.pictures]
        found = find_needle(engine, shown.needle).answered.answer

    def change(index: dict[str, Any]) -> None:
        for picture, answer in zip(index["pictures"], pictures, strict=True):
            picture["questions"][0]["answer"] = answer
        index["needle"]["answer"] = found
        index["texts"] = []

    edit_index(again, change)
    assert main(["demo", "--folder", str(again)]) == 0
    assert "4 of 4 answers are right." in capsys.readouterr().out
    edit_index(again, lambda index: index["pictures"][1]["questions"][0].update(answer="no"))
    assert main(["demo", "--folder", str(again), "--color", "always"]) == 0
    out = capsys.readouterr().out
    assert "3 of 4 answers are right." in out
    assert out.count("✓") == 3 and out.count("✗") == 1 and "expected: no" in out
    assert out.count("▀") > 300 and "\x1b[38;2;" in out


def test_the_needle_s_place_is_counted_in_tokens_of_the_prompt(folder: Path) -> None:
    shown = demo.load_showcase(folder)
    with Engine(demo.engine_path(folder)) as engine:
        needle = find_needle(engine, shown.needle)
        ids = engine.apply_chat_template(
            [{"role": "user", "content": f"{shown.needle.text} {shown.needle.asked.question}"}]
        )
    assert needle.tokens == len(ids) and needle.chunk == 16 and needle.seconds > 0
    assert needle.place is not None
    assert bytes(ids[needle.place : needle.place + 4]) == b"A471"  # one byte is one token here


# --- what ships -------------------------------------------------------------------------------------------------------


def test_a_folder_without_a_model_is_said_so(tmp_path: Path, capsys: Capsys) -> None:
    with pytest.raises(EngineFileError, match=r"demo\.l4e: the demo model is not there"):
        demo.engine_path(tmp_path)
    assert main(["demo", "--folder", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "index", [None, "", "[]", "{}", '{"pictures": [], "texts": [], "needle": {"file": "x"}}']
)
def test_bad_indexes_are_typed_errors(index: str | None, tmp_path: Path) -> None:
    if index is not None:
        (tmp_path / "showcase.json").write_text(index)
    with pytest.raises(Llama4RTError, match=r"showcase\.json"):
        demo.load_showcase(tmp_path)


def test_what_ships_is_complete_and_small() -> None:
    assert demo.engine_path().stat().st_size <= 10_000_000
    shown = demo.load_showcase()
    assert len(shown.pictures) == 3 and shown.texts and len(shown.needle.text) > 4000
    for picture in shown.pictures:
        with Image.open(picture.path) as image:
            assert image.format == "PNG" and picture.questions


def test_chat_without_a_file_opens_the_demo_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    options = ["-n", "6", "--temperature", "0"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert main(["chat", str(folder / "demo.l4e"), *options]) == 0
    expected = capsys.readouterr().out
    monkeypatch.setattr(demo, "engine_path", lambda: folder / "demo.l4e")
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    assert main(["chat", *options]) == 0
    assert capsys.readouterr().out == expected


# --- pictures in a terminal -------------------------------------------------------------------------------------------

_CELL = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+)m\x1b\[48;2;(\d+);(\d+);(\d+)m▀")


@pytest.mark.parametrize(("width", "height"), [(7, 4), (8, 8), (3, 8)])
def test_half_blocks_are_the_pixels(width: int, height: int) -> None:
    """A picture that fits exactly is not resized: two pixels a character, upper and lower."""
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    lines = half_blocks(Image.fromarray(pixels), width, height // 2)
    assert len(lines) == height // 2
    for row, line in enumerate(lines):
        cells = np.array(_CELL.findall(line), dtype=int).reshape(width, 2, 3)
        np.testing.assert_array_equal(cells[:, 0], pixels[2 * row])
        np.testing.assert_array_equal(cells[:, 1], pixels[2 * row + 1])
        assert line.endswith("\x1b[0m")


@pytest.mark.parametrize("size", [(300, 300), (1, 500), (500, 1), (200, 320), (2, 2)])
def test_half_blocks_keep_the_shape_and_the_columns(size: tuple[int, int]) -> None:
    lines = half_blocks(Image.new("RGB", size, "red"), 30, 12)
    assert 1 <= len(lines) <= 12
    widths = {len(_CELL.findall(line)) for line in lines}
    assert len(widths) == 1 and 1 <= (width := widths.pop()) <= 30
    assert {len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in lines} == {30}
    if min(size) > 100:
        assert width / (2 * len(lines)) == pytest.approx(size[0] / size[1], rel=0.1)


# --- the sheet --------------------------------------------------------------------------------------------------------


def report(folder: Path, *, wrong: int = 0, long: str = "", place: int | None = 70) -> Report:
    answered = tuple(
        Answered("What is it?", "A star.", "A cross." if i < wrong else "A star." + long) for i in range(3)
    )
    right = Answered("The code?", "A471.", "A471.")
    pictures = tuple((folder / f"scene-{i}.png", answered[i - 1 : i]) for i in (1, 2, 3))
    story = (Answered("A story?", None, "Once. " * 60),)
    return Report(
        "a model", pictures, story, FoundNeedle(right, 200, 16, place, 0.5), Speed(9.0, 8.0, 2.0, 4.0)
    )


def colours(sheet: Image.Image) -> dict[str, int]:
    found = sheet.getcolors(1 << 24) or []
    return {"#{:02x}{:02x}{:02x}".format(*colour): count for count, colour in found}  # type: ignore[misc]


def test_the_sheet_marks_right_and_wrong(folder: Path) -> None:
    good, bad = (colours(draw_sheet(report(folder, wrong=wrong))) for wrong in (0, 2))
    green, red, accent = "#2e8b57", "#c8442f", "#2f5fc8"
    assert red not in good and bad[red] > 1000
    assert bad[green] == pytest.approx(good[green] / 2, rel=0.01)  # two marks of four
    assert good[accent] > 1000 and accent not in colours(draw_sheet(report(folder, place=None)))


@pytest.mark.parametrize("long", [" and a star" * 60, "x" * 400, "\n\n" + "tall\n" * 30, " ", " ✓ 東京"])
def test_nothing_leaves_its_card(long: str, folder: Path) -> None:
    sheet = np.asarray(draw_sheet(report(folder, long=long)))
    paper = sheet[0, 0]
    margin = 2 * 40
    for border in (sheet[:, :margin], sheet[:, -margin:], sheet[:40], sheet[-20:]):
        assert (border == paper).all()
    short = draw_sheet(report(folder))
    assert sheet.shape[0] >= short.height
