"""The checkpoint table and its six verbs: save, load, load_latest, list, delete, prune.

A row names a place; the state is the log's. So deleting or pruning rows removes nothing that another
checkpoint, a fork or a resume needs.
"""

from __future__ import annotations

import builtins
import json
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import apsw

from .checkpoint import Checkpoint, CheckpointTrigger
from .codec import same
from .errors import CheckpointNotFound, FileCorrupted, TraceNotFound
from .event import DeltaOp, DeltaSource, StateDelta, utc
from .log import boundary, find_trace
from .pending import mark_statements
from .record import ExecutionMetadata

if TYPE_CHECKING:
    from .store import Store
    from .trace import Trace

COLUMNS = (
    "SELECT c.checkpoint_id, t.trace_id, c.graph_hash, c.node, c.created_us, c.seq, c.triggers, c.metadata"
    " FROM checkpoint c JOIN trace t ON t.id = c.trace"
)
BY_ID = COLUMNS + " WHERE c.checkpoint_id = ?"
NEWEST_FIRST = (
    COLUMNS
    + " WHERE c.trace = (SELECT id FROM trace WHERE trace_id = ?) ORDER BY c.seq DESC, c.checkpoint_id DESC LIMIT ?"
)
BETWEEN = (
    COLUMNS + " WHERE c.trace = (SELECT id FROM trace WHERE trace_id = ?) AND c.seq BETWEEN ? AND ?"
    " ORDER BY c.seq DESC, c.checkpoint_id DESC"
)
NEWEST_BEFORE = (
    COLUMNS + " WHERE c.trace = (SELECT id FROM trace WHERE trace_id = ?) AND c.seq <= ?"
    " ORDER BY c.seq DESC, c.checkpoint_id DESC LIMIT 1"
)
AT = COLUMNS + " WHERE c.trace = ? AND c.seq = ? ORDER BY c.checkpoint_id"
SAVE = (
    "INSERT INTO checkpoint (checkpoint_id, trace, seq, node, graph_hash, triggers, metadata, created_us, seal)"
    " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,"
    " seal(?1, (SELECT trace_id FROM trace WHERE id = ?2), ?3, ?4, ?5, ?6, ?7, ?8)"
)
PRUNE = (
    "DELETE FROM checkpoint WHERE trace = ?1 AND checkpoint_id NOT IN"
    " (SELECT checkpoint_id FROM checkpoint WHERE trace = ?1 ORDER BY seq DESC, checkpoint_id DESC LIMIT ?2)"
)


