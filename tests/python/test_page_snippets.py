"""Every piece of Python in README and docs/ runs as it stands, with the demo model, where pictures of its names lie.

What asks a server asks one that is started here: the address of the page is the only thing that is changed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama4rt import Engine
from llama4rt.demo import load_showcase
from loaded_adapters import write_adapter
from serving import RunningServer, engine_fixture, running_server

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.M | re.S)
_ADDRESS = "http://127.0.0.1:8000"
_ADAPTERS = ("adapters/law", "adapters/poems")
_PICTURES = ("photo.jpg", "cat.jpg", "a.png", "b.png")

engine = engine_fixture(kv_cache_memory="64MiB")


def snippets(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


WITH_SNIPPETS = [page for page in PAGES if snippets(page)]


@pytest.fixture(scope="module")
def server(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    kept = str(tmp_path_factory.mktemp("responses"))
    names = ("demo", "scout", "model")
    with running_server(engine, served_model_names=names, response_store=kept) as server:
        yield server


@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_run(page: Path, tmp_path: Path, server: RunningServer, engine: Engine) -> None:
    """Those of one page one after the other, as somebody would type them who reads it."""
    from PIL import Image

    shown = Image.open(load_showcase().pictures[0].path).convert("RGB")
    for name in _PICTURES:
        shown.save(tmp_path / name)
    for seed, name in enumerate(_ADAPTERS):
        write_adapter(tmp_path / name, engine.config, seed=seed, rank=4)
    program = "\n\n".join(snippets(page)).replace(_ADDRESS, server.url)
    if "from openai" in program:
        pytest.importorskip("openai")
    (tmp_path / "page.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{program}"


def test_the_pages_that_people_read_first_have_some() -> None:
    names = {str(page.relative_to(ROOT)) for page in WITH_SNIPPETS}
    assert {"README.md", "docs/serving.md", "docs/images.md"} <= names
