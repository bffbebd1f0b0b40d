"""Questions that training never saw, for the accuracy table, the tests and the demo. No torch here.

`held_out(kind, count, seed)` always gives the same questions for the same arguments. Sums are problems that training
leaves out; everything else is drawn from seeds that training does not use.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from tools.demo_model import documents, needles, openings, questions, scenes
from tools.demo_model.chat import Chat, default_chat

# What the accuracy table has; "needle16" is a needle text of 16 chunks.
KINDS = (
    "scene",
    "pair",
    "sum",
    "needle4",
    "needle16",
    "needle32",
    "story",
    "json",
    "tool",
    "talk",
    "opening",
)
_SEED = 0xD3A0  # apart from every seed of the training


@dataclass(frozen=True)
class Question:
    """One question. `messages` is ready for a chat: image parts are {"type": "image", "image": PIL.Image}."""

    messages: list[dict[str, Any]]
    pictures: list[Image.Image]
    answer: str
    kind: str
    detail: str = ""  # the kind of scene question, or the question's own text where any good answer counts
    length: int = 0  # tokens of the prompt, for needles
    tools: list[dict[str, Any]] = field(default_factory=list)

    def is_right(self, reply: str) -> bool:
        """Exact equality, except for stories, where any whole grammatical story about the animal is right, and for
        openings, where any sensible answer is.
        """
        if self.kind == "story":
            return documents.is_good_story(self.detail, reply.strip())
        if self.kind == "opening":
            return openings.is_sensible(self.detail, reply)
        return reply.strip() == self.answer


def held_out(kind: str, count: int, seed: int = 0, chat: Chat | None = None) -> list[Question]:
    """`count` questions of one kind of KINDS (or "needle" and any number of chunks)."""
    rng = np.random.default_rng([_SEED, seed, *kind.encode()])
    if kind.startswith("needle"):
        chunks = int(kind.removeprefix("needle") or 16)
        maker = needles.NeedleMaker(chat or default_chat(), seed=_SEED)
        return [_needle(rng, maker, chunks, kind, chat or default_chat()) for _ in range(count)]
    if kind == "opening":
        return _openings(rng, count)
    make = _MAKE[kind]
    return [make(rng) for _ in range(count)]


def _scene(rng: np.random.Generator) -> Question:
    scene = scenes.random_scene(rng, small=bool(rng.random() < 0.35))
    detail, question, answer = questions.scene_question(scene, rng)
    picture = scene.draw()
    return Question(_chat(rng, question, [picture]), [picture], answer, "scene", detail)


def _pair(rng: np.random.Generator) -> Question:
    both = [scenes.random_scene(rng, small=True) for _ in range(2)]
    question, answer = questions.pair_question(both[0], both[1], rng)
    pictures = [scene.draw() for scene in both]
    return Question(_chat(rng, question, pictures), pictures, answer, "pair")


def _needle(
    rng: np.random.Generator, maker: needles.NeedleMaker, chunks: int, kind: str, chat: Chat
) -> Question:
    system = _system(rng)
    facts = 2 if chunks == 1 else int(rng.integers(4, 7))
    text = maker.make(rng, chunks, facts, 1, system)
    asked = text.asked[0]
    prompt = f"{text.text} {text.question(asked)}"
    length = chat.opening_length(system) + chat.turn_length("user", prompt) + chat.open_length("assistant")
    return Question(_messages(system, prompt), [], text.answer(asked), kind, length=length)


def _openings(rng: np.random.Generator, count: int) -> list[Question]:
    """Different ones as long as there are some, without a system prompt: what a person types first."""
    every = [(t, text) for t in openings.ANSWERS for text in openings.wordings(t, held_out=True)]
    order = np.concatenate([rng.permutation(len(every)) for _ in range(count // len(every) + 1)])[:count]
    return [
        Question(_messages(None, every[i][1]), [], openings.ANSWERS[every[i][0]], "opening", every[i][0])
        for i in order
    ]


def _story(rng: np.random.Generator) -> Question:
    question, answer = documents.story_question(rng)
    return Question(_chat(rng, question), [], answer, "story", detail=question)


def _tool(rng: np.random.Generator) -> Question:
    """Two tools come without a system prompt: with one the call would cross a chunk border, and its end could not see
    the question.
    """
    tools, question, answer = documents.tool_question(rng)
    system = _system(rng) if len(tools) == 1 else None
    return Question(_messages(system, question), [], answer, "tool", tools=tools)


def _text(kind: str, make: Callable[[np.random.Generator], questions.QA]) -> Callable[..., Question]:
    def one(rng: np.random.Generator) -> Question:
        question, answer = make(rng)
        return Question(_chat(rng, question), [], answer, kind)

    return one


def _system(rng: np.random.Generator) -> str | None:
    if rng.random() < 0.5:
        return None
    return documents.SYSTEM_PROMPTS[int(rng.integers(len(documents.SYSTEM_PROMPTS)))]


def _chat(
    rng: np.random.Generator, question: str, pictures: list[Image.Image] | None = None
) -> list[dict[str, Any]]:
    if not pictures:
        return _messages(_system(rng), question)
    parts: list[dict[str, Any]] = [{"type": "image", "image": picture} for picture in pictures]
    return _messages(_system(rng), [*parts, {"type": "text", "text": question}])


def _messages(system: str | None, content: Any) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": content}]


def parses(reply: str) -> bool:
    """Whether a reply is JSON at all, the looser measure beside exactness."""
    try:
        json.loads(reply)
    except ValueError:
        return False
    return True


_MAKE: dict[str, Callable[[np.random.Generator], Question]] = {
    "scene": _scene,
    "pair": _pair,
    "story": _story,
    "tool": _tool,
    "sum": _text("sum", lambda rng: documents.sum_question(rng, held_out=True)),
    "json": _text("json", documents.json_question),
    "talk": _text("talk", documents.talk_question),
}
