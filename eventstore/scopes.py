"""SQL of the threads that an adapter keeps: which traces a thread has, and where its checkpoints stand.

Every row is written in the commit of the event that it tells of. What is not read any more goes: a trace that no
scope reads and that no fork stands on is erased, and with it the ones below it that only it kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw
import msgspec

from . import log, retention
from .errors import FileCorrupted
from .pending import Statement
from .writer import TRACE_ROW

SCOPE = "(SELECT id FROM scope WHERE adapter = ?1 AND thread_id = ?2 AND namespace = ?3)"
ENTER = (
    "INSERT OR IGNORE INTO scope (adapter, thread_id, namespace, seal) VALUES (?1, ?2, ?3, seal('scope', ?1, ?2, ?3))"
)
NUMBERS, TEXTS = (int, type(None)), (str, type(None))
READ_TRACE = f"INSERT OR IGNORE INTO scope_trace (trace, scope) VALUES (?4, {SCOPE})"
SET_JOURNAL = "UPDATE scope SET journal = ?4 WHERE adapter = ?1 AND thread_id = ?2 AND namespace = ?3"
# The scope that reads the trace: NULL where it was deleted meanwhile, which the table refuses. A new trace has one.
READER = "(SELECT scope FROM scope_trace WHERE trace = ?2 AND scope = coalesce(?1, scope))"
PUT_CHECKPOINT = (
    "INSERT INTO scope_checkpoint (scope, trace, name, parent, seq, status, run_id, metadata)"
    f" VALUES ({READER}, ?2, ?3, ?4, ?5, 'live', ?6, ?7)"
    " ON CONFLICT (scope, name) DO UPDATE SET parent = excluded.parent, trace = excluded.trace, seq = excluded.seq,"
    " status = 'live', run_id = excluded.run_id, metadata = excluded.metadata"
)
PUT_WRITES = (
    "INSERT INTO scope_checkpoint (scope, name, status, writes)"
    f" VALUES ({READER}, ?3, 'announced', json_array(json_array(?2, ?4)))"
    " ON CONFLICT (scope, name) DO UPDATE SET writes = json_insert(writes, '$[#]', json_array(?2, ?4))"
)
FIND = "SELECT id, thread_id, namespace, journal FROM scope WHERE adapter = ? AND thread_id = ? AND namespace = ?"
OF_THREAD = "SELECT id, thread_id, namespace, journal FROM scope WHERE adapter = ? AND thread_id = ? ORDER BY namespace"
OF_RUN = "SELECT DISTINCT scope FROM scope_checkpoint WHERE run_id = ?"
BY_ID = "SELECT id, thread_id, namespace, journal FROM scope WHERE id = ?"
COLUMNS = "SELECT c.scope, c.name, c.parent, c.trace, c.seq, c.status, c.run_id, c.metadata, c.writes"
CHECKPOINT = f"{COLUMNS} FROM scope_checkpoint c WHERE c.scope = ? AND c.name = ?"
NAMED = f"{COLUMNS} FROM scope_checkpoint c WHERE c.scope = {SCOPE} AND c.name = ?4"
LATEST = f"{COLUMNS} FROM scope_checkpoint c WHERE c.scope = {SCOPE} AND c.status = 'live' ORDER BY c.name DESC LIMIT 1"
EVERY = f"{COLUMNS} FROM scope_checkpoint c WHERE c.scope = ?"
_PAGE = " AND c.status = 'live' AND (c.name, c.scope) < (?2, ?3) ORDER BY c.name DESC, c.scope DESC LIMIT ?4"
PAGE_OF_SCOPE = f"{COLUMNS} FROM scope_checkpoint c WHERE c.scope = ?1{_PAGE}"
PAGE_OF_THREAD = (
    f"{COLUMNS} FROM scope_checkpoint c JOIN scope s ON s.id = c.scope WHERE s.adapter = ?5 AND s.thread_id = ?1{_PAGE}"
)
PAGE_OF_ALL = (
    f"{COLUMNS} FROM scope_checkpoint c JOIN scope s ON s.id = c.scope WHERE s.adapter = ?5 AND ?1 IS NULL{_PAGE}"
)
IS_READ = "SELECT 1 FROM scope_trace WHERE trace = ?1 UNION ALL SELECT 1 FROM trace WHERE parent = ?1 LIMIT 1"
COPY_ROWS = (
    "INSERT INTO scope_checkpoint (scope, name, parent, trace, seq, status, run_id, metadata, writes)"
    " SELECT ?2, name, parent, trace, seq, status, run_id, metadata, writes FROM scope_checkpoint WHERE scope = ?1"
)
COPY_TRACES = "INSERT OR IGNORE INTO scope_trace (trace, scope) SELECT trace, ?2 FROM scope_trace WHERE scope = ?1"
PAGE_ROWS = 256
NO_WRITES = "[]"
_seqs = msgspec.json.Decoder(list[tuple[int, int]]).decode


class Scope(NamedTuple):
    """A row of table `scope`."""

    id: int
    thread_id: str
    namespace: str
    journal: int | None


class ScopeCheckpoint(NamedTuple):
    """A row of table `scope_checkpoint`: a checkpoint of another framework, and where it stands."""

    scope: int
    name: str
    parent: str | None
    trace: int | None
    seq: int | None
    status: str
    run_id: str | None
    metadata: str | None
    writes: str

    @property
    def written(self) -> list[tuple[int, int]]:
        """Where its writes stand: the journal's row id and the seq."""
        return [] if self.writes == NO_WRITES else _seqs(self.writes)


