"""What the demo model reads besides pictures: sums, stories, JSON, tool calls and small talk, as turns of a chat.

Each generator gives (question, answer) from a numpy generator. Sums are split into a training and a held-out set by
the problem itself, so no held-out sum was ever seen.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from tools.demo_model.questions import QA

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a small model that answers in short sentences.",
    "Answer the question.",
)


def words(text: str) -> tuple[str, ...]:
    """A word list, written as one text so that it stays readable."""
    return tuple(text.split())


NAMES = words(
    "Anna Ben Clara David Emma Felix Grace Henry Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tom Vera"
)
CITIES = words(
    "Oslo Paris Rome Lima Cairo Tokyo Berlin Madrid Dublin Vienna Prague London Athens Delhi Quito Sofia"
)
ANIMALS = words("fox cat dog bear owl frog horse mouse rabbit duck goat wolf hen snail turtle crow")
ITEMS = words("book lamp chair table clock bag cup hat bike coat")


def is_held_out_sum(a: int, b: int, sign: str) -> bool:
    """Whether a problem belongs to the tenth that training never sees."""
    return (a * 7919 + b * 104_729 + (31 if sign == "+" else 17)) % 97 % 10 == 0


def sum_question(rng: np.random.Generator, held_out: bool = False) -> QA:
    """Addition or subtraction of numbers of one or two digits; no negative results."""
    while True:
        a, b = (int(rng.integers(0, 10 if rng.random() < 0.2 else 100)) for _ in range(2))
        sign = "+" if rng.random() < 0.5 else "-"
        if sign == "-" and a < b:
            a, b = b, a
        if is_held_out_sum(a, b, sign) == held_out:
            result = a + b if sign == "+" else a - b
            return f"What is {a} {sign} {b}?", f"{a} {sign} {b} = {result}."


# A story is one sentence of each row. {a} is the animal, {w} how it is, {p} where it lives, {f} its friend.
_STORY: tuple[tuple[str, ...], ...] = (
    (
        "Once there was a {w} {a} who lived {p}.",
        "A {w} {a} lived {p}.",
        "There was once a {w} {a}, and its home was {p}.",
    ),
    (
        "One day the {a} met a {f}.",
        "One morning the {a} found a little {f}.",
        "One night the {a} heard a {f} sing.",
    ),
    (
        "They walked to the river and shared some bread.",
        "They played in the garden until the sun went down.",
        "They climbed the hill and looked at the stars.",
        "It started to rain, so they hid under a tree.",
    ),
    (
        "From then on the {a} and the {f} were friends.",
        "The {a} was happy and slept all night.",
        "In the end the {a} and the {f} went home together.",
    ),
)
_HOW = words("brave little old happy clever lazy kind quiet")
_PLACES = ("in the forest", "by the river", "on a hill", "near the sea", "in an old house", "under a tree")
_ARTICLE_AN = ("old", "owl")


def story_question(rng: np.random.Generator) -> QA:
    """Four sentences about the animal that was asked for."""
    animal = _pick(ANIMALS, rng)
    friend = _pick([a for a in ANIMALS if a != animal], rng)
    words = {"a": animal, "f": friend, "w": _pick(_HOW, rng), "p": _pick(_PLACES, rng)}
    story = " ".join(_pick(row, rng) for row in _STORY).format(**words)
    return f"Tell a short story about {_with_article(animal)}.", _articles(story)


def is_good_story(question: str, story: str) -> bool:
    """Whether a reply is a whole grammatical story about the animal of the question."""
    animal = next((a for a in ANIMALS if question.endswith(f" {a}.")), None)
    if animal is None:
        return False
    rest = story
    friend = None
    for row in _STORY:
        for sentence in row:
            pattern = re.escape(_undone(sentence))
            pattern = pattern.replace("AAA", animal).replace("FFF", friend or f"(?P<f>{'|'.join(ANIMALS)})")
            pattern = pattern.replace("WWW", f"({'|'.join(_HOW)})").replace("PPP", f"({'|'.join(_PLACES)})")
            match = re.match(_either_article(pattern), rest)
            if match:
                friend = friend or match.groupdict().get("f")
                rest = rest[match.end() :].lstrip(" ")
                break
        else:
            return False
    return rest == "" and _articles(story) == story and friend != animal


def _undone(sentence: str) -> str:
    return sentence.format(a="AAA", f="FFF", w="WWW", p="PPP")


def _either_article(pattern: str) -> str:
    return re.sub(r"\b([Aa])\\ ", r"\1n?\\ ", pattern)


def _articles(text: str) -> str:
    return re.sub(rf"\b([Aa])n? (?=({'|'.join(_ARTICLE_AN)})\b)", r"\1n ", text)


def _with_article(word: str) -> str:
    return f"{'an' if word in _ARTICLE_AN else 'a'} {word}"


def json_question(rng: np.random.Generator) -> QA:
    """Facts in a sentence, wanted as a JSON object."""
    if rng.random() < 0.6:
        name, age, city = _pick(NAMES, rng), int(rng.integers(5, 100)), _pick(CITIES, rng)
        given = (
            f"{name} is {age} years old and lives in {city}."
            if rng.random() < 0.6
            else f"{name} lives in {city} and is {age} years old."
        )
        return f"Reply in JSON: {given}", json.dumps({"name": name, "age": age, "city": city})
    item, price, count = _pick(ITEMS, rng), int(rng.integers(1, 100)), int(rng.integers(2, 10))
    if rng.random() < 0.5:
        return f"Reply in JSON: The {item} costs {price} dollars.", json.dumps({"item": item, "price": price})
    return (
        f"Reply in JSON: {count} {item}s cost {price} dollars.",
        json.dumps({"item": item, "count": count, "price": price}),
    )


_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello!", "Hello", "Hi!", "Hi", "Hi there!", "Good morning!"), "Hello! How can I help you?"),
    (
        ("Who are you?", "What are you?", "What is your name?"),
        "I am a small Llama 4 model. I know shapes, sums and short stories.",
    ),
    (
        ("What can you do?", "Help", "How can you help me?", "What do you know?"),
        "I can look at pictures of shapes, do sums, find facts in a text, tell a story and reply in JSON.",
    ),
    (("How are you?", "How are you today?"), "I am fine, thank you. What would you like to know?"),
    (("Thank you!", "Thank you.", "Thanks!"), "You are welcome!"),
    (("Goodbye!", "Bye!", "Good night!"), "Goodbye! Come back soon."),
    (
        ("Who made you?", "Where do you come from?"),
        "I was trained from scratch on made-up texts and pictures.",
    ),
    (("How big are you?", "Are you big?"), "I have seven million weights. That is very small."),
)
TALK_WORDINGS = tuple(text for asked, _ in _TALK for text in asked)


def talk_question(rng: np.random.Generator) -> QA:
    """Small talk, and what to say when a tool would be needed and there is none."""
    if rng.random() < 0.15:
        city = _pick(CITIES, rng)
        return f"What is the weather in {city}?", "I cannot look that up without a tool."
    asked, answer = _TALK[int(rng.integers(len(_TALK)))]
    return _pick(asked, rng), answer


def _tool(name: str, description: str, argument: str, kind: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": kind}},
                "required": [argument],
            },
        },
    }


TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": _tool("get_weather", "The weather in a city.", "city", "string"),
    "get_time": _tool("get_time", "The time in a city.", "city", "string"),
    "set_alarm": _tool("set_alarm", "Sets an alarm.", "hour", "integer"),
}


def tool_question(rng: np.random.Generator) -> tuple[list[dict[str, Any]], str, str]:
    """(tools, question, answer): the answer is the call, in the form the chat template asks for."""
    wanted = _pick(list(TOOLS), rng)
    names = [wanted]
    if rng.random() < 0.5:
        names.append(_pick([n for n in TOOLS if n != wanted], rng))
        if rng.random() < 0.5:
            names.reverse()
    city, hour = _pick(CITIES, rng), int(rng.integers(1, 25))
    question, arguments = {
        "get_weather": (
            _pick((f"What is the weather in {city}?", f"How is the weather in {city}?"), rng),
            {"city": city},
        ),
        "get_time": (
            _pick((f"What time is it in {city}?", f"What is the time in {city}?"), rng),
            {"city": city},
        ),
        "set_alarm": (_pick((f"Wake me at {hour}.", f"Set an alarm for {hour}."), rng), {"hour": hour}),
    }[wanted]
    return [TOOLS[n] for n in names], question, json.dumps({"name": wanted, "parameters": arguments})


TEXT_KINDS = {"sum": sum_question, "json": json_question, "talk": talk_question, "story": story_question}


def _pick(choices: Any, rng: np.random.Generator) -> Any:
    return choices[int(rng.integers(len(choices)))]
