"""scripts/sbom.py: the CycloneDX list of what is inside a wheel."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import sbom  # noqa: E402  # a script, not a package

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_list_names_what_is_inside_and_beside() -> None:
    text = sbom.make("x86_64")
    bom = json.loads(text)
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    root, components = bom["metadata"]["component"], bom["components"]
    assert (root["name"], root["version"]) == ("llama4rt", PROJECT["version"]) and "x86_64" in root[
        "description"
    ]
    assert root["purl"] == f"pkg:pypi/llama4rt@{PROJECT['version']}"
    by_name = {component["name"]: component for component in components}
    beside = {Requirement(line).name for line in PROJECT["dependencies"]}
    vendored = {package["name"]: package for package in json.loads(sbom.VENDORED.read_text())["packages"]}
    assert set(by_name) == beside | {"pybind11"} | set(sbom.LINKED_IN) | set(vendored)
    assert all(by_name[name]["version"] == package["version"] for name, package in vendored.items())
    assert by_name["katex"]["licenses"] == [{"expression": "MIT AND OFL-1.1"}]
    assert not any("version" in by_name[name] for name in beside)  # pip chooses
    locks = {name: (ROOT / f"requirements/{name}.txt").read_text() for name in ("build", "dist")}
    assert f"pybind11=={by_name['pybind11']['version']} " in locks["build"]
    assert f"ziglang=={by_name['libc++']['version'].removeprefix('of zig ')} " in locks["dist"]
    assert all(component["type"] == "library" for component in (root, *components))
    refs = [component["bom-ref"] for component in components]
    assert len({root["bom-ref"], *refs}) == 1 + len(refs)
    assert bom["dependencies"] == [{"ref": root["bom-ref"], "dependsOn": refs}]
    assert text == sbom.make("x86_64") != sbom.make("aarch64")


def test_a_wheel_gets_the_list_and_a_line_in_its_record(tmp_path: Path) -> None:
    wheel = tmp_path / "a-1-py3-none-any.whl"
    before = {"a.py": b"a = 1\n", "a-1.dist-info/RECORD": b"a.py,,\na-1.dist-info/RECORD,,\n"}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in before.items():
            archive.writestr(name, data)
    sbom.add_to_wheel(wheel, "aarch64")
    with zipfile.ZipFile(wheel) as archive:
        after = {name: archive.read(name) for name in archive.namelist()}
        assert len(after) == len(archive.namelist()) == 3
    name = "a-1.dist-info/sboms/llama4rt.cdx.json"
    assert after[name].decode() == sbom.make("aarch64") and after["a.py"] == before["a.py"]
    record = after["a-1.dist-info/RECORD"].decode()
    assert record.startswith(before["a-1.dist-info/RECORD"].decode())
    path, digest, size = record.splitlines()[-1].split(",")
    expected = base64.urlsafe_b64encode(hashlib.sha256(after[name]).digest()).rstrip(b"=").decode()
    assert (path, digest, size) == (name, f"sha256={expected}", str(len(after[name])))
