"""A measure against its target, what one system did in one repeat, and the statistics behind them.

Systems take turns and are compared pair by pair, so that whatever else the machine does at the time
falls on both; of the pairs' ratios the median counts, and all of them are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Self

import msgspec


class Measure(msgspec.Struct, frozen=True):
    """One line of the report. `samples`: the raw numbers whose median (or worst) is the result.

    >>> Measure("step-full", "a step", 1.2, 1.3, "x", samples=[1.1, 1.2, 1.4]).met
    True
    """

    case: str
    name: str
    result: float
    target: float
    unit: str
    at_least: bool = False
    samples: list[float] = []
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the result is on the right side of the target."""
        return self.result >= self.target if self.at_least else self.result <= self.target


class Spread(msgspec.Struct, frozen=True):
    """Many samples in four numbers.

    >>> Spread.of([3.0, 1.0, 2.0])
    Spread(median=2.0, p99=3.0, min=1.0, max=3.0, count=3)
    """

    median: float
    p99: float
    min: float
    max: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        """The spread of the samples, of which there is at least one."""
        return cls(median(samples), percentile(samples, 99), min(samples), max(samples), len(samples))


class Measurement(msgspec.Struct, frozen=True):
    """What one system did in one repeat of a case.

    `figures`: by name, the unit last in it (`step_us`, `file_bytes`, …). `missing`: the figures that this system has
    not, each with the reason.
    """

    system: str
    workload: str
    repeat: int
    figures: dict[str, float | Spread]
    missing: dict[str, str] = {}


def middle(figure: float | Spread) -> float:
    """The number that stands for a figure: of a spread its median."""
    return figure.median if isinstance(figure, Spread) else figure


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile.

    >>> percentile(range(1, 101), 99)
    99
    """
    ordered = sorted(samples)
    return ordered[max(0, min(len(ordered) - 1, round(len(ordered) * percent / 100) - 1))]


def by_pairs(case: str, name: str, pairs: Sequence[tuple[float, float]], target: float, note: str = "") -> Measure:
    """The median of `a / b` over the pairs, at most `target`."""
    ratios = [a / b for a, b in pairs]
    return Measure(case, name, median(ratios), target, "x", samples=ratios, note=note)


def micros(samples: Sequence[float]) -> str:
    """The median, for a note.

    >>> micros([1.0, 2.0, 40.0])
    '2.0 µs'
    """
    return f"{median(samples):.1f} µs"
