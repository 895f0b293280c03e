"""`export`: take traces out of the store, in another form; here, into a database for SQL and Datasette."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from rich.progress import MofNCompleteColumn

from .choosing import choice, chosen
from .dumping import jsonl
from .opening import json_option, open_for_reading
from .output import Output, Size, count, pretty, visible
from .progress import progress_bar
from .spans import spans
from .stopping import INTERRUPTED
from .timing import picture

if TYPE_CHECKING:
    from eventstore.analysis import Exported, OnProgress


@click.group()
def export() -> None:
    """Take traces out: for analysis, for another store, as a picture, as spans."""


@export.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
@choice
@json_option
@click.pass_context
def sqlite(
    ctx: click.Context, file: str, traces: Sequence[str], name: str | None, status: str | None, as_json: bool
) -> None:
    """Export traces into FILE, a database for SQL, Datasette and notebooks; again, to bring it up to date.

    Tables of runs, steps, deltas, barriers, checkpoints and messages (with full-text search), and views over
    them. Only what is new is read; an export that is cut short goes on from there. By default all traces are
    exported. What a chosen trace was forked from comes with it.
    """
    from eventstore.analysis import export_analysis

    output = Output(as_json)
    try:
        with open_for_reading(ctx.obj) as store, _progress() as on_progress:
            ids = chosen(store, traces, name, status) if traces else None
            exported = export_analysis(store, file, trace_ids=ids, name=name, status=status, on_progress=on_progress)
    except KeyboardInterrupt:
        click.echo("Interrupted: exporting again goes on from here.", err=True)
        ctx.exit(INTERRUPTED)
    _report(output, exported)
    for damage in exported.damaged:
        click.echo(f"Error: {visible(damage)}", err=True)
    if exported.damaged:
        ctx.exit(1)


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """Gives what moves the bar: runs done, of how many, deltas so far."""
    bar = progress_bar("runs", MofNCompleteColumn(), "{task.fields[deltas]:,} deltas, {task.fields[rate]:,.0f}/s")
    task = bar.add_task("", total=None, deltas=0, rate=0.0)
    started = time.monotonic()

    def on_progress(done: int, total: int, deltas: int) -> None:
        rate = deltas / max(time.monotonic() - started, 0.001)
        bar.update(task, completed=done, total=total, deltas=deltas, rate=rate)

    with bar:
        yield on_progress


def _report(output: Output, exported: Exported) -> None:
    if output.as_json:
        return output.object(exported)
    runs = [f"{exported.added:,} added", f"{exported.updated:,} updated", f"{exported.unchanged:,} unchanged"]
    if exported.removed:
        runs.append(f"{exported.removed:,} removed")
    rows = [count(exported.steps, "step"), count(exported.deltas, "delta"), count(exported.messages, "message")]
    output.line(f"{visible(exported.path)}: runs {', '.join(runs)}; {', '.join(rows)}; {_size(exported)}")
    return output.hint(f"Look at it: datasette {visible(shlex.quote(exported.path))}")


def _size(exported: Exported) -> str:
    rate = f", {exported.deltas_per_s:,.0f} deltas/s" if exported.deltas else ""
    return f"{pretty(Size(exported.file_bytes))} in {exported.elapsed_s:.1f} s{rate}"


export.add_command(jsonl)
export.add_command(spans)
export.add_command(picture)
