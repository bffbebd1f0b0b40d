"""Engine: an engine file, opened and ready to generate. What people call.

Text and pictures become tokens in prompt_builder.py; tokens per second are the business of the native engine
behind opened_engine.py. One Engine serves any number of threads at once; their requests share its batches.
"""

import queue
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llama4rt.engine.engine_sessions import SessionMethods
from llama4rt.engine.outputs import Delta, OutputBuilder, RequestOutput, TokenScores
from llama4rt.engine.prepared_request import PreparedRequest
from llama4rt.engine.sampling_params import SamplingParams, params_for_each
from llama4rt.engine.score_handler import ScoreHandler, joined_rows, score_all, score_params, score_request
from llama4rt.text.chat_data import Message, conversations_of
from llama4rt.text.prompt_builder import Images, PreparedPrompt, Prompt, prompts_with_images

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from typing_extensions import Unpack

    from llama4rt.images.sources import ImageSource
    from llama4rt.text.chat_data import ConversationOptions

# How long a wait lasts before Python looks for Ctrl-C again.
_WAIT_SECONDS = 0.05
_MAX_IN_FLIGHT = 4096  # of one generate() call, far below what the native engine lets wait


class Engine(SessionMethods):
    """Opens an engine file and runs it.

    path: a file made by `llama4rt build`; a checkpoint directory, GGUF file or hub id, built into the cache the first
    time (weights, group_size, mmproj: as llama4rt.build takes them; build_progress: told bytes done and in all; where
    the file comes from is logged by "llama4rt.build"); None: the demo model. device: "auto", "cpu", "reference" or
    "cuda:N". max_model_len: prompt and output together, at most the checkpoint's own limit. kv_cache_memory: bytes, or
    text such as "4GiB" or "512MB"; None lets the engine choose. kv_cache_dtype: "auto" ("int16" on a CPU, else
    "bf16"), "bf16", "int16" (CPU only), "int8" (half the memory, CPU only),
    "int4" (a quarter, CPU only; costs quality), "fp8" (half the memory; docs/numerics.md
    says what both cost) or "f32". activations: what a CPU
    multiplies int4 weights with: "int8", "int16" (slower, rounds less: docs/numerics.md) or "auto", which is
    int8, or int16 where the processor has AMX. kv_cache_dtype_local: of the layers that attend in chunks; None:
    as kv_cache_dtype. cuda_prefill ("auto" or "medium", which keeps wgmma out), cuda_run_ahead (submit a step
    before the tokens of the one before it are known) and cuda_overlap (of neighbouring kernels): of a GPU.
    num_threads: None takes LLAMA4RT_NUM_THREADS, else the processors this process may use.
    image_cache_memory: for pictures that are encoded, in use or kept for the next time; as kv_cache_memory.
    speculate: "off"; "auto": guesses what repeats itself, in the prompt, the output or a request's prediction, while
    that gains time; "ngram": guesses all of it, whatever it costs; else the path of the engine file of a small model of
    the same vocabulary, which guesses. No guess changes a token (docs/speculation.md); of a CPU.
    adapter_memory: for LoRA adapters that requests name (load_adapter, docs/adapters.md), as kv_cache_memory; None:
    no adapters; of a CPU.
    gpu_memory: the most to take of a GPU; None: what is free there. "auto" means the device the file was built
    for (`llama4rt build --target`). kv_store: a directory where keys and values are kept beyond the
    engine's life, for sessions and for prompts that come again (docs/sessions.md); at most kv_store_size of it is used.
    allow_image_urls: whether pictures may be fetched by http(s).
    """

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
        self.check_usable()
        items = prompts_with_images(prompts, images)
        return self._run_all(
            [
                self.prepare_request(self.prompts.prepare(prompt, own, where=where), own_params)
                for (prompt, where, own), own_params in params_for_each(items, params)
            ]
        )

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, images: Images | None = None
    ) -> Iterator[Delta]:
        """Yields what each step adds. Leaving the loop early ends the request."""
        self.check_usable()
        prepared = self.prompts.prepare(prompt, images)
        return self._stream(self.prepare_request(prepared, SamplingParams() if params is None else params))

    def chat(
        self,
        messages: Sequence[Message | Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        **options: "Unpack[ConversationOptions]",
    ) -> list[RequestOutput]:
        """Answers one conversation, or several together; like generate, returns a list in both cases.

        Pictures are parts of a message's content: `{"type": "image_url", "image_url": {"url": ...}}`, or
        `{"type": "image"}` with "image" (anything generate takes), "url", "path" or "base64".

        tools: functions that the model may call, as JSON schemas. continue_final_message: the output goes on where the
        text of the last message ends, instead of answering it. add_generation_prompt: opens the assistant's turn; None:
        unless the final message is continued. options: more variables for the chat template.
        """
        self.check_usable()
        prompts = [
            self.prompts.prepare_chat(conversation, **options) for conversation in conversations_of(messages)
        ]
        return self._run_all([self.prepare_request(*item) for item in params_for_each(prompts, params)])

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        **options: "Unpack[ConversationOptions]",
    ) -> Iterator[Delta]:
        """Yields the answer to one conversation as it comes. The options are chat's."""
        return self.stream(self.prepare_chat(messages, **options), params)

    # --- prompts --------------------------------------------------------------------------------------------

    def apply_chat_template(
        self, messages: Sequence[Message], **options: "Unpack[ConversationOptions]"
    ) -> list[int]:
        """The token ids of a conversation, ready for generate and stream. Text in it never becomes control tokens.
        The options are chat's.

        A picture is one `<|image|>` and is not read: give the pictures to generate's `images`, or use
        prepare_chat. `engine.tokenizer.apply_chat_template` is transformers' form of this.
        """
        ids, _ = self.prompts.encode_chat(messages, **options)
        return ids

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt: text gets begin-of-text unless it already starts with it; ids stay as they are."""
        return self.prompts.encode(prompt)

    def prepare(self, prompt: Prompt, *, images: Images | None = None) -> PreparedPrompt:
        """Encodes the text and reads the pictures of a prompt, once for many calls that take it as their prompt."""
        return self.prompts.prepare(prompt, images)

    def prepare_chat(
        self, messages: Sequence[Message], **options: "Unpack[ConversationOptions]"
    ) -> PreparedPrompt:
        """A conversation with its pictures, as a prompt for generate, stream and score. The options are chat's."""
        return self.prompts.prepare_chat(messages, **options)

    def load_image(self, source: "ImageSource") -> "Image":
        """A picture in any form generate takes, as a PIL image of mode RGB, within this engine's limits."""
        return self.prompts.load_image(source)

    # --- scores ---------------------------------------------------------------------------------------------

    def score(
        self, prompt: Prompt, *, images: Images | None = None, adapter: str | None = None
    ) -> "NDArray[np.float32]":
        """float32 [tokens, vocab]: the logits after each token of the prompt, teacher forced. Nothing is generated.

        They take 4 bytes for each token and word of the vocabulary; score_tokens keeps none of them.
        """
        self.check_usable()
        params = replace(score_params(), adapter=adapter)
        request = score_request(self.prepare_request(self.prompts.prepare(prompt, images), params))
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        request_id = self.thread.submit(request, ScoreHandler(inbox.put))
        try:
            return joined_rows(self._next_item(inbox))
        except BaseException:
            self.abandon(request_id)
            raise

    def score_tokens(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        first: int | Sequence[int] = 1,
        top: int = 0,
        images: Images | None = None,
        adapter: str | None = None,
    ) -> list[TokenScores]:
        """The log-probability of every token of each prompt from place `first` on, and of the `top` (0..20) likeliest
        ones there. Nothing is generated.

        Prompts run together, and each is read as fast as one that is answered; memory does not grow with their length
        but by the numbers returned. Tokens before `first` are context, and may come from the prefix cache. first: one
        for all or one for each.
        """
        self.check_usable()
        params = replace(score_params(top), adapter=adapter)
        natives = [
            self.prepare_request(self.prompts.prepare(prompt, own, where=where), params).native
            for prompt, where, own in prompts_with_images(prompts, images)
        ]
        return score_all(self.thread, natives, first, self._next_item)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- waiting --------------------------------------------------------------------------------------------

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

    def stream_request(self, request: PreparedRequest) -> Iterator[Delta]:
        """Runs a prepared request and yields what each step adds. Leaving the loop early ends it."""
        return self._stream(request)

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
                self.reap()
                continue
            if isinstance(item, BaseException):
                raise item
            return item
