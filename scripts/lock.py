#!/usr/bin/env python3
"""Renews requirements/*.txt: every package that make installs, in one version each, with the hashes of its files.

  lock.py           the newest of everything that requirements/*.in and pyproject.toml allow
  lock.py --keep    only what a changed .in or pyproject.toml asks for; pins that still fit stay

One file serves Python 3.10 to 3.14; where these need different versions, a line ends in a marker. Needs uv on PATH
(make lock installs it) and its package index. torch gets a file of its own without a hash: indexes serve different
builds of one version, and what its CUDA builds want beside it is named, version by version, by torch itself.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
# Installed into one environment, so resolved together. A file begins with those that it builds upon, and repeats
# none of their lines.
TOGETHER: dict[str, list[str]] = {
    "build": [],
    "run": [],
    "serve": ["run"],
    "dev": ["serve"],
    "test": ["serve"],
    "soak": ["test"],
    "sdist-build": [],
}
ALONE = ["nvcc", "nvdisasm", "client-litellm", "client-lm_eval", "lock", "dist", "audit", "docs"]
WITHOUT_DEPENDENCIES = ["tokenizer", "real-model", "schema-suite", "oracles", "oracle-sources"]
# Installed with torch, or, for its CPU build, not at all.
WITH_TORCH = re.compile(r"torch|triton|(nvidia|cuda)-.*")
UV = ["uv", "pip", "compile", "-q", "--universal", "--python-version", "3.10", "--no-annotate", "--no-header"]
UV += ["--no-emit-index-url", "--no-emit-find-links", "--no-emit-package", "llama4rt"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEADER = "# Written by scripts/lock.py (make lock) from {name}.in and pyproject.toml.\n"

Blocks = dict[str, str]  # first line of a pin -> the pin with its hashes


def blocks_of(text: str) -> Blocks:
    """The pins of a lock; a pin goes on as long as lines are indented. Comments and -r lines are left out."""
    pins = re.findall(r"^(?=[A-Za-z0-9])(.*\n)((?:[ \t]+.*\n)*)", text, re.M)
    return {(line := without_common_markers(first)).rstrip("\n"): line + hashes for first, hashes in pins}


def without_common_markers(line: str) -> str:
    """The first line of a pin without what [tool.uv] of pyproject.toml says of every environment."""
    (environment,) = PROJECT["tool"]["uv"]["environments"]
    for common in re.split(r"\s+and\s+", environment):
        line = (
            line.replace(f" and {common}", "").replace(f" ; {common} and", " ;").replace(f" ; {common}", "")
        )
    return line


def name_of(first_line: str) -> str:
    return re.split(r"[=\[ ]", first_line)[0]


def compile_lock(inputs: list[Path], output: Path, *options: str | Path) -> Blocks:
    """Runs uv; what `output` holds before is kept where it fits, unless options say --upgrade."""
    command = [*UV, *map(str, options), *map(str, inputs), "-o", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return blocks_of(output.read_text())


def locked(name: str) -> Blocks:
    path = FOLDER / f"{name}.txt"
    return blocks_of(path.read_text()) if path.is_file() else {}


def write(name: str, pins: Blocks, bases: list[str]) -> None:
    path = FOLDER / f"{name}.txt"
    lines = [HEADER.format(name=name), *(f"-r {base}.txt\n" for base in bases), *pins.values()]
    path.write_text("".join(lines))
    print(f"{path.relative_to(ROOT)}: {len(pins)} pins")


def lock_together(scratch: Path, upgrade: list[str]) -> None:
    build_system = scratch / "build-system.in"
    build_system.write_text("\n".join(PROJECT["build-system"]["requires"]))
    inputs = {name: [FOLDER / f"{name}.in"] for name in TOGETHER}
    inputs["build"].append(build_system)
    everything = scratch / "everything.txt"
    everything.write_text("".join(first.rstrip("\\ ") + "\n" for name in TOGETHER for first in locked(name)))
    found = compile_lock([path for paths in inputs.values() for path in paths], everything, *upgrade)
    torch = next(line for line in found if name_of(line) == "torch")
    (FOLDER / "torch.txt").write_text(
        HEADER.format(name="test")
        + "# Without a hash: indexes serve different builds of it.\n"
        + torch
        + "\n"
    )
    inherited: dict[str, set[str]] = {}
    for name, bases in TOGETHER.items():
        output = scratch / f"{name}.txt"
        pins = compile_lock(inputs[name], output, "--generate-hashes", "--constraint", everything)
        pins = {line: pin for line, pin in pins.items() if not WITH_TORCH.fullmatch(name_of(line))}
        above = set().union(*(inherited[base] for base in bases))
        inherited[name] = above | set(pins)
        write(name, {line: pin for line, pin in pins.items() if line not in above}, bases)


def lock_alone(name: str, scratch: Path, options: list[str]) -> None:
    output = scratch / f"{name}.txt"
    output.write_text("".join(locked(name).values()))
    write(name, compile_lock([FOLDER / f"{name}.in"], output, "--generate-hashes", *options), [])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="keep the versions of pins that still fit")
    upgrade = [] if parser.parse_args().keep else ["--upgrade"]
    if not shutil.which("uv"):
        sys.exit("no uv on PATH: make lock installs it")
    with tempfile.TemporaryDirectory() as scratch:
        lock_together(Path(scratch), upgrade)
        for name in ALONE:
            lock_alone(name, Path(scratch), upgrade)
        for name in WITHOUT_DEPENDENCIES:
            lock_alone(name, Path(scratch), [*upgrade, "--no-deps"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
