"""From the text of an output to the deltas of a chat message: content, and tool calls where tools were given."""

from collections.abc import Iterable
from typing import Any, Protocol


class Shaper(Protocol):
    """One output's. Deltas are OpenAI's: {"content": ...} or {"tool_calls": [...]}."""

    def push(self, text: str) -> list[dict[str, Any]]:
        """What became certain with this text."""

    def finish(self, reason: str) -> tuple[list[dict[str, Any]], str]:
        """The rest, and the finish reason as the client should see it."""


class PlainShaper:
    """Text is content."""

    def push(self, text: str) -> list[dict[str, Any]]:
        return [{"content": text}] if text else []

    def finish(self, reason: str) -> tuple[list[dict[str, Any]], str]:
        return [], reason


def joined_message(deltas: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The whole message that a client of the stream would have put together."""
    texts: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        texts.append(delta.get("content") or "")
        for piece in delta.get("tool_calls", ()):
            call = calls.setdefault(
                piece["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            call["id"] = piece.get("id") or call["id"]
            function = piece.get("function", {})
            call["function"]["name"] += function.get("name") or ""
            call["function"]["arguments"] += function.get("arguments") or ""
    text = "".join(texts)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        message["content"] = text or None
        message["tool_calls"] = [calls[i] for i in sorted(calls)]
    return message
