"""The CycloneDX list of what a wheel holds, as PEP 770 places it: llama4rt-VERSION.dist-info/sboms/."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
VENDORED = ROOT / "python/llama4rt/server/page/vendor/vendor.json"
LINKED_IN = ("libc++", "libc++abi", "libunwind", "compiler-rt")  # by zig, of its LLVM


def make(processor: str) -> str:
    """JSON of CycloneDX 1.6, the same each time: neither a date nor a serial number. Inside are our code, pybind11's
    headers, what zig links in and the JavaScript of the server's pages; beside it, in any version that pip chooses,
    what the project depends on.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    root = _pypi(project["name"], project["version"])
    root["description"] = f"{project['description']} ({processor})"
    zig = f"of zig {_locked('dist', 'ziglang')}"
    components = [
        _pypi("pybind11", _locked("build", "pybind11")),
        *(_library(name, f"zig/{name}", version=zig, description="linked in") for name in LINKED_IN),
        *(_npm(package) for package in json.loads(VENDORED.read_text())["packages"]),
        *(_pypi(re.split(r"[<>=~!; \[]", line)[0]) for line in project["dependencies"]),
    ]
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": root},
        "components": components,
        "dependencies": [{"ref": root["bom-ref"], "dependsOn": [one["bom-ref"] for one in components]}],
    }
    return json.dumps(bom, indent=2) + "\n"


def add_to_wheel(wheel: Path, processor: str) -> None:
    """Writes the list into the wheel and its RECORD."""
    with zipfile.ZipFile(wheel) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
        entries = {info: archive.read(info) for info in archive.infolist()}
    data = make(processor).encode()
    name = f"{record.rpartition('/')[0]}/sboms/llama4rt.cdx.json"
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, content in entries.items():
            if info.filename == record:
                content += f"{name},sha256={digest},{len(data)}\n".encode()
                archive.writestr(name, data)
            archive.writestr(info, content)


def _library(name: str, ref: str, **more: str) -> dict[str, Any]:
    return {"bom-ref": ref, "type": "library", "name": name, **more}


def _pypi(name: str, version: str | None = None) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}" + (f"@{version}" if version else "")
    return _library(name, purl, purl=purl, **({"version": version} if version else {}))


def _npm(package: dict[str, Any]) -> dict[str, Any]:
    name, version = package["name"], package["version"]
    purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
    licences = [{"expression": package["licence"]}]
    return _library(name, purl, purl=purl, version=version) | {"licenses": licences}


def _locked(lock: str, name: str) -> str:
    """The version that requirements/{lock}.txt installs, which must be one for all Pythons."""
    (version,) = re.findall(rf"^{name}==([^\s;\\]+)", (ROOT / f"requirements/{lock}.txt").read_text(), re.M)
    return str(version)
