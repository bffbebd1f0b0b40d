#!/usr/bin/env python3
"""Plants the bugs of tests/mutants one at a time, in a copy of the tree, and runs the tests that should notice.

A patch is tests/mutants/AREA/NAME.patch: a sentence on what a user would meet, a line `Tests:`, where known to survive
a line `Survives: reason`, then a unified diff of a few lines. The diff's old lines must stand exactly once in the file;
line numbers do not count. `Tests:` lists pytest's node ids, or `cpp` or `simt` and parts of names for llama4rt_tests or
llama4rt_simt_tests. A hang counts as noticed; what does not compile, does not apply or names no test is an error.

First the named tests run without any bug: they must pass. Exit status 1 when a bug survives that is not said to, when
one is noticed that is said to survive, and for errors.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
PATCHES = ROOT / "tests/mutants"
WORK = Path(os.environ.get("LLAMA4RT_MUTANTS_BUILD", ROOT / "build/mutants"))
TIME_LIMIT = 300  # seconds; what takes longer hangs
BUILD_LIMIT = 3600
PROGRAMS = {"cpp": "llama4rt_tests", "simt": "llama4rt_simt_tests"}
NO_SUCH_TEST = (4, 5)  # pytest's exit statuses


class MutantError(Exception):
    """A patch, or the machinery, is wrong."""


@dataclass(frozen=True)
class Mutant:
    name: str  # area/name
    sentence: str
    tests: tuple[str, ...]
    program: str | None  # "cpp" or "simt"; None: pytest
    survives: str | None
    edits: tuple[tuple[str, str, str], ...]  # file, old, new


def read_mutant(path: Path) -> Mutant:
    """Raises MutantError for what is no patch of this form."""
    name = path.relative_to(PATCHES).with_suffix("").as_posix()
    head, marker, diff = path.read_text(encoding="utf-8").partition("--- a/")
    fields = {"Tests": "", "Survives": ""}
    sentence = []
    for line in head.splitlines():
        key, colon, value = line.partition(": ")
        if colon and key in fields:
            fields[key] += value + " "
        elif line.strip():
            sentence.append(line.strip())
    tests = fields["Tests"].split()
    if not marker or not sentence or not tests:
        raise MutantError(f"{name}: needs a sentence, a line `Tests:` and a diff")
    program = tests[0] if tests[0] in PROGRAMS else None
    if program is not None:
        tests = tests[1:]
        if not tests:
            raise MutantError(f"{name}: `Tests: {program}` must name parts of tests' names")
    return Mutant(
        name,
        " ".join(sentence),
        tuple(tests),
        program,
        fields["Survives"].strip() or None,
        tuple(_edits(name, marker + diff)),
    )


def _edits(name: str, diff: str) -> Iterator[tuple[str, str, str]]:
    for part in re.split(r"^--- a/", diff, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        file = lines[0].strip()
        if lines[1].strip() != f"+++ b/{file}":
            raise MutantError(f"{name}: --- and +++ must name the same file")
        for hunk in re.split(r"^@@.*\n", "\n".join(lines[2:]) + "\n", flags=re.MULTILINE)[1:]:
            old, new = "", ""
            for line in hunk.splitlines():
                if line[:1] in (" ", "-", ""):
                    old += line[1:] + "\n"
                if line[:1] in (" ", "+", ""):
                    new += line[1:] + "\n"
                if line[:1] not in (" ", "-", "+", ""):
                    raise MutantError(f"{name}: a line of the diff begins with {line[:1]!r}")
            if old == new:
                raise MutantError(f"{name}: a hunk changes nothing")
            yield file, old, new


def read_mutants() -> list[Mutant]:
    return [read_mutant(path) for path in sorted(PATCHES.rglob("*.patch"))]


def changed_texts(mutant: Mutant, tree: Path) -> dict[str, str]:
    """File -> its text with the bug. MutantError where the patch does not apply, or makes no Python."""
    texts: dict[str, str] = {}
    for file, old, new in mutant.edits:
        if file not in texts:
            try:
                texts[file] = (tree / file).read_text(encoding="utf-8")
            except OSError as error:
                raise MutantError(f"{mutant.name}: {error}") from None
        places = re.finditer(
            "(?=" + re.escape("\n" + old) + ")", "\n" + texts[file]
        )  # they may share a line's end
        found = sum(1 for _ in places)
        if found != 1:
            raise MutantError(f"{mutant.name}: its old lines stand {found} times in {file}; it must be once")
        texts[file] = ("\n" + texts[file]).replace("\n" + old, "\n" + new)[1:]
    for file, text in texts.items():
        if file.endswith(".py"):
            try:
                ast.parse(text)
            except SyntaxError as error:
                raise MutantError(f"{mutant.name}: {file} is no Python any more: {error}") from None
    return texts


@contextmanager
def planted(mutant: Mutant, tree: Path) -> Iterator[None]:
    """The tree with the bug in it. Every write gets a time of its own, so that nothing compiled before is taken."""
    texts = changed_texts(mutant, tree)
    before = {file: (tree / file).read_bytes() for file in texts}
    try:
        for file, text in texts.items():
            _write(tree / file, text.encode())
        yield
    finally:
        for file, data in before.items():
            _write(tree / file, data)


def _write(path: Path, data: bytes) -> None:
    later = max(time.time(), path.stat().st_mtime + 2) if path.exists() else time.time()
    path.write_bytes(data)
    os.utime(path, (later, later))


def copy_tree(tree: Path) -> None:
    """What git tracks or would track. A file that is the same keeps its time, so that little is compiled again."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    wanted = {name for name in listed if (ROOT / name).is_file()}
    for folder, _, names in os.walk(tree):
        for name in names:
            path = Path(folder, name)
            inside = path.relative_to(tree).as_posix()
            made = inside.startswith("build/") or "__pycache__" in inside or path.suffix == ".so"
            if inside not in wanted and not made:
                path.unlink()
    for name in wanted:
        target = tree / name
        data = (ROOT / name).read_bytes()
        if not target.is_file() or target.read_bytes() != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(target, data)
            shutil.copymode(ROOT / name, target)


