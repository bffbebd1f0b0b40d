"""Questions about pictures with their right answers. Only what has one right answer is asked.

Every answer repeats what was asked for: a model that has to write "The circle is red" learns to look up the circle.
Where things must be compared the answer says first what is compared: "The circle is big and the star is small, so the
circle is bigger." A small model cannot weigh two look-ups in one token, but it can read its own words.
"""

from __future__ import annotations

import json

import numpy as np

from tools.demo_model.scenes import COLOURS, SHAPES, Scene, Thing

NUMBERS = ("no", "one", "two", "three")
QA = tuple[str, str]

# How often each kind is drawn when a question is wanted.
KINDS: dict[str, float] = {
    "colour": 1.6,
    "shape": 1.2,
    "where": 1.2,
    "count": 0.8,
    "exists": 1.0,
    "what_at": 1.0,
    "beside": 1.6,
    "relation": 1.2,
    "size": 1.0,
    "bigger": 0.7,
    "background": 0.4,
    "caption": 1.4,
    "json": 0.5,
}


def scene_question(scene: Scene, rng: np.random.Generator, kind: str | None = None) -> tuple[str, str, str]:
    """(kind, question, answer) about one picture. A kind that this picture cannot be asked is drawn again."""
    names = list(KINDS)
    weights = np.array([KINDS[k] for k in names])
    while True:
        chosen = kind or str(rng.choice(names, p=weights / weights.sum()))
        qa = _ASK[chosen](scene, rng)
        if qa is not None:
            return chosen, *qa
        kind = None


