"""`state` and `log`: one trace, at any seq.

A terminal shows a state key by key with one line an item, cut to its width, and of long lists both
ends; a pipe gets every value whole. The log is read and printed in pages, so its length does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import click
import msgspec
from rich.text import Text

from eventstore.event import DeltaSource, NodeExecuted, StateDelta
from eventstore.opaque import Opaque
from eventstore.recorded import RecordedEvent

from .opening import find_trace, json_option, open_for_reading, trace_argument
from .output import Column, Output, count, to_json, visible

SHOWN_ITEMS = 20
SHOWN_EVENTS = 1000
EVENT_STYLES = {
    "node_executed": "green",
    "node_failed": "bold red",
    "delete": "red",
    "trace_started": "bold",
    "trace_forked": "bold",
    "trace_ended": "bold",
    "barrier_raised": "yellow",
    "barrier_decided": "yellow",
}
"""How a terminal marks what an event does; the rest is cyan."""


@click.command()
@trace_argument
@click.option("--at", metavar="SEQ", type=click.IntRange(1), help="As it was after that event (default: the last).")
@json_option
@click.pass_obj
def state(db: str, trace: str, at: int | None, as_json: bool) -> None:
    """Show the state of a trace, now or after any event."""
    output = Output(as_json)
    with open_for_reading(db) as store:
        opened = store.open_trace(find_trace(store, trace))
        seq = at or opened.version
        found = store.state_at(opened.id, seq)
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
    if isinstance(value, list) and value:
        yield key, Text(count(len(value), "item"), "dim")
        yield from _both_ends([(f"[{index}]", item) for index, item in enumerate(value)])
    elif isinstance(value, dict) and value:
        yield key, Text(count(len(value), "key"), "dim")
        yield from _both_ends([(name, item) for name, item in value.items()])
    elif isinstance(value, Opaque):
        items = "one value" if value.count is None else count(value.count, "item")
        yield key, Text(visible(f"{items} of codec {value.codec}, {len(value.data):,} bytes"), "dim")
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
@json_option
@click.pass_obj
def log(db: str, trace: str, after: int | None, upto: int | None, limit: int | None, as_json: bool) -> None:
    """List the events of a trace, oldest first."""
    output = Output(as_json)
    with open_for_reading(db) as store:
        opened = store.open_trace(find_trace(store, trace))
        if limit is None and output.terminal:
            limit = SHOWN_EVENTS
        events = islice(opened.events(after, upto), limit)
        if as_json:
            return output.array(events)
        seq_digits = max(3, len(str(opened.version)))
        columns = (
            Column("seq", seq_digits + seq_digits // 3, style="dim", justify="right"),
            Column("time (UTC)", 12 if output.terminal else 27, style="dim"),
            Column("event", 15),
            Column("key or node", 16, style="bold"),
            Column("detail", cut=True),
        )
        last = 0

        def rows() -> Iterator[list[Any]]:
            nonlocal last
            for recorded in events:
                last = recorded.seq
                yield _row(recorded)

        output.rows(columns, rows())
    if 0 < last < min(opened.version, upto or opened.version):
        output.hint(f"More: eventstore log {opened.id} --after {last}")
    return None


def _row(recorded: RecordedEvent) -> list[Any]:
    event = recorded.event
    what = recorded.kind
    if isinstance(event, StateDelta):
        what, about = str(event.op), event.key
        detail = "" if event.value is msgspec.UNSET else to_json(event.value)
        if event.source != DeltaSource.NODE:
            detail = f"{detail}  (source: {event.source})".strip()
    elif isinstance(event, NodeExecuted):
        about, detail = event.node, _execution(event)
        what = "node_executed" if event.success else "node_failed"
    else:
        fields = msgspec.to_builtins(event)
        about = str(fields.pop("node", None) or fields.pop("name", None) or "")
        detail = to_json(fields) if fields else ""
    return [recorded.seq, recorded.at, Text(what, EVENT_STYLES.get(what, "cyan")), about, detail]


def _execution(event: NodeExecuted) -> str:
    parts = [f"{event.duration_ms:g} ms"]
    if event.token_cost:
        parts.append(f"cost {event.token_cost:g}")
    if event.has_side_effects:
        parts.append("side effects")
    if event.next is not None:
        parts.append(f"next {event.next}")
    if event.error is not None:
        parts.append(event.error)
    return ", ".join(parts)
