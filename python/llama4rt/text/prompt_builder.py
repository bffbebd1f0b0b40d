"""From what a caller has (text, token ids, messages, pictures) to a PreparedPrompt: token ids and tiles."""

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex

from llama4rt.errors import RequestError
from llama4rt.images.image_tokens import PLACEHOLDER, ImageTokens
from llama4rt.images.limits import ImageLimits
from llama4rt.images.message_images import take_pictures
from llama4rt.text.chat_data import ChatOptions, Message
from llama4rt.text.chat_template import ChatTemplate
from llama4rt.text.tokenizer import BOS_TEXT, Tokenizer, load_tokenizer, require_tokenizer
from llama4rt.workers.client_threads import ClientThreads

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Unpack

    from llama4rt.images.decoder import PictureDecoder
    from llama4rt.images.processing import ProcessedImage
    from llama4rt.images.sources import ImageSource

_MAX_TOKEN_ID = 2**31 - 1


@dataclass(frozen=True, eq=False)
class PreparedPrompt:
    """A prompt that is ready to run: made by Engine.prepare and Engine.prepare_chat, taken wherever a prompt is, as
    often as wanted. Its pictures are decoded and its `<|image|>` expanded.
    """

    token_ids: list[int]
    text: str | None = None  # of a prompt that came as text
    images: "tuple[ProcessedImage, ...]" = ()


