"""Routed experts that Meta's quantiser left as FP8 or int4 codes, with their scales in a file beside each shard.

The codes keep the names and the two axes of the bf16 files; the scales have names of the code that loads them, w1, w3
and w2, and lie [experts, out] or [experts, groups, out]. Each process quantised its own part: where the inputs of a
matrix are shared out (w2), a row has another scale in every file. Codes keep all of them, in groups that end where a
file's inputs end.

    FP8   e4m3fn [experts * in, out], one scale for an output:                         value = code * scale
    int4  two's complement, two inputs to a byte, the first in the low bits, [experts * in / 2, out] viewed as e4m3fn;
          one scale for 128 inputs of an output:                                       value = code * scale
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama4rt.convert.checkpoint import TensorInfo
from llama4rt.convert.files import is_there
from llama4rt.convert.formats.torch_file import TorchFile
from llama4rt.convert.stored_rows import GROUP_SIZES, CodeLayout, Codes, Values
from llama4rt.errors import CheckpointError

INT4_GROUP = 128  # inputs of one file
CODE_DTYPES = ("F8_E4M3", "I8", "U8")
_KINDS = ("fp8", "int4")


@dataclass(frozen=True)
class CodedPart:
    """A kind of matrix (gate, up or down) of all experts, as each file has a part of it."""

    key: str  # in the shards
    scale_key: str
    into: int  # inputs of one file
    out: int  # outputs of one file


class ScaleFiles:
    """fp8_scales_N.pt or int4_scales_N.pt, one beside each shard; kind is None where there are none."""

    def __init__(self, directory: Path, count: int) -> None:
        """Raises CheckpointError where some are missing."""
        found = {kind: [directory / f"{kind}_scales_{rank}.pt" for rank in range(count)] for kind in _KINDS}
        there = {kind: [path for path in paths if is_there(path)] for kind, paths in found.items()}
        kinds = [kind for kind in _KINDS if there[kind]]
        if len(kinds) > 1:
            raise CheckpointError(
                f"{directory}: has {there['fp8'][0].name} and {there['int4'][0].name}; expected one or the other kind"
            )
        self.kind = kinds[0] if kinds else None
        self.files: list[TorchFile] = []
        if self.kind is not None:
            missing = [path.name for path in found[self.kind] if path not in there[self.kind]]
            if missing:
                raise CheckpointError(
                    f"{directory}: {missing[0]} is missing beside {there[self.kind][0].name}; download all of them"
                )
            self.files = [TorchFile(path) for path in found[self.kind]]

    def infos(self, key: str) -> list[TensorInfo | None]:
        """Of each file."""
        return [file.infos.get(key) for file in self.files]

    def __contains__(self, key: str) -> bool:
        return bool(self.files) and all(info is not None for info in self.infos(key))


class CodedStack:
    """A stack of experts [E, in, out], of one part or of several one after another along the outputs.

    axis: along which the files' parts are joined; 0 outputs, 1 inputs.
    """

    def __init__(
        self,
        files: Sequence[TorchFile],
        scales: ScaleFiles,
        experts: int,
        parts: Sequence[CodedPart],
        axis: int,
    ) -> None:
        self._files = files
        self._scales = scales
        self._experts = experts
        self._parts = parts
        self._axis = axis
        assert scales.kind is not None
        count = len(files)
        into = parts[0].into * (count if axis == 1 else 1)
        out = sum(part.out for part in parts) * (count if axis == 0 else 1)
        self.group_size = _group_size(scales.kind, parts[0].into, count if axis == 1 else 1)
        layout = None if self.group_size is None else CodeLayout(scales.kind, self.group_size, "F32")
        stored = tuple(name for part in parts for name in (part.key, part.scale_key))
        self.info = TensorInfo(scales.kind, (experts, into, out), layout, stored)
        if layout is None:
            self.info = replace(
                self.info,
                dtype="F32",
                note=f"the scales of each file are of {parts[0].into} inputs, which no group of engines divides; "
                "what the codes mean is quantised again as this build was told",
            )

    def problems(self, name: str, shape: tuple[int, ...]) -> list[str]:
        found = []
        if self.info.shape != shape:
            found.append(f"{self._parts[0].key}: is {self.info}; expected {TensorInfo('BF16', shape)}")
        for part in self._parts:
            rows = self._experts * (part.into // 2 if self._scales.kind == "int4" else part.into)
            wanted = TensorInfo("F32", self._scale_shape(part))
            for file, scale, info in zip(
                self._files, self._scales.files, self._scales.infos(part.scale_key), strict=True
            ):
                codes = file.infos[part.key]
                if codes.shape != (rows, part.out) or codes.dtype not in CODE_DTYPES:
                    found.append(
                        f"{part.key}: is {codes} in {file.path.name}; expected codes [{rows}, {part.out}]"
                    )
                if info != wanted:
                    found.append(
                        f"{part.scale_key}: is {info or 'missing'} in {scale.path.name}; expected {wanted}"
                    )
        return found

    def rows(self, first: int, last: int | None, expert: int | None) -> Values | Codes:
        assert expert is not None and self._scales.kind is not None
        begin = 0
        found: list[Codes | Values] = []
        for band in self._bands(expert):
            end = begin + band[0].codes.shape[0]
            low, high = max(first, begin), end if last is None else min(last, end)
            if low < high:
                found.append(self._joined([_cut(block, low - begin, high - begin) for block in band]))
            begin = end
        return found[0] if len(found) == 1 else _one_after_another(found)

    def _joined(self, blocks: Sequence[Codes]) -> Codes | Values:
        """Blocks side by side: as codes, or as numbers where no group of codes is so narrow. Codes and scales that are
        no numbers are the writer's to refuse.
        """
        if self.info.codes is not None:
            return _side_by_side(blocks)
        with np.errstate(invalid="ignore", over="ignore"):
            return Values(np.concatenate([block.values().array for block in blocks], axis=1), "F32")

    def release(self) -> None:
        for part in self._parts:
            for file in self._files:
                file.release(part.key)

    def nbytes(self) -> int:
        return sum(file.nbytes(part.key) for part in self._parts for file in self._files) + sum(
            file.nbytes(part.scale_key) for part in self._parts for file in self._scales.files
        )

    def _scale_shape(self, part: CodedPart) -> tuple[int, ...]:
        if self._scales.kind == "fp8":
            return self._experts, part.out
        return self._experts, part.into // INT4_GROUP, part.out

    def _bands(self, expert: int) -> list[list[Codes]]:
        """As meta_join.py's: codes of a few outputs each; a band's blocks lie side by side along the inputs."""
        bands = []
        for part in self._parts:
            blocks = [
                self._block(file, scale, part, expert)
                for file, scale in zip(self._files, self._scales.files, strict=True)
            ]
            bands += [[block] for block in blocks] if self._axis == 0 else [blocks]
        return bands

    def _block(self, file: TorchFile, scales: TorchFile, part: CodedPart, expert: int) -> Codes:
        """One expert in one file; views of the mapped bytes still, codes two to a byte where they are int4."""
        array = file.array(part.key).view(np.uint8)
        height = array.shape[0] // self._experts
        stored = array[expert * height : (expert + 1) * height].T
        numbers = scales.array(part.scale_key)[expert]
        assert self._scales.kind is not None
        if self._scales.kind == "fp8":
            size = self.group_size or GROUP_SIZES[-1]
            groups = -(-part.into // size)
            return Codes(
                CodeLayout("fp8", size, "F32"), stored, np.broadcast_to(numbers[:, None], (part.out, groups))
            )
        return Codes(CodeLayout("int4", INT4_GROUP, "F32"), stored, numbers.T)


def _group_size(kind: str, into: int, files: int) -> int | None:
    """Inputs that share a scale in the engine: a group may not reach from one file's inputs to the next's."""
    if kind == "int4" or files == 1:
        return INT4_GROUP
    return next((size for size in GROUP_SIZES if into % size == 0), None)


def _cut(block: Codes, low: int, high: int) -> Codes:
    """Outputs low..high, with a code to a byte."""
    stored = np.ascontiguousarray(block.codes[low:high])
    if block.layout.kind == "int4":
        codes: NDArray[np.uint8] = np.empty((stored.shape[0], 2 * stored.shape[1]), dtype=np.uint8)
        # Two's complement of 4 bits, and 8 more: the engine's codes mean 0..15 minus 8.
        np.bitwise_xor(np.bitwise_and(stored, 15), 8, out=codes[:, 0::2])
        np.bitwise_xor(np.right_shift(stored, 4), 8, out=codes[:, 1::2])
        stored = codes
    return Codes(block.layout, stored, np.ascontiguousarray(block.scales[low:high]))


def _side_by_side(blocks: Sequence[Codes]) -> Codes:
    if len(blocks) == 1:
        return blocks[0]
    return Codes(
        blocks[0].layout,
        np.concatenate([block.codes for block in blocks], axis=1),
        np.concatenate([block.scales for block in blocks], axis=1),
    )


def _one_after_another(bands: Sequence[Codes | Values]) -> Codes | Values:
    codes = [band for band in bands if isinstance(band, Codes)]
    if codes:
        return Codes(
            codes[0].layout,
            np.concatenate([band.codes for band in codes]),
            np.concatenate([band.scales for band in codes]),
        )
    return Values(np.concatenate([band.array for band in bands if isinstance(band, Values)]), "F32")


__all__ = ["CODE_DTYPES", "CodedPart", "CodedStack", "ScaleFiles"]
