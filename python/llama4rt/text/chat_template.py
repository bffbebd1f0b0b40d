"""Messages and tools to a prompt.

A checkpoint's own jinja template is rendered in a sandboxed, killable child (template_child.py). Llama 4's standard
template, and a checkpoint without one, use plain Python (llama4_format.py): no child, nothing to inject into.

Only the template may speak in control tokens. Both ways give the prompt in pieces that say who wrote them
(prompt_pieces.py), and the caller's are encoded as text: a user who types `<|eot|>` gets those seven characters,
whatever the template does to them.
"""

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama4rt.errors import RequestError
from llama4rt.file_json import read_json_object
from llama4rt.text.chat_data import ChatOptions, Message, plain_messages, plain_options, plain_tools
from llama4rt.text.content_form import ContentForm, converted, find_form, is_parts
from llama4rt.text.llama4_format import llama4_pieces
from llama4rt.text.prompt_pieces import Piece, cut_at, encode_pieces, text_of
from llama4rt.text.tokenizer import BOS_TEXT, Tokenizer
from llama4rt.workers.child_pool import ChildPool
from llama4rt.workers.child_process import ChildLimits

if TYPE_CHECKING:
    from typing_extensions import Unpack

# sha256 of the templates that llama4_format.py equals, checked by test against transformers' copy.
_STANDARD_TEMPLATES = frozenset({"95a231a15c8c976ac511e62c6fdf477ea9e3ca7a87cbb9974e0dd653eccb4563"})
_STANDARD_OPTIONS = frozenset({"tools_in_user_message"})
# Of one rendering. A template can loop or ask for gigabytes, which the sandbox does not stop.
RENDER_LIMITS = ChildLimits(seconds=2.0, cpu_seconds=5, memory=1 << 30)
TOOL_USE_FILE = "chat_template.tool_use.jinja"  # of an engine file; in a checkpoint it has a folder
_PROBED_ROLES = ("system", "developer", "user", "assistant", "tool", "ipython")
_MAX_WAITING = 1024  # of one client: a thread each, and a rendering takes milliseconds


