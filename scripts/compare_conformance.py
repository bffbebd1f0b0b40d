#!/usr/bin/env python3
"""Compares what the PTX functions do on a GPU with what the emulator says: compare_conformance.py EMULATED GPU.

Both files are the output of llama4rt_ptx_conformance. Prints one line per case and the first difference of those that
differ; exit status 1 when one does. Cases with a tolerance hold floats: relative to the largest of the case.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path
from typing import Any


def as_float(word: int) -> float:
    value: float = struct.unpack("<f", struct.pack("<I", word))[0]
    return value


def difference(emulated: dict[str, Any], device: dict[str, Any]) -> str:
    """What is different, or nothing."""
    ours, theirs = emulated["words"], device["words"]
    if len(ours) != len(theirs):
        return f"{len(ours)} words against {len(theirs)}"
    largest = max((abs(as_float(w)) for w in ours), default=0.0)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a == b:
            continue
        error = abs(as_float(a) - as_float(b))
        # Sums of a matrix product are compared with the size of their terms; the others element by element.
        scale = largest if "mma" in emulated["name"] else abs(as_float(a))
        if emulated["tolerance"] and math.isfinite(error) and error <= emulated["tolerance"] * scale:
            continue
        return f"word {i}: emulated {a:#010x} ({as_float(a):g}), device {b:#010x} ({as_float(b):g})"
    return ""


def main() -> int:
    emulated, device = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    by_name = {case["name"]: case for case in device}
    failed = 0
    for case in emulated:
        found = by_name.get(case["name"])
        text = difference(case, found) if found else "not run on the device"
        failed += bool(text)
        print(f"{'DIFFERS' if text else 'same   '} {case['name']}{': ' + text if text else ''}")
    print(f"{len(emulated)} cases, {failed} differ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
