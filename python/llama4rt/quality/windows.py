"""Texts and the windows of tokens that a measurement looks at."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama4rt.errors import RequestError

_LARGEST_TEXT = 1 << 28  # characters: more is tokenised for minutes and never looked at


@dataclass(frozen=True)
class Windows:
    """Equally long runs of a text's tokens, spread evenly over it; begin included where there is one."""

    tokens: list[list[int]]  # [windows][length]
    total: int  # tokens of the whole text

    @property
    def length(self) -> int:
        return len(self.tokens[0])


def spread_windows(ids: Sequence[int], count: int | None, length: int, begin: int | None = None) -> Windows:
    """count: None for as many as fit side by side. begin: a token in front of each window, part of its length.

    The first window starts with the text, and the others follow at equal distances; they overlap only where more are
    asked for than fit. A text shorter than a window is one window.
    """
    taken = length - (begin is not None)
    if taken < 2:
        raise RequestError(f"window_length is {length}; a window needs two tokens of text at least")
    if count is not None and count < 1:
        raise RequestError(f"windows is {count}; it must be at least 1")
    if len(ids) < 2:
        raise RequestError(f"the text has {len(ids)} tokens; to predict one it needs two at least")
    fitting = max(len(ids) // taken, 1)
    wanted = fitting if count is None else count
    if len(ids) < taken:
        taken, wanted = len(ids), 1
    stride = max(len(ids) // wanted, 1)
    last = len(ids) - taken
    starts = [min(i * stride, last) for i in range(wanted)]
    front = [] if begin is None else [begin]
    return Windows([front + list(ids[start : start + taken]) for start in dict.fromkeys(starts)], len(ids))


def read_texts(paths: Sequence[str | os.PathLike[str]]) -> tuple[str, list[str]]:
    """The texts of all files, with a blank line between, and the files' names: their paths below what was named.

    Of a directory, all files below it that are UTF-8 text, sorted by path; hidden ones are left out.
    """
    texts, names = [], []
    size = 0
    for path in map(Path, paths):
        found = [(path, path.name)] if path.is_file() else list(_files_below(path))
        if not found:
            raise RequestError(f"{path}: is neither a file nor a directory with files")
        for file, name in found:
            text = _text_of(file, required=path.is_file())
            if text is None:
                continue
            size += len(text)
            if size > _LARGEST_TEXT:
                raise RequestError(
                    f"{name}: with it the texts have more than {_LARGEST_TEXT:,} characters; name fewer files"
                )
            texts.append(text)
            names.append(name)
    if not texts:
        raise RequestError(f"{', '.join(map(str, paths))}: no file there is UTF-8 text")
    return "\n\n".join(texts), names


def _files_below(path: Path) -> Iterator[tuple[Path, str]]:
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            file = Path(folder) / name
            if not name.startswith(".") and file.is_file():
                yield file, str(Path(path.name) / file.relative_to(path))


def _text_of(file: Path, required: bool) -> str | None:
    data = file.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if required:
            raise RequestError(f"{file}: is not UTF-8 text: {error}") from None
        return None
    if "\0" in text:
        if required:
            raise RequestError(f"{file}: holds a NUL character, so it is no text")
        return None
    return text


__all__ = ["Windows", "read_texts", "spread_windows"]
