"""Where numbers come from: the machine, the commit and the command that a report of measurements names."""

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llama4rt import _core


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = next((value for key, value in _cpuinfo() if key == "model name"), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model,
        "cpus": _core.available_cpus(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpuinfo() -> Iterator[tuple[str, str]]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                yield key.strip(), value.strip()
    except OSError:
        return


def commit() -> str | None:
    """The commit of the source tree that this package runs from, if it does."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "HEAD"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def command_line(words: Sequence[str]) -> str:
    """The command as it was typed, with the last part alone of every absolute path: where files lay is nobody's
    business.
    """
    return shlex.join([re.sub(r"(?<![\w.~-])/(?:[^/=,]*/)*([^/=,]+)", r"\1", word) for word in words])
