"""The CycloneDX list of what a wheel holds, as PEP 770 places it: llama4rt-VERSION.dist-info/sboms/."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent


def make(processor: str) -> str:
    """JSON. Inside are our code, pybind11's headers and the C++ library of zig's LLVM; beside it, what pip adds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bom = Bom()
    root = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.LIBRARY,
        purl=PackageURL("pypi", None, project["name"], project["version"]),
        description=f"{project['description']} ({processor})",
    )
    bom.metadata.component = root
    inside = [_pypi("pybind11", _locked("pybind11"))]
    zig = metadata.version("ziglang")
    inside += [
        Component(name=name, version=f"of zig {zig}", type=ComponentType.LIBRARY, description="linked in")
        for name in ("libc++", "libc++abi", "libunwind", "compiler-rt")
    ]
    required = [_pypi(re.split(r"[<>=~! \[]", line)[0], None) for line in project["dependencies"]]
    for component in inside + required:
        bom.components.add(component)
    bom.register_dependency(root, inside + required)
    return JsonV1Dot6(bom).output_as_string(indent=2)


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


def _pypi(name: str, version: str | None) -> Component:
    return Component(
        name=name, version=version, type=ComponentType.LIBRARY, purl=PackageURL("pypi", None, name, version)
    )


def _locked(name: str) -> str | None:
    found = re.search(rf"^{name}==([^\s;\\]+)", (ROOT / "requirements/build.txt").read_text(), re.M)
    return found[1] if found else None
