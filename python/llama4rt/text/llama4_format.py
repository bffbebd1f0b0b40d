"""Llama 4's own chat format in plain Python, for checkpoints without a template or with the standard one."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llama4rt.errors import RequestError
from llama4rt.text.prompt_pieces import Piece, text_of

Message = Mapping[str, Any]  # as chat_data.plain_messages leaves it
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


def render_llama4(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    tools_in_user_message: bool = True,
) -> str:
    """The prompt as text, without begin-of-text."""
    return text_of(llama4_pieces(messages, tools, add_generation_prompt, tools_in_user_message))


def llama4_pieces(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    tools_in_user_message: bool = True,
) -> list[Piece]:
    """The prompt without begin-of-text. RequestError when tools have no message to go into."""
    pieces: list[Piece] = []

    def turn(role: str, *body: Piece) -> None:
        pieces.extend(
            [
                ("<|header_start|>", True),
                (role, False),
                ("<|header_end|>\n\n", True),
                *body,
                ("<|eot|>", True),
            ]
        )

    rest = list(messages)
    tool_list = "".join(json.dumps(tool, ensure_ascii=False, indent=4) + "\n\n" for tool in tools or ())
    if rest and rest[0]["role"] == "system":
        body = _stripped(_content(rest.pop(0)))
        if tools and not tools_in_user_message:
            body = [(_TOOLS_IN_SYSTEM + _CALL_FORMAT, True), (tool_list, False), *body]
        turn("system", ("Environment: ipython\n" if tools else "", True), *body)
    if tools and tools_in_user_message:
        if not rest:
            raise RequestError("tools go into the first user message, and there is none")
        first = _stripped(_content(rest.pop(0)))
        turn("user", (_TOOLS_IN_USER + _CALL_FORMAT, True), (tool_list, False), *first)
    for message in rest:
        if message.get("tool_calls"):
            turn(
                "assistant", ("<|python_start|>", True), *_content(message), ("<|python_end|>", True),
                *((_call(call), False) for call in message["tool_calls"]),
            )  # fmt: skip
        elif message["role"] in ("tool", "ipython"):
            turn("ipython", (json.dumps(message["content"], ensure_ascii=False), False))
        else:
            turn(message["role"], *_content(message))
    if add_generation_prompt:
        pieces.append(("<|header_start|>assistant<|header_end|>\n\n", True))
    return pieces


def _call(call: Mapping[str, Any]) -> str:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return f'{{"name": "{function["name"]}", "parameters": {arguments}}}'


def _content(message: Message) -> Iterator[Piece]:
    content = message["content"]
    if isinstance(content, str):
        yield content, False
        return
    for part in content:
        yield (part["text"], False) if part["type"] == "text" else ("<|image|>", True)


def _stripped(pieces: Iterator[Piece]) -> list[Piece]:
    """As str.strip does to the whole text."""
    left = list(pieces)
    for at, strip in ((0, str.lstrip), (-1, str.rstrip)):
        while left:
            text, trusted = left[at]
            left[at] = (strip(text), trusted)
            if left[at][0]:
                break
            left.pop(at)
    return left
