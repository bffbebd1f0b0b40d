"""The items of a response's `output`: a message, or calls; whole, or as the events of a stream, one open at a time."""

import json
from collections.abc import Callable
from typing import Any

from llama4rt.server.chat_completions import Piece
from llama4rt.server.response_input import CUSTOM_ARGUMENT
from llama4rt.server.service import new_id

# event(kind, **fields): the bytes of one event of the stream, numbered
Event = Callable[..., bytes]


class StreamedItems:
    """done: those that are complete."""

    def __init__(self, event: Event, custom: frozenset[str] = frozenset()) -> None:
        """custom: the tools that take a text, which comes whole when the call has ended."""
        self._event = event
        self._custom = custom
        self._arguments = ""
        self._open: dict[str, Any] | None = None
        self._call_index = -1
        self._logprobs: list[dict[str, Any]] = []  # of tokens whose text has not come yet
        self.done: list[dict[str, Any]] = []

    def take(self, piece: Piece) -> list[bytes]:
        self._logprobs += piece.logprobs
        return [line for delta in piece.deltas for line in self._take(delta)]

    def _take(self, delta: dict[str, Any]) -> list[bytes]:
        lines: list[bytes] = []
        if delta.get("content"):
            if self._open is None or self._open["type"] != "message":
                lines += self.close() + self._begin(message_item("", "in_progress"))
            part = self._item()["content"][0]
            part["text"] += delta["content"]
            logprobs, self._logprobs = self._logprobs, []
            part["logprobs"] += logprobs
            lines.append(
                self._say(
                    "response.output_text.delta", content_index=0, delta=delta["content"], logprobs=logprobs
                )
            )
        for call in delta.get("tool_calls", ()):
            self._logprobs = []  # OpenAI's are of text
            if call["index"] != self._call_index:
                self._call_index = call["index"]
                name = call["function"]["name"]
                item = call_item(call["id"], name, "", "in_progress", custom=name in self._custom)
                lines += self.close() + self._begin(item)
            text = call["function"].get("arguments")
            if text and self._item()["type"] == "custom_tool_call":
                self._arguments += text
            elif text:
                self._item()["arguments"] += text
                lines.append(self._say("response.function_call_arguments.delta", delta=text))
        return lines

    def close(self) -> list[bytes]:
        if self._open is None:
            return []
        item = self._open
        item["status"] = "completed"
        if item["type"] == "message":
            part = item["content"][0]
            part["logprobs"] += self._logprobs  # of tokens without text, such as the end
            self._logprobs = []
            lines = [
                self._say(
                    "response.output_text.done",
                    content_index=0,
                    text=part["text"],
                    logprobs=part["logprobs"],
                ),
                self._say("response.content_part.done", content_index=0, part=part),
            ]
        elif item["type"] == "custom_tool_call":
            item["input"], self._arguments = custom_input(self._arguments), ""
            lines = [
                self._say("response.custom_tool_call_input.delta", delta=item["input"]),
                self._say("response.custom_tool_call_input.done", input=item["input"]),
            ]
        else:
            fields = {"arguments": item["arguments"], "name": item["name"]}
            lines = [self._say("response.function_call_arguments.done", **fields)]
        lines.append(self._event("response.output_item.done", output_index=len(self.done), item=item))
        self.done.append(item)
        self._open = None
        return lines

    def broken_off(self) -> list[dict[str, Any]]:
        """What was said when nothing more comes: text as far as it came; half a call is none."""
        item = self._open
        if item is None or item["type"] != "message":
            return self.done
        return [*self.done, {**item, "status": "incomplete"}]

    def _begin(self, item: dict[str, Any]) -> list[bytes]:
        self._open = item
        shown = {**item, "content": []} if item["type"] == "message" else item
        lines = [self._event("response.output_item.added", output_index=len(self.done), item=shown)]
        if item["type"] == "message":
            lines.append(self._say("response.content_part.added", content_index=0, part=item["content"][0]))
        return lines

    def _item(self) -> dict[str, Any]:
        assert self._open is not None
        return self._open

    def _say(self, kind: str, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._item()["id"], output_index=len(self.done), **fields)


def message_item(text: str, status: str = "completed") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {
        "id": new_id("msg_"), "type": "message", "role": "assistant", "status": status, "content": [part],
    }  # fmt: skip


def call_item(
    call_id: str, name: str, arguments: str, status: str = "completed", *, custom: bool = False
) -> dict[str, Any]:
    if custom:
        return {
            "id": new_id("ctc_"), "type": "custom_tool_call", "call_id": call_id, "name": name,
            "input": custom_input(arguments), "status": status,
        }  # fmt: skip
    return {
        "id": new_id("fc_"), "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments,
        "status": status,
    }  # fmt: skip


def custom_input(arguments: str) -> str:
    """The text for a custom tool, of what the model wrote as a function's arguments."""
    try:
        value = json.loads(arguments or "{}")
    except ValueError:  # max_tokens has cut it
        return ""
    text = value.get(CUSTOM_ARGUMENT, "") if isinstance(value, dict) else ""
    return text if isinstance(text, str) else json.dumps(text)
