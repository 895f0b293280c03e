"""What commands share: the store as readers open it, the TRACE argument, and the --json flag.

A reader opens read-only, so it creates nothing, needs no right to write, and sees a consistent
moment while other processes append.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from eventstore import threads
from eventstore.errors import StorageError, TraceNotFound
from eventstore.places import traces_beginning
from eventstore.store import Store
from eventstore.store import open as open_store
from eventstore.threads import Named

from .output import visible

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_DB = "eventstore.db"
NO_FILE = "no such file; name the event store with --db or EVENTSTORE_DB"
SCANNED = 1000
NAMED_CANDIDATES = 8

CHAIN_KEY = "EVENTSTORE_CHAIN_KEY"
ENCRYPTION_KEY = "EVENTSTORE_ENCRYPTION_KEY"
"""The keys of a file come from the environment: a command line is no place for a secret."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


def trace_argument(command: F) -> F:
    """The argument TRACE: an id, its beginning, or a thread."""
    return click.argument("trace", metavar="TRACE")(command)


def at_option(name: str, help: str) -> Callable[[F], F]:
    """An option that takes a place in a trace."""
    return click.option(name, metavar="AT", help=f"{help} AT: a seq, -3 (from the end), step:12, a time, a checkpoint.")


def open_any(path: str, **how: Any) -> Store:
    """`es.open` with the keys that the environment has. Raises StorageError and its kind, click.UsageError."""
    try:
        return open_store(path, chain_key=_secret(CHAIN_KEY), encryption_key=_secret(ENCRYPTION_KEY), **how)
    except ValueError as error:
        raise click.UsageError(f"{CHAIN_KEY} or {ENCRYPTION_KEY}: {error}") from None


def _secret(variable: str) -> str | None:
    return os.environ.get(variable) or None


def open_for_reading(path: str, **how: Any) -> Store:
    """The store at `path`, which must exist. Raises StorageError and its kind."""
    return open_for_writing(path, read_only=True, **how)


def open_for_writing(path: str, **how: Any) -> Store:
    """The store at `path`, which must exist, to change what is in it. Raises StorageError and its kind."""
    if not Path(path).exists():
        raise StorageError(path, NO_FILE)
    return open_any(path, create=False, **how)


def command_for(path: str, *arguments: str) -> str:
    """What to type for a command on that store.

    >>> command_for("my runs.db", "decide", "t1", "approve#1", "approve")
    "eventstore --db 'my runs.db' decide t1 'approve#1' approve"
    """
    named = [] if path == DEFAULT_DB else ["--db", path]
    return visible(shlex.join(["eventstore", *named, *arguments]))


def find_trace(store: Store, text: str) -> str:
    """The id of the one trace whose id is, or begins with, `text`; else of the thread of that name its newest line.

    Raises TraceNotFound, TraceErased, and click.ClickException with the candidates when there are several.
    """
    try:
        return store.open_trace(text).id
    except TraceNotFound:
        found = traces_beginning(store, text, NAMED_CANDIDATES + 1) if text else []
        if len(found) == 1:
            return found[0][0]
        lines = threads.named(store, text)
        if lines:
            return _newest_line(text, lines)
        if not found:
            raise
    named = ", ".join(f"{trace_id} ({name})" if name else trace_id for trace_id, name in found[:NAMED_CANDIDATES])
    more = ", …" if len(found) > NAMED_CANDIDATES else ""
    raise click.ClickException(visible(f"{text} is the beginning of several traces: {named}{more}"))


def the_thread(text: str, found: Sequence[Named]) -> Named:
    """The one namespace of a thread that `text` names. Raises click.ClickException with the candidates."""
    one = found[0]
    if one.label != text:
        there = ", ".join(other.label for other in found[:NAMED_CANDIDATES])
        raise click.ClickException(visible(f"thread {text} has no root namespace; it has {there}"))
    if len(found) > 1:
        candidates = ", ".join(
            f"{other.adapter} thread {other.thread_id!r} namespace {other.namespace!r} in trace {other.trace_id}"
            for other in found[:NAMED_CANDIDATES]
        )
        raise click.ClickException(visible(f"{text} names several threads: {candidates}"))
    return one


def _newest_line(text: str, found: Sequence[Named]) -> str:
    trace_id = the_thread(text, found).trace_id
    if trace_id is None:
        raise click.ClickException(visible(f"thread {text} has no checkpoint, only writes that wait for one"))
    return trace_id
