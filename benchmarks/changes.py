"""What changed from run to run: of two runs every figure that both have, of many runs the figures of one case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise

import msgspec

from .described import figures
from .results import BenchRun

BARS = "▁▂▃▄▅▆▇█"
MEASURE = "measure"


class Change(msgspec.Struct, frozen=True):
    """A figure in an earlier and in a later run; of a measure with a target the `system` is empty."""

    case: str
    workload: str
    figure: str
    system: str
    before: float
    after: float
    unit: str = ""

    @property
    def percent(self) -> float:
        """By how much it grew.

        >>> Change("c", "w", "step_us", "floor", 200.0, 150.0).percent
        -25.0
        """
        if not self.before:
            return 0.0 if not self.after else float("inf")
        return (self.after / self.before - 1) * 100


class History(msgspec.Struct, frozen=True):
    """A figure over runs, oldest first; None in a run that has it not. `at`: when each run began."""

    case: str
    workload: str
    figure: str
    system: str
    at: list[datetime]
    values: list[float | None]
    unit: str = ""

    @property
    def bars(self) -> str:
        """A bar for each value, between the least and the most of them.

        >>> History("c", "w", "step_us", "floor", [], [1.0, None, 3.0, 2.0]).bars
        '▁ █▅'
        """
        known = [value for value in self.values if value is not None]
        least, most = min(known), max(known)
        step = (most - least) / (len(BARS) - 1) or 1.0
        return "".join(" " if value is None else BARS[round((value - least) / step)] for value in self.values)


Key = tuple[str, str, str, str]


def changes(a: BenchRun, b: BenchRun) -> list[Change]:
    """Every figure and measure of both, the biggest change first."""
    before, after = _values(a), _values(b)
    found = [Change(*key, before[key][0], value, unit) for key, (value, unit) in after.items() if key in before]
    return sorted(found, key=lambda change: -abs(change.percent))


def histories(runs: Iterable[BenchRun], case: str) -> list[History]:
    """Every figure and measure of one case, over all runs that have the case."""
    having = sorted((run for run in runs if case in run.results), key=lambda run: run.started)
    values = [_values(run, case) for run in having]
    keys = dict.fromkeys(key for one in values for key in one)
    units = {key: unit for one in values for key, (_, unit) in one.items()}
    started = [run.started for run in having]
    return [History(*key, started, [one[key][0] if key in one else None for one in values], units[key]) for key in keys]


def differences(runs: Sequence[BenchRun]) -> list[str]:
    """What makes runs hard to compare: machines, packages and settings that are not the same.

    The digest of the code is no such thing: it is what is compared.
    """
    told: dict[str, None] = {}
    for before, after in pairwise(runs):
        for part in ("machine", "settings"):
            ours = _told(getattr(before, part))
            theirs = _told(getattr(after, part))
            for name in sorted(ours.keys() | theirs.keys()):
                if ours.get(name) != theirs.get(name):
                    told[f"{name}: {ours.get(name, 'absent')} → {theirs.get(name, 'absent')}"] = None
    return list(told)


def _told(part: msgspec.Struct) -> dict[str, object]:
    fields = msgspec.structs.asdict(part)
    packages: dict[str, object] = fields.pop("packages", {})
    for measured in ("sync_us", "code", "cases"):
        fields.pop(measured, None)
    return {**fields, **packages}


def _values(run: BenchRun, case: str = "") -> dict[Key, tuple[float, str]]:
    """Each figure's median, and each measure's result with its unit."""
    found: dict[Key, tuple[float, str]] = {}
    for name, result in run.results.items():
        if case in ("", name):
            found |= {(name, MEASURE, one.name, ""): (one.result, one.unit) for one in result.measures}
    for one in figures(run):
        if case in ("", one.case):
            found[one.case, one.workload, one.figure, one.system] = (one.median, "")
    return found
