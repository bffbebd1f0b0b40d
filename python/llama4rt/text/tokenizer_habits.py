"""What people who come from transformers do with a tokenizer: call it, take its length, apply the chat template."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast, overload

from llama4rt.errors import RequestError

if TYPE_CHECKING:
    from llama4rt.text.chat_data import ChatOptions, Message
    from llama4rt.text.chat_template import ChatTemplate
    from llama4rt.text.tokenizer import Tokenizer


class Encoded(dict[str, list[int] | list[list[int]]]):
    """input_ids and attention_mask, as members and as attributes; lists of lists for several texts."""

    @property
    def input_ids(self) -> list[int] | list[list[int]]:
        return self["input_ids"]

    @property
    def attention_mask(self) -> list[int] | list[list[int]]:
        return self["attention_mask"]


class TransformersHabits(ABC):
    """A base of Tokenizer."""

    vocab_size: int
    # Of the engine whose tokenizer this is. It stays behind when the tokenizer is pickled: it has a child process.
    template: "Callable[[], ChatTemplate | None] | None" = None

    @abstractmethod
    def encode(self, text: str, *, special: bool = False) -> list[int]: ...
    @abstractmethod
    def _with_begin(self, text: str, begin: bool) -> list[int]: ...

    def __len__(self) -> int:
        return self.vocab_size

    def __bool__(self) -> bool:
        return True

    def __call__(self, text: str | Sequence[str], *, add_special_tokens: bool = True) -> Encoded:
        """Ids of one text or of several, with begin-of-text unless add_special_tokens is False. `encode` adds none."""
        if isinstance(text, str):
            ids = self._with_begin(text, add_special_tokens)
            return Encoded(input_ids=ids, attention_mask=[1] * len(ids))
        if not isinstance(text, Sequence):
            raise RequestError(f"the text is a {type(text).__name__}; it must be a str or a list of them")
        several = [self._with_begin(each, add_special_tokens) for each in text]
        return Encoded(input_ids=several, attention_mask=[[1] * len(ids) for ids in several])

    @overload
    def apply_chat_template(
        self,
        conversation: "Sequence[Message]",
        tools: Sequence[Mapping[str, object]] | None = None,
        *,
        tokenize: Literal[True] = True,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: object,
    ) -> list[int]: ...
    @overload
    def apply_chat_template(
        self,
        conversation: "Sequence[Message]",
        tools: Sequence[Mapping[str, object]] | None = None,
        *,
        tokenize: Literal[False],
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: object,
    ) -> str: ...

    def apply_chat_template(
        self,
        conversation: "Sequence[Message]",
        tools: Sequence[Mapping[str, object]] | None = None,
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        **variables: object,
    ) -> list[int] | str:
        """The prompt of a conversation, as ids or as text, with transformers' arguments and defaults: without
        add_generation_prompt it ends before the answer's turn. variables: more of them for the template. A picture is
        one `<|image|>`.
        """
        from llama4rt.images.message_images import take_pictures

        template = None if self.template is None else self.template()
        if template is None:
            raise RequestError(
                "this tokenizer has no chat template: it was pickled, or its engine is gone; take engine.tokenizer"
            )
        options: ChatOptions = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "options": variables,
        }
        messages, _ = take_pictures(conversation)
        if tokenize:
            return template.encode(cast("Tokenizer", self), messages, tools, **options)
        return template.render(messages, tools, **options)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "template"}
