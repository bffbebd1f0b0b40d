"""Which form of a message's content a template takes: a string, or a list of parts.

Nothing in a checkpoint says so, and what a template is not made for it loses or prints as a Python list. So it is
tried, once for each role, with words whose way can be followed.
"""

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama4rt.errors import RequestError

Render = Callable[[Sequence[Mapping[str, Any]]], str]

_WORDS = ("qzfirstword", "qzsecondword")
_PRINTED = re.compile(r"""['"]text\\?['"]\s*:\s*\\?['"]?""" + _WORDS[0])  # a part as Python or JSON writes it
_CALL = {"id": "call_1", "type": "function", "function": {"name": "name", "arguments": {"a": 1}}}


class ContentForm(enum.Enum):
    BOTH = "string or parts"
    STRING = "string"
    PARTS = "parts"
    ONE_PART = "a list whose first part has all the text"
    UNKNOWN = "neither was seen in the prompt"


def find_form(render: Render, role: str) -> ContentForm:
    """Tries `role` in a short conversation. render: raises RequestError where the template refuses."""
    strings = role == "user" or _shows(render, "user", _WORDS[0], 1)
    filler = "Hello" if strings else [_part("Hello")]
    string = _shows(render, role, _WORDS[0], 1, filler)
    if _shows(render, role, [_part(word) for word in _WORDS], 2, filler):
        return ContentForm.BOTH if string else ContentForm.PARTS
    if string:
        return ContentForm.STRING
    if _shows(render, role, [_part(_WORDS[0])], 1, filler):
        return ContentForm.ONE_PART
    return ContentForm.UNKNOWN


def is_parts(content: Any) -> bool:
    """A list that holds nothing but parts of messages; the result of a tool may be any other list."""
    return isinstance(content, list) and all(
        isinstance(part, dict)
        and (
            part.get("type") == "image" or (part.get("type") == "text" and isinstance(part.get("text"), str))
        )
        for part in content
    )


def converted(content: Any, form: ContentForm) -> tuple[Any, bool]:
    """(content in this form, whether its parts are still to be put together to a string)."""
    if isinstance(content, str):
        in_parts = form in (ContentForm.PARTS, ContentForm.ONE_PART)
        return ([_part(content)] if in_parts else content), False
    if not is_parts(content):
        return content, False
    if form == ContentForm.STRING:
        return content, True
    if form == ContentForm.ONE_PART and all(part["type"] == "text" for part in content):
        return [_part("\n".join(part["text"] for part in content))], False
    return content, False


def _shows(render: Render, role: str, content: Any, words: int, filler: Any = "Hello") -> bool:
    user = {"role": "user", "content": filler}
    probe: dict[str, Any] = {"role": role, "content": content}
    conversation: list[dict[str, Any]] = {
        "user": [probe],
        "system": [probe, user],
        "developer": [probe, user],
        "tool": [user, {"role": "assistant", "content": "", "tool_calls": [_CALL]}, probe],
    }.get("tool" if role == "ipython" else role, [user, probe, user])
    if role in ("tool", "ipython"):
        probe |= {"tool_call_id": "call_1", "name": "name"}
    try:
        text = render(conversation).casefold()
    except RequestError:
        return False
    return all(word in text for word in _WORDS[:words]) and not _PRINTED.search(text)


def _part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
