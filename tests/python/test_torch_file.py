"""Files of torch.save: read as torch reads them, whatever is in them, and nothing in them is ever run."""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
import random
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llama4rt.convert.formats.stored_zip import zip_members
from llama4rt.convert.formats.tensor_objects import Opaque
from llama4rt.convert.formats.tensor_pickle import tensor_tree
from llama4rt.convert.formats.torch_file import TorchFile
from llama4rt.errors import CheckpointError
from pth_mutations import damaged, members_of, with_pickle, write_sparse_zip, zip_of

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
INTEGERS = [
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.uint16,
    torch.uint32,
]


def bits(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Of a tensor of any type and stride, as bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def check(path: Path, expected: dict[str, Any]) -> TorchFile:
    file = TorchFile(path)
    tensors = {name: value for name, value in expected.items() if isinstance(value, torch.Tensor)}
    assert list(file.infos) == list(tensors)
    for name, tensor in tensors.items():
        found = file.array(name)
        assert found.shape == tuple(tensor.shape) == file.infos[name].shape, name
        assert np.array_equal(np.frombuffer(found.tobytes(), np.uint8), bits(tensor.detach())), name
        assert file.nbytes(name) == tensor.numel() * tensor.element_size()
        file.release(name)
        assert np.array_equal(np.frombuffer(found.tobytes(), np.uint8), bits(tensor.detach())), name
    return file


def varied() -> collections.OrderedDict[str, Any]:
    """Every type; views of every kind; and what else a state dict may hold."""
    torch.manual_seed(0)
    out: collections.OrderedDict[str, Any] = collections.OrderedDict()
    for dtype in FLOATS:
        out[f"float.{dtype}"] = torch.randn(5, 3).to(dtype)
    for dtype in INTEGERS:
        out[f"int.{dtype}"] = torch.arange(12).reshape(3, 4).to(dtype)
    base = torch.randn(6, 8)
    out["base"] = base
    out["shared"] = base[2:4]
    out["transposed"] = base.t()
    out["strided"] = base[::2, 1::3]
    out["parameter"] = torch.nn.Parameter(torch.randn(4), requires_grad=True)
    out["fp8 parameter"] = torch.nn.Parameter(torch.randn(4).to(torch.float8_e4m3fn), requires_grad=False)
    out["scalar"] = torch.tensor(2.5)
    out["empty"] = torch.zeros(0)
    out["empty matrix"] = torch.zeros(3, 0)
    out["one"] = torch.randn(7, 1)[:, :1]
    out["extra._extra_state"] = io.BytesIO(pickle.dumps({"a": 1}))
    out["step"], out["rate"], out["name"], out["none"] = 3, 0.5, "x", None
    out["many"], out["pair"], out["bytes"] = [1, -70000, 1 << 40], (True, False), b"\0\xff"
    out._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    return out


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_everything_a_state_dict_may_hold(protocol: int, tmp_path: Path) -> None:
    torch.save(varied(), tmp_path / "a.pth", pickle_protocol=protocol)
    file = check(tmp_path / "a.pth", varied())
    assert set(file.others) == {"extra._extra_state", "step", "rate", "name", "none", "many", "pair", "bytes"}


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "module"])
def test_wrapped(wrapper: str, tmp_path: Path) -> None:
    torch.save({wrapper: {"w": torch.ones(3)}, "epoch": 3}, tmp_path / "a.pth")
    check(tmp_path / "a.pth", {"w": torch.ones(3)})


def test_storages_that_are_parts_of_larger_ones(tmp_path: Path) -> None:
    """torch saves whole storages: a view of a large one finds its place in it."""
    large = torch.randn(1000)
    torch.save({"view": large[900:910], "back": large.as_strided((3, 3), (100, 7), 50)}, tmp_path / "a.pth")
    check(tmp_path / "a.pth", {"view": large[900:910], "back": large.as_strided((3, 3), (100, 7), 50)})


