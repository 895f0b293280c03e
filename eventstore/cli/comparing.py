"""`diff`: what changed between two places, of one trace or of two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from msgspec import UNSET
from rich.text import Text

from eventstore.comparing import diff as diff_of
from eventstore.diffing import Change, Side, StateDiff, brief
from eventstore.past import Past

from .opening import at_option, find_trace, json_option, open_for_reading, trace_argument
from .output import Column, Output, count, visible

SIGNS = {"added": "+", "removed": "-", "changed": "~", "appended": "+"}
STYLES = {"added": "green", "removed": "red", "changed": "yellow", "appended": "green"}
SHOWN_ITEMS = 20


@click.command()
@trace_argument
@click.argument("other", metavar="[OTHER]", required=False)
@at_option("--at", "The left place; by default the start of TRACE or, with OTHER, where it stands.")
@at_option("--to", "The right place, in OTHER where it is given; by default where that stands.")
@json_option
@click.pass_obj
def diff(db: str, trace: str, other: str | None, at: str | None, to: str | None, as_json: bool) -> None:
    """Show what changed in a trace between two places, or between two traces.

    Of two forks it tells where they part.
    """
    output = Output(as_json)
    with open_for_reading(db) as store:
        one = store.open_trace(find_trace(store, trace))
        two = one if other is None else store.open_trace(find_trace(store, other))
        if at is None and other is None:
            left = next(one.history())
        else:
            left = one.at(at)
        right = two.at(to)
        found = diff_of(left, right)
        if as_json:
            return output.object(found)
        if output.terminal:
            _headline(output, left, right, found)
    output.rows(
        (Column(""), Column("path"), Column("before", cut=True), Column("after", cut=True)),
        [row for change in found.changes for row in _rows(change, output.terminal)],
    )
    if found.is_empty:
        output.hint("No difference.")
    return None


def _headline(output: Output, left: Past, right: Past, found: StateDiff) -> None:
    for sign, past in (("-", left), ("+", right)):
        named = f"{past.name}, " if past.name else ""
        output.line(visible(f"{sign} {named}{past.trace_id}, {_place(past)}"), "bold")
    parted = found.parted
    if parted is not None:
        output.line(visible(f"  They part after event {parted.seq:,} of {parted.trace_id}."), "dim")
    output.line()


def _place(past: Past | Side) -> str:
    return f"after event {past.seq:,} (step {past.step:,})"


def _rows(change: Change, terminal: bool) -> Iterator[list[Any]]:
    style = STYLES[change.kind] if terminal else ""
    sign = Text(SIGNS[change.kind], style)
    if change.kind != "appended":
        before, after = (None if value is UNSET else brief(value, 10_000) for value in (change.before, change.after))
        yield [sign, Text(visible(change.label), style), before, after]
        return
    start, items = change.index or 0, list(change.after)
    if terminal:
        yield [sign, Text(visible(change.label), style), None, Text(f"{count(len(items), 'item')} appended", "dim")]
    shown = items if not terminal or len(items) <= SHOWN_ITEMS else items[: SHOWN_ITEMS // 2]
    for index, item in enumerate(shown, start):
        yield [sign, Text(visible(f"{change.label}[{index}]"), style), None, brief(item, 10_000)]
    if len(shown) < len(items):
        last = items[-(SHOWN_ITEMS // 2) :]
        yield ["", "", None, Text(f"… {len(items) - len(shown) - len(last):,} more …", "dim")]
        for index, item in enumerate(last, start + len(items) - len(last)):
            yield [sign, Text(visible(f"{change.label}[{index}]"), style), None, brief(item, 10_000)]
