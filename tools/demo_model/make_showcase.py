"""Writes what `llama4rt demo` shows: three held-out pictures with questions and right answers, and a needle text.

    python -m tools.demo_model.make_showcase FOLDER

FOLDER gets scene-1.png to scene-3.png, needle.txt and showcase.json:
{"pictures": [{"file", "questions": [{"question", "answer"}]}], "needle": {"file", "question", "answer",
"tokens"}, "texts": [{"question", "answer"}]}. An answer of null means that any sensible reply is right (a story).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from tools.demo_model.chat import Chat, default_chat
from tools.demo_model.model import CHUNK
from tools.demo_model.needles import NeedleMaker, NeedleText
from tools.demo_model.scenes import BIG, SMALL, Scene, Thing

NEEDLE_CHUNKS = 16


def _thing(shape: str, colour: str, big: bool, row: int, col: int) -> Thing:
    return Thing(shape, colour, big, row, col, (col + 0.5) / 3, (row + 0.5) / 3, (BIG if big else SMALL) / 3)


SCENES: tuple[tuple[Scene, tuple[tuple[str, str], ...]], ...] = (
    (
        Scene(
            (
                _thing("star", "yellow", True, 0, 2),
                _thing("circle", "red", True, 1, 0),
                _thing("triangle", "green", True, 2, 1),
            ),
            "black",
            320,
            240,
            1,
        ),
        (
            ("What colour is the circle?", "The circle is red."),
            ("Where is the star?", "The star is top right."),
            ("Is the star above the triangle?", "The star is top and the triangle is bottom, so yes."),
        ),
    ),
    (
        Scene(
            (
                _thing("cross", "purple", True, 0, 0),
                _thing("square", "orange", False, 0, 2),
                _thing("square", "blue", True, 2, 2),
            ),
            "white",
            300,
            300,
            183,  # the seed whose variation of colour shifts the background least
        ),
        (
            ("How many shapes are there?", "The number of shapes is three."),
            ("What shape is the purple one?", "The purple one is a cross."),
            (
                "Describe the picture.",
                "A big purple cross top left, a small orange square top right and a big blue square bottom right on "
                "a white background.",
            ),
        ),
    ),
    (
        Scene(
            (_thing("triangle", "blue", True, 0, 1), _thing("star", "red", False, 2, 1)),
            "grey",
            200,
            320,
            68,
        ),
        (
            ("What is below the triangle?", "The triangle is top, and below is the red star."),
            (
                "Which is bigger, the star or the triangle?",
                "The star is small and the triangle is big, so the triangle is bigger.",
            ),
            (
                "List the shapes as JSON.",
                '[{"colour": "blue", "shape": "triangle"}, {"colour": "red", "shape": "star"}]',
            ),
        ),
    ),
)
TEXTS: tuple[tuple[str, str | None], ...] = (
    ("Who are you?", "I am a small Llama 4 model. I know shapes, sums and short stories."),
    ("What is 47 + 38?", "47 + 38 = 85."),
    ("Tell a short story about an owl.", None),
    (
        "Reply in JSON: Ida is 27 years old and lives in Lima.",
        '{"name": "Ida", "age": 27, "city": "Lima"}',
    ),
)


def _early_needle(chat: Chat) -> NeedleText:
    """A text whose asked fact stands in its first quarter, far from the question."""
    maker = NeedleMaker(chat)
    for seed in range(100):
        needle = maker.make(np.random.default_rng(seed), NEEDLE_CHUNKS, 5, 1, None)
        before = needle.text[: needle.text.index(needle.facts[needle.asked[0]][0])]
        if CHUNK < len(chat.encode(before)) < NEEDLE_CHUNKS * CHUNK // 4:
            return needle
    raise AssertionError("no needle stands early in a hundred texts")


def write_showcase(folder: Path, chat: Chat | None = None) -> None:
    """Writes the files described above."""
    chat = chat or default_chat()
    folder.mkdir(parents=True, exist_ok=True)
    pictures: list[dict[str, Any]] = []
    for number, (scene, asked) in enumerate(SCENES, 1):
        file = f"scene-{number}.png"
        scene.draw().save(folder / file, optimize=True)
        pictures.append({"file": file, "questions": [{"question": q, "answer": a} for q, a in asked]})
    needle = _early_needle(chat)
    (folder / "needle.txt").write_text(needle.text + "\n")
    asked_fact = needle.asked[0]
    prompt = f"{needle.text} {needle.question(asked_fact)}"
    index = {
        "pictures": pictures,
        "needle": {
            "file": "needle.txt",
            "question": needle.question(asked_fact),
            "answer": needle.answer(asked_fact),
            "tokens": len(chat.encode(prompt)),
        },
        "texts": [{"question": q, "answer": a} for q, a in TEXTS],
    }
    (folder / "showcase.json").write_text(json.dumps(index, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    write_showcase(parser.parse_args().folder)


if __name__ == "__main__":
    main()
