"""`verify`: whether the file holds together, and whether heads that were kept elsewhere are in it yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import click
import msgspec

from eventstore.verify import Problem

from .opening import find_trace, json_option, open_for_reading
from .output import Column, Output, count, visible

PROBLEMS = (
    Column("trace", style="bold"),
    Column("seq", justify="right"),
    Column("check"),
    Column("damage"),
    Column("reason", cut=True),
)


@click.command()
@click.argument("trace", metavar="[TRACE]", required=False)
@click.option(
    "--head",
    "anchors",
    metavar="[TRACE=]HEX",
    multiple=True,
    help="A head that was kept elsewhere and must be in the chain yet; TRACE where none is named.",
)
@click.option(
    "--heads",
    metavar="FILE",
    type=click.File("rb"),
    help="Many of them: what `verify --json` printed; - is the standard input.",
)
@json_option
@click.pass_context
def verify(
    ctx: click.Context, trace: str | None, anchors: Sequence[str], heads: BinaryIO | None, as_json: bool
) -> None:
    """Check the file, or one trace: hash chain, seqs, every base against the fold. Exits 1 with problems.

    A chain that was cut off at its end, or computed anew, holds together by itself. Keep the heads that --json
    prints elsewhere, and give them to a later verify. The key of a keyed file: EVENTSTORE_CHAIN_KEY.
    """
    output = Output(as_json)
    with open_for_reading(ctx.obj) as store:
        trace_id = None if trace is None else find_trace(store, trace)
        wanted = {} if heads is None else _kept(heads)
        for anchor in anchors:
            named, _, head = anchor.rpartition("=")
            if not named and trace_id is None:
                raise click.UsageError("--head HEX is of one trace: name it, TRACE or TRACE=HEX")
            wanted[named or str(trace_id)] = head
        try:
            found = store.verify(trace_id, heads=wanted)
        except ValueError as error:
            raise click.UsageError(visible(str(error))) from None
    if as_json:
        output.object({"ok": found.ok, **{name: getattr(found, name) for name in found.__struct_fields__}})
    else:
        if found.problems:
            output.rows(PROBLEMS, [_problem(problem) for problem in found.problems])
        checked = ", ".join((count(found.traces, "trace"), count(found.events, "event"), count(found.bases, "base")))
        if wanted:
            checked += f", {count(len(found.anchors), 'head')} of {len(wanted)} found"
        verdict = "ok" if found.ok else count(len(found.problems), "problem")
        output.line(f"{verdict}: {checked}", "bold green" if found.ok else "bold red")
    ctx.exit(0 if found.ok else 1)


def _kept(file: BinaryIO) -> dict[str, str]:
    """The heads of an earlier report. Raises click.UsageError."""
    try:
        return msgspec.json.decode(file.read(), type=_Report).heads
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise click.UsageError(
            visible(f"{getattr(file, 'name', '-')} is not what verify --json prints: {error}")
        ) from None


class _Report(msgspec.Struct):
    heads: dict[str, str]


def _problem(problem: Problem) -> list[object]:
    damage = "the log" if problem.in_log else "derived"
    return [problem.trace_id, problem.seq, problem.check, damage, problem.reason]
