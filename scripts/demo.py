"""`make demo`: a checkpoint in the Hugging Face format, its engine file, text out of it, and the speed.

Runs the same commands a person would type, and shows them. The weights are random for now, so the text is nonsense;
format, tokenizer, builder and runtime are the real ones.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = Path("build/demo")
PROMPT = "The quick brown fox"


def llama4rt(*arguments: str) -> None:
    run([sys.executable, "-m", "llama4rt", *arguments], "llama4rt " + shlex.join(arguments))


def run(command: list[str], shown: str) -> None:
    print(f"\n$ {shown}", flush=True)
    done = subprocess.run(command)
    if done.returncode != 0:
        sys.exit(f"demo: the command above ended with exit code {done.returncode}")


def main() -> None:
    os.chdir(ROOT)
    checkpoint, engine = str(WORK / "checkpoint"), str(WORK / "demo.l4e")
    print(
        "1. A small Llama 4 with random weights, saved as a Hugging Face checkpoint with the real tokenizer:"
    )
    run(
        [sys.executable, "benchmarks/models.py", "demo", checkpoint],
        f"python benchmarks/models.py demo {checkpoint}",
    )
    print("\n2. Built into one engine file, int4:")
    llama4rt("build", checkpoint, "-o", engine)
    print("\n3. What is in the file:")
    llama4rt("inspect", engine)
    print(
        "\n4. Text from it. The weights are random, so this is nonsense, at the speed of a model of this size:"
    )
    llama4rt("generate", engine, "-p", PROMPT, "-n", "48", "--temperature", "0.8", "--seed", "4")
    print("\n5. Its speed, beside what this machine can do at best (most of this model is its vocabulary):")
    llama4rt("bench", engine, "-p", "128", "-n", "64", "-r", "3")
    print(f"\nThe engine file stays: try `.venv/bin/llama4rt generate {engine} -p 'Hello' -n 20`.")
    print(
        "A real model: `.venv/bin/llama4rt build path/or/hub-id -o model.l4e`, then generate, chat or bench."
    )


if __name__ == "__main__":
    main()
