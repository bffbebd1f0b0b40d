"""The status page: the figures of /metrics, drawn; the Grafana dashboard asks for what /metrics has."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import httpx2
from llama4rt import Engine
from page_driver import browser_fixture, keep, page_fixture, server_fixture, watched
from serving import CHAT, HELLO, RunningServer, engine_fixture, metric_of, post, running_server

ROOT = Path(__file__).resolve().parents[2]

engine = engine_fixture(kv_cache_memory="64MiB")
server = server_fixture()
browser = browser_fixture()
page = page_fixture("/status")


def test_figures_are_those_of_metrics(server: RunningServer) -> None:
    for i in range(3):
        assert post(server, CHAT, HELLO | {"max_tokens": 3 + i}).status_code == 200
    assert post(server, CHAT, {"messages": []}).status_code == 400
    server.wait_idle()
    figures = httpx2.get(server.url + "/status.json", timeout=60).json()
    text = httpx2.get(server.url + "/metrics", timeout=60).text
    engine, counters = figures["engine"], figures["counters"]
    assert engine["generated_tokens"] == metric_of(text, "generation_tokens_total") > 0
    assert engine["prompt_tokens"] == metric_of(text, "prompt_tokens_total") > 0
    assert engine["prefix_hit_tokens"] == metric_of(text, "prefix_cache_hits_total")
    assert sum(map(sum, figures["expert_tokens"])) == metric_of(text, "expert_tokens_total") > 0
    assert sum(counters["finished"].values()) == metric_of(text, "request_success_total") == 3
    assert counters["refused"] == {"400": 1}
    for name, title in (
        ("time_to_first_token", "time_to_first_token_seconds"),
        ("inter_token_latency", "inter_token_latency_seconds"),
        ("e2e_latency", "e2e_request_latency_seconds"),
        ("output_length", "request_generation_tokens"),
    ):
        histogram = figures["histograms"][name]
        assert sum(histogram["counts"]) == metric_of(text, f"{title}_count") > 0
        assert histogram["sum"] == metric_of(text, f"{title}_sum")
        assert histogram["bounds"][-1] is None and len(histogram["bounds"]) == len(histogram["counts"])
        said = re.findall(rf'^llama4rt:{title}_bucket{{le="([^"]+)"}} (\S+)$', text, re.M)
        sums = itertools.accumulate(histogram["counts"])
        ends = [float("inf") if bound is None else bound for bound in histogram["bounds"]]
        assert [(float(bound), float(below)) for bound, below in said] == list(zip(ends, sums, strict=True))


def test_the_page_shows_them_live(page: Any, server: RunningServer) -> None:
    def tile(name: str) -> str:
        return str(page.locator(f".tile:has-text('{name}') .more").inner_text())

    before = int(tile("tokens/s written").split()[0].replace(",", ""))
    said = post(server, CHAT, HELLO | {"ignore_eos": True, "max_tokens": 40}).json()["usage"][
        "completion_tokens"
    ]
    page.wait_for_function(
        "n => document.querySelector('#tiles').textContent.includes(n.toLocaleString('en-US') + ' in all')",
        arg=before + said,
    )
    page.wait_for_selector("#throughput .a.line", state="attached")
    assert page.inner_text("#first .numbers").startswith("half within ")
    assert page.locator("#experts canvas[role=img]").count() == 1
    assert "times an even share" in page.inner_text("#experts")
    assert "global layers" in page.inner_text("#cache") and "local layers" in page.inner_text("#cache")
    page.click("#pause")
    assert page.inner_text("#state") == "paused"
    keep(page, "status")


def test_quantiles(page: Any) -> None:
    """As Prometheus' histogram_quantile; beyond the last bound nothing is said."""
    ask = """async ([bounds, counts, share]) => {
        const { quantile } = await import("/page/js/status_charts.js");
        return quantile({ bounds, counts }, share);
    }"""
    bounds = [1, 2, 4, None]
    assert page.evaluate(ask, [bounds, [0, 10, 0, 0], 0.5]) == 1.5
    assert page.evaluate(ask, [bounds, [5, 0, 5, 0], 0.9]) == 2 + 2 * 4 / 5
    assert page.evaluate(ask, [bounds, [1, 0, 0, 9], 0.5]) is None


def test_the_same_key_as_metrics(browser: Any, engine: Engine) -> None:
    with running_server(engine, api_keys=("secret",)) as server:
        for path in ("/metrics", "/status.json"):
            assert httpx2.get(server.url + path, timeout=60).status_code == 401
            with_key = {"authorization": "Bearer secret"}
            assert httpx2.get(server.url + path, headers=with_key, timeout=60).status_code == 200
        context = browser.new_context()
        page = watched(context, server)
        page.goto(server.url + "/status")
        page.fill("#key", "secret")
        page.click("#key-form button")
        page.wait_for_selector(".tile")
        assert not page.problems and not page.outside
        context.close()


def test_the_dashboard_asks_for_what_there_is(server: RunningServer) -> None:
    """Every measure in examples/grafana-dashboard.json is one of /metrics, and every panel has a title and a place."""
    assert post(server, CHAT, HELLO).status_code == 200
    post(server, CHAT, {"messages": []})
    text = httpx2.get(server.url + "/metrics", timeout=60).text
    there = set(re.findall(r"^(llama4rt:\w+)", text, re.M))
    dashboard = json.loads((ROOT / "examples/grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 10
    seen = set()
    for panel in panels:
        assert panel["title"] and panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            names = set(re.findall(r"llama4rt:\w+", target["expr"]))
            assert names and names <= there, (panel["title"], names - there)
            assert target["expr"].count("(") == target["expr"].count(")")
            assert "$instance" in target["expr"]
            seen |= names
    assert {"llama4rt:kv_cache_usage_perc", "llama4rt:expert_tokens_total"} <= seen
