"""Every error says what was asked, where, and what is true, and carries the values as attributes.

All inherit from `EventStoreError`. Two families keep the names of the model: `StateError` (a delta
and a state do not fit) and `CheckpointStoreError` (storage, not found, corrupted).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


def _rebuild(cls: type[EventStoreError], args: tuple[Any, ...], attributes: dict[str, Any]) -> EventStoreError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(attributes)
    return error


class EventStoreError(Exception):
    """Root of every error this package raises on purpose.

    >>> issubclass(WrongExpectedVersion, EventStoreError)
    True
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class ValueRefused(EventStoreError, ValueError):
    """A value (or key) that the log cannot hold exactly; nothing was written.

    Attributes: `path` (str, like `messages[3].score`), `reason` (str).

    >>> print(ValueRefused("a.b", "NaN is not a JSON value"))
    value at 'a.b' refused: NaN is not a JSON value
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"value at {path!r} refused: {reason}")
        self.path = path
        self.reason = reason


class WrongExpectedVersion(EventStoreError):
    """Optimistic concurrency: another writer was first; nothing was written.

    Attributes: `trace_id` (str), `actual` (int, the trace's version), `expected` (int).

    >>> print(WrongExpectedVersion("t1", actual=12, expected=10))
    trace t1 is at version 12, append expected 10
    """

    def __init__(self, trace_id: str, actual: int, expected: int) -> None:
        super().__init__(f"trace {trace_id} is at version {actual}, append expected {expected}")
        self.trace_id = trace_id
        self.actual = actual
        self.expected = expected


class AppendIdReused(EventStoreError):
    """An `append_id` that the trace already holds came again with other deltas.

    Attributes: `trace_id` (str), `append_id` (str), `first_seq` (int, where it stands).

    >>> print(AppendIdReused("t1", "job-7", 5))
    append_id 'job-7' of trace t1 stands at seq 5 with other deltas
    """

    def __init__(self, trace_id: str, append_id: str, first_seq: int) -> None:
        super().__init__(f"append_id {append_id!r} of trace {trace_id} stands at seq {first_seq} with other deltas")
        self.trace_id = trace_id
        self.append_id = append_id
        self.first_seq = first_seq


class TraceNotFound(EventStoreError, LookupError):
    """No trace of that id in this file. Attribute: `trace_id` (str).

    >>> print(TraceNotFound("t1"))
    no trace t1 in this store
    """

    def __init__(self, trace_id: str) -> None:
        super().__init__(f"no trace {trace_id} in this store")
        self.trace_id = trace_id


class TraceExists(EventStoreError):
    """`start(id=…)` met a trace of that id. Attributes: `trace_id` (str), `version` (int).

    >>> print(TraceExists("t1", 4))
    trace t1 exists, at version 4
    """

    def __init__(self, trace_id: str, version: int) -> None:
        super().__init__(f"trace {trace_id} exists, at version {version}")
        self.trace_id = trace_id
        self.version = version


class TraceErased(EventStoreError):
    """The trace was erased; only its tombstone is left. Attribute: `trace_id` (str).

    >>> print(TraceErased("t1"))
    trace t1 was erased
    """

    def __init__(self, trace_id: str) -> None:
        super().__init__(f"trace {trace_id} was erased")
        self.trace_id = trace_id


class MalformedDump(EventStoreError, ValueError):
    """A line of a dump that cannot be loaded; what stood before it in its trace stays loaded.

    Attributes: `line` (int, 1-based), `reason` (str), `trace_id` (str | None), `seq` (int | None, the first one
    that is not loaded).

    >>> print(MalformedDump(12, "the digest is not that of the line", "t1", 40))
    line 12: trace t1, seq 40: the digest is not that of the line
    """

    def __init__(self, line: int, reason: str, trace_id: str | None = None, seq: int | None = None) -> None:
        where = "" if trace_id is None else f"trace {trace_id}: " if seq is None else f"trace {trace_id}, seq {seq}: "
        super().__init__(f"line {line}: {where}{reason}")
        self.line = line
        self.reason = reason
        self.trace_id = trace_id
        self.seq = seq


class TraceDiffers(EventStoreError):
    """The store has a trace of that id with another history; nothing of it was changed.

    Attributes: `trace_id` (str), `seq` (int, the first one that differs), `reason` (str).

    >>> print(TraceDiffers("t1", 7, "another commit stands there"))
    trace t1 differs from the one in the store at seq 7: another commit stands there
    """

    def __init__(self, trace_id: str, seq: int, reason: str) -> None:
        super().__init__(f"trace {trace_id} differs from the one in the store at seq {seq}: {reason}")
        self.trace_id = trace_id
        self.seq = seq
        self.reason = reason


class TraceEndedError(EventStoreError):
    """A step or decision came after the trace's end. Attributes: `trace_id`, `status` (str).

    >>> print(TraceEndedError("t1", "completed"))
    trace t1 has ended (completed)
    """

    def __init__(self, trace_id: str, status: str) -> None:
        super().__init__(f"trace {trace_id} has ended ({status})")
        self.trace_id = trace_id
        self.status = status


class SeqOutOfRange(EventStoreError, LookupError):
    """A seq that the trace does not have. Attributes: `trace_id` (str), `seq`, `version` (int).

    >>> print(SeqOutOfRange("t1", 9, 4))
    trace t1 has seqs 1 to 4, asked for 9
    """

    def __init__(self, trace_id: str, seq: int, version: int) -> None:
        super().__init__(f"trace {trace_id} has seqs 1 to {version}, asked for {seq}")
        self.trace_id = trace_id
        self.seq = seq
        self.version = version


class Trimmed(SeqOutOfRange):
    """The history before the trace's root was trimmed. Adds `root_seq` (int).

    >>> print(Trimmed("t1", 3, 90, root_seq=40))
    trace t1 was trimmed at seq 40, asked for 3
    """

    def __init__(self, trace_id: str, seq: int, version: int, root_seq: int) -> None:
        super().__init__(trace_id, seq, version)
        self.args = (f"trace {trace_id} was trimmed at seq {root_seq}, asked for {seq}",)
        self.root_seq = root_seq


class PlaceNotFound(EventStoreError, LookupError):
    """A trace has no such place. Attributes: `trace_id` (str), `place` (str, what was asked for), `reason` (str).

    >>> print(PlaceNotFound("t1", "step:9", "it has steps 1 to 4"))
    trace t1 has no place 'step:9': it has steps 1 to 4
    """

    def __init__(self, trace_id: str, place: str, reason: str) -> None:
        super().__init__(f"trace {trace_id} has no place {place!r}: {reason}")
        self.trace_id = trace_id
        self.place = place
        self.reason = reason


class NotAStepBoundary(EventStoreError, ValueError):
    """Fork, trim and checkpoint happen between steps only.

    Attributes: `trace_id` (str), `seq` (int), `before`, `after` (int, the nearest boundaries).

    >>> print(NotAStepBoundary("t1", 7, before=5, after=9))
    seq 7 of trace t1 is inside a step; the nearest boundaries are 5 and 9
    """

    def __init__(self, trace_id: str, seq: int, before: int, after: int) -> None:
        super().__init__(
            f"seq {seq} of trace {trace_id} is inside a step; the nearest boundaries are {before} and {after}"
        )
        self.trace_id = trace_id
        self.seq = seq
        self.before = before
        self.after = after


class RetentionBlocked(EventStoreError):
    """Trim or erase would lose something that is still needed; nothing was removed.

    Attributes: `trace_id` (str), `blockers` (tuple of str, each one named).

    >>> print(RetentionBlocked("t1", ["fork t2 at seq 9"]))
    trace t1 cannot be trimmed or erased: fork t2 at seq 9
    """

    def __init__(self, trace_id: str, blockers: Sequence[str]) -> None:
        super().__init__(f"trace {trace_id} cannot be trimmed or erased: {'; '.join(blockers)}")
        self.trace_id = trace_id
        self.blockers = tuple(blockers)


class BarrierError(EventStoreError):
    """A decision that does not fit: unknown barrier, or decided already.

    Attributes: `trace_id`, `barrier_id` (str).

    >>> print(BarrierError("t1", "approve#1", "it was decided at seq 9"))
    barrier approve#1 of trace t1: it was decided at seq 9
    """

    def __init__(self, trace_id: str, barrier_id: str, reason: str) -> None:
        super().__init__(f"barrier {barrier_id} of trace {trace_id}: {reason}")
        self.trace_id = trace_id
        self.barrier_id = barrier_id


class BarrierExpired(BarrierError):
    """A decision at or past the deadline; the barrier's default was applied instead.

    Attributes: `trace_id`, `barrier_id` (str), `default` (the decision that stands).

    >>> print(BarrierExpired("t1", "approve#1", "2026-03-01 12:00:00 UTC", "reject"))
    barrier approve#1 of trace t1: its deadline, 2026-03-01 12:00:00 UTC, has passed; the default (reject) stands
    """

    def __init__(self, trace_id: str, barrier_id: str, deadline: str, default: Any) -> None:
        action = getattr(type(default), "__struct_config__", None)
        named = default if action is None else action.tag
        super().__init__(trace_id, barrier_id, f"its deadline, {deadline}, has passed; the default ({named}) stands")
        self.default = default


class StateMutated(EventStoreError):
    """Strict mode: a value of the live state was changed in place, without a delta.

    Attributes: `trace_id`, `key` (str).

    >>> print(StateMutated("t1", "messages"))
    trace t1: the live value of 'messages' was changed in place, without a delta
    """

    def __init__(self, trace_id: str, key: str) -> None:
        super().__init__(f"trace {trace_id}: the live value of {key!r} was changed in place, without a delta")
        self.trace_id = trace_id
        self.key = key


class GraphInvalid(EventStoreError, ValueError):
    """A graph does not hold together. Attributes: `graph` (str), `errors` (tuple of str, all of them).

    >>> print(GraphInvalid("refund", ["no start", "edge from 'a' to 'b': no node 'b'"]))
    graph refund: no start; edge from 'a' to 'b': no node 'b'
    """

    def __init__(self, graph: str, errors: Sequence[str]) -> None:
        super().__init__(f"graph {graph}: {'; '.join(errors)}")
        self.graph = graph
        self.errors = tuple(errors)


class GraphHashMismatch(EventStoreError):
    """A run was recorded with another graph than the one it is resumed with.

    Attributes: `trace_id`, `recorded`, `current` (str, the two hashes), `changes` (tuple of str).

    >>> print(GraphHashMismatch("t1", "9f0c", "77aa", ["node 'pay' is gone"]))
    trace t1 ran with graph 9f0c, this one is 77aa: node 'pay' is gone
    """

    def __init__(self, trace_id: str, recorded: str, current: str, changes: Sequence[str]) -> None:
        told = "; ".join(changes) or "what the first one looked like is not recorded"
        super().__init__(f"trace {trace_id} ran with graph {recorded}, this one is {current}: {told}")
        self.trace_id = trace_id
        self.recorded = recorded
        self.current = current
        self.changes = tuple(changes)


class RunOwned(EventStoreError):
    """Another runner works on this run. Attributes: `trace_id`, `owner` (str, pid@host).

    >>> print(RunOwned("t1", "4711@laptop"))
    trace t1 is being run by 4711@laptop
    """

    def __init__(self, trace_id: str, owner: str) -> None:
        super().__init__(f"trace {trace_id} is being run by {owner}")
        self.trace_id = trace_id
        self.owner = owner


class Fenced(EventStoreError):
    """An append of an owner that lost the run to another one; nothing was written.

    Attributes: `trace_id` (str), `epoch` (int, of the append), `current` (int or None, of the run).

    >>> print(Fenced("t1", 2, 3))
    trace t1 was taken over: this owner has epoch 2, the run is at 3
    """

    def __init__(self, trace_id: str, epoch: int, current: int | None) -> None:
        stands = "has no owner now" if current is None else f"is at {current}"
        super().__init__(f"trace {trace_id} was taken over: this owner has epoch {epoch}, the run {stands}")
        self.trace_id = trace_id
        self.epoch = epoch
        self.current = current


class CrashLoop(EventStoreError):
    """Owner after owner of this run died without getting anything done.

    Attributes: `trace_id` (str), `ownerships` (int), `node` (str or None, where they died).

    >>> print(CrashLoop("t1", 5, "pay"))
    trace t1: 5 owners in a row died at node 'pay'; resume it with force=True to try again
    """

    def __init__(self, trace_id: str, ownerships: int, node: str | None) -> None:
        super().__init__(
            f"trace {trace_id}: {ownerships} owners in a row died at node {node!r};"
            " resume it with force=True to try again"
        )
        self.trace_id = trace_id
        self.ownerships = ownerships
        self.node = node


class InputDiffers(EventStoreError, ValueError):
    """`run(id=…)` met a run of that id that was started with another state.

    Attributes: `trace_id` (str), `keys` (tuple of str, those that differ).

    >>> print(InputDiffers("t1", ["total"]))
    trace t1 was started with another state; it differs in 'total'
    """

    def __init__(self, trace_id: str, keys: Sequence[str]) -> None:
        named = ", ".join(map(repr, keys))
        super().__init__(f"trace {trace_id} was started with another state; it differs in {named}")
        self.trace_id = trace_id
        self.keys = tuple(keys)


class RunFailed(EventStoreError):
    """A run ended as failed; its cause is the node's exception where this process saw it.

    Attributes: `trace_id`, `node` (str or None), `reason` (str). `resume` tries the node again.

    >>> print(RunFailed("t1", "pay", "ConnectionError: bank unreachable"))
    trace t1 failed at node 'pay': ConnectionError: bank unreachable
    """

    def __init__(self, trace_id: str, node: str | None, reason: str) -> None:
        where = "" if node is None else f" at node {node!r}"
        super().__init__(f"trace {trace_id} failed{where}: {reason}")
        self.trace_id = trace_id
        self.node = node
        self.reason = reason


class NoRoute(EventStoreError):
    """A node ran, and no edge leads on from it. Attributes: `node`, `reason` (str).

    >>> print(NoRoute("plan", "none of its 2 conditions holds"))
    no way on from node 'plan': none of its 2 conditions holds
    """

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"no way on from node {node!r}: {reason}")
        self.node = node
        self.reason = reason


class MaxStepsExceeded(EventStoreError):
    """A run reached the step limit of its graph. Attributes: `trace_id` (str), `max_steps` (int).

    >>> print(MaxStepsExceeded("t1", 100))
    trace t1 reached max_steps=100
    """

    def __init__(self, trace_id: str, max_steps: int) -> None:
        super().__init__(f"trace {trace_id} reached max_steps={max_steps}")
        self.trace_id = trace_id
        self.max_steps = max_steps


class NodeTimeout(EventStoreError, TimeoutError):
    """A node did not end in time; its late writes raise this too. Attributes: `path` (str), `timeout_s` (float).

    >>> print(NodeTimeout("search", 2.5))
    node 'search' did not end within 2.5 s
    """

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__(f"node {path!r} did not end within {timeout_s:g} s")
        self.path = path
        self.timeout_s = timeout_s


class DeliveryFailed(EventStoreError):
    """An exporter did not take a batch of spans; those before it stay delivered.

    Attributes: `exporter`, `reason` (str, empty where the exporter gave none), `delivered` (int, spans).

    >>> print(DeliveryFailed("OTLPSpanExporter", 512, "no route to host"))
    OTLPSpanExporter did not take a batch of spans, after 512 that it took: no route to host
    """

    def __init__(self, exporter: str, delivered: int, reason: str = "") -> None:
        why = f": {reason}" if reason else ""
        super().__init__(f"{exporter} did not take a batch of spans, after {delivered:,} that it took{why}")
        self.exporter = exporter
        self.delivered = delivered
        self.reason = reason


class StateError(EventStoreError):
    """A delta and a state do not fit together. Attribute: `key` (str).

    >>> issubclass(StateConflict, StateError)
    True
    """

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class MissingKey(StateError, KeyError):
    """The state has no such key. Attribute: `key` (str).

    >>> print(MissingKey("spent"))
    the state has no key 'spent'
    """

    def __init__(self, key: str) -> None:
        super().__init__(key, f"the state has no key {key!r}")

    __str__ = Exception.__str__


class Deserialize(StateError, ValueError):
    """A stored value does not have the type asked for. Attributes: `key`, `reason` (str).

    >>> print(Deserialize("spent", "Expected `str`, got `int`"))
    value of 'spent' does not fit the type asked for: Expected `str`, got `int`
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, f"value of {key!r} does not fit the type asked for: {reason}")
        self.reason = reason


