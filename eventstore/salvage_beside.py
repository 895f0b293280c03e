"""What stands beside the log, held to what was kept of it: it holds its seal, and stands on rows that are there.

Checkpoints and tombstones are sealed, a graph's definition has the hash that names it; leases, and the places of
threads, only have to belong to a trace (and a thread) that was kept, at the end of one of its commits.
"""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from .chain import Chain
from .definition import graph_hash

STONES = "SELECT trace_id, trace, version, digest, erased_by, erased_us, seal FROM tombstone"
CHECKPOINTS = (
    "SELECT c.checkpoint_id, t.trace_id, c.seq, c.node, c.graph_hash, c.triggers, c.metadata, c.created_us, c.seal"
    " FROM checkpoint c JOIN trace t ON t.id = c.trace"
)
WRITES = "SELECT scope, name, writes FROM scope_checkpoint WHERE writes <> '[]'"
SET_WRITES = "UPDATE scope_checkpoint SET writes = ? WHERE scope = ? AND name = ?"
HAS_SEQ = "SELECT 1 FROM log WHERE trace = ?1 AND first_seq <= ?2 AND first_seq + n > ?2"
GRAPHS = "SELECT graph_hash, definition FROM graph"
STANDS = (
    "(seq <= (SELECT fork_seq FROM trace WHERE id = {0}.trace)"
    " OR EXISTS (SELECT 1 FROM log WHERE trace = {0}.trace AND first_seq = (SELECT max(first_seq) FROM log"
    " WHERE trace = {0}.trace AND first_seq <= {0}.seq) AND first_seq + n - 1 {1} {0}.seq)"
    " OR EXISTS (SELECT 1 FROM root WHERE trace = {0}.trace AND seq = {0}.seq))"
)
NO_TRACE = "DELETE FROM {} WHERE trace NOT IN (SELECT id FROM trace)"
UNPLACED = "DELETE FROM checkpoint WHERE NOT " + STANDS.format("checkpoint", "=")
UNPLACED_SCOPED = "DELETE FROM scope_checkpoint WHERE trace IS NOT NULL AND NOT " + STANDS.format(
    "scope_checkpoint", "="
)
LOST_SCOPES = "DELETE FROM {} WHERE scope NOT IN (SELECT id FROM scope)"

FORGET = "DELETE FROM {} WHERE trace = (SELECT id FROM trace WHERE trace_id = ?)"
BESIDE = ("lease", "checkpoint", "scope_trace", "scope_checkpoint")
DROP_STONE = "DELETE FROM tombstone WHERE trace_id = ?"
DROP_CHECKPOINT = "DELETE FROM checkpoint WHERE checkpoint_id = ?"
DROP_GRAPH = "DELETE FROM graph WHERE graph_hash = ?"


def drop_unsealed_tombstones(connection: apsw.Connection, chain: Chain) -> int:
    """Drop tombstones that are not what was sealed: they would bury traces that live. How many."""
    dropped = 0
    for *fields, seal in _all(connection, STONES):
        if not chain.is_sealed(seal, *fields):
            dropped += drop(connection, DROP_STONE, (fields[0],))
    return dropped


def drop_beside(connection: apsw.Connection, chain: Chain) -> int:
    """Drop what stands on rows that were not kept, and what does not hold. How many rows."""
    dropped = 0
    for table in ("root", "checkpoint", "lease", "scope_trace", "scope_checkpoint"):
        dropped += drop(connection, NO_TRACE.format(table))
    for table in ("scope_trace", "scope_checkpoint"):
        dropped += drop(connection, LOST_SCOPES.format(table))
    dropped += drop(connection, UNPLACED) + drop(connection, UNPLACED_SCOPED) + _forget_writes(connection)
    for *fields, seal in _all(connection, CHECKPOINTS):
        if not chain.is_sealed(seal, *fields):
            dropped += drop(connection, DROP_CHECKPOINT, (fields[0],))
    for named, definition in _all(connection, GRAPHS):
        try:
            holds = graph_hash(msgspec.json.decode(definition)) == named
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError):
            holds = False
        if not holds:
            dropped += drop(connection, DROP_GRAPH, (named,))
    return dropped


def drop(connection: apsw.Connection, sql: str, bindings: tuple[Any, ...] = ()) -> int:
    """Delete rows; how many."""
    before = connection.total_changes()
    connection.execute(sql, bindings)
    return connection.total_changes() - before


def _forget_writes(connection: apsw.Connection) -> int:
    """Forget writes of threads that are in no row that was kept."""
    forgotten = 0
    for scope, name, text in _all(connection, WRITES):
        said = msgspec.json.decode(text)
        writes = said if isinstance(said, list) else []
        kept = [write for write in writes if _has_written(connection, write)]
        if kept != said:
            connection.execute(SET_WRITES, (msgspec.json.encode(kept).decode(), scope, name))
            forgotten += max(1, len(writes) - len(kept))
    return forgotten


def _has_written(connection: apsw.Connection, write: Any) -> bool:
    if not isinstance(write, list) or [type(part) for part in write] != [int, int]:
        return False
    return all(0 < part < 2**62 for part in write) and bool(connection.execute(HAS_SEQ, write).fetchone())


def _all(connection: apsw.Connection, sql: str) -> list[Any]:
    return connection.execute(sql).fetchall()
