"""GET /openapi.json: the server's own OpenAPI document, made from the classes that check requests."""

import re
from typing import Any

import msgspec

from llama4rt import _core
from llama4rt.server import protocol, reply_schemas
from llama4rt.server.anthropic.protocol import CountTokensRequest, MessagesRequest
from llama4rt.server.llama_cpp.protocol import LlamaCompletionRequest
from llama4rt.server.ollama.protocol import (
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaShowRequest,
)

_REF = "#/components/schemas/{name}"
_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "one of the server-sent events that come when `stream` is true",
    "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
}

# path -> (method, summary, request, reply, statuses of refusals beside those that any path can answer with)
_PATHS: dict[str, tuple[str, str, Any, Any, tuple[int, ...]]] = {
    "/v1/models": ("get", "Names of the model", None, reply_schemas.ModelList, ()),
    "/v1/models/{model}": ("get", "One name", None, reply_schemas.ModelReply, (404,)),
    "/v1/chat/completions": (
        "post",
        "Answers a conversation",
        protocol.ChatRequest,
        reply_schemas.ChatCompletion,
        (404,),
    ),
    "/v1/completions": (
        "post",
        "Continues texts",
        protocol.CompletionRequest,
        reply_schemas.TextCompletion,
        (404,),
    ),
    "/v1/responses": (
        "post",
        "Answers, and keeps the answer",
        protocol.ResponsesRequest,
        reply_schemas.ResponseReply,
        (404,),
    ),
    "/v1/messages": ("post", "Answers, in Anthropic's form", MessagesRequest, dict[str, Any], (404,)),
    "/v1/messages/count_tokens": (
        "post",
        "Tokens of a message",
        CountTokensRequest,
        reply_schemas.InputTokens,
        (404,),
    ),
    "/api/chat": ("post", "Answers, in Ollama's form", OllamaChatRequest, dict[str, Any], (404,)),
    "/api/generate": ("post", "Answers, in Ollama's form", OllamaGenerateRequest, dict[str, Any], (404,)),
    "/api/show": ("post", "The model, in Ollama's form", OllamaShowRequest, dict[str, Any], (404,)),
    "/api/tags": ("get", "Names, in Ollama's form", None, dict[str, Any], ()),
    "/completion": (
        "post",
        "Continues a text, in llama.cpp's form",
        LlamaCompletionRequest,
        dict[str, Any],
        (404,),
    ),
    "/props": ("get", "The server, in llama.cpp's form", None, dict[str, Any], ()),
    "/tokenize": ("post", "Text to token ids", protocol.TokenizeRequest, reply_schemas.Tokens, (404,)),
    "/detokenize": ("post", "Token ids to text", protocol.DetokenizeRequest, reply_schemas.Prompt, (404,)),
    "/tokenizer_info": ("get", "The tokenizer", None, reply_schemas.TokenizerInfo, ()),
    "/health": ("get", "Whether the engine works", None, reply_schemas.Status, ()),
    "/ready": ("get", "Whether new requests are welcome", None, reply_schemas.Status, ()),
    "/version": ("get", "The version", None, reply_schemas.Version, ()),
}
_CONVERSATION = "/v1/conversations/{id}"
# The same of what a server with a response store keeps: these paths have several methods.
_KEPT: tuple[tuple[str, tuple[str, str, Any, Any, tuple[int, ...]]], ...] = (
    ("/v1/responses/{id}", ("get", "A response", None, reply_schemas.ResponseReply, (404,))),
    ("/v1/responses/{id}", ("delete", "Forgets it", None, reply_schemas.Deleted, (404,))),
    ("/v1/responses/{id}/input_items", ("get", "Its context", None, reply_schemas.ItemList, (404,))),
    (
        "/v1/conversations",
        ("post", "Begins one", protocol.ConversationRequest, reply_schemas.Conversation, (404,)),
    ),
    (_CONVERSATION, ("get", "A conversation", None, reply_schemas.Conversation, (404,))),
    (
        _CONVERSATION,
        ("post", "Its metadata", protocol.ConversationRequest, reply_schemas.Conversation, (404,)),
    ),
    (_CONVERSATION, ("delete", "Forgets it", None, reply_schemas.Deleted, (404,))),
    (_CONVERSATION + "/items", ("get", "Its items", None, reply_schemas.ItemList, (404,))),
    (
        _CONVERSATION + "/items",
        ("post", "Adds items", protocol.ConversationItems, reply_schemas.ItemList, (404,)),
    ),
    (_CONVERSATION + "/items/{item}", ("get", "One item", None, dict[str, Any], (404,))),
    (
        _CONVERSATION + "/items/{item}",
        ("delete", "Forgets it", None, reply_schemas.Conversation, (404,)),
    ),
)
_STREAMED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/completion")
_LINES = ("/api/chat", "/api/generate")
_POST_REFUSALS = (408, 413, 415, 429)


def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    schemas: dict[str, Any] = {}
    _schema(reply_schemas.Error, schemas)
    paths: dict[str, Any] = {}
    for path, (method, summary, request, reply, refusals) in (*_PATHS.items(), *_KEPT):
        own: dict[str, Any] = {}
        content = {"application/json": {"schema": _schema(reply, own)}}
        if path in _STREAMED:
            content["text/event-stream"] = {"schema": _EVENT}
        if path in _LINES:
            content["application/x-ndjson"] = {"schema": {"type": "object"}}
        codes = {400, 401, 403, 431, 500, 503, *refusals, *(_POST_REFUSALS if method != "get" else ())}
        operation: dict[str, Any] = {
            "summary": summary,
            "responses": {
                "200": {"description": "OK", "content": content},
                **{str(code): _refusal(path) for code in sorted(codes)},
            },
        }
        if request is not None:
            body = {"application/json": {"schema": _schema(request, own)}}
            operation["requestBody"] = {"required": True, "content": body}
        names = re.findall(r"{(\w+)}", path)
        if names:
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                for name in names
            ]
        schemas.update(own)
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "llama4rt", "version": _core.version()},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _refusal(path: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"$ref": "#/components/schemas/Error"}
    if path.startswith("/v1/messages"):
        schema = {"type": "object", "required": ["type", "error"]}
    if path.startswith("/api/"):
        schema = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    if path in ("/health", "/ready"):
        schema = {"anyOf": [schema, {"type": "object", "required": ["status"]}]}
    return {"description": "refused, or failed", "content": {"application/json": {"schema": schema}}}


def _schema(kind: Any, into: dict[str, Any]) -> dict[str, Any]:
    """A reference to the schema of `kind`; it and all it uses are put into `into`."""
    (schema,), components = msgspec.json.schema_components([kind], ref_template=_REF)
    into.update(components)
    return schema
