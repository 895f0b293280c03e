"""`state` and `log`: one trace, at any seq.

A terminal shows a state key by key with one line an item, cut to its width, and of long lists both
ends; a pipe gets every value whole. The log is read and printed in pages, so its length does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Any

import click
from rich.text import Text

from eventstore.bases import BaseInfo
from eventstore.checkpoint import Checkpoint
from eventstore.readable import readable
from eventstore.recorded import RecordedEvent
from eventstore.store import Store

from .describing import described
from .opening import at_option, command_for, find_trace, json_option, open_for_reading, trace_argument
from .output import PAGE_ROWS, Column, Output, count, to_json, visible

Place = dict[str, Any]
"""A checkpoint or a base, as JSON shows it among the events."""

SHOWN_ITEMS = 20
SHOWN_EVENTS = 1000
EVENT_STYLES = {
    "node_executed": "green",
    "node_failed": "bold red",
    "branch_executed": "green",
    "branch_failed": "bold red",
    "delete": "red",
    "trace_started": "bold",
    "trace_forked": "bold",
    "trace_ended": "bold",
    "barrier_raised": "yellow",
    "barrier_decided": "yellow",
    "decision_submitted": "yellow",
    "cancel_requested": "magenta",
    "graph_changed": "magenta",
    "trace_reopened": "bold",
}
"""How a terminal marks what an event does; the rest is cyan."""


@click.command()
@trace_argument
@at_option("--at", "As it was there; by default now.")
@json_option
@click.pass_obj
def state(db: str, trace: str, at: str | None, as_json: bool) -> None:
    """Show the state of a trace, now or at any place."""
    output = Output(as_json)
    with open_for_reading(db) as store:
        opened = store.open_trace(find_trace(store, trace))
        past = opened.at(at)
        seq, found = past.seq, past.state
    if as_json:
        return output.object(found)
    if output.terminal:
        named = f"{opened.name}, " if opened.name else ""
        output.line(visible(f"{named}{opened.id}, after event {seq:,} of {opened.version:,}"), "bold")
        lines = ((key, line) for key, value in found.items() for key, line in _overview(key, value))
        output.rows([Column("key", style="cyan"), Column("value", cut=True)], lines)
        output.hint("Long values are cut here; a pipe or --json gets them whole.")
    else:
        output.rows([Column("key"), Column("value", cut=True)], ((key, to_json(value)) for key, value in found.items()))
    return None


def _overview(key: str, value: Any) -> Iterator[tuple[str, str | Text]]:
    """A value as lines of a terminal."""
    value = readable(value)
    if isinstance(value, list) and value:
        yield key, Text(count(len(value), "item"), "dim")
        yield from _both_ends([(f"[{index}]", item) for index, item in enumerate(value)])
    elif isinstance(value, dict) and value:
        yield key, Text(count(len(value), "key"), "dim")
        yield from _both_ends([(name, item) for name, item in value.items()])
    else:
        yield key, to_json(value)


def _both_ends(items: list[tuple[str, Any]]) -> Iterator[tuple[str, str | Text]]:
    half = SHOWN_ITEMS // 2
    cut = len(items) - SHOWN_ITEMS
    for name, item in items if cut <= 1 else items[:half]:
        yield f"  {name}", to_json(item)
    if cut > 1:
        yield "", Text(f"… {cut:,} more …", "dim")
        for name, item in items[-half:]:
            yield f"  {name}", to_json(item)


@click.command()
@trace_argument
@click.option("--after", metavar="SEQ", type=click.IntRange(0), help="Only events after that seq.")
@click.option("--upto", metavar="SEQ", type=click.IntRange(1), help="Only events up to that seq.")
@click.option("--limit", type=click.IntRange(1), help=f"At most that many events (on a terminal: {SHOWN_EVENTS}).")
@click.option("--events-only", is_flag=True, help="Without the checkpoints and bases that policies made.")
@json_option
@click.pass_obj
def log(
    db: str, trace: str, after: int | None, upto: int | None, limit: int | None, events_only: bool, as_json: bool
) -> None:
    """List the events of a trace, oldest first, each with the checkpoints and bases that stand at its seq."""
    output = Output(as_json)
    with open_for_reading(db) as store:
        opened = store.open_trace(find_trace(store, trace))
        if limit is None and output.terminal:
            limit = SHOWN_EVENTS
        events = islice(opened.events(after, upto), limit)
        shown = events if events_only else _with_places(store, opened.id, events, after or 0)
        if as_json:
            return output.array(shown)
        seq_digits = max(3, len(str(opened.version)))
        columns = (
            Column("seq", seq_digits + seq_digits // 3, style="dim", justify="right"),
            Column("time (UTC)", 12 if output.terminal else 27, style="dim"),
            Column("event", 15),
            Column("about", 16, style="bold"),
            Column("detail", cut=True),
        )
        last = 0

        def rows() -> Iterator[list[Any]]:
            nonlocal last
            for item in shown:
                if isinstance(item, RecordedEvent):
                    last = item.seq
                yield _row(item)

        output.rows(columns, rows())
    if 0 < last < min(opened.version, upto or opened.version):
        output.hint(f"More: {command_for(db, 'log', opened.id, '--after', str(last))}")
    return None


def _with_places(
    store: Store, trace_id: str, events: Iterable[RecordedEvent], after: int
) -> Iterator[RecordedEvent | Place]:
    """The events, each with what stands at its seq after it."""
    events = iter(events)
    while page := list(islice(events, PAGE_ROWS)):
        last = page[-1].seq
        places = [_checkpoint(saved) for saved in reversed(store.checkpoints.between(trace_id, after + 1, last))]
        places += [_base(base) for base in store.bases(trace_id, after=after, upto=last)]
        both: tuple[list[Any], list[Any]] = (page, sorted(places, key=_seq))
        yield from merge(*both, key=_seq)  # of one seq, the event comes first
        after = last


def _seq(item: RecordedEvent | Place) -> int:
    return item.seq if isinstance(item, RecordedEvent) else int(item["seq"])


def _checkpoint(saved: Checkpoint) -> Place:
    return {
        "seq": saved.seq,
        "kind": "checkpoint",
        "checkpoint_id": saved.checkpoint_id,
        "node": saved.current_node,
        "triggers": saved.triggers,
        "at": saved.created_at,
    }


def _base(base: BaseInfo) -> Place:
    fields = {"seq": base.seq, "kind": "base", "base": base.kind, "reason": base.reason}
    return {**fields, "size_bytes": base.size_bytes, "at": base.at}


def _row(item: RecordedEvent | Place) -> list[Any]:
    if isinstance(item, RecordedEvent):
        what, about, detail = described(item)
        return [item.seq, item.at, Text(what, EVENT_STYLES.get(what, "cyan")), about, detail]
    if item["kind"] == "checkpoint":
        about, detail = item["node"], ", ".join(trigger.name for trigger in item["triggers"])
    else:
        about, detail = item["base"], f"{count(item['size_bytes'], 'byte')}: {item['reason']}"
    return [item["seq"], item["at"], Text(item["kind"], "dim"), about, detail]
