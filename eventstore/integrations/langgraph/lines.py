"""Putting checkpoints: one commit each, on the line of the checkpoint before it.

A line is a trace whose last checkpoint is remembered here, with the items of its lists as they were handed over, so
that the next put finds what changed without reading or serializing what did not. A put whose parent is not the last
checkpoint of its line, because someone goes back in time or because another process was faster, forks a new trace
at its parent, in the same commit; a put without a parent that is known starts one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Mapping
from operator import is_
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from eventstore import log, scopes
from eventstore.bases import Net
from eventstore.codec import Envelope, envelope, json_encode
from eventstore.errors import StorageError, TraceErased, TraceExists, TraceNotFound, WrongExpectedVersion
from eventstore.event import TraceForked, TraceStarted
from eventstore.fold import apply, apply_control
from eventstore.link import between
from eventstore.pending import Pending, Statement
from eventstore.policy import AdaptiveFold
from eventstore.recent import Recent
from eventstore.reduce import ReducerRegistry
from eventstore.scopes import ScopeCheckpoint, ScopeKey
from eventstore.store import Store
from eventstore.trace import Trace
from eventstore.windows import Snapshot, Windows, size_bytes
from eventstore.writer import Append

from .beginning import Origin, begun, first_append
from .bodies import checkpoint_data, nodes_of
from .channels import ChannelDraft
from .values import Serializer, change_of

LINES = 256
LINES_BYTES = 64 * 1024 * 1024
"""How many lines are remembered, and how much their states may hold together."""
WRITTEN = 256
FIXED = frozenset((str, int, float, bool, bytes, type(None)))
"""Types of values that cannot be edited in place."""
GIVEN = 32
"""Of how many checkpoints, handed out for a run to go on from, the items of lists are remembered."""
ATTEMPTS = 16
LINE_POLICY = AdaptiveFold(max_link_bytes=65_536)
"""Shorter links than by default: here they are made in memory, of states that share what did not change."""
PARENT_GONE = "the history to fork from is gone"
"""What the guard of the trace table says."""
_NOTHING: Mapping[str, Any] = {}
Items = dict[str, "Remembered"]
Commit = Callable[[ScopeKey, Append, Trace | None], object]


class Remembered:
    """The items of a list as they were handed over.

    >>> one, two = object(), object()
    >>> before = Remembered([one])
    >>> before.begins([one, two]), Remembered([one, two], before).holds([two])
    (True, True)
    """

    __slots__ = ("_ids", "items")

    def __init__(self, items: list[Any], before: Remembered | None = None) -> None:
        """`before`: of the list that it has grown from, whose identities it takes over."""
        self.items = tuple(items)
        self._ids: set[int] | None = None if before is None else before._ids
        if before is not None and self._ids is not None:
            self._ids.update(map(id, items[len(before.items) :]))

    def begins(self, items: list[Any]) -> bool:
        """Whether these very items begin a list."""
        return len(items) >= len(self.items) and all(map(is_, self.items, items))

    def holds(self, objects: list[Any]) -> bool:
        """Whether one of these objects is an item."""
        if not objects:
            return False
        if self._ids is None:
            self._ids = set(map(id, self.items))
        return any(id(each) in self._ids for each in objects)


class Line(NamedTuple):
    """A line of checkpoints as this process knows it.

    `scope`: the scope's row id; `name`, `seq`: its last checkpoint; `items`: of the lists then; `base`: where the
    newest base stands, and the state there, of which the next one is made.
    """

    trace: Trace
    scope: int
    name: str
    seq: int
    items: Items
    base: tuple[int, Snapshot] | None = None


def label_of(key: ScopeKey) -> str:
    """The name of a scope's traces.

    >>> label_of(ScopeKey("langgraph", "t1", "child:1"))
    't1:child:1'
    """
    return f"{key.thread_id}:{key.namespace}" if key.namespace else key.thread_id


class Put:
    """A checkpoint on its way into the log. `changed`: channels that are to be looked at, whatever their version."""

    __slots__ = ("changed", "checkpoint", "metadata", "parent", "run_id")

    def __init__(
        self,
        checkpoint: Mapping[str, Any],
        metadata: Mapping[str, Any],
        parent: str | None,
        changed: Container[str] = (),
    ) -> None:
        self.checkpoint = checkpoint
        self.changed = changed
        self.metadata = metadata
        self.parent = parent
        run_id = metadata.get("run_id")
        self.run_id = run_id if isinstance(run_id, str) else None

    def row(self, scope: int | None, seq: int, data: list[Any]) -> Statement:
        """Its row, beside its commit."""
        metadata = data[4] if len(data) > 4 else {}
        text = json_encode(metadata).decode() if type(metadata) is dict else None
        return scopes.checkpoint_put(scope, self.checkpoint["id"], self.parent, seq, self.run_id, text)


class Lines:
    """The lines of one store. Thread-safe: puts of one scope go one after the other.

    `exact`: find what became of a list by its bytes, not by the identity of its items. `commit`: what commits a
    checkpoint of a scope to its line, perhaps with more.
    """

    def __init__(self, store: Store, windows: Windows, exact: bool, commit: Commit) -> None:
        self._store = store
        self._commit = commit
        self._windows = windows
        self._exact = exact
        self._policy = LINE_POLICY if store.fold_policy == AdaptiveFold() else store.fold_policy
        self._lock = threading.Lock()
        self._lines = Recent[ScopeKey, Line](LINES, LINES_BYTES)
        self._given = Recent[tuple[int | None, int | None], Items](GIVEN, LINES_BYTES)
        self._written = Recent[tuple[ScopeKey, str], list[Any]](WRITTEN, LINES_BYTES)
        self._scope_locks: WeakValueDictionary[ScopeKey, Any] = WeakValueDictionary()

    def remember(self, row: ScopeCheckpoint, values: Mapping[str, Any], size: int) -> None:
        """A run may be about to go on from this checkpoint, with these very values, of about `size` bytes."""
        items = {channel: Remembered(value) for channel, value in values.items() if type(value) is list}
        with self._lock:
            self._given.keep((row.trace, row.seq), items, size)

    def written(self, key: ScopeKey, name: str, values: Iterable[Any]) -> None:
        """A task writes these values after that checkpoint: items of theirs that are old ones may have been edited."""
        with self._lock:
            known = self._written.get((key, name)) or []
            for value in values:
                known.extend(each for each in (value if type(value) is list else [value]) if type(each) not in FIXED)
            self._written.keep((key, name), known, 0)

    def forget(self, key: ScopeKey) -> None:
        """What is remembered of the line may be gone."""
        with self._lock:
            self._lines.pop(key)

    def put(self, serde: Serializer, key: ScopeKey, put: Put) -> None:
        """Commit a checkpoint. Raises ValueRefused, storage errors, and what the serializer raises."""
        with self._scope_lock(key):
            for attempt in range(ATTEMPTS):
                try:
                    line = None if put.parent is None else self._line(key, put.parent)
                    if line is not None:
                        self._extend(serde, key, put, line)
                    else:
                        self._begin(serde, key, put)
                    return
                except (WrongExpectedVersion, TraceErased, TraceNotFound, TraceExists, StorageError) as error:
                    is_known = not isinstance(error, StorageError) or PARENT_GONE in str(error)
                    if not is_known or attempt == ATTEMPTS - 1:
                        raise
                    self.forget(key)  # another process was faster: look again where the parent stands

    def _scope_lock(self, key: ScopeKey) -> Any:
        with self._lock:
            found = self._scope_locks.get(key)
            if found is None:
                found = self._scope_locks[key] = threading.RLock()
            return found

    def _line(self, key: ScopeKey, parent: str) -> Line | None:
        """The line whose last checkpoint is the parent; None where there is none."""
        with self._lock:
            line = self._lines.get(key)
        if line is not None and line.name == parent:
            return line
        row = self._row(key, parent)
        return None if row is None else self._opened(key, row)

    def _row(self, key: ScopeKey, name: str) -> ScopeCheckpoint | None:
        with self._store._database.reader() as connection:
            return scopes.named(connection, key, name)

    def _opened(self, key: ScopeKey, row: ScopeCheckpoint) -> Line | None:
        """The line of a checkpoint, where that is its last and the line this scope's own: a copy has its source's."""
        if row.trace is None or row.seq is None:
            return None
        with self._store._database.reader() as connection:
            try:
                found = log.trace_by_row(connection, row.trace)
                head = log.head(connection, found)
            except TraceNotFound:
                return None
        if head.version != row.seq:
            return None
        trace = Trace(self._store, found, head, ReducerRegistry())
        if trace.control.get("scope") != list(key):
            return None
        return Line(trace, row.scope, row.name, row.seq, {})

    def _extend(self, serde: Serializer, key: ScopeKey, put: Put, line: Line) -> None:
        trace = line.trace
        state, control = trace._live(), trace._control
        draft = ChannelDraft(state)
        items = self._draft(serde, key, draft, put, state, control, line.items, self._taken(trace._row.id, line.seq))
        data = checkpoint_data(serde, put.checkpoint, put.metadata, control, follows=True, parent=None)
        events = [Envelope("node_executed", {"node": nodes_of(data)}), Envelope("checkpoint_put", data)]
        wire = [*draft.body(), *events]
        seq = line.seq + len(wire)
        pending = trace._prepare(wire, draft, events, line.seq, None, opaque=True, policy=self._policy)
        pending.extras.append(put.row(line.scope, seq, data))
        if pending.fold is not None and pending.fold.kind == "link" and line.base is not None:
            pending.net = _net(line.base, state, control, pending, trace._tail_bytes)
        self._commit(key, pending, trace)
        now = _copied(state, control)
        self._windows.keep(trace._row.id, seq, now)
        base = line.base if pending.folded is None else (seq, now)
        self._keep(key, Line(trace, line.scope, put.checkpoint["id"], seq, items, base))

    def _begin(self, serde: Serializer, key: ScopeKey, put: Put) -> None:
        """A new trace: a fork at the parent, or one of its own where no parent is known."""
        parent = None if put.parent is None else self._row(key, put.parent)
        label, control, state = label_of(key), _NOTHING, _NOTHING
        given: Items = {}
        origin: Origin | None = None
        if parent is not None and parent.trace is not None and parent.seq is not None:
            state, control = self._windows.at(parent.trace, parent.seq)
            given = self._taken(parent.trace, parent.seq)
            with self._store._database.reader() as connection:
                parent_trace = log.trace_by_row(connection, parent.trace)
                owner = log.lineage(connection, parent_trace, parent.seq)[-1].trace
                origin = Origin(owner, log.boundary(connection, parent_trace, parent.seq))
            first = envelope(TraceForked(label, parent_trace.trace_id, parent.seq))
        else:
            first = envelope(TraceStarted(label, {}))
        draft = ChannelDraft(state)
        items = self._draft(serde, key, draft, put, state, control, {}, given)
        follows = origin is not None
        named = None if follows else put.parent
        data = checkpoint_data(serde, put.checkpoint, put.metadata, control, follows=follows, parent=named)
        events = [Envelope("node_executed", {"node": nodes_of(data)}), Envelope("checkpoint_put", data)]
        if control.get("scope") != list(key):
            events.insert(0, Envelope("scope_entered", list(key)))
        wire = [first, *draft.body(), *events]
        append = first_append(self._store._database.chain, label, wire, origin)
        seq = append.expected_version + len(wire)
        append.extras = [*scopes.entered(key), put.row(None, seq, data)]
        self._commit(key, append, None)
        found = begun(self._store, key, append)
        if found is not None:
            scope, trace = found
            self._keep(key, Line(trace, scope, put.checkpoint["id"], seq, items))

    def _draft(
        self,
        serde: Serializer,
        key: ScopeKey,
        draft: ChannelDraft,
        put: Put,
        state: Mapping[str, Any],
        control: Mapping[str, Any],
        before_it: Items,
        given: Items,
    ) -> Items:
        """Draft what the checkpoint changes; gives the items of its lists, to be remembered.

        An old item that a task of this superstep wrote may have been edited in place, and so may any where the writes
        are not known: then lists are compared by their bytes.
        """
        with self._lock:
            written = None if put.parent is None else self._written.pop((key, put.parent))
        values, versions = put.checkpoint["channel_values"], put.checkpoint["channel_versions"]
        versions_before = control.get("versions", _NOTHING)
        items: Items = {}
        for channel, value in values.items():
            before, version = state.get(channel), versions.get(channel)
            was = None if self._exact else _latest(value, before_it.get(channel), given.get(channel))
            stayed = version is not None and versions_before.get(channel) == version
            if before is not None and stayed and channel not in put.changed:
                if was is not None:
                    items[channel] = was
                continue
            is_trusted = was is not None and written is not None and not was.holds(written)
            grown = was is not None and type(value) is list and was.begins(value)
            for op, changed in change_of(serde, before, was.items if was and is_trusted else None, value, grown):
                draft.change(channel, op, changed)
            if type(value) is list:
                items[channel] = Remembered(value, was if grown else None)
        for channel in state:
            if channel not in values:
                draft.drop(channel)
        return items

    def _taken(self, trace: int, seq: int) -> Items:
        with self._lock:
            return self._given.pop((trace, seq)) or {}

    def _keep(self, key: ScopeKey, line: Line) -> None:
        size = 0 if line.trace._state is None else size_bytes(line.trace._state)
        with self._lock:
            self._lines.keep(key, line, size)


def _latest(value: Any, before_it: Remembered | None, given: Remembered | None) -> Remembered | None:
    """The items that the list was made of: the run's own, or those that it was given when it went on from here."""
    if type(value) is not list or given is None or before_it is None:
        return before_it if given is None else given
    own = before_it.items
    return before_it if value and own and value[0] is own[0] else given


def _copied(state: Mapping[str, Any], control: Mapping[str, Any]) -> Snapshot:
    """The live state as it is now: what the next commits extend in place is copied."""
    return Snapshot(dict(state), {key: dict(value) if type(value) is dict else value for key, value in control.items()})


def _net(
    base: tuple[int, Snapshot], state: Mapping[str, Any], control: Mapping[str, Any], pending: Pending, tail_bytes: int
) -> Net | None:
    """The link from the base to the state after this commit; nothing of it is read from the log."""
    after = _copied(state, control)
    for key, op, value in pending.live:
        apply(after.state, key, op, value)
    for key, op, value in pending.control:
        apply_control(after.control, key, op, value)
    link = between(base[1], after)
    if link is None:
        return None
    covered = tail_bytes + pending.size_bytes
    body = link.encode(covered)
    if len(body) > covered:  # a long list that was cut: what the log says of it is shorter
        return None
    return Net(base[0], body, covered, after.control["steps"])