class ReducerConflict(StateError, TypeError):
    """A reducer cannot take this value, or a custom reducer is not at hand.

    Attributes: `key`, `reducer`, `reason` (str).

    >>> print(ReducerConflict("spent", "sum", "'a' is not a number"))
    reducer sum of 'spent': 'a' is not a number
    """

    def __init__(self, key: str, reducer: str, reason: str) -> None:
        super().__init__(key, f"reducer {reducer} of {key!r}: {reason}")
        self.reducer = reducer
        self.reason = reason


class DeltaApply(StateError, TypeError):
    """A delta does not apply to the value it meets. Attributes: `key`, `op`, `reason` (str).

    >>> print(DeltaApply("messages", "append", "the value is a number, not a list"))
    append of 'messages' does not apply: the value is a number, not a list
    """

    def __init__(self, key: str, op: str, reason: str) -> None:
        super().__init__(key, f"{op} of {key!r} does not apply: {reason}")
        self.op = op
        self.reason = reason


class StateConflict(StateError):
    """Sibling branches wrote one key and nothing says how to merge them.

    Attributes: `key` (str), `writers` (tuple of str, in declared order).

    >>> print(StateConflict("plan", ["search", "ask"]))
    key 'plan' was written by branches 'search' and 'ask' and has no reducer
    """

    def __init__(self, key: str, writers: Sequence[str]) -> None:
        named = " and ".join(repr(writer) for writer in writers)
        super().__init__(key, f"key {key!r} was written by branches {named} and has no reducer")
        self.writers = tuple(writers)


