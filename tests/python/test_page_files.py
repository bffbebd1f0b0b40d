"""The files behind the pages: vendored ones are what their list says, sizes, headers, and nothing beside."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from llama4rt.server import page_files
from page_driver import server_fixture
from serving import RunningServer, engine_fixture

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "python/llama4rt/server/page"
VENDORED = (PAGE / "vendor", ROOT / "tests/python/vendor")
MAX_PAGE_BYTES = 3_000_000
MAX_MODULE_LINES = 400

engine = engine_fixture(kv_cache_memory="32MiB")
server = server_fixture(api_keys=("secret",))


def manifest(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "vendor.json").read_text())["packages"])


@pytest.mark.parametrize("folder", VENDORED, ids=["page", "tests"])
def test_vendored_files_are_what_was_looked_at(folder: Path) -> None:
    listed = {"vendor.json"}
    for package in manifest(folder):
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"]) and package["licence"]
        assert any(Path(name).name == "LICENSE" for name in package["files"]), package["name"]
        for name, entry in package["files"].items():
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            assert digest == entry["sha256"], f"{name}: see scripts/vendor_page.py"
            listed.add(name)
    assert listed == {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_fetching_again_refuses_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scripts/vendor_page.py, with a package of this test's own instead of the registry's."""
    spec = importlib.util.spec_from_file_location("vendor_page", ROOT / "scripts/vendor_page.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def packed(_name: str, version: str, folder: Path) -> Path:
        import tarfile

        (folder / "package").mkdir()
        (folder / "package/a.js").write_text(f"export const version = {version!r};\n")
        with tarfile.open(folder / "a.tgz", "w:gz") as archive:
            archive.add(folder / "package/a.js", "package/a.js")
        return folder / "a.tgz"

    monkeypatch.setattr(script, "packed", packed)
    monkeypatch.setattr(script, "integrity", lambda _: "sha512-same")
    package: dict[str, Any] = {"name": "a", "version": "1.0.0", "files": {"a/a.js": {"from": "a.js"}}}
    path = tmp_path / "vendor.json"
    path.write_text(json.dumps({"packages": [package]}))
    assert script.fetch(path, update=True) == [] and script.fetch(path, update=False) == []
    changed = json.loads(path.read_text())
    changed["packages"][0]["version"] = "1.0.1"
    path.write_text(json.dumps(changed))
    (finding,) = script.fetch(path, update=False)
    assert finding.startswith("a.js: sha256 ") and "1.0.0" in (tmp_path / "a/a.js").read_text()
    monkeypatch.setattr(script, "integrity", lambda _: "sha512-other")
    (finding,) = script.fetch(path, update=False)
    assert finding == "a: sha512-other; expected sha512-same"


def test_sizes() -> None:
    assert sum(path.stat().st_size for path in PAGE.rglob("*") if path.is_file()) < MAX_PAGE_BYTES
    for path in (*PAGE.glob("js/*.js"), *PAGE.glob("css/*.css"), *PAGE.glob("*.html")):
        lines = path.read_text().splitlines()
        assert len(lines) <= MAX_MODULE_LINES, path.name
        assert all(len(line) <= 120 for line in lines), path.name


def test_the_page_s_own_files_are_quiet() -> None:
    """No address of another server, nothing that makes code or markup of text, no style within the markup."""
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    forbidden = rf"https?://(?!www\.w3\.org/)|{markup}"
    for path in (*PAGE.glob("js/*.js"), *PAGE.glob("css/*.css"), *PAGE.glob("*.html"), *PAGE.glob("*.svg")):
        assert not re.search(forbidden, path.read_text()), path.name
    for path in PAGE.glob("*.html"):
        assert not re.search(r"\bstyle=|\bon[a-z]+=|<style|<script>", path.read_text()), path.name


def test_every_file_is_served_to_anybody_with_the_policy(server: RunningServer) -> None:
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        for path, file in page_files.FILES.items():
            reply = client.get(path)
            assert reply.status_code == 200 and reply.content == file.read_bytes(), path
            policy = reply.headers["content-security-policy"]
            assert "unsafe" not in policy and "default-src 'none'" in policy and "http" not in policy
            assert reply.headers["x-content-type-options"] == "nosniff"
            again = client.get(path, headers={"if-none-match": reply.headers["etag"]})
            assert again.status_code == 304 and not again.content
            changed = client.get(path, headers={"if-none-match": '"of an older version"'})
            assert changed.status_code == 200 and reply.headers["cache-control"] == "no-cache"
        types = {
            p: client.head(p).headers["content-type"] for p in ("/", "/page/js/main.js", "/page/css/base.css")
        }
        assert [kind.partition(";")[0] for kind in types.values()] == [
            "text/html",
            "text/javascript",
            "text/css",
        ]
        # What is no file of the pages asks for the key, as all unknown paths do.
        for path in (
            "/page/",
            "/page/vendor/vendor.json",
            "/page/../app.py",
            "/page/%2e%2e/app.py",
            "/page/index.html",
        ):
            assert client.get(path).status_code == 401, path
        assert client.get("/page/none.js", headers={"authorization": "Bearer secret"}).status_code == 404
        assert client.post("/page/js/main.js", json={}).status_code == 405
