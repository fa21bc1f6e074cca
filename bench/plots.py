"""Plots as SVG: bars with the spread of what was measured, and lines over sizes. No more than docs/ needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, LABEL, RIGHT, ROW, TOP = 760, 230, 130, 30, 46
#: Colours that are told apart on white and on black, by colour-blind people, too.
INK, GRID = "#6b7280", "#d1d5db"
COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#0891b2", "#111827")


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"'
        f' height="{height}" role="img" aria-label="{escape(title)}" font-family="system-ui, sans-serif"'
        ' font-size="13">'
    )
    rect = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, rect, _text(16, 24, title, weight="600", fill="#111827"), *parts, "</svg>", ""])


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", fill: str = INK, weight: str = "400"
) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}"'
    return f"<text {where}>{escape(text)}</text>"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def bars(
    title: str,
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    unit: str,
    *,
    reference: float | None = None,
    digits: int = 2,
) -> str:
    """Return horizontal bars: each as long as its median, with a thin line from the least to the most.

    `reference`: a value that all are compared with, a dashed line.
    """
    most = max([figure["max"] for _, figure in rows] + ([reference] if reference else [])) or 1.0
    scale = (WIDTH - LABEL - RIGHT) / most
    bottom = TOP + ROW * len(rows)
    parts = [_line(LABEL, TOP - 6, LABEL, bottom, GRID)]
    for number, (name, figure) in enumerate(rows):
        y, colour = TOP + ROW * number, COLOURS[number % len(COLOURS)]
        ends = [LABEL + figure[what] * scale for what in ("median", "min", "max")]
        parts += [
            _text(LABEL - 10, y + 15, name, anchor="end", fill="#111827"),
            f'<rect x="{LABEL}" y="{y + 2}" width="{max(1.0, ends[0] - LABEL):.1f}" height="16" rx="2"'
            f' fill="{colour}" fill-opacity="0.8"/>',
            _line(ends[1], y + 10, ends[2], y + 10, "#111827", 'stroke-width="1.5"'),
            _text(max(ends) + 8, y + 15, f"{figure['median']:,.{digits}f} {unit}".rstrip()),
        ]
    if reference is not None:
        x = LABEL + reference * scale
        parts.append(_line(x, TOP - 8, x, bottom, "#dc2626", 'stroke-dasharray="4 3"'))
    return _svg(title, bottom + 14, parts)


def lines(title: str, series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """Return lines of (size, value) over logarithmic axes."""
    height, left, right, bottom = 340, 70, 190, 290
    points = [point for line in series.values() for point in line]
    x_from, x_to = _decades([x for x, _ in points])
    y_from, y_to = _decades([y for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_from) / (x_to - x_from)
        up = (math.log10(y) - y_from) / (y_to - y_from)
        return left + across * (WIDTH - left - right), bottom - up * (bottom - TOP)

    parts = [_text(left, bottom + 40, x_label)]
    for power in range(x_from, x_to + 1):
        x, _ = at(10.0**power, 10.0**y_from)
        parts += [_line(x, TOP, x, bottom, GRID), _text(x, bottom + 18, _plain(power), anchor="middle")]
    for power in range(y_from, y_to + 1):
        _, y = at(10.0**x_from, 10.0**power)
        parts += [_line(left, y, WIDTH - right, y, GRID), _text(left - 8, y + 4, _plain(power), anchor="end")]
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [at(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        y = TOP + 20 * number
        parts.append(f'<rect x="{WIDTH - right + 16}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(WIDTH - right + 32, y, name, fill="#111827"))
    return _svg(f"{title}, {y_label}", height, parts)


def _decades(values: Sequence[float]) -> tuple[int, int]:
    least, most = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return least, max(most, least + 1)


def _plain(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"
