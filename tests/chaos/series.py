"""Samples over time, and whether they grow."""

import math
from dataclasses import dataclass, field
from statistics import mean


@dataclass
class Series:
    """Seconds and values, in order."""

    name: str
    points: list[tuple[float, float]] = field(default_factory=list)

    def add(self, at: float, value: float) -> None:
        self.points.append((round(at, 1), value))


@dataclass(frozen=True)
class Trend:
    """Means of the second and of the last tenth of the time, the slope of the second half by least squares, and how far
    values lie from that line."""

    name: str
    early: float
    late: float
    per_hour: float
    spread: float
    flat: bool


def trend(series: Series) -> Trend:
    """Flat where what the second half of the run has grown by is less than twice the samples' own spread, or less than
    2 % of the value."""
    points = series.points
    tenth = max(1, len(points) // 10)
    half = points[len(points) // 2 :]
    middle, level = mean(t for t, _ in half), mean(v for _, v in half)
    square = sum((t - middle) ** 2 for t, _ in half)
    slope = sum((t - middle) * (v - level) for t, v in half) / square if square else 0.0
    rest = [v - level - slope * (t - middle) for t, v in half]
    spread = math.sqrt(sum(r * r for r in rest) / len(rest))
    grown = slope * (half[-1][0] - half[0][0])
    early = mean(v for _, v in points[tenth : 2 * tenth] or points[:1])
    late = mean(v for _, v in points[-tenth:])
    flat = grown <= max(2 * spread, 0.02 * abs(level))
    return Trend(series.name, early, late, slope * 3600, spread, flat)
