"""`runs` and `checkpoints`: what there is, newest first."""

from __future__ import annotations

import click
from rich.text import Text

from eventstore.checkpoint import Checkpoint
from eventstore.store import TraceInfo

from .opening import find_trace, json_option, open_for_reading, trace_argument
from .output import Age, Column, Output, visible

STATUS_STYLES = {
    "running": "cyan",
    "waiting": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
}
"""How a terminal shows each status."""
RUNS = (
    Column("trace", style="bold"),
    Column("name", cut=True),
    Column("status"),
    Column("events", justify="right"),
    Column("updated", style="dim"),
    Column("forked from", style="dim"),
)
CHECKPOINTS = (
    Column("checkpoint", style="bold"),
    Column("seq", justify="right"),
    Column("next node", cut=True),
    Column("triggers"),
    Column("created", style="dim"),
)


@click.command()
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Traces a page.")
@click.option("--after", metavar="TRACE", help="The last trace of the page before.")
@click.option("--status", type=click.Choice(list(STATUS_STYLES)), help="Only traces that stand so.")
@click.option("--name", help="Only traces of that name.")
@json_option
@click.pass_obj
def runs(db: str, limit: int, after: str | None, status: str | None, name: str | None, as_json: bool) -> None:
    """List the traces, newest first."""
    output = Output(as_json)
    with open_for_reading(db) as store:
        last = None if after is None else find_trace(store, after)
        found = store.traces(limit=limit + 1, after=last, status=status, name=name)
    page = found[:limit]
    if as_json:
        return output.array(page)
    if not page:
        output.hint("No trace.")
    forks = any(info.parent_trace_id for info in page)
    columns = RUNS if forks else RUNS[:-1]
    output.rows(columns, [_run(info)[: len(columns)] for info in page])
    if len(found) > limit:
        output.hint(f"More: eventstore runs --after {page[-1].trace_id}")
    return None


def _run(info: TraceInfo) -> list[object]:
    origin = info.parent_trace_id and f"{info.parent_trace_id} at {info.fork_seq}"
    return [
        info.trace_id,
        info.name,
        Text(visible(info.status), STATUS_STYLES.get(info.status, "")),
        info.version,
        Age(info.updated_at),
        origin,
    ]


@click.command()
@trace_argument
@json_option
@click.pass_obj
def checkpoints(db: str, trace: str, as_json: bool) -> None:
    """List the checkpoints of a trace, newest first."""
    output = Output(as_json)
    with open_for_reading(db) as store:
        found = store.checkpoints.list(find_trace(store, trace))
    if as_json:
        return output.array(_as_data(checkpoint) for checkpoint in found)
    output.rows(CHECKPOINTS, [_row(checkpoint) for checkpoint in found])
    return None


def _row(checkpoint: Checkpoint) -> list[object]:
    triggers = ", ".join(trigger.name for trigger in checkpoint.triggers)
    return [
        checkpoint.checkpoint_id,
        checkpoint.seq,
        checkpoint.current_node,
        triggers,
        Age(checkpoint.created_at),
    ]


def _as_data(checkpoint: Checkpoint) -> dict[str, object]:
    """Without the state: that is the trace's, at `seq`."""
    return {
        "checkpoint_id": checkpoint.checkpoint_id,
        "trace_id": checkpoint.parent_trace_id,
        "seq": checkpoint.seq,
        "node": checkpoint.current_node,
        "graph_hash": checkpoint.graph_hash,
        "triggers": checkpoint.triggers,
        "created_at": checkpoint.created_at,
    }
