"""MLX's quantised linears and embeddings, of 2 to 8 bits, and stacks of experts [E, out, in] among them.

    weight   U32 [out, in * bits / 32]  a dense stream along `in`, the first code in the lowest bits
    scales   affine: BF16, F16 or F32 [out, groups]; nvfp4: U8 (e4m3), groups of 16; mxfp4 and mxfp8: U8 (e8m0), of 32
    biases   affine only, as the scales

affine:  value = code * scale + bias, product and sum rounded to fp32 each (MLX itself rounds them to the model's type).
nvfp4:   value = e2m1 * e4m3.   mxfp4: e2m1 * 2^(s - 127).   mxfp8: e4m3 * 2^(s - 127).   All exact.

The shapes alone give group size times bits; which is which, config.json's `quantization` says, for all modules or for
one by its name, where the product leaves it open. The modes tell themselves by types and products.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from llama4rt.convert.checkpoint import FLOAT_DTYPES, Checkpoint, TensorInfo
from llama4rt.convert.formats.integer_codes import kind_of
from llama4rt.convert.formats.interfaces import StoredMatrix
from llama4rt.convert.formats.packed_bits import unpack_bits
from llama4rt.convert.formats.parts import Parts, kept_type
from llama4rt.convert.formats.small_floats import E2M1_DOUBLED, e8m0_as_bf16, half_of
from llama4rt.convert.formats.stacked_experts import matrices_of
from llama4rt.convert.stored_rows import CodeLayout, Codes, as_float32

_SCALES = ".scales"
_AFFINE = [(group, bits) for group in (32, 64, 128) for bits in (2, 3, 4, 5, 6, 8)]
# Group size times bits of the modes whose scales are bytes -> mode, group size, bits.
_BYTE_MODES = {64: ("nvfp4", 16, 4), 128: ("mxfp4", 32, 4), 256: ("mxfp8", 32, 8)}


class Mlx:
    """The Format."""

    title: ClassVar[str] = "MLX (affine, nvfp4, mxfp4, mxfp8)"
    quant_methods: ClassVar[tuple[str, ...]] = ("mlx",)

    @staticmethod
    def detect(checkpoint: Checkpoint) -> Mapping[str, StoredMatrix]:
        names = checkpoint.names()
        config = checkpoint.config()
        found: dict[str, StoredMatrix] = {}
        for name in names:
            module = name.removesuffix(_SCALES)
            weight = names.get(f"{module}.weight", TensorInfo("", ()))
            if name == module or weight.dtype != "U32":
                continue
            stack = MlxModule(checkpoint, module, config)
            found |= {matrix: MlxLinear(stack, index) for matrix, index in matrices_of(module, stack.experts)}
        return found


@dataclass(frozen=True)
class Mode:
    """How the codes of a module are meant."""

    name: str
    group_size: int
    bits: int

    def layout(self, scale_dtype: str) -> CodeLayout:
        if self.name == "affine":
            return CodeLayout(kind_of(self.bits), self.group_size, scale_dtype, offsets=True)
        if self.name == "mxfp8":
            return CodeLayout("fp8", self.group_size, "BF16")
        return CodeLayout(
            "table4", self.group_size, "F8_E4M3" if self.name == "nvfp4" else "BF16", table=E2M1_DOUBLED
        )


class MlxModule:
    """The tensors of one module, a matrix or a stack."""

    def __init__(self, base: Checkpoint, module: str, config: Mapping[str, Any]) -> None:
        self.parts = Parts(base, {part: f"{module}.{part}" for part in ("weight", "scales", "biases")})
        weight, scales = self.parts.info("weight").shape, self.parts.info("scales").shape
        self.experts = weight[0] if len(weight) == 3 else None
        words, groups = (shape[-1] if len(shape) >= 2 else 0 for shape in (weight, scales))
        self.out = weight[-2] if len(weight) >= 2 else 0
        self.mode: Mode | None = None
        self.problem = (
            f"{self.parts.said('scales')}: is {self.parts.info('scales')} beside {self.parts.info('weight')}"
        )
        product = 32 * words // groups if groups and 32 * words % groups == 0 else 0
        if self.parts.info("scales").dtype == "U8":
            if product in _BYTE_MODES:
                self.mode = Mode(*_BYTE_MODES[product])
            else:
                self.problem += "; no mode of MLX has such groups"
        else:
            self.mode = self._affine(
                product, _settings(config, self.parts.said("weight").removesuffix(".weight"), module)
            )
        self.into = 0 if self.mode is None else groups * self.mode.group_size

    def _affine(self, product: int, settings: Mapping[str, Any]) -> Mode | None:
        fitting = [pair for pair in _AFFINE if pair[0] * pair[1] == product]
        declared = (settings.get("group_size", 64), settings.get("bits", 4))
        if declared in fitting or len(fitting) == 1:
            return Mode("affine", *(declared if declared in fitting else fitting[0]))
        self.problem += (
            f"; config.json's quantization says groups of {declared[0]!r:.20} with {declared[1]!r:.20} bits"
            if fitting
            else "; no groups of 32, 64 or 128 with 2, 3, 4, 5, 6 or 8 bits are so many words"
        )
        return None

    @property
    def scale_dtype(self) -> str:
        types = {self.parts.info(part).dtype for part in ("scales", "biases")}
        return kept_type(types.pop()) if len(types) == 1 else "F32"

    def array(self, base: Checkpoint, part: str, index: int, first: int, last: int) -> NDArray[Any]:
        """Rows first..last of the matrix `index`."""
        if self.experts is None:
            return self.parts.array(base, part, first, last)
        rows: NDArray[Any] = self.parts.array(base, part, index, index + 1)[0][first:last]
        return rows


class MlxLinear:
    """One matrix of a module."""

    def __init__(self, module: MlxModule, index: int) -> None:
        self._module = module
        self._index = index
        layout = None if module.mode is None else module.mode.layout(module.scale_dtype)
        self.info = TensorInfo("MLX", (module.out, module.into), layout, module.parts.stored)

    def problems(self, base: Checkpoint, shape: tuple[int, ...]) -> list[str]:
        module, parts = self._module, self._module.parts
        if module.mode is None:
            return [module.problem]
        if len(shape) != 2:
            return [f"{parts.said('weight')}: is a packed matrix; expected {TensorInfo('BF16', shape)}"]
        out, into = shape
        stack = () if module.experts is None else (module.experts,)
        is_affine = module.mode.name == "affine"
        grouped = (*stack, out, into // module.mode.group_size)
        problems = parts.misshapen(
            [
                ("weight", ("U32",), (*stack, out, into * module.mode.bits // 32)),
                ("scales", FLOAT_DTYPES if is_affine else ("U8",), grouped),
                ("biases", FLOAT_DTYPES if is_affine else (), grouped),
            ]
        )
        if is_affine and "biases" not in parts:
            problems.append(f"{parts.said('scales').removesuffix('scales')}biases: is missing")
        return problems

    def rows(self, base: Checkpoint, first: int, last: int | None, expert: int | None) -> Codes:
        module, layout = self._module, self.info.codes
        assert expert is None and layout is not None and module.mode is not None
        last = module.out if last is None else last
        packed = module.array(base, "weight", self._index, first, last)
        codes = unpack_bits(packed, module.mode.bits, module.into)
        stored = module.array(base, "scales", self._index, first, last)
        name = module.parts.said("scales")
        match module.mode.name:
            case "nvfp4":
                return Codes(layout, codes, stored, factors=half_of(1, last - first, module.into))
            case "mxfp4":
                return Codes(layout, codes, e8m0_as_bf16(stored, 2, name))
            case "mxfp8":
                return Codes(layout, codes, e8m0_as_bf16(stored, 1, name))
        offsets = self._numbers(module.array(base, "biases", self._index, first, last), "biases")
        return Codes(layout, codes, self._numbers(stored, "scales"), None, offsets)

    def _numbers(self, stored: NDArray[Any], part: str) -> NDArray[Any]:
        """Scales or biases, of the layout's type."""
        module = self._module
        dtype = module.parts.info(part).dtype
        return stored if module.scale_dtype == dtype else as_float32(stored, dtype)


def _settings(config: Mapping[str, Any], *modules: str) -> Mapping[str, Any]:
    """What config.json says of a module, by any of its names."""
    found = config.get("quantization") or config.get("quantization_config")
    if not isinstance(found, Mapping):
        return {}
    own: Mapping[str, Any] = next(
        (found[module] for module in modules if isinstance(found.get(module), Mapping)), {}
    )
    return {**found, **own}


__all__ = ["Mlx", "MlxLinear", "MlxModule"]
