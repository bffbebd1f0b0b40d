"""Builds the wheel, looks inside, installs it into fresh environments and tries it there.

  check_wheel.py                              with the Python that runs this, using the build tools installed beside it
  check_wheel.py --python PY [--python PY]    with others
  check_wheel.py --newest                     builds in isolation, takes the newest dependencies: `pip install .`

Without --newest all packages come from requirements/, the build tools of other Pythons too.
Prints one line per check and leaves the wheels in dist/. Exit status 1 when a check fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
MAX_IMPORT_SECONDS = 0.3
MAX_WHEEL_BYTES = 30_000_000
MAX_DEMO_SECONDS = 60
PAGE = ROOT / "python/llama4rt/server/page"
MAX_PAGE_BYTES = 3_000_000

# Runs in the fresh environment, before and after the native module is loaded.
PROBE = """
import sys, threading
import llama4rt
assert threading.active_count() == 1, threading.enumerate()
assert len(__import__("os").listdir("/proc/self/task")) == 1, "import starts a thread"
heavy = {"torch", "transformers", "numpy", "jinja2", "huggingface_hub", "tiktoken"} & set(sys.modules)
assert not heavy, f"import llama4rt loads {heavy}"
from llama4rt import _core, Engine, AsyncEngine, SamplingParams
assert llama4rt.__version__ == __import__("importlib.metadata").metadata.version("llama4rt")
assert "torch" not in sys.modules
print(llama4rt.__version__, _core.build_info()["selected_isa"])
"""

failures: list[str] = []


def report(ok: bool, text: str) -> None:
    print(f"{'ok  ' if ok else 'FAIL'} {text}", flush=True)
    if not ok:
        failures.append(text)


def output_of(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def install_locked(python: str | Path, name: str) -> None:
    """Installs requirements/{name}.txt, and nothing else, into that Python's environment."""
    locked = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", REQUIREMENTS / f"{name}.txt"]
    output_of(python, "-m", "pip", "install", "-q", *locked)


def build_wheel(python: str, newest: bool) -> Path:
    with tempfile.TemporaryDirectory() as scratch:
        flags = ["--no-deps", *([] if newest else ["--no-build-isolation"])]
        builder: str | Path = python
        environment = dict(os.environ)
        if not newest and python != sys.executable:
            output_of(python, "-m", "venv", f"{scratch}/venv")
            builder = Path(scratch) / "venv/bin/python"
            environment["PATH"] = f"{builder.parent}:{environment['PATH']}"  # its cmake and ninja
            install_locked(builder, "build")
        command = [builder, "-m", "pip", "wheel", "-q", *flags, "-w", f"{scratch}/wheel", ROOT]
        output_of(*command, environment=environment)
        (built,) = Path(scratch, "wheel").glob("*.whl")
        (ROOT / "dist").mkdir(exist_ok=True)
        return Path(shutil.copy(built, ROOT / "dist"))


def check_contents(wheel: Path) -> None:
    size = wheel.stat().st_size
    report(size <= MAX_WHEEL_BYTES, f"{wheel.name}: {size / 1e6:.2f} MB")
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as scratch:
        names = archive.namelist()
        demo = ("llama4rt/demo/demo.l4e", "llama4rt/demo/showcase.json", "llama4rt/demo/scene-1.png")
        wanted = ("llama4rt/py.typed", "llama4rt/_core.pyi", "licenses/LICENSE", "entry_points.txt", *demo)
        for name in wanted:
            report(any(found.endswith(name) for found in names), f"contains {name}")
        inside = {
            p.relative_to(ROOT / "python").as_posix() for p in (ROOT / "python/llama4rt").rglob("*.py*")
        }
        missing = sorted(name for name in inside - set(names) if "__pycache__" not in name)
        report(not missing, f"contains every module of python/llama4rt {missing or ''}")
        check_page(archive)
        stray = [n for n in names if not n.startswith(("llama4rt/", "llama4rt-")) or "__pycache__" in n]
        report(not stray, f"contains nothing else {stray or ''}")
        (native,) = [name for name in names if name.startswith("llama4rt/_core.") and name.endswith(".so")]
        check_native(Path(archive.extract(native, scratch)))


def check_page(archive: zipfile.ZipFile) -> None:
    """The files of the server's pages, all of them and with the licences of what others wrote."""
    inside = {p.relative_to(ROOT / "python").as_posix() for p in PAGE.rglob("*") if p.is_file()}
    packed = {
        i.filename: i  # auditwheel packs folders as entries of their own
        for i in archive.infolist()
        if i.filename.startswith("llama4rt/server/page/") and not i.is_dir()
    }
    report(packed.keys() == inside, f"contains the server's pages {sorted(packed.keys() ^ inside) or ''}")
    size = sum(info.file_size for info in packed.values())
    small = sum(info.compress_size for info in packed.values())
    report(size <= MAX_PAGE_BYTES, f"the pages: {size / 1e6:.2f} MB, {small / 1e6:.2f} MB compressed")
    licences = {p.relative_to(ROOT).as_posix() for p in PAGE.glob("vendor/*/LICENSE*")}
    shipped = [name for name in archive.namelist() if ".dist-info/licenses/" in name]
    absent = [name for name in licences if not any(found.endswith(f"licenses/{name}") for found in shipped)]
    report(bool(licences) and not absent, f"contains the licences of vendored files {absent or ''}")