class TokenIds(Protocol):
    """A list, tuple or array of integers."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[SupportsIndex]: ...


Prompt = str | TokenIds | PreparedPrompt
# The pictures of one prompt, or for a list of prompts a list of those.
Images = Sequence["ImageSource | Sequence[ImageSource] | None"]


@dataclass(frozen=True, eq=False)
class PromptWithPictures:
    """A prompt whose text is read and whose pictures are not: PromptBuilder.finish makes a PreparedPrompt of it."""

    token_ids: list[int]
    text: str | None
    pictures: Mapping[str, Any]  # how errors name it -> what load_image takes


class PromptBuilder:
    """The tokenizer, chat template and image processor of one engine file, each loaded on first use. Safe to use from
    many threads.
    """

    def __init__(
        self,
        read_file: Callable[[str], bytes | None],
        config: Mapping[str, Any],
        max_model_len: int,
        image_limits: ImageLimits | None = None,
        allow_image_urls: bool = False,
    ) -> None:
        self._read_file = read_file
        self._config = config
        self._max_model_len = max_model_len
        self._limits = image_limits or ImageLimits()
        self._allow_urls = allow_image_urls
        self._lock = threading.Lock()
        self.tokenizer_loaded = False
        self._tokenizer: Tokenizer | None = None
        self._chat_template: ChatTemplate | None = None
        self._decoder: PictureDecoder | None = None
        # Apart from each other, so that text never waits for a picture. More for pictures, which mostly wait: for a
        # download, or for the process that decodes.
        self.text_threads = ClientThreads("llama4rt-text", 8, 4)
        self.picture_threads = ClientThreads("llama4rt-images", 16, 4)

    @property
    def tokenizer(self) -> Tokenizer | None:
        with self._lock:
            if not self.tokenizer_loaded:
                self._tokenizer = load_tokenizer(self._read_file)
                self.tokenizer_loaded = True
                if self._tokenizer is not None:
                    own = weakref.ref(self)  # no circle: an engine that is dropped is freed at once
                    self._tokenizer.template = lambda: (
                        None if (found := own()) is None else found.chat_template
                    )
            return self._tokenizer

    @property
    def chat_template(self) -> ChatTemplate:
        with self._lock:
            if self._chat_template is None:
                self._chat_template = ChatTemplate.from_files(self._read_file)
            return self._chat_template

    @property
    def has_vision(self) -> bool:
        return self._config.get("vision") is not None

    def close(self) -> None:
        """Ends child processes and what waits for a thread. Safe to call more than once."""
        with self._lock:
            if self._chat_template is not None:
                self._chat_template.close()
            decoder, self._decoder = self._decoder, None
        self.text_threads.shutdown()
        self.picture_threads.shutdown()
        if decoder is not None:
            decoder.close()

    # --- prompts --------------------------------------------------------------------------------------------

    def prepare(
        self,
        prompt: Prompt,
        images: Images | None = None,
        *,
        where: str = "images",
    ) -> PreparedPrompt:
        """where: how errors name the list of pictures."""
        return self.finish(self.read(prompt, images, where=where))

    def read(
        self, prompt: Prompt, images: Images | None = None, *, where: str = "images"
    ) -> PreparedPrompt | PromptWithPictures:
        """The first half of prepare(): everything but the pictures."""
        if isinstance(prompt, PreparedPrompt):
            if images:
                raise RequestError("a PreparedPrompt has its images already; it takes no more")
            return prompt
        if images is not None and not isinstance(images, (list, tuple)):
            raise RequestError(f"{where} is a {type(images).__name__}; it must be a list of images")
        ids = self.encode(prompt, placeholders=images is not None)  # an empty list: none for the marks
        text = prompt if isinstance(prompt, str) else None
        named = {f"{where}[{i}]": picture for i, picture in enumerate(images or ())}
        return self._with_pictures(ids, text, named)

    def prepare_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]] | None = None,
        **options: "Unpack[ChatOptions]",
    ) -> PreparedPrompt:
        """options: of ChatTemplate.encode."""
        return self.finish(self.read_chat(messages, tools, **options))

    def read_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]] | None = None,
        **options: "Unpack[ChatOptions]",
    ) -> PreparedPrompt | PromptWithPictures:
        """The first half of prepare_chat(): everything but the pictures."""
        ids, named = self.encode_chat(messages, tools, **options)
        for where, source in named.items():
            if source is None:
                raise RequestError(f"{where} is an image part without an image")
        return self._with_pictures(ids, None, named)

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, object]] | None = None,
        **options: "Unpack[ChatOptions]",
    ) -> tuple[list[int], dict[str, Any]]:
        """(ids with one `<|image|>` for each picture, the pictures in this order by their place in the messages)."""
        tokenizer = require_tokenizer(self.tokenizer, "chat")
        messages, named = take_pictures(messages)
        if named:
            self._require_vision()
        ids = self.chat_template.encode(tokenizer, messages, tools, **options)
        self._check_template(ids, len(named))
        return ids, named

    def _check_template(self, ids: list[int], pictures: int) -> None:
        """RequestError for a template that loses pictures, or makes places for more than there are."""
        tokens = ImageTokens.of(self._config, self.tokenizer)
        if tokens is None or not tokens.complete or tokens.patch in ids:
            return
        places = ids.count(tokens.image)
        if places != pictures:
            raise RequestError(
                f"messages have {pictures} picture{'' if pictures == 1 else 's'}, and the checkpoint's chat template "
                f"writes {places or 'no'} {PLACEHOLDER}"
                f"{': it is made for text alone' if places == 0 else ''}. It must write one for each: put a "
                "chat_template.jinja that does beside the checkpoint, and build the engine file anew"
            )

    def encode(self, prompt: Prompt, *, placeholders: bool = False) -> list[int]:
        """Token ids of a prompt: text gets begin-of-text unless it already starts with it; ids stay as they are.

        With placeholders, `<|image|>` in text is the token; all else in text is plain text always.
        """
        if isinstance(prompt, str):
            return self._encode_text(prompt, placeholders)
        return prompt.token_ids if isinstance(prompt, PreparedPrompt) else _token_ids(prompt)

    def _encode_text(self, text: str, placeholders: bool) -> list[int]:
        if not text:
            raise RequestError(f'the prompt is empty; to generate from nothing, pass "{BOS_TEXT}"')
        tokenizer = require_tokenizer(self.tokenizer, "a text prompt")
        # No token is longer than max_token_bytes, so so many characters cannot fit: say so before encoding.
        at_least = len(text) // tokenizer.max_token_bytes
        if at_least > self._max_model_len:
            raise RequestError(
                f"the prompt has {len(text)} characters, at least {at_least} tokens; "
                f"max_model_len is {self._max_model_len}"
            )
        bos = self._config.get("bos_token_id", -1)
        if bos < 0:
            bos = tokenizer.special_tokens.get(BOS_TEXT, -1)
        bos_text = tokenizer.token_bytes(bos).decode("utf-8", "replace")
        if bos_text and text.startswith(bos_text):
            text = text[len(bos_text) :]
        image = tokenizer.special_tokens.get(PLACEHOLDER)
        pieces = text.split(PLACEHOLDER) if placeholders and image is not None else [text]
        ids = [bos] if bos >= 0 else []
        for i, piece in enumerate(pieces):
            if i > 0 and image is not None:
                ids.append(image)
            ids += tokenizer.encode(piece)
        return ids

    # --- pictures -------------------------------------------------------------------------------------------

    def _with_pictures(
        self, ids: list[int], text: str | None, named: Mapping[str, Any]
    ) -> PreparedPrompt | PromptWithPictures:
        if named:
            self._require_vision()
        tokens = ImageTokens.of(self._config, self.tokenizer) if self.has_vision else None
        if tokens is None:
            return PreparedPrompt(ids, text)
        tokens.check(ids, len(named))  # before any picture is read
        if named:
            return PromptWithPictures(ids, text, named)
        return PreparedPrompt(tokens.expand(ids, []), text)

    def finish(self, prompt: PreparedPrompt | PromptWithPictures, *, parallel: bool = True) -> PreparedPrompt:
        """Reads the pictures. parallel: each in a thread of its own, and not all in this one; not for a caller that
        itself runs in picture_threads.
        """
        if isinstance(prompt, PreparedPrompt):
            return prompt
        tokens = ImageTokens.of(self._config, self.tokenizer)
        assert tokens is not None  # read() and read_chat() refuse pictures otherwise
        images = self._load(prompt.pictures, parallel)
        ids = tokens.expand(prompt.token_ids, [image.tiling for image in images])
        return PreparedPrompt(ids, prompt.text, tuple(images))

    def _require_vision(self) -> None:
        if not self.has_vision:
            raise RequestError(
                "the prompt has images, and this engine file has no vision tower: build one from a checkpoint that "
                "has it, without --vision none"
            )

    def _load(self, named: Mapping[str, Any], parallel: bool) -> "list[ProcessedImage]":
        """The pictures in order; one that comes twice is read once."""
        decoder = self._picture_decoder()
        unique: dict[Any, tuple[Any, str]] = {}
        for where, source in named.items():
            unique.setdefault(_identity(source), (source, where))
        if parallel and len(unique) > 1:
            submit = self.picture_threads.submit
            done = _results({key: submit(copy_context().run, decoder, *item) for key, item in unique.items()})
        else:
            done = {key: decoder(*item) for key, item in unique.items()}
        return [done[_identity(source)] for source in named.values()]

    def load_image(self, source: Any, what: str = "the image") -> "Image":
        """The picture as RGB, within the limits."""
        from llama4rt.images.sources import load_image

        self._require_vision()
        return load_image(source, self._limits, allow_urls=self._allow_urls, what=what)

    def _picture_decoder(self) -> "PictureDecoder":
        from llama4rt.images.decoder import PictureDecoder
        from llama4rt.images.processing import ImageProcessor

        with self._lock:
            if self._decoder is None:
                processor = ImageProcessor.from_files(self._read_file, self._config)
                assert processor is not None
                self._decoder = PictureDecoder(self._limits, processor, self._allow_urls)
            return self._decoder


def prompts_with_images(
    prompts: Prompt | Sequence[Prompt], images: Images | None
) -> "list[tuple[Prompt, str, Sequence[ImageSource] | None]]":
    """For each of the prompts, which may be one, itself, how errors name its pictures, and the pictures."""
    given: Any = prompts
    if _is_one_prompt(prompts):
        return [(given, "images", images)]  # type: ignore[list-item]  # read() looks at each
    items: list[Prompt] = list(given)
    if images is None:
        return [(prompt, "images", None) for prompt in items]
    if not isinstance(images, (list, tuple)) or not all(
        item is None or isinstance(item, (list, tuple)) for item in images
    ):
        raise RequestError("for a list of prompts, images must be a list of lists: the images of each prompt")
    if len(images) != len(items):
        raise RequestError(
            f"there are {len(items)} prompts and {len(images)} lists of images; give one for each"
        )
    return [(prompt, f"images[{i}]", images[i]) for i, prompt in enumerate(items)]


def _is_one_prompt(prompts: Any) -> bool:
    """One prompt rather than a list of prompts, such as the empty one."""
    if isinstance(prompts, (str, PreparedPrompt)):
        return True
    if isinstance(prompts, Mapping):
        raise RequestError("the prompt is a dict; a conversation is for chat, which takes a list of messages")
    try:
        return len(prompts) > 0 and not (
            hasattr(prompts[0], "__len__") or isinstance(prompts[0], PreparedPrompt)
        )
    except (TypeError, KeyError):
        raise RequestError(
            f"the prompt is a {type(prompts).__name__}; it must be text, token ids, or a list of those"
        ) from None


def _results(futures: "Mapping[Any, Future[ProcessedImage]]") -> "dict[Any, ProcessedImage]":
    try:
        return {key: future.result() for key, future in futures.items()}
    finally:
        for future in futures.values():
            future.cancel()  # of no effect on those that ran


def _identity(source: Any) -> Any:
    return source if isinstance(source, (str, bytes)) else id(source)


def _token_ids(prompt: Any) -> list[int]:
    if isinstance(prompt, (bytes, bytearray, memoryview)):  # would pass for a list of small token ids
        raise RequestError(
            f"a prompt is {type(prompt).__name__}; it must be text (decode it first) or a list of token ids"
        )
    if isinstance(prompt, Mapping):
        raise RequestError("a prompt is a dict; a conversation is for chat, which takes a list of messages")
    try:
        items = list(prompt)
    except TypeError:
        raise RequestError(
            f"a prompt is a {type(prompt).__name__}; it must be text or a list of token ids"
        ) from None
    if not items:
        raise RequestError("a prompt is empty; it needs at least one token")
    ids = []
    for i, item in enumerate(items):
        try:
            value = item.__index__()
        except (AttributeError, TypeError):
            value = -1
        if isinstance(item, bool) or not 0 <= value <= _MAX_TOKEN_ID:
            raise RequestError(f"prompt token {i} is {item!r:.80}; it must be a token id")
        ids.append(value)
    return ids
