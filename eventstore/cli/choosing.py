"""Which traces a command that takes several works on: those named, or all that match."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from eventstore.store import Store, TraceInfo

from .listing import STATUS_STYLES
from .opening import SCANNED, find_trace

F = TypeVar("F", bound=Callable[..., Any])


def choice(command: F) -> F:
    """The argument TRACE... and the options --name and --status."""
    command = click.option("--name", help="Only traces of that name.")(command)
    command = click.option("--status", type=click.Choice(list(STATUS_STYLES)), help="Only traces that stand so.")(
        command
    )
    return click.argument("traces", metavar="[TRACE]...", nargs=-1)(command)


def chosen(store: Store, traces: Sequence[str], name: str | None, status: str | None) -> list[str]:
    """The ids of the traces named (by any unique beginning), or of all of that name and status, oldest first.

    Raises as `find_trace`, and click.UsageError where both are given.
    """
    if traces and (name is not None or status is not None):
        raise click.UsageError("name traces, or choose them by --name and --status; not both")
    if traces:
        return list(dict.fromkeys(find_trace(store, text) for text in traces))
    return [info.trace_id for info in every(store, name, status)][::-1]


def every(store: Store, name: str | None = None, status: str | None = None) -> Iterator[TraceInfo]:
    """All traces of that name and status, newest first, read in pages."""
    after: str | None = None
    while True:
        page = store.traces(limit=SCANNED, after=after, name=name, status=status)
        yield from page
        if len(page) < SCANNED:
            return
        after = page[-1].trace_id
