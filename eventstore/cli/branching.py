"""`fork`: another future of a trace, from any step on."""

from __future__ import annotations

from collections.abc import Sequence

import click

from .deciding import values_of
from .opening import at_option, command_for, find_trace, json_option, open_for_writing, trace_argument
from .output import Output, visible


@click.command()
@trace_argument
@at_option("--at", "Where to part; by default where it stands.")
@click.option("--put", metavar="KEY=JSON", multiple=True, help="A key that is another value there; may be repeated.")
@click.option("--name", help="The fork's name; by default the trace's.")
@click.option("--id", "new_id", metavar="ID", help="The fork's id; by default a new one.")
@json_option
@click.pass_obj
def fork(
    db: str, trace: str, at: str | None, put: Sequence[str], name: str | None, new_id: str | None, as_json: bool
) -> None:
    """Begin another future of a trace, which shares its history by reference.

    A fork of a graph's run goes on with `eventstore resume`; before it repeats a side effect that the trace has
    had, it asks.
    """
    output = Output(as_json)
    with open_for_writing(db) as store:
        parent = store.open_trace(find_trace(store, trace))
        forked = parent.fork(at, put=values_of(put, "--put"), name=name, id=new_id)
        past = forked.at()
        origin = next(iter(forked.events(after=forked.version - 1))).first_seq - 1
        if as_json:
            fields = {"trace_id": forked.id, "parent_trace_id": parent.id, "fork_seq": origin}
            return output.object({**fields, "version": past.seq, "next_node": past.next_node, "status": past.status})
    output.line(visible(forked.id), "bold")
    output.hint(f"It parts after event {origin:,} (step {past.step:,}) of {visible(parent.id)}.")
    if past.next_node is not None:
        output.hint(f"Go on at {visible(past.next_node)}: {command_for(db, 'resume', 'GRAPH', forked.id)}")
    output.hint(f"Compare: {command_for(db, 'diff', parent.id, forked.id)}")
    return None
