"""Writes the files of this folder anew: `python tests/golden/make_golden.py` (needs the `test` extra).

Engine files that an older llama4rt wrote are kept for good under their format version, so that every later one proves
that it still reads them (or refuses them clearly). Make new ones only when the format version rises.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "python"))

from numpy_reference import from_engine_file  # noqa: E402
from tiny_checkpoints import (  # noqa: E402
    KINDS,
    load_oracle,
    oracle_features,
    oracle_greedy,
    oracle_logits,
    patch_ids,
    random_ids,
    random_tiles,
    write_checkpoint,
)

FORMAT_VERSION = 1
PROMPT_TOKENS = 37  # two chunks and a piece
NEW_TOKENS = 24


def make_vision() -> None:
    """One more, with a vision tower: a prompt of text and two tiles, as transformers answers it."""
    from llama4rt import build

    kind = KINDS["micro_vision"]
    path = HERE / f"micro-vision-bf16-v{FORMAT_VERSION}.l4e"
    text, tiles = random_ids(kind, PROMPT_TOKENS, seed=1), random_tiles(kind, 2, seed=1)
    ids = text[:9] + patch_ids(kind, 1) + text[9:14] + patch_ids(kind, 1) + text[14:]
    with tempfile.TemporaryDirectory() as temporary:
        source = write_checkpoint(kind, Path(temporary) / "micro-vision")
        build(str(source), str(path), weights="bf16")
        model = load_oracle(source)
        np.savez(
            path.with_suffix(".npz"),
            ids=np.array(ids, np.int32),
            tiles=tiles,
            features=oracle_features(model, tiles),
            logits=oracle_logits(model, ids, tiles),
            greedy=np.array([], np.int32),
        )


def make_text() -> None:
    from llama4rt import build

    kind = KINDS["micro"]
    ids = random_ids(kind, PROMPT_TOKENS, seed=1)
    with tempfile.TemporaryDirectory() as temporary:
        source = write_checkpoint(kind, Path(temporary) / "micro")
        for weights in ("bf16", "int8", "int4"):
            group = {} if weights == "bf16" else {"group_size": 32}
            path = HERE / f"micro-{weights}-v{FORMAT_VERSION}.l4e"
            build(str(source), str(path), weights=weights, **group)
            if weights == "bf16":
                model = load_oracle(source)
                logits, tokens = oracle_logits(model, ids), oracle_greedy(model, ids, NEW_TOKENS)
            else:
                reference = from_engine_file(path)
                logits, tokens = reference.logits(ids).astype(np.float32), []
            np.savez(
                HERE / f"micro-{weights}-v{FORMAT_VERSION}.npz",
                ids=np.array(ids, np.int32),
                logits=logits,
                greedy=np.array(tokens, np.int32),
            )


if __name__ == "__main__":
    make_text()
    make_vision()
