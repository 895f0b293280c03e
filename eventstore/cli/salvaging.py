"""`salvage`: what is sound in a damaged store, in a new file."""

from __future__ import annotations

import os

import click
from rich.progress import TextColumn

from eventstore.salvaging import SalvageReport, salvage

from .opening import CHAIN_KEY, command_for, json_option
from .output import Column, Output, count, visible
from .progress import progress_bar
from .stopping import INTERRUPTED

CUT = [Column("TRACE"), Column("KEPT TO", justify="right"), Column("WHY", cut=True)]


@click.command("salvage")
@click.argument("file", metavar="NEW", type=click.Path())
@json_option
@click.pass_context
def salvage_command(ctx: click.Context, file: str, as_json: bool) -> None:
    """Write what is sound in a damaged store into the new file NEW.

    Of each trace that is its beginning up to the damage; what is not damaged is kept as it is. The damaged file is
    only read. Exits 1 when anything was lost. A run that was cut goes on where it was cut, and does again what was
    lost, when it is resumed: cancel it first, where that must not be.
    """
    output = Output(as_json)
    key = os.environ.get(CHAIN_KEY) or None
    bar = progress_bar("salvaging", TextColumn("{task.completed} traces"), shown=not as_json)
    try:
        with bar:
            task = bar.add_task("salvaging", total=None)
            report = salvage(ctx.obj, file, on_trace=lambda *_: bar.advance(task), chain_key=key)
    except KeyboardInterrupt:
        click.echo("Interrupted: nothing was salvaged.", err=True)
        ctx.exit(INTERRUPTED)
    except ValueError as error:
        raise click.UsageError(f"{CHAIN_KEY}: {error}") from None
    if as_json:
        output.object({"file": file, "ok": report.ok, **_figures(report)})
    else:
        _tell(output, report)
        if (cut := next((trace for trace in report.cut if not trace.is_lost), None)) is not None:
            output.hint(f"A run that was cut is not to go on? {command_for(file, 'cancel', cut.trace_id)}")
    ctx.exit(0 if report.ok else 1)


def _figures(report: SalvageReport) -> dict[str, object]:
    cut = [{"trace_id": trace.trace_id, "kept_to": trace.kept_to, "reason": trace.reason} for trace in report.cut]
    kept = {name: getattr(report, name) for name in report.__struct_fields__ if name not in ("path", "cut")}
    return {**kept, "cut": cut}


def _tell(output: Output, report: SalvageReport) -> None:
    if report.cut:
        output.rows(CUT, [[trace.trace_id, trace.kept_to or "lost", trace.reason] for trace in report.cut])
    for problem in report.problems:
        output.line(visible(f"the new file does not hold: {problem}"), "red")
    lost = sum(trace.is_lost for trace in report.cut)
    parts = [f"{count(report.kept, 'trace')} whole", f"{len(report.cut) - lost} cut", f"{lost} lost"]
    parts.append(count(report.events, "event"))
    if report.beside:
        parts.append(f"{count(report.beside, 'row')} beside the log lost")
    if report.unnamed:
        parts.append(f"{count(report.unnamed, 'row')} of traces that nothing names")
    if report.damaged_pages:
        parts.append(f"{report.damaged_pages} of {count(report.pages, 'page')} damaged")
    output.line(f"{visible(report.path)}: {', '.join(parts)}", "bold green" if report.ok else "bold yellow")
