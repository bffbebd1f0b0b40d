"""Driver: turns the native engine's wheel by hand, so that a test decides what happens in which step.

llama4rt.Engine adds a thread, text and defaults; the tests of numbers and of scheduling want none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Output:
    """What one sequence of a request heard."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    prompt_logprobs: list[tuple[float, list[tuple[int, float]]]] | None = None
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    cached_tokens: int = 0
    finish_reason: str = ""
    stop_token_id: int = -1
    error: str = ""

    def same_as(self, other: Output) -> bool:
        """Same tokens, same bits of every probability, same end. How much came from the cache may differ."""
        return (
            self.tokens == other.tokens
            and self.logprobs == other.logprobs
            and self.top_logprobs == other.top_logprobs
            and self.prompt_logprobs == other.prompt_logprobs
            and self.finish_reason == other.finish_reason
            and self.stop_token_id == other.stop_token_id
        )


class Driver:
    def __init__(self, path: str | Path, **options: Any) -> None:
        from llama4rt._core import Engine

        self.engine = Engine(str(path), **options)
        self.outputs: dict[int, dict[int, Output]] = {}

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def submit(self, ids: Sequence[int], **fields: Any) -> int:
        """Queues a request, greedy unless told otherwise."""
        from llama4rt._core import Request

        request = Request()
        request.prompt_token_ids = list(ids)
        for name, value in ({"temperature": 0.0, "max_tokens": 16} | fields).items():
            assert hasattr(request, name), name
            setattr(request, name, value)
        request_id = self.engine.submit(request)
        self.outputs[request_id] = {index: Output() for index in range(request.n)}
        return request_id

    def step(self) -> int:
        """One turn; returns the number of events."""
        events = self.engine.step()
        for event in events:
            output = self.outputs[event.request_id][event.index]
            assert not output.finish_reason, "an event after the end"
            output.tokens += event.token_ids
            for logprob, top in event.logprobs:
                output.logprobs.append(logprob)
                output.top_logprobs.append(list(top))
            if event.prompt_logprobs is not None:
                output.prompt_logprobs = list(event.prompt_logprobs)
            if event.logits is not None:
                output.logits.append(np.array(event.logits))
            output.cached_tokens = max(output.cached_tokens, event.cached_tokens)
            output.finish_reason = event.finish_reason
            output.stop_token_id = event.stop_token_id
            output.error = event.error
        return len(events)

    def drain(self, max_steps: int = 100_000) -> None:
        """Steps until nothing is left to do."""
        for _ in range(max_steps):
            if not self.engine.has_work():
                return
            self.step()
        raise AssertionError(f"still at work after {max_steps} steps: {self.engine.stats()}")

    def run(self, requests: Iterable[dict[str, Any]]) -> list[Output]:
        """Submits all at once, runs to the end, returns the outputs in order (all n of the first, then of the next)."""
        ids = [self.submit(**request) for request in requests]
        self.drain()
        return [output for request_id in ids for output in self.outputs.pop(request_id).values()]

    def generate(self, ids: Sequence[int], max_tokens: int, **fields: Any) -> Output:
        """One request alone; end tokens are not special unless asked for."""
        return self.run([{"ids": ids, "max_tokens": max_tokens, "ignore_eos": True} | fields])[0]

    def score(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 [tokens, vocab]: logits of every token of the prompt."""
        (output,) = self.run([{"ids": ids, "return_logits": True}])
        assert output.finish_reason in ("stop", "length") and not output.error, output
        return np.concatenate(output.logits)
