"""SQL of looking at the threads that an adapter keeps: what there are, their checkpoints, and where these stand.

A thread is named as its traces are: `THREAD` is its root namespace, `THREAD:NAMESPACE` another one. Only live
checkpoints are told. What an adapter asks for as it works is in `scopes`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from . import log
from .codec import decode_some
from .errors import FileCorrupted, LogCorrupted
from .event import NodeExecuted, utc
from .log import Segment

if TYPE_CHECKING:
    import apsw

    from .store import Store

THREADS = (
    "SELECT adapter, thread_id, min(id) AS begun FROM scope WHERE ?1 IS NULL OR adapter = ?1"
    " GROUP BY adapter, thread_id"
    " HAVING ?2 IS NULL OR begun < (SELECT min(id) FROM scope WHERE adapter = ?2 AND thread_id = ?3)"
    " ORDER BY begun DESC LIMIT ?4"
)
NAMESPACES = (
    "SELECT s.namespace, count(c.name), count(DISTINCT c.trace), max(c.name), s.id FROM scope s"
    " LEFT JOIN scope_checkpoint c ON c.scope = s.id AND c.status = 'live'"
    " WHERE s.adapter = ? AND s.thread_id = ? GROUP BY s.id ORDER BY s.namespace"
)
STANDS = (
    "SELECT t.trace_id, t.id, c.seq FROM scope_checkpoint c JOIN trace t ON t.id = c.trace"
    " WHERE c.scope = ? AND c.name = ?"
)
NAMED = (
    "SELECT s.adapter, s.thread_id, s.namespace,"
    " (SELECT t.trace_id FROM scope_checkpoint c JOIN trace t ON t.id = c.trace"
    "   WHERE c.scope = s.id AND c.status = 'live' ORDER BY c.name DESC LIMIT 1)"
    " FROM scope s WHERE s.thread_id = ?1 OR (s.namespace <> '' AND s.thread_id || ':' || s.namespace = ?1)"
    " ORDER BY s.id"
)
CHECKPOINTS = (
    "SELECT s.adapter, c.name, c.parent, t.trace_id, t.id, c.seq, c.run_id, c.metadata, json_array_length(c.writes)"
    " FROM scope s JOIN scope_checkpoint c ON c.scope = s.id JOIN trace t ON t.id = c.trace"
    " WHERE s.thread_id = ?2 AND s.namespace = ?3 AND (?1 IS NULL OR s.adapter = ?1) AND c.status = 'live'"
    " AND (?4 IS NULL OR c.name < ?4) ORDER BY c.name DESC LIMIT ?5"
)
BEGINNING = (
    "SELECT DISTINCT c.name, c.seq FROM scope_trace r"
    " JOIN scope_checkpoint c ON c.scope = r.scope AND c.trace = r.trace"
    " WHERE r.trace = ?1 AND c.seq <= ?2 AND c.status = 'live'"
    " AND substr(lower(c.name), 1, length(?3)) = ?3 ORDER BY c.seq, c.name"
)
BESIDE = (
    "SELECT DISTINCT c.name, t.trace_id, c.seq FROM scope_trace r JOIN scope_checkpoint c ON c.scope = r.scope"
    " JOIN trace t ON t.id = c.trace WHERE r.trace = ?1 AND c.status = 'live'"
    " AND substr(lower(c.name), 1, length(?2)) = ?2 ORDER BY c.name LIMIT 2"
)
_EXECUTED = {"node_executed": NodeExecuted}


class ThreadInfo(msgspec.Struct, frozen=True):
    """A line of `store.threads()`.

    `namespaces`: the root's is empty; `checkpoints`: of all of them; `branches`: the lines of checkpoints of the
    namespace that has most. `newest`: the newest checkpoint of the root namespace, or of the first that has one;
    `trace_id`, `seq`, `at`: where that stands, and when it was committed. All are None where there is none.

    >>> ThreadInfo("langgraph", "t1", [""], 3, 1, "1f0a", "0192", 9, utc(0)).branches
    1
    """

    adapter: str
    thread_id: str
    namespaces: list[str]
    checkpoints: int
    branches: int
    newest: str | None = None
    trace_id: str | None = None
    seq: int | None = None
    at: datetime | None = None


class ThreadCheckpoint(msgspec.Struct, frozen=True):
    """A line of `store.thread_checkpoints()`: a checkpoint of a thread, and where it stands.

    `parent_id`: the checkpoint that it was made from, which may be gone; `step`, `source`: as its `metadata` has
    them; `node`: the node whose execution was committed with it; `writes`: how many commits of pending writes it has.

    >>> ThreadCheckpoint("1f0a", "t1", "0192", 9, utc(0), step=2).step
    2
    """

    checkpoint_id: str
    thread_id: str
    trace_id: str
    seq: int
    at: datetime
    namespace: str = ""
    parent_id: str | None = None
    step: int | None = None
    source: str | None = None
    node: str | None = None
    writes: int = 0
    run_id: str | None = None
    adapter: str = ""
    metadata: Any = None


class Named(NamedTuple):
    """A namespace of a thread that some text names, and the trace of its newest checkpoint."""

    adapter: str
    thread_id: str
    namespace: str
    trace_id: str | None

    @property
    def label(self) -> str:
        """How it is named: `THREAD` or `THREAD:NAMESPACE`."""
        return f"{self.thread_id}:{self.namespace}" if self.namespace else self.thread_id


def threads(
    store: Store, *, adapter: str | None = None, limit: int = 100, after: ThreadInfo | None = None
) -> list[ThreadInfo]:
    """See `Store.threads`."""
    last = (None, None) if after is None else (after.adapter, after.thread_id)
    with store._database.reader() as connection:
        rows: Any = connection.execute(THREADS, (adapter, *last, limit)).fetchall()
        return [_thread(connection, *row[:2]) for row in rows]


def _thread(connection: apsw.Connection, adapter: str, thread_id: str) -> ThreadInfo:
    rows: Any = connection.execute(NAMESPACES, (adapter, thread_id)).fetchall()
    if not rows:
        raise FileCorrupted(connection.filename, f"thread {thread_id!r} is listed, and has no rows")
    newest, scope = next(((name, scope) for _, _, _, name, scope in rows if name is not None), (None, None))
    place: Any = connection.execute(STANDS, (scope, newest)).fetchone() or (None, None, None)
    trace_id, trace, seq = place
    return ThreadInfo(
        adapter,
        thread_id,
        [namespace for namespace, *_ in rows],
        sum(row[1] for row in rows),
        max(row[2] for row in rows),
        newest,
        trace_id,
        seq,
        None if trace is None else _commit(connection, trace_id, trace, seq)[0],
    )


def checkpoints(
    store: Store,
    thread_id: str,
    namespace: str = "",
    *,
    adapter: str | None = None,
    limit: int = 100,
    before: str | None = None,
) -> list[ThreadCheckpoint]:
    """See `Store.thread_checkpoints`."""
    with store._database.reader() as connection:
        rows: Any = connection.execute(CHECKPOINTS, (adapter, thread_id, namespace, before, limit)).fetchall()
        return [_checkpoint(connection, thread_id, namespace, *row) for row in rows]


def _checkpoint(
    connection: apsw.Connection,
    thread_id: str,
    namespace: str,
    adapter: str,
    name: str,
    parent: str | None,
    trace_id: str,
    trace: int,
    seq: int,
    run_id: str | None,
    kept: str | None,
    writes: int,
) -> ThreadCheckpoint:
    at, node = _commit(connection, trace_id, trace, seq)
    try:
        metadata = None if kept is None else json.loads(kept)
    except (ValueError, TypeError, RecursionError):
        metadata = None  # damaged, which `verify` names
    told = metadata if isinstance(metadata, dict) else {}
    return ThreadCheckpoint(
        name,
        thread_id,
        trace_id,
        seq,
        at,
        namespace,
        parent,
        told.get("step"),
        told.get("source"),
        node,
        writes,
        run_id,
        adapter,
        metadata,
    )


def _commit(connection: apsw.Connection, trace_id: str, trace: int, seq: int) -> tuple[datetime, str | None]:
    """When the checkpoint at that place was committed, and with which node. No history with one in it is trimmed."""
    row: Any = connection.execute(log.ROW_AT, (trace, seq)).fetchone()
    if row is None:
        raise LogCorrupted(connection.filename, trace_id, seq, "a checkpoint stands where there is no commit")
    commit = log.log_row(connection, trace, row, 0)
    try:
        executed = [event.node for _, event in decode_some(commit.body, _EXECUTED)]
    except ValueError as error:
        raise LogCorrupted(connection.filename, trace_id, commit.first_seq, str(error)) from error
    return utc(commit.at_us), executed[-1] if executed else None


def named(store: Store, text: str) -> list[Named]:
    """The namespaces that `text` names, as `THREAD` or `THREAD:NAMESPACE`; without one, the namespaces of that thread.

    >>> from .store import open
    >>> with open(":memory:") as store:
    ...     named(store, "nobody")
    []
    """
    try:
        with store._database.reader() as connection:
            rows: Any = connection.execute(NAMED, (text,)).fetchall()
    except UnicodeEncodeError:
        return []  # what no thread can be called
    found = [Named._make(row) for row in rows]
    return [one for one in found if one.label == text] or found


def checkpoints_beginning(
    connection: apsw.Connection, segments: Sequence[Segment], prefix: str
) -> list[tuple[str, int]]:
    """`(id, seq)` of the checkpoints that stand in a lineage and whose ids begin so, `prefix` in lower case."""
    found: list[tuple[str, int]] = []
    for segment in segments:
        rows: Any = connection.execute(BEGINNING, (segment.trace, segment.upto, prefix))
        found += rows
    return found


def beside(connection: apsw.Connection, segments: Sequence[Segment], prefix: str) -> tuple[str, str, int] | None:
    """The only checkpoint of the lineage's threads whose id begins so, wherever it stands: its id, trace and seq."""
    found: set[tuple[str, str, int]] = set()
    for segment in segments:
        rows: Any = connection.execute(BESIDE, (segment.trace, prefix))
        found.update(rows)
    return found.pop() if len(found) == 1 else None
