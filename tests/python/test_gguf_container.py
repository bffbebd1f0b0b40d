"""The container: header, table of tensors, parts and directories; what is wrong is a CheckpointError that says what."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_models import packed_string, packed_value, small_gguf
from llama4rt import build
from llama4rt.convert.files import MAX_POINTER_BYTES
from llama4rt.convert.formats.gguf import GgufCheckpoint
from llama4rt.convert.formats.gguf.file import GgufFile, is_gguf
from llama4rt.convert.formats.gguf.parts import GgufParts, model_name
from llama4rt.convert.locate import locate, open_checkpoint
from llama4rt.errors import CheckpointError

F32, F16, Q8_0 = 0, 1, 8


def plain(*shape: int, seed: int = 0) -> tuple[tuple[int, ...], int, bytes]:
    return shape, F32, np.random.default_rng(seed).normal(0, 1, shape).astype("<f4").tobytes()


def opened(tmp_path: Path, content: bytes, name: str = "m.gguf") -> GgufFile:
    (tmp_path / name).write_bytes(content)
    return GgufFile(tmp_path / name)


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(CheckpointError) as error:
        opened(tmp_path, content)
    assert str(error.value).startswith("m.gguf: ")
    return str(error.value)


# --- good files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_values_and_tensors_are_read(version: int, alignment: int, tmp_path: Path) -> None:
    metadata: dict[str, Any] = {
        "general.alignment": alignment,
        "a.string": "snöw",
        "a.flag": True,
        "a.u8": ("B", 200),
        "a.i8": ("b", -3),
        "a.u16": ("H", 65535),
        "a.i16": ("h", -2),
        "a.i32": ("i", -70000),
        "a.f32": 0.1,
        "a.f64": ("d", 1e300),
        "a.u64": ("Q", 2**64 - 1),
        "a.i64": ("q", -(2**63)),
        "an.array": [3, -1],
        "reals": [0.5, 2.0],
        "strings": ["x", "", "y" * 100],
    }
    tensors = {"one": plain(3, 4, 5), "two": ((2, 64), Q8_0, bytes(range(136))), "three": plain(7)}
    file = opened(tmp_path, small_gguf(metadata, tensors, version=version, alignment=alignment))
    m = file.metadata
    assert m.string("a.string") == "snöw" and m.flag("a.flag") and m.real("a.f32") == 0.1
    assert [m.integer(f"a.{k}", -(2**63), 2**64) for k in ("u8", "i8", "u16", "i16", "i32", "u64", "i64")] == [
        200, -3, 65535, -2, -70000, 2**64 - 1, -(2**63),
    ]  # fmt: skip
    assert m.real("a.f64") == 1e300
    assert m.integers("an.array") == [3, -1] and m.reals("reals") == [0.5, 2.0]
    assert m.strings("strings") == ["x", "", "y" * 100]
    assert [str(t) for t in file.tensors.values()] == ["F32 [3, 4, 5]", "Q8_0 [2, 64]", "F32 [7]"]
    for name, (shape, _, content) in tensors.items():
        tensor = file.tensors[name]
        rows = int(np.prod(shape[:-1]))
        assert tensor.offset % alignment == 0
        assert file.rows(tensor, 0, rows).tobytes() == content
        assert file.rows(tensor, rows - 1, rows).tobytes() == content[-tensor.row_bytes :]
        file.release(tensor, 0, rows)


def test_the_package_reads_the_same(tmp_path: Path) -> None:
    """Names, shapes and places of tensors, and every value, as the gguf package's own reader has them."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama4")
    writer.add_custom_alignment(64)
    writer.add_block_count(3)
    writer.add_token_list(["a", "b", "ü"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_float64("wide", 0.25)
    for i, kind in enumerate(("F32", "F16", "Q4_0", "Q6_K")):
        number = gguf.GGMLQuantizationType[kind]
        length, size = gguf.GGML_QUANT_SIZES[number]
        dtype = {"F32": np.float32, "F16": np.float16}.get(kind, np.uint8)
        shape = (5, 256 if dtype is not np.uint8 else 256 // length * size)
        writer.add_tensor(f"t{i}", np.ones(shape, dtype=dtype), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    theirs, ours = gguf.GGUFReader(tmp_path / "m.gguf"), GgufFile(tmp_path / "m.gguf")
    assert [t.name for t in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert (mine.kind.name, mine.offset, mine.nbytes) == (
            tensor.tensor_type.name, int(tensor.data_offset), int(tensor.n_bytes),
        )  # fmt: skip
        assert mine.shape == tuple(int(n) for n in reversed(tensor.shape))
    assert ours.metadata.strings("tokenizer.ggml.tokens") == ["a", "b", "ü"]
    assert ours.metadata.integers("numbers") == [1, 2, 3] and ours.metadata.real("wide") == 0.25


def test_values_of_another_kind_are_named(tmp_path: Path) -> None:
    metadata = {
        "s": "x",
        "n": 5,
        "f": 0.5,
        "b": True,
        "array": [1, 2],
        "same": [4, 4, 0],
        "bytes": b"\xff\xfe",
    }
    m = opened(tmp_path, small_gguf(metadata, {})).metadata
    assert m.integer("same", 0, 9, zeros_aside=True) == 4 and m.integer("absent", 0, 9, default=7) == 7
    for ask, message in (
        (lambda: m.string("n"), "n is 5; it must be a string"),
        (lambda: m.string("bytes"), "bytes holds .* not UTF-8"),
        (lambda: m.integer("f", 0, 9), "f is 0.5; it must be an integer in 0..9"),
        (lambda: m.integer("n", 0, 4), "n is 5; it must be an integer in 0..4"),
        (lambda: m.integer("b", 0, 4), "b is True; it must be an integer"),
        (lambda: m.integer("array", 0, 4), "array is an array of 2 numbers that are not all one integer"),
        (lambda: m.integer("same", 0, 9), "same is an array of 3 numbers that are not all one integer"),
        (lambda: m.real("s"), "s is 'x'; it must be a finite number"),
        (lambda: m.flag("n"), "n is 5; it must be true or false"),
        (lambda: m.strings("array"), "array is an array of 2 numbers; it must be an array of strings"),
        (lambda: m.integers("s"), "s is 'x'; it must be an array of integers"),
        (lambda: m.string("absent"), "absent is missing from the metadata"),
    ):
        with pytest.raises(CheckpointError, match=rf"^m\.gguf: {message}"):
            ask()


# --- damaged files --------------------------------------------------------------------------------------------


def head(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def info(
    name: str = "t", dims: tuple[int, ...] = (4,), kind: int = F32, offset: int = 0, axes: int | None = None
) -> bytes:
    count = len(dims) if axes is None else axes
    return packed_string(name) + struct.pack(f"<I{len(dims)}QIQ", count, *dims, kind, offset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file ends inside the magic number"),
        (b"GGML" + bytes(40), "does not begin with GGUF"),
        (head(version=1), "is GGUF of version 1; versions 2 and 3 are read"),
        (head(version=4), "is GGUF of version 4"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is a big-endian GGUF file"),
        (head(tensors=2**63), "the number of tensors is 9223372036854775808; at most"),
        (head(keys=2**40), "the number of keys is 1099511627776; at most"),
        (head(keys=1), "the file ends inside key 0"),
        (head(keys=1) + struct.pack("<Q", 2**62), "key 0 has 4611686018427387904 bytes"),
        (head(keys=1) + packed_string("") + packed_value(1), "key 0 has 0 bytes"),
        (head(keys=1) + packed_string(b"\xff") + packed_value(1), "the name of key 0.* is not UTF-8"),
        (head(keys=2) + (packed_string("k") + packed_value(1)) * 2, "the key 'k' is there twice"),
        (head(keys=1) + packed_string("k") + struct.pack("<I", 77), "k has value type 77"),
        (head(keys=1) + packed_string("k") + struct.pack("<IB", 7, 2), "k holds a boolean of value 2"),
        (head(keys=1) + packed_string("k") + struct.pack("<IQ", 8, 2**40), "k holds a string of 1099511627776 bytes"),
        (head(keys=1) + packed_string("k") + struct.pack("<IIQ", 9, 8, 2**60), "k has 1152921504606846976 strings"),
        (head(keys=1) + packed_string("k") + struct.pack("<IIQ", 9, 10, 2**61), "k has 2305843009213693952 values"),
        (head(keys=1) + packed_string("k") + struct.pack("<IIQ", 9, 9, 1), "k is an array of value type 9"),
        (small_gguf({"general.alignment": 48}, {}), "general.alignment is 48; it must be a power of two"),
        (small_gguf({"general.alignment": 0}, {}), "general.alignment is 0; it must be an integer in 8"),
        (small_gguf({"general.alignment": "x"}, {}), "general.alignment is 'x'"),
        (head(1) + info(axes=0, dims=()), "t has 0 axes"),
        (head(1) + info(axes=5), "t has 5 axes"),
        (head(1) + info("", (4,)), "the name of tensor 0 has 0 bytes"),
        (head(1) + info(kind=4) + bytes(99), "t is of ggml type 4, which llama4rt does not know; known are F32, F16"),
        (head(1) + info(dims=(0, 4)) + bytes(99), r"t has axes \(0, 4\); none may be 0"),
        (head(1) + info(dims=(33, 2), kind=Q8_0) + bytes(99), r"Q8_0 needs the first to be a multiple of 32"),
        (head(1) + info(dims=(2**62, 2**62, 8)) + bytes(99), "t ends at byte .* but the file has"),
        (head(1) + info(offset=2**63) + bytes(99), "t ends at byte"),
        (head(1) + info(offset=8) + bytes(99), "t begins at 8, which is no multiple of 32"),
        (head(1) + info(dims=(4096,)) + bytes(99), "t ends at byte 16448 but the file has .*; download it again"),
        (head(2) + info() + info() + bytes(99), "the tensor 't' is there twice"),
        (head(2) + info("a", (16,)) + info("b", (16,), offset=32) + bytes(200), "b begins at byte .*, inside a"),
    ],
)  # fmt: skip
def test_damage_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    import re

    assert re.search(message, refusal(tmp_path, content))


def test_every_truncation_of_a_header(tmp_path: Path) -> None:
    content = small_gguf(
        {"general.architecture": "llama", "strings": ["a", "bc"], "n": 5, "reals": [0.5]}, {"t": plain(3, 8)}
    )
    opened(tmp_path, content)
    for length in range(len(content)):
        refusal(tmp_path, content[:length])


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "directory.gguf").mkdir()
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (tmp_path / "pointer.gguf").write_bytes(pointer)
    assert len(pointer) < MAX_POINTER_BYTES
    for name, message in (
        ("pipe.gguf", "is not a regular file"),
        ("directory.gguf", "is not a regular file|Is a directory"),
        ("absent.gguf", "No such file"),
        ("pointer.gguf", "Git LFS pointer"),
    ):
        with pytest.raises(CheckpointError, match=message):
            GgufFile(tmp_path / name)
        assert not is_gguf(tmp_path / name)


def test_a_file_that_is_cut_short_after_it_was_opened(tmp_path: Path) -> None:
    """An error of the disk, which build() names, and no signal."""
    file = opened(tmp_path, small_gguf({}, {"t": plain(64, 64)}))
    os.truncate(tmp_path / "m.gguf", 600)
    with pytest.raises(OSError, match="cut short after it was opened") as error:
        file.rows(file.tensors["t"], 0, 64)
    assert error.value.filename == str(tmp_path / "m.gguf")


def test_links_are_followed(tmp_path: Path) -> None:
    """Whoever names a file means what is there; only a GGUF file can be."""
    (tmp_path / "real").mkdir()
    opened(tmp_path / "real", small_gguf({"k": 1}, {}))
    (tmp_path / "link.gguf").symlink_to(tmp_path / "real" / "m.gguf")
    assert GgufFile(tmp_path / "link.gguf").metadata.integer("k", 0, 9) == 1


# --- parts ----------------------------------------------------------------------------------------------------


def write_parts(tmp_path: Path, count: int = 3, **changes: Mapping[int, Any]) -> list[Path]:
    """changes: split key, with _ in the place of dots -> part -> value."""
    paths = []
    for i in range(count):
        metadata: dict[str, Any] = {"split.no": ("H", i), "split.count": ("H", count)}
        if i == 0:
            metadata |= {"general.architecture": "llama", "split.tensors.count": ("i", count)}
        for key, parts in changes.items():
            if i in parts:
                metadata[key.replace("_", ".")] = parts[i]
        path = tmp_path / f"m-{i + 1:05d}-of-{count:05d}.gguf"
        path.write_bytes(small_gguf(metadata, {f"t{i}": plain(2, 8, seed=i)}))
        paths.append(path)
    return paths


def test_parts_are_one_table(tmp_path: Path) -> None:
    paths = write_parts(tmp_path)
    for path in paths:
        parts = GgufParts(path)
        assert (
            list(parts.tensors) == ["t0", "t1", "t2"]
            and parts.metadata.string("general.architecture") == "llama"
        )
        assert parts.file_of("t2").path == paths[2]
        assert all(parts.contains(str(other)) for other in paths) and not parts.contains(str(tmp_path / "x"))
    assert model_name(paths[1]) == "m" and model_name(Path("a.b.gguf")) == "a.b"
    assert locate(paths[0])[0] == paths[0]


def test_wrong_parts_are_named(tmp_path: Path) -> None:
    paths = write_parts(tmp_path, split_no={1: ("H", 2)})
    with pytest.raises(
        CheckpointError, match=r"m-00002-of-00003.gguf: says that it is part 3, but its name says 2"
    ):
        GgufParts(paths[0])
    paths = write_parts(tmp_path, split_count={2: ("H", 4)})
    with pytest.raises(CheckpointError, match=r"m-00003-of-00003.gguf: says that it is one of 4 parts"):
        GgufParts(paths[0])
    paths = write_parts(tmp_path, split_tensors_count={0: ("i", 9)})
    with pytest.raises(CheckpointError, match=r"split.tensors.count is 9, but the parts hold 3 tensors"):
        GgufParts(paths[0])
    write_parts(tmp_path)
    paths[1].write_bytes(small_gguf({"split.no": ("H", 1), "split.count": ("H", 3)}, {"t0": plain(2, 8)}))
    with pytest.raises(CheckpointError, match=r"t0: is in both m-00001-of-00003.gguf and m-00002"):
        GgufParts(paths[0])
    alone = tmp_path / "alone.gguf"
    paths[2].rename(alone)
    with pytest.raises(
        CheckpointError, match="is one of 3 parts, but its name says 1; parts must keep the names"
    ):
        GgufParts(alone)
    (tmp_path / "m-00004-of-00003.gguf").write_bytes(alone.read_bytes())
    with pytest.raises(CheckpointError, match="is part 4 of 3 by its name"):
        GgufParts(tmp_path / "m-00004-of-00003.gguf")


def test_directories_of_gguf_files(tmp_path: Path) -> None:
    model = small_gguf({"general.architecture": "gpt2"}, {"token_embd.weight": plain(2, 8)})
    assert not GgufCheckpoint.detect(tmp_path)
    (tmp_path / "mmproj-m.gguf").write_bytes(model)
    assert not GgufCheckpoint.detect(tmp_path)  # a tower alone is no model
    (tmp_path / "m-Q4_0.gguf").write_bytes(model)
    with pytest.raises(CheckpointError, match="architecture is 'gpt2'"):
        open_checkpoint(tmp_path)
    (tmp_path / "m-Q8_0.gguf").write_bytes(model)
    with pytest.raises(CheckpointError, match=r"2 GGUF models are here; .* one: m-Q4_0\.gguf, m-Q8_0\.gguf$"):
        build(tmp_path, tmp_path / "out.l4e")


def test_a_safetensors_checkpoint_beside_gguf_files_is_what_a_directory_means(tmp_path: Path) -> None:
    from random_checkpoints import SMALL, random_values, write_values

    write_values(tmp_path, SMALL, random_values(SMALL))
    (tmp_path / "m.gguf").write_bytes(small_gguf({"general.architecture": "gpt2"}, {}))
    build(tmp_path, tmp_path / "out.l4e")
