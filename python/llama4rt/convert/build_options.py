"""BuildOptions: what a build may be told, and how each weight of the engine file is therefore stored."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from llama4rt import _core
from llama4rt.convert import names
from llama4rt.convert.stored_rows import CodeLayout, common_layout
from llama4rt.errors import ConfigError

# As types, for checkers and editors. test_types.py holds them to what is accepted.
Target = Literal["auto", "cpu", "cuda"]
WeightKind = Literal["bf16", "int8", "int4", "fp8"]
GroupSize = Literal[16, 32, 64, 128]
Quantize = Literal["linear", "experts"]
LmHead = Literal["auto", "bf16", "int8", "int4", "fp8"]
Vision = Literal["bf16", "int8", "none"]

WEIGHTS = tuple(format.name for format in reversed(_core.weight_formats()) if format.from_values)
QUANTIZE = ("linear", "experts")
LM_HEADS = ("auto", *reversed(WEIGHTS))
VISION = ("bf16", "int8", "none")
TARGETS = ("auto", "cpu", "cuda")
LAYOUTS = {"cpu": "cpu16", "cuda": "cuda_tile"}  # csrc/weights/layout.h

_QUANTIZED_ROLES = {"linear": {"attention", "dense", "shared", "experts"}, "experts": {"shared", "experts"}}
_NEVER_CODES = ("router", "vision")  # roles whose matrices no kernel reads as the checkpoint's codes


@dataclass(frozen=True)
class BuildOptions:
    target: str
    weights: str
    group_size: int
    quantize: str
    lm_head: str
    vision: str

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("target", self.target, tuple(LAYOUTS)),
            ("weights", self.weights, WEIGHTS),
            ("group_size", self.group_size, _core.group_sizes()),
            ("quantize", self.quantize, QUANTIZE),
            ("lm_head", self.lm_head, LM_HEADS),
            ("vision", self.vision, VISION),
        ):
            if value not in allowed:
                raise ConfigError(
                    f"{name} is {value!r:.80}; it must be one of {', '.join(map(str, allowed))}"
                )

    def resolved(self, quantized_source: bool) -> "BuildOptions":
        """With what "auto" means.   quantized_source: the checkpoint brings quantised matrices of its own."""
        if self.lm_head != "auto":
            return self
        return replace(
            self, lm_head="bf16" if quantized_source else lm_head_kind(self.weights, self.quantize)
        )

    def kind(self, role: str, k: int) -> str:
        """How a matrix of k inputs that the checkpoint does not bring quantised is stored."""
        if role == "lm_head":
            return self.lm_head
        if role == "vision":  # of the published tower, every matrix but the patch embedding (588 inputs)
            return "int8" if self.vision == "int8" and k % self.group_size == 0 else "bf16"
        return self.weights if role in _QUANTIZED_ROLES[self.quantize] else "bf16"


def lm_head_kind(weights: str, quantize: str) -> str:
    """What lm_head="auto" means for a checkpoint of plain numbers: int8 where all other matrices become int4 or int8
    too, since beside them its error does not show (docs/quantization.md).
    """
    return "int8" if weights != "bf16" and quantize == "linear" else "bf16"


@dataclass(frozen=True)
class Storage:
    """How one weight is stored."""

    kind: str  # "plain" (fp32 numbers), "embed", or of a matrix the name of its kind
    group_size: int = 0
    scale_dtype: str = "BF16"
    imported: CodeLayout | None = None  # the layout of the checkpoint's own codes, when they are taken over

    @property
    def is_quantized(self) -> bool:
        """A matrix of codes with scales."""
        return self.group_size > 0


def storage_of(target: names.Target, options: BuildOptions) -> Storage:
    if target.plain_shape is not None:
        return Storage("plain")
    if target.role == "embed":
        return Storage("embed")
    layouts = [piece.source.info.codes for piece in target.pieces]
    found = [layout for layout in layouts if layout is not None]
    if found and target.role not in _NEVER_CODES:
        common = common_layout(found) if len(found) == len(layouts) else None
        if common is None:  # no layout keeps the numbers of all pieces: they become what they mean in bf16
            return Storage("bf16")
        if options.target == "cuda":
            common = common.with_wide_factors()
        return Storage(common.kind, common.group_size, common.scale_dtype, imported=common)
    kind = options.kind(target.role, target.k)
    return Storage(kind, group_size=0 if kind == "bf16" else options.group_size)


def rounding_notes(targets: Iterable[names.Target], options: BuildOptions) -> list[str]:
    """A sentence for each kind of number that a checkpoint has as codes and an engine file cannot hold as such."""
    rounded: dict[tuple[str, str], list[str]] = {}
    for target in targets:
        storage = storage_of(target, options)
        if storage.kind == "plain" or storage.imported is not None:
            continue
        become = storage.kind if storage.is_quantized else "bf16"
        for piece in target.pieces:
            if piece.source.info.codes is not None:
                rounded.setdefault((piece.source.info.dtype, become), []).append(target.name)
    lines = []
    for (dtype, become), found in rounded.items():
        names = list(dict.fromkeys(found))
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{names[0]}{others}: its {dtype} numbers are rounded to {become}")
    return lines


__all__ = ["LAYOUTS", "TARGETS", "BuildOptions", "Storage", "lm_head_kind", "rounding_notes", "storage_of"]