def pair_question(first: Scene, second: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A question about two pictures."""
    if rng.random() < 0.5:
        a, b = len(first.things), len(second.things)
        question = "Which picture has more shapes?"
        known = f"The first picture has {NUMBERS[a]} and the second has {NUMBERS[b]}"
        if a == b:
            return question, f"{known}, so both have the same number."
        return question, f"{known}, so the {'first' if a > b else 'second'} has more."
    present = [t.shape for t in (*first.things, *second.things)]
    shape = _pick(present if rng.random() < 0.75 else list(SHAPES), rng)
    in_first, in_second = (any(t.shape == shape for t in s.things) for s in (first, second))
    question = f"Is there a {shape} in both pictures?"
    if in_first and in_second:
        return question, f"Yes, there is a {shape} in both pictures."
    if in_first or in_second:
        return question, f"No, only the {'first' if in_first else 'second'} picture has a {shape}."
    return question, f"No, neither picture has a {shape}."


def caption(scene: Scene) -> str:
    """All there is to say, in reading order."""
    parts = [f"a {t.size} {t.name} at the {t.place}" for t in scene.things]
    listed = _listed(parts)
    return listed[0].upper() + listed[1:] + f" on a {scene.background} background."


def _colour(scene: Scene, rng: np.random.Generator) -> QA | None:
    thing = _pick_or_none([t for t in scene.things if _unique(scene, shape=t.shape)], rng)
    if thing is None:
        return None
    return f"What colour is the {thing.shape}?", f"The {thing.shape} is {thing.colour}."


def _shape(scene: Scene, rng: np.random.Generator) -> QA | None:
    thing = _pick_or_none([t for t in scene.things if _unique(scene, colour=t.colour)], rng)
    if thing is None:
        return None
    return f"What shape is the {thing.colour} one?", f"The {thing.colour} one is a {thing.shape}."


def _where(scene: Scene, rng: np.random.Generator) -> QA | None:
    thing = _pick(scene.things, rng)
    name = thing.shape if _unique(scene, shape=thing.shape) and rng.random() < 0.5 else thing.name
    return f"Where is the {name}?", f"The {name} is at the {thing.place}."


def _count(scene: Scene, rng: np.random.Generator) -> QA | None:
    if rng.random() < 0.5:
        word, n = "shape", len(scene.things)
    else:
        word = _pick([t.shape for t in scene.things] + [_pick(SHAPES, rng)], rng)
        n = sum(t.shape == word for t in scene.things)
    plural = _plural(word)
    verb, noun = ("is", word) if n == 1 else ("are", plural)
    return f"How many {plural} are there?", f"There {verb} {NUMBERS[n]} {noun}."


def _exists(scene: Scene, rng: np.random.Generator) -> QA | None:
    thing = _pick(scene.things, rng)
    roll = rng.random()
    if roll < 0.5:
        colour, shape = thing.colour, thing.shape
    elif roll < 0.7:  # the near misses are the questions that need looking at both
        colour, shape = _pick(list(COLOURS), rng), thing.shape
    elif roll < 0.9:
        colour, shape = thing.colour, _pick(SHAPES, rng)
    else:
        colour, shape = _pick(list(COLOURS), rng), _pick(SHAPES, rng)
    found = any((t.colour, t.shape) == (colour, shape) for t in scene.things)
    article = "an" if colour == "orange" else "a"
    question = f"Is there {article} {colour} {shape}?"
    colours = [t.colour for t in scene.things if t.shape == shape]
    if not colours:
        return question, f"There is no {shape}."
    verdict = "yes" if found else "no"
    if len(colours) == 1:
        return question, f"The {shape} is {colours[0]}, so {verdict}."
    return question, f"The {_plural(shape)} are {_listed(colours)}, so {verdict}."


def _what_at(scene: Scene, rng: np.random.Generator) -> QA | None:
    thing = _pick(scene.things, rng)
    return f"What is at the {thing.place}?", f"At the {thing.place} is a {thing.size} {thing.name}."


SIDES = ("left of", "right of", "above", "below")


def _on_side(thing: Thing, other: Thing, side: str) -> bool:
    """Whether `thing` stands on that side of `other`, by grid cells."""
    return {
        "left of": thing.col < other.col,
        "right of": thing.col > other.col,
        "above": thing.row < other.row,
        "below": thing.row > other.row,
    }[side]


def _beside(scene: Scene, rng: np.random.Generator) -> QA | None:
    choices = []
    for other in scene.things:
        if not _unique(scene, shape=other.shape):
            continue
        for side in SIDES:
            found = [t for t in scene.things if t is not other and _on_side(t, other, side)]
            if len(found) == 1:
                choices.append((found[0], other, side))
    if not choices:
        return None
    thing, other, side = choices[int(rng.integers(len(choices)))]
    known = f"The {other.shape} is at the {other.place}"
    if rng.random() < 0.5:
        return f"What is {side} the {other.shape}?", f"{known}, and the {thing.name} is {side} it."
    return (
        f"What colour is the shape {side} the {other.shape}?",
        f"{known}, and the {thing.shape} {side} it is {thing.colour}.",
    )


def _relation(scene: Scene, rng: np.random.Generator) -> QA | None:
    things = [t for t in scene.things if _unique(scene, shape=t.shape)]
    if len(things) < 2:
        return None
    a, b = (things[int(i)] for i in rng.choice(len(things), 2, replace=False))
    sides = [s for s in SIDES if _on_side(a, b, s) or _on_side(b, a, s)]
    side = _pick(sides, rng)
    question = f"Is the {a.shape} {side} the {b.shape}?"
    verdict = "yes" if _on_side(a, b, side) else "no"
    known = f"The {a.shape} is at the {a.place} and the {b.shape} is at the {b.place}"
    return question, f"{known}, so {verdict}."


def _size(scene: Scene, rng: np.random.Generator) -> QA | None:
    thing = _pick_or_none([t for t in scene.things if _unique(scene, shape=t.shape)], rng)
    if thing is None:
        return None
    return f"Is the {thing.shape} big or small?", f"The {thing.shape} is {thing.size}."


def _bigger(scene: Scene, rng: np.random.Generator) -> QA | None:
    things = [t for t in scene.things if _unique(scene, shape=t.shape)]
    pairs = [(a, b) for a in things for b in things if a.big and not b.big]
    if not pairs:
        return None
    a, b = pairs[int(rng.integers(len(pairs)))]
    one, two = (a, b) if rng.random() < 0.5 else (b, a)
    known = f"The {one.shape} is {one.size} and the {two.shape} is {two.size}"
    return f"Which is bigger, the {one.shape} or the {two.shape}?", f"{known}, so the {a.shape} is bigger."


def _background(scene: Scene, rng: np.random.Generator) -> QA | None:
    return "What colour is the background?", f"The background is {scene.background}."


def _caption(scene: Scene, rng: np.random.Generator) -> QA | None:
    return "Describe the picture.", caption(scene)


def _json(scene: Scene, rng: np.random.Generator) -> QA | None:
    return "List the shapes as JSON.", json.dumps(
        [{"colour": t.colour, "shape": t.shape} for t in scene.things]
    )


_ASK = {
    "colour": _colour,
    "shape": _shape,
    "where": _where,
    "count": _count,
    "exists": _exists,
    "what_at": _what_at,
    "beside": _beside,
    "relation": _relation,
    "size": _size,
    "bigger": _bigger,
    "background": _background,
    "caption": _caption,
    "json": _json,
}


def _plural(shape: str) -> str:
    return {"cross": "crosses"}.get(shape, shape + "s")


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _unique(scene: Scene, shape: str | None = None, colour: str | None = None) -> bool:
    return sum(shape in (None, t.shape) and colour in (None, t.colour) for t in scene.things) == 1


def _pick(choices, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    return choices[int(rng.integers(len(choices)))]


def _pick_or_none(choices, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    return _pick(choices, rng) if choices else None
