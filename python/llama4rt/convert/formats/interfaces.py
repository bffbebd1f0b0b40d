"""What the lists of containers and formats hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Protocol

from llama4rt.convert.checkpoint import Checkpoint, TensorInfo
from llama4rt.convert.stored_rows import Codes, Values


class Container(Checkpoint, Protocol):
    """A Checkpoint that opens a path."""

    looks_for: ClassVar[tuple[str, ...]]  # file names, for the error when no container finds any

    @staticmethod
    def detect(path: Path) -> bool:
        """Whether the path is one of these, by its files' names or first bytes."""

    def __init__(self, path: Path, name: str) -> None:
        """Raises CheckpointError that lists all that is wrong with the files."""


class StoredMatrix(Protocol):
    """One matrix in the form of its format. `info.stored` names the tensors it is made of, the main one first."""

    @property
    def info(self) -> TensorInfo: ...

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        """As TensorNames.problems: parts that are missing, misshapen, or of values that cannot be used."""

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Values | Codes:
        """As Checkpoint.rows. Only asked of a matrix without problems."""


class Format(Protocol):
    """One way to store a matrix."""

    title: ClassVar[str]  # for people: "compressed-tensors int4 (pack-quantized)"
    quant_methods: ClassVar[tuple[str, ...]]  # of quantization_config that may say this format

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        """The matrices stored so, by the names they would have unquantised. Decides by the tensors that are there;
        finds damaged ones too, whose problems() say what is wrong. Raises nothing.
        """


__all__ = ["Container", "Format", "StoredMatrix"]
