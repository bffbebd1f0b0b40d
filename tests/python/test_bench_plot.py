"""`llama4rt bench --plot`: what is drawn stands where its numbers say."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from llama4rt.cli.bench import Result
from llama4rt.cli.bench_plot import _round_step, svg

SVG = "{http://www.w3.org/2000/svg}"


def test_points_lines_and_limits() -> None:
    def decode(depth: int, batch: int, mean: float) -> Result:
        return Result("t", "decode", 8, depth, batch, mean=mean, sd=1.0, bandwidth_fraction=0.5)

    results = [decode(0, 1, 40.0), decode(4096, 1, 20.0), decode(0, 8, 100.0), decode(4096, 8, 50.0)]
    results.append(Result("pp", "prefill", 512, 0, 1, mean=700.0, fma_fraction=None))
    root = ET.fromstring(svg(results, "a < b"))
    decoding, prefill = root.findall(SVG + "g")
    assert [text.text for text in root.findall(SVG + "text")] == ["a < b"]
    circles = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in decoding.findall(SVG + "circle")]
    (x0, y40), (x1, y20), (_, y100), (_, y50) = circles
    assert x0 < x1 and y100 < y50 < y40 < y20, "upwards is faster"
    assert (y20 - y40) * 4 == pytest.approx((y20 - y100), abs=0.5), "on one linear scale"
    dashed = [line for line in decoding.findall(SVG + "polyline") if "stroke-dasharray" in line.attrib]
    ends = [[tuple(map(float, p.split(","))) for p in line.attrib["points"].split()] for line in dashed]
    assert len(ends) == 2
    assert ends[0] == [(x0, pytest.approx(2 * y40 - (y20 + (y20 - y40)), abs=0.5)), (x1, y40)]
    assert not [line for line in prefill.findall(SVG + "polyline") if "stroke-dasharray" in line.attrib]


def test_steps_are_round() -> None:
    assert [_round_step(x) for x in (0.9, 1, 1.1, 3, 7, 42, 1000)] == [1, 1, 2, 5, 10, 50, 1000]


def test_the_command_writes_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llama4rt", "bench", "-p", "8", "-n", "4", "-d", "0,16", "-b", "1,2"]
    out = tmp_path / "speed.svg"
    subprocess.run([*command, "-r", "1", "--plot", str(out)], check=True, capture_output=True, timeout=120)
    root = ET.parse(out).getroot()
    assert [len(panel.findall(SVG + "circle")) for panel in root.findall(SVG + "g")] == [4, 4]
    done = subprocess.run([*command, "--plot", "x.jpg"], capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and ".svg" in done.stderr
