"""Figures of repeated measurements: their median and their spread, and ratios of what is compared."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value below which `part` of `values` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, least and most of repeated measurements, and how many there were."""
    return {
        "median": round(median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "n": len(values),
    }


def ratios(values: Sequence[float], references: Sequence[float]) -> dict[str, Any]:
    """Return the spread of each round's ratio to the reference that was measured in the same round."""
    return spread([value / reference for value, reference in zip(values, references, strict=True)])


def text(figure: dict[str, Any], digits: int = 2) -> str:
    """Return a spread as people read it: `0.91 (0.88 to 0.97)`."""
    return f"{figure['median']:.{digits}f} ({figure['min']:.{digits}f} to {figure['max']:.{digits}f})"