class ScopeKey(NamedTuple):
    """What names a scope."""

    adapter: str
    thread_id: str
    namespace: str


def entered(key: ScopeKey) -> list[Statement]:
    """Make the scope, if there is none, and let it read the new trace of this commit."""
    return [(ENTER, key), (READ_TRACE, (*key, TRACE_ROW))]


def checkpoint_put(
    scope: int | None, name: str, parent: str | None, seq: int, run_id: str | None, metadata: str | None
) -> Statement:
    """The row of a checkpoint that this commit puts. `scope`: None in a new trace, after `entered`."""
    return PUT_CHECKPOINT, (scope, TRACE_ROW, name, parent, seq, run_id, metadata)


def writes_put(scope: int | None, name: str, seq: int) -> Statement:
    """The row of a checkpoint whose writes this commit, of a journal, puts at `seq`."""
    return PUT_WRITES, (scope, TRACE_ROW, name, seq)


def journal_made(key: ScopeKey) -> Statement:
    """The new trace of this commit is the scope's journal."""
    return SET_JOURNAL, (*key, TRACE_ROW)


def find(connection: apsw.Connection, key: ScopeKey) -> Scope | None:
    """The scope of that name."""
    row: Any = connection.execute(FIND, key).fetchone()
    return None if row is None else Scope._make(row)


def of_thread(connection: apsw.Connection, adapter: str, thread_id: str) -> list[Scope]:
    """Every namespace of a thread."""
    return [Scope._make(row) for row in connection.execute(OF_THREAD, (adapter, thread_id)).fetchall()]


def of_run(connection: apsw.Connection, run_id: str) -> list[Scope]:
    """The scopes that hold a checkpoint of that run."""
    ids = connection.execute(OF_RUN, (run_id,)).fetchall()
    return [Scope._make(connection.execute(BY_ID, found).fetchone()) for found in ids]  # type: ignore[arg-type]


def by_id(connection: apsw.Connection, scope: int) -> Scope | None:
    """The scope of that row id."""
    row: Any = connection.execute(BY_ID, (scope,)).fetchone()
    return None if row is None else Scope._make(row)


def _made(connection: apsw.Connection, row: Any) -> ScopeCheckpoint:
    found = ScopeCheckpoint._make(row)
    if type(found.seq) not in NUMBERS or type(found.trace) not in NUMBERS or type(found.metadata) not in TEXTS:
        raise FileCorrupted(connection.filename, f"the row of checkpoint {found.name!r} of a thread holds other types")
    return found


def checkpoint(connection: apsw.Connection, scope: int, name: str) -> ScopeCheckpoint | None:
    """A scope's checkpoint of that name, whatever its status."""
    row: Any = connection.execute(CHECKPOINT, (scope, name)).fetchone()
    return None if row is None else _made(connection, row)


def named(connection: apsw.Connection, key: ScopeKey, name: str) -> ScopeCheckpoint | None:
    """As `checkpoint`, by the scope's name."""
    row: Any = connection.execute(NAMED, (*key, name)).fetchone()
    return None if row is None else _made(connection, row)


def latest(connection: apsw.Connection, key: ScopeKey) -> ScopeCheckpoint | None:
    """The live checkpoint of a scope whose name is the greatest."""
    row: Any = connection.execute(LATEST, key).fetchone()
    return None if row is None else _made(connection, row)


