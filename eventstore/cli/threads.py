"""`threads`: the threads of other frameworks, and the checkpoints of one, newest first.

A terminal names a checkpoint's parent only where that is not the row below, and a trace only where the line
goes on in another one; a pipe gets every row whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from eventstore import threads as kept
from eventstore.store import Store
from eventstore.threads import Named, ThreadCheckpoint, ThreadInfo

from .opening import command_for, json_option, open_for_reading, the_thread
from .output import Age, Column, Output, count, visible

THREADS = (
    Column("thread", style="bold", cut=True),
    Column("adapter"),
    Column("namespaces", justify="right"),
    Column("checkpoints", justify="right"),
    Column("branches", justify="right"),
    Column("newest", cut=True),
    Column("trace", style="dim", cut=True),
    Column("updated", style="dim"),
)
CHECKPOINTS = (
    Column("checkpoint", style="bold"),
    Column("step", justify="right"),
    Column("source"),
    Column("node", cut=True),
    Column("seq", justify="right"),
    Column("writes", justify="right"),
    Column("created", style="dim"),
    Column("trace", style="dim", cut=True),
    Column("parent", style="dim", cut=True),
)


@click.command()
@click.argument("thread", metavar="[THREAD]", required=False)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Rows a page.")
@click.option("--after", metavar="ID", help="The last thread, or checkpoint, of the page before.")
@json_option
@click.pass_obj
def threads(db: str, thread: str | None, limit: int, after: str | None, as_json: bool) -> None:
    """List the threads of other frameworks (LangGraph), or the checkpoints of one.

    THREAD is a thread's id, or THREAD:NAMESPACE for a subgraph's checkpoints. Each checkpoint is a place (--at) in
    its trace, and THREAD stands for the trace of its newest one.
    """
    output = Output(as_json)
    with open_for_reading(db) as store:
        if thread is None:
            return _threads(output, db, store, limit, after)
        return _checkpoints(output, db, store, thread, limit, after)


def _threads(output: Output, db: str, store: Store, limit: int, after: str | None) -> None:
    last = None
    if after is not None:
        one = _named(store, after)[0]
        last = ThreadInfo(one.adapter, one.thread_id, [], 0, 0)
    found = kept.threads(store, limit=limit + 1, after=last)
    page = found[:limit]
    if output.as_json:
        return output.array(page)
    if not page:
        output.hint("No thread.")
    output.rows(THREADS, [_thread(info) for info in page])
    if len(found) > limit:
        output.hint(f"More: {command_for(db, 'threads', '--after', page[-1].thread_id)}")
    return None


def _named(store: Store, text: str) -> list[Named]:
    found = kept.named(store, text)
    if not found:
        raise click.ClickException(visible(f"there is no thread {text} in {store.path}"))
    return found


def _thread(info: ThreadInfo) -> list[Any]:
    return [
        info.thread_id,
        info.adapter,
        len(info.namespaces),
        info.checkpoints,
        info.branches,
        info.newest,
        info.trace_id,
        None if info.at is None else Age(info.at),
    ]


def _checkpoints(output: Output, db: str, store: Store, text: str, limit: int, after: str | None) -> None:
    one = the_thread(text, _named(store, text))
    found = kept.checkpoints(store, one.thread_id, one.namespace, adapter=one.adapter, limit=limit + 1, before=after)
    page = found[:limit]
    if output.as_json:
        return output.array(page)
    if output.terminal:
        lines = count(len({checkpoint.trace_id for checkpoint in page}), "line")
        output.line(visible(f"{text} ({one.adapter}): {count(len(page), 'checkpoint')} on {lines}"), "bold")
    output.rows(CHECKPOINTS, _rows(found, limit, output.terminal))
    if len(found) > limit:
        output.hint(f"More: {command_for(db, 'threads', text, '--after', page[-1].checkpoint_id)}")
    elif page:
        output.hint(f"One of them: {command_for(db, 'state', text, '--at', page[0].checkpoint_id)}")
    return None


def _rows(found: list[ThreadCheckpoint], limit: int, terminal: bool) -> Iterator[list[Any]]:
    """The rows of the first `limit` checkpoints found; one more may be there, as the row below the last."""
    above = None
    for index, checkpoint in enumerate(found[:limit]):
        below = found[index + 1].checkpoint_id if index + 1 < len(found) else None
        is_told = terminal and below == checkpoint.parent_id
        is_above = terminal and above == checkpoint.trace_id
        above = checkpoint.trace_id
        yield [
            checkpoint.checkpoint_id,
            checkpoint.step,
            checkpoint.source,
            checkpoint.node,
            checkpoint.seq,
            checkpoint.writes,
            Age(checkpoint.at),
            None if is_above else checkpoint.trace_id,
            None if is_told else checkpoint.parent_id,
        ]
