"""What every JSON file of these benchmarks says beside its numbers: machine, build, command, date."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from llama4rt import build_info
from llama4rt.cli.provenance import machine


def show(numbers: dict[str, Any], out: Path | None, note: str) -> None:
    """Prints the numbers; with `out`, writes them there too."""
    about = {
        "machine": machine(),
        "build": build_info(),
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "note": note,
    }
    print(json.dumps(numbers, indent=1))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({**numbers, **about}, indent=1, default=str) + "\n")
