"""The planted bugs of tests/mutants: every patch applies, and a few of them are noticed (`make mutants` tries all)."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import mutants  # noqa: E402  # a script, not a package

LEAST = 100
# The sample is of bugs whose tests take no server and no checkpoint: a few seconds each.
QUICK = (
    "test_sampling_params.py",
    "test_config.py",
    "test_workers.py",
    "test_image_fetch.py",
    "test_engine_cache.py",
)


def planted() -> list[mutants.Mutant]:
    return mutants.read_mutants()


def test_every_patch_applies_and_names_its_tests() -> None:
    found = planted()
    assert len(found) >= LEAST
    for mutant in found:
        assert mutants.changed_texts(mutant, ROOT)
        changed = sum(
            1
            for old, new in ((old, new) for _, old, new in mutant.edits)
            for a in old.splitlines()
            if a not in new
        )
        assert changed <= 8, f"{mutant.name} changes {changed} lines"
        if mutant.program is None:
            for test in mutant.tests:
                file, _, name = test.partition("::")
                text = (ROOT / file).read_text(encoding="utf-8")
                wanted = name.partition("[")[0]
                assert not wanted or re.search(rf"^(async )?def {wanted}\(", text, re.MULTILINE), (
                    f"{mutant.name}: {test}"
                )


def test_the_survivors_say_why_and_are_few() -> None:
    found = planted()
    survivors = [mutant for mutant in found if mutant.survives]
    assert all(len(mutant.survives or "") > 20 for mutant in survivors)
    assert len(survivors) <= 0.03 * len(found)


def test_a_patch_that_does_not_apply_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "PATCHES", tmp_path)
    patch = tmp_path / "area/name.patch"
    patch.parent.mkdir()
    head = "Something goes wrong.\nTests: tests/python/test_config.py\n\n--- a/file.py\n+++ b/file.py\n@@ -1 +1 @@\n"
    (tmp_path / "file.py").write_text("a = 1\nb = 2\nb = 2\n")
    for diff, what in (
        ("-a = 3\n+a = 4\n", "0 times"),
        ("-b = 2\n+b = 3\n", "2 times"),
        ("-a = 1\n+a = (\n", "no Python"),
    ):
        patch.write_text(head + diff)
        with pytest.raises(mutants.MutantError, match=what):
            mutants.changed_texts(mutants.read_mutant(patch), tmp_path)
    patch.write_text("Something goes wrong.\n\n--- a/file.py\n+++ b/file.py\n")
    with pytest.raises(mutants.MutantError, match="Tests"):
        mutants.read_mutant(patch)


def test_the_tree_is_as_before_afterwards(tmp_path: Path) -> None:
    mutant = mutants.Mutant("area/name", "", (), None, None, (("file.py", "a = 1\n", "a = 2\n"),))
    (tmp_path / "file.py").write_text("a = 1\n")
    with mutants.planted(mutant, tmp_path):
        assert (tmp_path / "file.py").read_text() == "a = 2\n"
    assert (tmp_path / "file.py").read_text() == "a = 1\n"


def test_a_few_are_noticed() -> None:
    """Other ones each time; a failure names them."""
    quick = [
        mutant
        for mutant in planted()
        if mutant.program is None and all(test.partition("::")[0].endswith(QUICK) for test in mutant.tests)
    ]
    assert len(quick) > 10
    names = [mutant.name for mutant in random.sample(quick, 3)]
    command = [sys.executable, "scripts/mutants.py", "--jobs=1", "--exact", *names]
    own_folder = os.environ | {
        "LLAMA4RT_MUTANTS_BUILD": str(ROOT / "build/mutants-sample")
    }  # make mutants may run
    found = subprocess.run(command, cwd=ROOT, env=own_folder, capture_output=True, text=True, timeout=280)
    assert found.returncode == 0, f"{names}\n{found.stdout}\n{found.stderr}"
