"""Where the members of a zip file lie that stores them uncompressed, as torch.save writes one; strict, nothing is read
but the directory and each member's own header.

The directory at the end counts, and each member's header must agree with it: two readers that trust different ones
would see different files. Members must not overlap, so that no byte counts twice. Zip64 is the rule here, because a
shard of Llama 4 is larger than 4 GB.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol, overload

from llama4rt.errors import CheckpointError

# What each record begins with, and the numbers behind it.
_END = (b"PK\x05\x06", struct.Struct("<HHHHIIH"))
_LOCATOR = (b"PK\x06\x07", struct.Struct("<IQI"))
_END64 = (b"PK\x06\x06", struct.Struct("<QHHIIQQQQ"))
_ENTRY = (b"PK\x01\x02", struct.Struct("<HHHHHHIIIHHHHHII"))
_HEADER = (b"PK\x03\x04", struct.Struct("<HHHHHIIIHH"))
_Record = tuple[bytes, struct.Struct]

_MAX_COMMENT = 0xFFFF
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # the number stands in the zip64 part
_ZIP64_EXTRA = 1
_ENCRYPTED = 0x2041  # bits 0, 6 and 13
_MAX_DIRECTORY_BYTES = 64 << 20
_MAX_NAME_BYTES = 1024


class Bytes(Protocol):
    """A mapped file, or bytes."""

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, at: int, /) -> int: ...

    @overload
    def __getitem__(self, at: slice, /) -> bytes: ...

    def rfind(self, wanted: bytes, start: int, stop: int, /) -> int: ...


@dataclass(frozen=True)
class Member:
    """Bytes begin..end of the file."""

    begin: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class _Entry:
    """What the directory says of a member."""

    name: str
    header: int  # offset of its header
    size: int


def zip_members(file: Bytes, where: str) -> dict[str, Member]:
    """Name -> place of every member. `where` is the file's name for messages. Raises CheckpointError."""
    return _Reader(file, where).members()


