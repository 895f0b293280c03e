"""`import`: transcripts and dumps into traces, with progress on stderr and a summary of what was added."""

from __future__ import annotations

import gzip
import io
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import click
from rich.progress import TaskProgressColumn

from eventstore.errors import EventStoreError, MalformedDump
from eventstore.store import Store
from eventstore.transcripts import Counts, MalformedRun, Transcript, import_transcript
from eventstore.transfer.loading import LoadCounts, is_dump, load

from .opening import json_option, open_any
from .output import Column, Output, visible
from .progress import progress_bar
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


DUMP_COLUMNS = (
    Column("file", style="bold", cut=True),
    Column("added", justify="right", style="green"),
    Column("continued", justify="right"),
    Column("already there", justify="right"),
    Column("refused", justify="right", style="red"),
    Column("steps", justify="right"),
    Column("steps/s", justify="right", style="dim"),
)
MAGIC_BYTES = 64


class Dump:
    """A file that `export jsonl` wrote, gzipped or not. `fraction`: how far it has been read, 0 to 1."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.fraction = 0.0

    @staticmethod
    def recognises(path: str) -> bool:
        """Whether the file begins as a dump does. Raises OSError."""
        with Path(path).open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            try:
                return is_dump(gzip.GzipFile(fileobj=raw).read(MAGIC_BYTES) if zipped else raw.read(MAGIC_BYTES))
            except (EOFError, zlib.error, gzip.BadGzipFile):
                return False  # whoever reads it as a transcript says what is wrong with it

    def load(self, store: Store, on_bad: Callable[[EventStoreError], None], on_step: Callable[[], None]) -> LoadCounts:
        """Load it. Raises as `load`."""
        size_bytes = max(1, self.path.stat().st_size)

        def moved() -> None:
            self.fraction = raw.tell() / size_bytes
            on_step()

        with self.path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            lines = io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 16) if zipped else raw
            return load(store, cast("BinaryIO", _Watched(lines, moved)), on_bad=on_bad)


class _Watched:
    """Lines, and who is to know that another few hundred were read."""

    def __init__(self, lines: Any, moved: Callable[[], None]) -> None:
        self._readline = lines.readline
        self._moved = moved
        self._count = 0

    def readline(self, limit: int) -> bytes:
        self._count += 1
        if self._count % 256 == 0:
            self._moved()
        return cast("bytes", self._readline(limit))


@click.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--skip-bad", is_flag=True, help="Report malformed runs and go on, instead of stopping at the first.")
@json_option
@click.pass_context
def import_(ctx: click.Context, files: Sequence[str], skip_bad: bool, as_json: bool) -> None:
    """Import what `export jsonl` wrote, or chat transcripts: .jsonl, .jsonl.gz or .json files.

    An export comes back as it was, each commit checked by the hash chain; a trace that is there already is
    passed over, one that differs is refused and told of, and the exit code is then 1.

    Of a transcript, a run is an object with messages, SWE-agent style steps, or both: in a .jsonl one a
    line, in a .json one or a list of them. It becomes a trace, each message or step a durable step. Importing a file
    again adds nothing; an import that was cut short goes on where it stopped.
    """
    try:
        sources = [Dump(file) if Dump.recognises(file) else Transcript(file) for file in files]
    except ValueError as error:
        raise click.UsageError(visible(str(error))) from None
    output = Output(as_json)
    done: list[Done] = []
    bad: list[EventStoreError] = []
    try:
        with open_any(ctx.obj) as store, _progress() as (on_file, tell):

            def on_bad(error: EventStoreError) -> None:
                bad.append(error)
                tell(f"refused: {error}")

            for source in sources:
                started = time.perf_counter()
                if isinstance(source, Dump):
                    counts = _load(store, source, on_file, on_bad)
                    done.append((source.path, counts, time.perf_counter() - started))
                    continue
                added = Counts()
                on_step = on_file(source, added)
                skip = (lambda error: tell(f"skipped: {error}")) if skip_bad else None
                try:
                    import_transcript(store, source, added, on_bad=skip, on_step=on_step)
                finally:
                    done.append((source.path, added, time.perf_counter() - started))
    except MalformedRun as error:
        hint = "what was imported before it stays; --skip-bad passes over such runs"
        raise click.ClickException(visible(f"{error} ({hint})")) from None
    except KeyboardInterrupt:
        click.echo("Interrupted: importing again goes on from here.", err=True)
        ctx.exit(INTERRUPTED)
    finally:
        _report(output, done)
    ctx.exit(1 if bad else 0)


Done = tuple[Path, Counts | LoadCounts, float]
OnFile = Callable[[Transcript | Dump, Counts | None], Callable[[], None]]


def _load(store: Store, source: Dump, on_file: OnFile, on_bad: Callable[[EventStoreError], None]) -> LoadCounts:
    try:
        return source.load(store, on_bad, on_file(source, None))
    except MalformedDump as error:  # of the file as a whole
        raise click.ClickException(visible(f"{source.path}: {error}")) from None


@contextmanager
def _progress() -> Iterator[tuple[OnFile, Callable[[str], None]]]:
    """Gives `on_file`, which starts a bar and gives what moves it, and `tell`, which prints above it."""
    bar = progress_bar("{task.description}", TaskProgressColumn(), "{task.fields[steps]:,} steps")

    task = bar.add_task("", total=1.0, steps=0)

    def on_file(source: Transcript | Dump, counts: Counts | None) -> Callable[[], None]:
        bar.reset(task, description=visible(source.path.name), steps=0)
        return lambda: bar.update(task, completed=source.fraction, steps=0 if counts is None else counts.steps)

    def tell(text: str) -> None:
        bar.console.print(visible(text), soft_wrap=True)

    with bar:
        yield on_file, tell


def _report(output: Output, done: Sequence[Done]) -> None:
    if output.as_json:
        files = [{"file": str(path), **_figures(counts), "seconds": round(took, 3)} for path, counts, took in done]
        return output.object({"files": files})
    transcripts = [item for item in done if isinstance(item[1], Counts)]
    dumps = [item for item in done if not isinstance(item[1], Counts)]
    for columns, group in ((COLUMNS, transcripts), (DUMP_COLUMNS, dumps)):
        rows = [[path.name, *_cells(counts, took)] for path, counts, took in group]
        if len(group) > 1:
            figures = [_cells(counts, 0) for _, counts, _ in group]
            total = [sum(cells[at] for cells in figures) for at in range(5)]
            took = sum(took for _, _, took in group)
            rows.append(["total", *total, round(total[4] / took) if total[4] else None])
        if rows:
            output.rows(columns, rows)
    return None


def _figures(counts: Counts | LoadCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in counts.__struct_fields__}


def _cells(counts: Counts | LoadCounts, took: float) -> list[Any]:
    """Added, continued, present, skipped or refused, steps, steps a second."""
    if isinstance(counts, Counts):
        failed, steps = counts.skipped, counts.steps
    else:
        failed, steps = counts.refused, counts.commits
    return [
        counts.added,
        counts.continued,
        counts.present,
        failed,
        steps,
        round(steps / took) if steps and took else None,
    ]
