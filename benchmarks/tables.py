"""The tables of a case: one figure told whole and as ratios, the others each with its ratio to this engine.

And the table that no benchmark should be without: where another system is the better one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .comparison import Compared, Growth, Ratio, growths
from .results import Described
from .sheet import Sheet, in_groups, without_empty
from .units import TIMES, figured, label, number, split, times

FIGURES_A_TABLE = 6


def of_case(ours: Sequence[Compared], known: Mapping[str, Described]) -> list[Sheet]:
    """The tables of one case, workload by workload."""
    sheets = []
    for workload in dict.fromkeys(one.workload for one in ours):
        here = [one for one in ours if one.workload == workload]
        case = here[0].case
        title = case if workload in case else f"{case}: {workload}"
        plain = [one for one in here if split(one.figure).at is None]
        names = list(dict.fromkeys(one.figure for one in plain))
        if names:
            sheets.append(_leading(f"{title}, {label(names[0])}", [o for o in plain if o.figure == names[0]], known))
        sheets += [_others(title, group, plain) for group in in_groups(names[1:], FIGURES_A_TABLE)]
        sheets += _grown(title, here)
    return sheets


def _leading(title: str, ours: Sequence[Compared], known: Mapping[str, Described]) -> Sheet:
    """One figure of each system, told whole."""
    columns = (
        "system",
        "mode",
        "through",
        "durable",
        "median",
        "p99",
        "min",
        "max",
        f"{TIMES} floor",
        f"{TIMES} engine",
        "same durability",
    )
    rows = []
    for one in ours:
        about = known[one.system]
        numbers = [one.median, one.p99, one.min, one.max]
        cells = ["" if value is None else figured(value, one.figure) for value in numbers]
        ratios = (_ratio(one.to_floor), _ratio(one.to_engine), _spread(one.same_durability))
        rows.append((one.system, about.mode, about.through, one.durability, *cells, *ratios))
    return without_empty(Sheet(title, columns, rows))


def _others(title: str, names: Sequence[str], ours: Sequence[Compared]) -> Sheet:
    """Several figures, each as its median and its ratio to this engine at the same durability."""
    cells = {
        (one.system, one.figure): f"{figured(one.median, one.figure)} {_ratio(one.same_durability):>5}" for one in ours
    }
    systems = [
        system for system in dict.fromkeys(one.system for one in ours) if any((system, name) in cells for name in names)
    ]
    rows = [(system, *(cells.get((system, name), "-") for name in names)) for system in systems]
    has_ratios = any(one.same_durability for one in ours)
    told = f"{title}, with the ratio to this engine" if has_ratios else title
    return Sheet(told, ("system", *map(label, names)), rows)


def _grown(title: str, ours: Sequence[Compared]) -> list[Sheet]:
    """The figures that were taken at places of an axis, and how they grow."""
    found: dict[tuple[str, str], list[Growth]] = {}
    for one in growths(ours):
        found.setdefault((one.figure, one.axis), []).append(one)
    sheets = []
    for (figure, axis), rows in found.items():
        places = sorted({place for one in rows for place in one.points})
        cells = [(one.system, *(_at(one, place) for place in places), _power(one)) for one in rows]
        columns = ("system", *(f"{place:,} {axis}" for place in places), "grows as")
        sheets.append(without_empty(Sheet(f"{title}, {label(figure)} by the number of {axis}", columns, cells)))
    return sheets


def _at(one: Growth, place: int) -> str:
    return figured(one.points[place], one.figure) if place in one.points else "-"


def _power(one: Growth) -> str:
    return "" if one.exponent is None else f"{one.axis}^{round(one.exponent, 2) + 0.0:.2f}"  # no minus before a zero


def wins(figures: Iterable[Compared]) -> Sheet:
    """Where another system is better than this engine at the same durability, the plainest first."""
    won = [(one, one.same_durability) for one in figures if one.peer_wins and one.same_durability is not None]
    won.sort(key=lambda pair: min(pair[1].median, 1 / pair[1].median))
    rows = [
        (
            one.case,
            one.workload,
            label(one.figure),
            one.system,
            figured(one.median, one.figure),
            _spread(ratio),
            ratio.to,
        )
        for one, ratio in won
    ]
    columns = ("case", "workload", "figure", "system", "its median", "ratio (least - most)", "compared with")
    return Sheet("Where a peer wins", columns, rows, "" if rows else "Nowhere in this run.")


def _ratio(ratio: Ratio | None) -> str:
    return times(ratio.median) if ratio else ""


def _spread(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return (
        f"{times(ratio.median)} ({number(ratio.least)} - {number(ratio.most)})"
        if ratio.pairs > 1
        else times(ratio.median)
    )
