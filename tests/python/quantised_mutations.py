"""Quantised matrices, damaged: a case is made from its number alone, so that a bad one can be made again.

python tests/python/quantised_mutations.py NUMBER     prints what case NUMBER does, and how it ends
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_checkpoint import ArrayCheckpoint, all_formats
from llama4rt.convert.formats.unused_scales import without_unused_scales
from llama4rt.convert.stored_rows import Codes
from llama4rt.errors import CheckpointError
from quantised_stacks import FUSED, SPLIT
from quantised_writers import WRITERS
from random_checkpoints import Stored

OUT, IN, EXPERTS = 64, 128, 2
MODULE = "model.layers.0.self_attn.q_proj"
STACK = "model.layers.0.feed_forward.experts"
SIZES = {
    "BF16": 2,
    "F16": 2,
    "F32": 4,
    "I8": 1,
    "U8": 1,
    "I32": 4,
    "U32": 4,
    "I64": 8,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
}
NUMPY = {"BF16": "u2", "F16": "f2", "F32": "f4", "I8": "i1", "I32": "i4", "U32": "u4", "I64": "i8"}
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    3,
    16,
    64,
    128,
    1 << 40,
    0.5,
    float("nan"),
    "",
    "x",
    [],
    [1, 2],
    {},
    [[1]],
    {"a": 1},
]


@dataclass
class Case:
    """A checkpoint of one matrix or stack, and what is asked of it."""

    kind: str
    tensors: dict[str, Stored]
    config: dict[str, Any]
    wanted: dict[str, tuple[int, ...]]  # name -> the shape that a model has
    done: list[str]


@functools.cache
def _whole(kind: str) -> Case:
    rng = np.random.default_rng(0)
    if kind in WRITERS:
        written = WRITERS[kind]((rng.standard_normal((OUT, IN)) / 16).astype(np.float32))
        tensors = {f"{MODULE}.{part}": stored for part, stored in written.tensors.items()}
        return Case(kind, tensors, written.config, {f"{MODULE}.weight": (OUT, IN)}, [])
    name = kind.partition(":")[2]
    if kind.startswith("fused:"):
        written = FUSED[name]((rng.standard_normal((EXPERTS, IN, OUT)) / 16).astype(np.float32), 2)
        tensors = {f"{STACK}.gate_up_proj{end}": stored for end, stored in written.tensors.items()}
        return Case(kind, tensors, written.config, {f"{STACK}.gate_up_proj": (EXPERTS, IN, OUT)}, [])
    written = SPLIT[name]((rng.standard_normal((EXPERTS, OUT, IN)) / 16).astype(np.float32))
    tensors = {f"{STACK}.up_proj.{end}": stored for end, stored in written.tensors.items()}
    return Case(
        kind, tensors, written.config, {f"{STACK}.{e}.up_proj.weight": (OUT, IN) for e in range(EXPERTS)}, []
    )


KINDS = [*WRITERS, *(f"fused:{name}" for name in FUSED), *(f"split:{name}" for name in SPLIT)]


def case(number: int) -> Case:
    rng = np.random.default_rng(number)
    whole = _whole(KINDS[number % len(KINDS)])
    made = Case(whole.kind, dict(whole.tensors), copy.deepcopy(whole.config), whole.wanted, [])
    for _ in range(int(rng.integers(1, 4))):
        change = CHANGES[int(rng.integers(len(CHANGES)))]
        if not made.tensors:
            break
        name = sorted(made.tensors)[int(rng.integers(len(made.tensors)))]
        made.done.append(f"{change.__name__} {name}")
        change(rng, made, name)
    return made


def run(number: int) -> str:
    """How a case ends: "refused", "bad numbers", "left over" or "read". Anything but a CheckpointError gets out."""
    made = case(number)
    layer = all_formats(without_unused_scales(ArrayCheckpoint(made.tensors, made.config)))  # type: ignore[arg-type]
    names = layer.names()
    for name, shape in made.wanted.items():
        if name not in names:
            return "left over"
        problems = layer.problems(name, shape)
        assert all(isinstance(problem, str) and problem for problem in problems)
        if problems:
            return "refused"
        experts = range(shape[0]) if len(shape) == 3 else [None]
        rows, columns = (shape[2], shape[1]) if len(shape) == 3 else shape
        for expert in experts:
            for first, last in ((0, None), (rows // 3, rows // 2)):
                try:
                    found = layer.rows(name, first, last, expert)
                    codes = found if isinstance(found, Codes) else None
                    with np.errstate(invalid="ignore", over="ignore"):
                        values = (found.values() if isinstance(found, Codes) else found).as_float32()
                except CheckpointError:
                    return "bad numbers"
                if getattr(found, "transposed", False):
                    values = values.T
                assert values.shape == ((rows if last is None else last) - first, columns)
                if codes is not None:
                    assert int(codes.codes.max()) < 1 << codes.layout.bits
                if not np.isfinite(values).all():  # what the writer refuses
                    return "bad numbers"
    return "read"


# --- changes: of the tensor `name` of a case


def _raw(stored: Stored) -> bytes:
    return np.ascontiguousarray(stored[1]).tobytes()


def _view(raw: bytes, dtype: str) -> np.ndarray[Any, Any]:
    size = SIZES[dtype]
    return np.frombuffer(raw[: len(raw) // size * size], NUMPY.get(dtype, "u1"))


def drop(rng: np.random.Generator, made: Case, name: str) -> None:
    del made.tensors[name]


def retype(rng: np.random.Generator, made: Case, name: str) -> None:
    """Another element type; the axes stay, as far as there are bytes."""
    dtype = list(SIZES)[int(rng.integers(len(SIZES)))]
    shape = made.tensors[name][1].shape
    array = _view(_raw(made.tensors[name]), dtype)
    made.tensors[name] = dtype, array.reshape(shape) if array.size == np.prod(shape) else array


def reshape(rng: np.random.Generator, made: Case, name: str) -> None:
    dtype, array = made.tensors[name]
    shapes: list[tuple[int, ...]] = [
        (-1,),
        array.shape[::-1],
        (1, *array.shape),
        (*array.shape, 1),
        (-1, 1),
        (1, -1),
    ]
    if array.size % 2 == 0:
        shapes += [(2, -1), (-1, 2)]
    made.tensors[name] = dtype, array.reshape(shapes[int(rng.integers(len(shapes)))])


def cut(rng: np.random.Generator, made: Case, name: str) -> None:
    dtype, array = made.tensors[name]
    if array.ndim:
        axis = int(rng.integers(array.ndim))
        kept = [slice(None)] * array.ndim
        kept[axis] = slice(int(rng.integers(array.shape[axis] + 1)))
        made.tensors[name] = dtype, array[tuple(kept)]


def double(rng: np.random.Generator, made: Case, name: str) -> None:
    dtype, array = made.tensors[name]
    if array.ndim:
        made.tensors[name] = dtype, np.concatenate([array, array], int(rng.integers(array.ndim)))


def empty(rng: np.random.Generator, made: Case, name: str) -> None:
    """No bytes, and an axis as long as one likes."""
    shapes = [(0,), (0, 0), (1 << 40, 0), (0, 1 << 40), (EXPERTS, 0, 1 << 30), ()]
    shape = shapes[int(rng.integers(len(shapes)))]
    dtype = made.tensors[name][0]
    made.tensors[name] = dtype, np.zeros(shape, NUMPY.get(dtype, "u1"))


def noise(rng: np.random.Generator, made: Case, name: str) -> None:
    dtype, array = made.tensors[name]
    made.tensors[name] = dtype, _view(rng.bytes(array.nbytes), dtype).reshape(array.shape)


def bits(rng: np.random.Generator, made: Case, name: str) -> None:
    dtype, array = made.tensors[name]
    raw = bytearray(_raw(made.tensors[name]))
    for _ in range(int(rng.integers(1, 4))):
        if raw:
            raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    made.tensors[name] = dtype, _view(bytes(raw), dtype).reshape(array.shape)


def fill(rng: np.random.Generator, made: Case, name: str) -> None:
    """One byte everywhere: zeros, NaN of most types, the largest of some."""
    dtype, array = made.tensors[name]
    byte = [0x00, 0x7F, 0x80, 0xFF, 0x7E][int(rng.integers(5))]
    made.tensors[name] = dtype, _view(bytes([byte]) * array.nbytes, dtype).reshape(array.shape)


def poison(rng: np.random.Generator, made: Case, name: str) -> None:
    """One number that is none, or far too large."""
    dtype, array = made.tensors[name]
    if dtype in ("F32", "F16") and array.size:
        changed = array.copy().reshape(-1)
        with np.errstate(over="ignore"):
            changed[int(rng.integers(changed.size))] = [np.nan, np.inf, -np.inf, 3e38, -1e-45][
                int(rng.integers(5))
            ]
        made.tensors[name] = dtype, changed.reshape(array.shape)
    else:
        fill(rng, made, name)


def rename(rng: np.random.Generator, made: Case, name: str) -> None:
    parts = [
        "weight",
        "weight_scale",
        "scales",
        "qweight",
        "weight_packed",
        "SCB",
        "weight.absmax",
        "biases",
        "x",
    ]
    module = name.rpartition(".")[0]
    made.tensors[f"{module}.{parts[int(rng.integers(len(parts)))]}"] = made.tensors.pop(name)


def beside(rng: np.random.Generator, made: Case, name: str) -> None:
    """A tensor that another kind has."""
    other = _whole(KINDS[int(rng.integers(len(KINDS)))])
    for extra, stored in other.tensors.items():
        made.tensors.setdefault(extra, stored)


def reconfigure(rng: np.random.Generator, made: Case, name: str) -> None:
    """A value anywhere in the config."""
    where: Any = made.config
    while isinstance(where, dict) and where:
        key = sorted(where)[int(rng.integers(len(where)))]
        if isinstance(where[key], dict) and where[key] and rng.random() < 0.8:
            where = where[key]
            continue
        where[key] = copy.deepcopy(ODD[int(rng.integers(len(ODD)))])
        return


def restate(rng: np.random.Generator, made: Case, name: str) -> None:
    """Another JSON text where bitsandbytes has one."""
    texts = [b"", b"{", b"[]", b"null", b"[" * 60_000, b'{"shape": [1e3, 2]}', b'{"shape": [4096, 4096, 4096, 4096]}',
             b'{"shape": [-1, 2]}', b'{"shape": [64, 128], "blocksize": 0}', b'{"shape": [64, 128], "blocksize": true}',
             b'{"shape": [64, 128], "nested_offset": NaN}', b'{"shape": [64, 128], "nested_offset": "1"}', b"\xff\xfe",
             b'{"shape": [99999999, 99999999]}', b'{"shape": [2, 64, 128], "blocksize": 64}', b"1" * 5000]  # fmt: skip
    states = [n for n in made.tensors if ".quant_state." in n]
    if states:
        text = texts[int(rng.integers(len(texts)))]
        made.tensors[states[0]] = "U8", np.frombuffer(text, np.uint8)


Change = Callable[[np.random.Generator, Case, str], None]
CHANGES: list[Change] = [
    drop, retype, reshape, cut, double, empty, noise, bits, fill, poison, rename, beside, reconfigure, restate,
]  # fmt: skip


if __name__ == "__main__":
    shown = case(int(sys.argv[1]))
    print(shown.kind, *shown.done, sep="\n  ")
    print(run(int(sys.argv[1])))
