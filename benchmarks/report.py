"""The report: what a run found, what changed between two, how a case went over all of them.

Tables on a terminal, plain columns in a pipe, JSON for machines. Each case's systems stand in one table, with the
first figure told whole and as ratios; the other figures follow, each with its ratio to this engine at the same
durability. Then the targets, met or not, and where another system is the better one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from .changes import Change, changes, differences, histories
from .comparison import compared, growths
from .described import described
from .result import Measure
from .results import BenchRun, Result
from .sheet import Sheet, print_sheets
from .tables import of_case, wins
from .units import figured, label, number

MEASURES = ("case", "measure", "result", "target", "met", "min - max", "raw")


def report(run: BenchRun) -> list[Sheet]:
    """All of a run: its cases, its targets, where a peer wins, what was left out, what failed."""
    known = described(run)
    by_case = {case: compared(case, result.measurements, known) for case, result in run.results.items()}
    figures = [one for case in by_case.values() for one in case]
    sheets = [_head(run)]
    for ours in by_case.values():
        sheets += of_case(ours, known)
    measures = [one for result in run.results.values() for one in result.measures]
    sheets += [targets(measures)] if measures else []
    sheets += [wins(figures)] if figures else []
    return sheets + _left_out(run.results)


def print_report(run: BenchRun, *, as_json: bool = False) -> None:
    """Print what a run found."""
    if as_json:
        print(_json(report_json(run)))
    else:
        print_sheets(report(run))


def report_json(run: BenchRun) -> dict[str, Any]:
    """All of a run for a machine: the raw measurements, the comparison, the targets."""
    known = described(run)
    figures = [one for case, result in run.results.items() for one in compared(case, result.measurements, known)]
    whole: dict[str, Any] = msgspec.to_builtins(run)
    for result in whole["results"].values():
        for measure, is_met in zip(result["measures"], map(_met, result["measures"]), strict=True):
            measure["met"] = is_met
    return whole | {
        "systems": msgspec.to_builtins(known),
        "compared": [msgspec.to_builtins(one) | {"peer_wins": one.peer_wins} for one in figures],
        "growth": msgspec.to_builtins(growths(figures)),
    }


def compare(a: BenchRun, b: BenchRun) -> list[Sheet]:
    """From run `a` to run `b`: the medians of both and the change, the biggest first."""
    rows = [
        (one.case, one.workload, label(one.figure), one.system, *_before_after(one), f"{one.percent:+.1f} %")
        for one in changes(a, b)
    ]
    columns = ("case", "workload", "figure", "system", "before", "after", "change")
    told = differences([a, b])
    note = f"Not the same: {'; '.join(told)}." if told else "Same machine, same packages, same settings."
    if a.settings.code != b.settings.code:
        note += f" Code {a.settings.code or 'unknown'} → {b.settings.code or 'unknown'}."
    return [Sheet(f"{_named(a)} → {_named(b)}", columns, rows, note)]


def print_compare(a: BenchRun, b: BenchRun, *, as_json: bool = False) -> None:
    """Print what changed from run `a` to run `b`."""
    if as_json:
        rows = [msgspec.to_builtins(one) | {"percent": one.percent} for one in changes(a, b)]
        print(_json({"changes": rows, "differences": differences([a, b])}))
    else:
        print_sheets(compare(a, b))


def history(runs: Iterable[BenchRun], case: str) -> list[Sheet]:
    """The figures of one case in every run, oldest first, with a bar for each run."""
    having = sorted((run for run in runs if case in run.results), key=lambda run: run.started)
    found = histories(having, case)
    columns = ("workload", "figure", "system", *(_named(run) for run in having), "bars")
    rows = []
    for one in found:
        cells = ["" if value is None else _valued(value, one.figure, one.unit, one.system) for value in one.values]
        rows.append((one.workload, label(one.figure), one.system, *cells, one.bars))
    told = differences(having)
    note = f"Not the same everywhere: {'; '.join(told)}." if told else ""
    return [Sheet(f"{case}, {len(having)} runs", columns, rows, note)]


def print_history(runs: Iterable[BenchRun], case: str, *, as_json: bool = False) -> None:
    """Print how a case went over the runs."""
    if as_json:
        print(_json(msgspec.to_builtins(histories(runs, case))))
    else:
        print_sheets(history(runs, case))


def targets(measures: Sequence[Measure]) -> Sheet:
    """Each measure against its target."""
    met = sum(measure.met for measure in measures)
    missed = frozenset(index for index, measure in enumerate(measures) if not measure.met)
    note = f"{met} of {len(measures)} targets met"
    return Sheet("Targets", MEASURES, [_target(measure) for measure in measures], note, missed)


def _head(run: BenchRun) -> Sheet:
    machine = run.machine
    note = (
        f"{machine.cores} cores of {machine.processor or machine.system}, {machine.memory_bytes / 2**30:.0f} GiB;"
        f" a sync of 4 KiB takes {machine.sync_us:.0f} µs; Python {machine.python}, SQLite {machine.sqlite}"
    )
    quick = "; quick sizes, whose figures mean little" if run.settings.quick else ""
    return Sheet(f"Run {_named(run)}, {run.trace_id}: {run.status}{quick}", (), [], note)


def _left_out(results: Mapping[str, Result]) -> list[Sheet]:
    """What was skipped, what a system cannot tell, what failed."""
    skipped = [(case, *pair) for case, result in results.items() for pair in result.skipped.items()]
    failed = [(case, *pair) for case, result in results.items() for pair in result.failed.items()]
    missing = dict.fromkeys(
        (case, one.system, f"{label(figure)}: {reason}")
        for case, result in results.items()
        for one in result.measurements
        for figure, reason in one.missing.items()
    )
    columns = ("case", "system", "why")
    told = {"Skipped": skipped, "Not there": list(missing), "Failed": failed}
    return [Sheet(title, columns, rows) for title, rows in told.items() if rows]


def _target(measure: Measure) -> tuple[str, ...]:
    of_unit = measure.unit if measure.unit == "x" else f" {measure.unit}".rstrip()
    spread = f"{number(min(measure.samples))} - {number(max(measure.samples))}" if measure.samples else ""
    return (
        measure.case,
        measure.name,
        f"{number(measure.result)}{of_unit}",
        f"{'≥' if measure.at_least else '≤'} {number(measure.target)}{of_unit}",
        "yes" if measure.met else "no",
        spread,
        measure.note,
    )


def _met(measure: dict[str, Any]) -> bool:
    return msgspec.convert(measure, Measure).met


def _before_after(one: Change) -> tuple[str, str]:
    before, after = (_valued(value, one.figure, one.unit, one.system) for value in (one.before, one.after))
    return before, after


def _valued(value: float, figure: str, of_unit: str, system: str) -> str:
    return figured(value, figure) if system else f"{number(value)} {of_unit}".rstrip()


def _named(run: BenchRun) -> str:
    return f"{run.started:%Y-%m-%d %H:%M}"


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode()
