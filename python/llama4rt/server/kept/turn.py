"""Turn: one request of /v1/responses beside what is kept: what came before it, and where its answer goes."""

import re
from collections.abc import Callable
from typing import Any

from llama4rt.server.api_errors import ApiError
from llama4rt.server.http import dumps
from llama4rt.server.kept import items
from llama4rt.server.kept.database import Item
from llama4rt.server.kept.store import ResponseStore
from llama4rt.server.paths import NO_STORE
from llama4rt.server.protocol import InputItem, ResponsesRequest

_ID = re.compile(r"(?:resp|conv)_[A-Za-z0-9_-]{1,100}")


class Turn:
    """before: the items that precede the request's own. stored: what the reply says of itself."""

    def __init__(self, store: ResponseStore | None, body: ResponsesRequest) -> None:
        self.previous = body.previous_response_id
        given = body.conversation
        self.conversation = given if given is None or isinstance(given, str) else given.id
        # OpenAI's default is to keep. Where there is no place nobody is refused for it, and the reply says false.
        self.stored = store is not None and body.store is not False
        self._store = store
        self._owner = "" if store is None else store.owner()
        self._before: list[Item] = []
        self._own: list[Item] = []

    @property
    def before(self) -> list[InputItem]:
        return items.as_input(self._before)

    async def read(self, own: Callable[[], Any]) -> None:
        """ApiError 400 and 404 for ids of which there is nothing. own: the request's input as it is to be kept."""
        where = "previous_response_id" if self.previous is not None else "conversation"
        id = self.previous if self.previous is not None else self.conversation
        if id is not None and self._store is None:
            raise ApiError(400, f"{where} is not supported: {NO_STORE}", param=where)
        if self.previous is not None and self.conversation is not None:
            raise ApiError(
                400, "previous_response_id and conversation exclude each other", param="previous_response_id"
            )
        store = self._store
        if id is not None and store is not None:
            found = None
            if _ID.fullmatch(id):
                found = await store.call(
                    lambda: store.database.context(self._owner, id, outputs=self.previous is not None)
                )
            if found is None and self.previous is not None:
                raise ApiError(
                    400, f"Previous response with id {id!r:.120} not found.",
                    param="previous_response_id", code="previous_response_not_found",
                )  # fmt: skip
            if found is None:
                raise not_found("Conversation", id)
            self._before = found
        if self.stored or self.conversation is not None:
            self._own = items.input_items(own())

    def fields(self) -> dict[str, Any]:
        """Of the response."""
        conversation = {} if self.conversation is None else {"conversation": {"id": self.conversation}}
        return {"previous_response_id": self.previous, "store": self.stored, **conversation}

    async def keep(self, response: dict[str, Any]) -> dict[str, Any]:
        """The response as it goes out: with `store` false if it, or its part of the conversation, was not kept."""
        store, id = self._store, self.conversation
        if store is None:
            return response
        whole = True
        if id is not None and response["status"] in ("completed", "incomplete"):
            both = [*self._own, *items.output_items(response["output"])]
            whole = await store.kept(
                lambda: store.database.append(self._owner, id, both, seconds=store.seconds)
            )
        if self.stored:
            whole = await store.kept(lambda: self._save(store, response)) and whole
        if not whole:
            self.stored = False
            response = {**response, "store": False}
        return response

    def keep_later(self, response: dict[str, Any]) -> None:
        """What nobody waits for any more."""
        store = self._store
        if store is not None and self.stored:
            store.later(lambda: self._save(store, response))

    def _save(self, store: ResponseStore, response: dict[str, Any]) -> bool:
        return store.database.save(
            self._owner,
            response["id"],
            dumps(response).decode(),
            seconds=store.seconds,
            inputs=[*self._before, *self._own],
            outputs=items.output_items(response["output"]),
        )


def not_found(what: str, id: str) -> ApiError:
    return ApiError(404, f"{what} with id {id!r:.120} not found.", code=f"{what.lower()}_not_found")
