"""/api/chat, generate, tags, show, ps and version."""

import hashlib
import os
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from llama4rt import _core
from llama4rt.server.api_errors import ApiError
from llama4rt.server.generated_reply import GeneratedReply, respond
from llama4rt.server.http import dumps, json_reply, parsed
from llama4rt.server.ollama.convert import chat_request, generate_chat, generate_raw, model_name
from llama4rt.server.ollama.protocol import OllamaChatRequest, OllamaGenerateRequest, OllamaShowRequest
from llama4rt.server.ollama.replies import (
    OllamaChat,
    OllamaCompletion,
    Say,
    now,
    said_in_chat,
    said_to_generate,
)
from llama4rt.server.service import Service
from llama4rt.server.sse import Wire


class OllamaEndpoints:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def chat(self, request: Request) -> "Response | ASGIApp":
        self._service.check_open()
        body = await parsed(request, OllamaChatRequest, self._service)
        model = self._model(body.model)
        if not body.messages:  # how Ollama's clients load and unload a model
            return self._loaded(body.model, said_in_chat)
        reply = OllamaChat(self._service, chat_request(body, model), body.model, said_in_chat)
        return await self._respond(request, reply, body.stream, body.model, said_in_chat)

    async def generate(self, request: Request) -> "Response | ASGIApp":
        self._service.check_open()
        body = await parsed(request, OllamaGenerateRequest, self._service)
        model = self._model(body.model)
        if not body.prompt:
            return self._loaded(body.model, said_to_generate)
        reply: GeneratedReply
        if body.raw:
            reply = OllamaCompletion(self._service, generate_raw(body, model), body.model)
        else:
            reply = OllamaChat(self._service, generate_chat(body, model), body.model, said_to_generate)
        return await self._respond(request, reply, body.stream, body.model, said_to_generate)

    async def tags(self, _: Request) -> Response:
        return json_reply({"models": [self._entry(name) for name in self._service.model_names]})

    async def ps(self, _: Request) -> Response:
        never = "9999-12-31T23:59:59Z"
        size = sum(self._service.engine.stats()["bytes"].values())
        on_gpu = size if self._service.engine.device.startswith("cuda") else 0
        more = {
            "expires_at": never,
            "size_vram": on_gpu,
            "context_length": self._service.engine.max_model_len,
        }
        return json_reply({"models": [self._entry(name) | more for name in self._service.model_names]})

    async def show(self, request: Request) -> Response:
        body = await parsed(request, OllamaShowRequest, self._service)
        name = body.model or body.name
        if name is None:
            raise ApiError(400, "model: is missing", param="model")
        self._model(name)
        engine = self._service.engine
        config = engine.config
        sees = config["vision"] is not None if "vision" in config else False
        return json_reply(
            {
                "modelfile": "",
                "parameters": "",
                "template": engine.chat_template.source or "",
                "details": self._details(),
                "model_info": {
                    "general.architecture": "llama4",
                    "general.name": self._service.model,
                    "llama4.context_length": engine.max_model_len,
                    "llama4.embedding_length": config["hidden_size"],
                    "llama4.block_count": config["num_hidden_layers"],
                    "llama4.attention.head_count": config["num_attention_heads"],
                    "llama4.attention.head_count_kv": config["num_key_value_heads"],
                    "llama4.expert_count": config["num_local_experts"],
                    "llama4.expert_used_count": config["num_experts_per_tok"],
                    "llama4.vocab_size": config["vocab_size"],
                },
                "capabilities": ["completion", "tools", *(["vision"] if sees else ())],
                "modified_at": self._modified(),
            }
        )

    async def version(self, _: Request) -> Response:
        return json_reply({"version": _core.version()})

    def _model(self, name: str) -> str:
        return self._service.check_model(model_name(name, self._service.model_names))

    def _loaded(self, model: str, say: Say) -> Response:
        return json_reply(
            {"model": model, "created_at": now(), **say("", []), "done": True, "done_reason": "load"}
        )

    async def _respond(
        self, request: Request, reply: GeneratedReply, stream: bool | None, model: str, say: Say
    ) -> "Response | ASGIApp":
        nothing = {"model": model, "created_at": now(), **say("", []), "done": False}
        return await respond(
            self._service,
            request,
            reply,
            stream=stream is not False,
            error_line=lambda error: dumps({"error": error.told()}) + b"\n",
            wire=Wire(b"application/x-ndjson", dumps(nothing) + b"\n"),
        )

    def _entry(self, name: str) -> dict[str, Any]:
        digest = hashlib.sha256(self._service.fingerprint.encode()).hexdigest()
        return {
            "name": name,
            "model": name,
            "modified_at": self._modified(),
            "size": os.path.getsize(self._service.engine.path),
            "digest": digest,
            "details": self._details(),
        }

    def _details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": "l4e",
            "family": "llama4",
            "families": ["llama4"],
            "parameter_size": "",
            "quantization_level": "",
        }

    def _modified(self) -> str:
        from datetime import datetime, timezone

        when = datetime.fromtimestamp(self._service.created, timezone.utc)
        return when.isoformat().replace("+00:00", "Z")
