"""POST /completion, GET /props."""

from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llama4rt import _core
from llama4rt.engine.outputs import Delta
from llama4rt.server.api_errors import ApiError
from llama4rt.server.completions import CompletionReply
from llama4rt.server.generated_reply import respond
from llama4rt.server.http import json_reply, parsed
from llama4rt.server.llama_cpp.protocol import LlamaCompletionRequest
from llama4rt.server.protocol import CompletionRequest, Sampling
from llama4rt.server.service import Service
from llama4rt.server.sse import data_line

_STOP_TYPES = {"length": "limit", "abort": "none"}


class LlamaCppEndpoints:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def completion(self, request: Request) -> "Response | ASGIApp":
        self._service.check_open()
        body = await parsed(request, LlamaCompletionRequest, self._service)
        reply = LlamaCompletion(self._service, _completion_request(body))
        return await respond(self._service, request, reply, stream=bool(body.stream))

    async def props(self, _: Request) -> Response:
        """What llama-server's clients ask before they begin: the length of the context, the template, pictures."""
        service, engine = self._service, self._service.engine
        return json_reply(
            {
                "default_generation_settings": {"n_ctx": engine.max_model_len, "params": {"n_predict": -1}},
                "total_slots": engine.max_num_seqs,
                "model_alias": service.model,
                "model_path": service.model,
                "chat_template": engine.chat_template.source or "",
                "modalities": {"vision": engine.config.get("vision") is not None, "audio": False},
                "build_info": f"llama4rt {_core.version()}",
            }
        )


def _completion_request(body: LlamaCompletionRequest) -> CompletionRequest:
    if (body.n or 1) != 1 or (body.n_cmpl or 1) != 1:
        raise ApiError(400, "n is not 1; /completion has one output, /v1/completions several", param="n")
    shared: dict[str, Any] = {name: getattr(body, name) for name in Sampling.__struct_fields__}
    if body.n_predict is None:
        shared["n_predict"] = -1  # llama-server's default: to the end of the context
    return CompletionRequest(prompt=body.prompt, **shared)


class LlamaCompletion(CompletionReply):
    """One prompt being continued."""

    async def start(self) -> None:
        await super().start()
        if len(self.generation.prompts) != 1:
            self.close()
            raise ApiError(400, "prompt: is a list of prompts; /v1/completions takes several", param="prompt")

    async def collected(self) -> dict[str, Any]:
        texts: list[str] = []
        last: Delta | None = None
        async for deltas in self._steps():
            texts += [delta.text for delta in deltas]
            last = deltas[-1]
        return self._said("".join(texts), last)

    async def lines(self) -> AsyncGenerator[bytes, None]:
        last: Delta | None = None
        broken = False
        async for deltas in self._steps():
            last = deltas[-1]
            text = "".join(delta.text for delta in deltas)
            broken = broken or "\n" in text
            if text:
                yield data_line({"index": 0, "content": text, "tokens": [], "stop": False})
        yield data_line({**self._said("", last), "has_new_line": broken})

    async def _steps(self) -> AsyncGenerator[list[Delta], None]:
        async for events in self.generation.events():
            deltas = [event for _, event in events if isinstance(event, Delta)]
            if deltas:
                yield deltas

    def _said(self, content: str, last: Delta | None) -> dict[str, Any]:
        reason = "stop" if last is None or last.finish_reason is None else last.finish_reason
        word = last.stop_reason if last is not None and isinstance(last.stop_reason, str) else ""
        usage = self.usage()
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        return {
            "index": 0,
            "content": content,
            "tokens": [],
            "stop": True,
            "model": self._model,
            "stop_type": _STOP_TYPES.get(reason, "word" if word else "eos"),
            "stopping_word": word,
            "tokens_predicted": usage["completion_tokens"],
            "tokens_evaluated": usage["prompt_tokens"],
            "tokens_cached": cached,
            "truncated": False,
            "has_new_line": "\n" in content,
        }
