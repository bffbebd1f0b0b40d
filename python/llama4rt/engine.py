"""Engine: an engine file, opened and ready to generate. What people call.

Text is handled here (tokenizer, chat template); tokens per second are the business of the native engine
behind engine_thread.py. One Engine serves any number of threads at once; their requests share its batches.
"""

import json
import os
import queue
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llama4rt import _core
from llama4rt.chat_template import ChatTemplate, Message, has_images
from llama4rt.engine_options import count, parse_bytes, threads
from llama4rt.engine_thread import EngineThread
from llama4rt.errors import EngineFileError, RequestError
from llama4rt.outputs import Delta, OutputBuilder, RequestOutput
from llama4rt.request_tracker import Deliver, RequestTracker
from llama4rt.sampling_params import SamplingDefaults, SamplingParams
from llama4rt.tokenizer import BOS_TEXT, Tokenizer, load_tokenizer, require_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Prompt = str | Sequence[int]

# How long a wait lasts before Python looks for Ctrl-C again.
_WAIT_SECONDS = 0.05
_NO_LIMIT = 2**31 - 1
_MAX_IN_FLIGHT = 4096  # of one generate() call, far below what the native engine lets wait


class Engine:
    """Opens an engine file and runs it.

    path: a file made by `llama4rt build`. device: "auto", "cpu", "reference" or "cuda:N". max_model_len:
    prompt and output together, at most the checkpoint's own limit. kv_cache_memory: bytes, or text such as
    "4GiB" or "512MB"; None lets the engine choose. num_threads: None takes LLAMA4RT_NUM_THREADS, else the
    processors this process may use.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        kv_cache_memory: int | str | None = None,
        num_threads: int | None = None,
        block_size: int = 16,
        max_batched_tokens: int | None = None,
        kv_cache_dtype: str = "auto",
        prefix_cache: bool = True,
    ) -> None:
        self.path = os.fspath(path)
        if os.path.isdir(self.path):
            raise EngineFileError(
                f"{self.path} is a directory, not an engine file; "
                f"run `llama4rt build {self.path} -o model.l4e` first"
            )
        self._core = _core.Engine(
            self.path,
            device=device,
            num_threads=threads(num_threads),
            max_model_len=count("max_model_len", max_model_len),
            max_num_seqs=count("max_num_seqs", max_num_seqs),
            kv_cache_bytes=parse_bytes("kv_cache_memory", kv_cache_memory),
            block_size=count("block_size", block_size),
            max_batched_tokens=count("max_batched_tokens", max_batched_tokens),
            kv_cache_dtype=kv_cache_dtype,
            prefix_cache=prefix_cache,
        )
        self._thread = EngineThread(self._core)
        self._finalizer = weakref.finalize(self, self._thread.close)  # also at exit
        self._text_lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None
        self._tokenizer_loaded = False
        self._chat_template: ChatTemplate | None = None
        self._defaults = SamplingDefaults.from_generation_config(self._json_file("generation_config.json"))

    # --- generation -----------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Runs all prompts together and returns their results in order.

        prompts: one text, one list of token ids, or a list of those; params: one for all or one for each. An
        invalid prompt raises RequestError before anything runs. Ctrl-C ends all of them and raises
        KeyboardInterrupt.
        """
        return self._run_all([self._prepare(*item) for item in self._pairs(prompts, params)])

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Delta]:
        """Yields what each step adds. Leaving the loop early ends the request."""
        return self._stream(self._prepare(prompt, params or SamplingParams()))

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[RequestOutput]:
        """Answers one conversation, or several together; like generate, returns a list in both cases."""
        one = not messages or isinstance(messages[0], Mapping)
        conversations: Any = [messages] if one else messages
        prompts = [self.apply_chat_template(conversation, tools=tools) for conversation in conversations]
        return self._run_all([self._prepare(*item) for item in self._pairs(prompts, params)])

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The token ids of a conversation, ready for generate and stream. Text in it never becomes special
        tokens.
        """
        tokenizer = require_tokenizer(self.tokenizer, "chat")
        if has_images(messages):
            raise RequestError("a message holds an image; this version of llama4rt takes text only")
        return self.chat_template.encode(
            tokenizer, messages, tools, add_generation_prompt=add_generation_prompt, options=options
        )

    def score(self, prompt: Prompt) -> "NDArray[np.float32]":
        """float32 [tokens, vocab]: the logits after each token of the prompt, teacher forced. Nothing is
        generated.
        """
        import numpy as np

        work = self._prepare(prompt, SamplingParams(max_tokens=1))
        work.request.return_logits = True
        work.request.use_prefix_cache = False
        handler = _ScoreHandler()
        request_id = self._thread.submit(work.request, handler)
        try:
            rows = _next_item(handler.queue)
        except BaseException:
            self._thread.abandon(request_id)
            raise
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    # --- what is inside -------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer, loaded on first use; None when the engine file carries none."""
        with self._text_lock:
            if not self._tokenizer_loaded:
                self._tokenizer = load_tokenizer(self._core.file_bytes)
                self._tokenizer_loaded = True
            return self._tokenizer

    @property
    def chat_template(self) -> ChatTemplate:
        """The checkpoint's chat template, or Llama 4's standard one."""
        with self._text_lock:
            if self._chat_template is None:
                self._chat_template = ChatTemplate.from_files(self._core.file_bytes)
            return self._chat_template

    @property
    def config(self) -> dict[str, Any]:
        """The model config, as stored in the engine file."""
        return self._core.config

    @property
    def max_model_len(self) -> int:
        return self._core.max_model_len

    @property
    def device(self) -> str:
        """The device in use: "cpu", "reference" or "cuda:N"."""
        return self._core.backend

    def stats(self) -> dict[str, Any]:
        """Counters of this moment: requests running and waiting, blocks, tokens per second, bytes by
        component.
        """
        self._thread.check_usable()
        return self._core.stats()

    def close(self) -> None:
        """Ends running requests and frees the engine. Safe to call more than once and from any thread."""
        self._finalizer()
        if self._chat_template is not None:
            self._chat_template.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Engine({self.path!r}, device={self.device!r}, max_model_len={self.max_model_len})"

    # --- from a prompt to a request -------------------------------------------------------------------------

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: text gets begin-of-text unless it already starts with it; ids stay as they
        are.
        """
        if isinstance(prompt, str):
            return self._encode_text(prompt)
        return _token_ids(prompt)

    def _encode_text(self, text: str) -> list[int]:
        if not text:
            raise RequestError(f'the prompt is empty; to generate from nothing, pass "{BOS_TEXT}"')
        tokenizer = require_tokenizer(self.tokenizer, "a text prompt")
        # No token is longer than max_token_bytes, so so many characters cannot fit: say so before encoding.
        at_least = len(text) // tokenizer.max_token_bytes
        if at_least > self.max_model_len:
            raise RequestError(
                f"the prompt has {len(text)} characters, at least {at_least} tokens; "
                f"max_model_len is {self.max_model_len}"
            )
        bos = self.config.get("bos_token_id", -1)
        if bos < 0:
            bos = tokenizer.special_tokens.get(BOS_TEXT, -1)
        bos_text = tokenizer.token_bytes(bos).decode("utf-8", "replace")
        if bos_text and text.startswith(bos_text):
            text = text[len(bos_text) :]
        ids = tokenizer.encode(text)
        return [bos, *ids] if bos >= 0 else ids

    def _pairs(
        self, prompts: Prompt | Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[tuple[Prompt, SamplingParams]]:
        one = isinstance(prompts, str) or _is_token_ids(prompts)
        items: list[Prompt] = [prompts] if one else list(prompts)  # type: ignore[list-item, arg-type]
        if params is None or isinstance(params, SamplingParams):
            return [(item, params or SamplingParams()) for item in items]
        if len(params) != len(items):
            raise RequestError(
                f"there are {len(items)} prompts and {len(params)} SamplingParams; give one or as many"
            )
        return list(zip(items, params, strict=True))

    def _prepare(self, prompt: Prompt, params: SamplingParams) -> "_Work":
        self._thread.check_usable()
        if not isinstance(params, SamplingParams):
            raise RequestError(f"params is a {type(params).__name__}; it must be a SamplingParams")
        ids = self.encode_prompt(prompt)
        params = self._with_defaults(params)
        if params.stop_strings:
            require_tokenizer(self.tokenizer, "stop")
        return _Work(prompt if isinstance(prompt, str) else None, ids, params, _native_request(ids, params))

    def _with_defaults(self, params: SamplingParams) -> SamplingParams:
        names = ("temperature", "top_k", "top_p", "repetition_penalty")
        unset = {name: getattr(self._defaults, name) for name in names if getattr(params, name) is None}
        return replace(params, **unset) if unset else params

    # --- running --------------------------------------------------------------------------------------------

    def _start(self, work: "_Work", deliver: Deliver, name: str | None = None) -> int:
        """Submits; from now on `deliver` is called in the engine thread."""
        tracker = RequestTracker(work.params, self.tokenizer, work.prompt_token_ids, deliver, name)
        return self._thread.submit(work.request, tracker)

    def _run_all(self, works: "list[_Work]") -> list[RequestOutput]:
        inbox: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        builders: list[OutputBuilder] = []
        running: dict[int, int] = {}  # index of the work -> request id
        try:
            while running or len(builders) < len(works):
                while len(builders) < len(works) and len(running) < _MAX_IN_FLIGHT:
                    i, work = len(builders), works[len(builders)]
                    running[i] = self._start(work, lambda item, i=i: inbox.put((i, item)))  # type: ignore[misc]
                    builders.append(
                        OutputBuilder(running[i], work.prompt, work.prompt_token_ids, work.params.n)
                    )
                i, item = _next_item(inbox)
                if isinstance(item, Delta):
                    builders[i].add(item)
                    continue
                del running[i]
                if item is not None:
                    raise item
        except BaseException:  # Ctrl-C too
            for request_id in running.values():
                self._thread.abandon(request_id)
            raise
        return [builder.snapshot() for builder in builders]

    def _stream(self, work: "_Work") -> Iterator[Delta]:
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        request_id = self._start(work, inbox.put)
        try:
            while (item := _next_item(inbox)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._thread.abandon(request_id)  # of no effect when it has ended

    def _json_file(self, name: str) -> dict[str, Any]:
        data = self._core.file_bytes(name)
        if data is None:
            return {}
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise EngineFileError(f"{name}: {error}") from None
        return value if isinstance(value, dict) else {}


class _Work:
    """A checked request that waits to be submitted."""

    def __init__(
        self, prompt: str | None, prompt_token_ids: list[int], params: SamplingParams, request: _core.Request
    ) -> None:
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.params = params
        self.request = request


class _ScoreHandler:
    """Collects the logits of a score() request and puts them into its queue once complete."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.finished = False
        self._rows: list[NDArray[np.float32]] = []

    def on_event(self, event: _core.Event, end_sequence: Any) -> None:
        if event.logits is not None:
            self._rows.append(event.logits)
        if event.finish_reason == "error":
            self.fail(RequestError(event.error or "the request failed"))
        elif event.finish_reason:
            self.finished = True
            self.queue.put(self._rows)

    def fail(self, error: BaseException) -> None:
        if not self.finished:
            self.finished = True
            self.queue.put(error)


