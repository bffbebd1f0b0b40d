"""Do the programs compute the same model? Greedy tokens from unquantised files, against transformers in fp32.

Only unquantised ones can be compared: random weights have no margin, and a routing decision that flips changes
everything behind it.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from files import HERE, Files
from protocol import Worker

PROMPT = COUNT = 48


def agreement(files: Files, threads: int) -> dict[str, int]:
    """Of COUNT greedy tokens behind PROMPT random ones, how many equal those of transformers before the first that does
    not.
    """
    scratch = files.whole_gguf.parent
    engine, whole = scratch / "unquantised.l4e", scratch / "unquantised.gguf"
    size = [str(threads), "512", "1"]
    programs: dict[str, tuple[list[str | Path], Path | None]] = {
        "transformers fp32": (
            ["worker_transformers.py", str(files.checkpoint), str(threads), "float32"],
            None,
        ),
        "llama4rt bf16": (["worker_llama4rt.py", engine, *size, "auto"], engine),
        "llama.cpp f16": (["worker_llama_cpp.py", whole, *size, "1"], whole),
    }
    vocabulary = json.loads((files.checkpoint / "config.json").read_text())["vocab_size"]
    prompt = [random.Random(5).randrange(vocabulary) for _ in range(PROMPT)]
    answers: dict[str, list[int]] = {}
    for label, (command, made) in programs.items():
        if made == engine:
            files.build(engine, "--weights", "bf16")
        elif made == whole:
            files.make_whole_gguf()
            files.quantise(whole, "F16")
            files.whole_gguf.unlink()
        worker = Worker([sys.executable, str(HERE / command[0]), *map(str, command[1:])])
        answer = worker.ask(do="tokens", prompt=prompt, count=COUNT)
        worker.close()
        if made:
            made.unlink()
        if "ids" not in answer:
            raise RuntimeError(f"{label}: {answer['error']}")
        answers[label] = answer["ids"]
    oracle = answers.pop("transformers fp32")
    return {
        label: next((i for i in range(COUNT) if ids[i] != oracle[i]), COUNT) for label, ids in answers.items()
    }
