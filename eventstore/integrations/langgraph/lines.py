"""Putting checkpoints: one commit each, on the line of the checkpoint before it.

A line is a trace whose last checkpoint is remembered here, with the items of its lists as they were handed over, so
that the next put finds what changed without reading or serializing what did not. A put whose parent is not the last
checkpoint of its line, because someone goes back in time or because another process was faster, forks a new trace
at its parent, in the same commit; a put without a parent that is known starts one.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

from eventstore import chain, log, scopes
from eventstore.codec import Envelope, as_column, encode_body, envelope, json_encode
from eventstore.errors import TraceErased, TraceExists, TraceNotFound, WrongExpectedVersion
from eventstore.event import TraceForked, TraceStarted
from eventstore.log import Head, TraceRow
from eventstore.pending import Statement
from eventstore.reduce import ReducerRegistry
from eventstore.scopes import ScopeCheckpoint, ScopeKey
from eventstore.step import Draft
from eventstore.store import Store, uuid7
from eventstore.trace import Trace
from eventstore.windows import Snapshot, Windows
from eventstore.writer import Append

from .bodies import checkpoint_data, nodes_of
from .values import Change, Serializer, change_of

LINES = 256
"""How many lines are remembered."""
ATTEMPTS = 16
_NOTHING: Mapping[str, Any] = {}
_random = random.Random()


class Line:
    """A line of checkpoints as this process knows it: its trace, its last checkpoint, the items of its lists then."""

    __slots__ = ("items", "name", "seq", "trace")

    def __init__(self, trace: Trace, name: str, seq: int, items: dict[str, tuple[Any, ...]]) -> None:
        self.trace = trace
        self.name = name
        self.seq = seq
        self.items = items


class Put:
    """A checkpoint on its way into the log."""

    __slots__ = ("checkpoint", "metadata", "parent", "run_id")

    def __init__(self, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any], parent: str | None) -> None:
        self.checkpoint = checkpoint
        self.metadata = metadata
        self.parent = parent
        run_id = metadata.get("run_id")
        self.run_id = run_id if isinstance(run_id, str) else None


class Lines:
    """The lines of one store. Thread-safe: puts of one scope go one after the other.

    `exact`: find what became of a list by its bytes, not by the identity of its items.
    """

    def __init__(self, store: Store, windows: Windows, exact: bool) -> None:
        self._store = store
        self._windows = windows
        self._exact = exact
        self._lock = threading.Lock()
        self._lines: OrderedDict[ScopeKey, Line] = OrderedDict()
        self._scope_locks: WeakValueDictionary[ScopeKey, Any] = WeakValueDictionary()

    def remember(self, key: ScopeKey, row: ScopeCheckpoint, values: Mapping[str, Any]) -> None:
        """A run is about to go on from this checkpoint with these very values."""
        if row.trace is None or row.seq is None:
            return
        with self._lock:
            line = self._lines.get(key)
            if line is None or (line.name, line.seq) != (row.name, row.seq):
                found = self._open(row.trace, row.seq)
                if found is None or found.control.get("scope") != list(key):
                    return
                line = Line(found, row.name, row.seq, {})
            self._lines[key] = Line(line.trace, line.name, line.seq, _items(values))
            self._lines.move_to_end(key)

    def forget(self, key: ScopeKey | None = None) -> None:
        """What is remembered may be gone."""
        with self._lock:
            if key is None:
                self._lines.clear()
            else:
                self._lines.pop(key, None)

    def put(self, serde: Serializer, key: ScopeKey, put: Put) -> None:
        """Commit a checkpoint. Raises ValueRefused, storage errors, and what the serializer raises."""
        with self._scope_lock(key):
            for attempt in range(ATTEMPTS):
                try:
                    line = self._line(key, put.parent)
                    if line is not None:
                        self._extend(serde, key, put, line)
                    else:
                        self._begin(serde, key, put)
                    return
                except (WrongExpectedVersion, TraceErased, TraceNotFound, TraceExists):
                    self.forget(key)  # another process was faster: look again where the parent stands
                    if attempt == ATTEMPTS - 1:
                        raise

    def _scope_lock(self, key: ScopeKey) -> Any:
        with self._lock:
            found = self._scope_locks.get(key)
            if found is None:
                found = self._scope_locks[key] = threading.RLock()
            return found

    def _line(self, key: ScopeKey, parent: str | None) -> Line | None:
        """The line whose last checkpoint is the parent; None where there is none."""
        if parent is None:
            return None
        with self._lock:
            line = self._lines.get(key)
        if line is not None and line.name == parent:
            return line
        row = self._row(key, parent)
        if row is None or row.trace is None or row.seq is None:
            return None
        trace = self._open(row.trace, row.seq)
        if trace is None or trace.control.get("scope") != list(key):  # a copy reads the line of its source
            return None
        return Line(trace, parent, row.seq, {})

    def _row(self, key: ScopeKey, name: str) -> ScopeCheckpoint | None:
        with self._store._database.reader() as connection:
            scope = scopes.find(connection, key)
            return None if scope is None else scopes.checkpoint(connection, scope.id, name)

    def _open(self, trace: int, seq: int) -> Trace | None:
        """The trace, where `seq` is its end."""
        with self._store._database.reader() as connection:
            try:
                row = log.trace_by_row(connection, trace)
                head = log.head(connection, row)
            except TraceNotFound:
                return None
        return Trace(self._store, row, head, ReducerRegistry()) if head.version == seq else None

    def _extend(self, serde: Serializer, key: ScopeKey, put: Put, line: Line) -> None:
        trace = line.trace
        state = trace._live()
        draft = Draft(state, trace._registry)
        items = self._draft(serde, draft, put, state, trace._control, line.items)
        data = checkpoint_data(serde, put.checkpoint, put.metadata, trace._control, follows=True, parent=None)
        control = [_executed(data), Envelope("checkpoint_put", data)]
        wire = [*draft.body(), *control]
        pending = trace._prepare(wire, draft, control, line.seq, None, opaque=True)
        seq = line.seq + len(wire)
        pending.extras += _rows(key, put, seq, data)
        trace._commit(pending)
        self._windows.keep(trace._row.id, seq, Snapshot(dict(state), dict(trace._control)), before=line.seq)
        self._keep(key, Line(trace, put.checkpoint["id"], seq, items))

    def _begin(self, serde: Serializer, key: ScopeKey, put: Put) -> None:
        """A new trace: a fork at the parent, or one of its own where no parent is known."""
        parent = None if put.parent is None else self._row(key, put.parent)
        store, trace_id, label = self._store, uuid7(), f"{key.thread_id}:{key.namespace}".rstrip(":")
        control: Mapping[str, Any] = _NOTHING
        state: Mapping[str, Any] = _NOTHING
        own, after, at_us, previous, owner = True, 0, time.time_ns() // 1000, chain.genesis(trace_id), None
        if parent is not None and parent.trace is not None and parent.seq is not None:
            state, control = self._windows.at(parent.trace, parent.seq)
            with store._database.reader() as connection:
                parent_trace = log.trace_by_row(connection, parent.trace)
                head = log.boundary(connection, parent_trace, parent.seq)
                owner = log.lineage(connection, parent_trace, parent.seq)[-1].trace
            after, at_us, previous = parent.seq, max(at_us, head.at_us), head.digest
            own = control.get("scope") != list(key)
            first = envelope(TraceForked(label, parent_trace.trace_id, after))
        else:
            first = envelope(TraceStarted(label, {}))
        draft = Draft(dict(state), ReducerRegistry())
        items = self._draft(serde, draft, put, state, control, {})
        data = checkpoint_data(
            serde, put.checkpoint, put.metadata, control, follows=owner is not None,
            parent=put.parent if owner is None else None,
        )  # fmt: skip
        entered = [Envelope("scope_entered", list(key))] if own else []
        wire = [first, *entered, *draft.body(), _executed(data), Envelope("checkpoint_put", data)]
        body, own_id = encode_body(wire, True), _random.getrandbits(63)
        digest = chain.extend(previous, after + 1, len(wire), at_us, own_id, body)
        row = (0, after + 1, len(wire), own_id, at_us, digest, as_column(body))
        append = Append(trace_id, row, new_trace=(trace_id, label, owner, after, at_us))
        seq = after + len(wire)
        append.extras = _rows(key, put, seq, data)
        store._writer.commit(append)
        made = TraceRow(append.row[0], trace_id, label, owner, after, at_us, "running")
        trace = Trace(store, made, Head(seq, digest, at_us), ReducerRegistry())
        self._keep(key, Line(trace, put.checkpoint["id"], seq, items))

    def _draft(
        self,
        serde: Serializer,
        draft: Draft,
        put: Put,
        state: Mapping[str, Any],
        control: Mapping[str, Any],
        remembered: Mapping[str, tuple[Any, ...]],
    ) -> dict[str, tuple[Any, ...]]:
        """Draft what the checkpoint changes; gives the items of its lists, to be remembered."""
        draft.opaque = True
        values, versions = put.checkpoint["channel_values"], put.checkpoint["channel_versions"]
        items: dict[str, tuple[Any, ...]] = {}
        for channel, value in values.items():
            before, version = state.get(channel), versions.get(channel)
            if before is not None and version is not None and control.get("version/" + channel) == version:
                if channel in remembered:
                    items[channel] = remembered[channel]
                continue
            was = None if self._exact else remembered.get(channel)
            change = change_of(serde, before, was, value)
            if type(value) is list:
                items[channel] = tuple(value)
            for op, change_value in _in_turn(change):
                draft.write(channel, op, change_value)
        for channel in state:
            if channel not in values:
                draft.write(channel, "delete", None)
        return items

    def _keep(self, key: ScopeKey, line: Line) -> None:
        with self._lock:
            self._lines[key] = line
            self._lines.move_to_end(key)
            if len(self._lines) > LINES:
                self._lines.popitem(last=False)


def _in_turn(change: Change | list[Change] | None) -> Sequence[Change]:
    return [] if change is None else change if isinstance(change, list) else [change]


def _items(values: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {channel: tuple(value) for channel, value in values.items() if type(value) is list}


def _executed(data: list[Any]) -> Envelope:
    return Envelope("node_executed", {"node": nodes_of(data)})


def _rows(key: ScopeKey, put: Put, seq: int, data: list[Any]) -> list[Statement]:
    metadata = data[4] if len(data) > 4 else {}
    text = json_encode(metadata).decode() if type(metadata) is dict else None
    return scopes.checkpoint_put(key, data[0], put.parent, seq, put.run_id, text)
