"""`import`: transcripts into traces, with progress on stderr and a summary of what was added."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from eventstore.store import open as open_store
from eventstore.transcripts import Counts, MalformedRun, Transcript, import_transcript

from .opening import json_option
from .output import Column, Output, visible
from .stopping import INTERRUPTED

COLUMNS = (
    Column("file", style="bold", cut=True),
    Column("added", justify="right", style="green"),
    Column("continued", justify="right"),
    Column("already there", justify="right"),
    Column("skipped", justify="right"),
    Column("steps", justify="right"),
    Column("steps/s", justify="right", style="dim"),
)


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--skip-bad", is_flag=True, help="Report malformed runs and go on, instead of stopping at the first.")
@json_option
@click.pass_context
def import_(ctx: click.Context, files: Sequence[str], skip_bad: bool, as_json: bool) -> None:
    """Import chat transcripts: .jsonl, .jsonl.gz or .json files.

    A run is an object with messages, SWE-agent style steps, or both: in a .jsonl one a line, in a .json
    one or a list of them. It becomes a trace, each message or step a durable step. Importing a file
    again adds nothing; an import that was cut short goes on where it stopped.
    """
    try:
        transcripts = [Transcript(file) for file in files]
    except ValueError as error:
        raise click.UsageError(visible(str(error))) from None
    output = Output(as_json)
    done: list[tuple[Transcript, Counts, float]] = []
    try:
        with open_store(ctx.obj) as store, _progress() as (on_file, on_bad):
            for transcript in transcripts:
                counts, started = Counts(), time.perf_counter()
                on_step = on_file(transcript, counts)
                try:
                    import_transcript(store, transcript, counts, on_bad=on_bad if skip_bad else None, on_step=on_step)
                finally:
                    done.append((transcript, counts, time.perf_counter() - started))
    except MalformedRun as error:
        hint = "what was imported before it stays; --skip-bad passes over such runs"
        raise click.ClickException(visible(f"{error} ({hint})")) from None
    except KeyboardInterrupt:
        click.echo("Interrupted: importing again goes on from here.", err=True)
        ctx.exit(INTERRUPTED)
    finally:
        _report(output, done)


@contextmanager
def _progress() -> Iterator[tuple[Callable[[Transcript, Counts], Callable[[], None]], Callable[[MalformedRun], None]]]:
    """Gives `on_file`, which starts a bar and gives what moves it, and `on_bad`, which prints above it."""
    at_terminal = sys.stderr is not None and sys.stderr.isatty()
    console = Console(stderr=True, force_terminal=at_terminal, markup=False, highlight=False, emoji=False)
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[steps]:,} steps", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not at_terminal,
    )

    task = bar.add_task("", total=1.0, steps=0)

    def on_file(transcript: Transcript, counts: Counts) -> Callable[[], None]:
        bar.reset(task, description=visible(transcript.path.name), steps=0)
        return lambda: bar.update(task, completed=transcript.fraction, steps=counts.steps)

    def on_bad(error: MalformedRun) -> None:
        console.print(visible(f"skipped: {error}"), soft_wrap=True)

    with bar:
        yield on_file, on_bad


def _report(output: Output, done: Sequence[tuple[Transcript, Counts, float]]) -> None:
    if output.as_json:
        files = [{"file": str(item.path), **_figures(counts), "seconds": round(took, 3)} for item, counts, took in done]
        return output.object({"files": files})
    rows = [_row(item.path.name, counts, took) for item, counts, took in done]
    if len(done) > 1:
        total = Counts(*(sum(getattr(counts, name) for _, counts, _ in done) for name in Counts.__struct_fields__))
        rows.append(_row("total", total, sum(took for _, _, took in done)))
    return output.rows(COLUMNS, rows) if rows else None


def _figures(counts: Counts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in Counts.__struct_fields__}


def _row(name: str, counts: Counts, took: float) -> list[object]:
    return [name, *_figures(counts).values(), round(counts.steps / took) if counts.steps else None]
