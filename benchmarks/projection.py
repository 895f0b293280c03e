"""Runs as tables of a results database, for SQL and Datasette: plain rows with foreign keys, and views over them.

Projecting a run again brings its rows up to date and makes no others: all are upserted by their keys, in one
transaction. The results database is a file of its own. The event store that the runs come from is never opened here,
since two SQLite libraries in one process drop each other's locks on a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from sqlite_utils import Database

from .comparison import FLOORS, OURS, Compared
from .described import described, figures
from .result import Spread, middle
from .results import BenchRun, Described
from .units import unit

Row = dict[str, Any]
Reference = tuple[str, str, str]
RUN: Reference = ("run", "runs", "run")
SYSTEM: Reference = ("system", "systems", "system")

# name: (columns, primary key, foreign keys)
TABLES: dict[str, tuple[dict[str, type], tuple[str, ...], tuple[Reference, ...]]] = {
    "runs": (
        {
            "run": str, "started": str, "status": str, "quick": int, "repeat": int, "input": str, "code": str,
            "machine": str, "processor": str, "cores": int, "memory_bytes": int, "python": str, "sqlite": str,
            "sync_us": float, "seconds": float,
        },
        ("run",),
        (),
    ),
    "systems": (
        {"system": str, "title": str, "mode": str, "durability": str, "through": str}, ("system",), ()
    ),
    "packages": ({"run": str, "package": str, "version": str}, ("run", "package"), (RUN,)),
    "measurements": (
        {
            "run": str, "case": str, "workload": str, "figure": str, "system": str, "repeat": int, "value": float,
            "unit": str, "p99": float, "min": float, "max": float, "samples": int,
        },
        ("run", "case", "workload", "figure", "system", "repeat"),
        (RUN, SYSTEM),
    ),
    "ratios": (
        {
            "run": str, "case": str, "workload": str, "figure": str, "system": str, "reference": str, "median": float,
            "least": float, "most": float, "pairs": int,
        },
        ("run", "case", "workload", "figure", "system", "reference"),
        (RUN, SYSTEM, ("reference", "systems", "system")),
    ),
    "measures": (
        {
            "run": str, "case": str, "name": str, "result": float, "target": float, "unit": str, "at_least": int,
            "met": int, "samples": str, "note": str,
        },
        ("run", "case", "name"),
        (RUN,),
    ),
    "left_out": (
        {"run": str, "case": str, "what": str, "how": str, "reason": str}, ("run", "case", "what", "how"), (RUN,)
    ),
}  # fmt: skip

# A median by hand: the SQLite of many a Python has no function for it.
MEDIANS = """
SELECT run, "case", workload, figure, system, unit, avg(value) AS median, min(p99) AS least_p99, max(p99) AS most_p99,
  min(least) AS "min", max(most) AS "max", n AS repeats
FROM (
  SELECT *, count(*) OVER whole AS n, row_number() OVER (whole ORDER BY value) AS place,
    min(coalesce("min", value)) OVER whole AS least, max(coalesce("max", value)) OVER whole AS most
  FROM measurements
  WINDOW whole AS (PARTITION BY run, "case", workload, figure, system)
)
WHERE place IN ((n + 1) / 2, (n + 2) / 2)
GROUP BY run, "case", workload, figure, system
"""
RATIOS = """
SELECT run, "case", workload, figure, system, title, durability, reference, median AS ratio, least, most, pairs
FROM ratios JOIN systems USING (system) WHERE reference IN ('{0}', '{0}-normal')
"""
VIEWS = {
    "medians": MEDIANS,
    "ratios_to_engine": RATIOS.format(OURS),
    "ratios_to_floor": RATIOS.format(FLOORS),
    "missed_targets": """
SELECT run, started, "case", name, result, target, unit, at_least, note
FROM measures JOIN runs USING (run) WHERE NOT met ORDER BY started, "case"
""",
    "history_of_figures": """
SELECT "case", workload, figure, system, started, run, median, unit,
  median / lag(median) OVER (PARTITION BY "case", workload, figure, system ORDER BY started) AS to_the_run_before
FROM medians JOIN runs USING (run) ORDER BY "case", workload, figure, system, started
""",
}


def project(runs: Iterable[BenchRun], path: str) -> None:
    """Put the runs into the results database at `path`, which is made when it is missing."""
    with Database(path, execute_plugins=False) as db:
        db.conn.execute("PRAGMA foreign_keys = ON")
        with db.atomic():
            for name, (columns, key, references) in TABLES.items():
                db.table(name).create(columns, pk=key, foreign_keys=references, if_not_exists=True)
            for name, sql in VIEWS.items():
                db.create_view(name, sql.strip(), replace=True)
            for run in runs:
                for name, rows in _rows(run).items():
                    db.table(name).upsert_all(rows, pk=TABLES[name][1])


def _rows(run: BenchRun) -> dict[str, list[Row]]:
    """A run's rows by table, parents first."""
    known = described(run)
    names = {"run": run.trace_id}
    settings, machine = run.settings, run.machine
    whole = names | {
        "started": run.started.isoformat(),
        "status": run.status,
        "quick": settings.quick,
        "repeat": settings.repeat,
        "input": settings.input,
        "code": settings.code,
        "machine": machine.system,
        "processor": machine.processor,
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "python": machine.python,
        "sqlite": machine.sqlite,
        "sync_us": machine.sync_us,
        "seconds": sum(result.seconds for result in run.results.values()),
    }
    return {
        "runs": [whole],
        "systems": [_system(name, about) for name, about in known.items()],
        "packages": [names | {"package": name, "version": version} for name, version in machine.packages.items()],
        "measurements": [names | row for row in _measurements(run)],
        "ratios": [names | row for row in _ratios(figures(run, known))],
        "measures": [names | row for row in _measures(run)],
        "left_out": [names | row for row in _left_out(run)],
    }


def _system(name: str, about: Described) -> Row:
    return {"system": name, **msgspec.structs.asdict(about)}


def _measurements(run: BenchRun) -> Iterator[Row]:
    for case, result in run.results.items():
        for one in result.measurements:
            for figure, value in one.figures.items():
                row: Row = {"case": case, "workload": one.workload, "figure": figure, "system": one.system}
                row |= {"repeat": one.repeat, "value": middle(value), "unit": unit(figure)}
                row |= dict.fromkeys(("p99", "min", "max", "samples"))
                if isinstance(value, Spread):
                    row |= {"p99": value.p99, "min": value.min, "max": value.max, "samples": value.count}
                yield row


def _ratios(compared: Sequence[Compared]) -> Iterator[Row]:
    for one in compared:
        ratios = {ratio.to: ratio for ratio in (one.to_floor, one.to_engine, one.same_durability) if ratio is not None}
        for ratio in ratios.values():
            row: Row = {"case": one.case, "workload": one.workload, "figure": one.figure, "system": one.system}
            row |= {"reference": ratio.to, "median": ratio.median, "least": ratio.least, "most": ratio.most}
            yield row | {"pairs": ratio.pairs}


def _measures(run: BenchRun) -> Iterator[Row]:
    for result in run.results.values():
        for one in result.measures:
            row = msgspec.structs.asdict(one)
            yield row | {"met": one.met, "samples": msgspec.json.encode(one.samples).decode()}


def _left_out(run: BenchRun) -> Iterator[Row]:
    for case, result in run.results.items():
        for how in ("skipped", "failed"):
            for what, reason in getattr(result, how).items():
                yield {"case": case, "what": what, "how": how, "reason": reason}
