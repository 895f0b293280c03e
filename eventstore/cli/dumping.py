"""`export jsonl`: traces as JSON Lines, written beside the name and renamed when whole."""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import click
from rich.filesize import decimal
from rich.progress import MofNCompleteColumn

from eventstore.errors import EventStoreError
from eventstore.store import Store
from eventstore.transfer.outgoing import DumpCounts, dump
from eventstore.whole_file import part_of, publish, refusal

from .choosing import choice, chosen, every
from .opening import json_option, open_for_reading
from .output import Output, count, visible
from .progress import progress_bar
from .stopping import INTERRUPTED


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
@choice
@json_option
@click.pass_context
def jsonl(
    ctx: click.Context, file: str, traces: Sequence[str], name: str | None, status: str | None, as_json: bool
) -> None:
    """Write traces to FILE as JSON Lines, from which `import` makes an equal store.

    FILE is compressed when it ends in .gz; - is the standard output. All traces, or those named, or of a name
    or status; what a fork shares with its parents comes along. A FILE that exists is replaced when the new one
    is whole. Exits 1 when a damaged trace could not be written to its end.
    """
    if as_json and file == "-":
        raise click.UsageError("the standard output holds the lines: no room for --json")
    output = Output(as_json)
    bad: list[EventStoreError] = []
    started = time.perf_counter()
    try:
        with open_for_reading(ctx.obj) as store:
            everything = not traces and name is None and status is None
            ids = None if everything else chosen(store, traces, name, status)
            with _destination(store.path, file) as out, _progress(store, ids) as (on_trace, tell):

                def on_bad(error: EventStoreError) -> None:
                    bad.append(error)
                    tell(f"damaged: {error}")

                counts = dump(store, out, trace_ids=ids, on_trace=on_trace, on_bad=on_bad)
    except KeyboardInterrupt:
        click.echo(f"Interrupted: {'the lines end early' if file == '-' else 'no file was written'}.", err=True)
        ctx.exit(INTERRUPTED)
    took = time.perf_counter() - started
    if as_json:
        output.object({"file": file, **_figures(counts), "seconds": round(took, 3)})
    elif file == "-":
        click.echo(_told(counts), err=True)
    else:
        output.line(f"{visible(file)}: {_told(counts)}", "red" if bad else "green")
        output.hint(f"eventstore --db other.db import {visible(file)}")
    ctx.exit(1 if bad else 0)


@contextmanager
def _destination(store_path: str, file: str) -> Iterator[BinaryIO]:
    """Where the lines go; a file appears under its name when it is whole and on the disk."""
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(file)
    if (reason := refusal(store_path, target)) is not None:
        raise click.UsageError(visible(reason))
    if target.exists() and not target.is_file():  # a pipe, a device: there is nothing to rename over
        with target.open("wb") as stream:
            yield stream
        return
    with part_of(target) as part:
        with part.open("wb") as stream:
            if target.suffix.lower() == ".gz":
                with gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=6) as zipped:
                    yield cast("BinaryIO", zipped)
            else:
                yield stream
        publish(part, target, replace=True)


@contextmanager
def _progress(store: Store, ids: Sequence[str] | None) -> Iterator[tuple[Any, Any]]:
    """Gives `on_trace`, which moves the bar, and `tell`, which prints above it."""
    bar = progress_bar("{task.description}", MofNCompleteColumn())
    total = 0
    if not bar.disable:
        total = len(ids) if ids is not None else sum(1 for _ in every(store))
    task = bar.add_task("traces", total=total)
    with bar:
        yield lambda trace_id: bar.advance(task), lambda text: bar.console.print(visible(text), soft_wrap=True)


def _told(counts: DumpCounts) -> str:
    parts = [count(counts.traces, "trace"), count(counts.commits, "step"), count(counts.events, "event")]
    if counts.tombstones:
        parts.append(count(counts.tombstones, "tombstone"))
    if counts.damaged:
        parts.append(f"{counts.damaged} damaged")
    return ", ".join(parts) + f" ({decimal(counts.size_bytes)} of lines)"


def _figures(counts: DumpCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in counts.__struct_fields__}
