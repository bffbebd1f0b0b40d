"""/metrics: vLLM's measures by vLLM's words, with our prefix.

What the engine counts is read from Engine.stats() when somebody looks; what only the server sees (times as a client
feels them, refusals) is counted here.
"""

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llama4rt.engine.report_types import EngineStats, SpeculationCounts

_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 200_000, 1_000_000)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One server's. stats: Engine.stats; only numbers leave it."""

    def __init__(self, stats: Callable[[], EngineStats], model: str) -> None:
        self._registry = CollectorRegistry()
        registry: Any = {"registry": self._registry}
        self.time_to_first_token = Histogram(
            "llama4rt:time_to_first_token_seconds", "From the request's last byte to its first token.",
            buckets=_SECONDS, **registry,
        )  # fmt: skip
        self.inter_token_latency = Histogram(
            "llama4rt:inter_token_latency_seconds", "Between tokens of one output.",
            buckets=_SECONDS, **registry,
        )  # fmt: skip
        self.e2e_latency = Histogram(
            "llama4rt:e2e_request_latency_seconds", "From the request's last byte to its last token.",
            buckets=_SECONDS, **registry,
        )  # fmt: skip
        self.prompt_length = Histogram(
            "llama4rt:request_prompt_tokens", "Prompt tokens of a request.", buckets=_TOKENS, **registry
        )
        self.output_length = Histogram(
            "llama4rt:request_generation_tokens",
            "Generated tokens of a request.",
            buckets=_TOKENS,
            **registry,
        )
        self.finished = Counter(
            "llama4rt:request_success", "Outputs that ended, by reason.", ["finished_reason"], **registry
        )
        self.refused = Counter(
            "llama4rt:requests_refused", "Requests answered with an error.", ["status"], **registry
        )
        self.disconnected = Counter("llama4rt:requests_disconnected", "Clients that left early.", **registry)
        self.slow_readers = Counter(
            "llama4rt:slow_readers", "Requests ended because their clients did not read.", **registry
        )
        self.paused = Counter(
            "llama4rt:requests_paused", "Pauses of requests whose clients read too slowly.", **registry
        )
        self.event_loop_lag = Histogram(
            "llama4rt:event_loop_lag_seconds", "How late the event loop comes to what is due.",
            buckets=_SECONDS, **registry,
        )  # fmt: skip
        self.health_latency = Histogram(
            "llama4rt:health_latency_seconds", "From a health probe's arrival in the kernel to its answer.",
            buckets=_SECONDS, **registry,
        )  # fmt: skip
        self.admitted = Gauge(
            "llama4rt:num_requests_admitted", "Outputs that were let in and have not ended.", **registry
        )
        Gauge("llama4rt:info", "1, with the model's name.", ["model_name"], **registry).labels(model).set(1)
        self._registry.register(_EngineCollector(stats))

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, stats: Callable[[], EngineStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        yield _gauge("num_requests_running", "Outputs in the running batch.", stats["running"])
        yield _gauge("num_requests_waiting", "Outputs that wait for room.", stats["waiting"])
        usage = GaugeMetricFamily(
            "llama4rt:kv_cache_usage_perc", "Share of key-value blocks in use, 0..1.", labels=["group"]
        )
        cached = GaugeMetricFamily(
            "llama4rt:kv_cache_cached_blocks", "Free blocks that a prefix may still hit.", labels=["group"]
        )
        size = GaugeMetricFamily(
            "llama4rt:kv_cache_bytes", "Memory of a group's key-value blocks.", labels=["group"]
        )
        used = GaugeMetricFamily("llama4rt:kv_cache_used_blocks", "Blocks in use.", labels=["group"])
        for name, group in stats["blocks"].items():
            usage.add_metric([name], group["used"] / group["total"] if group["total"] else 0.0)
            cached.add_metric([name], group["cached"])
            size.add_metric([name], group["bytes"])
            used.add_metric([name], group["used"])
        yield from (usage, cached, size, used)
        yield _counter("num_preemptions", "Outputs that gave their blocks back.", stats["preemptions"])
        yield _counter("prompt_tokens", "Prompt tokens computed.", stats["prompt_tokens"])
        yield _counter("generation_tokens", "Tokens generated.", stats["generated_tokens"])
        yield _counter(
            "prefix_cache_queries",
            "Prompt tokens looked up in the prefix cache.",
            stats["prefix_query_tokens"],
        )
        yield _counter("prefix_cache_hits", "Prompt tokens found there.", stats["prefix_hit_tokens"])
        yield _gauge(
            "prompt_throughput_tokens_per_second", "Over the latest steps.", stats["prompt_tokens_per_second"]
        )
        yield _gauge(
            "generation_throughput_tokens_per_second",
            "Over the latest steps.",
            stats["generated_tokens_per_second"],
        )
        memory = GaugeMetricFamily("llama4rt:memory_bytes", "Memory by what it is for.", labels=["kind"])
        for kind, amount in stats["bytes"].items():
            memory.add_metric([kind], amount)
        yield memory
        images = stats["images"]
        yield _counter(
            "image_tiles_encoded", "Tiles that went through the vision tower.", images["encoded_tiles"]
        )
        yield _counter("images_reused", "Pictures whose features were at hand.", images["reused"])
        yield from _speculation(stats["speculation"])
        yield from _expert_load(stats)


def _speculation(stats: SpeculationCounts) -> Iterable[Metric]:
    """vLLM's words. A draft is the guesses of an output in a step; a position is a place behind its latest token."""
    yield _counter(
        "spec_decode_num_drafts", "Guesses of what follows in an output.", stats["sequence_steps_drafted"]
    )
    yield _counter("spec_decode_num_draft_tokens", "Tokens guessed.", sum(stats["drafted"]))
    yield _counter("spec_decode_num_accepted_tokens", "Of those: tokens that came.", sum(stats["accepted"]))
    family = CounterMetricFamily(
        "llama4rt:spec_decode_num_accepted_tokens_per_pos", "The same by position.", labels=["position"]
    )
    for position, count in enumerate(stats["accepted"]):
        family.add_metric([str(position)], count)
    yield family
    yield _counter("spec_decode_seconds_saved", "Beside one token a step.", max(stats["seconds_saved"], 0.0))


def _expert_load(stats: EngineStats) -> Iterable[Metric]:
    load = stats.get("expert_tokens")  # [layer][expert]; not every engine counts
    if not load:
        return
    family = CounterMetricFamily(
        "llama4rt:expert_tokens", "Tokens sent to an expert.", labels=["layer", "expert"]
    )
    for layer, experts in enumerate(load):
        for expert, count in enumerate(experts):
            family.add_metric([str(layer), str(expert)], count)
    yield family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"llama4rt:{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"llama4rt:{name}", text, value=value)