def test_zip64(tmp_path: Path) -> None:
    """Members beyond 4 GB, whose sizes and places only the zip64 fields hold; torch reads the same file."""
    size = 5 << 30
    torch.save(
        {"a": torch.zeros(1, dtype=torch.uint8), "b": torch.arange(8, dtype=torch.int16)},
        tmp_path / "small.pth",
    )
    (folder, tree), *rest = [
        (n, c) for n, c in members_of((tmp_path / "small.pth").read_bytes()) if "/data" in n
    ]
    assert folder.endswith("data.pkl") and len(rest) == 2
    # The first tensor becomes 5 GB long, of which the last 16 bytes are not zero; the second lies behind it.
    wide = b"\x8a\x05" + size.to_bytes(5, "little")
    for narrow in (rb"(cpuq.)K\x01", rb"(QK\x00)K\x01"):  # the storage's size, and the shape
        tree, count = re.subn(narrow, lambda match: match[1] + wide, tree, count=1)
        assert count == 1
    write_sparse_zip(
        tmp_path / "large.pth",
        [
            ("large/data.pkl", len(tree), {0: tree}),
            ("large/byteorder", 6, {0: b"little"}),
            ("large/data/0", size, {size - 16: bytes(range(16))}),
            ("large/data/1", 16, {0: np.arange(8, dtype=np.int16).tobytes()}),
            ("large/version", 2, {0: b"3\n"}),
        ],
    )
    assert os.stat(tmp_path / "large.pth").st_blocks * 512 < 1 << 20
    file = TorchFile(tmp_path / "large.pth")
    assert file.infos["a"].shape == (size,) and file.nbytes("a") == size
    assert file.array("a")[-16:].tolist() == list(range(16)) and not file.array("a")[: 1 << 16].any()
    assert file.array("b").tolist() == list(range(8))
    file.release("a")
    theirs = torch.load(tmp_path / "large.pth", mmap=True)
    assert theirs["a"].shape == (size,) and theirs["a"][-16:].tolist() == list(range(16))
    assert theirs["b"].tolist() == list(range(8))


def test_members_lie_where_pythons_zipfile_finds_them(tmp_path: Path) -> None:
    torch.save(varied(), tmp_path / "a.pth")
    data = (tmp_path / "a.pth").read_bytes()
    found = zip_members(data, "a.pth")
    assert {name: data[m.begin : m.end] for name, m in found.items()} == dict(members_of(data))
    commented = io.BytesIO(data)
    with zipfile.ZipFile(commented, "a") as file:
        file.comment = b"PK\x05\x06 is what an end record begins with" + b"\0" * 40
    assert zip_members(commented.getvalue(), "a.pth").keys() == found.keys()


# --- what is refused


def saved(path: Path, tensors: Any = None) -> bytes:
    torch.save({"a": torch.arange(6.0).reshape(2, 3)} if tensors is None else tensors, path)
    return path.read_bytes()


