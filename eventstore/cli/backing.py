"""`backup`: a verified copy of the store as it is, while others write."""

from __future__ import annotations

import click
from rich.filesize import decimal
from rich.progress import TaskID

from eventstore.backup import BackupReport, backup
from eventstore.errors import FileCorrupted
from eventstore.problem import Problem

from .opening import command_for, json_option, open_for_reading
from .output import Column, Output, count, visible
from .progress import progress_bar
from .stopping import INTERRUPTED

PROBLEMS = [Column("TRACE", cut=True), Column("SEQ", justify="right"), Column("CHECK"), Column("REASON")]


@click.command("backup")
@click.argument("file", metavar="FILE", type=click.Path())
@json_option
@click.pass_context
def backup_command(ctx: click.Context, file: str, as_json: bool) -> None:
    """Copy the store to the new FILE, as it is at this moment, while others write to it.

    The copy is verified before it gets its name. It is restored the same way: `eventstore --db FILE backup
    runs.db`. Exits 1, and keeps no file, when the copy does not verify: then the store is damaged, and `salvage`
    saves what is sound of it.
    """
    output = Output(as_json)
    problems: list[Problem] = []
    bar = progress_bar("{task.description}", "{task.percentage:>3.0f} %", shown=not as_json)
    try:
        with open_for_reading(ctx.obj) as store, bar:
            task = bar.add_task("copying", total=None)

            def on_progress(done: int, total: int) -> None:
                bar.update(TaskID(task), completed=done, total=total)
                if done == total:
                    bar.update(TaskID(task), description="verifying", completed=0, total=None)

            report = backup(store, file, on_progress=on_progress, on_problem=problems.append)
    except KeyboardInterrupt:
        click.echo("Interrupted: no backup was made.", err=True)
        ctx.exit(INTERRUPTED)
    except FileCorrupted as error:
        if not problems:
            raise
        if as_json:
            output.object({"file": file, "verified": False, "problems": problems})
        else:
            output.rows(PROBLEMS, [[found.trace_id, found.seq, found.check, found.reason] for found in problems])
            output.line(f"no backup was made: {error}", "bold red")
            output.hint(command_for(ctx.obj, "salvage", "new.db"))
        ctx.exit(1)
    _tell(output, report)


def _tell(output: Output, report: BackupReport) -> None:
    if output.as_json:
        figures = {name: getattr(report, name) for name in report.__struct_fields__ if name != "path"}
        output.object({"file": report.path, "verified": True, **figures})
        return
    held = ", ".join((count(report.traces, "trace"), count(report.events, "event"), decimal(report.size_bytes)))
    output.line(f"{visible(report.path)}: {held}; verified", "green")
