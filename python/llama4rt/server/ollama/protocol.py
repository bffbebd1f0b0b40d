"""What Ollama's clients may send. Options are read one by one: what cannot be obeyed is refused by name."""

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, UnsetType

from llama4rt.server.protocol import MAX_STOP, Body, CalledFunction, Ignored, JsonObject, StopText, Tool

Format = Annotated[Raw | UnsetType, Meta(extra_json_schema={}, description='"json", or a JSON schema')]


class OllamaOptions(Body, kw_only=True):
    """Names and meanings are llama.cpp's; ranges are checked where the chat endpoint checks them."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    num_predict: int | None = None
    stop: StopText | Annotated[list[StopText], Meta(max_length=MAX_STOP)] | None = None


class OllamaCall(Body, kw_only=True):
    function: CalledFunction
    id: str | None = None


class OllamaMessage(Body, kw_only=True):
    role: str
    content: str | None = None
    images: list[str] | None = None  # base64
    tool_calls: list[OllamaCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    thinking: Ignored = UNSET


class OllamaRequest(Body, kw_only=True):
    """What chat and generate share."""

    model: str
    stream: bool | None = None  # None: true
    format: Format = UNSET
    options: JsonObject = UNSET
    think: bool | str | None = None
    logprobs: bool | None = None


class OllamaChatRequest(OllamaRequest, kw_only=True):
    """POST /api/chat"""

    messages: list[OllamaMessage] | None = None
    tools: Annotated[list[Tool], Meta(max_length=128)] | None = None


class OllamaGenerateRequest(OllamaRequest, kw_only=True):
    """POST /api/generate"""

    prompt: str | None = None
    system: str | None = None
    images: list[str] | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None


class OllamaShowRequest(Body, kw_only=True):
    """POST /api/show"""

    model: str | None = None
    name: str | None = None  # its older name
    verbose: Ignored = UNSET


# As known_fields has them.
REFUSED: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "context": ("send messages to /api/chat", ([],)),
    "top_logprobs": ("use /v1/chat/completions", (0,)),
}
IGNORED: Mapping[str, str] = {"keep_alive": "the model stays"}

# Members of options that change nothing here, and why; any other unknown one is refused.
IGNORED_OPTIONS: Mapping[str, str] = {
    "num_ctx": "llama4rt serve --max-model-len sets it",
    "num_batch": "--max-batched-tokens sets it",
    "num_gpu": "the device holds the whole model",
    "main_gpu": "there is one device",
    "num_thread": "--threads sets it",
    "num_keep": "a context that is full ends the answer",
    "use_mmap": "the file is mapped",
    "use_mlock": "the file is mapped",
    "f16_kv": "--kv-cache-dtype sets it",
    "logits_all": "log-probabilities are asked for by request",
    "vocab_only": "the whole model is there",
    "embedding_only": "the whole model is there",
    "mirostat_tau": "there is no mirostat",
    "mirostat_eta": "there is no mirostat",
    "low_vram": "memory is planned when the server starts",
    "numa": "threads stay where the system puts them",
    "repeat_last_n": "repeat_penalty counts the whole context",
    "penalize_newline": "repeat_penalty counts every token",
    "tfs_z": "there is no such sampler",
}

# Those that ask for another way of sampling: name -> (why it is refused, values beside null that ask for nothing)
REFUSED_OPTIONS: Mapping[str, tuple[str, tuple[Any, ...]]] = {"mirostat": ("there is no such sampler", (0,))}
