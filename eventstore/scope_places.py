"""SQL of the places in which the threads of other frameworks stand: what a check, a dump and a load ask for.

A row names a trace and a seq; what the log says of the checkpoint or the writes there is read from the commit itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import apsw

from . import bases, log
from .codec import decode_some
from .errors import LogCorrupted
from .log import TraceRow
from .scope_event import CheckpointPut, WritesPut
from .scopes import COLUMNS, ScopeCheckpoint, checkpoint

EVERY = "SELECT id FROM scope ORDER BY id"
SEALED = "SELECT adapter, thread_id, namespace, seal FROM scope WHERE id = ?"
OF_TRACE = "SELECT scope FROM scope_trace WHERE trace = ?"
READERS = (
    "SELECT s.adapter, s.thread_id FROM scope_trace r JOIN scope s ON s.id = r.scope WHERE r.trace = ? ORDER BY s.id"
)
HELD = "SELECT r.trace, t.trace_id FROM scope_trace r LEFT JOIN trace t ON t.id = r.trace WHERE r.scope = ? ORDER BY 1"
STANDING = (
    f"{COLUMNS} FROM scope_trace r JOIN scope_checkpoint c ON c.scope = r.scope AND c.trace = r.trace"
    " WHERE r.trace = ? ORDER BY c.seq, c.scope, c.name"
)
WRITTEN = (
    "SELECT w.value ->> 1, c.scope FROM scope_trace r JOIN scope_checkpoint c ON c.scope = r.scope AND c.writes <> '[]'"
    " JOIN json_each(c.writes) w WHERE r.trace = ?1 AND w.value ->> 0 = ?1 ORDER BY 1, 2"
)
PLACE = (
    "INSERT INTO scope_checkpoint (scope, name, parent, trace, seq, status, run_id, metadata)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, name) DO UPDATE SET parent = excluded.parent,"
    " trace = excluded.trace, seq = excluded.seq, status = excluded.status, run_id = excluded.run_id,"
    " metadata = excluded.metadata WHERE status = 'announced'"
)
ADD_WRITES = (
    "INSERT INTO scope_checkpoint (scope, name, status, writes)"
    " VALUES (?1, ?2, 'announced', json_array(json_array(?3, ?4)))"
    " ON CONFLICT (scope, name) DO UPDATE SET writes = json_insert(writes, '$[#]', json_array(?3, ?4))"
)
STRAY = "SELECT trace, scope FROM scope_trace WHERE scope NOT IN (SELECT id FROM scope) ORDER BY 1, 2"


class Recorded(NamedTuple):
    """What the log says of a checkpoint. `metadata`, and the run's id in them, are None where they are opaque."""

    name: str
    parent: str | None
    run_id: str | None
    metadata: dict[str, Any] | None


def scope_ids(connection: apsw.Connection, trace: int | None = None) -> list[int]:
    """Every scope, or those that read the trace."""
    rows: Any = connection.execute(EVERY) if trace is None else connection.execute(OF_TRACE, (trace,))
    return [row[0] for row in rows]


def is_journal(connection: apsw.Connection, trace: int) -> bool:
    """Whether the trace holds writes that wait, and no checkpoints: it has no state that anyone restores."""
    raw: Any = connection.execute(log.ROW_AT, (trace, 1)).fetchone()
    try:
        return raw is not None and bool(
            decode_some(log.log_row(connection, trace, raw, 0).body, {"writes_put": WritesPut})
        )
    except (ValueError, LogCorrupted):
        return False  # damaged, which `verify` names


def readers(connection: apsw.Connection, trace: int) -> list[tuple[str, str]]:
    """The threads that read the trace: adapter and thread id."""
    rows: Any = connection.execute(READERS, (trace,)).fetchall()
    return list(rows)


def held(connection: apsw.Connection, scope: int) -> dict[int, str | None]:
    """The traces that a scope reads, by row id: each one's trace id, None where there is no such trace."""
    rows: Any = connection.execute(HELD, (scope,))
    return dict(rows)


def standing(connection: apsw.Connection, trace: int) -> list[ScopeCheckpoint]:
    """The checkpoints of all scopes that stand on the trace, in its order."""
    return [ScopeCheckpoint._make(row) for row in connection.execute(STANDING, (trace,)).fetchall()]


def written(connection: apsw.Connection, trace: int) -> list[tuple[int, int]]:
    """Where in the trace writes stand that a checkpoint has: the seq and the scope, in the trace's order."""
    rows: Any = connection.execute(WRITTEN, (trace,)).fetchall()
    return list(rows)


def recorded(connection: apsw.Connection, trace: TraceRow, seq: int) -> Recorded | None:
    """The checkpoint that the commit which ends at `seq` puts, if it does. Raises ValueError, LogCorrupted, Trimmed."""
    put = _put_at(connection, trace.id, seq)
    if put is None:
        return None
    first_seq, event = put
    metadata = event.metadata if isinstance(event.metadata, dict) else None
    run_id = None if metadata is None else metadata.get("run_id")
    parent = _checkpoint_before(connection, trace, first_seq - 1) if event.follows else event.parent
    return Recorded(str(event.name), parent, run_id if isinstance(run_id, str) else None, metadata)


def written_at(connection: apsw.Connection, trace: int, seq: int) -> str | None:
    """The checkpoint whose writes the event at `seq` holds; None where it is none of writes. Raises ValueError."""
    raw: Any = connection.execute(log.ROW_AT, (trace, seq)).fetchone()
    if raw is None:
        return None
    row = log.log_row(connection, trace, raw, 0)
    found = dict(decode_some(row.body, {"writes_put": WritesPut})) if seq <= row.last_seq else {}
    event = found.get(seq - row.first_seq)
    return None if event is None else str(event.checkpoint)


def _put_at(connection: apsw.Connection, trace: int, seq: int) -> tuple[int, CheckpointPut] | None:
    """Where the commit that ends there begins, and the checkpoint that it ends with."""
    raw: Any = connection.execute(log.ROW_AT, (trace, seq)).fetchone()
    row = None if raw is None else log.log_row(connection, trace, raw, 0)
    if row is None or row.last_seq != seq:
        return None
    event = dict(decode_some(row.body, {"checkpoint_put": CheckpointPut})).get(row.n - 1)
    return None if event is None else (row.first_seq, event)


def _checkpoint_before(connection: apsw.Connection, trace: TraceRow, seq: int) -> str | None:
    """The last checkpoint of the history up to `seq`."""
    segments = log.lineage(connection, trace, seq)
    if not segments:
        return None
    put = _put_at(connection, segments[-1].trace, seq)
    if put is not None:
        return str(put[1].name)
    control = bases.restore(connection, connection.filename, segments, seq, trace.trace_id).control
    return control.get("checkpoint", {}).get("name")  # type: ignore[no-any-return]


def place(connection: apsw.Connection, row: ScopeCheckpoint) -> bool:
    """Let a checkpoint stand there, unless it stands elsewhere: then False."""
    connection.execute(PLACE, row[:-1])
    found = checkpoint(connection, row.scope, row.name)
    return found is not None and (found.trace, found.seq) == (row.trace, row.seq)


def add_writes(connection: apsw.Connection, scope: int, name: str, trace: int, seq: int) -> None:
    """Note that writes of a checkpoint stand there."""
    connection.execute(ADD_WRITES, (scope, name, trace, seq))
