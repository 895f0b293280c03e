"""`stats`: what the file weighs."""

from __future__ import annotations

from typing import Any

import click

from eventstore.statistics import StoreStats, TraceStats

from .opening import json_option, open_for_reading
from .output import Column, Output, Size, plain, pretty

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
