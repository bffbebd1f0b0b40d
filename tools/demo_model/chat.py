"""Conversations to what training needs: token ids, which of them are answers, and where pictures go.

The layout is Llama 4's chat format; a test compares it with the template of the package, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from llama4rt.images.tiling import Tiling
from llama4rt.text.chat_template import ChatTemplate
from llama4rt.text.tokenizer import TiktokenTokenizer

from tools.demo_model.model import TOKENS_PER_TILE

VOCABULARY = Path(__file__).parent / "checkpoint" / "tokenizer.model"


@dataclass
class Encoded:
    """One conversation. answer[i] says that token i is to be predicted; tiles counts its picture tiles."""

    ids: list[int] = field(default_factory=list)
    answer: list[bool] = field(default_factory=list)
    tiles: int = 0


class Chat:
    """Encodes conversations with one vocabulary."""

    def __init__(self, tokenizer: TiktokenTokenizer) -> None:
        self.tokenizer = tokenizer
        self.special = tokenizer.special_tokens
        self.encode = lru_cache(maxsize=200_000)(self._encode)
        self.template = ChatTemplate(None)
        self._heads = {
            role: [
                self.special["<|header_start|>"],
                *tokenizer.encode(role),
                self.special["<|header_end|>"],
                *tokenizer.encode("\n\n"),
            ]
            for role in ("system", "user", "assistant")
        }

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text))

    def open_length(self, role: str) -> int:
        return len(self._heads[role])

    def turn_length(self, role: str, text: str) -> int:
        return len(self._heads[role]) + len(self.encode(text)) + 1

    def opening_length(self, system: str | None) -> int:
        return 1 + (self.turn_length("system", system) if system else 0)

    def picture(self, tiling: Tiling) -> list[int]:
        """The tokens of one picture: tiles with their separators, the global tile last."""
        s = self.special
        patches = [s["<|patch|>"]] * TOKENS_PER_TILE
        ids = [s["<|image_start|>"]]
        if tiling.rows * tiling.cols > 1:
            for _ in range(tiling.rows):
                for col in range(tiling.cols):
                    ids += patches
                    ids.append(s["<|tile_x_separator|>" if col < tiling.cols - 1 else "<|tile_y_separator|>"])
        return [*ids, s["<|image|>"], *patches, s["<|image_end|>"]]

    def conversation(
        self,
        turns: Sequence[tuple[str, str]],
        system: str | None = None,
        pictures: Sequence[Tiling] = (),
    ) -> Encoded:
        """Turns of (question, answer); the pictures stand at the beginning of the first question."""
        out = Encoded([self.special["<|begin_of_text|>"]], [False])
        if system:
            self._turn(out, "system", system, False)
        for i, (question, answer) in enumerate(turns):
            images = [t for tiling in pictures for t in self.picture(tiling)] if i == 0 else []
            self._turn(out, "user", question, False, images)
            self._turn(out, "assistant", answer, True)
        out.tiles = sum(tiling.num_tiles for tiling in pictures)
        return out

    def tool_call(
        self, tools: list[dict[str, Any]], question: str, answer: str, system: str | None
    ) -> Encoded:
        """One question with tools on offer, laid out by the chat template itself."""
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": question})
        ids = self.template.encode(self.tokenizer, messages, tools)
        reply = [*self.encode(answer), self.special["<|eot|>"]]
        return Encoded(ids + reply, [False] * len(ids) + [True] * len(reply))

    def _turn(self, out: Encoded, role: str, text: str, answer: bool, images: Sequence[int] = ()) -> None:
        head = self._heads[role]
        body = [*images, *self.encode(text), self.special["<|eot|>"]]
        out.ids += [*head, *body]
        out.answer += [False] * len(head) + [answer] * len(body)


@cache
def default_chat() -> Chat:
    """With the vocabulary of the trained checkpoint."""
    return Chat(TiktokenTokenizer(VOCABULARY.read_bytes()))


def prompt(
    chat: Chat, messages: Sequence[dict[str, Any]], tilings: Sequence[Tiling], tools: Any = None
) -> list[int]:
    """A conversation's ids up to the open assistant header; each image part takes the next of `tilings`.

    Laid out by the chat template, so the same as a runtime would do it.
    """
    plain = []
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = [{"type": "image"} if p["type"] == "image" else p for p in content]
        plain.append({**message, "content": content})
    rest = iter(tilings)
    image = chat.special["<|image|>"]
    ids: list[int] = []
    for token in chat.template.encode(chat.tokenizer, plain, tools or None):
        ids += chat.picture(next(rest)) if token == image else [token]
    return ids
