"""An open trace: a cursor at the head of one stream, with its live state.

Opening reads the head only; the state is restored on first need. An append is drafted and checked
without I/O (`_prepare`), committed by the writer, and then taken into the live state (`_acknowledge`):
the sync and the async face share all three. A handle whose trace another writer extended gets
`WrongExpectedVersion`; `refresh()` folds what is new.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4
from zlib import crc32

import msgspec

from . import chain, history
from .bases import Folded
from .checkpoint import Checkpoint, CheckpointTrigger
from .codec import Envelope, decode_rows, encode_body, envelope, json_encode, msgpack_encode
from .control import ENDED, control_deltas, pending_barriers, reducers
from .errors import (
    AppendIdReused,
    BarrierError,
    EventStoreError,
    MissingKey,
    StateMutated,
    TraceEndedError,
    WrongExpectedVersion,
)
from .event import (
    Approve,
    BarrierDecided,
    BarrierRaised,
    Decision,
    DeltaOp,
    DeltaSource,
    Event,
    Modify,
    NodeExecuted,
    Note,
    RecordedEvent,
    Reject,
    Reroute,
    StateDelta,
    TraceEnded,
)
from .fold import MISSING, apply
from .log import Head, LogRow, TraceRow
from .policy import FoldInput
from .record import ExecutionEntry, ExecutionMetadata, ExecutionTrace
from .reduce import Reducer, ReducerRegistry
from .step import Draft, LiveDelta, Step, converted, state_size_bytes
from .writer import DECIDE_BARRIER, PUT_CHECKPOINT, RAISE_BARRIER, SET_STATUS, TRACE_ROW, Append

if TYPE_CHECKING:
    from .store import Store

T = TypeVar("T")


class AnyVersion:
    """`expected_version=ANY`: append wherever the trace stands."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = AnyVersion()


class Appended(msgspec.Struct, frozen=True):
    """Where an append stands: its first and last seq; `duplicate`: it was there before (same `append_id`).

    >>> Appended(2, 4).version
    4
    """

    first_seq: int
    version: int
    duplicate: bool = False


class Pending:
    """An append and what its acknowledgement does to the live trace."""

    __slots__ = ("append", "control", "deltas", "growth_bytes", "live", "size_bytes")

    def __init__(
        self,
        append: Append,
        live: list[LiveDelta],
        control: list[tuple[str, str, Any]],
        growth: int,
        size: int,
    ) -> None:
        self.append = append
        self.live = live
        self.control = control
        self.growth_bytes = growth
        self.size_bytes = size


