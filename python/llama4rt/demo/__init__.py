"""The demo model that ships with llama4rt: a small trained Llama 4, and what to show it.

demo.l4e is the engine file; showcase.json lists pictures that the model has not been trained on, a long text that
hides a fact, and questions with their right answers. tools/demo_model of the repository makes all of it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama4rt.errors import EngineFileError, Llama4RTError

FOLDER = Path(__file__).parent
ENGINE = "demo.l4e"
INDEX = "showcase.json"


@dataclass(frozen=True)
class Question:
    question: str
    answer: str | None  # None: any sensible reply is right


@dataclass(frozen=True)
class Picture:
    path: Path
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Needle:
    """A long text with facts hidden in it, and a question about one of them."""

    text: str
    asked: Question


@dataclass(frozen=True)
class Showcase:
    pictures: tuple[Picture, ...]
    texts: tuple[Question, ...]
    needle: Needle


def engine_path(folder: Path = FOLDER) -> Path:
    """The demo engine. Raises EngineFileError when this copy of llama4rt came without it."""
    path = folder / ENGINE
    if not path.is_file():
        raise EngineFileError(f"{path}: the demo model is not there; python -m tools.demo_model makes it")
    return path


def load_showcase(folder: Path = FOLDER) -> Showcase:
    """What showcase.json of a folder says, with the texts it names read and its pictures found."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        needle = index["needle"]
        text = (folder / needle["file"]).read_text(encoding="utf-8").strip()
        showcase = Showcase(
            pictures=tuple(
                Picture(folder / picture["file"], tuple(_question(q) for q in picture["questions"]))
                for picture in index["pictures"]
            ),
            texts=tuple(_question(q) for q in index["texts"]),
            needle=Needle(text, _question(needle)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Llama4RTError(f"{path}: {type(error).__name__}: {error}") from error
    return showcase


def _question(entry: dict[str, Any]) -> Question:
    return Question(entry["question"], entry["answer"])


__all__ = [
    "ENGINE",
    "FOLDER",
    "INDEX",
    "Needle",
    "Picture",
    "Question",
    "Showcase",
    "engine_path",
    "load_showcase",
]
