"""The official JSON-Schema-Test-Suite, draft 2020-12: each of its schemas is enforced or refused, none passed over.

The suite comes inside the source archive of the package jsonschema, taken from the package index: a soak test.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llguidance")

from llama4rt import Engine, RequestError, StructuredOutput
from llama4rt.demo import engine_path

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements/schema-suite.txt"
SUITE = "json/tests/draft2020-12/"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """File name -> groups of tests. Optional tests (formats, big numbers) are among them."""
    place = tmp_path_factory.mktemp("suite")
    source_only = ["--no-deps", "--require-hashes", "--no-binary", ":all:", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "download", "-q", *source_only, "-d", place, "-r", REQUIREMENTS]
    subprocess.run(command, check=True, timeout=600)
    (archive,) = place.glob("jsonschema-*.tar.gz")
    files = {}
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            _, found, name = member.name.partition(SUITE)
            if found and name.endswith(".json"):
                data = tar.extractfile(member)
                assert data is not None
                files[name] = json.loads(data.read())
    assert len(files) > 60 and sum(len(groups) for groups in files.values()) > 400
    return files


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(engine_path(), num_threads=1, kv_cache_memory="16MiB") as engine:
        yield engine


def texts_of(data: Any) -> set[str]:
    """Ways to write a value: keys of its outermost object in several orders, integers as numbers with a fraction."""
    values = [data]
    if isinstance(data, dict):
        orders = itertools.islice(itertools.permutations(data.items()), 24)
        values = [dict(items) for items in orders]
    try:
        texts = {json.dumps(value, ensure_ascii=False) for value in values}
        texts |= {json.dumps(value) for value in values}
        "".join(texts).encode()
    except UnicodeEncodeError:  # half a surrogate pair has no text
        return {json.dumps(value) for value in values}
    return texts


def test_each_schema_is_enforced_or_refused(engine: Engine, suite: dict[str, Any]) -> None:
    compiler = engine._grammars()
    tokenizer, end = engine.tokenizer, engine.config["eos_token_ids"][0]
    assert tokenizer is not None
    counts: Counter[str] = Counter()
    accepted_silently: list[str] = []
    narrower: Counter[str] = Counter()
    for name, groups in suite.items():
        for group in groups:
            try:
                matcher = compiler._compiled(StructuredOutput.json_schema(group["schema"])).matcher
            except RequestError:
                counts["schemas refused"] += 1
                continue
            counts["schemas enforced"] += 1
            for test in group["tests"]:
                taken = []
                for text in texts_of(test["data"]):
                    ids = [*tokenizer.encode(text), end]
                    if matcher.deep_copy().validate_tokens(ids) == len(ids):
                        taken.append(text)
                if taken and not test["valid"]:
                    accepted_silently.append(
                        f"{name}: {group['description']}: {test['description']}: {taken[0]}"
                    )
                elif test["valid"] and not taken:
                    narrower[name] += 1
                counts["valid" if test["valid"] else "invalid"] += 1
    print(dict(counts), "valid but never written:", dict(narrower))
    assert counts["schemas enforced"] > 150 and counts["invalid"] > 300  # nothing was passed over here either
    assert not accepted_silently, "\n".join(accepted_silently)