class CheckpointStore:
    """`store.checkpoints`: the checkpoints of every trace in the file."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, checkpoint: Checkpoint) -> Checkpoint:
        """Keep a checkpoint; gives it as it now stands, with its `seq`.

        The log stays the only truth: where the checkpoint's state is not the log's state at its place,
        the difference is first appended, as deltas with source import, and the checkpoint stands after
        it. A trace that does not exist is started with the state. Raises WrongExpectedVersion when
        another writer came between.
        """
        store = self._store
        try:
            trace = store.open_trace(checkpoint.parent_trace_id)
        except TraceNotFound:
            trace = store.start(
                checkpoint.state,
                id=checkpoint.parent_trace_id,
                graph_hash=checkpoint.graph_hash,
                node=checkpoint.current_node,
            )
        seq = checkpoint.seq
        if seq is None or seq > trace.version or not same(store.state_at(trace.id, seq), checkpoint.state):
            deltas = difference(dict(trace.state), checkpoint.state)
            if deltas:
                trace.append(deltas, expected_version=trace.version)
            seq = trace.version
        triggers = checkpoint.triggers or (CheckpointTrigger.EXPLICIT,)
        names = json.dumps([trigger.name for trigger in triggers])
        metadata = next((item.metadata for item in triggers if item.metadata is not None), None)
        created_us = int(checkpoint.created_at.timestamp() * 1_000_000)

        saved = (
            checkpoint.checkpoint_id,
            trace._row.id,
            seq,
            checkpoint.current_node,
            checkpoint.graph_hash,
            names,
            None if metadata is None else metadata.to_json().decode(),
            created_us,
        )

        def work(connection: apsw.Connection) -> None:
            boundary(connection, trace._row, seq)
            connection.execute("DELETE FROM checkpoint WHERE checkpoint_id = ?", (checkpoint.checkpoint_id,))
            connection.execute(SAVE, saved)

        store._writer.write(work)
        return self.load(checkpoint.checkpoint_id)

    def mark(self, trace: Trace, node: str | None, trigger: CheckpointTrigger) -> Checkpoint:
        """A checkpoint at the head of an open trace; asks the fold policy for a base there."""
        store, row = self._store, trace._row
        store._database.check_open()
        with trace._lock:
            version, graph_hash = trace.version, trace.graph_hash
            decision = store.fold_policy.decide(trace._fold_input((), 0, 0, score_passed=True))
            size = trace._size()

            def work(connection: apsw.Connection) -> Any:
                now = time.time_ns() // 1000
                find_trace(connection, row.trace_id)
                for sql, parameters in mark_statements(version, node, graph_hash, trigger, now, row.id):
                    connection.execute(sql, parameters)
                return None if decision is None else store._reader.fold_at(connection, row, version, size, decision)

            trace._rebased(store._writer.write(work))
        return self._one(AT, (row.id, version))

    def load(self, checkpoint_id: str | UUID) -> Checkpoint:
        """The checkpoint of that id. Raises CheckpointNotFound."""
        found = self._many(BY_ID, (str(checkpoint_id),))
        if not found:
            raise CheckpointNotFound(str(checkpoint_id))
        return found[0]

    def between(self, trace_id: str, first: int, last: int) -> builtins.list[Checkpoint]:
        """The trace's checkpoints with `first <= seq <= last`, newest first."""
        return self._many(BETWEEN, (trace_id, first, last))

    def load_latest(self, trace_id: str) -> Checkpoint | None:
        """The checkpoint furthest in the trace; None when it has none."""
        found = self._many(NEWEST_FIRST, (trace_id, 1))
        return found[0] if found else None

    def list(self, trace_id: str) -> builtins.list[Checkpoint]:
        """The trace's checkpoints, newest first."""
        return self._many(NEWEST_FIRST, (trace_id, -1))

    def _newest_before(self, trace_id: str, seq: int) -> Checkpoint | None:
        """The newest checkpoint at or before `seq`, of the trace or of the history that it shares; None without one.

        Raises TraceNotFound, TraceErased.
        """
        store = self._store
        row, _ = store._reader.find(trace_id)
        found = self._many(NEWEST_BEFORE, (trace_id, seq))
        for ancestor_id, shared_upto in store._ancestors(row):
            seq = min(seq, shared_upto)
            found += self._many(NEWEST_BEFORE, (ancestor_id, seq))
        return max(found, key=lambda checkpoint: checkpoint.seq or 0, default=None)

    def delete(self, checkpoint_id: str | UUID) -> bool:
        """Remove that row and nothing else; whether there was one."""

        def work(connection: apsw.Connection) -> bool:
            connection.execute("DELETE FROM checkpoint WHERE checkpoint_id = ?", (str(checkpoint_id),))
            return connection.changes() > 0

        return self._store._writer.write(work)

    def prune(self, trace_id: str, keep: int) -> int:
        """Remove all but the `keep` newest rows of the trace; how many went. Raises TraceNotFound, ValueError."""
        if keep < 0:
            raise ValueError(f"keep is 0 or more, not {keep}")

        def work(connection: apsw.Connection) -> int:
            connection.execute(PRUNE, (find_trace(connection, trace_id).id, keep))
            return connection.changes()

        return self._store._writer.write(work)

    def _many(self, sql: str, parameters: tuple[Any, ...]) -> builtins.list[Checkpoint]:
        with self._store._database.reader() as connection:
            rows: list[Any] = connection.execute(sql, parameters).fetchall()
            try:
                return [self._checkpoint(*row) for row in rows]
            except (TypeError, ValueError, RecursionError) as error:
                raise FileCorrupted(self._store.path, f"a row of its checkpoints: {error}") from error

    def _one(self, sql: str, parameters: tuple[Any, ...]) -> Checkpoint:
        return self._many(sql, parameters)[0]

    def _checkpoint(
        self,
        checkpoint_id: str,
        trace_id: str,
        graph_hash: str,
        node: str | None,
        created_us: int,
        seq: int,
        triggers: str,
        metadata: str | None,
    ) -> Checkpoint:
        if type(seq) is not int:
            raise TypeError(f"its seq is {seq!r}")
        store = self._store
        cost = None if metadata is None else ExecutionMetadata.from_json(metadata)
        return Checkpoint(
            checkpoint_id,
            trace_id,
            graph_hash,
            node,
            utc(created_us),
            seq=seq,
            triggers=[CheckpointTrigger(name, cost if name == "adaptive" else None) for name in json.loads(triggers)],
            state=lambda: store.state_at(trace_id, seq),
            snapshot=lambda: store.snapshot_at(trace_id, seq),
        )


def difference(old: Any, new: Any) -> builtins.list[StateDelta]:
    """The deltas, with source import, that turn one state into the other.

    >>> [(delta.key, delta.op.value) for delta in difference({"a": 1, "b": 2}, {"a": 1, "c": 3})]
    [('b', 'delete'), ('c', 'put')]
    """
    gone = [StateDelta(key, DeltaOp.DELETE, source=DeltaSource.IMPORT) for key in old if key not in new]
    put = [
        StateDelta(key, DeltaOp.PUT, value, DeltaSource.IMPORT)
        for key, value in new.items()
        if key not in old or not same(old[key], value)
    ]
    return gone + put
