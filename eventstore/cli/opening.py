"""What commands share: the store as readers open it, the TRACE argument, and the --json flag.

A reader opens read-only, so it creates nothing, needs no right to write, and sees a consistent
moment while other processes append.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from eventstore.errors import StorageError, TraceNotFound
from eventstore.store import Store, TraceInfo
from eventstore.store import open as open_store

from .output import visible

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_DB = "eventstore.db"
NO_FILE = "no such file; name the event store with --db or EVENTSTORE_DB"
SCANNED = 1000
NAMED_CANDIDATES = 8

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


def trace_argument(command: F) -> F:
    """The argument TRACE."""
    return click.argument("trace", metavar="TRACE")(command)


def at_option(name: str, help: str) -> Callable[[F], F]:
    """An option that takes a place in a trace."""
    return click.option(name, metavar="AT", help=f"{help} AT: a seq, -3 (from the end), step:12, a time, a checkpoint.")


def open_for_reading(path: str) -> Store:
    """The store at `path`, which must exist. Raises StorageError and its kind."""
    if not Path(path).exists():
        raise StorageError(path, NO_FILE)
    return open_store(path, create=False, read_only=True)


def open_for_writing(path: str) -> Store:
    """The store at `path`, which must exist, to change what is in it. Raises StorageError and its kind."""
    if not Path(path).exists():
        raise StorageError(path, NO_FILE)
    return open_store(path, create=False)


def command_for(path: str, *arguments: str) -> str:
    """What to type for a command on that store.

    >>> command_for("my runs.db", "decide", "t1", "approve#1", "approve")
    "eventstore --db 'my runs.db' decide t1 'approve#1' approve"
    """
    named = [] if path == DEFAULT_DB else ["--db", path]
    return visible(shlex.join(["eventstore", *named, *arguments]))


def find_trace(store: Store, text: str) -> str:
    """The id of the one trace whose id is, or begins with, `text`.

    Raises TraceNotFound, TraceErased, and click.ClickException with the candidates when there are several.
    """
    try:
        return store.open_trace(text).id
    except TraceNotFound:
        found = _beginning_with(store, text) if text else []
        if not found:
            raise
    if len(found) == 1:
        return found[0].trace_id
    named = ", ".join(
        f"{info.trace_id} ({info.name})" if info.name else info.trace_id for info in found[:NAMED_CANDIDATES]
    )
    more = ", …" if len(found) > NAMED_CANDIDATES else ""
    raise click.ClickException(visible(f"{text} is the beginning of several traces: {named}{more}"))


def _beginning_with(store: Store, text: str) -> list[TraceInfo]:
    found: list[TraceInfo] = []
    after: str | None = None
    while len(found) <= NAMED_CANDIDATES:
        page = store.traces(limit=SCANNED, after=after)
        found += [info for info in page if info.trace_id.startswith(text)]
        if len(page) < SCANNED:
            return found
        after = page[-1].trace_id
    return found
