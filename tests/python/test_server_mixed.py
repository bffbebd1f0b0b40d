"""A few seconds of mixed_soak.py, which people can start for days: `make soak-72h`."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("psutil")
pytest.importorskip("uvicorn")

from mixed_soak import Times, run


@pytest.mark.timeout(3600)
def test_honest_users_among_hostile_ones(soak: bool) -> None:
    """Ten minutes in make soak."""
    report, broken = run(
        600 / 3600 if soak else 12 / 3600, 10.0 if soak else 2.0, seed=7, slack=1.0 if soak else 4.0
    )
    print(json.dumps(report))
    assert not broken, broken
    assert sum(report["hostile"].values()) > (1000 if soak else 0), report


def test_times() -> None:
    times = Times()
    for i in range(1, 1001):
        times.add(i / 1000)
    assert abs(times.quantile(0.5) - 0.5) < 0.02 and abs(times.quantile(0.99) - 0.99) < 0.03
    assert times.summary()["longest"] == 1.0 and Times().quantile(0.5) == 0.0
