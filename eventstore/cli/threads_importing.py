"""`import-langgraph`: the threads of a file of LangGraph's SqliteSaver, brought over and compared.

LangGraph is imported only here, when the command runs: every other command works without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.filesize import decimal
from rich.progress import TaskProgressColumn

from .opening import json_option, open_any
from .output import Output, count, visible
from .progress import progress_bar
from .stopping import INTERRUPTED

if TYPE_CHECKING:
    from eventstore.integrations.langgraph import ImportedThread, ImportReport

MB = 1_000_000


@click.command("import-langgraph")
@click.argument("file", metavar="CHECKPOINTS.SQLITE", type=click.Path(exists=True, dir_okay=False))
@click.option("--thread", "threads", metavar="ID", multiple=True, help="Only this thread; repeatable.")
@json_option
@click.pass_context
def import_langgraph(ctx: click.Context, file: str, threads: Sequence[str], as_json: bool) -> None:
    """Bring over the threads of LangGraph's SqliteSaver: every checkpoint and every pending write.

    The old file is only read, and no object in it is made. Each thread is read back and compared to the file. One
    that is there already and equal is passed over; one that differs is refused and told of, and the exit code is
    then 1. Importing again adds what is new; an import that was cut short goes on where it stopped.

    A file of an EncryptedSerializer needs LANGGRAPH_AES_KEY, and is encrypted by it in the store too.
    """
    langgraph = _langgraph()
    output = Output(as_json)
    langgraph.SqliteFile(file).close()  # another file is refused before there is a store
    try:
        with open_any(ctx.obj, durability="normal") as store, _progress() as (on_step, on_thread):
            report = langgraph.import_sqlite(
                file, store, thread_ids=threads or None, on_thread=on_thread, on_step=on_step
            )
    except KeyboardInterrupt:
        click.echo("Interrupted: importing again goes on from here.", err=True)
        ctx.exit(INTERRUPTED)
    if as_json:
        output.object(msgspec.to_builtins(report))
    else:
        output.line(visible(_told(report)))
    ctx.exit(1 if report.refused else 0)


def _langgraph() -> Any:
    try:
        from eventstore.integrations.langgraph import importing
    except ModuleNotFoundError as error:
        told = f"there is no {error.name} here; the extra has it: pip install 'trace-eventstore[langgraph]'"
        raise click.ClickException(told) from None
    return importing


@contextmanager
def _progress() -> Iterator[tuple[Callable[[float], None], Callable[[ImportedThread], None]]]:
    """Gives what moves the bar, and what tells above it of a thread that was refused."""
    bar = progress_bar("importing", TaskProgressColumn(), "{task.fields[threads]:,} threads")
    task = bar.add_task("", total=1.0, threads=0)
    number = 0

    def on_step(part: float) -> None:
        bar.update(task, completed=part)

    def on_thread(thread: ImportedThread) -> None:
        nonlocal number
        number += 1
        bar.update(task, threads=number)
        if thread.why:
            bar.console.print(visible(f"refused: thread {thread.thread_id}: {thread.why}"), soft_wrap=True)

    with bar:
        yield on_step, on_thread


def _told(report: ImportReport) -> str:
    outcomes: dict[str, Any] = {
        "added": report.added,
        "completed": report.completed,
        "already there": report.present,
        "refused": len(report.refused),
    }
    first, *others = (f"{number:,} {name}" for name, number in outcomes.items() if number or name == "added")
    threads = ", ".join([f"threads {first}", *others])
    what = f"{count(report.checkpoints, 'checkpoint')}, {count(report.writes, 'write')}"
    sizes = f"{decimal(report.source_bytes)} -> {decimal(report.store_bytes)}"
    if report.added and report.store_bytes:
        sizes += f" (1/{report.source_bytes / report.store_bytes:,.0f})"
    speed = f"{report.source_bytes / MB / report.seconds:,.0f} MB/s" if report.seconds else ""
    return f"{report.path}: {threads}; {what}; {sizes} in {report.seconds:.1f} s, {speed}"