def finished(command: list[str], folder: Path, limit: float) -> tuple[int | None, str]:
    """Exit status, None for a hang, and what it printed. Children go with it."""
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit)
        return process.returncode, output.decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return None, output.decode("utf-8", "replace")


class PythonTree:
    """A copy of the tree and an environment that takes llama4rt from it, with the native module that is installed."""

    def __init__(self, number: int) -> None:
        self.tree = WORK / f"python-{number}/tree"
        environment = WORK / f"python-{number}/venv"
        copy_tree(self.tree)
        self._python = environment / "bin/python"
        # This interpreter's folders, without the hooks of an editable install, which would come first.
        question = "import sys, llama4rt._core as c; print(c.__file__, *filter(None, sys.path), sep='\\n')"
        done = subprocess.run([sys.executable, "-c", question], cwd="/", capture_output=True, text=True)
        if done.returncode != 0:
            reason = (done.stderr.splitlines() or ["no reason"])[-1]
            raise MutantError(
                f"{sys.executable} has no llama4rt ({reason}); make mutants installs it in .venv"
            )
        native, *folders = done.stdout.splitlines()
        if not self._python.exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
        packages = next(environment.glob("lib/python*/site-packages"))
        inside = [
            str(self.tree / "python"),
            *(f for f in folders if not (Path(f) / "llama4rt/server").is_dir()),
        ]
        (packages / "mutants.pth").write_text("\n".join(inside) + "\n")
        module = self.tree / "python/llama4rt" / Path(native).name
        shutil.copy2(native, module)

        self._output = WORK / f"python-{number}/output.txt"
        self._forks = subprocess.Popen(
            [self._python, self.tree / "tests/mutants/forked_pytest.py"],
            cwd=self.tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, tests: tuple[str, ...], limit: float = TIME_LIMIT) -> tuple[int | None, str]:
        options = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", f"--timeout={limit:g}"]
        request = {"arguments": [*options, *tests], "limit": limit + 30, "output": str(self._output)}
        assert self._forks.stdin is not None and self._forks.stdout is not None
        self._forks.stdin.write(json.dumps(request) + "\n")
        self._forks.stdin.flush()
        answer = self._forks.stdout.readline().strip()
        if not answer:
            raise MutantError("the process that runs pytest has ended")
        output = self._output.read_text(encoding="utf-8", errors="replace")
        return (None if answer == "hang" else int(answer)), output

    def close(self) -> None:
        self._forks.kill()
        self._forks.wait()


