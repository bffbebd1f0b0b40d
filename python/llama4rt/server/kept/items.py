"""Items as they are kept and listed: with ids, and content as parts; and back into a request's input."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from llama4rt.server.http import dumps
from llama4rt.server.kept.database import Item
from llama4rt.server.protocol import InputItem
from llama4rt.server.service import new_id

_PREFIXES = {
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
    "reasoning": "rs_",
}
_decode = msgspec.json.Decoder(InputItem).decode


def input_items(given: "str | Sequence[dict[str, Any]]") -> list[Item]:
    """given: as the client said it, without what was null."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_item(_listed(item)) for item in given]


def output_items(items: Iterable[dict[str, Any]]) -> list[Item]:
    return [_item(item) for item in items]


def as_input(items: Iterable[Item]) -> list[InputItem]:
    return [_decode(item.data) for item in items]


def _item(item: dict[str, Any]) -> Item:
    return Item(item["id"], dumps(item).decode())


def _listed(item: dict[str, Any]) -> dict[str, Any]:
    """In the form in which OpenAI lists items. The client's own ids could be anybody's; each gets a new one."""
    kind = item.get("type", "message")
    listed = {**item, "id": new_id(_PREFIXES.get(kind, "item_")), "type": kind, "status": "completed"}
    if kind == "message":
        said = "output_text" if item.get("role") == "assistant" else "input_text"
        content = item.get("content")
        if isinstance(content, str):
            content = [{"type": said, "text": content}]
        listed["content"] = [_part(part) for part in content or ()]
    return listed


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "input_image":
        return {"detail": "auto", **part}
    if part["type"] == "output_text":
        return {"annotations": [], **part}
    return part
