"""`barriers`, `decide` and `cancel`: what waits for a human, and the human's answer, from any terminal."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from eventstore.event import Approve, Decision, Modify, Reject, Reroute
from eventstore.inbox import BarrierInfo

from .describing import decided, moment
from .opening import command_for, find_trace, json_option, open_for_reading, open_for_writing, trace_argument
from .output import Age, Column, Output, Until, visible

ACTIONS = ("approve", "reject", "modify", "reroute")
ASKED = (
    Column("trace", style="bold", cut=True),
    Column("barrier", style="yellow"),
    Column("prompt", cut=True),
    Column("waits since", style="dim"),
    Column("deadline"),
    Column("default", cut=True),
)
ANSWERED = (Column("decision"), Column("decided", style="dim"))


@click.command()
@click.argument("trace", metavar="[TRACE]", required=False)
@click.option("--all", "which", flag_value="all", help="The decided ones, too.")
@click.option("--decided", "which", flag_value="decided", help="Only the decided ones.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Barriers a page.")
@click.option("--after", nargs=2, metavar="TRACE BARRIER", help="The last barrier of the page before.")
@json_option
@click.pass_obj
def barriers(
    db: str, trace: str | None, which: str | None, limit: int, after: tuple[str, str] | None, as_json: bool
) -> None:
    """List what waits for a decision, whoever has waited longest first."""
    output = Output(as_json)
    pending = {None: True, "all": None, "decided": False}[which]
    with open_for_reading(db) as store:
        found = store.barriers(
            pending=pending,
            limit=limit + 1,
            after=None if after is None else (find_trace(store, after[0]), after[1]),
            trace_id=None if trace is None else find_trace(store, trace),
        )
    page = found[:limit]
    if as_json:
        return output.array(page)
    if not page:
        output.hint("Nothing waits." if pending else "No barrier.")
    columns = ASKED if pending else ASKED + ANSWERED
    output.rows(columns, [_row(info, output.terminal)[: len(columns)] for info in page])
    if len(found) > limit:
        last = page[-1]
        shown = [] if which is None else [f"--{which}"]
        only = [] if trace is None else [trace]
        output.hint(f"More: {command_for(db, 'barriers', *shown, '--after', last.trace_id, last.barrier_id, *only)}")
    elif page and pending:
        output.hint(f"Decide: {command_for(db, 'decide', page[0].trace_id, page[0].barrier_id, 'approve')}")
    return None


def _deadline(info: BarrierInfo, terminal: bool) -> object:
    if terminal:
        return None if info.deadline_at is None else Until(info.deadline_at)
    shown = moment(info.deadline_at)
    return f"{shown}, expired" if info.expired else shown or None


def _row(info: BarrierInfo, terminal: bool) -> list[object]:
    default = "reject" if info.default is None else decided(info.default)
    return [
        info.trace_id,
        info.barrier_id,
        info.prompt or None,
        Age(info.raised_at),
        _deadline(info, terminal),
        default if info.deadline_at else None,
        None if info.decision is None else decided(info.decision),
        None if info.decided_at is None else Age(info.decided_at),
    ]


@click.command()
@trace_argument
@click.argument("barrier", metavar="BARRIER")
@click.argument("action", type=click.Choice(ACTIONS))
@click.option("--reason", default="", help="Why it is rejected.")
@click.option("--set", "values", metavar="KEY=JSON", multiple=True, help="A key that modify changes.")
@click.option("--to", metavar="NODE", help="Where reroute goes.")
@click.option("--by", help="Who decides (default: the login name).")
@json_option
@click.pass_obj
def decide(
    db: str,
    trace: str,
    barrier: str,
    action: str,
    reason: str,
    values: Sequence[str],
    to: str | None,
    by: str | None,
    as_json: bool,
) -> None:
    """Decide a barrier. The first decision wins.

    BARRIER is an id as `barriers` shows it, or its node when one waits there. An id that is yet to come
    (approve#2), or all of them (approve#*), may be decided before.
    """
    decision = _decision(action, reason, values, to, by or _login_name())
    output = Output(as_json)
    with open_for_writing(db) as store:
        trace_id = find_trace(store, trace)
        barrier_id = store.decide(trace_id, barrier, decision)
        status = store.open_trace(trace_id).status
    if as_json:
        fields = {"trace_id": trace_id, "barrier_id": barrier_id, "decision": decision, "status": status}
        return output.object(fields)
    output.line(visible(f"{barrier_id}: {decided(decision)}"))
    if status == "running":
        output.hint(f"Go on: {command_for(db, 'resume', 'GRAPH', trace_id)} (a worker does by itself)")
    return None


def _decision(action: str, reason: str, values: Sequence[str], to: str | None, by: str | None) -> Decision:
    """Raises click.UsageError for options of another action, and for those that are missing."""
    options = (("--reason", reason, "reject"), ("--set", values, "modify"), ("--to", to, "reroute"))
    for option, given, belongs_to in options:
        if given and action != belongs_to:
            raise click.UsageError(f"{option} goes with {belongs_to}, not with {action}")
    if action == "approve":
        return Approve(by=by)
    if action == "reject":
        return Reject(reason, by=by)
    if action == "modify":
        if not values:
            raise click.UsageError("modify needs --set KEY=JSON")
        return Modify(values_of(values, "--set"), by=by)
    if not to:
        raise click.UsageError("reroute needs --to NODE")
    return Reroute(to, by=by)


def values_of(texts: Sequence[str], option: str) -> dict[str, Any]:
    """What KEY=JSON options give. Raises click.BadParameter."""
    return dict(_assignment(text, option) for text in texts)


def _assignment(text: str, option: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise click.BadParameter(visible(f"{text}: write KEY=JSON"), param_hint=option)
    try:
        return key, msgspec.json.decode(value.encode(errors="surrogateescape"))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        told = f"{text}: the value is no JSON (a string is written '\"like this\"')"
        raise click.BadParameter(visible(told), param_hint=option) from None


def _login_name() -> str | None:
    """Who is logged in; None where the system does not know."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return None


@click.command()
@trace_argument
@click.option("--by", help="Who cancels (default: the login name).")
@click.option("--reason", default="", help="Why.")
@json_option
@click.pass_obj
def cancel(db: str, trace: str, by: str | None, reason: str, as_json: bool) -> None:
    """Cancel a run: at once when nobody works on it, otherwise at its next step."""
    with open_for_writing(db) as store:
        trace_id = find_trace(store, trace)
        has_ended = store.cancel(trace_id, by=by or _login_name(), reason=reason)
    output = Output(as_json)
    if as_json:
        return output.object({"trace_id": trace_id, "ended": has_ended})
    told = "cancelled" if has_ended else "asked to end at its next step"
    return output.line(visible(f"{trace_id}: {told}"))