class Trace:
    """One run, open at its head. Made by `store.start` and `store.open_trace`, never directly.

    A handle may be shared by threads; two steps that overlap conflict like two processes would, and
    the second one to commit gets `WrongExpectedVersion`.
    """

    __slots__ = (
        "__weakref__",
        "_at_us",
        "_chain_bytes",
        "_control",
        "_digest",
        "_lock",
        "_prints",
        "_registry",
        "_row",
        "_state",
        "_state_bytes",
        "_store",
        "_tail_bytes",
        "_tail_deltas",
        "_tail_rows",
        "_version",
    )

    def __init__(self, store: Store, row: TraceRow, head: Head, registry: ReducerRegistry) -> None:
        self._store = store
        self._row = row
        self._version, self._digest, self._at_us = head
        self._registry = registry
        self._state: dict[str, Any] | None = None
        self._control: dict[str, Any] = {}
        self._chain_bytes = self._tail_bytes = self._tail_deltas = self._tail_rows = 0
        self._state_bytes = -1
        self._prints: dict[str, int] | None = None
        self._lock = threading.RLock()

    # What it is

    @property
    def id(self) -> str:
        """The trace's id."""
        return self._row.trace_id

    @property
    def name(self) -> str:
        """The name given at the start."""
        return self._row.name

    @property
    def version(self) -> int:
        """The last seq that this handle knows."""
        return self._version

    @property
    def state(self) -> Mapping[str, Any]:
        """The live state, read-only at the top: change it through steps. Raises LogCorrupted, TraceErased."""
        return MappingProxyType(self._live())

    @property
    def status(self) -> str:
        """running, waiting, completed, failed or cancelled."""
        self._live()
        return str(self._control.get("status", "running"))

    @property
    def graph_hash(self) -> str:
        """The graph's hash given at the start; empty without one."""
        self._live()
        return str(self._control.get("graph_hash", ""))

    @property
    def next_node(self) -> str | None:
        """The node to enter next, where one was recorded."""
        self._live()
        return self._control.get("next")

    @property
    def pending_barriers(self) -> list[str]:
        """The ids of the barriers that wait for a decision."""
        self._live()
        return pending_barriers(self._control)

    def get(self, key: str, default: Any = MISSING, *, type: type[T] | None = None) -> Any:
        """The live value of `key`; converted by msgspec to `type`. Raises MissingKey, Deserialize."""
        value = self._live().get(key, default)
        if value is MISSING:
            raise MissingKey(key)
        return converted(key, value, type)

    def __repr__(self) -> str:
        return f"Trace({self.id!r}, name={self.name!r}, version={self._version})"

    # Writing

    def step(
        self,
        node: str,
        metadata: ExecutionMetadata | None = None,
        *,
        next: str | None = None,
        append_id: str | None = None,
    ) -> Step:
        """One node execution, as a context manager: its writes commit together on leaving the block.

        `metadata`: what is known up front (final); the rest is measured. `next`: the node that follows.
        `append_id`: makes a retry of the whole step idempotent.

        On entry raises TraceEndedError; on leaving WrongExpectedVersion, StoreBusy, StorageFull,
        StoreHalted (nothing of the step is in the live state then), and StateMutated in strict mode.
        """
        return Step(self, node, metadata, next, append_id)

    def append(
        self,
        events: Sequence[Event],
        *,
        expected_version: int | AnyVersion | None = None,
        unless_changed_since: int | None = None,
        append_id: str | None = None,
    ) -> Appended:
        """Append events as one commit. Deltas are literal: no reducer is consulted.

        `expected_version`: the version the trace must be at; by default this handle's; `ANY` for
        wherever it stands. `unless_changed_since`: instead, a version after which only notes may have
        come. `append_id`: a second append of that id gives the first one's place and adds nothing.
        Raises WrongExpectedVersion, AppendIdReused, ValueRefused, DeltaApply and storage errors.
        """
        if not events:
            raise EventStoreError(f"trace {self.id}: an append needs at least one event")
        follow = expected_version is ANY or unless_changed_since is not None
        if isinstance(expected_version, int) and expected_version != self._version:
            self.refresh()
        while True:
            expected = self._version
            if unless_changed_since is not None:
                self._refuse_changes_since(unless_changed_since)
            elif isinstance(expected_version, int):
                expected = expected_version
            try:
                return self._commit(self._prepare_events(events, expected, append_id))
            except WrongExpectedVersion:
                if not follow:
                    raise
                self.refresh()

    def note(self, name: str, data: Any = None) -> Appended:
        """Record a fact that changes nothing; it goes in wherever the trace stands. Raises ValueRefused."""
        return self.append([Note(name, data)], expected_version=ANY)

    def end(self, status: str = "completed", error: str | None = None) -> None:
        """Close the trace as completed, failed or cancelled. Raises TraceEndedError, WrongExpectedVersion."""
        if status not in ENDED:
            raise ValueError(f"a trace ends {', '.join(sorted(ENDED))}, not {status!r}")
        expected, _ = self._begin()
        event = envelope(TraceEnded(status, error))
        marks = []
        if status == "completed" and self._store.checkpoint_policy.should_checkpoint_on_completion():
            marks.append((expected + 1, None, CheckpointTrigger.EXECUTION_COMPLETED))
        self._commit(self._prepare([event], None, [event], expected, None, marks=marks))

    def raise_barrier(
        self,
        node: str,
        *,
        prompt: str = "",
        keys: Sequence[str] = (),
        deadline_us: int | None = None,
        default: Decision | None = None,
    ) -> str:
        """Wait for a human at `node`; gives the barrier's id, `node#occurrence`. Raises WrongExpectedVersion."""
        expected, _ = self._begin()
        barrier_id = f"{node}#{self._control.get(f'raised/{node}', 0) + 1}"
        event = envelope(BarrierRaised(barrier_id, node, prompt, list(keys), deadline_us, default))
        self._commit(self._prepare([event], None, [event], expected, None))
        return barrier_id

    def decide(self, barrier: str, decision: Decision) -> str:
        """Decide a pending barrier, by id or by node when one is pending there; gives its id.

        The decision and its deltas are one commit, and the first decision wins. The state then tells of
        it under `NODE.approved`, `NODE.reject_reason` and `NODE.rerouted_to`.
        Raises BarrierError for an unknown or decided barrier.
        """
        while True:
            expected, draft = self._begin()
            barrier_id, node = self._find_barrier(barrier)
            event = envelope(BarrierDecided(barrier_id, node, decision))
            for key, value in _marks(node, decision).items():
                if value is not MISSING:
                    draft.write(key, DeltaOp.PUT, value, DeltaSource.HUMAN)
                elif key in self._live():
                    draft.write(key, DeltaOp.DELETE, None, DeltaSource.HUMAN)
            events = [event, *draft.body()]
            policy, marks = self._store.checkpoint_policy, []
            if policy.should_checkpoint_on_human_decision():
                marks.append((expected, node, CheckpointTrigger.HUMAN_DECISION))
            if policy.should_checkpoint_on_barrier():
                target = decision.target if isinstance(decision, Reroute) else None
                marks.append((expected + len(events), target, CheckpointTrigger.BARRIER_RESOLVED))
            try:
                self._commit(self._prepare(events, draft, [event], expected, None, marks=marks, sync=True))
                return barrier_id
            except WrongExpectedVersion:
                self.refresh()

    def checkpoint(self, node: str | None = None) -> Checkpoint:
        """Mark this place, `node` to be entered next, as one where the run can resume.

        A second checkpoint at one version is the first one with both triggers. Raises StateMutated.
        """
        self._live()
        self._check_mutation()
        return self._store.checkpoints.mark(self, node or self._control.get("next"), CheckpointTrigger.EXPLICIT)

    def refresh(self) -> int:
        """Take in what other writers appended; gives the version. Raises LogCorrupted, TraceErased."""
        with self._lock:
            if self._state is None:
                self._version, self._digest, self._at_us = self._store._head(self._row)
                return self._version
            found = self._store._news(self._row, self._version)
            for row in found:
                rows = decode_rows(row.body)
                for event in rows:
                    if event.kind == "delta":
                        apply(self._state, event.key, event.op, event.value)
                        self._tail_deltas += 1
                    else:
                        for key, op, value in control_deltas(event.kind, event.data):
                            apply(self._control, key, op, value)
                self._version, self._digest, self._at_us = row.last_seq, row.digest, row.at_us
                self._tail_rows += 1
                self._tail_bytes += len(row.body)
            if found:
                self._state_bytes = -1
                self._prints = None
            return self._version

    # Reading

    def events(self, after: int | None = None, upto: int | None = None) -> Iterator[RecordedEvent]:
        """The events with `after < seq <= upto`, in order, read in pages. Raises LogCorrupted, Trimmed."""
        return self._store.events(self.id, after=after, upto=upto)

    def entries(self) -> list[ExecutionEntry]:
        """Every execution of a node, failed ones included."""
        return self.execution_trace().entries

    def execution_trace(self) -> ExecutionTrace:
        """The whole trace as data: initial state, executions, deltas, decisions."""
        return history.execution_trace(self.id, self.events())

    # The three parts of an append

    def _live(self) -> dict[str, Any]:
        if self._state is None:
            with self._lock:
                if self._state is None:
                    self._load()
        return self._state  # type: ignore[return-value]

    def _load(self) -> None:
        head, restored = self._store._restore_head(self._row)
        self._version, self._digest, self._at_us = head
        self._control = restored.control
        for key, name in reducers(restored.control).items():
            if self._registry.get(key) is Reducer.ERROR:
                self._registry.register(key, name)
        self._chain_bytes = restored.chain_bytes
        self._tail_bytes, self._tail_rows = restored.tail_bytes, restored.tail_rows
        self._tail_deltas = restored.tail_events
        self._state = restored.state

    def _started(self, state: dict[str, Any], event: Envelope, size: int) -> None:
        """Take in the first event of a trace that was just started."""
        self._state = state
        for key, op, value in _moves(event):
            apply(self._control, key, op, value)
        self._tail_bytes, self._tail_rows, self._tail_deltas = size, 1, len(state)

    def _begin(self) -> tuple[int, Draft]:
        state = self._live()
        status = self._control.get("status")
        if status in ENDED:
            raise TraceEndedError(self.id, str(status))
        if self._store.strict:
            self._check_mutation()
        return self._version, Draft(state, self._registry, self._store.redact)

    def _prepare_step(
        self, executed: NodeExecuted, draft: Draft | None, expected: int, append_id: str | None
    ) -> Pending:
        wire = [] if draft is None else draft.body()
        if self._store.strict:
            self._check_mutation()
        event = Envelope("node_executed", executed)
        wire.append(event)
        marks: list[tuple[int, str | None, CheckpointTrigger]] = []
        policy = self._store.checkpoint_policy
        score = policy.score
        passed = executed.success and (
            score.duration_weight * executed.duration_ms
            + score.token_weight * executed.token_cost
            + (score.side_effect_weight if executed.has_side_effects else 0.0)
            >= score.threshold
        )
        if passed and self._store.marks_adaptively:
            metadata = ExecutionMetadata(executed.duration_ms, executed.token_cost, executed.has_side_effects)
            marks.append((expected + len(wire), executed.next, CheckpointTrigger.adaptive(metadata)))
        return self._prepare(wire, draft, [event], expected, append_id, marks=marks, score_passed=passed)

    def _prepare_events(self, events: Sequence[Event], expected: int, append_id: str | None) -> Pending:
        if append_id is None and expected != self._version:
            raise WrongExpectedVersion(self.id, self._version, expected)
        control = [envelope(event) for event in events if not isinstance(event, StateDelta)]
        draft = None
        if any(event.kind != "note" for event in control) or len(control) < len(events):
            _, draft = self._begin()
            self._check_control(control)
            for event in events:
                if isinstance(event, StateDelta):
                    draft.write(event.key, DeltaOp(event.op), event.value, event.source)
        deltas, others = iter([] if draft is None else draft.body()), iter(control)
        wire = [next(deltas if isinstance(event, StateDelta) else others) for event in events]
        return self._prepare(wire, draft, control, expected, append_id)

    def _check_control(self, events: list[Envelope]) -> None:
        """Refuse events that do not follow from where the trace stands."""
        control = dict(self._control)
        for event in events:
            if event.kind in ("trace_started", "trace_forked"):
                raise EventStoreError(f"trace {self.id}: {event.kind} is the first event, and only that")
            if control.get("status") in ENDED and event.kind != "note":
                raise TraceEndedError(self.id, control["status"])
            if event.kind == "barrier_raised":
                barrier_id = f"{event.data['node']}#{control.get('raised/' + event.data['node'], 0) + 1}"
                if event.data["barrier_id"] != barrier_id:
                    raise BarrierError(self.id, event.data["barrier_id"], f"the next one there is {barrier_id}")
            elif event.kind == "barrier_decided" and f"barrier/{event.data['barrier_id']}" not in control:
                raise BarrierError(self.id, event.data["barrier_id"], "it is not pending")
            for key, op, value in control_deltas(event.kind, event.data):
                apply(control, key, op, value)

    def _prepare(
        self,
        wire: list[Any],
        draft: Draft | None,
        control: list[Envelope],
        expected: int,
        append_id: str | None,
        *,
        marks: Sequence[tuple[int, str | None, CheckpointTrigger]] = (),
        score_passed: bool = False,
        sync: bool = False,
    ) -> Pending:
        store = self._store
        opaque = draft is not None and draft.opaque
        body = encode_body(wire, opaque)
        first_seq, n = expected + 1, len(wire)
        own_id = store._random.getrandbits(63) if append_id is None else append_id
        at_us = max(time.time_ns() // 1000, self._at_us)
        digest = chain.extend(self._digest, first_seq, n, at_us, own_id, body)
        append = Append(
            self._row.trace_id,
            (self._row.id, first_seq, n, own_id, at_us, digest, body if opaque else body.decode()),
        )
        append.sync = sync
        moves = [move for event in control for move in _moves(event)]
        extras = _projections(control, wire, first_seq, str(self._control.get("status", "")))
        for seq, node, trigger in marks:
            extras.append(_mark(seq, node, str(self._control.get("graph_hash", "")), trigger, at_us))
        append.extras = extras
        live, growth = ([], 0) if draft is None else (draft.live, draft.growth_bytes)
        pending = Pending(append, live, moves, growth, len(body))
        if self._state is not None:
            append.state_bytes = max(2, self._size() + growth)
            append.fold = store.fold_policy.decide(
                FoldInput(
                    self._tail_deltas + len(live),
                    self._tail_rows + 1,
                    self._tail_bytes + len(body),
                    self._chain_bytes,
                    append.state_bytes,
                    score_passed or bool(marks),
                    store._reread.get(self._row.id, 0),
                    store._restore_us_per_kib,
                )
            )
        return pending

    def _commit(self, pending: Pending) -> Appended:
        with self._lock:
            self._store._writer.commit(pending.append)
            return self._acknowledge(pending)

    def _acknowledge(self, pending: Pending) -> Appended:
        append = pending.append
        _, first_seq, n, _, at_us, digest, _ = append.row
        if append.duplicate is not None:
            return self._settle(pending, append.duplicate)
        if self._version != append.expected_version:
            self.refresh()
            return Appended(first_seq, first_seq + n - 1)
        self._version, self._digest, self._at_us = first_seq + n - 1, digest, at_us
        if self._state is None:
            return Appended(first_seq, self._version)
        state, control = self._state, self._control
        for key, op, value in pending.live:
            apply(state, key, op, value)
        for key, op, value in pending.control:
            apply(control, key, op, value)
        if append.state_bytes:
            self._state_bytes = append.state_bytes
        if append.folded is not None:
            self._rebased(append.folded)
        else:
            self._tail_bytes += pending.size_bytes
            self._tail_rows += 1
            self._tail_deltas += len(pending.live)
        if self._prints is not None:
            for key in {delta.key for delta in pending.live}:
                self._print(key)
        return Appended(first_seq, self._version)

    def _settle(self, pending: Pending, found: LogRow) -> Appended:
        append_id = pending.append.row[3]
        if _deltas_of(found.body) != _deltas_of(pending.append.row[6]):
            raise AppendIdReused(self.id, str(append_id), found.first_seq)
        self.refresh()
        return Appended(found.first_seq, found.last_seq, duplicate=True)

    def _size(self) -> int:
        """About the JSON size of the live state."""
        if self._state_bytes < 0:
            self._state_bytes = state_size_bytes(self._live())
        return self._state_bytes

    def _rebased(self, folded: Folded | None) -> None:
        """A base now stands at the head."""
        if folded is not None:
            self._chain_bytes, self._state_bytes = folded.chain_bytes, folded.state_bytes
            self._tail_bytes = self._tail_rows = self._tail_deltas = 0
            self._store._reread.pop(self._row.id, None)

    def _refuse_changes_since(self, version: int) -> None:
        if version != self._version:
            self.refresh()
        for row in self._store._news(self._row, version):
            if any(event.kind != "note" for event in decode_rows(row.body)):
                raise WrongExpectedVersion(self.id, self._version, version)

    def _find_barrier(self, barrier: str) -> tuple[str, str]:
        pending = {key[8:]: node for key, node in self._control.items() if key.startswith("barrier/")}
        if barrier in pending:
            return barrier, pending[barrier]
        at_node = [barrier_id for barrier_id, node in pending.items() if node == barrier]
        if len(at_node) == 1:
            return at_node[0], barrier
        node, _, occurrence = barrier.rpartition("#")
        raised = self._control.get(f"raised/{node or barrier}", 0)
        if occurrence.isdigit() and 0 < int(occurrence) <= raised:
            raise BarrierError(self.id, barrier, "it was decided already")
        raise BarrierError(self.id, barrier, f"none is pending there; pending: {', '.join(pending) or 'none'}")

    # Strict mode

    def _check_mutation(self) -> None:
        if not self._store.strict:
            return
        state = self._live()
        if self._prints is None:
            self._prints = {}
            for key in state:
                self._print(key)
            return
        for key in self._prints.keys() | state.keys():
            if key not in state or self._prints.get(key) != _print(state[key]):
                raise StateMutated(self.id, key)

    def _print(self, key: str) -> None:
        assert self._prints is not None and self._state is not None
        if key in self._state:
            self._prints[key] = _print(self._state[key])
        else:
            self._prints.pop(key, None)


def _print(value: Any) -> int:
    return crc32(msgpack_encode(value))


def _moves(event: Envelope) -> list[tuple[str, str, Any]]:
    data = event.data
    if type(data) is NodeExecuted:
        data = {"node": data.node, "success": data.success, "next": data.next}
    return list(control_deltas(event.kind, data))


def _projections(
    control: list[Envelope], wire: list[Any], first_seq: int, status: str
) -> list[tuple[str, tuple[Any, ...]]]:
    """What the lists of traces and of barriers must be told of these events."""
    if len(control) == 1 and control[0].kind == "node_executed":
        return []
    statements: list[tuple[str, tuple[Any, ...]]] = []
    seqs = iter(first_seq + index for index, item in enumerate(wire) if isinstance(item, Envelope))
    for event, seq in zip(control, seqs, strict=True):
        if event.kind == "barrier_raised":
            barrier = (TRACE_ROW, event.data["barrier_id"], seq, event.data.get("deadline_us"))
            statements.append((RAISE_BARRIER, barrier))
        elif event.kind == "barrier_decided":
            statements.append((DECIDE_BARRIER, (seq, TRACE_ROW, event.data["barrier_id"])))
        for key, _, value in _moves(event):
            if key == "status" and value != status:
                status = value
                statements.append((SET_STATUS, (value, TRACE_ROW)))
    return statements


def _mark(
    seq: int, node: str | None, graph_hash: str, trigger: CheckpointTrigger, at_us: int
) -> tuple[str, tuple[Any, ...]]:
    metadata = None if trigger.metadata is None else trigger.metadata.to_json().decode()
    triggers = json_encode([trigger.name]).decode()
    return PUT_CHECKPOINT, (str(uuid4()), TRACE_ROW, seq, node, graph_hash, triggers, metadata, at_us)


def _marks(node: str, decision: Decision) -> dict[str, Any]:
    """The keys that tell the graph of a decision; a mark of an earlier one is deleted."""
    marks: dict[str, Any] = dict.fromkeys((f"{node}.approved", f"{node}.reject_reason", f"{node}.rerouted_to"), MISSING)
    if isinstance(decision, Approve | Modify):
        marks[f"{node}.approved"] = True
    if isinstance(decision, Modify):
        marks |= decision.values
    elif isinstance(decision, Reject):
        marks |= {f"{node}.approved": False, f"{node}.reject_reason": decision.reason}
    elif isinstance(decision, Reroute):
        marks[f"{node}.rerouted_to"] = decision.target
    return marks


def _deltas_of(body: str | bytes) -> list[Any]:
    return [(row.key, row.op, row.value, row.source) for row in decode_rows(body) if row.kind == "delta"]