def _next_item(inbox: "queue.SimpleQueue[Any]") -> Any:
    """Waits in slices, so that Ctrl-C is seen soon; raises an error that was sent."""
    while True:
        try:
            item = inbox.get(timeout=_WAIT_SECONDS)
        except queue.Empty:
            continue
        if isinstance(item, BaseException):
            raise item
        return item


def _native_request(ids: list[int], params: SamplingParams) -> _core.Request:
    """The native form; None has been replaced by the engine's defaults."""
    request = _core.Request()
    request.prompt_token_ids = ids
    request.n = params.n
    request.max_tokens = _NO_LIMIT if params.max_tokens is None else params.max_tokens
    request.min_tokens = params.min_tokens
    request.temperature = params.temperature if params.temperature is not None else 1.0
    request.top_k = max(params.top_k or 0, 0)
    request.top_p = params.top_p if params.top_p is not None else 1.0
    request.min_p = params.min_p
    request.repetition_penalty = params.repetition_penalty if params.repetition_penalty is not None else 1.0
    request.presence_penalty = params.presence_penalty
    request.frequency_penalty = params.frequency_penalty
    request.logit_bias = dict(params.logit_bias or {})
    request.seed = None if params.seed is None else params.seed & (2**63 - 1)
    request.stop_token_ids = list(params.stop_token_ids)
    request.ignore_eos = params.ignore_eos
    request.logprobs = -1 if params.logprobs is None else params.logprobs
    request.prompt_logprobs = -1 if params.prompt_logprobs is None else params.prompt_logprobs
    return request


