"""`blame` and `why`: who wrote a key, and why an event is there."""

from __future__ import annotations

import click
from msgspec import UNSET
from rich.text import Text

from eventstore.blaming import Write
from eventstore.diffing import brief

from .opening import at_option, command_for, find_trace, json_option, open_for_reading, trace_argument
from .output import Column, Output, visible

SOURCE_STYLES = {"human": "yellow", "start": "dim", "root": "dim", "fork": "magenta", "import": "cyan"}
WRITES = (
    Column("seq", style="dim", justify="right"),
    Column("step", justify="right"),
    Column("time (UTC)", style="dim"),
    Column("by", style="bold"),
    Column("source"),
    Column("op"),
    Column("value", cut=True),
)


@click.command()
@trace_argument
@click.argument("key")
@at_option("--at", "Only writes up to there.")
@json_option
@click.pass_obj
def blame(db: str, trace: str, key: str, at: str | None, as_json: bool) -> None:
    """List every write of a key: which step and node, a human or a hook, when, and what.

    KEY is a state key, a JSON Pointer (/order/total) or a dotted path (order.total), whichever exists first.
    """
    output = Output(as_json)
    with open_for_reading(db) as store:
        opened = store.open_trace(find_trace(store, trace))
        writes = opened.blame(key, at=at)
    if as_json:
        return output.array(writes)
    inherited = any(write.trace_id != opened.id for write in writes)
    columns = (*WRITES, Column("written in", style="dim", cut=True)) if inherited else WRITES
    output.rows(columns, [_row(write, opened.id)[: len(columns)] for write in writes])
    if not writes:
        output.hint(f"Nobody wrote {visible(key)}.")
    else:
        output.hint(f"Why: {command_for(db, 'why', opened.id, str(writes[-1].seq))}")
    return None


def _row(write: Write, trace_id: str) -> list[object]:
    who = write.by or write.node
    if write.by and write.node:
        who = f"{write.by} at {write.node}"
    if write.branch:
        who = f"{write.node}/{write.branch}"
    return [
        write.seq,
        write.step,
        write.at,
        who,
        Text(visible(write.source), SOURCE_STYLES.get(write.source, "")),
        write.op,
        None if write.value is UNSET else brief(write.value, 10_000),
        None if write.trace_id == trace_id else write.trace_id,
    ]


@click.command(context_settings={"ignore_unknown_options": True})
@trace_argument
@click.argument("place", metavar="AT")
@json_option
@click.pass_obj
def why(db: str, trace: str, place: str, as_json: bool) -> None:
    """Tell why an event is in the log: its commit and node, what led there, what it changed.

    AT is a seq, -3 (from the end), step:12, a time or a checkpoint's id.
    """
    output = Output(as_json)
    with open_for_reading(db) as store:
        found = store.open_trace(find_trace(store, trace)).why(place)
    if as_json:
        return output.object(found)
    for index, reason in enumerate(found.reasons):
        output.line(visible(reason if index == 0 else f"  {reason}"), "bold" if index == 0 else "")
    nearest = found.chosen_by or found.decision
    if nearest is not None:
        output.hint(f"And that: {command_for(db, 'why', trace, str(nearest.seq))}")
    return None
