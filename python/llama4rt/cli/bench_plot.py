"""`llama4rt bench --plot`: speed by depth, a line for each batch, with what the machine could do at best, as an SVG."""

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llama4rt.cli.bench import Result

_WIDTH, _HEIGHT = 720, 330  # of one panel, with what stands around it
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 96, 44, 52
_COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#c14c8a", "#787774")
_TICKS = 5


def svg(results: "Sequence[Result]", title: str) -> str:
    """A panel each for decode and prefill, where there are results; the limit is dashed, in the colour of its line."""
    panels = []
    for kind, what in (("decode", "decode"), ("prefill", "prefill")):
        found = [result for result in results if result.kind == kind and result.mean > 0]
        # Of several lengths each is a panel: a line joins what differs in depth alone.
        for tokens in sorted({result.tokens for result in found}):
            panels.append((f"{what}, {tokens} tokens", [r for r in found if r.tokens == tokens]))
    height = 36 + _HEIGHT * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(_LEFT, 24, title, size=15),
    ]
    for i, (name, found) in enumerate(panels):
        parts += [f'<g transform="translate(0 {36 + i * _HEIGHT})">', *_panel(name, found), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _limit(result: "Result") -> float | None:
    """Tokens per second that this machine's bandwidth or arithmetic allows."""
    fractions = result.bandwidth_fraction, result.int8_fraction or result.fma_fraction
    fraction = fractions[result.kind == "prefill"]
    if fraction is None or not math.isfinite(fraction) or fraction <= 0:
        return None
    return result.mean / fraction


def _panel(name: str, found: "list[Result]") -> list[str]:
    depths = sorted({result.depth for result in found})
    batches = sorted({result.batch for result in found})
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    top = max([result.mean + result.sd for result in found] + [_limit(result) or 0 for result in found])
    step = _round_step(top / _TICKS)
    most = step * math.ceil(top / step)

    def x(depth: int) -> float:
        # Even distances: depths are mostly powers of two.
        place = depths.index(depth) / (len(depths) - 1) if len(depths) > 1 else 0.5
        return _LEFT + place * (right - _LEFT)

    def y(speed: float) -> float:
        return bottom - speed / most * (bottom - _TOP)

    parts = [_text(_LEFT, 24, name, size=13)]
    for i in range(round(most / step) + 1):
        at = y(i * step)
        parts.append(_line([(_LEFT, at), (right, at)], "#e3e2e0"))
        parts.append(_text(_LEFT - 8, at + 4, f"{i * step:,.10g}", anchor="end"))
    for depth in depths:
        parts.append(_text(x(depth), bottom + 18, f"{depth:,}", anchor="middle"))
    parts.append(_text((_LEFT + right) / 2, bottom + 38, "tokens in the cache", anchor="middle"))
    parts.append(_text(_LEFT - 8, _TOP - 10, "tokens/s", anchor="end"))
    for i, batch in enumerate(batches):
        colour = _COLOURS[i % len(_COLOURS)]
        own = sorted((r for r in found if r.batch == batch), key=lambda r: r.depth)
        limits = [(x(r.depth), y(limit)) for r in own if (limit := _limit(r)) is not None]
        if limits:
            parts.append(_line(_widened(limits), colour, "5 4"))
        points = [(x(r.depth), y(r.mean)) for r in own]
        parts.append(_line(points, colour, width=2))
        for result, (px, py) in zip(own, points, strict=True):
            spread = [(px, y(max(result.mean - result.sd, 0))), (px, y(result.mean + result.sd))]
            parts.append(_line(spread, colour))
            shown = escape(f"{result.test}: {result.mean:.2f} ± {result.sd:.2f} tokens/s")
            parts.append(
                f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{colour}"><title>{shown}</title></circle>'
            )
        parts.append(_text(right + 10, _TOP + 4 + 18 * i, f"batch {batch}", colour=colour))
    parts.append(_text(right + 10, _TOP + 4 + 18 * len(batches), "dashed: limit", colour="#787774"))
    return parts


def _widened(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """One point alone as a short line, so that it can be seen."""
    if len(points) > 1:
        return points
    ((x, y),) = points
    return [(x - 40, y), (x + 40, y)]


def _round_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, at least so much."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _line(points: list[tuple[float, float]], colour: str, dashes: str = "", width: int = 1) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#37352f"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">'
        f"{escape(text)}</text>"
    )
