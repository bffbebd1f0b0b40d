"""GET /status.json: the figures of /metrics in a form that costs little to write, for the page at /status.

A large model has 6,144 counters of experts. As lines of /metrics they take 33 ms of the event loop (two-core virtual
machine), which running streams would notice at each look; as lists of numbers they take 1 ms. Both come from the same
places, so they agree.
"""

import time
from typing import Any

from prometheus_client import Counter, Histogram

from llama4rt import _core
from llama4rt.server.service import Service

_COUNTED = ("finished", "refused", "disconnected", "slow_readers", "paused")
_MEASURED = (
    "time_to_first_token", "inter_token_latency", "e2e_latency", "prompt_length", "output_length", "event_loop_lag",
)  # fmt: skip


def figures(service: Service) -> dict[str, Any]:
    """Counters count from the server's start; `time` is a clock in seconds to take their rates by."""
    metrics, engine = service.metrics, service.engine
    stats = dict(engine.stats())
    expert_tokens = stats.pop("expert_tokens", None) or []
    return {
        "time": time.monotonic(),
        "uptime_seconds": time.time() - service.created,
        "version": _core.version(),
        "models": list(service.model_names),
        "draining": service.draining,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "max_waiting": service.options.max_waiting,
        "engine": stats,
        "expert_tokens": expert_tokens,  # [layer][expert]; empty: this engine does not count, or no layer has any
        "counters": {name: _by_label(getattr(metrics, name)) for name in _COUNTED},
        "histograms": {name: _buckets(getattr(metrics, name)) for name in _MEASURED},
    }


def _by_label(counter: Counter) -> dict[str, float]:
    """By the value of its one label; a counter without labels has its value under ""."""
    (family,) = counter.collect()
    totals = (sample for sample in family.samples if sample.name.endswith("_total"))
    return {next(iter(sample.labels.values()), ""): sample.value for sample in totals}


def _buckets(histogram: Histogram) -> dict[str, Any]:
    """{"bounds": upper ends, the last is open; "counts": of each bucket, not summed up; "sum"}"""
    (family,) = histogram.collect()
    bounds: list[float | None] = []
    counts: list[int] = []
    below, total = 0, 0.0
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            bound = float(sample.labels["le"])
            bounds.append(None if bound == float("inf") else bound)
            counts.append(int(sample.value) - below)
            below = int(sample.value)
        elif sample.name.endswith("_sum"):
            total = sample.value
    return {"bounds": bounds, "counts": counts, "sum": total}
