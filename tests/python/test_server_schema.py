"""Schemathesis over the server's own OpenAPI document: whatever comes, no 5xx, and every reply is as described."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, Phase, settings  # noqa: E402
from llama4rt import Engine  # noqa: E402
from llama4rt.demo import engine_path  # noqa: E402
from llama4rt.server.openapi import document  # noqa: E402
from serving import RunningServer, running_server  # noqa: E402

SOAK = os.environ.get("LLAMA4RT_SOAK", "") not in ("", "0")
# Random cases of each operation that has so many different ones: 20,000 cases in all for the long run.
EXAMPLES = int(os.environ.get("LLAMA4RT_SCHEMA_EXAMPLES", 3_200 if SOAK else 12))

pytestmark = [pytest.mark.soak] if SOAK else []

asked: Counter[str] = Counter()  # cases by operation: beside the random ones schemathesis has some of its own

schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with (
        Engine(engine_path(), num_threads=1, kv_cache_memory="64MiB", max_model_len=256) as engine,
        running_server(engine, served_model_names=("demo", "0")) as server,
    ):
        yield server


def ask(case: schemathesis.Case, server: RunningServer) -> None:
    # Without a limit on tokens an answer may take the whole context; that is tested elsewhere.
    if isinstance(case.body, dict):
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if not isinstance(case.body.get(name), (int, str)) or case.body.get(name) in (None, 0):
                case.body[name] = 3
    asked[case.operation.label] += 1
    response = case.call(base_url=server.url, timeout=120)
    given = (
        {name: value for name, value in case.body.items() if value is not None}
        if isinstance(case.body, dict)
        else 0
    )
    assert response.status_code < 500, (response.status_code, response.text[:500], given)
    checks = schemathesis.checks
    case.validate_response(
        response,
        checks=[
            checks.not_a_server_error,
            schemathesis.specs.openapi.checks.status_code_conformance,
            schemathesis.specs.openapi.checks.content_type_conformance,
            schemathesis.specs.openapi.checks.response_schema_conformance,
        ],
    )


def operation_test(operation: Any) -> Any:
    """A test of one operation. Together they would have one name, and processes that share tests go by names."""

    @schema.include(method=operation.method, path=operation.path).parametrize()
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @pytest.mark.timeout(7200)
    def test(case: schemathesis.Case, server: RunningServer) -> None:
        ask(case, server)

    return test


for found in schema.get_all_operations():
    globals()["test_" + re.sub(r"\W+", "_", found.ok().label.lower())] = operation_test(found.ok())


def test_nothing_is_left_behind(server: RunningServer) -> None:
    server.wait_idle(60)
    print(sum(asked.values()), "cases:", dict(asked))
    assert sum(asked.values()) >= (20_000 if EXAMPLES >= 3_200 else 1_000)