class Evil:
    """Whoever runs this pickle leaves a file behind."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def evils(canary: Path) -> dict[str, Any]:
    return {
        "system": Evil(os.system, f"touch {canary}"),
        "exec": Evil(exec, f"open({str(canary)!r}, 'w')"),
        "eval": Evil(eval, f"open({str(canary)!r}, 'w')"),
        "open": Evil(open, str(canary), "w"),
        "getattr": Evil(getattr, "text", "upper"),
        "loads": Evil(pickle.loads, pickle.dumps(Evil(os.system, f"touch {canary}"))),
        "torch.load": Evil(torch.load, str(canary)),
        "path": Evil(Path.touch, canary),
    }


@pytest.mark.parametrize("name", list(evils(Path("x"))))
@pytest.mark.parametrize(
    "place",
    [
        lambda evil: evil,
        lambda evil: {"a": torch.ones(2), "b": evil},
        lambda evil: {"a": torch.ones(2), "layers.0.attention.wo._extra_state": evil},
        lambda evil: {"a": torch.ones(2), "params": {"dim": [1, (2, evil)]}},
        lambda evil: {"a": torch.nn.Parameter(torch.ones(2)), "b": {evil: 1}},
        lambda evil: collections.OrderedDict([("a", torch.ones(2)), ("z", collections.OrderedDict(b=evil))]),
    ],
    ids=["all", "member", "extra state", "params", "key", "nested"],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_ever_run(protocol: int, place: Callable[[Any], Any], name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save(place(evils(canary)[name]), tmp_path / "a.pth", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"a/data\.pkl: byte \d+: names .*nothing of the file was run"):
        TorchFile(tmp_path / "a.pth")
    assert not canary.exists()
    if name in ("system", "exec", "open") and protocol == 2:  # the trap itself works
        trap = pickle.dumps(evils(canary)[name], protocol)
        pickle.loads(trap)
        assert canary.exists()


def test_what_an_extra_state_holds_is_not_looked_at(tmp_path: Path) -> None:
    """The bytes of a BytesIO may be a pickle of their own; they stay bytes."""
    canary = tmp_path / "canary"
    state = io.BytesIO(pickle.dumps(Evil(os.system, f"touch {canary}")))
    torch.save({"a": torch.ones(2), "b._extra_state": state}, tmp_path / "a.pth")
    check(tmp_path / "a.pth", {"a": torch.ones(2)})
    assert not canary.exists()


def every_opcode() -> list[bytes]:
    return [opcode.code.encode("latin1") for opcode in pickletools.opcodes]


def test_opcodes_outside_the_list_are_refused() -> None:
    known = set()
    for opcode in every_opcode():
        try:
            tensor_tree(b"\x80\x02" + opcode, "x")
        except CheckpointError as error:
            if "is none that a tree of tensors needs" not in str(error):
                known.add(opcode)
    refused = set(every_opcode()) - known
    names = {op.name for op in pickletools.opcodes if op.code.encode("latin1") in refused}
    assert {
        "INST",
        "OBJ",
        "NEWOBJ_EX",
        "EXT1",
        "EXT2",
        "EXT4",
        "PERSID",
        "STRING",
        "UNICODE",
        "INT",
        "LONG",
        "DUP",
    } <= names
    assert {
        "NEXT_BUFFER",
        "READONLY_BUFFER",
        "BYTEARRAY8",
        "FROZENSET",
        "EMPTY_SET",
        "ADDITEMS",
        "POP",
    } <= names
    for unknown in range(256):
        if bytes([unknown]) not in every_opcode():
            with pytest.raises(CheckpointError, match=r"byte 2: opcode b.+ is none"):
                tensor_tree(b"\x80\x02" + bytes([unknown]), "x")


HEAD = b"\x80\x02"


@pytest.mark.parametrize(
    ("pickle_bytes", "words"),
    [
        (b"", "byte 0: is cut off"),
        (b"}.", "byte 0: begins with opcode"),
        (b"\x80\x01}.", "protocol 1; 2 to 5"),
        (b"\x80\x09}.", "protocol 9"),
        (HEAD + b"}\x80\x02.", "protocol 2; 2 to 5 are read, at the beginning"),
        (HEAD + b".", "ends before"),
        (HEAD + b"}}.", "ends before"),
        (HEAD + b"}(.", "ends before"),
        (HEAD + b"}.}", "ends before"),
        (HEAD + b"X\xff\xff\xff\xffa", "is cut off"),
        (HEAD + b"X\x01\0\0\0\xff.", "not UTF-8"),
        (HEAD + b"\x8a\xff" + b"\1" * 255 + b".", "a number of 255 bytes"),
        (HEAD + b"h\x05.", "asks for value 5"),
        (HEAD + b"q\x00.", "takes a value that is not there"),
        (HEAD + b"}(q\x00.", "takes a value that is not there"),
        (HEAD + b"\x85.", "takes a value that is not there"),
        (HEAD + b"t.", "a mark that is not there"),
        (HEAD + b"}(K\x01u.", "a key has no value"),
        (HEAD + b"}]K\x01s.", "a key is a list of 0"),
        (HEAD + b"}\x8a\x09\0\0\0\0\0\0\0\0\x01K\x01s.", "keys are texts or small numbers"),
        (HEAD + b"]K\x01K\x01s.", "a member goes into a list of 0"),
        (HEAD + b"}K\x01a.", "an item goes into a dict of 0"),
        (HEAD + b"K\x01K\x02b.", "gives a state to 1"),
        (HEAD + b"K\x01)R.", "calls 1"),
        (HEAD + b"ctorch\nFloatStorage\n)R.", "calls 'torch.FloatStorage'"),
        (HEAD + b"ccollections\nOrderedDict\n]R.", "calls 'collections.OrderedDict'"),
        (HEAD + b"ccollections\nOrderedDict\nK\x01\x85R.", "OrderedDict has 1 arguments"),
        (HEAD + b"cposix\nsystem\n.", "byte 2: names 'posix' 'system'"),
        (HEAD + b"c\xff\nx\n.", "a name is"),
        (HEAD + b"c" + b"x" * 300, "a name has no end"),
        (HEAD + b"K\x01K\x02\x93.", "names 1 2"),
        (HEAD + b"K\x01Q.", "refers to 1; only storages"),
        (HEAD + b"(X\x07\0\0\0storageK\x01X\x01\0\0\x000X\x03\0\0\0cpuK\x01tQ.", "a storage is of type 1"),
        (HEAD + b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuJ\xff\xff\xff\xfftQ.",
         "a storage's size is -1"),
        (HEAD + b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "_rebuild_tensor_v2 has 0 arguments"),
        (HEAD + b"ctorch._utils\n_rebuild_tensor_v2\n(K\x00K\x00))\x89}tR.", "a tensor's storage is 0"),
        (HEAD + b"ctorch._utils\n_rebuild_parameter\n(K\x00K\x00)tR.", "_rebuild_parameter has no tensor"),
        (HEAD + b"N" * (3 << 20) + b".", "takes more than"),
        (HEAD + b"\x95" + b"\xff" * 8, "a frame is cut off"),
    ],
)  # fmt: skip
def test_bad_pickles(pickle_bytes: bytes, words: str) -> None:
    with pytest.raises(CheckpointError) as error:
        tensor_tree(pickle_bytes, "x")
    assert words in str(error.value) and str(error.value).startswith("x: byte")


def test_deep_trees_and_circles_do_no_harm(tmp_path: Path) -> None:
    depth = 200_000
    found = tensor_tree(HEAD + b"]" * depth + b"a" * (depth - 1) + b".", "x")
    assert isinstance(found, list)
    circle = tensor_tree(HEAD + b"}q\x00X\x01\0\0\0ah\x00s.", "x")
    assert circle["a"] is circle
    (tmp_path / "a.pth").write_bytes(
        with_pickle(saved(tmp_path / "a.pth"), HEAD + b"}q\x00X\x05\0\0\0modelh\x00s.")
    )
    assert TorchFile(tmp_path / "a.pth").others == ["model"]
    assert tensor_tree(HEAD + b"c_codecs\nencode\n)R.", "x") == Opaque("bytes")


def put(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "b.pth").write_bytes(data)
    return tmp_path / "b.pth"


def changed(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return with_pickle(data, dict(members_of(data))["a/data.pkl"].replace(old, new))


SHAPE = b"K\x00K\x02K\x03\x86"  # offset 0, shape (2, 3)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (SHAPE, b"K\x01K\x02K\x03\x86", "do not fit into a storage of 24 bytes"),
        (SHAPE, b"K\x00K\x03K\x03\x86", "do not fit"),
        (SHAPE, b"K\x00\x8a\x07\xff\xff\xff\xff\xff\xff\x7fK\x03\x86", "do not fit"),
        (SHAPE, b"K\x00\x8a\x09\0\0\0\0\0\0\0\0\x01K\x03\x86", "a tensor's shape is .* must be a count"),
        (SHAPE, b"J\xff\xff\xff\xffK\x02K\x03\x86", "offset is -1"),
        (SHAPE, b"K\x00K\x02K\x03K\x01\x87", "has 3 sizes and 2 strides"),
        (b"K\x03K\x01\x86", b"K\x64K\x01\x86", "do not fit"),
        (b"K\x03K\x01\x86", b"K\x00K\x00\x86", "x"),  # all elements one: refused for its size below
        (b"K\x06tq", b"K\x07tq", "storage has 24 bytes; 28 are expected"),
        (b"X\x01\0\0\x000q", b"X\x01\0\0\x001q", "its storage '1' is not in the file"),
        (b"FloatStorage", b"DoubleStorage", "storage has 24 bytes; 48 are expected"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(old: bytes, new: bytes, words: str, tmp_path: Path) -> None:
    data = changed(saved(tmp_path / "a.pth"), old, new)
    if words == "x":  # legal: a value many times, as torch's expand() makes it, within its storage
        assert TorchFile(put(tmp_path, data)).array("a").tolist() == [[0.0] * 3] * 2
        return
    with pytest.raises(CheckpointError, match=words):
        TorchFile(put(tmp_path, data))


def test_a_stride_that_is_never_taken(tmp_path: Path) -> None:
    data = saved(tmp_path / "a.pth", {"a": torch.arange(6.0).reshape(1, 6)})
    wide = changed(data, b"K\x06K\x01\x86", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x1fK\x01\x86")
    assert TorchFile(put(tmp_path, wide)).array("a").tolist() == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]


def end_record(data: bytes, change: Callable[[list[int]], None]) -> bytes:
    """With other numbers in the 32-bit end record."""
    numbers = list(struct.unpack("<HHHHIIH", data[-18:]))
    change(numbers)
    return data[:-18] + struct.pack("<HHHHIIH", *numbers)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: b"", "is empty"),
        (lambda d: b"PK", "no zip directory"),
        (lambda d: d[:-1], "no zip directory"),
        (lambda d: d + b"\0", "no zip directory"),
        (lambda d: b"\0" + d, "is not at byte|ends at byte"),
        (lambda d: d[:100] + d[101:], "is not at byte|ends at byte|cut off"),
        (lambda d: end_record(d, lambda n: n.__setitem__(3, 9)), "two end records disagree"),
        (lambda d: end_record(d, lambda n: n.__setitem__(5, 9)), "two end records disagree"),
        (lambda d: end_record(d, lambda n: n.__setitem__(0, 1)), "two end records disagree"),
        (lambda d: d.replace(b"a/data/0", b"a/data/1", 1), "has another name than the directory"),
        pytest.param(
            lambda d: zip_of([*members_of(d), ("a/data.pkl", b"")]),
            "two members named 'a/data.pkl'",
            marks=pytest.mark.filterwarnings("ignore:Duplicate name"),
        ),
        (lambda d: zip_of([*members_of(d), ("b/data.pkl", b"")]), "2 members named data.pkl"),
        (lambda d: zip_of([("data.pkl", b"")]), "0 members named data.pkl"),
        (lambda d: zip_of([*members_of(d), ("a/constants.pkl", b"")]), "TorchScript"),
        (lambda d: zip_of([(n, b"big" if n == "a/byteorder" else c) for n, c in members_of(d)]), "big-endian"),
        (lambda d: pickle.dumps({}), "no zip directory"),
        (lambda d: b"\x80\x02\x8a\x0alE\xf9F\xf9 j\xa8P\x19." + bytes(200), "no zip directory"),
    ],
)  # fmt: skip
def test_bad_zips(change: Callable[[bytes], bytes], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words) as error:
        TorchFile(put(tmp_path, change(saved(tmp_path / "a.pth"))))
    assert "b.pth" in str(error.value)


def test_compressed_encrypted_and_overlapping_members(tmp_path: Path) -> None:
    data = saved(tmp_path / "a.pth")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members_of(data):
            file.writestr(name, content * 3)
    with pytest.raises(CheckpointError, match=r"a/data.pkl: is compressed \(method 8\)"):
        TorchFile(put(tmp_path, out.getvalue()))
    entry = data.index(b"PK\x01\x02")
    secret = bytearray(data)
    secret[entry + 8] |= 1
    with pytest.raises(CheckpointError, match=r"a/data.pkl: is encrypted"):
        TorchFile(put(tmp_path, bytes(secret)))
    longer = bytearray(data)  # the first member reaches into the second
    size = struct.unpack("<I", data[entry + 24 : entry + 28])[0] + 4000
    longer[entry + 20 : entry + 28] = struct.pack("<II", size, size)
    with pytest.raises(CheckpointError, match="where the next part begins"):
        TorchFile(put(tmp_path, bytes(longer)))


def test_the_form_before_zip_files(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before version 1\.6"):
        TorchFile(tmp_path / "a.pth")


def test_other_things_than_tensors_by_name(tmp_path: Path) -> None:
    torch.save([torch.ones(3)], tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds a list; expected tensors by name"):
        TorchFile(tmp_path / "a.pth")


def test_no_file_links_and_pointers(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing"):
        TorchFile(tmp_path / "none.pth")
    saved(tmp_path / "a.pth")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.pth").symlink_to(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        TorchFile(inside / "link.pth")
    (inside / "pipe.pth").unlink(missing_ok=True)
    os.mkfifo(inside / "pipe.pth")
    with pytest.raises(CheckpointError, match="is missing"):
        TorchFile(inside / "pipe.pth")


# --- damage


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_damaged_files(soak: bool, tmp_path: Path) -> None:
    """A CheckpointError, or tensors that lie in the file: each is read to the last byte."""
    torch.save(varied(), tmp_path / "a.pth")
    large = (tmp_path / "a.pth").read_bytes()
    seeds = [saved(tmp_path / "a.pth"), saved(tmp_path / "a.pth"), large]
    ends: Counter[str] = Counter()
    longest = 0
    path = tmp_path / "b.pth"
    for seed in range(100_000 if soak else 1000):
        rng = random.Random(seed)
        path.write_bytes(damaged(rng.choice(seeds), rng))
        try:
            file = TorchFile(path)
            for name in file.infos:
                file.array(name).tobytes()
                file.release(name)
            ends["read"] += 1
        except CheckpointError as error:
            ends["refused"] += 1
            words = str(error).replace(str(path), "")
            longest = max(longest, len(words))
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    print(f"{sum(ends.values())} damaged files: {dict(ends)}, longest message {longest}")
    assert min(ends.values()) > 100, ends
    assert longest < 1000