def check_native(library: Path) -> None:
    """What a careful distributor looks for in a shared library."""
    if not shutil.which("readelf"):
        return print("     (no readelf: the native module's sections were not looked at)")
    dynamic = output_of("readelf", "-dW", library)
    sections = output_of("readelf", "-SW", library)
    segments = output_of("readelf", "-lW", library)
    symbols = output_of("readelf", "--dyn-syms", "-W", library)
    report("RPATH" not in dynamic and "RUNPATH" not in dynamic, "native module has no RPATH")
    report("GNU_RELRO" in segments and "NOW" in dynamic, "native module has full RELRO")
    stack = next(line for line in segments.splitlines() if "GNU_STACK" in line)
    report("RWE" not in stack, "native module has no executable stack")
    report(".symtab" not in sections and ".debug_info" not in sections, "native module is stripped")
    report("__stack_chk_fail" in symbols, "native module uses the stack protector")
    report("_chk@" in symbols, "native module uses _FORTIFY_SOURCE")
    data = library.read_bytes()
    if "GLIBCXX" in symbols:  # LLVM's library traps without a word, which nothing in the file shows
        report(b"__glibcxx_assert_fail" in data, "native module checks the bounds of containers")
    header = output_of("readelf", "-h", library)
    landing = {"X86-64": b"\xf3\x0f\x1e\xfa", "AArch64": b"\x5f\x24\x03\xd5"}  # endbr64, bti c
    pads = next((data.count(pad) for processor, pad in landing.items() if processor in header), 0)
    report(pads > 100, f"native module marks where indirect jumps may land ({pads} places)")
    defined = [
        line.split()[-1]
        for line in symbols.splitlines()
        if " GLOBAL DEFAULT " in line and " UND " not in line
    ]
    foreign = [name for name in defined if name != "PyInit__core" and "llama4rt" in name]
    report(not foreign, f"native module exports PyInit__core only {foreign[:3] or ''}")


def check_installed(python: str, wheel: Path, newest: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        output_of(python, "-m", "venv", scratch)
        fresh = Path(scratch) / "bin/python"
        if not newest:
            install_locked(fresh, "run")
        output_of(fresh, "-m", "pip", "install", "-q", *([] if newest else ["--no-deps"]), wheel)
        output_of(fresh, "-m", "pip", "check")  # what is there is all that the wheel asks for
        report(True, f"runs in a fresh environment: {output_of(fresh, '-c', PROBE).strip()}")
        seconds = []
        clock = "import time; t = time.perf_counter(); import llama4rt; print(time.perf_counter() - t)"
        for _ in range(5):
            seconds.append(float(output_of(fresh, "-c", clock)))
        middle = statistics.median(seconds)
        report(middle < MAX_IMPORT_SECONDS, f"import llama4rt takes {1000 * middle:.0f} ms")
        version = output_of(Path(scratch) / "bin/llama4rt", "--version").strip()
        same = version == output_of(fresh, "-m", "llama4rt", "--version").strip()
        report(same and version.startswith("llama4rt "), f"llama4rt --version: {version}")
        check_demo(Path(scratch) / "bin/llama4rt", Path(scratch))


def check_demo(command: Path, scratch: Path) -> None:
    """The model that ships answers, and draws its contact sheet, from somewhere else than the source tree."""
    start = time.perf_counter()
    done = subprocess.run(
        [command, "demo", "--sheet", "sheet.png"], cwd=scratch, capture_output=True, text=True, timeout=600
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        return report(False, f"llama4rt demo: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    said = next(
        (line for line in done.stdout.splitlines() if line.endswith("answers are right.")), "no score"
    )
    numbers = [int(word) for word in said.split() if word.isdigit()]
    report(len(numbers) == 2 and numbers[0] >= 0.9 * numbers[1], f"llama4rt demo: {said}")
    report(seconds < MAX_DEMO_SECONDS, f"llama4rt demo takes {seconds:.1f} s")
    sheet = scratch / "sheet.png"
    report(sheet.is_file() and sheet.read_bytes()[:4] == b"\x89PNG", "llama4rt demo draws its sheet")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--python", action="append", default=[], help="a Python to build and try with; may be repeated"
    )
    parser.add_argument("--newest", action="store_true", help="without requirements/, as a user's pip does")
    args = parser.parse_args()
    for python in args.python or [sys.executable]:
        print(f"== {output_of(python, '--version').strip()}", flush=True)
        wheel = build_wheel(python, args.newest)
        check_contents(wheel)
        check_installed(python, wheel, args.newest)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
