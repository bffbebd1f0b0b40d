"""Messages and tools to a prompt.

A checkpoint's own jinja template is rendered in a sandboxed, killable child (template_worker.py). Llama 4's
standard template, and a checkpoint without one, use the plain Python renderer below: no child, nothing to
inject into.

Only the template may speak in special tokens. Before rendering, a guard character is put into everything in
the caller's data that could become one, and taken out again after the special tokens have been found; so a
user who types `<|eot|>` gets those seven characters, even split over two text parts.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llama4rt.errors import EngineFileError, RequestError
from llama4rt.text.template_worker import TemplateWorker
from llama4rt.text.tokenizer import BOS_TEXT, Tokenizer

Message = Mapping[str, Any]

# sha256 of the templates that render_llama4 equals, checked by test against transformers' copy.
_STANDARD_TEMPLATES = frozenset({"95a231a15c8c976ac511e62c6fdf477ea9e3ca7a87cbb9974e0dd653eccb4563"})
# Unicode noncharacters: never text, so free to be the guard.
_GUARDS = [chr(c) for c in range(0xFDD0, 0xFDF0)]
_ROLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_MESSAGES = 100_000
_MAX_DEPTH = 32

_CALL_FORMAT = (
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n"
)
_TOOLS_IN_USER = (
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n"
)
_TOOLS_IN_SYSTEM = (
    "You have access to the following functions. "
    "To call a function, please respond with JSON for a function call."
)


class ChatTemplate:
    """The chat format of one engine. Safe to use from many threads."""

    def __init__(self, source: str | None = None, special_texts: Mapping[str, str] | None = None) -> None:
        """source: a jinja template, or None for Llama 4's own. special_texts: bos_token and the like, as text."""
        texts = {"bos_token": BOS_TEXT, "eos_token": "<|eot|>", **(special_texts or {})}
        standard = source is None or hashlib.sha256(source.encode()).hexdigest() in _STANDARD_TEMPLATES
        self.source = source
        self._texts = texts
        self._standard = standard
        self._worker = TemplateWorker()

    @staticmethod
    def from_files(read_file: Callable[[str], bytes | None]) -> "ChatTemplate":
        """From chat_template.jinja, chat_template.json or tokenizer_config.json, in this order."""
        config = _json_file(read_file, "tokenizer_config.json")
        texts = {}
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            token = config.get(name)
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                texts[name] = text
        jinja = read_file("chat_template.jinja")
        if jinja is not None:
            return ChatTemplate(jinja.decode("utf-8", "replace"), texts)
        for found in (
            _json_file(read_file, "chat_template.json").get("chat_template"),
            config.get("chat_template"),
        ):
            if isinstance(found, str):
                return ChatTemplate(found, texts)
            if isinstance(found, list):  # several named templates
                named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
                if isinstance(named.get("default"), str):
                    return ChatTemplate(named["default"], texts)
        return ChatTemplate(None, texts)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt as text. options: more variables for the template (`tools_in_user_message`)."""
        return self._render(_plain_messages(messages), _plain_tools(tools), add_generation_prompt, options)

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The prompt as token ids; text of the caller never becomes a special token."""
        data = [_plain_messages(messages), _plain_tools(tools)]
        everything = json.dumps(data, ensure_ascii=False)
        guard = next((g for g in _GUARDS if g not in everything), None)
        if guard is None:
            raise RequestError("the messages contain all of the noncharacters U+FDD0 to U+FDEF; remove them")
        beginning = tokenizer.special_beginning
        messages, tools = _map_text(data, lambda text: beginning.sub(rf"\1{guard}", text))
        text = self._render(messages, tools, add_generation_prompt, options)
        ids: list[int] = []
        end = 0
        for match in tokenizer.special_pattern.finditer(text):
            ids += tokenizer.encode(text[end : match.start()].replace(guard, ""))
            ids.append(tokenizer.special_tokens[match.group()])
            end = match.end()
        return ids + tokenizer.encode(text[end:].replace(guard, ""))

    def close(self) -> None:
        """Ends the child process, if one was started. Safe to call more than once."""
        self._worker.close()

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        options: Mapping[str, Any] | None,
    ) -> str:
        extra = dict(options or {})
        if self._standard and (self.source is None or set(extra) <= {"tools_in_user_message"}):
            unknown = set(extra) - {"tools_in_user_message"}
            if unknown:
                raise RequestError(f"the built-in chat format does not know {sorted(unknown)}")
            return self._texts["bos_token"] + render_llama4(messages, tools, add_generation_prompt, **extra)
        variables = {
            **self._texts, "documents": None, **extra,
            "messages": messages, "tools": tools, "add_generation_prompt": add_generation_prompt,
        }  # fmt: skip
        assert self.source is not None
        return self._worker.render(self.source, variables)


