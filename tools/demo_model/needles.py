"""Facts hidden in long filler text, and questions about them.

Where a fact and the question stand is counted in tokens: in a chunk layer a token sees nothing left of its chunk, so
a fact lies inside one chunk, and question, header and answer share the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.demo_model.chat import Chat
from tools.demo_model.documents import ANIMALS, CITIES, NAMES, words
from tools.demo_model.model import CHUNK

KEY_FIRST = words(
    "silver golden copper iron wooden paper glass stone plastic leather cotton velvet marble crystal amber ivory "
    "broken hidden heavy light round narrow hollow tiny giant ancient modern secret royal frozen dusty shiny"
)
KEY_SECOND = words(
    "key drum ring box bell rope boat wheel door ladder mirror basket bottle candle hammer knife pencil flag kite "
    "piano violin trumpet helmet shield sword crown coin map tower bridge wagon anchor"
)
# A code starts with a letter because the vocabulary has these letters with their space as one token: then the code
# follows its key at once, which is far easier to learn than a key, a space and a number.
LETTERS = "ABCDFIJLMOPRSV"
INTRODUCTION = "Read this text."

_DOES = (
    "walks to the river",
    "sits on a chair",
    "sleeps in the garden",
    "looks at the sea",
    "sings a song",
    "waits near the house",
    "reads a book",
    "plays with a friend",
    "climbs the hill",
    "eats some bread",
    "runs to the forest",
    "hides under a tree",
)
_WHEN = (
    "in the morning",
    "at night",
    "every day",
    "today",
    "with a friend",
    "again",
    "all day",
    "for a long time",
)


@dataclass(frozen=True)
class NeedleText:
    """One long text and what it hides: `facts` are (key, value), in order; `asked` are indices into them."""

    text: str
    facts: tuple[tuple[str, str], ...]
    asked: tuple[int, ...]
    length: int  # tokens of the whole conversation that was planned, in whole chunks

    def question(self, i: int) -> str:
        return f"What is the code of the {self.facts[i][0]}?"

    def answer(self, i: int) -> str:
        return f"The code of the {self.facts[i][0]} is {self.facts[i][1]}."

    def is_alike(self, i: int) -> bool:
        """Whether another fact's key shares a word with that of fact i."""
        words = set(self.facts[i][0].split(" "))
        return any(words & set(key.split(" ")) for key, _ in (*self.facts[:i], *self.facts[i + 1 :]))


def filler_sentence(rng: np.random.Generator) -> str:
    """A sentence that holds no fact."""
    who = NAMES[int(rng.integers(len(NAMES)))]
    roll = rng.random()
    if roll < 0.35:
        who = f"The {ANIMALS[int(rng.integers(len(ANIMALS)))]}"
    elif roll < 0.5:
        return f"{who} lives in {CITIES[int(rng.integers(len(CITIES)))]}."
    does = _DOES[int(rng.integers(len(_DOES)))]
    if rng.random() < 0.4:
        return f"{who} {does}."
    return f"{who} {does} {_WHEN[int(rng.integers(len(_WHEN)))]}."


class NeedleMaker:
    """Makes needle texts of a planned length. Holds a bank of filler sentences with their token counts."""

    def __init__(self, chat: Chat, seed: int = 0, bank: int = 4000) -> None:
        rng = np.random.default_rng(seed)
        self._chat = chat
        sentences = sorted({filler_sentence(rng) for _ in range(bank)})
        self._bank = [(s, len(chat.encode(" " + s))) for s in sentences]
        self._shortest = min(n for _, n in self._bank)

    def make(
        self,
        rng: np.random.Generator,
        chunks: int,
        facts: int,
        questions: int,
        system: str | None = None,
        keys: int = 32,
        share_plain: float = 0.5,
        share_alike: float = 0.0,
    ) -> NeedleText:
        """A conversation of exactly `chunks` chunks or a little less, whose questions all lie in the last one.

        keys: how many words of each list are used. share_plain: of facts that say the value right after the key.
        share_alike: of texts whose keys are made of so few words that only both together tell facts apart.
        """
        chat = self._chat
        first, second = np.arange(keys), np.arange(keys)
        if share_alike and rng.random() < share_alike:
            second = rng.permutation(keys)[:2]
            if rng.random() < 0.5:
                first = rng.permutation(keys)[: max(facts, 4)]
        chosen: dict[str, str] = {}
        while len(chosen) < facts:
            pair = first[rng.integers(len(first))], second[rng.integers(len(second))]
            key = f"{KEY_FIRST[pair[0]]} {KEY_SECOND[pair[1]]}"
            letter = LETTERS[int(rng.integers(len(LETTERS)))]
            chosen.setdefault(key, f"{letter}{rng.integers(100, 1000)}")
        sentences = [
            f"Note: {key} {value}." if rng.random() < share_plain else f"The code of the {key} is {value}."
            for key, value in chosen.items()
        ]
        asked = tuple(int(i) for i in rng.integers(facts, size=questions))
        draft = NeedleText("", tuple(chosen.items()), asked, chunks * CHUNK)
        turns = [(draft.question(i), draft.answer(i)) for i in asked]
        # Everything from the first question to the last answer, then the text before it.
        tail = sum(chat.turn_length("user", q) + chat.turn_length("assistant", a) for q, a in turns) + 2
        start = chat.opening_length(system) + chat.open_length("user") + len(chat.encode(INTRODUCTION))
        end = chunks * CHUNK - min(tail, CHUNK)
        places = np.sort(rng.integers(start, max(end, start + 1), size=facts))
        text, position, placed = [INTRODUCTION], start, 0
        while True:
            if placed < facts and (position >= places[placed] or end - position < 30 * (facts - placed)):
                length = len(chat.encode(" " + sentences[placed]))
                if position % CHUNK + length <= CHUNK:
                    text.append(sentences[placed])
                    position += length
                    placed += 1
                    continue
            sentence, length = self._bank[int(rng.integers(len(self._bank)))]
            if position + length > end:
                if placed == facts:
                    break
                if position % CHUNK + len(chat.encode(" " + sentences[placed])) <= CHUNK:
                    continue  # no room for filler: the remaining facts come now
                sentence, length = self._bank[0]
            text.append(sentence)
            position += length
        return NeedleText(" ".join(text), draft.facts, asked, chunks * CHUNK)
