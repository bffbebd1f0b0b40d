"""The engine files that a quality table compares: one checkpoint, built with many options of `llama4rt build`."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from llama4rt.cli.main import main as llama4rt
from plain_checkpoint import write_plain

REFERENCE = "bf16"
# Title and options; with no options the checkpoint's own codes go in, as they are.
STANDARD = {
    "bf16": "--weights bf16",
    "int8 g32": "--weights int8 --group-size 32",
    "fp8 g32": "--weights fp8 --group-size 32",
    "int4 g32": "--weights int4 --group-size 32",
    "int4 g64": "--weights int4 --group-size 64",
    "int4 g128": "--weights int4 --group-size 128",
    "int4 g128, int4 head": "--weights int4 --group-size 128 --lm-head int4",
    "imported": "",
}


@dataclass(frozen=True)
class Row:
    """A file, how it was built, and how it is opened."""

    title: str
    path: Path
    build: str = ""  # options of `llama4rt build`
    kv: str = "auto"
    activations: str = "auto"

    @property
    def full_title(self) -> str:
        options = [f"{self.kv} cache"] * (self.kv != "auto")
        options += [f"{self.activations} activations"] * (self.activations != "auto")
        return ", ".join([self.title, *options])

    @staticmethod
    def parse(text: str) -> Row:
        """FILE[,kv=..][,activations=..]"""
        path, *options = text.split(",")
        given = dict(option.split("=", 1) for option in options)
        unknown = set(given) - {"kv", "activations"}
        if unknown:
            raise SystemExit(f"{text}: {sorted(unknown)[0]} is not known; kv and activations are")
        name = Path(path)
        return Row(name.stem, name, "", given.get("kv", "auto"), given.get("activations", "auto"))


def standard_rows(source: Path, work: Path, further: list[str]) -> tuple[Path, list[Row]]:
    """The reference and the rows beside it. further: "TITLE: options of llama4rt build", one more row each."""
    kinds = dict(STANDARD)
    for text in further:
        title, colon, options = text.partition(":")
        if not colon:
            raise SystemExit(f"--build {text}: expected TITLE: OPTIONS, such as 'int4 g32: --weights int4'")
        kinds[title.strip()] = options.strip()
    built = {title: _built(title, options, source, work) for title, options in kinds.items()}
    rows = [Row(title, path, kinds[title]) for title, path in built.items()]
    # int8 activations meet 4-bit weights alone; with 16 bits what is left is the weights' part.
    more = [("int4 g32", "auto", "int16"), ("imported", "auto", "int16")]
    more += [(REFERENCE, kv, "auto") for kv in ("f32", "int8", "fp8")]
    rows += [Row(title, built[title], kinds[title], kv, activations) for title, kv, activations in more]
    return built[REFERENCE], rows


def _built(title: str, options: str, source: Path, work: Path) -> Path:
    """The file of these options; an older one of the same options is taken as it is."""
    plain = work / "plain"
    if options and not (plain / "config.json").is_file():
        write_plain(source, plain)
    digest = hashlib.sha256(options.encode()).hexdigest()[:8]
    path = work / f"{title.replace(',', '').replace(' ', '-')}-{digest}.l4e"
    if not path.is_file():
        status = llama4rt(
            ["build", str(plain if options else source), "-o", str(path), *shlex.split(options), "-q"]
        )
        if status:
            raise SystemExit(f"llama4rt build {options}: failed")
    return path


__all__ = ["REFERENCE", "STANDARD", "Row", "standard_rows"]