class CheckpointStoreError(EventStoreError):
    """What a checkpoint store can fail with: `Storage`, `NotFound`, `Corrupted`.

    >>> CheckpointStoreError.NotFound is CheckpointNotFound
    True
    """

    Storage: ClassVar[type[StorageError]]
    NotFound: ClassVar[type[CheckpointNotFound]]
    Corrupted: ClassVar[type[CheckpointCorrupted]]


class StorageError(CheckpointStoreError):
    """The file could not be read or written. Attribute: `path` (str).

    >>> print(StorageError("runs.db", "disk full; nothing was written"))
    runs.db: disk full; nothing was written
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class CheckpointNotFound(CheckpointStoreError, LookupError):
    """No checkpoint of that id. Attribute: `checkpoint_id` (str).

    >>> print(CheckpointNotFound("c1"))
    no checkpoint c1 in this store
    """

    def __init__(self, checkpoint_id: str) -> None:
        super().__init__(f"no checkpoint {checkpoint_id} in this store")
        self.checkpoint_id = checkpoint_id


class CheckpointCorrupted(CheckpointStoreError):
    """A checkpoint does not hold together. Attributes: `checkpoint_id`, `reason` (str).

    >>> print(CheckpointCorrupted("c1", "base and deltas do not give its state"))
    checkpoint c1 is corrupted: base and deltas do not give its state
    """

    def __init__(self, checkpoint_id: str, reason: str) -> None:
        super().__init__(f"checkpoint {checkpoint_id} is corrupted: {reason}")
        self.checkpoint_id = checkpoint_id
        self.reason = reason


CheckpointStoreError.Storage = StorageError
CheckpointStoreError.NotFound = CheckpointNotFound
CheckpointStoreError.Corrupted = CheckpointCorrupted


class StoreClosed(StorageError):
    """The store was closed, or belongs to the process that forked this one.

    >>> print(StoreClosed("runs.db", "the store is closed"))
    runs.db: the store is closed
    """


class StoreBusy(StorageError):
    """Other processes held the write lock for the whole `busy_timeout_ms`; nothing was written.

    >>> print(StoreBusy("runs.db", "locked for 10000 ms; nothing was written"))
    runs.db: locked for 10000 ms; nothing was written
    """


class StoreHalted(StorageError):
    """After an I/O error every later call raises: what the disk holds is not known.

    Reopen the store and append again with the same `append_id` and `expected_version`
    to learn whether the append that failed had landed. Attributes: `reason`, `trace_id` (str or None),
    `append_id` (str, int or None), `expected_version` (int or None).

    >>> print(StoreHalted("runs.db", "disk I/O error"))
    runs.db: halted after an I/O error (disk I/O error); reopen the store
    """

    def __init__(
        self,
        path: str,
        reason: str,
        trace_id: str | None = None,
        append_id: str | int | None = None,
        expected_version: int | None = None,
    ) -> None:
        super().__init__(path, f"halted after an I/O error ({reason}); reopen the store")
        self.reason = reason
        self.trace_id = trace_id
        self.append_id = append_id
        self.expected_version = expected_version


class StorageFull(StorageError):
    """The disk (or a quota) is full; nothing was written, and the store goes on when space returns.

    >>> print(StorageFull("runs.db", "the disk is full; nothing was written"))
    runs.db: the disk is full; nothing was written
    """


class NotAnEventStore(StorageError):
    """The file is no event store, or none that this version can open.

    >>> print(NotAnEventStore("notes.db", "an SQLite file of another application"))
    notes.db: an SQLite file of another application
    """


class ForeignSchema(NotAnEventStore):
    """A file says that it is an event store, and its tables, views or triggers are not those of one.

    Attributes: `path` (str), `object` (str, the first one that differs).

    >>> print(ForeignSchema("runs.db", "view traces", "is not the one that this version writes"))
    runs.db: it is not an event store of this version: its view traces is not the one that this version writes
    """

    def __init__(self, path: str, name: str, reason: str) -> None:
        super().__init__(path, f"it is not an event store of this version: its {name} {reason}")
        self.object = name


class FormatTooNew(NotAnEventStore):
    """A newer version of this package wrote the file. Attributes: `found`, `known` (int).

    >>> print(FormatTooNew("runs.db", found=9, known=3))
    runs.db: format 9 was written by a newer version; this one knows formats up to 3
    """

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(path, f"format {found} was written by a newer version; this one knows formats up to {known}")
        self.found = found
        self.known = known


class WrongChainKey(StorageError):
    """The digests of the file are keyed and the key is missing or another one, or they are not keyed at all.

    >>> print(WrongChainKey("runs.db", "its digests have a key, and this is another one"))
    runs.db: its digests have a key, and this is another one
    """


class FileCorrupted(StorageError):
    """Pages of the file are damaged; what does not stand on them can still be read.

    >>> print(FileCorrupted("runs.db", "database disk image is malformed"))
    runs.db: damaged (database disk image is malformed); `eventstore verify` names what, `salvage` saves the rest
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, f"damaged ({reason}); `eventstore verify` names what, `salvage` saves the rest")


