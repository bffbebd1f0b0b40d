#!/usr/bin/env python3
"""Checks what no linter knows: who includes whom, where intrinsics live, and what the library never does.

The table of layers is read from docs/architecture.md, so the page cannot fall behind the code. Reads only files that
git tracks or would track. Prints one line per finding; exit status 1 when there are any.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs/architecture.md"

INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)')
TESTS_ONLY = {"simt_emulator"}  # a folder of tests/ that csrc/cuda includes in test builds
# Intrinsics live in the folders of csrc/cpu that belong to one architecture; no row of the table names those.
INTRINSICS_FOLDERS = ("cpu/x86/", "cpu/arm/")
INTRINSICS_HEADER = re.compile(r"^(cpuid|\w*intrin|amx\w+|arm_\w+)\.h$")
INTRINSICS = re.compile(
    r"\b_(?:mm|mm256|mm512|tile)_\w+\(|\b__m(?:64|128|256|512)[id]?\b"
    r"|\b__builtin_(?:ia32|aarch64|neon|cpu)_\w+|\b(?:float|u?int|poly)(?:8|16|32|64)x\d+(?:x\d)?_t\b"
)
INTRINSICS_ALLOWED = {"base/spin_pause.h"}  # one instruction, named with its architecture
# The library throws; it neither prints nor ends the process that loaded it.
PRINTS_OR_EXITS = re.compile(
    r"\bstd::(?:cout|cerr|clog|exit|abort|terminate|quick_exit|f?printf|f?puts)\b"
    r"|(?<![\w:.>])(?:::)?(?:v?f?printf|f?puts|perror|_?exit)\s*\("
)
VENDORED = ("python/llama4rt/server/page/vendor/", "tests/python/vendor/")  # as their authors published them
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|work|tmp/[a-z]+_)/?[\w.-]*")

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "print", "input"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle"}
FORBIDDEN_ATTRIBUTES = {
    "sys.exit",
    "os._exit",
    "os.abort",
    "os.system",
    "yaml.load",
    "torch.load",
    "numpy.load",
    "np.load",
}
MAY_PRINT_AND_EXIT = ("python/llama4rt/cli/", "python/llama4rt/__main__.py")
MAY_END_ABRUPTLY = (
    "python/llama4rt/workers/forked_answers.py",  # a fork, which must not run its parent's exit handlers
    "python/llama4rt/cli/supervisor.py",  # where a thread hangs nothing else ends the process
)


def tracked_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def layer_table() -> dict[str, set[str]]:
    """Rows `| folder | may include |` between the two markers: folder -> folders and single headers it may include.

    A row too wide for the page goes on in another one of the same folder.
    """
    text = TABLE.read_text()
    match = re.search(r"<!-- layers -->(.*?)<!-- end of layers -->", text, re.S)
    if not match:
        sys.exit(f"{TABLE}: no table between <!-- layers --> and <!-- end of layers -->")
    table: dict[str, set[str]] = {}
    for row in match[1].strip().splitlines()[2:]:  # two lines of heading
        cells = [re.findall(r"`([^`]+)`", cell) for cell in row.strip().strip("|").split("|")]
        for folder in cells[0]:
            table.setdefault(folder, set()).update(cells[1])
    return table


def without_comments(line: str) -> str:
    return re.sub(r'"(?:\\.|[^"\\])*"', '""', line).split("//")[0]


def layer_of(name: str, table: dict[str, set[str]]) -> str:
    """The row of a file or folder of csrc: itself, or the innermost folder that has a row. Without one: its folder."""
    parts = name.split("/")
    rows = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((row for row in rows if row in table), "/".join(parts[:-1]) or name)


def check_table(table: dict[str, set[str]], included: dict[str, set[str]]) -> Iterator[str]:
    """Rows name rows above them, so that no circle can be; and nothing that they do not include.

    included: for each row, the rows and the single files that its files include.
    """
    above: set[str] = set()
    for layer, allowed in table.items():
        where = f"{TABLE.relative_to(ROOT)}: row {layer}"
        if not (ROOT / "csrc" / layer).exists():
            yield f"{where}: there is no csrc/{layer}"
        for name in sorted(allowed - TESTS_ONLY):
            if layer_of(name, table) not in above:
                yield f"{where}: {name} does not stand above it"
        for name in sorted(allowed - included.get(layer, set())):
            yield f"{where}: includes nothing of {name}"
        above.add(layer)


def check_cpp(path: Path, table: dict[str, set[str]], included: dict[str, set[str]]) -> Iterator[str]:
    name = path.relative_to(ROOT / "csrc").as_posix()
    layer = layer_of(name, table)
    if layer not in table:
        yield f"csrc/{name}: {layer} is not in the table of layers in docs/architecture.md"
        return
    allowed = table[layer]
    own_architecture = name.startswith(INTRINSICS_FOLDERS)
    for number, line in enumerate(path.read_text().splitlines(), 1):
        where = f"csrc/{name}:{number}"
        if match := INCLUDE.match(line):
            own, system = match[1], match[2]
            if own:
                names = {own, layer_of(own, table)}
                included.setdefault(layer, set()).update(names)
                if not {layer, *allowed} & names:
                    yield f"{where}: {layer} may not include {own}"
            if system and INTRINSICS_HEADER.match(system) and not own_architecture:
                yield f"{where}: <{system}> belongs in csrc/cpu/x86 or csrc/cpu/arm"
            continue
        code = without_comments(line)
        if (match := INTRINSICS.search(code)) and not own_architecture and name not in INTRINSICS_ALLOWED:
            yield f"{where}: {match[0]}: intrinsics belong in csrc/cpu/x86 or csrc/cpu/arm"
        if match := PRINTS_OR_EXITS.search(code):
            yield f"{where}: {match[0]}: the library neither prints nor exits"


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def check_python(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    command_line = name.startswith(MAY_PRINT_AND_EXIT)
    for node in ast.walk(ast.parse(path.read_text(), name)):
        found = ""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            found = node.func.id
        elif isinstance(node, ast.Attribute) and dotted(node) in FORBIDDEN_ATTRIBUTES:
            found = dotted(node)
        elif isinstance(node, ast.Import):
            found = next((a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES), "")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found = node.module or ""
        if found == "os._exit" and name in MAY_END_ABRUPTLY:
            continue
        if found and not (command_line and found in {"print", "input", "sys.exit"}):
            yield f"{name}:{getattr(node, 'lineno', 0)}: {found} is not used in this package"


def check_paths(path: Path) -> Iterator[str]:
    """A path of somebody's machine: it works for one person, and tells about that person."""
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        return
    for number, line in enumerate(lines, 1):
        if match := MACHINE_PATH.search(line):
            yield f"{path.relative_to(ROOT)}:{number}: a path of one machine: {match[0]}"


def main() -> int:
    table = layer_table()
    findings: list[str] = []
    included: dict[str, set[str]] = {}
    for path in tracked_files():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("csrc/") and path.suffix in {".h", ".cpp", ".cu", ".cuh"}:
            findings += check_cpp(path, table, included)
        if name.startswith("python/") and path.suffix == ".py":
            findings += check_python(path)
        if path != Path(__file__).resolve() and not name.startswith(VENDORED):
            findings += check_paths(path)
    findings += check_table(table, included)
    for finding in findings:
        print(finding)
    print(f"layers: {len(findings)} findings" if findings else "layers: nothing found")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
