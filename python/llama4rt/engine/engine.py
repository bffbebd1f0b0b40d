"""Engine: an engine file, opened and ready to generate. What people call.

Text and pictures become tokens in prompt_builder.py; tokens per second are the business of the native engine
behind engine_thread.py. One Engine serves any number of threads at once; their requests share its batches.
"""

import importlib.util
import json
import os
import queue
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from llama4rt import _core
from llama4rt.engine.bad_words import bad_word_tokens
from llama4rt.engine.engine_options import count, parse_bytes, threads
from llama4rt.engine.engine_thread import EngineThread
from llama4rt.engine.outputs import Delta, OutputBuilder, RequestOutput, TokenScores
from llama4rt.engine.prepared_request import PreparedRequest
from llama4rt.engine.request_tracker import Deliver, RequestTracker
from llama4rt.engine.sampling_params import SamplingDefaults, SamplingParams
from llama4rt.engine.score_handler import ScoreHandler, score_all
from llama4rt.errors import EngineFileError, RequestError
from llama4rt.images.limits import ImageLimits
from llama4rt.text.chat_data import Message
from llama4rt.text.chat_template import ChatTemplate
from llama4rt.text.prompt_builder import (
    PreparedPrompt,
    Prompt,
    PromptBuilder,
    images_by_prompt,
    is_one_prompt,
)
from llama4rt.text.tokenizer import Tokenizer, require_tokenizer
from llama4rt.workers.client import current_client

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from llama4rt.structured.compiler import Compiler

# The pictures of one prompt (anything load_image takes), or for a list of prompts a list of those.
Images = Sequence[Any]

_P = TypeVar("_P")

# How long a wait lasts before Python looks for Ctrl-C again.
_WAIT_SECONDS = 0.05
_MAX_IN_FLIGHT = 4096  # of one generate() call, far below what the native engine lets wait