def _is_token_ids(prompt: Any) -> bool:
    """One prompt of token ids rather than a list of prompts. An empty list is an (invalid) empty prompt."""
    try:
        return len(prompt) == 0 or not hasattr(prompt[0], "__len__")
    except (TypeError, KeyError):
        raise RequestError(
            f"the prompt is a {type(prompt).__name__}; it must be text, token ids, or a list of those"
        ) from None


def _token_ids(prompt: Any) -> list[int]:
    if isinstance(prompt, (bytes, bytearray, memoryview)):  # would pass for a list of small token ids
        raise RequestError(
            f"a prompt is {type(prompt).__name__}; it must be text (decode it first) or a list of token ids"
        )
    try:
        items = list(prompt)
    except TypeError:
        raise RequestError(
            f"a prompt is a {type(prompt).__name__}; it must be text or a list of token ids"
        ) from None
    if not items:
        raise RequestError("a prompt is empty; it needs at least one token")
    ids = []
    for i, item in enumerate(items):
        try:
            value = item.__index__()
        except (AttributeError, TypeError):
            value = -1
        if isinstance(item, bool) or not 0 <= value <= _NO_LIMIT:
            raise RequestError(f"prompt token {i} is {item!r:.80}; it must be a token id")
        ids.append(value)
    return ids
