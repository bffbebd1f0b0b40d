"""The endpoints that answer at once: models, tokens, health, metrics, version."""

from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llama4rt import _core
from llama4rt.errors import RequestError
from llama4rt.server.api_errors import ApiError
from llama4rt.server.chat_completions import check_text_size
from llama4rt.server.chat_messages import plain_messages, template_options, text_size
from llama4rt.server.http import json_reply, parsed
from llama4rt.server.metrics import CONTENT_TYPE
from llama4rt.server.open_json import token_ids
from llama4rt.server.openapi import document
from llama4rt.server.paths import path_of
from llama4rt.server.protocol import DetokenizeRequest, TokenizeRequest
from llama4rt.server.sampling_fields import from_request_error
from llama4rt.server.service import Service
from llama4rt.server.status_figures import figures
from llama4rt.text.tokenizer import require_tokenizer


class InfoEndpoints:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def models(self, _: Request) -> Response:
        names = self._service.all_names()
        return json_reply(
            {
                "object": "list",
                "data": [self._model(name) for name in names],
                "has_more": False,
                "first_id": names[0],
                "last_id": names[-1],
            }
        )

    async def model(self, request: Request) -> Response:
        name = self._service.check_model(request.path_params["model"])
        return json_reply(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        service = self._service
        is_adapter = service.adapter_of(name) is not None
        return {
            "id": name,
            "object": "model",
            "created": service.created,
            "owned_by": "llama4rt",
            "type": "model",  # from here Anthropic's
            "display_name": name,
            "created_at": datetime.fromtimestamp(service.created, timezone.utc).isoformat(),
            "max_model_len": service.engine.max_model_len,
        } | ({"parent": service.model} if is_adapter else {})  # vLLM's name for it

    async def tokenize(self, request: Request) -> Response:
        """Ids as generation would see them: a text's, or a conversation's as the chat template writes it."""
        body = await parsed(request, TokenizeRequest, self._service)
        self._service.check_model(body.model)
        if body.content is not None and body.prompt is None:  # llama.cpp's form
            return await self._tokenize_content(body)
        engine = self._service.engine
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages", param="prompt")
        try:
            tokenizer = require_tokenizer(engine.tokenizer, "tokenize")
            if body.messages is not None:
                options = self._service.options
                size = text_size(body, body.tools or ())
                check_text_size(size, tokenizer.max_token_bytes, engine.max_model_len)
                messages = plain_messages(
                    body.messages, max_messages=options.max_messages, max_images=options.max_images
                )
                prepared = await engine.prepare_chat(messages, **template_options(body, body.tools or ()))
                ids = prepared.token_ids
            elif body.add_special_tokens is False:
                assert body.prompt is not None
                check_text_size(len(body.prompt), tokenizer.max_token_bytes, engine.max_model_len)
                ids = tokenizer.encode(body.prompt)
            else:
                assert body.prompt is not None
                ids = (await engine.prepare(body.prompt)).token_ids if body.prompt else []
        except RequestError as error:
            raise from_request_error(error) from None
        strings = None
        if body.return_token_strs:
            strings = [tokenizer.token_bytes(i).decode("utf-8", "replace") for i in ids]
        return json_reply(
            {"count": len(ids), "max_model_len": engine.max_model_len, "tokens": ids, "token_strs": strings}
        )

    async def _tokenize_content(self, body: TokenizeRequest) -> Response:
        engine = self._service.engine
        assert body.content is not None
        try:
            tokenizer = require_tokenizer(engine.tokenizer, "tokenize")
            check_text_size(len(body.content), tokenizer.max_token_bytes, engine.max_model_len)
            if body.add_special and body.content:
                ids = (await engine.prepare(body.content)).token_ids
            else:
                ids = tokenizer.encode(body.content)
        except RequestError as error:
            raise from_request_error(error) from None
        tokens: list[Any] = list(ids)
        if body.with_pieces:
            tokens = [{"id": i, "piece": tokenizer.token_bytes(i).decode("utf-8", "replace")} for i in ids]
        more = {"count": len(ids), "max_model_len": engine.max_model_len, "token_strs": None}
        return json_reply({"tokens": tokens, **more})

    async def detokenize(self, request: Request) -> Response:
        body = await parsed(request, DetokenizeRequest, self._service)
        self._service.check_model(body.model)
        try:
            tokenizer = require_tokenizer(self._service.engine.tokenizer, "detokenize")
        except RequestError as error:
            raise from_request_error(error) from None
        vocab = self._service.engine.config["vocab_size"]
        tokens = token_ids(body.tokens, "tokens")
        wrong = next((i for i in tokens if i >= vocab), None)
        if wrong is not None:
            raise ApiError(400, f"token {wrong} is not in the vocabulary of {vocab}", param="tokens")
        text = tokenizer.decode(tokens, skip_special_tokens=False)
        return json_reply({"prompt": text, "content": text})  # vLLM's name, llama.cpp's name

    async def tokenizer_info(self, _: Request) -> Response:
        """vLLM's endpoint of that name, by which evaluation harnesses take the server's tokenizer for theirs."""
        engine = self._service.engine
        try:
            tokenizer = require_tokenizer(engine.tokenizer, "tokenizer_info")
        except RequestError as error:
            raise from_request_error(error) from None
        config = engine.config
        ends = config["eos_token_ids"]

        def text(token_id: int) -> str | None:
            return tokenizer.token_bytes(token_id).decode("utf-8", "replace") or None

        info = {
            "tokenizer_class": type(tokenizer).__name__,
            "vocab_size": config["vocab_size"],
            "bos_token": text(config["bos_token_id"]),
            "eos_token": text(ends[0]) if ends else None,
            "pad_token": None,
            "chat_template": engine.chat_template.source,
        }
        return json_reply(info)

    async def probe(self, request: Request) -> Response:
        """/health and /ready, where the front door has passed them on, or there is none."""
        status, reply = self._service.probed(path_of(request.scope), self._service.healthy())
        return json_reply(reply, status)

    async def metrics(self, _: Request) -> Response:
        return Response(self._service.metrics.text(), media_type=CONTENT_TYPE)

    async def status(self, _: Request) -> Response:
        return json_reply(figures(self._service))

    async def version(self, _: Request) -> Response:
        return json_reply({"version": _core.version()})

    async def openapi(self, _: Request) -> Response:
        return json_reply(document())
