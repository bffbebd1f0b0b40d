"""The child's side of child_process.py: limits, and one answer for each message.

A message is its length (uint64, little-endian) and so many bytes. An answer's first byte says what follows: "+" the
result, "-" the words of a refusal, "!" the words of a failure, and with nothing after it "m" (the memory limit). Of a
fork (forked_answers.py) also "t" (processor time), "w" (the deadline), "c" (it crashed), "a" (nobody waits any more).
Imports no native code.
"""

import math
import os
import resource
import struct
import time
from types import ModuleType
from typing import Any, BinaryIO

from llama4rt.workers.forked_answers import ForkedAnswers, mapped_bytes

_LENGTH = struct.Struct("<Q")


class Refused(Exception):
    """Raised by a child's `answer` for input that is at fault. Its text goes to whoever sent the input."""


def serve(module: ModuleType, limits: "dict[str, Any]") -> None:
    """Answers messages until the input ends. The first one goes to module.begin(), all others to module.answer()."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):  # a library that prints must not reach the pipe
        os.dup2(null, number)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if (setup := _read(source)) is None:
        return
    ready = _answered(module.begin, setup)
    del setup  # megabytes, of a tokenizer

    def answered(message: bytes) -> bytes:
        return _answered(module.answer, message)

    def answered_within_limits(message: bytes) -> bytes:
        # The soft limit kills with SIGXCPU; a second more for what is rounded away.
        seconds = int(time.process_time()) + math.ceil(limits["cpu_seconds"]) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        return answered(message)

    if limits["fork"]:
        answer = ForkedAnswers(answered, limits).answer
    else:
        memory = mapped_bytes() + limits["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        answer = answered_within_limits
    _write(sink, ready)
    while (message := _read(source)) is not None:
        _write(sink, answer(message))


def _answered(call: Any, message: bytes) -> bytes:
    try:
        return b"+" + (call(message) or b"")
    except Refused as refusal:
        return b"-" + str(refusal).encode("utf-8", "replace")[:4000]
    except MemoryError:
        return b"m"
    except Exception as error:
        return b"!" + f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:2000]


def _read(source: BinaryIO) -> bytes | None:
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    length = _LENGTH.unpack(head)[0]
    message = source.read(length)
    return message if len(message) == length else None


def _write(sink: BinaryIO, answer: bytes) -> None:
    sink.write(_LENGTH.pack(len(answer)) + answer)
    sink.flush()
