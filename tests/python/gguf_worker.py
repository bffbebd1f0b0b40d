"""Reads damaged GGUF files, in a process of its own: what tests/python/test_gguf_hostile.py starts.

    python gguf_worker.py FILE mutate FIRST_SEED COUNT
    python gguf_worker.py FILE truncate STEP

Writes one JSON line: how each case ended ("read", "built", or the class of a typed error) and, under "wrong", every
case that ended in any other way. The number of the case at work is kept in FILE-progress. Every case is made from its
seed alone.
"""

from __future__ import annotations

import collections
import json
import random
import resource
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from gguf_models import small_gguf
from llama4rt.text.byte_level_bpe import BYTE_OF

# Bytes of address space: a size taken from a damaged file must not become an allocation.
MEMORY_LIMIT = 6 << 30
SECONDS_LIMIT = 20.0  # of one case, on a loaded machine
NUMBERS = [
    0,
    1,
    2,
    3,
    5,
    7,
    8,
    16,
    31,
    32,
    33,
    255,
    256,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**63 - 1,
]
NUMBERS += [2**63, 2**64 - 1, 2**64 - 32]
BUILD_EVERY = 40  # cases of which one that can be read is also built


def victim() -> bytes:
    """A small Llama 4 with experts, a dense layer, a tokenizer, and a type of each family of 32 numbers."""
    letters = {byte: char for char, byte in BYTE_OF.items()}
    tokens = [letters[byte] for byte in range(256)] + ["ab", "<|begin_of_text|>", "<|eot|>", "<think>"]
    settings = {
        "block_count": 2, "context_length": 512, "embedding_length": 32, "feed_forward_length": 64,
        "expert_feed_forward_length": 32, "expert_count": 2, "expert_used_count": 1, "interleave_moe_layer_step": 2,
        "attention.head_count": 2, "attention.head_count_kv": 1, "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": 16, "rope.freq_base": 500000.0, "vocab_size": 260,
    }  # fmt: skip
    metadata = {
        "general.architecture": "llama4",
        "general.name": "victim",
        **{f"llama4.{key}": value for key, value in settings.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 257 + [3, 3, 4],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }
    rng = np.random.default_rng(0)
    sizes = {
        0: (1, 4),
        1: (1, 2),
        2: (32, 18),
        3: (32, 20),
        6: (32, 22),
        7: (32, 24),
        8: (32, 34),
        20: (32, 18),
    }

    def tensor(kind: int, *shape: int) -> tuple[tuple[int, ...], int, bytes]:
        length, size = sizes[kind]
        count = int(np.prod(shape)) // length
        if kind == 0:
            return shape, kind, rng.uniform(0.5, 1, shape).astype("<f4").tobytes()
        if kind == 1:
            return shape, kind, rng.normal(0, 0.1, shape).astype("<f2").tobytes()
        raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
        raw[:, :4] = np.tile(np.array([0.01, -0.05], dtype="<f2").view(np.uint8), (count, 1))
        return shape, kind, raw.tobytes()

    tensors = {"token_embd.weight": tensor(8, 260, 32), "output_norm.weight": tensor(0, 32)}
    tensors |= {
        "output.weight": tensor(1, 260, 32),
        "rope_freqs.weight": ((8,), 0, np.ones(8, "<f4").tobytes()),
    }
    for layer in range(2):
        at = f"blk.{layer}."
        tensors |= {f"{at}attn_norm.weight": tensor(0, 32), f"{at}ffn_norm.weight": tensor(0, 32)}
        tensors |= {f"{at}attn_q.weight": tensor(2, 32, 32), f"{at}attn_output.weight": tensor(20, 32, 32)}
        tensors |= {f"{at}attn_k.weight": tensor(3, 16, 32), f"{at}attn_v.weight": tensor(6, 16, 32)}
    tensors |= {f"blk.0.ffn_{part}.weight": tensor(7, 64, 32) for part in ("gate", "up")}
    tensors["blk.0.ffn_down.weight"] = tensor(8, 32, 64)
    tensors["blk.1.ffn_gate_inp.weight"] = tensor(0, 2, 32)
    tensors |= {f"blk.1.ffn_{part}_exps.weight": tensor(3, 2, 32, 32) for part in ("gate", "up", "down")}
    tensors |= {f"blk.1.ffn_{part}_shexp.weight": tensor(8, 32, 32) for part in ("gate", "up", "down")}
    return small_gguf(metadata, tensors)


def header_end(data: bytes) -> int:
    """About where the tensors begin: behind the last name."""
    return data.rfind(b"_shexp.weight") + 80


# --- mutations


def mutate(data: bytes, seed: int) -> bytes:
    rng = random.Random(seed)
    return rng.choice(MUTATIONS)(data, rng)


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        out[rng.randrange(header_end(data))] ^= 1 << rng.randrange(8)
    return bytes(out)


def put_number(data: bytes, rng: random.Random) -> bytes:
    """A number of 4 or 8 bytes anywhere in the header."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2])):
        size = rng.choice([4, 8])
        at = rng.choice([rng.randrange(4, 24), rng.randrange(4, header_end(data) - 8)])
        out[at : at + size] = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(out)


def edit_setting(data: bytes, rng: random.Random) -> bytes:
    """The value of a key that decides sizes."""
    keys = [
        b"block_count",
        b"length",
        b"head_count",
        b"head_count_kv",
        b"expert_count",
        b"vocab_size",
        b"token_id",
    ]
    keys += [
        b"step",
        b"dimension_count",
        b"epsilon",
        b"freq_base",
        b"expert_used_count",
        b"token_type",
        b"merges",
    ]
    places = [i + len(key) for key in keys for i in occurrences(data, key)]
    at = rng.choice(places)
    out = bytearray(data)
    what = rng.randrange(3)
    if what == 0:  # its type
        out[at : at + 4] = rng.choice([*range(14), 2**31]).to_bytes(4, "little")
    elif what == 1:
        out[at + 4 : at + 8] = (rng.choice(NUMBERS) % 2**32).to_bytes(4, "little")
    else:
        out[at + 4 : at + 8] = struct.pack(
            "<f", rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf"), 1e-40])
        )
    return bytes(out)


def edit_tensor(data: bytes, rng: random.Random) -> bytes:
    """Axes, dims, type or offset of a tensor."""
    names = occurrences(data, b".weight")
    at = rng.choice(names) + len(b".weight")
    out = bytearray(data)
    (axes,) = struct.unpack_from("<I", data, at)
    fields = [(0, 4), (4, 8), (4 + 8 * min(axes, 4), 4), (8 + 8 * min(axes, 4), 8)]
    offset, size = rng.choice(fields)
    value = rng.choice([*NUMBERS, *range(45)])
    out[at + offset : at + offset + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(out)


def rename(data: bytes, rng: random.Random) -> bytes:
    """A name or key becomes another of the same length, or that of a neighbour."""
    words = [
        b"attn_q",
        b"attn_k",
        b"attn_v",
        b"ffn_up",
        b"blk.0.",
        b"blk.1.",
        b"llama4",
        b"output",
        b"tokens",
    ]
    old = rng.choice([word for word in words if word in data])
    new = rng.choice(
        [word for word in [*words, b"\xff" * 6, b"/../x.", b"blk.9.", b"\0" * 6] if len(word) == len(old)]
    )
    places = occurrences(data, old)
    at = rng.choice(places)
    return data[:at] + new + data[at + len(old) :]


def splice(data: bytes, rng: random.Random) -> bytes:
    end = header_end(data)
    a, b = sorted(rng.randrange(end) for _ in range(2))
    b = min(b, a + rng.choice([1, 4, 8, 64, end]))
    return rng.choice([data[:a] + data[b:], data[:b] + data[a:], data[:a] + bytes(b - a) + data[b:]])


def resize(data: bytes, rng: random.Random) -> bytes:
    return rng.choice([data[: rng.randrange(len(data))], data + bytes(rng.randrange(1, 5000))])


def poison(data: bytes, rng: random.Random) -> bytes:
    """Numbers that are NaN, infinite, huge or noise."""
    at = rng.randrange(header_end(data), len(data))
    pattern = rng.choice([b"\x00\x7e", b"\x00\x7c", b"\x00\xfc", b"\xff\x7b", b"\xc0\x7f", rng.randbytes(64)])
    count = min(rng.choice([2, 64, 4096]), len(data) - at)
    return data[:at] + (pattern * count)[:count] + data[at + count :]


def occurrences(data: bytes, word: bytes) -> list[int]:
    found, at = [], data.find(word)
    while at >= 0:
        found.append(at)
        at = data.find(word, at + 1)
    return found


MUTATIONS: list[Callable[[bytes, random.Random], bytes]] = [
    *(flip_bits, put_number, put_number, edit_setting, edit_setting),
    *(edit_tensor, edit_tensor, edit_tensor, rename, splice, resize, poison),
]


# --- the worker


def exercise(path: Path, whole: bool) -> str:
    """Reads everything a build reads; whole: builds. Every step may raise a typed error."""
    from llama4rt import build
    from llama4rt.convert.config import parse_config
    from llama4rt.convert.locate import open_checkpoint
    from llama4rt.convert.names import map_tensors
    from llama4rt.convert.tokenizer_files import with_tokenizer

    checkpoint = open_checkpoint(path)
    config = parse_config(checkpoint.config(), checkpoint.generation_config())
    mapping = map_tensors(config, checkpoint)
    with_tokenizer(checkpoint.kept_files())
    for name in {piece.source.tensor for target in mapping.targets for piece in target.pieces}:
        checkpoint.rows(name)
        checkpoint.release(name)
    if not whole:
        return "read"
    build(path, path.with_suffix(".l4e"), num_threads=1)
    return "built"


def cases(data: bytes, arguments: list[str]) -> Iterator[tuple[int, bytes]]:
    if arguments[0] == "truncate":
        for length in range(0, len(data), int(arguments[1])):
            yield length, data[:length]
    else:
        first, count = int(arguments[1]), int(arguments[2])
        for seed in range(first, first + count):
            yield seed, mutate(data, seed)


def main() -> None:
    path, arguments = Path(sys.argv[1]), sys.argv[2:]
    from llama4rt.errors import Llama4RTError

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    data = path.read_bytes()
    case_file = path.with_name("case.gguf")
    progress = Path(f"{path}-progress")
    ends: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    slowest = 0.0
    for number, content in cases(data, arguments):
        progress.write_text(str(number))
        case_file.write_bytes(content)
        start = time.perf_counter()
        try:
            ends[exercise(case_file, number % BUILD_EVERY == 0)] += 1
        except Llama4RTError as error:
            ends[type(error).__name__] += 1
            if not str(error) or len(str(error)) > 20_000:
                wrong.append(f"{number}: an error of {len(str(error))} characters")
        except Exception as error:
            wrong.append(f"{number}: {type(error).__name__}: {error}"[:300])
        seconds = time.perf_counter() - start
        slowest = max(slowest, seconds)
        if seconds > SECONDS_LIMIT:
            wrong.append(f"{number}: took {seconds:.1f} s")
    print(
        json.dumps(
            {"ends": ends, "wrong": wrong[:20], "wrong_count": len(wrong), "slowest": round(slowest, 2)}
        )
    )


if __name__ == "__main__":
    main()
