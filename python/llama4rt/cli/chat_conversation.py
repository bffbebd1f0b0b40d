"""The conversation of `llama4rt chat`: what was said, and its file form."""

import base64
import io
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

from llama4rt.errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_BYTES = 256 << 20  # of a file that is read back


class Conversation:
    """messages: as Engine.chat takes them."""

    def __init__(self, system: str | None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.set_system(system)

    def set_system(self, text: str | None) -> None:
        """Replaces the system prompt, or takes it away; what was said stays."""
        said = [message for message in self.messages if message["role"] != "system"]
        self.messages = [{"role": "system", "content": text}, *said] if text else said

    @property
    def system(self) -> str | None:
        first = self.messages[0] if self.messages else None
        return first["content"] if first is not None and first["role"] == "system" else None

    def clear(self) -> None:
        self.messages = [message for message in self.messages if message["role"] == "system"]

    def ask(self, line: str, pictures: "list[Image]") -> None:
        shown = [{"type": "image", "image": picture} for picture in pictures]
        content: Any = [*shown, {"type": "text", "text": line}] if shown else line
        self.messages.append({"role": "user", "content": content})

    def answer(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """The last message."""
        self.messages.pop()

    def ends_with(self, role: str) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == role

    def save(self, path: str) -> None:
        """JSON that Engine.chat takes, pictures in it; whole or not at all."""
        text = json.dumps(
            {"messages": [_plain(message) for message in self.messages]}, ensure_ascii=False, indent=1
        )
        folder = os.path.dirname(os.path.abspath(path))
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            file.write(text + "\n")
        os.replace(file.name, path)

    def load(self, path: str) -> None:
        """RequestError for a file of another form."""
        with open(path, encoding="utf-8") as file:
            text = file.read(_MOST_BYTES + 1)
        try:
            if len(text) > _MOST_BYTES:
                raise ValueError("it is too large")
            messages = json.loads(text)["messages"]
            if not all(
                isinstance(m["role"], str) and isinstance(m["content"], (str, list)) for m in messages
            ):
                raise ValueError("a message has no role or no content")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RequestError(f"{path}: holds no conversation that /save has written: {error}") from None
        self.messages = list(messages)


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    parts = [
        {"type": "image", "base64": _as_png(part["image"])} if part.get("image") is not None else part
        for part in message["content"]
    ]
    return {**message, "content": parts}


def _as_png(picture: "Image") -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()
