"""Files of torch.save, put together by hand, and damaged in every way that comes to mind; by seed."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

Members = list[tuple[str, bytes]]
_FULL = (1 << 32) - 1  # in the place of a number that the zip64 field has
INTERESTING = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
# Opcodes of every protocol, those that run something among them: GLOBAL, STACK_GLOBAL, INST, OBJ, REDUCE, NEWOBJ,
# NEWOBJ_EX, BUILD, EXT1 to EXT4.
OPCODES = b"()*.012FIJKLMNOPQRSTUVXabcdeghijlopqrstu}]\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f"
OPCODES += b"\x90\x91\x92\x93\x94\x95\x96\x97\x98BCG"
NAMES = (b"posix", b"system", b"builtins", b"eval", b"os", b"subprocess", b"Popen", b"torch", b"collections")


def members_of(data: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return [(info.filename, file.read(info)) for info in file.infolist()]


def zip_of(members: Members) -> bytes:
    """Stored, in the order given; names may come twice."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in members:
            file.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def with_pickle(data: bytes, pickle: bytes) -> bytes:
    """The file with another pickle."""
    return zip_of(
        [(name, pickle if name.endswith("/data.pkl") else content) for name, content in members_of(data)]
    )


def write_sparse_zip(path: Path, members: Sequence[tuple[str, int, dict[int, bytes]]]) -> None:
    """As torch.save writes large files: zip64 sizes and offsets. members: (name, size, bytes at offsets); the rest is a
    hole, so that the file takes no room on the disk.
    """
    directory = b""
    with open(path, "wb") as file:
        for name, size, pieces in members:
            header = file.tell()
            text = name.encode()
            extra = struct.pack("<HHQQ", 1, 16, size, size)
            pad = -(header + 30 + len(text) + len(extra) + 4) % 64
            extra += struct.pack("<HH", 0x4246, pad) + b"Z" * pad
            sizes = (_FULL, _FULL, len(text), len(extra))
            file.write(b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 45, 0, 0, 0, 0, 0, *sizes) + text + extra)
            begin = file.tell()
            for offset, piece in pieces.items():
                file.seek(begin + offset)
                file.write(piece)
            file.seek(begin + size)
            wide = struct.pack("<HHQQQ", 1, 24, size, size, header)
            sizes = (_FULL, _FULL, len(text), len(wide))
            entry = struct.pack("<HHHHHHIIIHHHHHII", 45, 45, 0, 0, 0, 0, 0, *sizes, 0, 0, 0, 0, _FULL)
            directory += b"PK\x01\x02" + entry + text + wide
        at = file.tell()
        file.write(directory)
        end = file.tell()
        counts = (len(members), len(members), len(directory))
        file.write(b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, *counts, at))
        file.write(b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1))
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, *counts, _FULL, 0))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One file out of a good one: bytes of the file changed, or its pickle, or its members."""
    kind = rng.random()
    if kind < 0.35:
        return _damaged_bytes(data, rng, range(len(data)))
    if kind < 0.55:  # the directory, where every byte counts
        return _damaged_bytes(data, rng, range(data.rfind(b"PK\x01\x02") - 400, len(data)))
    if kind < 0.9:
        members = members_of(data)
        at = next(i for i, (name, _) in enumerate(members) if name.endswith("/data.pkl"))
        members[at] = (members[at][0], _damaged_pickle(members[at][1], rng))
        return zip_of(members)
    return zip_of(_damaged_members(members_of(data), rng))


def _damaged_bytes(data: bytes, rng: random.Random, where: range) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.choice(where)
        kind = rng.randrange(6)
        if kind == 0:
            out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            width = rng.choice((2, 4, 8))
            number = rng.choice(INTERESTING) & ((1 << (8 * width)) - 1)
            out[at : at + width] = number.to_bytes(width, "little")
        elif kind == 3:
            del out[at : at + rng.choice((1, 2, 16, len(out)))]
        elif kind == 4:
            out[at:at] = bytes(out[at : at + rng.choice((1, 4, 46, 200))])
        else:
            start = rng.choice(where)
            out[at : at + 8] = out[start : start + 8]
        if not out:
            return b""
        where = range(max(0, min(where.start, len(out) - 1)), len(out))
    return bytes(out)


def _damaged_pickle(pickle: bytes, rng: random.Random) -> bytes:
    out = bytearray(pickle)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(out))
        kind = rng.randrange(7)
        if kind == 0:
            out[at] = rng.choice(OPCODES)
        elif kind == 1:
            out[at:at] = bytes([rng.choice(OPCODES)])
        elif kind == 2:
            out[at:at] = b"c%b\n%b\n" % (rng.choice(NAMES), rng.choice(NAMES))
        elif kind == 3:
            names = [i for i in range(len(out)) if out.startswith(b"ctorch", i)]
            if names and out.count(b"\n", at := rng.choice(names)) > 1:
                end = out.index(b"\n", out.index(b"\n", at) + 1)
                out[at:end] = b"c%b\n%b" % (rng.choice(NAMES), rng.choice(NAMES))
        elif kind == 4:  # a number: BININT1 becomes BININT, LONG1 or BINFLOAT of another
            out[at:at] = rng.choice(
                (b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 8, b"\x8a\xff", b"G" + b"\x7f" * 8)
            )
        elif kind == 5:
            out[at : at + rng.choice((1, 3, 20))] = b""
        else:
            start = rng.randrange(len(out))
            out[at:at] = out[start : start + rng.choice((3, 20, 200))]
        if not out:
            return b"."
    return bytes(out)


def _damaged_members(members: Members, rng: random.Random) -> Members:
    at = rng.randrange(len(members))
    name, content = members[at]
    kind = rng.randrange(7)
    if kind == 0:
        del members[at]
    elif kind == 1:
        members.append((name, content))
    elif kind == 2:
        members[at] = (name, content[: rng.randrange(len(content) + 1)])
    elif kind == 3:
        members[at] = (name, content + bytes(rng.randrange(64)))
    elif kind == 4:
        members[at] = (
            rng.choice(("data.pkl", "../data.pkl", "/x/data.pkl", "x/data/0", "x/constants.pkl", "\xff/a")),
            content,
        )
    elif kind == 5:
        other = rng.randrange(len(members))
        members[at], members[other] = (name, members[other][1]), (members[other][0], content)
    else:
        members[at] = (name, rng.choice((b"", b"big", b"little", b"\x80\x02.", content[::-1])))
    return members


__all__ = ["damaged", "members_of", "with_pickle", "write_sparse_zip", "zip_of"]
