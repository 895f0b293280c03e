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
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from . import deciding, history
from .bases import Folded
from .checkpoint import Checkpoint, CheckpointTrigger
from .codec import (
    Envelope,
    Row,
    check_append_id,
    check_key,
    check_length,
    decode_rows,
    encode_body,
    envelope,
    state_size_bytes,
)
from .control import ENDED, control_deltas, pending_barriers, reducers, status_of
from .errors import (
    AppendIdReused,
    BarrierError,
    EventStoreError,
    LogCorrupted,
    MissingKey,
    StateError,
    StateMutated,
    TraceEndedError,
    Trimmed,
    ValueRefused,
    WrongExpectedVersion,
)
from .event import (
    BarrierRaised,
    Decision,
    DeltaOp,
    DeltaSource,
    NodeExecuted,
    Note,
    StateDelta,
    TraceEnded,
)
from .fold import MISSING, advance, apply, apply_control, shape_of
from .link import fold_rows
from .log import Head, LogRow, TraceRow
from .lookback import Lookback
from .mutation import Fingerprints
from .pending import (
    ANY,
    PROJECTED_NOWHERE,
    AnyVersion,
    Appended,
    Mark,
    Pending,
    Statement,
    control_growth_bytes,
    mark_statements,
    moves,
    projections,
    same_events,
)
from .places import At
from .policy import FoldInput, FoldPolicy
from .record import ExecutionEntry, ExecutionMetadata, ExecutionTrace
from .recorded import ADAPTER_KINDS, MAIL, RUN_KINDS, Event, RecordedEvent
from .redaction import redact_event
from .reduce import Reducer, ReducerRegistry
from .step import Draft, LiveDelta, Step, converted

if TYPE_CHECKING:
    from .store import Store

T = TypeVar("T")


PATIENCE = 3  # how often an append is overtaken before it takes the writer's turn first


