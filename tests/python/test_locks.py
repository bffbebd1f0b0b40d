"""requirements/: what make installs is there in one version per Python, hashed, within pyproject.toml's ranges."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "requirements"
LOCKS = sorted(path.stem for path in FOLDER.glob("*.txt"))
WITHOUT_HASH = {"torch", "torchvision"}  # indexes serve different builds
ORACLES = {"torch", "transformers", "compressed-tensors", "tokenizers", "jsonschema", "gguf"}
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
RANGES = {
    "build": PROJECT["build-system"]["requires"],
    "run": PROJECT["project"]["dependencies"],
    **{extra: EXTRAS[extra] for extra in ("serve", "dev", "test", "soak")},
}


def pins(name: str) -> list[tuple[Requirement, list[str]]]:
    """Every pin of a lock and of those it builds upon, with its hashes."""
    text = (FOLDER / f"{name}.txt").read_text().replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line.startswith("-r "):
            found += pins(line.removeprefix("-r ").removesuffix(".txt"))
        elif line and not line.startswith("#"):
            words, *hashes = re.split(r"\s+--hash=", line)
            found.append((Requirement(words), hashes))
    return found


def applies(requirement: Requirement, python: str) -> bool:
    """On Linux, x86-64."""
    environment = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
    environment |= {"platform_machine": "x86_64", "implementation_name": "cpython", "extra": ""}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def versions(name: str, python: str) -> dict[str, str]:
    """What pip installs of it; fails when a package is there twice."""
    found: dict[str, str] = {}
    for requirement, _ in pins(name):
        if applies(requirement, python):
            (specifier,) = requirement.specifier
            package = canonicalize_name(requirement.name)
            assert specifier.operator == "==" and package not in found, requirement
            found[package] = specifier.version
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_a_hash_and_no_place(name: str) -> None:
    assert pins(name)
    for requirement, hashes in pins(name):
        assert bool(hashes) == (requirement.name not in WITHOUT_HASH), requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value.strip()) for value in hashes), requirement
        assert requirement.url is None
    options = re.findall(r"^\s*(-.*)", (FOLDER / f"{name}.txt").read_text(), re.M)
    assert all(option.startswith(("-r ", "--hash=sha256:")) for option in options)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", RANGES)
def test_locks_fit_the_ranges_of_pyproject(name: str, python: str) -> None:
    """Fails when pyproject.toml was changed without `make lock`."""
    locked = versions(name, python) | versions("torch", python)
    for text in RANGES[name]:
        requirement = Requirement(text)
        if requirement.name != "llama4rt" and applies(requirement, python):
            version = locked.get(canonicalize_name(requirement.name))
            assert version and requirement.specifier.contains(version), (text, version)


@pytest.mark.parametrize("python", PYTHONS)
def test_what_tests_compare_with_does_not_float(python: str) -> None:
    """`pip install '.[test]'` takes of each oracle the one version that is locked; only `make test-newest` another."""
    locked = versions("test", python) | versions("torch", python)
    asked = [one for one in map(Requirement, EXTRAS["test"]) if applies(one, python)]
    for oracle in ORACLES:
        (specifier,) = [str(one.specifier) for one in asked if one.name == oracle]
        assert specifier == f"=={locked[oracle]}", oracle
    newest = [Requirement(line) for line in (FOLDER / "newest.in").read_text().splitlines() if line[0] != "#"]
    assert {one.name for one in newest} == ORACLES - WITHOUT_HASH
    for one in newest:
        assert "==" not in str(one.specifier) and one.specifier.contains(locked[one.name]), one


@pytest.mark.parametrize("python", PYTHONS)
def test_one_environment_holds_them_all(python: str) -> None:
    together: dict[str, str] = {}
    for name in (*RANGES, "sdist-build", "nvcc"):
        for package, version in versions(name, python).items():
            assert together.setdefault(package, version) == version, (name, package)
