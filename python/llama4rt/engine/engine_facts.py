"""EngineFacts: what Engine and AsyncEngine both say of the engine that they run."""

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NoReturn, cast

from llama4rt.engine.engine_adapters import AdapterMethods
from llama4rt.text.chat_template import ChatTemplate
from llama4rt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from llama4rt.engine.opened_engine import OpenedEngine
    from llama4rt.engine.option_types import EngineOptions
    from llama4rt.engine.report_types import EngineStats, ModelConfig


class EngineFacts(AdapterMethods, ABC):
    """The base of both."""

    @abstractmethod
    def __init__(
        self, path: str | os.PathLike[str] | None = None, **options: "Unpack[EngineOptions]"
    ) -> None: ...

    @property
    @abstractmethod
    def _opened(self) -> "OpenedEngine": ...

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **options: "Unpack[EngineOptions]") -> "Self":
        """The constructor, by the name that transformers has for it: path is an engine file, a checkpoint directory, a
        GGUF file, or a hub id.
        """
        return cls(path, **options)

    @property
    def path(self) -> str:
        """The engine file that is open; of a checkpoint, the one in the cache."""
        return self._opened.file

    @property
    def device(self) -> str:
        """The device in use: "cpu", "reference" or "cuda:N"."""
        return self._opened.native.device

    @property
    def config(self) -> "ModelConfig":
        """The model config, as stored in the engine file."""
        return cast("ModelConfig", self._opened.native.config)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer, loaded on first use; None when the engine file carries none."""
        return self._opened.prompts.tokenizer

    @property
    def chat_template(self) -> ChatTemplate:
        """The checkpoint's chat template, or Llama 4's standard one."""
        return self._opened.prompts.chat_template

    @property
    def max_model_len(self) -> int:
        """Prompt and output of a request together, in tokens."""
        return self._opened.native.max_model_len

    @property
    def max_num_seqs(self) -> int:
        """Outputs that can be in the running batch at once."""
        return self._opened.native.max_num_seqs

    def stats(self) -> "EngineStats":
        """Counters of this moment: requests running and waiting, blocks, tokens per second, bytes by component."""
        self.check_usable()
        return cast("EngineStats", self._opened.native.stats())

    def check_usable(self) -> None:
        """Raises Llama4RTError in a forked child, after close, and after the engine has failed for good: memory ran
        out in a step, two steps in a row failed, or the engine's thread ended. Cheap: a server may ask each second,
        and requests that a dead thread has left hear of its end through it.
        """
        self._opened.thread.check_usable()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled: it holds the model's memory. With multiprocessing, open one in "
            "each process; threads of one process share one; a server (llama4rt serve) serves many processes"
        )

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({self.path!r}, device={self.device!r}, max_model_len={self.max_model_len})"