class NativeTree:
    """A copy of the tree and one build folder, in which only what a bug touches is compiled."""

    def __init__(self, jobs: int) -> None:
        self.tree = WORK / "native"
        self._build = (
            self.tree / "build/tests"
        )  # where the Makefile has its own, so that ccache knows the paths
        self._jobs = str(jobs)
        copy_tree(self.tree)
        if not (self._build / "CMakeCache.txt").exists():
            options = ["-DLLAMA4RT_PYTHON=OFF", "-DLLAMA4RT_TESTS=ON", "-DLLAMA4RT_ASSERTS=ON"]
            command = ["cmake", "-S", str(self.tree), "-B", str(self._build), *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def run(self, program: str, tests: tuple[str, ...]) -> tuple[int | None, str]:
        target = PROGRAMS[program]
        build = ["cmake", "--build", str(self._build), "--target", target, "-j", self._jobs]
        status, output = finished(build, self.tree, BUILD_LIMIT)
        if status != 0:
            raise MutantError(f"does not compile:\n{output[-3000:]}")
        status, output = finished([str(self._build / "tests/cpp" / target), *tests], self.tree, TIME_LIMIT)
        if status == 0 and re.search(r"\b0 tests", output):
            raise MutantError(f"no test of {target} is called {' or '.join(tests)}")
        return status, output


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    kind: str  # noticed, survived, error
    seconds: float
    detail: str = ""

    @property
    def is_expected(self) -> bool:
        return self.kind == ("survived" if self.mutant.survives else "noticed")


def judge(mutant: Mutant, tree: Path, run: Callable[[], tuple[int | None, str]]) -> Verdict:
    began = time.monotonic()
    try:
        with planted(mutant, tree):
            status, output = run()
        if mutant.program is None and status in NO_SUCH_TEST:
            raise MutantError(f"pytest finds no test:\n{output[-500:]}")
    except MutantError as error:
        return Verdict(mutant, "error", time.monotonic() - began, str(error))
    kind = "survived" if status == 0 else "noticed"
    failed = re.search(r"^FAILED \S+::(\S+)", output, re.MULTILINE)
    detail = "hang" if status is None else failed[1] if failed else ""
    return Verdict(mutant, kind, time.monotonic() - began, detail)


def check_baseline(chosen: list[Mutant], python: PythonTree | None, native: NativeTree | None) -> None:
    """The tests pass where there is no bug; otherwise it means nothing that they fail."""
    for program in (None, *PROGRAMS):
        tests = tuple(dict.fromkeys(t for m in chosen if m.program == program for t in m.tests))
        if not tests:
            continue
        if program is None:
            assert python is not None
            status, output = python.run(tests, limit=3600)
        else:
            assert native is not None
            status, output = native.run(program, tests)
        if status != 0:
            raise MutantError(f"the tests do not pass without any bug (status {status}):\n{output[-4000:]}")


def run_all(
    chosen: list[Mutant], jobs: int, baseline: bool, report: Callable[[Verdict], None]
) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for_python = [m for m in chosen if m.program is None]
    for_native = [m for m in chosen if m.program is not None]
    trees = [PythonTree(i) for i in range(min(jobs, len(for_python)))]
    native = NativeTree(jobs) if for_native else None
    if baseline:
        check_baseline(chosen, trees[0] if trees else None, native)
    free: SimpleQueue[PythonTree] = SimpleQueue()
    for tree in trees:
        free.put(tree)

    def one(mutant: Mutant) -> Verdict:
        tree = free.get()
        try:
            return judge(mutant, tree.tree, lambda: tree.run(mutant.tests))
        finally:
            free.put(tree)

    with ThreadPoolExecutor(max(jobs, 1)) as threads:
        for done in as_completed([threads.submit(one, mutant) for mutant in for_python]):
            verdicts.append(done.result())
            report(verdicts[-1])
    for tree in trees:
        tree.close()
    for mutant in for_native:
        assert native is not None and mutant.program is not None
        here, program, tests = native, mutant.program, mutant.tests
        verdict = judge(mutant, here.tree, lambda: here.run(program, tests))  # noqa: B023  # called at once
        verdicts.append(verdict)
        report(verdict)
    return verdicts


def print_table(verdicts: list[Verdict]) -> None:
    counts: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        for row in (verdict.mutant.name.partition("/")[0], "all"):
            counts.setdefault(row, Counter())[verdict.kind] += 1
    print(f"\n{'area':<12}{'planted':>9}{'noticed':>9}{'survived':>10}{'errors':>8}")
    for row, count in counts.items():
        if row != "all":
            print(_row(row, count))
    print(_row("all", counts["all"]))


def _row(name: str, count: Counter[str]) -> str:
    return f"{name:<12}{count.total():>9}{count['noticed']:>9}{count['survived']:>10}{count['error']:>8}"


def _matches(part: str, name: str, exact: bool) -> bool:
    return part == name if exact else part in name


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Plants the bugs of tests/mutants and runs the tests that notice."
    )
    parser.add_argument("names", nargs="*", help="parts of names (area/name); none: all")
    parser.add_argument("--exact", action="store_true", help="the names are whole")
    parser.add_argument("--skip", nargs="*", default=[], metavar="PART", help="parts of names to leave out")
    parser.add_argument("--python", action="store_true", help="only bugs in Python, which need no compiler")
    parser.add_argument("--sample", type=int, metavar="N", help="N of them, by chance")
    parser.add_argument("--seed", type=int, default=0, help="of --sample (default 0)")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 8), help="at once")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a bug first")
    parser.add_argument("--list", action="store_true", help="names and sentences, nothing is run")
    options = parser.parse_args()
    try:
        chosen = [
            mutant
            for mutant in read_mutants()
            if (
                not options.names or any(_matches(part, mutant.name, options.exact) for part in options.names)
            )
            and not any(part in mutant.name for part in options.skip)
            and not (options.python and mutant.program is not None)
        ]
        if options.sample is not None and options.sample < len(chosen):
            chosen = random.Random(options.seed).sample(chosen, options.sample)
        if not chosen:
            raise MutantError("no bug has such a name")
        for mutant in chosen:
            changed_texts(mutant, ROOT)
        if options.list:
            for mutant in chosen:
                print(f"{mutant.name}: {mutant.sentence}")
            return 0

        def report(verdict: Verdict) -> None:
            note = "" if verdict.is_expected else "   <-- " + verdict.mutant.sentence
            print(
                f"{verdict.kind:<9}{verdict.seconds:6.1f} s  {verdict.mutant.name}  {verdict.detail}{note}",
                flush=True,
            )

        verdicts = run_all(chosen, options.jobs, not options.no_baseline, report)
    except MutantError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 1
    print_table(verdicts)
    for verdict in verdicts:
        if verdict.is_expected and verdict.mutant.survives:
            print(f"{verdict.mutant.name} survives: {verdict.mutant.survives}")
    return 0 if all(verdict.is_expected for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
