"""Adds what a caller has to a session's tokens: text, token ids, or messages through the chat template.

A conversation's tokens are those of its template, but for the answers, which stay the tokens that the model said:
encoding their text again might give others. So the template writes the whole conversation, and only what follows the
part that the session has is taken from it.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llama4rt.errors import RequestError
from llama4rt.images.image_tokens import ImageTokens
from llama4rt.images.message_images import take_pictures
from llama4rt.sessions.state import SessionState
from llama4rt.text.prompt_builder import PreparedPrompt

if TYPE_CHECKING:
    from llama4rt.engine.engine import Engine


def add(engine: "Engine", state: SessionState, content: Any, images: Sequence[Any] | None) -> None:
    """Changes the state; after an error it is of no use."""
    if isinstance(content, Mapping):
        content = [content]
    if (
        isinstance(content, Sequence)
        and not isinstance(content, str)
        and content
        and isinstance(content[0], Mapping)
    ):
        if images:
            raise RequestError("pictures of messages are parts of their content, not images")
        _add_messages(engine, state, list(content))
        return
    prepared = engine.prompts.prepare(content, images)
    ids = prepared.token_ids
    if state.token_ids and isinstance(content, str):
        ids = ids[_leading(engine, content, ids) :]
        if not ids:
            raise RequestError("the text is empty")
    state.token_ids += ids
    state.images += prepared.images
    state.messages = None


def add_answer(state: SessionState, text: str, *, going_on: bool) -> None:
    if state.messages is None:
        return
    if going_on and state.messages[-1]["role"] == "assistant":
        text = state.messages.pop()["content"] + text
    state.messages.append({"role": "assistant", "content": text})


def _leading(engine: "Engine", text: str, ids: list[int]) -> int:
    """How many tokens in front are begin-of-text: one, or none."""
    tokenizer = engine.tokenizer
    assert tokenizer is not None  # the text was encoded
    bos = engine.config.get("bos_token_id", -1)
    if bos < 0:
        bos = tokenizer.special_tokens.get("<|begin_of_text|>", -1)
    return 1 if bos >= 0 and ids[:1] == [bos] else 0


def _add_messages(engine: "Engine", state: SessionState, new: list[dict[str, Any]]) -> None:
    if state.messages is None:
        if state.token_ids:
            raise RequestError(
                "this session is of text or token ids; messages need one that began with messages"
            )
        state.messages = []
    old = state.messages
    encode = engine.prompts.encode_chat
    whole, named = encode([*old, *new], add_generation_prompt=True)
    pictures = list(named.values())[len(state.images) :]
    for where, source in list(named.items())[len(state.images) :]:
        if source is None:
            raise RequestError(f"{where} is an image part without an image")
    kept, begins = _kept(engine, state, old, whole)
    if kept is None:
        _write_anew(engine, state, whole, pictures)
    else:
        prepared = engine.prompts.prepare(whole[begins:], pictures or None)
        state.token_ids = state.token_ids[:kept] + prepared.token_ids
        state.images += prepared.images
    state.messages = old + _without_pictures(new)


def _kept(
    engine: "Engine", state: SessionState, old: list[dict[str, Any]], whole: list[int]
) -> tuple[int | None, int]:
    """(how many of the session's tokens stay, where in `whole` the rest begins). None: the template does not write the
    old messages as the beginning of all.
    """
    if not old:
        return 0, 0
    encode = engine.prompts.encode_chat
    if old[-1]["role"] == "assistant":
        before, _ = encode(old[:-1], add_generation_prompt=True)
        so_far = before
        if old[-1]["content"]:
            so_far, _ = encode(old, continue_final_message=True)
        fits = whole[: len(so_far)] == so_far
        return (len(state.token_ids) if fits else None), len(so_far)
    # Nothing was answered: the place for an answer at the end goes.
    closed, _ = encode(old, add_generation_prompt=False)
    opened, _ = encode(old, add_generation_prompt=True)
    place = opened[len(closed) :]
    fits = opened[: len(closed)] == closed and whole[: len(closed)] == closed
    fits = fits and state.token_ids[len(state.token_ids) - len(place) :] == place
    return (len(state.token_ids) - len(place) if fits else None), len(closed)


def _write_anew(engine: "Engine", state: SessionState, whole: list[int], pictures: list[Any]) -> None:
    """The tokens of all messages as the template writes them; what is equal in front is not computed again."""
    images = list(state.images)
    if pictures:
        tokens = ImageTokens.of(engine.config, engine.tokenizer)
        assert tokens is not None
        alone: PreparedPrompt = engine.prompts.prepare([tokens.image] * len(pictures), pictures)
        images += alone.images
    if images:
        tokens = ImageTokens.of(engine.config, engine.tokenizer)
        assert tokens is not None
        whole = tokens.expand(whole, [image.tiling for image in images])
    state.token_ids, state.images = whole, images


def _without_pictures(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As they are kept: a picture's place without the picture, which is kept as tiles."""
    taken, _ = take_pictures(messages)
    return [dict(message) for message in taken]
