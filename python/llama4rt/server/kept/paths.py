"""The paths of what is kept; parts of them are names."""

import re
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from llama4rt.server.kept.endpoints import KeptEndpoints

_RESPONSE = "/v1/responses/{id}"
_INPUT_ITEMS = "/v1/responses/{id}/input_items"
_CONVERSATIONS = "/v1/conversations"
_CONVERSATION = "/v1/conversations/{id}"
_ITEMS = "/v1/conversations/{id}/items"
_ITEM = "/v1/conversations/{id}/items/{item}"
# The longest first.
_PATTERNS = [
    (re.compile("(?:/v1)?" + template.removeprefix("/v1").replace("{id}", "(?P<id>[^/]+)").replace(
        "{item}", "(?P<item>[^/]+)")), template)
    for template in (_ITEM, _ITEMS, _CONVERSATION, _INPUT_ITEMS, _RESPONSE)
]  # fmt: skip


def endpoints(kept: KeptEndpoints) -> Mapping[str, dict[str, Callable[[Request], Awaitable[Response]]]]:
    """By method."""
    return {
        "GET": {
            _RESPONSE: kept.response,
            _INPUT_ITEMS: kept.input_items,
            _CONVERSATION: kept.conversation,
            _ITEMS: kept.conversation_items,
            _ITEM: kept.item,
        },
        "POST": {_CONVERSATIONS: kept.create, _CONVERSATION: kept.update, _ITEMS: kept.add_items},
        "DELETE": {
            _RESPONSE: kept.delete_response,
            _CONVERSATION: kept.delete_conversation,
            _ITEM: kept.delete_item,
        },
    }


def known(path: str) -> tuple[str, dict[str, str]]:
    """The path as it stands in the table, and the names in it; any other path as it is."""
    for pattern, template in _PATTERNS:
        found = pattern.fullmatch(path)
        if found is not None:
            return template, {name: unquote(value) for name, value in found.groupdict().items()}
    return path, {}