class Trace(Lookback):
    """One run, open at its head. Made by `store.start` and `store.open_trace`, never directly.

    A handle may be shared by threads; two steps that overlap conflict like two processes would, and
    the second one to commit gets `WrongExpectedVersion`.
    """

    __slots__ = (
        "__weakref__",
        "_at_us",
        "_base_bytes",
        "_chain_bytes",
        "_control",
        "_digest",
        "_lock",
        "_log_bytes",
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
        self._log_bytes = self._base_bytes = 0
        self._state_bytes = -1
        self._prints: Fingerprints | None = None
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
        return status_of(self._control)

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

    @property
    def control(self) -> Mapping[str, Any]:
        """Where the run stands (next node, visits, pending barriers, …), read-only."""
        self._live()
        return MappingProxyType(self._control)

    def get(self, key: str, default: Any = MISSING, *, at: At | None = None, type: type[T] | None = None) -> Any:
        """The live value of `key`, or its value at a place; converted by msgspec to `type`.

        Raises MissingKey, Deserialize, and with `at` what `trace.at` raises.
        """
        if at is not None:
            return self._store.get(self.id, key, default, at=at, type=type)
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
        append_id: str | int | None = None,
    ) -> Appended:
        """Append events as one commit. Deltas are literal: no reducer is consulted.

        `expected_version`: the version the trace must be at; by default this handle's; `ANY` for
        wherever it stands. `unless_changed_since`: instead, a version after which only notes may have
        come. `append_id`: a second append of that id gives the first one's place and adds nothing; a string
        of yours, or (with the `expected_version` beside it) the number that a `StoreHalted` carries.
        Raises WrongExpectedVersion, AppendIdReused, ValueRefused, DeltaApply and storage errors.
        """
        check_append_id(append_id)
        if not events:
            raise EventStoreError(f"trace {self.id}: an append needs at least one event")
        if self._store.redact is not None:
            events = [redact_event(self._store.redact, event) for event in events]
        version = expected_version if isinstance(expected_version, int) else None
        landed = self._store._reader.find_append(self._row, append_id, version)
        if landed is not None:
            return self._commit(self._prepare_again(events, landed, append_id))
        follow = expected_version is ANY or unless_changed_since is not None
        own, overtaken = self._version, 0
        if isinstance(expected_version, int) and expected_version != self._version:
            self.refresh()
        while True:
            if unless_changed_since is not None:
                self._refuse_changes_since(unless_changed_since)
            elif isinstance(expected_version, int) and expected_version != self._version:
                raise WrongExpectedVersion(self.id, self._version, expected_version)
            expected = self._version if follow else own if expected_version is None else expected_version
            try:
                if overtaken < PATIENCE:
                    return self._commit(self._prepare_events(events, expected, append_id))
                with self._lock, self._store._writer.turn():  # nobody gets in between now
                    self.refresh()
                    if unless_changed_since is not None:
                        self._refuse_changes_since(unless_changed_since)
                    return self._commit(self._prepare_events(events, self._version, append_id))
            except WrongExpectedVersion:
                if not follow:
                    raise
                overtaken += 1
                self.refresh()

    def note(self, name: str, data: Any = None) -> Appended:
        """Record a fact that changes nothing; it goes in wherever the trace stands. Raises ValueRefused."""
        return self.append([Note(name, data)], expected_version=ANY)

    def end(self, status: str = "completed", error: str | None = None) -> None:
        """Close the trace as completed, failed or cancelled. Raises TraceEndedError, WrongExpectedVersion."""
        if status not in ENDED:
            raise ValueError(f"a trace ends {', '.join(sorted(ENDED))}, not {status!r}")
        expected, _, _ = self._begin()
        event = envelope(TraceEnded(status, error))
        marks: list[Mark] = []
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
        """Wait for a human at `node`; gives the barrier's id, `node#occurrence`. Raises WrongExpectedVersion.

        `deadline_us`: microseconds since 1970, UTC; at or past it the `default` decision stands (without one,
        a rejection).
        """
        expected, _, _ = self._begin()
        barrier_id = deciding.next_barrier_id(self, node)
        asked = deciding.raised(self, BarrierRaised(barrier_id, node, prompt, list(keys), deadline_us, default))
        event = envelope(asked)
        self._commit(self._prepare([event], None, [event], expected, None))
        return barrier_id

    def decide(self, barrier: str, decision: Decision) -> str:
        """Decide a barrier, by id or by node when one is pending there; gives its id.

        The decision and its deltas are one synced commit, and the first decision wins. The state then tells of
        it under `NODE.approved`, `NODE.reject_reason` and `NODE.rerouted_to`. In a run of a graph a decision may
        come before its barrier: `approve#2` for the second visit, `approve#*` for every one that has none of
        its own (a later `approve#*` takes its place).
        Raises BarrierError for an unknown or decided barrier, BarrierExpired at or past its deadline (the
        default was applied then), TraceEndedError.
        """
        return deciding.decide(self, barrier, decision)

    def expire(self) -> list[str]:
        """Apply the default decisions of barriers past their deadline; the ids of those decided here."""
        self.refresh()
        self._live()
        return deciding.expire(self)

    def checkpoint(self, node: str | None = None) -> Checkpoint:
        """Mark this place, `node` to be entered next, as one where the run can resume.

        A second checkpoint at one version is the first one with both triggers. Raises StateMutated.
        """
        self._live()
        self._check_mutation()
        if node is not None:
            check_key(node)
        return self._store.checkpoints.mark(self, node or self._control.get("next"), CheckpointTrigger.EXPLICIT)

    def refresh(self) -> int:
        """Take in what other writers appended; gives the version. Raises LogCorrupted, TraceErased."""
        self._store._database.check_open()
        with self._lock:
            self._check_mutation()
            _, head = self._store._reader.find(self.id)
            if self._state is None:
                self._version, self._digest, self._at_us = head
            if head.version == self._version or self._state is None:
                return self._version
            try:
                found = self._store._reader.news(self._row, self._version)
            except Trimmed:  # what this handle had not seen is history behind a root by now
                self._load()
                return self._version
            for row, events in self._foldable(found):
                fold_rows(self._control, self._state, events)
                self._version, self._digest, self._at_us = row.last_seq, row.digest, row.at_us
                self._tail_deltas += len(events)
                self._tail_rows += 1
                self._tail_bytes += len(row.body)
                self._log_bytes += len(row.body)
            self._take_base(found)
            self._state_bytes = -1
            self._print_all()
            return self._version

    def _take_base(self, found: list[LogRow]) -> None:
        """A base that another handle wrote among the new rows is this one's too."""
        base = self._store._reader.nearest_base(self._row, self._version)
        tail = [row for row in found if base is not None and row.first_seq > base.seq]
        if base is None or len(tail) == len(found):
            return
        self._chain_bytes, self._base_bytes = base.chain_bytes, base.base_bytes
        self._tail_rows, self._tail_bytes = len(tail), sum(len(row.body) for row in tail)
        self._tail_deltas = sum(row.n for row in tail)

    def _foldable(self, found: list[LogRow]) -> list[tuple[LogRow, list[Row]]]:
        """The rows with their events, checked against the live state before any is taken in."""
        shapes: dict[str, Any] = {}
        checked = []
        for row in found:
            try:
                events = decode_rows(row.body)
                for event in events:
                    if event.kind == "delta":
                        before = shapes.get(event.key, self._live().get(event.key, MISSING))
                        shapes[event.key] = advance(shape_of(before), event.key, event.op, event.value)
                    else:
                        control_deltas(event.kind, event.data)
            except (ValueError, TypeError, KeyError, StateError) as error:
                raise LogCorrupted(self._store.path, self.id, row.first_seq, str(error)) from error
            checked.append((row, events))
        return checked

    # Reading

    def events(self, after: int | None = None, upto: int | None = None) -> Iterator[RecordedEvent]:
        """The events with `after < seq <= upto`, in order, read in pages. Raises LogCorrupted, Trimmed."""
        return self._store.events(self.id, after=after, upto=upto)

    def entries(self) -> list[ExecutionEntry]:
        """Every execution of a node, failed ones included."""
        return self._store._entries(self._row, self._version)

    def execution_trace(self) -> ExecutionTrace:
        """The whole trace as data: initial state, executions, deltas, decisions."""
        return history.execution_trace(self.id, self.events())

    # The three parts of an append

    def _live(self) -> dict[str, Any]:
        if self._state is None:
            self._store._database.check_open()
            with self._lock:
                if self._state is None:
                    self._load()
        return self._state  # type: ignore[return-value]

    def _load(self) -> None:
        _, head, restored = self._store._reader.restore(self.id)
        self._version, self._digest, self._at_us = head
        self._control = restored.control
        for key, name in reducers(restored.control).items():
            if self._registry.get(key) is Reducer.ERROR:
                self._registry.register(key, name)
        self._chain_bytes = restored.chain_bytes
        self._log_bytes, self._base_bytes = restored.log_bytes, restored.base_bytes
        self._tail_bytes, self._tail_rows = restored.tail_bytes, restored.tail_rows
        self._tail_deltas = restored.tail_events
        self._state = restored.state
        self._print_all()

    def _started(self, state: dict[str, Any], events: Sequence[Envelope], size: int) -> None:
        """Take in the first commit of a trace that was just started."""
        self._state = state
        for event in events:
            for key, op, value in moves(event):
                apply(self._control, key, op, value)
        self._tail_bytes, self._tail_rows, self._tail_deltas = size, 1, len(state)
        self._log_bytes = size
        self._print_all()

    def _begin(self, append_id: str | None = None) -> tuple[int, Draft, LogRow | None]:
        """The version and a draft over its state; and where a step of `append_id` has landed before.

        A retry is drafted over what the first attempt saw, so that it comes out the same.
        """
        store = self._store
        if append_id is not None:
            landed = store._reader.find_append(self._row, append_id)
            if landed is not None:
                return landed.first_seq - 1, self._draft_before(landed), landed
        if not store._database.is_open:
            store._database.check_open()
        with self._lock:
            state = self._live()
            if self._prints is not None:
                self._check_mutation()
            status = self._control.get("status")
            if status in ENDED:
                raise TraceEndedError(self.id, str(status))
            return self._version, Draft(state, self._registry, store.redact), None

    def _draft(self, redact: bool) -> Draft:
        return Draft(self._live(), self._registry, self._store.redact if redact else None)

    def _draft_before(self, row: LogRow) -> Draft:
        before = self._store._reader.restore(self.id, row.first_seq - 1)[2]
        self._live()
        return Draft(before.state, self._registry, self._store.redact)

    def _prepare_again(self, events: Sequence[Event], landed: LogRow, append_id: str | int | None) -> Pending:
        """A retry of events that landed: the same append, which is not to be committed."""
        draft = self._draft_before(landed)
        wire, control = self._drafted(events, draft)
        pending = self._prepare(wire, draft, control, landed.first_seq - 1, append_id)
        pending.duplicate = landed
        return pending

    def _prepare_step(
        self, executed: NodeExecuted, draft: Draft | None, expected: int, append_id: str | None
    ) -> Pending:
        store = self._store
        self._check_mutation()
        if executed.error is not None and store.redact is not None:
            executed = msgspec.structs.replace(
                executed, error=str(store.redact(f"{executed.node}.error", executed.error))
            )
        event = Envelope("node_executed", executed)
        wire = [event] if draft is None else [*draft.body(), event]
        marks: list[Mark] = []
        score = store.checkpoint_policy.score
        worth = score.of(executed.duration_ms, executed.token_cost, executed.has_side_effects)
        passed = executed.success and worth >= score.threshold
        if passed and store.marks_adaptively:
            metadata = ExecutionMetadata(executed.duration_ms, executed.token_cost, executed.has_side_effects)
            marks.append((expected + len(wire), executed.next, CheckpointTrigger.adaptive(metadata)))
        return self._prepare(wire, draft, [event], expected, append_id, marks=marks, score_passed=passed)

    def _prepare_events(self, events: Sequence[Event], expected: Any, append_id: str | int | None) -> Pending:
        """Draft over the version `expected`. Raises WrongExpectedVersion where the handle stands elsewhere."""
        with self._lock:
            self._live()
            self._check_mutation()
            if self._version != expected:
                raise WrongExpectedVersion(self.id, self._version, expected)
            draft = Draft(self._live(), self._registry, self._store.redact)
            wire, control = self._drafted(events, draft)
            if all(event.kind == "note" for event in control) and not draft.wire:
                return self._prepare(wire, None, control, expected, append_id)
            if self._control.get("status") in ENDED:
                raise TraceEndedError(self.id, str(self._control["status"]))
            self._check_control(control)
        return self._prepare(wire, draft, control, expected, append_id)

    def _drafted(self, events: Sequence[Event], draft: Draft) -> tuple[list[Any], list[Envelope]]:
        """The events as their body holds them, their deltas in `draft`; and those that are none."""
        control = []
        for event in events:
            if isinstance(event, StateDelta):
                if not isinstance(event.value, msgspec.UnsetType) or event.op == "delete":
                    draft.write(event.key, _named(DeltaOp, event.op), event.value, _named(DeltaSource, event.source))
                else:
                    raise ValueRefused(repr(event.key), f"a delta of op {event.op} needs a value")
            else:
                control.append(envelope(event))
        deltas, others = iter(draft.body()), iter(control)
        return [next(deltas if isinstance(event, StateDelta) else others) for event in events], control

    def _check_control(self, events: list[Envelope]) -> None:
        """Refuse events that do not follow from where the trace stands."""
        control = dict(self._control)
        for event in events:
            if event.kind == "trace_ended" and event.data.get("status", "completed") not in ENDED:
                raise ValueRefused("status", f"{event.data['status']!r} is none of {', '.join(sorted(ENDED))}")
            if event.kind in RUN_KINDS or event.kind in ADAPTER_KINDS:
                by = "a run" if event.kind in RUN_KINDS else "an adapter"
                raise EventStoreError(f"trace {self.id}: {event.kind} is written by {by}, not by append")
            if event.data.get("retry_at_us") is not None and (
                event.data.get("success", True) or event.data.get("falls_back")
            ):
                raise ValueRefused("retry_at_us", "only an attempt that failed, without a fallback, is tried again")
            if event.data.get("clears"):
                raise ValueRefused("clears", f"only a run clears control keys, and not by append: {event.kind}")
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
                apply_control(control, key, op, value)

    def _prepare(
        self,
        wire: list[Any],
        draft: Draft | None,
        control: list[Envelope],
        expected: int,
        append_id: str | int | None,
        *,
        marks: Sequence[Mark] = (),
        score_passed: bool = False,
        sync: bool = False,
        at_us: int = 0,
        opaque: bool = False,
        policy: FoldPolicy | None = None,
    ) -> Pending:
        store = self._store
        opaque = opaque or (draft is not None and draft.opaque)
        body = encode_body(wire, opaque)
        n, size = len(wire), len(body)
        check_length(expected + n)
        extras: list[Statement]
        own_id = store._random.getrandbits(63) if append_id is None else append_id
        at_us = at_us or time.time_ns() // 1000
        if at_us < self._at_us:
            at_us = self._at_us
        digest = store._database.chain.extend(self._digest, expected + 1, n, at_us, own_id, body)
        row = (self._row.id, expected + 1, n, own_id, at_us, digest, body if opaque else body.decode())
        if len(control) == 1 and control[0].kind == "node_executed":
            extras, control_moves = [], moves(control[0])
        elif all(event.kind in PROJECTED_NOWHERE for event in control):
            extras, control_moves = [], [move for event in control for move in moves(event)]
        else:
            extras = projections(control, wire, expected + 1, self._control, at_us)
            control_moves = [move for event in control for move in moves(event)]
            sync = sync or any(event.kind == "barrier_decided" for event in control)
        for seq, node, trigger in marks:
            extras += mark_statements(seq, node, str(self._control.get("graph_hash", "")), trigger, at_us)
        fold, state_bytes, live = None, 0, () if draft is None else draft.live
        if self._state is not None:
            if self._state_bytes < 0:
                self._size()
            state_bytes = self._state_bytes + (0 if draft is None else draft.growth_bytes)
            if policy is None:  # an adapter's control hardly grows
                state_bytes += control_growth_bytes(self._control, control_moves)
            if state_bytes < 2:
                state_bytes = 2
            policy = policy or store.fold_policy
            may_fold = getattr(policy, "may_fold", None)
            if (
                may_fold is None
                or score_passed
                or marks
                or self._row.id in store._reader.reread_bytes
                or may_fold(
                    self._tail_deltas + len(live),
                    self._tail_rows + 1,
                    self._tail_bytes + size,
                    self._chain_bytes,
                    state_bytes,
                )
            ):
                fold = policy.decide(
                    self._fold_input(
                        live, size, state_bytes - self._state_bytes, score_passed=score_passed or bool(marks)
                    )
                )
        return Pending(
            self._row.trace_id,
            row,
            extras,
            fold,
            state_bytes,
            sync,
            live=live,
            control=control_moves,
            size_bytes=size,
            is_exact=draft is None or draft.is_exact,
        )

    def _commit(self, pending: Pending) -> Appended:
        with self._lock:
            if pending.duplicate is None:
                self._store._writer.commit(pending)
            return self._take_in(pending)

    def _acknowledge(self, pending: Pending) -> Appended:
        with self._lock:
            return self._take_in(pending)

    def _take_in(self, pending: Pending) -> Appended:
        _, first_seq, n, _, at_us, digest, _ = pending.row
        version = first_seq + n - 1
        if pending.duplicate is not None:
            return self._settle(pending, pending.duplicate)
        if self._version != first_seq - 1:
            self.refresh()
            return Appended(first_seq, version)
        self._version, self._digest, self._at_us = version, digest, at_us
        state = self._state
        if state is None:
            return Appended(first_seq, version)
        for key, op, value in pending.live:
            if op == "put":
                state[key] = value
            else:
                apply(state, key, op, value)
        control = self._control
        for key, op, value in pending.control:
            if op == "put":
                control[key] = value
            elif op == "sum":
                control[key] = control.get(key, 0) + value
            else:
                apply_control(control, key, op, value)
        if pending.state_bytes:
            self._state_bytes = pending.state_bytes if pending.is_exact else -1
        if pending.folded is not None:
            self._rebased(pending.folded)
        else:
            self._log_bytes += pending.size_bytes
            self._tail_bytes += pending.size_bytes
            self._tail_rows += 1
            self._tail_deltas += len(pending.live)
        if self._prints is not None:
            self._prints.update(state, {key for key, _, _ in pending.live})
        return Appended(first_seq, version)

    def _settle(self, pending: Pending, found: LogRow) -> Appended:
        body = pending.row[6]
        if not same_events(found.body, body.encode() if isinstance(body, str) else body):
            raise AppendIdReused(self.id, str(pending.row[3]), found.first_seq)
        self._store._writer.believe()
        self.refresh()
        return Appended(found.first_seq, found.last_seq, duplicate=True)

    def _size(self) -> int:
        """About the JSON size of the live state and control: what a whole base would hold."""
        if self._state_bytes < 0:
            self._state_bytes = state_size_bytes(self._live()) + state_size_bytes(self._control)
        return self._state_bytes

    def _fold_input(
        self, live: Sequence[LiveDelta], body_bytes: int, growth_bytes: int, *, score_passed: bool
    ) -> FoldInput:
        """What the policy is to know once these deltas are in."""
        reader = self._store._reader
        return FoldInput(
            self._tail_deltas + len(live),
            self._tail_rows + (body_bytes > 0),
            self._tail_bytes + body_bytes,
            self._chain_bytes,
            max(2, self._size() + growth_bytes),
            score_passed,
            reader.reread_bytes.get(self._row.id, 0),
            reader.restore_us_per_kib,
            self._log_bytes + body_bytes,
            self._base_bytes,
        )

    def _rebased(self, folded: Folded | None) -> None:
        """A base now stands at the head."""
        if folded is not None:
            self._chain_bytes, self._state_bytes = folded.place.chain_bytes, folded.place.state_bytes
            self._log_bytes, self._base_bytes = folded.place.log_bytes, folded.place.base_bytes
            self._tail_bytes = self._tail_rows = self._tail_deltas = 0
            self._store._reader.reread_bytes.pop(self._row.id, None)

    def _refuse_changes_since(self, version: int) -> None:
        if version != self._version:
            self.refresh()
        if version > self._version:
            raise WrongExpectedVersion(self.id, self._version, version)
        for row in self._store._reader.news(self._row, version):
            if any(event.kind not in MAIL for event in decode_rows(row.body)):
                raise WrongExpectedVersion(self.id, self._version, version)

    def _check_mutation(self) -> None:
        if self._prints is not None and self._state is not None:
            key = self._prints.changed_key(self._state)
            if key is not None:
                raise StateMutated(self.id, key)

    def _print_all(self) -> None:
        if self._store.strict and self._state is not None:
            self._prints = Fingerprints(self._state)


def _named(kind: type[DeltaOp] | type[DeltaSource], value: Any) -> str:
    """The plain name of an op or a source. Raises ValueRefused on another."""
    try:
        return str(kind(value).value)
    except ValueError:
        raise ValueRefused(kind.__name__, f"{value!r} is none of {', '.join(kind)}") from None