class TooMuchWork(StorageError):
    """A read took more steps than an honest file of that size can need, and was stopped. Attribute: `path` (str).

    >>> print(TooMuchWork("runs.db"))
    runs.db: a read was stopped: no sound file of its size takes so much work (it is damaged, or a trap)
    """

    def __init__(self, path: str) -> None:
        reason = "no sound file of its size takes so much work (it is damaged, or a trap)"
        super().__init__(path, f"a read was stopped: {reason}")


class UnsupportedSQLite(StorageError):
    """The SQLite library is one that can corrupt a WAL file. Attributes: `found`, `needed` (str).

    >>> print(UnsupportedSQLite("runs.db", "3.50.0", "3.51.3"))
    runs.db: SQLite 3.50.0 can corrupt a log with two writers; 3.51.3 or later is needed (upgrade apsw)
    """

    def __init__(self, path: str, found: str, needed: str) -> None:
        super().__init__(
            path,
            f"SQLite {found} can corrupt a log with two writers; {needed} or later is needed (upgrade apsw)",
        )
        self.found = found
        self.needed = needed


class LogCorrupted(StorageError):
    """A row of the log cannot be read. Attributes: `trace_id` (str), `seq` (int, the first bad one).

    >>> print(LogCorrupted("runs.db", "t1", 7, "invalid JSON"))
    runs.db: trace t1 is damaged at seq 7: invalid JSON
    """

    def __init__(self, path: str, trace_id: str, seq: int, reason: str) -> None:
        super().__init__(path, f"trace {trace_id} is damaged at seq {seq}: {reason}")
        self.trace_id = trace_id
        self.seq = seq


class ExportRefused(StorageError):
    """The file to export to is none of this package's exports; it was not touched.

    >>> print(ExportRefused("notes.db", "it holds tables of another application; name a new file"))
    notes.db: it holds tables of another application; name a new file
    """


class BaseCorrupted(UserWarning):
    """A base failed its checksum: it was ignored, and is rebuilt from the log.

    >>> issubclass(BaseCorrupted, UserWarning)
    True
    """
