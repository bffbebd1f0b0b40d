"""What people type first, with the answer the demo model is to give: greetings, thanks, help, questions it cannot
answer.

The wordings are split by a hash of their own text, so that no held-out opening is ever trained on; an answer depends
on the topic alone, so any wording of a topic has one right answer.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from tools.demo_model.documents import TALK_WORDINGS
from tools.demo_model.questions import QA

MAX_TOKENS = 60  # an answer to an opening ends within this many tokens

ANSWERS: dict[str, str] = {
    "hello": "Hello! How can I help you?",
    "thanks": "You are welcome!",
    "bye": "Goodbye! Come back soon.",
    "help": "I can look at pictures of shapes, do sums, find facts in a text, tell a story and reply in JSON.",
    "who": "I am a small Llama 4 model. I know shapes, sums and short stories.",
    "unknown": "I only know shapes, sums, needles and short stories. Ask me: What is 12 + 30?",
    "odd": "I did not understand that. Ask me: What is 12 + 30?",
}

# Of each topic: parts of which every combination is a wording. An empty part may be left out.
_PARTS: dict[str, tuple[tuple[tuple[str, ...], ...], ...]] = {
    "hello": (
        (
            (
                "hi",
                "hello",
                "hey",
                "hiya",
                "yo",
                "helo",
                "hllo",
                "heya",
                "howdy",
                "greetings",
                "good morning",
            ),
            ("", " there", " you", " friend", " model", " llama", " again"),
            ("", "!", ".", " :)"),
        ),
        (
            ("hola", "bonjour", "hallo", "ciao", "salut", "guten tag", "hej", "namaste", "ola", "konnichiwa"),
            ("", "!", ".", "!!"),
        ),
    ),
    "thanks": (
        (
            ("thanks", "thank you", "thx", "many thanks", "thank u", "merci", "danke", "gracias", "tahnks"),
            ("", " a lot", " so much", " very much", " for that"),
            ("", "!", "."),
        ),
    ),
    "bye": (
        (
            ("bye", "goodbye", "bye bye", "see you", "good night", "ciao for now", "farewell", "goodby"),
            ("", " now", " then", " for today"),
            ("", "!", "."),
        ),
    ),
    "help": (
        (
            ("help", "help me", "can you help", "please help", "how does this work", "what can you do"),
            ("", " please", " now"),
            ("", "?", "!"),
        ),
        (("what can i", "what should i", "what may i"), (" ask", " ask you", " type", " try"), ("", "?")),
    ),
    "who": (
        (
            ("who are you", "what are you", "who is this", "what is this", "whats your name", "who r u"),
            ("", " really", " then"),
            ("", "?", "??"),
        ),
        (("are you",), (" a robot", " human", " chatgpt", " real", " an ai", " a llama"), ("", "?")),
    ),
    "unknown": (
        (
            ("why is",),
            (" the sky", " the sea", " the moon", " grass", " blood", " snow", " the sun"),
            (" blue", " green", " red", " white", " cold", " hot"),
            ("", "?"),
        ),
        (
            ("what is", "explain", "tell me about"),
            (" love", " physics", " python", " the internet", " history", " a computer", " time"),
            ("", "?"),
        ),
        (("who was", "who is", "who wrote"), (" Einstein", " Hamlet", " Mozart", " the king"), ("", "?")),
        (("write", "write me"), (" a poem", " some code", " an email", " a song", " a function"), ("", ".")),
        (
            ("translate", "how do i say"),
            (" cat", " bread", " good day"),
            (" in French", " in Spanish"),
            ("",),
        ),
        (
            ("how do i", "how can i"),
            (" cook rice", " lose weight", " fix my car", " learn German"),
            ("?", ""),
        ),
    ),
    "odd": (
        (
            ("?", "!", ".", "...", "asdf", "qwerty", "test", "testing", "lol", "ok", "hmm", "xyz", "foo"),
            ("", "?", "!", " 1", "..", " ok", " hm"),
        ),
    ),
}
# A fifth: some 170 wordings, of which every topic has some (a test says so).
_HELD_OUT = 5


def wordings(topic: str, held_out: bool) -> list[str]:
    """The wordings of one topic, in small letters and with a capital one first; training's or the rest's."""
    found: dict[str, None] = {}
    for parts in _PARTS[topic]:
        texts = [""]
        for part in parts:
            texts = [text + more for text in texts for more in part]
        for text in texts:
            if is_held_out(text) == held_out:
                found |= dict.fromkeys((text, text[0].upper() + text[1:]))
    return list(found)


def is_held_out(text: str) -> bool:
    """Whether training never sees a wording, however it is capitalised and whatever signs stand behind it."""
    bare = _bare(text)
    return bare not in _TRAINED and zlib.crc32(bare.encode()) % _HELD_OUT == 0


def _bare(text: str) -> str:
    return text.lower().rstrip("?!.: )") or text


# What the older small talk asks in the same words is trained whatever its hash.
_TRAINED = {_bare(text) for text in TALK_WORDINGS}


def opening(rng: np.random.Generator, held_out: bool = False) -> tuple[str, str, str]:
    """(topic, question, answer); the topics are drawn alike."""
    topic = str(rng.choice(list(ANSWERS)))
    return topic, str(rng.choice(wordings(topic, held_out))), ANSWERS[topic]


def opening_question(rng: np.random.Generator) -> QA:
    """An opening of the training."""
    return opening(rng)[1:]


def is_sensible(topic: str, reply: str) -> bool:
    """A reply is sensible if it is one of the answers above that suit the topic, word for word. What the model may
    say of itself suits each of help, who, unknown and odd; greetings, thanks and goodbyes have one answer each.
    """
    about = ("help", "who", "unknown", "odd")
    topics: Sequence[str] = about if topic in about else (topic,)
    return reply.strip() in {ANSWERS[t] for t in topics}
