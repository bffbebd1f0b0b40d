"""Pictures in chat messages: takes them out, and leaves a bare {"type": "image"} in each one's place."""

from collections.abc import Mapping, Sequence
from typing import Any

from llama4rt.errors import ImageError, RequestError
from llama4rt.images.sources import Base64, is_url

_KEYS = ("image", "image_url", "url", "path", "base64")


def take_pictures(messages: Any) -> tuple[Any, dict[str, Any]]:
    """(the messages with bare image parts, what stood in them in order: where -> source, None in a part that was bare).

    Known are OpenAI's {"type": "image_url", "image_url": {"url": ...}} (or the text alone), and {"type": "image"} with
    one of "image" (anything load_image takes), "url", "path" or "base64". Whatever else is odd about the messages is
    left for the chat template to refuse.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        return messages, {}
    pictures: dict[str, Any] = {}
    plain: list[Any] = []
    for i, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, (list, tuple)) or message.get("role") in ("tool", "ipython"):
            plain.append(message)
            continue
        parts: list[Any] = []
        for j, part in enumerate(content):
            if isinstance(part, Mapping) and part.get("type") in ("image", "image_url"):
                where = f"messages[{i}], part {j}"
                pictures[where] = _source(part, where)
                parts.append({"type": "image"})
            else:
                parts.append(part)
        plain.append({**message, "content": parts})
    return plain, pictures


def _source(part: Mapping[str, Any], where: str) -> Any:
    given = [key for key in _KEYS if part.get(key) is not None]
    if len(given) > 1:
        raise RequestError(f"{where}: an image part has both {given[0]!r} and {given[1]!r}; one is enough")
    if not given:
        if part["type"] == "image":
            return None
        raise RequestError(f"{where}: a part of type 'image_url' has no 'image_url'")
    key, value = given[0], part[given[0]]
    if key == "image_url" and isinstance(value, Mapping):
        value = value.get("url")
    if key == "image":
        return value
    if key == "path":
        return _typed(value, key, where) if not hasattr(value, "__fspath__") else value
    text = _typed(value, key, where)
    if key == "base64":
        return text if text.startswith("data:") else Base64(text)
    if not is_url(text):  # never a path: who sends a URL over a network must not read this machine's files
        raise ImageError(
            f"{where}: the {key} {text!r:.80} is no data:, http: or https: URL; use 'path' for a file"
        )
    return text


def _typed(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{where}: {key} is a {type(value).__name__}; it must be text")
    return value