class Engine:
    """Opens an engine file and runs it.

    path: a file made by `llama4rt build`. device: "auto", "cpu", "reference" or "cuda:N". max_model_len: prompt and
    output together, at most the checkpoint's own limit. kv_cache_memory: bytes, or text such as "4GiB" or
    "512MB"; None lets the engine choose. kv_cache_dtype: "auto" ("int16" on a CPU, else "bf16"),
    "bf16", "int16" (CPU only), "int8" (half the memory, CPU only), "fp8" (half the memory; docs/numerics.md says what
    both cost) or "f32". activations: what a CPU
    multiplies int4 weights with: "int8", "int16" (slower, rounds less: docs/numerics.md) or "auto", which is
    int8, or int16 where the processor has AMX. kv_cache_dtype_local: of the layers that attend in chunks; None:
    as kv_cache_dtype. cuda_prefill ("auto" or "medium", which keeps wgmma out), cuda_run_ahead (submit a step
    before the tokens of the one before it are known) and cuda_overlap (of neighbouring kernels): of a GPU.
    num_threads: None takes LLAMA4RT_NUM_THREADS, else the processors this process may use.
    image_cache_memory: for pictures that are encoded, in use or kept for the next time; as kv_cache_memory.
    gpu_memory: the most to take of a GPU; None: what is free there. "auto" means the device the file was built
    for (`llama4rt build --target`). allow_image_urls: whether pictures may be fetched by http(s).
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
        kv_cache_dtype_local: str | None = None,
        activations: str = "auto",
        cuda_prefill: str = "auto",
        cuda_run_ahead: bool = True,
        cuda_overlap: bool = True,
        prefix_cache: bool = True,
        image_cache_memory: int | str | None = None,
        gpu_memory: int | str | None = None,
        allow_image_urls: bool = False,
        image_limits: ImageLimits | None = None,
    ) -> None:
        self.path = os.fsdecode(path)
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
            kv_cache_dtype_local=kv_cache_dtype_local or "",
            activations=activations,
            cuda_prefill=cuda_prefill,
            cuda_run_ahead=cuda_run_ahead,
            cuda_overlap=cuda_overlap,
            prefix_cache=prefix_cache,
            image_cache_bytes=parse_bytes("image_cache_memory", image_cache_memory),
            memory_bytes=parse_bytes("gpu_memory", gpu_memory),
        )
        self._thread = EngineThread(self._core)
        self._lock = threading.Lock()  # guards the compiler's making
        self._compiler: Compiler | None = None
        self._finalizer = weakref.finalize(self, self._thread.close)  # also at exit
        self._prompts = PromptBuilder(
            self._core.file_bytes,
            self._core.config,
            self._core.max_model_len,
            image_limits,
            allow_image_urls,
        )
        self._defaults = SamplingDefaults.from_generation_config(self._json_file("generation_config.json"))

    # --- generation -----------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        images: Images | None = None,
    ) -> list[RequestOutput]:
        """Runs all prompts together and returns their results in order.

        prompts: one text, one list of token ids, or a list of those; params: one for all or one for each. An
        invalid prompt raises RequestError before anything runs. Ctrl-C ends all of them and raises
        KeyboardInterrupt.

        images: the pictures of the prompt, or for a list of prompts a list of such lists. Each `<|image|>` in
        the prompt takes the next one. A picture is a PIL image, a uint8 array, bytes of a file, a path, a data:
        URL, or where the engine allows it an http(s) URL.
        """
        self._thread.check_usable()
        one = is_one_prompt(prompts)
        given: Any = prompts
        items = [given] if one else list(given)
        pictures = images_by_prompt(images, one, len(items))
        return self._run_all(
            [
                self.prepare_request(self.prompts.prepare(prompt, own, where=where), item_params)
                for (prompt, item_params), (where, own) in zip(_pairs(items, params), pictures, strict=True)
            ]
        )

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, images: Images | None = None
    ) -> Iterator[Delta]:
        """Yields what each step adds. Leaving the loop early ends the request."""
        self._thread.check_usable()
        prepared = self.prompts.prepare(prompt, images)
        return self._stream(self.prepare_request(prepared, params or SamplingParams()))

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answers one conversation, or several together; like generate, returns a list in both cases.

        Pictures are parts of a message's content: `{"type": "image_url", "image_url": {"url": ...}}`, or
        `{"type": "image"}` with "image" (anything generate takes), "url", "path" or "base64".

        continue_final_message: the output goes on where the text of the last message ends, instead of answering it.
        add_generation_prompt: opens the assistant's turn; None: unless the final message is continued. options: more
        variables for the chat template.
        """
        self._thread.check_usable()
        one = not messages or isinstance(messages[0], Mapping)
        conversations: Any = [messages] if one else messages
        prompts = [
            self.prompts.prepare_chat(
                conversation,
                tools,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                options=options,
            )
            for conversation in conversations
        ]
        return self._run_all([self.prepare_request(*item) for item in _pairs(prompts, params)])

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The token ids of a conversation, ready for generate and stream. Text in it never becomes control tokens.
        The options are chat's.

        A picture is one `<|image|>` and is not read: give the pictures to generate's `images`, or use
        prepare_chat.
        """
        ids, _ = self._prompts.encode_chat(
            messages,
            tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            options=options,
        )
        return ids

    def encode_prompt(self, prompt: str | Sequence[int]) -> list[int]:
        """Token ids of a prompt: text gets begin-of-text unless it already starts with it; ids stay as they are."""
        return self._prompts.encode(prompt)

    def prepare(self, prompt: Prompt, *, images: Images | None = None) -> PreparedPrompt:
        """Encodes the text and reads the pictures of a prompt, once for many calls that take it as their prompt."""
        return self._prompts.prepare(prompt, images)

    def prepare_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> PreparedPrompt:
        """A conversation with its pictures, as a prompt for generate, stream and score. The options are chat's."""
        return self._prompts.prepare_chat(
            messages,
            tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            options=options,
        )

    def load_image(self, source: Any) -> "Image":
        """A picture in any form generate takes, as a PIL image of mode RGB, within this engine's limits."""
        return self._prompts.load_image(source)

    def score(self, prompt: Prompt, *, images: Images | None = None) -> "NDArray[np.float32]":
        """float32 [tokens, vocab]: the logits after each token of the prompt, teacher forced. Nothing is generated.

        They take 4 bytes for each token and word of the vocabulary; score_tokens keeps none of them.
        """
        import numpy as np

        self._thread.check_usable()
        request = self.prepare_request(self.prompts.prepare(prompt, images), SamplingParams(max_tokens=1))
        request.native.return_logits = True
        request.native.use_prefix_cache = False
        handler = ScoreHandler()
        request_id = self._thread.submit(request.native, handler)
        try:
            rows = self._next_item(handler.queue)
        except BaseException:
            self._thread.abandon(request_id)
            raise
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def score_tokens(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        first: int | Sequence[int] = 1,
        top: int = 0,
        images: Images | None = None,
    ) -> list[TokenScores]:
        """The log-probability of every token of each prompt from place `first` on, and of the `top` (0..20) likeliest
        ones there. Nothing is generated.

        Prompts run together, and each is read as fast as one that is answered; memory does not grow with their length
        but by the numbers returned. Tokens before `first` are context, and may come from the prefix cache. first: one
        for all or one for each.
        """
        self._thread.check_usable()
        one = is_one_prompt(prompts)
        given: Any = prompts
        items = [given] if one else list(given)
        params = SamplingParams(max_tokens=1, prompt_logprobs=top)
        natives = [
            self.prepare_request(self.prompts.prepare(prompt, own, where=where), params).native
            for prompt, (where, own) in zip(items, images_by_prompt(images, one, len(items)), strict=True)
        ]
        return score_all(self._thread, natives, first, self._next_item)

    # --- for callers that choose their threads and wait for events themselves: AsyncEngine -------------------

    @property
    def prompts(self) -> PromptBuilder:
        """Makes prompts of text, messages and pictures. Safe to use from many threads."""
        return self._prompts

    def prepare_request(self, prompt: PreparedPrompt, params: SamplingParams) -> PreparedRequest:
        """Checks a request and fills in the engine's defaults; compiles the grammar of structured output, which may
        take a second. Raises RequestError.
        """
        if not isinstance(params, SamplingParams):
            raise RequestError(f"params is a {type(params).__name__}; it must be a SamplingParams")
        params = self._with_defaults(params)
        if params.stop_strings:
            require_tokenizer(self.tokenizer, "stop")
        if params.structured is None:
            if not params.bad_words:
                return PreparedRequest(prompt, params)
            tokenizer = require_tokenizer(self.tokenizer, "bad_words")
            return PreparedRequest(prompt, params, (), bad_word_tokens(tokenizer, params.bad_words))
        room = self.max_model_len - len(prompt.token_ids)
        if room < 1:
            return PreparedRequest(prompt, params)  # submit says what is wrong
        budget = room if params.max_tokens is None else min(params.max_tokens, room)
        return PreparedRequest(prompt, params, self._grammars().guides(params.structured, params.n, budget))

    def submit(self, request: PreparedRequest, deliver: Deliver, name: str | None = None) -> int:
        """Queues a request and returns its id. From now on deliver(item) is called in the engine thread: with each
        Delta (and Progress, when params ask for it), then with None, or with the error that ended the request.

        name: the request_id of its Deltas; without it that is the id. Raises RequestError for what does not fit the
        engine's limits.
        """
        tracker = RequestTracker(
            request.params, self.tokenizer, request.prompt_token_ids, deliver, name, request.guides
        )
        request.native.client = current_client().number
        return self._thread.submit(request.native, tracker)

    def abort(self, request_id: int) -> None:
        """Ends a submitted request: its last Delta has finish_reason "abort". Ended and unknown ones are ignored."""
        self._thread.abort(request_id)

    def hold(self, request_id: int, held: bool) -> None:
        """Pauses a submitted request, or lets it go on: meanwhile others have its place. Its output is the same."""
        self._thread.hold(request_id, held)

    def abandon(self, request_id: int) -> None:
        """Ends a submitted request whose reader is gone: nothing is delivered any more. May be called at any time."""
        self._thread.abandon(request_id)

    def reap(self) -> None:
        """Tells submitted requests of their end if the engine's thread has died. For callers that wait for events
        themselves, about once a second; it does nothing when all is well.
        """
        self._thread.reap()

    # --- what is inside -------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer, loaded on first use; None when the engine file carries none."""
        return self._prompts.tokenizer

    @property
    def chat_template(self) -> ChatTemplate:
        """The checkpoint's chat template, or Llama 4's standard one."""
        return self._prompts.chat_template

    @property
    def config(self) -> dict[str, Any]:
        """The model config, as stored in the engine file."""
        return self._core.config

    @property
    def max_model_len(self) -> int:
        """Prompt and output of a request together, in tokens."""
        return self._core.max_model_len

    @property
    def max_num_seqs(self) -> int:
        """Outputs that can be in the running batch at once."""
        return self._core.max_num_seqs

    def check_usable(self) -> None:
        """Raises Llama4RTError in a forked child, after close, and after the engine has failed for good: memory ran
        out in a step, two steps in a row failed, or the engine's thread ended. Cheap: a server may ask each second,
        and requests that a dead thread has left hear of its end through it.
        """
        self._thread.check_usable()

    @property
    def device(self) -> str:
        """The device in use: "cpu", "reference" or "cuda:N"."""
        return self._core.device

    def stats(self) -> dict[str, Any]:
        """Counters of this moment: requests running and waiting, blocks, tokens per second, bytes by component."""
        self._thread.check_usable()
        return self._core.stats()

    def close(self) -> None:
        """Ends running requests and frees the engine. Safe to call more than once and from any thread."""
        self._finalizer()
        self._prompts.close()
        with self._lock:
            if self._compiler is not None:
                self._compiler.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Engine({self.path!r}, device={self.device!r}, max_model_len={self.max_model_len})"

    def warm_structured_output(self) -> None:
        """Loads what the first grammar would have to wait for. Of no effect without the extra [serve]."""
        if importlib.util.find_spec("llguidance") is not None:
            self._grammars().warm()

    # --- inside ---------------------------------------------------------------------------------------------

    def _grammars(self) -> "Compiler":
        with self._lock:
            if self._compiler is None:
                from llama4rt.structured.compiler import Compiler

                tokenizer = require_tokenizer(self.tokenizer, "structured output")
                self._compiler = Compiler(tokenizer, self.config["vocab_size"], self.config["eos_token_ids"])
            return self._compiler

    def _with_defaults(self, params: SamplingParams) -> SamplingParams:
        names = ("temperature", "top_k", "top_p", "repetition_penalty")
        unset = {name: getattr(self._defaults, name) for name in names if getattr(params, name) is None}
        return replace(params, **unset) if unset else params

    def _run_all(self, requests: list[PreparedRequest]) -> list[RequestOutput]:
        inbox: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        builders: list[OutputBuilder] = []
        running: dict[int, int] = {}  # index of the request -> its id
        try:
            while running or len(builders) < len(requests):
                while len(builders) < len(requests) and len(running) < _MAX_IN_FLIGHT:
                    i, request = len(builders), requests[len(builders)]
                    running[i] = self.submit(request, lambda item, i=i: inbox.put((i, item)))  # type: ignore[misc]
                    builders.append(
                        OutputBuilder(running[i], request.prompt, request.prompt_token_ids, request.params.n)
                    )
                i, item = self._next_item(inbox)
                if isinstance(item, Delta):
                    builders[i].add(item)
                    continue
                del running[i]
                if item is not None:
                    raise item
        except BaseException:  # Ctrl-C too
            for request_id in running.values():
                self.abandon(request_id)
            raise
        return [builder.snapshot() for builder in builders]

    def _stream(self, request: PreparedRequest) -> Iterator[Delta]:
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        request_id = self.submit(request, inbox.put)
        try:
            while (item := self._next_item(inbox)) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.abandon(request_id)  # of no effect when it has ended

    def _next_item(self, inbox: "queue.SimpleQueue[Any]") -> Any:
        """Waits in slices, so that Ctrl-C is seen soon, and the end of the engine's thread; raises an error that was
        sent.
        """
        while True:
            try:
                item = inbox.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                self._thread.reap()
                continue
            if isinstance(item, BaseException):
                raise item
            return item

    def _json_file(self, name: str) -> dict[str, Any]:
        data = self._core.file_bytes(name)
        if data is None:
            return {}
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise EngineFileError(f"{name}: {error}") from None
        return value if isinstance(value, dict) else {}


def _pairs(
    prompts: Sequence[_P], params: SamplingParams | Sequence[SamplingParams] | None
) -> list[tuple[_P, SamplingParams]]:
    """One for all or one for each."""
    if params is None or isinstance(params, SamplingParams):
        return [(prompt, params or SamplingParams()) for prompt in prompts]
    if len(params) != len(prompts):
        raise RequestError(
            f"there are {len(prompts)} prompts and {len(params)} SamplingParams; give one or as many"
        )
    return list(zip(prompts, params, strict=True))
