"""Opens and runs damaged engine files, in a process of its own: what tests/python/test_hostile.py starts.

    python hostile_worker.py FILE truncate STEP
    python hostile_worker.py FILE mutate FIRST_SEED COUNT

Writes one JSON line: how each case ended ("opened", or the class of a typed error) and, under "wrong", every case that
ended in any other way. The number of the case at work is kept in FILE-progress, so a crash names its case. Every case
is made from its seed alone.
"""

from __future__ import annotations

import collections
import json
import os
import random
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

ALIGNMENT = 4096
# Bytes of address space: a size taken from a damaged file must not become an allocation.
MEMORY_LIMIT = 8 << 30
CONFIG_VALUES = [
    0,
    1,
    -1,
    2,
    3,
    7,
    17,
    2**31 - 1,
    2**31,
    2**53,
    2**63 - 1,
    -(2**63),
    2**64,
    1e308,
    -0.5,
    1e-320,
]
ODD_VALUES: list[Any] = [
    None,
    True,
    False,
    "",
    "16",
    [],
    {},
    [1],
    [0] * 100,
    "\u0000",
    "é" * 50,
    float("nan"),
]


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """An engine file's header as parsed JSON, and its payload."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: dict[str, Any], payload: bytes, *, seal: bool = True) -> bytes:
    """The file with this header, padded as the writer pads it and with a correct header checksum when `seal`."""
    header = json.loads(json.dumps(header))
    metadata = header.get("__metadata__")
    if seal and isinstance(metadata, dict):
        metadata["header_checksum"] = "0" * 16
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if seal and isinstance(metadata, dict):
        digest = xxhash.xxh64(text).hexdigest()
        text = text.replace(b'"header_checksum":"' + b"0" * 16, b'"header_checksum":"' + digest.encode(), 1)
    return struct.pack("<Q", len(text)) + text + payload


def mutate(data: bytes, seed: int) -> bytes:
    """One damaged or hostile version of a good file."""
    rng = random.Random(seed)
    return rng.choice(MUTATIONS)(data, rng)


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flip_header_bits(data: bytes, rng: random.Random) -> bytes:
    """Inside the JSON, and half the time with a checksum that fits, so that the parser is what refuses."""
    (length,) = struct.unpack_from("<Q", data)
    out = bytearray(data)
    end = len(data[: 8 + length].rstrip(b" "))
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(0, end)
        out[at] = rng.choice([out[at] ^ (1 << rng.randrange(8)), rng.randrange(256), *b'"{}[]:,0919-eE.\\u '])
    mark = b'"header_checksum":"'
    at = bytes(out).find(mark)
    if at > 0 and rng.random() < 0.5:
        at += len(mark)
        out[at : at + 16] = b"0" * 16
        out[at : at + 16] = xxhash.xxh64(bytes(out[8 : 8 + length])).hexdigest().encode()
    return bytes(out)


def splice(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data)) for _ in range(2))
    return rng.choice([data[:a] + data[b:], data[:b] + data[a:], data[:a] + bytes(b - a) + data[b:]])


def resize(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:  # a lying header length
        length = rng.choice([0, 1, 8, len(data), len(data) - 8, 2**31, 2**32, 2**63, 2**64 - 1, 10**8])
        return struct.pack("<Q", length) + data[8:]
    return rng.choice([data[: rng.randrange(len(data))], data + bytes(rng.randrange(1, 5000))])


def edit_tensor(data: bytes, rng: random.Random) -> bytes:
    header, payload = split(data)
    names = [name for name in header if name != "__metadata__"]
    entry = header[rng.choice(names)]
    what = rng.randrange(7)
    if what == 0:
        entry["dtype"] = rng.choice(["F32", "BF16", "U8", "F64", "I4", "f32", "", 7, None])
    elif what == 1:
        dims = entry["shape"]
        dims[rng.randrange(len(dims))] = rng.choice([*CONFIG_VALUES, *ODD_VALUES])
    elif what == 2:
        entry["shape"] = rng.choice([[], [2**32, 2**32], [0], entry["shape"] * 3, entry["shape"][::-1], "x"])
    elif what == 3:
        entry["data_offsets"][rng.randrange(2)] = rng.choice([*CONFIG_VALUES, *ODD_VALUES, len(payload)])
    elif what == 4:
        entry["data_offsets"] = header[rng.choice(names)]["data_offsets"]
    elif what == 5:
        header[rng.choice([rng.choice(names) + "x", "", "x" * 1000, "../../x", "files/../../x"])] = (
            header.pop(rng.choice(names))
        )
    else:
        header.pop(rng.choice(names))
    return join(header, payload, seal=rng.random() < 0.9)


def edit_metadata(data: bytes, rng: random.Random) -> bytes:
    header, payload = split(data)
    metadata = header["__metadata__"]
    key = rng.choice(list(metadata))
    what = rng.randrange(5)
    if what == 0:
        metadata.pop(key)
    elif what == 1:
        metadata[key] = rng.choice(
            ["", "{", "[]", "{}", "null", "[" * 5000, '{"a":' * 3000, "9" * 400, "\\ud800"]
        )
    elif what == 2:
        metadata[key] = rng.choice([1, None, [], {}, ["x"], True])
    elif what == 3:
        text = metadata[key]
        at = rng.randrange(len(text) + 1)
        metadata[key] = (
            text[:at] + rng.choice(["", '"', "\\", "\u0000", "1e999", "-", "[", "}"]) + text[at + 1 :]
        )
    else:
        header["__metadata__"] = rng.choice([None, [], {}, "x", {"a": 1}])
    return join(header, payload)


def edit_config(data: bytes, rng: random.Random) -> bytes:
    """Well-formed files whose model is impossible, absurd, or not the one stored."""
    header, payload = split(data)
    whole = json.loads(header["__metadata__"]["config"])
    for _ in range(rng.choice([1, 1, 2])):
        config = whole
        if isinstance(whole.get("vision"), dict) and whole["vision"] and rng.random() < 0.5:
            config = whole["vision"]
        key = rng.choice(list(config))
        value = config[key]
        if isinstance(value, list) and value and rng.random() < 0.7:
            what = rng.randrange(3)
            if what == 0:
                value[rng.randrange(len(value))] = rng.choice([*CONFIG_VALUES, *ODD_VALUES])
            elif what == 1:
                value.append(rng.choice([0, 1, 5]))
            else:
                value.pop()
        elif isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
            config[key] = rng.choice([value + 1, value - 1, value * 2, value // 2, value + 16, -value])
        else:
            config[key] = rng.choice([*CONFIG_VALUES, *ODD_VALUES])
        if rng.random() < 0.1:
            config.pop(key)
    header["__metadata__"]["config"] = json.dumps(whole)
    return join(header, payload)


def edit_weight(data: bytes, rng: random.Random) -> bytes:
    """Descriptors and checksums that do not fit the tensors."""
    header, payload = split(data)
    metadata = header["__metadata__"]
    key = rng.choice(["weights", "weights", "checksums", "files", "quantization"])
    table = json.loads(metadata[key])
    if isinstance(table, dict) and table:
        name = rng.choice(list(table))
        if isinstance(table[name], dict) and rng.random() < 0.8:
            field = rng.choice(list(table[name]))
            table[name][field] = rng.choice(
                [*CONFIG_VALUES, *ODD_VALUES, "int4", "int8", "bf16", [1, 16, 32]]
            )
        else:
            table[rng.choice([name, "none", name + "x"])] = rng.choice([*ODD_VALUES, table[name]])
    elif isinstance(table, list):
        table.append(rng.choice(["x", "../x", "", 1, None]))
    metadata[key] = json.dumps(table)
    return join(header, payload)


def poison(data: bytes, rng: random.Random) -> bytes:
    """A good header over weights that are NaN, infinite, huge or noise."""
    header, payload = split(data)
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    begin, end = rng.choice(entries)["data_offsets"]
    pattern = rng.choice(
        [b"\xc0\x7f", b"\x80\x7f", b"\x80\xff", b"\x7f\x7f", b"\xff\xff", b"\x00\x00", rng.randbytes(512)]
    )
    fill = (pattern * (end - begin))[: end - begin]
    return join(header, payload[:begin] + fill + payload[end:])


MUTATIONS = [
    *(flip_bits, flip_bits, flip_header_bits, splice, resize),
    *(edit_tensor, edit_tensor, edit_metadata, edit_config, edit_config, edit_weight, poison),
]


def exercise(path: Path) -> None:
    """Opens the file as a reader, then as an engine, and generates, from a picture where the model takes one; every
    step may raise a typed error."""
    from llama4rt._core import Engine, EngineFile, Request

    file = EngineFile(str(path))
    for name in file.names()[:50]:
        file.info(name)
    file.verify(1)
    # The plain loops of the reference check every index they use in checked builds; the CPU tables are what people run.
    for device in ("cpu", "reference"):
        engine = Engine(
            str(path), device=device, num_threads=1, max_model_len=32, max_num_seqs=2, kv_cache_bytes=1 << 20
        )
        request = Request()
        request.prompt_token_ids = [1, 2, 3, 4, 5]
        vision = engine.config.get("vision")
        if vision:
            side, patches = vision["image_size"], (vision["image_size"] // vision["patch_size"]) ** 2
            request.prompt_token_ids += [vision["patch_token_id"]] * (patches // 4)
            request.images = [(bytes(32), np.full((1, side, side, 3), 77, dtype=np.uint8))]
        request.max_tokens = 2
        request.temperature = 0.7
        request.seed = 1
        engine.submit(request)
        for _ in range(50):
            if not engine.has_work():
                break
            engine.step()
        else:
            raise AssertionError("does not end")
        engine.close()


def cases(data: bytes, arguments: list[str]) -> Iterator[tuple[int, Callable[[], bytes]]]:
    if arguments[0] == "truncate":
        step = int(arguments[1])
        (length,) = struct.unpack_from("<Q", data)
        header, _ = split(data)
        ends = {
            8 + length + x for name, e in header.items() if name != "__metadata__" for x in e["data_offsets"]
        }
        near = {end + d for end in ends | {8, 8 + length} for d in (-1, 0, 1)}
        for size in sorted({*range(0, len(data), step), *(n for n in near if 0 <= n < len(data))}):
            yield size, lambda size=size: data[:size]  # type: ignore[misc]
    else:
        first, count = int(arguments[1]), int(arguments[2])
        for seed in range(first, first + count):
            yield seed, lambda seed=seed: mutate(data, seed)  # type: ignore[misc]


def main() -> None:
    from llama4rt import Llama4RTError

    source = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    data = source.read_bytes()
    target = source.with_name(f"{source.name}-{os.getpid()}")
    progress = os.open(f"{source}-progress", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    ends: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    for number, make in cases(data, sys.argv[2:]):
        os.pwrite(progress, b"%-20d" % number, 0)
        target.write_bytes(make())
        try:
            exercise(target)
            ends["opened"] += 1
        except Llama4RTError as error:
            ends[type(error).__name__] += 1
            if not str(error) or len(str(error)) > 4000:
                wrong.append(f"{number}: a message of {len(str(error))} characters")
        except BaseException as error:  # whatever else comes out is the finding
            wrong.append(f"{number}: {type(error).__name__}: {str(error)[:200]}")
    target.unlink()
    print(json.dumps({"ends": dict(ends), "wrong": wrong[:20], "wrong_count": len(wrong)}))


if __name__ == "__main__":
    main()
