"""GET and DELETE of what is kept, and /v1/conversations. A thing of another client is one that is not there."""

import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llama4rt.server.api_errors import ApiError
from llama4rt.server.http import dumps, json_reply, parsed
from llama4rt.server.kept import items
from llama4rt.server.kept.database import Item
from llama4rt.server.kept.store import ResponseStore
from llama4rt.server.kept.turn import not_found
from llama4rt.server.protocol import ConversationItems, ConversationRequest
from llama4rt.server.response_input import chat_of_items, kept_form
from llama4rt.server.service import Service, new_id

_MOST_LISTED = 100
_FEW = 20  # OpenAI's default


class KeptEndpoints:
    def __init__(self, service: Service) -> None:
        self._service = service

    # --- responses ------------------------------------------------------------------------------------------

    async def response(self, request: Request) -> Response:
        if request.query_params.get("stream", "false").lower() == "true":
            raise ApiError(400, "stream is not supported: a kept response has no events", param="stream")
        return json_reply(await self._body("Response", _id(request, "resp_")))

    async def delete_response(self, request: Request) -> Response:
        return await self._delete("Response", _id(request, "resp_"), "response")

    async def input_items(self, request: Request) -> Response:
        return json_reply(await self._listed(request, "Response", _id(request, "resp_")))

    # --- conversations --------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        self._service.check_open()
        store, owner = self._store()
        body = await parsed(request, ConversationRequest, self._service)
        id = new_id("conv_")
        conversation = {
            "id": id,
            "object": "conversation",
            "created_at": int(time.time()),
            "metadata": kept_form(body.metadata, "metadata") or {},
        }
        new = self._own(body.items or [])
        saved = dumps(conversation).decode()
        kept = await store.call(
            lambda: store.database.save(owner, id, saved, seconds=store.seconds, inputs=new)
        )
        if not kept:
            raise ApiError(413, "the items are more than this server keeps in all", param="items")
        return json_reply(conversation)

    async def conversation(self, request: Request) -> Response:
        return json_reply(await self._body("Conversation", _id(request, "conv_")))

    async def update(self, request: Request) -> Response:
        id = _id(request, "conv_")
        store, owner = self._store()
        body = await parsed(request, ConversationRequest, self._service)
        changed = await self._body("Conversation", id)
        changed["metadata"] = kept_form(body.metadata, "metadata") or {}
        if not await store.call(lambda: store.database.update(owner, id, dumps(changed).decode())):
            raise not_found("Conversation", id)
        return json_reply(changed)

    async def delete_conversation(self, request: Request) -> Response:
        return await self._delete("Conversation", _id(request, "conv_"), "conversation.deleted")

    async def conversation_items(self, request: Request) -> Response:
        return json_reply(await self._listed(request, "Conversation", _id(request, "conv_")))

    async def add_items(self, request: Request) -> Response:
        id = _id(request, "conv_")
        store, owner = self._store()
        body = await parsed(request, ConversationItems, self._service)
        new = self._own(body.items)
        await self._body("Conversation", id)
        if not await store.call(lambda: store.database.append(owner, id, new, seconds=store.seconds)):
            raise ApiError(413, "the items are more than this server keeps in all", param="items")
        return json_reply(_list([json.loads(item.data) for item in new], more=False))

    async def item(self, request: Request) -> Response:
        id, name = _id(request, "conv_"), request.path_params["item"]
        for item in await self._items("Conversation", id):
            if item.id == name:
                return Response(item.data.encode(), media_type="application/json")
        raise not_found("Item", name)

    async def delete_item(self, request: Request) -> Response:
        id, name = _id(request, "conv_"), request.path_params["item"]
        store, owner = self._store()
        conversation = await self._body("Conversation", id)
        if not name.isascii() or not await store.call(lambda: store.database.delete_item(owner, id, name)):
            raise not_found("Item", name)
        return json_reply(conversation)

    # --- inside ---------------------------------------------------------------------------------------------

    def _store(self) -> tuple[ResponseStore, str]:
        store = self._service.responses
        assert store is not None  # the paths are there where it is
        return store, store.owner()

    def _own(self, given: list[Any]) -> list[Item]:
        """ApiError 400 for items that no model could be given."""
        chat_of_items(given, "items")
        return items.input_items(kept_form(given, "items"))

    async def _body(self, what: str, id: str) -> dict[str, Any]:
        store, owner = self._store()
        found = await store.call(lambda: store.database.body(owner, id))
        if found is None:
            raise not_found(what, id)
        body: dict[str, Any] = json.loads(found)
        return body

    async def _delete(self, what: str, id: str, kind: str) -> Response:
        store, owner = self._store()
        if not await store.call(lambda: store.database.delete(owner, id)):
            raise not_found(what, id)
        return json_reply({"id": id, "object": kind, "deleted": True})

    async def _items(self, what: str, id: str) -> list[Item]:
        store, owner = self._store()
        found = await store.call(lambda: store.database.context(owner, id, outputs=False))
        if found is None:
            raise not_found(what, id)
        return found

    async def _listed(self, request: Request, what: str, id: str) -> dict[str, Any]:
        query = request.query_params
        limit = query.get("limit", str(_FEW))
        if not limit.isascii() or not limit.isdecimal() or not 1 <= int(limit[:9]) <= _MOST_LISTED:
            raise ApiError(400, f"limit is {limit!r:.40}; it must be 1 to {_MOST_LISTED}", param="limit")
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise ApiError(400, f"order is {order!r:.40}; it must be asc or desc", param="order")
        found = await self._items(what, id)
        if order == "desc":
            found.reverse()
        after = query.get("after")
        if after is not None:
            place = next((i for i, item in enumerate(found) if item.id == after), None)
            if place is None:
                raise ApiError(400, f"after is {after!r:.120}, which is no item of {id}", param="after")
            found = found[place + 1 :]
        page = found[: int(limit)]
        return _list([json.loads(item.data) for item in page], more=len(found) > len(page))


def _id(request: Request, prefix: str) -> str:
    """The path's; what cannot be an id of this kind becomes one that nothing has."""
    id: str = request.path_params["id"]
    return id if id.startswith(prefix) and id.isascii() and len(id) <= 128 else f"?{id[:120]!a}"


def _list(data: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    ends = (
        {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        if data
        else {"first_id": None, "last_id": None}
    )
    return {"object": "list", "data": data, **ends, "has_more": more}
