"""`stats` and `verify`: what the file weighs, and whether it holds together."""

from __future__ import annotations

from typing import Any

import click

from eventstore.statistics import StoreStats, TraceStats
from eventstore.verify import Problem

from .opening import find_trace, json_option, open_for_reading
from .output import Column, Output, Size, count, plain, pretty

LISTED = 20
LABELS = {
    "file_bytes": "file",
    "wal_bytes": "write-ahead log",
    "log_bytes": "log",
    "base_bytes": "bases",
    "page_size_bytes": "page size",
}
PER_TRACE = (
    Column("trace", style="bold"),
    Column("name", cut=True),
    Column("steps", justify="right"),
    Column("log", justify="right"),
    Column("bases", justify="right"),
    Column("state", justify="right"),
    Column("c1", justify="right", style="dim"),
    Column("c2", justify="right", style="dim"),
)
PROBLEMS = (
    Column("trace", style="bold"),
    Column("seq", justify="right"),
    Column("check"),
    Column("damage"),
    Column("reason", cut=True),
)


@click.command()
@click.option("--limit", type=click.IntRange(0), help=f"Traces listed, largest first (default: {LISTED}; JSON: all).")
@json_option
@click.pass_obj
def stats(db: str, limit: int | None, as_json: bool) -> None:
    """Show what the file holds: bytes of log, bases and each trace, pages, steps.

    c1 is all bytes of bases over the bytes of the log, c2 the bytes that a restore reads over the bytes of
    the state it gives; the default policy keeps both of the file's at 2 or below.
    """
    output = Output(as_json)
    with open_for_reading(db) as store:
        found = store.stats()
    traces = sorted(found.traces, key=lambda trace: trace.log_bytes + trace.base_bytes, reverse=True)
    if as_json:
        return output.object(_whole(found) | {"traces": [_one(trace) for trace in traces[:limit]]})
    show = pretty if output.terminal else plain
    for name, value in _whole(found).items():
        label = LABELS.get(name, name.replace("_", " ")) if output.terminal else name
        output.line(f"{label:<15}  {show(Size(value)) if name.endswith('bytes') else show(value)}")
    output.line()
    listed = traces[: LISTED if limit is None else limit]
    output.rows(PER_TRACE, [_row(trace) for trace in listed])
    if len(listed) < len(traces):
        output.hint(f"{len(traces) - len(listed):,} more; --limit {len(traces)} lists all.")
    return None


def _whole(found: StoreStats) -> dict[str, Any]:
    return {
        "path": found.path,
        "file_bytes": found.file_bytes,
        "wal_bytes": found.wal_bytes,
        "log_bytes": found.log_bytes,
        "base_bytes": found.base_bytes,
        "page_size_bytes": found.page_size_bytes,
        "pages": found.pages,
        "free_pages": found.free_pages,
        "runs": len(found.traces),
        "steps": found.steps,
        "c1": round(found.c1, 4),
        "c2": round(found.c2, 4),
    }


def _one(trace: TraceStats) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(trace, name) for name in trace.__struct_fields__}
    return fields | {"c1": round(trace.c1, 4), "c2": round(trace.c2, 4)}


def _row(trace: TraceStats) -> list[object]:
    return [
        trace.trace_id,
        trace.name,
        trace.steps,
        Size(trace.log_bytes),
        Size(trace.base_bytes),
        Size(trace.state_bytes),
        trace.c1,
        trace.c2,
    ]


@click.command()
@click.argument("trace", metavar="[TRACE]", required=False)
@json_option
@click.pass_context
def verify(ctx: click.Context, trace: str | None, as_json: bool) -> None:
    """Check the file, or one trace: hash chain, seqs, every base against the fold. Exits 1 with problems."""
    output = Output(as_json)
    with open_for_reading(ctx.obj) as store:
        found = store.verify(None if trace is None else find_trace(store, trace))
    if as_json:
        output.object({"ok": found.ok, **{name: getattr(found, name) for name in found.__struct_fields__}})
    else:
        if found.problems:
            output.rows(PROBLEMS, [_problem(problem) for problem in found.problems])
        checked = ", ".join((count(found.traces, "trace"), count(found.events, "event"), count(found.bases, "base")))
        verdict = "ok" if found.ok else count(len(found.problems), "problem")
        output.line(f"{verdict}: {checked}", "bold green" if found.ok else "bold red")
    ctx.exit(0 if found.ok else 1)


def _problem(problem: Problem) -> list[object]:
    damage = "the log" if problem.in_log else "derived"
    return [problem.trace_id, problem.seq, problem.check, damage, problem.reason]