def render_llama4(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    tools_in_user_message: bool = True,
) -> str:
    """Llama 4's chat format, without begin-of-text."""
    turns: list[str] = []

    def turn(role: str, body: str) -> None:
        turns.append(f"<|header_start|>{role}<|header_end|>\n\n{body}<|eot|>")

    rest = list(messages)
    tool_list = "".join(json.dumps(tool, ensure_ascii=False, indent=4) + "\n\n" for tool in tools or ())
    if rest and rest[0]["role"] == "system":
        body = _text_of(rest.pop(0)).strip()
        if tools and not tools_in_user_message:
            body = _TOOLS_IN_SYSTEM + _CALL_FORMAT + tool_list + body
        turn("system", ("Environment: ipython\n" if tools else "") + body)
    if tools and tools_in_user_message:
        if not rest:
            raise RequestError("tools go into the first user message, and there is none")
        turn("user", _TOOLS_IN_USER + _CALL_FORMAT + tool_list + _text_of(rest.pop(0)).strip())
    for message in rest:
        if message.get("tool_calls"):
            calls = "".join(
                f'{{"name": "{call["function"]["name"]}", "parameters": '
                f"{json.dumps(call['function']['arguments'], ensure_ascii=False)}}}"
                for call in message["tool_calls"]
            )
            turn("assistant", f"<|python_start|>{_text_of(message)}<|python_end|>{calls}")
        elif message["role"] in ("tool", "ipython"):
            turn("ipython", json.dumps(message["content"], ensure_ascii=False))
        else:
            turn(message["role"], _text_of(message))
    if add_generation_prompt:
        turns.append("<|header_start|>assistant<|header_end|>\n\n")
    return "".join(turns)


def _text_of(message: Message) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] if part["type"] == "text" else "<|image|>" for part in content)


def _plain_messages(messages: Any) -> list[dict[str, Any]]:
    """Checked copies of the messages, in the form that templates expect.

    `content` is there and not None; an empty `tool_calls` is left out (templates drop such a message whole);
    the arguments of a call are an object even when they came as OpenAI's JSON text; image parts have type
    "image".
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise RequestError("messages must be a non-empty list of {'role': ..., 'content': ...}")
    if len(messages) > _MAX_MESSAGES:
        raise RequestError(f"there are {len(messages)} messages; at most {_MAX_MESSAGES} are allowed")
    plain = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping):
            raise RequestError(
                f"{where} is a {type(message).__name__}; it must be a dict with role and content"
            )
        role = message.get("role")
        if not isinstance(role, str) or not _ROLE.fullmatch(role):
            raise RequestError(f"{where}: role is {role!r:.80}; it must be a name such as 'user'")
        copy = {key: _plain_data(value, where) for key, value in message.items()}
        copy["content"] = _plain_content(copy.get("content"), role, where)
        calls = copy.pop("tool_calls", None)
        if calls:
            copy["tool_calls"] = _plain_calls(calls, where)
        plain.append(copy)
    return plain


def _plain_content(content: Any, role: str, where: str) -> Any:
    if content is None:
        return ""
    if isinstance(content, str) or role in ("tool", "ipython"):  # tool results are any JSON
        return content
    if not isinstance(content, list):
        raise RequestError(
            f"{where}: content is a {type(content).__name__}; it must be a string or a list of parts"
        )
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(part)
        elif kind in ("image", "image_url"):
            parts.append({**part, "type": "image"})
        else:
            raise RequestError(
                f"{where}: a content part has type {kind!r:.80}; known are 'text' with a text, and 'image'"
            )
    return parts


def _plain_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise RequestError(f"{where}: tool_calls is a {type(calls).__name__}; it must be a list")
    plain = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RequestError(f"{where}: a tool call has no function name")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            with contextlib.suppress(ValueError):  # a model can call with broken JSON: shown as it was
                arguments = json.loads(arguments or "{}")
        plain.append({**call, "function": {**function, "arguments": arguments}})
    return plain


def _plain_tools(tools: Any) -> list[dict[str, Any]] | None:
    if not tools:
        return None
    if not isinstance(tools, Sequence) or isinstance(tools, (str, bytes)):
        raise RequestError(f"tools is a {type(tools).__name__}; it must be a list of JSON-schema dicts")
    for i, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise RequestError(f"tools[{i}] is a {type(tool).__name__}; it must be a JSON-schema dict")
    return [_plain_data(tool, f"tools[{i}]") for i, tool in enumerate(tools)]


def _plain_data(value: Any, where: str, depth: int = 0) -> Any:
    """Only JSON types reach a template: an object with methods could do more than the sandbox knows."""
    if depth > _MAX_DEPTH:
        raise RequestError(f"{where} is nested deeper than {_MAX_DEPTH}")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {str(key): _plain_data(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_data(item, where, depth + 1) for item in value]
    raise RequestError(f"{where} holds a {type(value).__name__}; only JSON values are allowed")


def _map_text(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every string in it, keys too, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_text(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _map_text(item, change) for key, item in value.items()}
    return value


def _json_file(read_file: Callable[[str], bytes | None], name: str) -> dict[str, Any]:
    data = read_file(name)
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise EngineFileError(f"{name}: {error}") from None
    return value if isinstance(value, dict) else {}
