"""Which form of a message's content a template takes: a string, or a list of parts.

Nothing in a checkpoint says so, and what a template is not made for it loses or prints as a Python list. So it is
tried, once for each role, with words whose way can be followed.
"""

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama4rt.errors import RequestError
from llama4rt.workers.child_pool import ChildrenBusy
from llama4rt.workers.child_process import ChildAbandoned, ChildLimit

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
    """Tries `role` in short conversations; a role that the template shows in none is taken as the user is. render:
    raises RequestError where the template refuses. Raises ChildAbandoned, ChildLimit and ChildrenBusy as render does:
    they say nothing of the template.
    """
    filler: Any = (
        "Hello" if role == "user" or _shows(render, "user", _WORDS[0], 1, "Hello") else [_part("Hello")]
    )
    string = _shows(render, role, _WORDS[0], 1, filler)
    both, first = [_part(word) for word in _WORDS], [_part(_WORDS[0])]
    if _shows(render, role, both, 2, filler):
        return ContentForm.BOTH if string else ContentForm.PARTS
    if string:
        return ContentForm.STRING
    if _shows(render, role, first, 1, filler):
        return ContentForm.ONE_PART
    return ContentForm.UNKNOWN if role == "user" else find_form(render, "user")


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


def _shows(render: Render, role: str, content: Any, words: int, filler: Any) -> bool:
    """Whether all words arrive. filler: the content of other messages."""
    for conversation in _conversations(role, content, filler):
        try:
            text = render(conversation).casefold()  # a template may write everything in capitals
        except (ChildAbandoned, ChildLimit, ChildrenBusy):
            raise
        except RequestError:
            continue  # it may want other turns around this one
        return all(word in text for word in _WORDS[:words]) and not _PRINTED.search(text)
    return False


def _conversations(role: str, content: Any, filler: Any) -> list[list[dict[str, Any]]]:
    user, answer = {"role": "user", "content": filler}, {"role": "assistant", "content": filler}
    probe: dict[str, Any] = {"role": role, "content": content}
    if role == "user":
        return [[probe]]
    if role in ("tool", "ipython"):
        probe |= {"tool_call_id": "call_1", "name": "name"}
        return [[user, {**answer, "tool_calls": [_CALL]}, probe], [user, probe]]
    if role in ("system", "developer"):
        return [[probe, user], [user, probe], [probe]]
    return [[user, probe, user], [user, probe], [probe]]


def _part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
