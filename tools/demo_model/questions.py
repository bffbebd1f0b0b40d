"""Questions about pictures with their right answers. Only what has one right answer is asked.

Every answer repeats what was asked for: a model that has to write "The circle is red" learns to look up the circle.
What is looked up comes right behind the words that find it: "The circle is top left", not "at the top left".
Where things must be compared the answer says first what is compared: "The circle is big and the star is small, so the
circle is bigger." A small model cannot weigh two look-ups in one token, but it can read its own words.
"""

from __future__ import annotations

import json

import numpy as np

from tools.demo_model.scenes import COLOURS, SHAPES, Scene, Thing

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
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
    a, b = len(first.things), len(second.things)
    known = f"The first picture has {NUMBERS[a]} and the second has {NUMBERS[b]}"
    if rng.random() < 0.5:
        return "How many shapes are there in both pictures?", f"{known}, so {NUMBERS[a + b]} in all."
    question = "Which picture has more shapes?"
    if a == b:
        return question, f"{known}, so both have the same number."
    return question, f"{known}, so the {'first' if a > b else 'second'} has more."


def caption(scene: Scene) -> str:
    """All there is to say, in reading order."""
    parts = [f"a {t.size} {t.name} {t.place}" for t in scene.things]
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
    thing = _pick_or_none([t for t in scene.things if _unique(scene, shape=t.shape)], rng)
    if thing is None:
        return None
    return f"Where is the {thing.shape}?", f"The {thing.shape} is {thing.place}."


def _count(scene: Scene, rng: np.random.Generator) -> QA | None:
    return "How many shapes are there?", f"The number of shapes is {NUMBERS[len(scene.things)]}."


def _exists(scene: Scene, rng: np.random.Generator) -> QA | None:
    """Is there a red circle? Asked where at most one shape of that name is there, whose colour is then the evidence."""
    once = [t for t in scene.things if _unique(scene, shape=t.shape)]
    absent = [s for s in SHAPES if all(t.shape != s for t in scene.things)]
    if not once or rng.random() < 0.2:
        shape, known = _pick(absent, rng), "not there"
        colour = _pick(scene.things, rng).colour if rng.random() < 0.5 else _pick(list(COLOURS), rng)
    else:
        thing = _pick(once, rng)
        shape, known = thing.shape, thing.colour
        colour = known
        if rng.random() < 0.4:
            colour = _pick([c for c in COLOURS if c != known], rng)
    article = "an" if colour == "orange" else "a"
    verdict = "yes" if colour == known else "no"
    return f"Is there {article} {colour} {shape}?", f"The {shape} is {known}, so {verdict}."


def _what_at(scene: Scene, rng: np.random.Generator) -> QA | None:
    thing = _pick(scene.things, rng)
    return f"What is at the {thing.place}?", f"At the {thing.place} a {thing.size} {thing.name}."


SIDES = ("left of", "right of", "above", "below")


def _on_side(thing: Thing, other: Thing, side: str) -> bool:
    """Whether `thing` stands on that side of `other`, by grid cells."""
    return {
        "left of": thing.col < other.col,
        "right of": thing.col > other.col,
        "above": thing.row < other.row,
        "below": thing.row > other.row,
    }[side]


def _across(thing: Thing, side: str) -> str:
    """The column or the row of a thing, whichever decides about that side.

    The six words are different, so that a word can be written from the place alone, whatever the side.
    """
    if side in ("left of", "right of"):
        return ("left", "centre", "right")[thing.col]
    return ("top", "middle", "bottom")[thing.row]


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
    what = "What is" if rng.random() < 0.5 else "What colour is the shape"
    known = f"The {other.shape} is {_across(other, side)}"
    # A word of its own for each side stands next to what it finds, where the first layer's heads look: "left" and
    # "right" are also places, so they come with verbs that are not.
    said = {"left of": "left sits", "right of": "right waits", "above": "above is", "below": "below is"}[side]
    return f"{what} {side} the {other.shape}?", f"{known}, and {said} the {thing.name}."


def _relation(scene: Scene, rng: np.random.Generator) -> QA | None:
    things = [t for t in scene.things if _unique(scene, shape=t.shape)]
    if len(things) < 2:
        return None
    a, b = (things[int(i)] for i in rng.choice(len(things), 2, replace=False))
    sides = [s for s in SIDES if _on_side(a, b, s) or _on_side(b, a, s)]
    side = _pick(sides, rng)
    verdict = "yes" if _on_side(a, b, side) else "no"
    known = f"The {a.shape} is {_across(a, side)} and the {b.shape} is {_across(b, side)}"
    return f"Is the {a.shape} {side} the {b.shape}?", f"{known}, so {verdict}."


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


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _unique(scene: Scene, shape: str | None = None, colour: str | None = None) -> bool:
    return sum(shape in (None, t.shape) and colour in (None, t.colour) for t in scene.things) == 1


def _pick(choices, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    return choices[int(rng.integers(len(choices)))]


def _pick_or_none(choices, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    return _pick(choices, rng) if choices else None
