"""What a case's measurements say when they are held against each other.

Systems take turns within a repeat, so ratios are made pair by pair: a system's figure over the reference's figure of
the same repeat, and of those ratios the median counts. There are two references: the floor, which is the least that
any store of this kind does, and this engine. Each system meets the one of its own durability: who does not wait for
the disk is not compared with who does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median

import msgspec

from .result import Measurement, Spread, middle
from .results import Described
from .systems.system import Durability
from .units import is_better_high, split

ENGINE = "engine"
OURS, FLOORS, POLICIES = "engine", "floor", "fold"
_NEAREST: Mapping[Durability, tuple[str, str]] = {
    "full": ("", "-normal"),
    "normal": ("-normal", ""),
    "none": ("-normal", ""),
}


class Ratio(msgspec.Struct, frozen=True):
    """The ratios of the pairs to one reference: their median, the least, the most."""

    to: str
    median: float
    least: float
    most: float
    pairs: int


class Compared(msgspec.Struct, frozen=True):
    """One figure of one system over the repeats.

    `median` is that of the repeats, each by its own median; `min` and `max` are of all samples; `p99` is the median of
    the repeats' percentiles, where there are samples. `to_engine`: to this engine at its defaults; `same_durability`:
    to this engine at the nearest durability.
    """

    case: str
    workload: str
    figure: str
    system: str
    durability: Durability
    median: float
    min: float
    max: float
    repeats: int
    samples: int
    p99: float | None = None
    to_floor: Ratio | None = None
    to_engine: Ratio | None = None
    same_durability: Ratio | None = None

    @property
    def is_peer(self) -> bool:
        """Whether it is another system's figure."""
        return is_peer(self.system)

    @property
    def peer_wins(self) -> bool:
        """Whether it is a peer's, and better than this engine's at the same durability."""
        if not self.is_peer or self.same_durability is None:
            return False
        ratio = self.same_durability.median
        return ratio > 1 if is_better_high(self.figure) else ratio < 1


class Growth(msgspec.Struct, frozen=True):
    """A figure of one system as something grows.

    `points`: the figure by how many; `exponent`: k of figure ~ many^k, where there are several and none is zero.
    """

    case: str
    workload: str
    figure: str
    axis: str
    system: str
    points: dict[int, float]
    exponent: float | None


def is_peer(system: str) -> bool:
    """Whether a system is neither this engine, under whatever fold policy, nor the floor.

    >>> [is_peer(name) for name in ("engine-normal", "floor", "fold-none", "langgraph")]
    [False, False, False, True]
    """
    return system.split("-")[0] not in (OURS, FLOORS, POLICIES)


def nearest(kind: str, durability: Durability, present: Iterable[str]) -> str | None:
    """The floor or the engine (`kind`) that a system of this durability is held against, of those measured.

    >>> nearest("engine", "normal", ["engine", "engine-normal"]), nearest("engine", "normal", ["engine"])
    ('engine-normal', 'engine')
    """
    measured = set(present)
    return next((kind + suffix for suffix in _NEAREST[durability] if kind + suffix in measured), None)


def compared(case: str, measurements: Sequence[Measurement], described: Mapping[str, Described]) -> list[Compared]:
    """Every figure in the order of measuring, and of each every system in the order of `described`."""
    found: dict[tuple[str, str], dict[str, dict[int, float | Spread]]] = {}
    for one in measurements:
        for figure, value in one.figures.items():
            found.setdefault((one.workload, figure), {}).setdefault(one.system, {})[one.repeat] = value
    return [
        _compared(case, workload, figure, system, systems, described[system].durability)
        for (workload, figure), systems in found.items()
        for system in described
        if system in systems
    ]


def growths(figures: Iterable[Compared]) -> list[Growth]:
    """The figures that were taken at places of an axis; at several of them, with the fitted exponent."""
    found: dict[tuple[str, str, str, str, str], dict[int, float]] = {}
    for one in figures:
        name, at, axis = split(one.figure)
        if at is not None:
            found.setdefault((one.case, one.workload, name, axis, one.system), {})[at] = one.median
    return [
        Growth(*key, points, exponent(points) if len(points) > 1 and all(points.values()) else None)
        for key, points in found.items()
    ]


def exponent(points: Mapping[int, float]) -> float:
    """k of `value ~ many^k`, by least squares over the logarithms.

    >>> round(exponent({10: 5.0, 100: 500.0, 1000: 50_000.0}), 3)
    2.0
    """
    xs, ys = [math.log(x) for x in points], [math.log(y) for y in points.values()]
    middle_x, middle_y = fmean(xs), fmean(ys)
    covered = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True))
    return covered / sum((x - middle_x) ** 2 for x in xs)


def _compared(
    case: str,
    workload: str,
    figure: str,
    system: str,
    systems: Mapping[str, Mapping[int, float | Spread]],
    durability: Durability,
) -> Compared:
    values = systems[system]
    spreads = [value for value in values.values() if isinstance(value, Spread)]
    middles = [middle(value) for value in values.values()]

    def to(reference: str | None) -> Ratio | None:
        return None if reference is None else _ratio(reference, values, systems.get(reference, {}))

    return Compared(
        case,
        workload,
        figure,
        system,
        durability,
        median=median(middles),
        min=min([spread.min for spread in spreads] or middles),
        max=max([spread.max for spread in spreads] or middles),
        repeats=len(values),
        samples=sum(spread.count for spread in spreads) or len(values),
        p99=median(spread.p99 for spread in spreads) if spreads else None,
        to_floor=to(nearest(FLOORS, durability, systems)),
        to_engine=to(ENGINE),
        same_durability=to(nearest(ENGINE, durability, systems)),
    )


def _ratio(to: str, values: Mapping[int, float | Spread], references: Mapping[int, float | Spread]) -> Ratio | None:
    """Pair by pair; a repeat in which only one of the two was measured is no pair, and nothing is compared to none."""
    ratios = [
        middle(value) / middle(references[repeat])
        for repeat, value in values.items()
        if repeat in references and middle(references[repeat])
    ]
    return Ratio(to, median(ratios), min(ratios), max(ratios), len(ratios)) if ratios else None