class ChatTemplate:
    """The chat format of one engine. Safe to use from many threads."""

    def __init__(
        self,
        source: str | None = None,
        special_texts: Mapping[str, str] | None = None,
        *,
        tool_use: str | None = None,
        limits: ChildLimits = RENDER_LIMITS,
    ) -> None:
        """source: a jinja template, or None for Llama 4's own. special_texts: bos_token and the like, as text.
        tool_use: the template for conversations with tools, where that is another.
        """
        self.source = source
        self._tool_use = tool_use
        self._standard = {text for text in (source, tool_use) if text is not None and _is_standard(text)}
        self._texts = {"bos_token": BOS_TEXT, "eos_token": "<|eot|>", **(special_texts or {})}
        self._forms: dict[tuple[str, str], ContentForm] = {}
        self._forms_lock = threading.Lock()
        self._child = ChildPool(
            "llama4rt.text.template_child", 1, limits, "the chat template", max_waiting=_MAX_WAITING
        )

    @staticmethod
    def from_files(read_file: Callable[[str], bytes | None]) -> "ChatTemplate":
        """From chat_template.jinja, chat_template.json or tokenizer_config.json, in this order."""
        config = read_json_object(read_file, "tokenizer_config.json")
        texts = {}
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            token = config.get(name)
            text = token.get("content") if isinstance(token, dict) else token
            if isinstance(text, str):
                texts[name] = text
        jinja, tool_use = (read_file(name) for name in ("chat_template.jinja", TOOL_USE_FILE))
        if jinja is not None:
            return ChatTemplate(
                jinja.decode("utf-8", "replace"),
                texts,
                tool_use=None if tool_use is None else tool_use.decode("utf-8", "replace"),
            )
        for found in (
            read_json_object(read_file, "chat_template.json").get("chat_template"),
            config.get("chat_template"),
        ):
            if isinstance(found, str):
                return ChatTemplate(found, texts)
            named = _by_name(found)
            if named:
                return ChatTemplate(named.get("default"), texts, tool_use=named.get("tool_use"))
        return ChatTemplate(None, texts)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: "Unpack[ChatOptions]",
    ) -> str:
        """The prompt as text. Arguments and errors are those of encode."""
        return text_of(self._pieces(messages, tools, **options))

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        **options: "Unpack[ChatOptions]",
    ) -> list[int]:
        """The prompt as token ids; text of the caller never becomes a control token.

        add_generation_prompt: opens the assistant's turn; None: unless the final message is continued.
        continue_final_message: the prompt ends where the text of the final message does, so that the model goes on
        with it. options: more variables for the template (`tools_in_user_message`). RequestError for what the
        template refuses, and when it runs over a limit.
        """
        return encode_pieces(tokenizer, self._pieces(messages, tools, **options))

    def close(self) -> None:
        """Ends the child process, if one was started. Safe to call more than once; nothing renders afterwards."""
        self._child.close()

    # --- pieces -----------------------------------------------------------------------------------------------

    def _pieces(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> list[Piece]:
        if add_generation_prompt and continue_final_message:
            raise RequestError(
                "add_generation_prompt opens a new message and continue_final_message goes on with the last: "
                "give one of them"
            )
        prompt = not continue_final_message if add_generation_prompt is None else add_generation_prompt
        plain, tool_list, extra = plain_messages(messages), plain_tools(tools), plain_options(options)
        mark = f"\ufdd0{secrets.randbelow(10**18):018}\ufdd1"  # noncharacters: never text
        if continue_final_message:
            _append(plain[-1], mark + " ")
        source = self._tool_use if tool_list and self._tool_use is not None else self.source
        if source is None or (source in self._standard and set(extra) <= _STANDARD_OPTIONS):
            unknown = sorted(set(extra) - _STANDARD_OPTIONS)
            if unknown:
                raise RequestError(
                    f"chat_template_kwargs (options): the built-in chat format does not know {unknown!s:.200}"
                )
            bos = (self._texts["bos_token"], True)
            pieces = [bos, *llama4_pieces(plain, tool_list, prompt, **extra)]
        else:
            flat = []
            for i, message in enumerate(plain):
                if isinstance(message["content"], str) or is_parts(message["content"]):
                    form = self._form(source, message["role"])
                    message["content"], is_flat = converted(message["content"], form)
                    flat += [i] if is_flat else []
            pieces = self._rendered(source, plain, tool_list, prompt, extra, flat)
        return cut_at(pieces, mark) if continue_final_message else pieces

    def _rendered(
        self,
        source: str,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        prompt: bool = False,
        extra: Mapping[str, Any] | None = None,
        flat: Sequence[int] = (),
    ) -> list[Piece]:
        variables = {"documents": None, **(extra or {})}
        variables |= {"messages": messages, "tools": tools, "add_generation_prompt": prompt}
        # A variable of the same name as one of the texts takes its place, and is the caller's.
        message = {"template": source, "texts": self._texts, "variables": variables, "flat": flat}
        pieces = json.loads(self._child.call(json.dumps(message).encode()))
        return [(str(text), bool(trusted)) for text, trusted in pieces]

    def _form(self, source: str, role: str) -> ContentForm:
        if source in self._standard:
            return ContentForm.BOTH
        key = (source, role if role in _PROBED_ROLES else "assistant")
        with self._forms_lock:
            form = self._forms.get(key)
        if form is None:
            form = find_form(lambda messages: text_of(self._rendered(source, messages)), key[1])
            with self._forms_lock:
                self._forms[key] = form
        return form


def _is_standard(source: str) -> bool:
    return hashlib.sha256(source.encode("utf-8", "replace")).hexdigest() in _STANDARD_TEMPLATES


def _append(message: dict[str, Any], mark: str) -> None:
    """Puts the mark behind the text of the final message. RequestError when it has none."""
    content = message["content"]
    if message.get("tool_calls") or message["role"] in ("tool", "ipython"):
        raise RequestError("continue_final_message: the final message is a tool call or its result, not text")
    if isinstance(content, str):
        message["content"] = content + mark
    elif content and content[-1]["type"] == "text":
        message["content"] = [*content[:-1], {**content[-1], "text": content[-1]["text"] + mark}]
    else:
        raise RequestError("continue_final_message: the final message does not end in text")


def _by_name(templates: Any) -> dict[str, str]:
    """Several named templates, as a list of {"name", "template"} or an object."""
    if isinstance(templates, list):
        templates = {t.get("name"): t.get("template") for t in templates if isinstance(t, dict)}
    if not isinstance(templates, dict):
        return {}
    return {name: text for name, text in templates.items() if isinstance(name, str) and isinstance(text, str)}
