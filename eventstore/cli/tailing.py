"""`tail`: what runs did and do, read from the log by any process."""

from __future__ import annotations

import click

from eventstore.tailing import with_cursors

from .opening import find_trace, json_option, open_for_reading
from .output import Output
from .stopping import INTERRUPTED
from .telling import print_event


@click.command()
@click.argument("trace", metavar="[TRACE]", required=False)
@click.option("--after", metavar="SEQ", type=click.IntRange(0), default=0, help="Only what came after that seq.")
@click.option("--follow", "-f", is_flag=True, help="Go on as more is written, until the trace has ended.")
@json_option
@click.pass_context
def tail(ctx: click.Context, trace: str | None, after: int, follow: bool, as_json: bool) -> None:
    """Print the events of a run, a line each; without TRACE, of all runs in the order of their commits.

    Of all runs, --after takes a cursor: the one that --json prints with each event.
    """
    output = Output(as_json)
    with open_for_reading(ctx.obj) as store:
        trace_id = None if trace is None else find_trace(store, trace)
        try:
            for cursor, event in with_cursors(store, trace_id, after, follow):
                print_event(output, event, cursor=cursor if trace_id is None else None)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
