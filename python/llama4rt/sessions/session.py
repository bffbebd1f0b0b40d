"""Session: a text that grows, read and answered by one engine, and kept by name.

Its tokens are saved before they are read, and their keys and values go to the engine's store while they are, so a
session goes on where it was after whatever ended the process. Nothing here depends on what the store still has: what is
missing is computed again, to the same bits.
"""

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llama4rt.engine.outputs import Delta, OutputBuilder, RequestOutput
from llama4rt.engine.sampling_params import SamplingParams, check_params
from llama4rt.errors import RequestError
from llama4rt.sessions import conversation
from llama4rt.sessions.directory import SessionLock
from llama4rt.sessions.state import SessionState
from llama4rt.text.prompt_builder import PreparedPrompt

if TYPE_CHECKING:
    from llama4rt.engine.engine import Engine
    from llama4rt.sessions.keeper import SessionKeeper

# Text, token ids, or messages of a conversation.
Content = str | Sequence[int] | Sequence[Mapping[str, Any]]


class Session:
    """Made by Engine.session(). For one thread at a time; a second one waits."""

    def __init__(
        self,
        engine: "Engine",
        keeper: "SessionKeeper",
        state: SessionState,
        name: str | None,
        lock: SessionLock | None,
    ) -> None:
        self._engine = engine
        self._keeper = keeper
        self._state = state
        self._name = name
        self._name_lock = lock
        self._turn = threading.RLock()
        self._answering = False
        self._closed = False

    @property
    def name(self) -> str | None:
        """None: it came out of a file and is kept only while it is open; fork() gives it a name."""
        return self._name

    @property
    def token_ids(self) -> list[int]:
        """All that was read and answered so far."""
        return list(self._state.token_ids)

    @property
    def num_tokens(self) -> int:
        return len(self._state.token_ids)

    @property
    def messages(self) -> list[dict[str, Any]] | None:
        """Of a conversation, with `{"type": "image"}` for pictures; None where texts or token ids were appended."""
        return None if self._state.messages is None else list(self._state.messages)

    def append(self, content: Content, *, images: Sequence[Any] | None = None) -> int:
        """Adds text, token ids or messages, and reads them now. Returns how many tokens of all were found computed.

        images: the pictures of a text or of token ids, as for Engine.generate; those of messages are parts of these.
        Text is tokenized by itself: nothing joins it with the text before. Messages go through the chat template; they
        answer nothing yet.
        """
        with self._turn:
            before = self._state
            self._add(content, images)
            try:
                return self._read()
            except RequestError:
                self._take_back(before)
                raise

    def generate(
        self,
        content: Content | None = None,
        params: SamplingParams | None = None,
        *,
        images: Sequence[Any] | None = None,
    ) -> RequestOutput:
        """Adds content, if there is any, and answers. Without, it goes on with the latest answer, as if that had not
        ended: with the same random numbers, and penalties over all of it. num_cached_tokens of the result says how many
        tokens were not computed again.
        """
        builder: OutputBuilder | None = None
        for delta in self.stream(content, params, images=images):
            if builder is None:
                builder = OutputBuilder(delta.request_id, None, self._state.token_ids, 1)
            builder.add(delta)
        assert builder is not None
        return builder.snapshot()

    def stream(
        self,
        content: Content | None = None,
        params: SamplingParams | None = None,
        *,
        images: Sequence[Any] | None = None,
    ) -> Iterator[Delta]:
        """The same, as it comes. Leaving the loop early ends the answer; what was said stays."""
        params = SamplingParams() if params is None else check_params(params)
        if params.n != 1:
            raise RequestError(f"n is {params.n}; a session has one answer, and fork() makes another session")
        with self._turn:
            self._check()
            before = self._state
            if content is not None:
                self._add(content, images)
            try:
                yield from self._answer(params)
            except RequestError:
                if not self._state.output_tokens:  # refused: whoever asks again asks with the same content
                    self._take_back(before)
                raise

    def fork(self, name: str | None = None) -> "Session":
        """Another session with the same past. Keys and values are shared, not copied."""
        with self._turn:
            self._check()
            lock = self._keeper.take_new_name(name) if name is not None else None
            if name is not None:
                self._keeper.save(name, self._state)
            return self._keeper.opened(self._state.copy(), name, lock)

    def export(self, path: str | Path) -> int:
        """Writes the session into one file, with its pictures and all of its keys and values that the store has;
        returns of how many blocks. Engine.session() opens it, on any machine with the same engine file.
        """
        with self._turn:
            self._check()
            return self._keeper.export(self._state, self._name or Path(path).stem, Path(path))

    def save(self) -> None:
        """Waits until all keys and values so far are on disk. Everything else is saved as it happens."""
        with self._turn:
            self._check()
            self._save()
            self._keeper.flush()

    def close(self) -> None:
        """Saves it and gives the name back. Safe to call more than once."""
        with self._turn:
            if self._closed:
                return
            try:
                self._save()
                self._keeper.flush()
            finally:
                self._closed = True
                self._keeper.forget(self)
                if self._name_lock is not None:
                    self._name_lock.release()

    def abandon(self) -> None:
        """The engine closes. All has been saved as it happened."""
        self._closed = True
        if self._name_lock is not None:
            self._name_lock.release()

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Session({self._name!r}, {self.num_tokens} tokens)"

    # --- inside ---------------------------------------------------------------------------------------------

    def _answer(self, params: SamplingParams) -> Iterator[Delta]:
        state = self._state
        if not state.token_ids:
            raise RequestError("the session is empty; append something first")
        if params.seed is None:
            params = replace(params, seed=state.seed)
        if state.output_tokens and params.structured is not None:
            raise RequestError("structured output cannot go on with an answer; append something first")
        request = self._engine.prepare_request(self._prompt(), params)
        request.native.continued_tokens = state.output_tokens
        said: list[int] = []
        texts: list[str] = []
        self._answering = True
        try:
            for delta in self._engine.stream_request(request):
                said += delta.token_ids
                texts.append(delta.text)
                yield delta
        finally:
            self._answering = False
            if texts:
                state.token_ids += said
                conversation.add_answer(state, "".join(texts), going_on=state.output_tokens > 0)
                state.output_tokens += len(said)
                self._save()

    def _take_back(self, before: SessionState) -> None:
        """After a refusal the session is what it was, on disk too: what it refuses once would be refused for ever."""
        if self._state is not before:
            self._state = before
            self._save()

    def _check(self) -> None:
        if self._closed:
            raise RequestError(f"the session {self._name!r} is closed")
        if self._answering:  # this thread has the turn, and a stream that is neither read nor closed
            raise RequestError(
                f"the session {self._name!r} is answering; read its stream to the end, or close() the stream, first"
            )

    def _prompt(self) -> PreparedPrompt:
        return PreparedPrompt(list(self._state.token_ids), None, tuple(self._state.images))

    def _add(self, content: Content, images: Sequence[Any] | None) -> None:
        self._check()
        state = self._state.copy()
        conversation.add(self._engine, state, content, images)
        most = self._engine.max_model_len
        if len(state.token_ids) >= most:
            raise RequestError(
                f"the session would have {len(state.token_ids)} tokens; max_model_len is {most}, and an answer needs "
                "room"
            )
        state.output_tokens = 0
        state.seed = random.SystemRandom().getrandbits(63)
        self._state = state
        self._save()

    def _read(self) -> int:
        """Computes keys and values of what is there."""
        if len(self._state.token_ids) < 2:
            return 0
        # The likelihood of the last token is asked for: that needs everything before it.
        (scores,) = self._engine.score_tokens([self._prompt()], first=len(self._state.token_ids) - 1)
        return scores.num_cached_tokens

    def _save(self) -> None:
        if self._name is not None:
            self._keeper.save(self._name, self._state)
