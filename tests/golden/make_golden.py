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
from tiny_checkpoints import KINDS, load_oracle, oracle_greedy, oracle_logits, random_ids, write_checkpoint  # noqa: E402

FORMAT_VERSION = 1
PROMPT_TOKENS = 37  # two chunks and a piece
NEW_TOKENS = 24


def main() -> None:
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
    main()
