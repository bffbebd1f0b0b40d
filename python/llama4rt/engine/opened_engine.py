"""OpenedEngine: an engine file, opened, and the requests that run in it.

For callers that choose their threads and wait for events themselves; Engine and AsyncEngine are such callers.
"""

import importlib.util
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from llama4rt import _core
from llama4rt.engine.bad_words import bad_word_tokens
from llama4rt.engine.engine_facts import EngineFacts
from llama4rt.engine.engine_options import KV_STORE_SIZE, count, parse_bytes, threads
from llama4rt.engine.engine_thread import EngineThread
from llama4rt.engine.find_file import find_engine_file
from llama4rt.engine.option_types import Activations, CudaPrefill, Device, KvCacheDtype
from llama4rt.engine.prepared_request import PreparedRequest
from llama4rt.engine.request_tracker import Deliver, RequestTracker
from llama4rt.engine.sampling_params import SamplingDefaults, SamplingParams, check_params
from llama4rt.file_json import read_json_object
from llama4rt.images.limits import ImageLimits
from llama4rt.text.prompt_builder import PreparedPrompt, PromptBuilder
from llama4rt.text.tokenizer import require_tokenizer
from llama4rt.workers.client import current_client

if TYPE_CHECKING:
    from llama4rt.convert.build_options import GroupSize, WeightKind
    from llama4rt.structured.compiler import Compiler


class OpenedEngine(EngineFacts):
    """The options are Engine's."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        device: Device = "auto",
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        kv_cache_memory: int | str | None = None,
        num_threads: int | None = None,
        block_size: int = 16,
        max_batched_tokens: int | None = None,
        kv_cache_dtype: KvCacheDtype = "auto",
        kv_cache_dtype_local: KvCacheDtype | None = None,
        activations: Activations = "auto",
        cuda_prefill: CudaPrefill = "auto",
        cuda_run_ahead: bool = True,
        cuda_overlap: bool = True,
        prefix_cache: bool = True,
        speculate: str | os.PathLike[str] = "off",
        image_cache_memory: int | str | None = None,
        gpu_memory: int | str | None = None,
        kv_store: str | os.PathLike[str] | None = None,
        kv_store_size: int | str = KV_STORE_SIZE,
        allow_image_urls: bool = False,
        image_limits: ImageLimits | None = None,
        weights: "WeightKind | None" = None,
        group_size: "GroupSize | None" = None,
        mmproj: str | os.PathLike[str] | None = None,
        build_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        file = find_engine_file(
            path,
            device,
            {"weights": weights, "group_size": group_size, "mmproj": mmproj},
            num_threads=num_threads,
            progress=build_progress,
        )
        self._path = file
        self._core = _core.Engine(
            file,
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
            speculate=os.fsdecode(speculate),
            image_cache_bytes=parse_bytes("image_cache_memory", image_cache_memory),
            memory_bytes=parse_bytes("gpu_memory", gpu_memory),
            kv_store="" if kv_store is None else os.fsdecode(kv_store),
            kv_store_bytes=parse_bytes("kv_store_size", kv_store_size),
        )
        self._kv_store = kv_store
        self._speculates = os.fsdecode(speculate) != "off"
        self._thread = EngineThread(self._core, has_store=kv_store is not None)
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
        self._defaults = SamplingDefaults.from_generation_config(
            read_json_object(self._core.file_bytes, "generation_config.json")
        )

    @property
    def _opened(self) -> "OpenedEngine":
        return self

    @property
    def file(self) -> str:
        """The engine file, wherever it came from."""
        return self._path

    @property
    def native(self) -> _core.Engine:
        return self._core

    @property
    def thread(self) -> EngineThread:
        return self._thread

    @property
    def prompts(self) -> PromptBuilder:
        """Makes prompts of text, messages and pictures. Safe to use from many threads."""
        return self._prompts

    def prepare_request(self, prompt: PreparedPrompt, params: SamplingParams) -> PreparedRequest:
        """Checks a request and fills in the engine's defaults; compiles the grammar of structured output, which may
        take a second. Raises RequestError.
        """
        params = self._with_defaults(check_params(params))
        if params.stop_strings:
            require_tokenizer(self.tokenizer, "stop")
        if params.structured is None:
            bad_words: list[list[int]] = []
            if params.bad_words:
                tokenizer = require_tokenizer(self.tokenizer, "bad_words")
                bad_words = bad_word_tokens(tokenizer, params.bad_words)
            return PreparedRequest(prompt, params, (), bad_words, self._predicted(params))
        room = self.max_model_len - len(prompt.token_ids)
        if room < 1:
            return PreparedRequest(prompt, params)  # submit says what is wrong
        budget = room if params.max_tokens is None else min(params.max_tokens, room)
        seen = [*self._predicted(params), *prompt.token_ids] if self._speculates else None
        return PreparedRequest(
            prompt, params, self._grammars().guides(params.structured, params.n, budget, seen=seen)
        )

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

    def close(self) -> None:
        """Ends running requests and frees the engine. Safe to call more than once and from any thread."""
        self._finalizer()
        self._prompts.close()
        with self._lock:
            if self._compiler is not None:
                self._compiler.close()

    def warm_structured_output(self) -> None:
        """Loads what the first grammar would have to wait for. Of no effect without the extra [serve]."""
        if importlib.util.find_spec("llguidance") is not None:
            self._grammars().warm()

    def _predicted(self, params: SamplingParams) -> list[int]:
        """The tokens of the prediction; none where nobody guesses."""
        if params.prediction is None or not self._speculates:
            return []
        tokenizer = require_tokenizer(self.tokenizer, "prediction")
        return tokenizer.encode(params.prediction)[: self.max_model_len]

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
