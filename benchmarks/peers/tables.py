"""Tables and a picture of what bench_peers.py measured."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from measurements import OURS, OURS_EXACT, OURS_KV8

SAMPLES = "samples"


def ratio(samples: dict[str, list[float]], ours: str, label: str) -> float:
    """Median over the rounds of our speed over the peer's in the same round."""
    return statistics.median(a / b for a, b in zip(samples[ours], samples[label], strict=False))


def fraction(report: dict[str, Any], threads: str, test: str, label: str) -> float | None:
    """How much of the machine's limit a median speed is: of read bandwidth for decode, of the int8 peak for prefill."""
    about = report["threads"][threads]
    speed = statistics.median(about[SAMPLES][test][label])
    if test.startswith("pp"):
        return float(speed * report["prefill_flops_per_token"][test] / 1e9 / about["limits"]["int8_gops"])
    size = report["decode_bytes"].get(label.removesuffix(" fa0"), {}).get(test)
    if size is None:
        return None
    batch = int(test.rpartition(", b")[2]) if ", b" in test else 1
    return float(speed / batch * size / 1e9 / about["limits"]["read_gbps"])


def print_tables(report: dict[str, Any]) -> None:
    """One Markdown table for each number of threads, and the tables of what is measured once."""
    print(f"\n### {report['model']}, {report['machine']['cpu']}")
    for threads, about in report["threads"].items():
        limits = about["limits"]
        print(
            f"\n{threads} thread(s): {limits['read_gbps']:.1f} GB/s, {limits['fma_gflops']:.0f} GFLOP/s fp32, "
            f"{limits['int8_gops']:.0f} GOP/s int8\n"
        )
        print(f"| test | program | tokens/s | of the limit | {OURS} / it | {OURS_EXACT} / it |")
        print("|---|---|---:|---:|---:|---:|")
        for test, programs in about[SAMPLES].items():
            for label, samples in programs.items():
                share = fraction(report, threads, test, label)
                kind = "int8" if test.startswith("pp") else "bandwidth"
                limit = f"{100 * share:.0f} % {kind}" if share else ""
                times = [
                    f"{ratio(programs, ours, label):.2f}"
                    if ours in programs and not label.startswith("llama4rt")
                    else ""
                    for ours in (OURS, OURS_EXACT)
                ]
                print(
                    f"| {test} | {label} | {statistics.median(samples):.1f} | {limit} | {times[0]} | {times[1]} |"
                )
    if report["same_greedy_tokens"]:
        print("\nGreedy tokens as transformers fp32, of 48:", report["same_greedy_tokens"])
    print("\n| conversion | seconds |\n|---|---:|")
    for label, seconds in report["conversion_seconds"].items():
        print(f"| {label} | {seconds:.1f} |")
    if not report["cold"]:
        return
    print(
        "\n| cold process | first token, prompt of 1 | prompt of 64 | peak memory | beyond file and cache |\n"
        "|---|---:|---:|---:|---:|"
    )
    for label, about in report["cold"].items():
        first = {length: statistics.median(s) for length, s in about["first_token"].items()}
        peak = statistics.median(about["peak"])
        beyond = peak - report["file_bytes"][label] - report["kv_bytes"]
        print(
            f"| {label} | {first['1']:.2f} s | {first['64']:.2f} s | {peak / 1e6:,.0f} MB | {beyond / 1e6:,.0f} MB |"
        )


def draw(report: dict[str, Any], path: Path) -> bool:
    """Bars of tokens per second and of the fraction of the limit. False where matplotlib or every speed is missing."""
    if not report["threads"]:  # only cold starts were asked for
        return False
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    threads = max(report["threads"], key=int)
    samples = report["threads"][threads][SAMPLES]
    labels = list(dict.fromkeys(label for programs in samples.values() for label in programs))
    figure, (speed, share) = plt.subplots(2, 1, figsize=(11, 7), sharex=True, layout="constrained")
    width = 0.8 / len(labels)
    for number, label in enumerate(labels):
        tests = [i for i, programs in enumerate(samples.values()) if label in programs]
        at = [i - 0.4 + (number + 0.5) * width for i in tests]
        names = [list(samples)[i] for i in tests]
        ours = {OURS: "#d1495b", OURS_EXACT: "#e5989b", OURS_KV8: "#b5179e"}
        colour = ours.get(label) or plt.get_cmap("Blues")(0.35 + 0.6 * number / len(labels))
        speed.bar(at, [statistics.median(samples[n][label]) for n in names], width, label=label, color=colour)
        fractions = [fraction(report, threads, n, label) for n in names]
        share.bar(at, [100 * f if f else 0 for f in fractions], width, color=colour)
    speed.set_ylabel("tokens/s")
    speed.set_yscale("log")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    share.set_ylabel("% of the limit\n(bandwidth; prefill: int8)")
    share.set_xticks(range(len(samples)), list(samples), rotation=30, ha="right")
    figure.suptitle(f"{report['model']}, {report['machine']['cpu']}, {threads} threads")
    figure.savefig(path.with_suffix(".png"), dpi=110)
    return True
