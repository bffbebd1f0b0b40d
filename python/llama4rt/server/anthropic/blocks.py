"""The content blocks of a message: texts and calls of tools; whole, or as events of a stream, one open at a time."""

import json
from collections.abc import Callable, Iterable
from typing import Any


class StreamedBlocks:
    """done: those that are complete. event(kind, **fields): the bytes of one event."""

    def __init__(self, event: Callable[..., bytes]) -> None:
        self._event = event
        self._open: dict[str, Any] | None = None
        self._arguments = ""
        self._call_index = -1
        self.done: list[dict[str, Any]] = []

    def take(self, deltas: Iterable[dict[str, Any]]) -> bytes:
        """deltas: of a chat message."""
        return b"".join(self._take(delta) for delta in deltas)

    def _take(self, delta: dict[str, Any]) -> bytes:
        lines = b""
        text = delta.get("content")
        if text:
            if self._open is None or self._open["type"] != "text":
                lines += self.close() + self._begin({"type": "text", "text": ""})
            assert self._open is not None
            self._open["text"] += text
            lines += self._say({"type": "text_delta", "text": text})
        for call in delta.get("tool_calls", ()):
            if call["index"] != self._call_index:
                self._call_index = call["index"]
                name = call["function"]["name"]
                tool_id = "toolu_" + call["id"].removeprefix("call_")
                lines += self.close() + self._begin(
                    {"type": "tool_use", "id": tool_id, "name": name, "input": {}}
                )
            arguments = call["function"].get("arguments")
            if arguments:
                self._arguments += arguments
                lines += self._say({"type": "input_json_delta", "partial_json": arguments})
        return lines

    def close(self) -> bytes:
        if self._open is None:
            return b""
        if self._open["type"] == "tool_use":
            self._open["input"] = _object(self._arguments)
        line = self._event("content_block_stop", index=len(self.done))
        self.done.append(self._open)
        self._open, self._arguments = None, ""
        return line

    def _begin(self, block: dict[str, Any]) -> bytes:
        line = self._event("content_block_start", index=len(self.done), content_block=block)
        self._open = dict(block)
        return line

    def _say(self, delta: dict[str, Any]) -> bytes:
        return self._event("content_block_delta", index=len(self.done), delta=delta)


def _object(text: str) -> Any:
    """A call that max_tokens has cut has no arguments that could be read."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
