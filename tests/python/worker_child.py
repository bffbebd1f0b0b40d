"""A child for test_workers.py: does what the message says."""

import os
import time

from llama4rt.workers.child_main import Refused

_setup = b""


def begin(setup: bytes) -> None:
    global _setup
    _setup = setup


def answer(message: bytes) -> bytes:
    what, _, rest = message.partition(b" ")
    if what == b"echo":
        return rest
    if what == b"setup":
        return _setup
    if what == b"pid":
        return str(os.getpid()).encode()
    if what == b"sleep":
        time.sleep(float(rest))
        return b"slept"
    if what == b"spin":
        while True:
            pass
    if what == b"allocate":
        return str(len(bytearray(int(rest)))).encode()
    if what == b"crash":
        os.kill(os.getpid(), 11)
    if what == b"print":
        os.write(1, b"noise of a library")
        return b"quiet"
    if what == b"refuse":
        raise Refused("this is refused: \u00e9")
    raise KeyError(what)
