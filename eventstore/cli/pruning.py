"""`prune`: what retention would take from the file, shown first; then, when told to, taken.

The plan is made through a store opened read-only. Only after a yes is the file opened for writing, and each trace
is looked at again in the transaction that changes it, so it does not matter how long the answer took.
"""

from __future__ import annotations

import getpass
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import click
from rich.progress import MofNCompleteColumn
from rich.text import Text

from eventstore.retention_apply import RetentionReport, TraceRemoval, apply_plan
from eventstore.retention_plan import RetentionPlan, TracePlan, plan_retention

from .listing import STATUS_STYLES
from .opening import find_trace, json_option, open_for_reading, open_for_writing
from .output import MIN_CUT, Age, Column, Output, Size, count, pretty, visible
from .progress import progress_bar
from .stopping import INTERRUPTED

COLUMNS = (
    Column("trace", style="bold", cut=True),
    Column("name", MIN_CUT, cut=True),
    Column("status"),
    Column("last event", style="dim"),
    Column("checkpoints", justify="right"),
    Column("bases", justify="right"),
    Column("history"),
    Column("blocked by", style="yellow", cut=True),
)
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
ACTIONS = "--keep-checkpoints N, --drop-bases, --trim or --erase"


def duration(text: str) -> timedelta:
    """A length of time, written like 30d, 12h, 90m, 2w or 45s. Raises click.BadParameter.

    >>> duration("2w").days
    14
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw])", text.strip())
    if found is None:
        raise click.BadParameter(visible(f"{text!r} is no duration: write a number and s, m, h, d or w, like 30d"))
    try:
        return timedelta(seconds=float(found[1]) * UNITS_S[found[2]])
    except OverflowError:
        raise click.BadParameter(visible(f"{text} is longer than time is told")) from None


def _duration(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> timedelta | None:
    return None if text is None else duration(text)


@click.command()
@click.argument("traces", metavar="[TRACE]...", nargs=-1)
@click.option("--name", help="Only traces of that name.")
@click.option(
    "--status", "statuses", multiple=True, type=click.Choice(list(STATUS_STYLES)), help="Only traces that stand so."
)
@click.option("--older-than", metavar="AGE", callback=_duration, help="Only traces without an event for 30d, 12h, 90m.")
@click.option("--keep-checkpoints", metavar="N", type=click.IntRange(0), help="Remove all but the N newest of each.")
@click.option("--drop-bases", is_flag=True, help="Remove cached states; reads fold the log again.")
@click.option("--trim", is_flag=True, help="Remove history, as far back as nothing needs it.")
@click.option("--erase", is_flag=True, help="Remove the traces altogether.")
@click.option(
    "--retry-window",
    metavar="AGE",
    callback=_duration,
    default="24h",
    show_default=True,
    help="Keep younger history from --trim: an append may be retried.",
)
@click.option("--dry-run", is_flag=True, help="Show what would go, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def prune(
    ctx: click.Context,
    traces: Sequence[str],
    name: str | None,
    statuses: Sequence[str],
    older_than: timedelta | None,
    keep_checkpoints: int | None,
    drop_bases: bool,
    trim: bool,
    erase: bool,
    retry_window: timedelta,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Make the file smaller: checkpoints, cached states, history, or whole traces go.

    Shows what would go and asks. Whatever something still needs (a fork, a kept checkpoint, a barrier, a
    retry, the process that runs it) stays, and is told as blocked. Without TRACE: every trace that matches.
    """
    if keep_checkpoints is None and not (drop_bases or trim or erase):
        raise click.UsageError(f"say what may go: {ACTIONS}")
    if traces and (name is not None or statuses):
        raise click.UsageError("name traces, or choose them by --name and --status; not both")
    if not dry_run and not yes and (as_json or not _can_ask()):
        where = "with --json" if as_json else "there is no terminal to ask on"
        raise click.UsageError(f"{where}, say --yes to remove without a question, or --dry-run to look")
    output = Output(as_json)
    with open_for_reading(ctx.obj) as store:
        plan = plan_retention(
            store,
            trace_ids=[find_trace(store, text) for text in traces] or None,
            name=name,
            status=statuses or None,
            older_than=older_than,
            keep_checkpoints=keep_checkpoints,
            drop_bases=drop_bases,
            trim=trim,
            erase=erase,
            retry_window_s=retry_window.total_seconds(),
        )
    if not as_json:
        _show(output, plan)
    if dry_run:
        return output.object(plan) if as_json else None
    if plan.acts and not yes and not click.confirm(_question(plan), err=True):
        return output.line("Nothing was changed.")
    if not plan.acts and not as_json:
        return None
    report = _apply(ctx, plan)
    if as_json:
        output.object(report)
    else:
        _tell(output, report)
    if any(blocker.kind == "damaged" for removal in report.traces for blocker in removal.skipped):
        ctx.exit(1)
    return None


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _show(output: Output, plan: RetentionPlan) -> None:
    blocked = any(entry.blockers for entry in plan.traces)
    if plan.traces:
        columns = COLUMNS if blocked else COLUMNS[:-1]
        rows = [_row(entry)[: len(columns)] for entry in plan.traces]
        output.rows(columns, rows)
        if blocked:
            output.hint("What blocks is cut here; a pipe or --json gets it whole.")
    acting = [entry for entry in plan.traces if entry.acts]
    of_all = f"of {count(plan.examined, 'trace')}"
    if acting:
        output.line(f"{of_all.removeprefix('of ')} looked at; would go: {_total(acting)}.", "bold")
    else:
        output.line(f"Nothing to remove {of_all}.", "bold")
    if plan.is_unfinished:
        told = "A trace was erased and the file not rewritten since: it is rewritten now, so that nothing of it stays."
        output.line(told, "yellow")


