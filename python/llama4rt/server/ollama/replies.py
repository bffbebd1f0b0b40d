"""Replies in Ollama's form: one object, or a line of JSON for each step."""

import json
import time
from collections.abc import AsyncGenerator, Callable
from datetime import datetime, timezone
from typing import Any

from llama4rt.engine.outputs import Delta
from llama4rt.server.chat_completions import ChatReply
from llama4rt.server.completions import CompletionReply
from llama4rt.server.http import dumps
from llama4rt.server.protocol import ChatRequest, CompletionRequest
from llama4rt.server.service import Service
from llama4rt.server.shaping import joined_message

Say = Callable[[str, list[dict[str, Any]]], dict[str, Any]]

_REASONS = {"stop": "stop", "length": "length", "tool_calls": "stop", "abort": "stop"}


class Lines:
    """Writes the lines of one reply. say: a text and calls as the fields of this endpoint."""

    def __init__(self, model: str, say: Say) -> None:
        self._model = model
        self._say = say
        self._started = time.perf_counter_ns()
        self._first: int | None = None

    def came(self) -> None:
        """A token has come. The first one ends the reading of the prompt, whenever it is sent."""
        self._first = self._first or time.perf_counter_ns()

    def line(self, text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        return {"model": self._model, "created_at": now(), **self._say(text, calls), "done": False}

    def end(self, reason: str, usage: dict[str, Any], text: str = "", calls: Any = ()) -> dict[str, Any]:
        end = time.perf_counter_ns()
        # Clients divide by eval_duration, so it is never 0.
        first = min(self._first or end, end - 1)
        return {
            "model": self._model,
            "created_at": now(),
            **self._say(text, list(calls)),
            "done": True,
            "done_reason": _REASONS[reason],
            "total_duration": end - self._started,
            "load_duration": 0,
            "prompt_eval_count": usage["prompt_tokens"],
            "prompt_eval_duration": first - self._started,
            "eval_count": usage["completion_tokens"],
            "eval_duration": end - first,
        }


def said_in_chat(text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def said_to_generate(text: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    return {"response": text}


class OllamaChat(ChatReply):
    """A chat's reply. Calls of tools come whole, when the answer has ended, as Ollama sends them."""

    def __init__(self, service: Service, body: ChatRequest, model: str, say: Say) -> None:
        super().__init__(service, body)
        self._lines = Lines(model, say)

    async def collected(self) -> dict[str, Any]:
        deltas: list[dict[str, Any]] = []
        reason = "stop"
        async for pieces in self.pieces():
            self._lines.came()
            for piece in pieces:
                deltas += piece.deltas
                reason = piece.reason or reason
        message = joined_message(deltas)
        return self._lines.end(reason, self.usage(), message["content"] or "", _calls(message))

    async def lines(self) -> AsyncGenerator[bytes, None]:
        deltas: list[dict[str, Any]] = []
        reason = "stop"
        async for pieces in self.pieces():
            self._lines.came()
            text = ""
            for piece in pieces:
                text += "".join(delta.get("content") or "" for delta in piece.deltas)
                deltas += [delta for delta in piece.deltas if "tool_calls" in delta]
                reason = piece.reason or reason
            if text:
                yield dumps(self._lines.line(text, [])) + b"\n"
        calls = _calls(joined_message(deltas))
        if calls:
            yield dumps(self._lines.line("", calls)) + b"\n"
        yield dumps(self._lines.end(reason, self.usage())) + b"\n"


class OllamaCompletion(CompletionReply):
    """The reply to a raw prompt."""

    def __init__(self, service: Service, body: CompletionRequest, model: str) -> None:
        super().__init__(service, body)
        self._lines = Lines(model, said_to_generate)

    async def collected(self) -> dict[str, Any]:
        texts: list[str] = []
        reason = "stop"
        async for text, why in self._steps():
            texts.append(text)
            reason = why or reason
        return self._lines.end(reason, self.usage(), "".join(texts))

    async def lines(self) -> AsyncGenerator[bytes, None]:
        reason = "stop"
        async for text, why in self._steps():
            reason = why or reason
            if text:
                yield dumps(self._lines.line(text, [])) + b"\n"
        yield dumps(self._lines.end(reason, self.usage())) + b"\n"

    async def _steps(self) -> AsyncGenerator[tuple[str, str | None], None]:
        async for events in self.generation.events():
            deltas = [event for _, event in events if isinstance(event, Delta)]
            if deltas:
                self._lines.came()
            text = "".join(delta.text for delta in deltas)
            yield text, next((d.finish_reason for d in deltas if d.finish_reason), None)


def now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


def _calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    calls = []
    for call in message.get("tool_calls") or ():
        try:
            arguments = json.loads(call["function"]["arguments"] or "{}")
        except ValueError:  # max_tokens has cut it
            arguments = {}
        calls.append(
            {"id": call["id"], "function": {"name": call["function"]["name"], "arguments": arguments}}
        )
    return calls
