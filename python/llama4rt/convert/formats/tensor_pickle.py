"""The tree of tensors in the pickle of a torch.save file. Nothing is executed.

A pickle is a program for a stack machine, and Python's own machine calls whatever it names. This one knows the opcodes
that a tree of tensors needs, and the names of tensor_objects.py. Anything else is refused with its name and position.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from llama4rt.convert.formats.tensor_objects import (
    CALLS,
    GLOBALS,
    STORAGES,
    Name,
    Opaque,
    Refused,
    Storage,
    integer,
    shown_flat,
)
from llama4rt.errors import CheckpointError

MAX_PICKLE_BYTES = 32 << 20
_MAX_STEPS = 1 << 21  # a tensor takes about 45; bounds time and memory, since a step makes at most one value
_MAX_PROTOCOL = 5
_MAX_LONG_BYTES = 16
_MAX_KEY = 1 << 31


def tensor_tree(data: bytes, where: str) -> Any:
    """What the pickle holds: dicts, lists, tuples, numbers, texts, Tensor and Opaque. Raises CheckpointError."""
    if len(data) > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{where}: has {len(data)} bytes; at most {MAX_PICKLE_BYTES} are expected")
    return _Machine(data, where).run()


class _Machine:
    """One run over one pickle. Every step consumes bytes, so the run ends."""

    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._where = where
        self._at = 0
        self._opcode_at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []  # lengths of the stack
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        try:
            for _ in range(_MAX_STEPS):
                self._opcode_at = self._at
                opcode = self.take(1)
                if opcode == b".":
                    break
                step = _STEPS.get(opcode)
                if step is None:
                    raise Refused(f"opcode {opcode!r} is none that a tree of tensors needs")
                if self._opcode_at == 0 and opcode != b"\x80":
                    raise Refused(f"begins with opcode {opcode!r}, not with its protocol")
                step(self)
            else:
                raise Refused(f"takes more than {_MAX_STEPS} steps")
            if len(self._stack) != 1 or self._marks or self._at != len(self._data):
                raise Refused("ends before its values or its bytes do")
            return self._stack[0]
        except Refused as refused:
            raise CheckpointError(
                f"{self._where}: byte {self._opcode_at}: {refused}; nothing of the file was run or built"
            ) from None

    # --- input and stack

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise Refused("is cut off")
        found = self._data[self._at : self._at + count]
        self._at += count
        return found

    def unsigned(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 256)
        if end < 0:
            raise Refused("a name has no end")
        found = self.take(end + 1 - self._at)[:-1]
        try:
            return found.decode("ascii")
        except UnicodeDecodeError:
            raise Refused(f"a name is {found!r:.80}") from None

    def text(self, count: int) -> None:
        # Lone surrogates are texts to Python's pickle too.
        try:
            self.push(self.take(count).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            raise Refused("a text is not UTF-8") from None

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise Refused("takes a value that is not there")
        return self._stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.push(value)
        return value

    def into(self, kind: type, what: str) -> Any:
        found = self.top()
        if not isinstance(found, kind):
            raise Refused(f"{what} goes into {shown_flat(found)}")
        return found

    def since_mark(self) -> list[Any]:
        if not self._marks:
            raise Refused("takes values since a mark that is not there")
        mark = self._marks.pop()
        found = self._stack[mark:]
        del self._stack[mark:]
        return found

    # --- opcodes

    def protocol(self) -> None:
        version = self.unsigned(1)
        if self._opcode_at != 0 or not 2 <= version <= _MAX_PROTOCOL:
            raise Refused(f"protocol {version}; 2 to {_MAX_PROTOCOL} are read, at the beginning")

    def frame(self) -> None:
        if self.unsigned(8) > len(self._data) - self._at:
            raise Refused("a frame is cut off")

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def signed(self) -> None:
        self.push(int.from_bytes(self.take(4), "little", signed=True))

    def long(self) -> None:
        count = self.unsigned(1)
        if count > _MAX_LONG_BYTES:
            raise Refused(f"a number of {count} bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def real(self) -> None:
        self.push(struct.unpack(">d", self.take(8))[0])

    def raw(self, length_bytes: int) -> None:
        self.take(self.unsigned(length_bytes))
        self.push(Opaque("bytes"))

    def make_tuple(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise Refused(f"asks for value {index}, which was never kept")
        self.push(self.memo[index])

    def name(self, module: Any, name: Any) -> None:
        found = Name(module, name) if isinstance(module, str) and isinstance(name, str) else None
        if found not in GLOBALS:
            raise Refused(f"names {shown_flat(module)} {shown_flat(name)}, which no tree of tensors needs")
        self.push(found)

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def persistent(self) -> None:
        """("storage", type, key, device, count): where the bytes of tensors are."""
        value = self.pop()
        if not isinstance(value, tuple) or len(value) != 5 or value[0] != "storage":
            raise Refused(f"refers to {shown_flat(value)}; only storages lie outside the pickle")
        kind, key, count = value[1], value[2], integer(value[4], "a storage's size")
        untyped = isinstance(kind, Name) and kind.name == "UntypedStorage"
        dtype = STORAGES.get(kind.name) if isinstance(kind, Name) and kind.module == "torch" else None
        if not (untyped or dtype) or not isinstance(key, str):
            raise Refused(f"a storage is of type {shown_flat(kind)}, with key {shown_flat(key)}")
        self.push(Storage(key, dtype, count))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        known = CALLS.get(function) if isinstance(function, Name) else None
        if known is None or not isinstance(arguments, tuple):
            raise Refused(f"calls {shown_flat(str(function) if isinstance(function, Name) else function)}")
        self.push(known(arguments))

    def build(self) -> None:
        """The state of an object: of a dict its attributes (versions of modules), of the rest nothing that counts."""
        self.pop()
        if not isinstance(self.top(), (dict, Opaque)):
            raise Refused(f"gives a state to {shown_flat(self.top())}")

    def set_pairs(self, pairs: list[Any]) -> None:
        found = self.into(dict, "a member")
        if len(pairs) % 2:
            raise Refused("a key has no value")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str) and not (isinstance(key, int) and 0 <= key < _MAX_KEY):
                raise Refused(f"a key is {shown_flat(key)}; keys are texts or small numbers here")
            found[key] = value

    def set_one(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_pairs([key, value])

    def set_many(self) -> None:
        self.set_pairs(self.since_mark())

    def append_one(self) -> None:
        value = self.pop()
        self.into(list, "an item").append(value)

    def append_many(self) -> None:
        values = self.since_mark()
        self.into(list, "items").extend(values)


_STEPS: Mapping[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"\x95": _Machine.frame,
    b"(": _Machine.mark,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.unsigned(1)),
    b"M": lambda m: m.push(m.unsigned(2)),
    b"J": _Machine.signed,
    b"\x8a": _Machine.long,
    b"G": _Machine.real,
    b"\x8c": lambda m: m.text(m.unsigned(1)),
    b"X": lambda m: m.text(m.unsigned(4)),
    b"\x8d": lambda m: m.text(m.unsigned(8)),
    b"C": lambda m: m.raw(1),
    b"B": lambda m: m.raw(4),
    b"\x8e": lambda m: m.raw(8),
    b")": lambda m: m.make_tuple(0),
    b"\x85": lambda m: m.make_tuple(1),
    b"\x86": lambda m: m.make_tuple(2),
    b"\x87": lambda m: m.make_tuple(3),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"a": _Machine.append_one,
    b"e": _Machine.append_many,
    b"s": _Machine.set_one,
    b"u": _Machine.set_many,
    b"q": lambda m: m.put(m.unsigned(1)),
    b"r": lambda m: m.put(m.unsigned(4)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(m.unsigned(1)),
    b"j": lambda m: m.get(m.unsigned(4)),
    b"c": lambda m: m.name(m.line(), m.line()),
    b"\x93": _Machine.stack_global,
    b"Q": _Machine.persistent,
    b"R": _Machine.call,
    b"\x81": _Machine.call,  # cls(*args), the same here
    b"b": _Machine.build,
}


__all__ = ["MAX_PICKLE_BYTES", "tensor_tree"]