def _row(entry: TracePlan) -> list[object]:
    if entry.erase:
        history: object = Text(f"erased: {_history(entry)}", "red")
    else:
        history = None if entry.trim_to is None else f"to seq {entry.trim_to}: {_history(entry)}"
    return [
        entry.trace_id,
        entry.name,
        Text(visible(entry.status), STATUS_STYLES.get(entry.status, "")),
        Age(entry.updated_at),
        entry.checkpoints or None,
        f"{entry.bases} ({pretty(Size(entry.base_bytes))})" if entry.bases else None,
        history,
        "; ".join(f"{blocker.action}: {blocker}" for blocker in entry.blockers) or None,
    ]


def _history(gone: TracePlan | TraceRemoval) -> str:
    return f"{count(gone.events, 'event')}, {pretty(Size(gone.log_bytes))}"


def _total(gone: Sequence[TracePlan | TraceRemoval]) -> str:
    """What went, or would go, all together."""
    parts = []
    erased = sum(item.erase if isinstance(item, TracePlan) else item.erased for item in gone)
    sums = Counter[str]()
    for item in gone:
        for field in ("checkpoints", "bases", "base_bytes", "events", "log_bytes"):
            sums[field] += getattr(item, field)
    if erased:
        parts.append(f"{count(erased, 'trace')} altogether")
    if sums["checkpoints"]:
        parts.append(count(sums["checkpoints"], "checkpoint"))
    if sums["bases"]:
        parts.append(f"{count(sums['bases'], 'base')} of {pretty(Size(sums['base_bytes']))}")
    if sums["events"]:
        parts.append(f"{count(sums['events'], 'event')} of {pretty(Size(sums['log_bytes']))}")
    return ", ".join(parts) or "nothing"


def _question(plan: RetentionPlan) -> str:
    acting = [entry for entry in plan.traces if entry.acts]
    told = f"Remove {_total(acting)}" if acting else "Rewrite the file"
    return f"{told}? It cannot be undone."


def _apply(ctx: click.Context, plan: RetentionPlan) -> RetentionReport:
    try:
        with open_for_writing(ctx.obj) as store, _progress(plan) as on_trace:
            return apply_plan(store, plan, on_trace, by=_login_name())
    except KeyboardInterrupt:
        click.echo("Interrupted: every trace is whole or done; the same command goes on from here.", err=True)
        ctx.exit(INTERRUPTED)


@contextmanager
def _progress(plan: RetentionPlan) -> Iterator[Any]:
    """Gives what moves the bar, one trace a call."""
    with progress_bar("{task.description}", MofNCompleteColumn()) as bar:
        task = bar.add_task("traces", total=sum(entry.acts for entry in plan.traces))
        yield lambda removal: bar.advance(task)


def _tell(output: Output, report: RetentionReport) -> None:
    before, after, freed = (
        pretty(Size(size)) for size in (report.before_bytes, report.after_bytes, max(0, report.freed_bytes))
    )
    output.line(f"Gone: {_total(report.traces)}.")
    if report.freed_bytes > 0:
        output.line(f"The file shrank from {before} to {after} ({freed} freed).", "green")
    else:
        output.line(f"The file takes {after}, as before." if before == after else f"The file takes {after} now.")
    if not report.is_finished:
        told = "Its pages are not given back yet: a reader, another writer or a full disk kept them."
        output.line(f"{told} What is gone may stand in the file until the next prune, which does it.", "yellow")
    for removal in report.traces:
        for blocker in removal.skipped:
            style = "red" if blocker.kind == "damaged" else "yellow"
            output.line(visible(f"Skipped: {removal.trace_id}, {blocker.action}: {blocker}"), style)


def _login_name() -> str | None:
    """Who is logged in, for the tombstones; None where the system does not know."""
    try:
        return getpass.getuser().encode("utf-8", "backslashreplace").decode()
    except (KeyError, OSError, ImportError):
        return None