def every(connection: apsw.Connection, scope: int) -> dict[str, ScopeCheckpoint]:
    """All rows of a scope, by name."""
    rows: Any = connection.execute(EVERY, (scope,))
    return {row[1]: _made(connection, row) for row in rows}


def page(
    connection: apsw.Connection,
    adapter: str,
    thread_id: str | None,
    scope: int | None,
    before: tuple[str | None, int],
    limit: int,
) -> list[ScopeCheckpoint]:
    """Live checkpoints of a scope, a thread or all threads, the greatest name first, after `before` (name, scope)."""
    name, at = before
    after = ("\U0010ffff" if name is None else name, at, limit)
    if scope is not None:
        rows: Any = connection.execute(PAGE_OF_SCOPE, (scope, *after))
    elif thread_id is not None:
        rows = connection.execute(PAGE_OF_THREAD, (thread_id, *after, adapter))
    else:
        rows = connection.execute(PAGE_OF_ALL, (None, *after, adapter))
    return [_made(connection, row) for row in rows]


def enter(connection: apsw.Connection, key: ScopeKey) -> Scope:
    """The scope of that name, made where there is none."""
    connection.execute(ENTER, key)
    found = find(connection, key)
    assert found is not None
    return found


# What goes. Each inside the caller's transaction.


def remove(connection: apsw.Connection, scope: Scope, names: Sequence[str], ghosts: Sequence[str], by: str) -> None:
    """Delete these checkpoints, make ghosts of those, and erase what is not read any more."""
    gone = [(scope.id, name) for name in names]
    hidden = [(scope.id, name) for name in ghosts]
    with retention.overwriting(connection):
        connection.executemany("DELETE FROM scope_checkpoint WHERE scope = ? AND name = ?", gone)
        connection.executemany(
            "UPDATE scope_checkpoint SET status = 'ghost', run_id = NULL WHERE scope = ? AND name = ?", hidden
        )
        unread(connection, scope, by)
    if gone:
        connection.execute(retention.REWRITE_IS_DUE, (time.time_ns() // 1000,))


def move(connection: apsw.Connection, row: ScopeCheckpoint) -> None:
    """Let a checkpoint stand elsewhere, as the row says, its writes with it."""
    connection.execute(
        "UPDATE scope_checkpoint SET parent = ?, trace = ?, seq = ?, writes = ? WHERE scope = ? AND name = ?",
        (row.parent, row.trace, row.seq, row.writes, row.scope, row.name),
    )


def reads(connection: apsw.Connection, scope: int, trace: int) -> None:
    """Note that the scope reads that trace."""
    connection.execute("INSERT OR IGNORE INTO scope_trace (trace, scope) VALUES (?, ?)", (trace, scope))


def set_journal(connection: apsw.Connection, scope: int, trace: int | None) -> None:
    """Let the scope write into that journal from now on."""
    connection.execute("UPDATE scope SET journal = ? WHERE id = ?", (trace, scope))


def copy(connection: apsw.Connection, source: Scope, target: ScopeKey, by: str) -> None:
    """Give `target` the source's checkpoints and writes, by reference."""
    found = enter(connection, target)
    connection.execute(COPY_ROWS, (source.id, found.id))
    connection.execute(COPY_TRACES, (source.id, found.id))
    unread(connection, found, by)


def unread(connection: apsw.Connection, scope: Scope, by: str) -> None:
    """Forget the traces that the scope's checkpoints do not need any more, and the scope itself once it is empty."""
    rows = every(connection, scope.id)
    now = by_id(connection, scope.id)
    journal = None if now is None else now.journal
    needed = {row.trace for row in rows.values()} | {trace for row in rows.values() for trace, _ in row.written}
    if rows:
        needed.add(journal)
    held: Any = connection.execute("SELECT trace FROM scope_trace WHERE scope = ?", (scope.id,)).fetchall()
    gone = {trace for (trace,) in held if trace not in needed}
    connection.executemany(
        "DELETE FROM scope_trace WHERE trace = ? AND scope = ?", [(trace, scope.id) for trace in gone]
    )
    if not rows:
        connection.execute("DELETE FROM scope WHERE id = ?", (scope.id,))
    while gone:
        row = log.trace_by_row(connection, gone.pop())
        if connection.execute(IS_READ, (row.id,)).fetchone() is None:
            retention.erase_rows(connection, row, by)
            if row.parent is not None:
                gone.add(row.parent)