class _Reader:
    def __init__(self, file: Bytes, where: str) -> None:
        self._file = file
        self._where = where

    def members(self) -> dict[str, Member]:
        begin, end, count = self._directory()
        entries = sorted(self._entries(begin, end, count), key=lambda entry: entry.header)
        found: dict[str, Member] = {}
        for i, entry in enumerate(entries):
            limit = entries[i + 1].header if i + 1 < len(entries) else begin
            if entry.name in found:
                self._fail(f"has two members named {entry.name!r:.80}")
            found[entry.name] = self._member(entry, limit)
        return found

    def _fail(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self._where}: {what}; the file is damaged, or torch.save did not write it")

    def _record(self, record: _Record, at: int, limit: int, what: str) -> tuple[int, ...]:
        """The numbers of a record that must lie before byte `limit`."""
        magic, form = record
        if at < 0 or at + len(magic) + form.size > limit:
            self._fail(f"{what} at byte {at} is cut off")
        if self._file[at : at + len(magic)] != magic:
            self._fail(f"{what} is not at byte {at}")
        return form.unpack(self._file[at + len(magic) : at + len(magic) + form.size])

    def _directory(self) -> tuple[int, int, int]:
        """(begin, end, number of entries)."""
        at = self._end_record()
        numbers: Sequence[int] = self._record(_END, at, len(self._file), "the end record")[:6]
        stop = at
        locator = at - _bytes(_LOCATOR)
        if locator >= 0 and self._file[locator : locator + 4] == _LOCATOR[0]:
            stop, wide = self._end64(locator)
            for small, full, large in zip(numbers, (_FULL16,) * 4 + (_FULL32,) * 2, wide, strict=True):
                if small not in (full, large):
                    self._fail(f"its two end records disagree ({small} and {large})")
            numbers = wide
        disk, first_disk, here, count, length, begin = numbers
        if disk or first_disk or here != count:
            self._fail("is one part of a zip file of several")
        if length > _MAX_DIRECTORY_BYTES:
            self._fail(f"its directory has {length} bytes; at most {_MAX_DIRECTORY_BYTES} are expected")
        if begin + length != stop:
            self._fail(f"its directory ends at byte {begin + length}, its end record begins at byte {stop}")
        return begin, stop, count

    def _end_record(self) -> int:
        """Where the end record begins: its comment must reach to the end of the file."""
        size = len(self._file)
        low = max(0, size - _bytes(_END) - _MAX_COMMENT)
        at = self._file.rfind(_END[0], low, size)
        while at >= 0:
            comment_at = at + _bytes(_END)
            if comment_at <= size:
                comment = int.from_bytes(self._file[comment_at - 2 : comment_at], "little")
                if comment_at + comment == size:
                    return at
            at = self._file.rfind(_END[0], low, at + len(_END[0]) - 1)
        self._fail("has no zip directory at its end")

    def _end64(self, locator: int) -> tuple[int, Sequence[int]]:
        """(offset, the six numbers of an end record) of the zip64 end record."""
        disk, at, disks = self._record(_LOCATOR, locator, len(self._file), "the zip64 locator")
        if disk or disks > 1:
            self._fail("is one part of a zip file of several")
        size, _, _, *numbers = self._record(_END64, at, locator, "the zip64 end record")
        if at + 12 + size != locator:
            self._fail(f"its zip64 end record at byte {at} does not end at its locator at byte {locator}")
        return at, numbers

    def _entries(self, begin: int, end: int, count: int) -> list[_Entry]:
        entries = []
        at = begin
        while at < end:
            entry, at = self._entry(at, end)
            entries.append(entry)
        if len(entries) != count:
            self._fail(f"its directory has {len(entries)} entries, and says {count}")
        return entries

    def _entry(self, at: int, end: int) -> tuple[_Entry, int]:
        """The entry at a place of the directory, and where the next begins."""
        numbers = self._record(_ENTRY, at, end, "a directory entry")
        flags, method = numbers[2], numbers[3]
        packed, size, name_bytes, extra_bytes, comment_bytes, disk = numbers[7:13]
        header = numbers[15]
        name_at = at + _bytes(_ENTRY)
        extra_at = name_at + name_bytes
        after = extra_at + extra_bytes + comment_bytes
        if after > end:
            self._fail(f"the directory entry at byte {at} is cut off")
        name = self._text(self._file[name_at:extra_at])
        wide = self._zip64(self._file[extra_at : extra_at + extra_bytes], at)
        size, packed, header, disk = self._widened((size, packed, header, disk), wide, at)
        if disk:
            self._fail("is one part of a zip file of several")
        if flags & _ENCRYPTED:
            self._fail(f"{name}: is encrypted")
        if method != 0 or packed != size:
            self._fail(f"{name}: is compressed (method {method}); torch.save stores its members as they are")
        return _Entry(name, header, size), after

    def _zip64(self, extra: bytes, at: int) -> bytes:
        """The zip64 part of an entry's extra fields; empty where there is none."""
        found = []
        place = 0
        while place < len(extra):
            kind = int.from_bytes(extra[place : place + 2], "little")
            length = int.from_bytes(extra[place + 2 : place + 4], "little")
            if place + 4 + length > len(extra):
                self._fail(f"the directory entry at byte {at} has a torn extra field")
            if kind == _ZIP64_EXTRA:
                found.append(extra[place + 4 : place + 4 + length])
            place += 4 + length
        if len(found) > 1:
            self._fail(f"the directory entry at byte {at} has {len(found)} zip64 fields")
        return found[0] if found else b""

    def _widened(self, numbers: Sequence[int], wide: bytes, at: int) -> list[int]:
        """Size, packed size, offset and disk, where each that is full is taken from the zip64 part, in this order."""
        place = 0
        found = []
        for number, full, length in zip(numbers, (_FULL32,) * 3 + (_FULL16,), (8, 8, 8, 4), strict=True):
            if number == full:
                if place + length > len(wide):
                    self._fail(f"the directory entry at byte {at} lacks its zip64 numbers")
                number = int.from_bytes(wide[place : place + length], "little")
                place += length
            found.append(number)
        return found

    def _member(self, entry: _Entry, limit: int) -> Member:
        """limit: where the next member's header, or the directory, begins."""
        what = f"the header of {entry.name!r:.80}"
        _, flags, method, *_, name_bytes, extra_bytes = self._record(_HEADER, entry.header, limit, what)
        name_at = entry.header + _bytes(_HEADER)
        begin = name_at + name_bytes + extra_bytes
        end = begin + entry.size
        if end > limit:
            self._fail(
                f"{entry.name}: bytes {begin}..{end} reach over byte {limit}, where the next part begins"
            )
        if self._file[name_at : name_at + name_bytes] != entry.name.encode():
            self._fail(f"{what} at byte {entry.header} has another name than the directory")
        if method != 0 or flags & _ENCRYPTED:
            self._fail(f"{what} says compressed or encrypted, the directory does not")
        return Member(begin, end)

    def _text(self, name: bytes) -> str:
        try:
            if 0 < len(name) <= _MAX_NAME_BYTES:
                return name.decode()
        except UnicodeDecodeError:
            pass
        self._fail(f"has a member named {name!r:.80}")


def _bytes(record: _Record) -> int:
    return len(record[0]) + record[1].size


__all__ = ["Bytes", "Member", "zip_members"]
