"""Why an event is in the log: what it was committed with, and what led there.

An event belongs to a commit, the commit to the execution of a node (or to a human's decision), and the node was
entered because the execution before it chose it. A delta also has a value before and after it, and a write
before it. Each answer names the seq to ask about next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from . import history
from .blaming import Write, blame
from .diffing import brief
from .errors import SeqOutOfRange
from .event import (
    BarrierDecided,
    BarrierRaised,
    JsonRecord,
    Modify,
    NodeExecuted,
    Reject,
    Reroute,
    StateDelta,
    TraceForked,
    TraceStarted,
)
from .log import LogRow, TraceRow
from .record import ExecutionEntry
from .recorded import RecordedEvent
from .run_event import BranchExecuted, NodeIntended, NodeRouted

if TYPE_CHECKING:
    from .store import Store

LOOKED_BACK = 4096
"""Commits before an event among which the one that chose its node is looked for."""


class Why(JsonRecord, frozen=True):
    """Why one event is in the log.

    `owner_id`: the trace that wrote it; `first_seq`, `last_seq`: its commit; `execution`: the node's or branch's
    that it belongs to; `chosen_by`: the event that led into that node; `decision`: the decision that it follows;
    `before`, `after`: the key's value around a delta (UNSET where there is none); `previous`: the write before it;
    `reasons`: all of that in sentences.

    >>> from .event import Note, utc
    >>> Why(RecordedEvent("t1", 2, 2, "note", Note("seen"), utc(0)), "t1", 2, 2, reasons=["a note"]).last_seq
    2
    """

    event: RecordedEvent
    owner_id: str
    first_seq: int
    last_seq: int
    execution: ExecutionEntry | None = None
    chosen_by: RecordedEvent | None = None
    decision: RecordedEvent | None = None
    before: Any = UNSET
    after: Any = UNSET
    previous: Write | None = None
    reasons: list[str] = []

    def __str__(self) -> str:
        return "\n".join(self.reasons)


def why(store: Store, trace_id: str, seq: int, is_step: bool = False) -> Why:
    """See `Trace.why`. `is_step`: the execution that was committed with `seq` is meant."""
    row, head = store._reader.find(trace_id)
    if not 1 <= seq <= head.version:
        raise SeqOutOfRange(trace_id, seq, head.version)
    commit = next(found for page in store._reader.pages(row, seq - 1, head.version) for found in page)
    events = list(history.recorded(trace_id, commit, 0, commit.last_seq))
    event = events[seq - commit.first_seq]
    if is_step:
        event = next((found for found in events if isinstance(found.event, NodeExecuted)), event)
        seq = event.seq
    owner_id = history.owner_of(trace_id, store._ancestors(row), seq)
    begin = store._reader.restore(trace_id, commit.first_seq - 1)[2].control if commit.first_seq > 1 else {}
    execution = _execution(events, event, int(begin.get("steps", 0)))
    decision = _decision(events, event)
    chosen_by = None
    if execution is not None:
        chosen_by = _chosen_by(store, row, commit, execution.node_name)
        decision = decision or _barrier_left(store, row, commit, execution.node_name)
    before, after, previous = UNSET, UNSET, None
    if isinstance(event.event, StateDelta):
        before, after = _around(store, trace_id, seq, event.event.key)
        earlier = blame(store, trace_id, event.event.key, seq - 1) if seq > 1 else []
        previous = earlier[-1] if earlier and earlier[-1].key == event.event.key else None
    told = Why(
        event, owner_id, commit.first_seq, commit.last_seq, execution, chosen_by, decision, before, after, previous
    )
    return msgspec.structs.replace(told, reasons=_reasons(told, trace_id))


def _execution(events: list[RecordedEvent], event: RecordedEvent, steps: int) -> ExecutionEntry | None:
    """The execution that the event was committed with: its own, or the next one in the commit."""
    for found in events:
        if isinstance(found.event, NodeExecuted):
            steps += found.event.success or found.event.falls_back
            if found.seq >= event.seq:
                return history.execution_entry(found.event, steps, found.seq, found.at)
        elif isinstance(found.event, BranchExecuted) and found.seq >= event.seq:
            return history.branch_entry(found.event, steps + 1, found.seq, found.at)
    return None


def _decision(events: list[RecordedEvent], event: RecordedEvent) -> RecordedEvent | None:
    """The decision that a delta of a human was committed with."""
    return next(
        (
            found
            for found in events
            if isinstance(found.event, BarrierDecided) and found is not event and isinstance(event.event, StateDelta)
        ),
        None,
    )


def _before(store: Store, row: TraceRow, commit: LogRow) -> list[RecordedEvent]:
    """The events of some commits before this one, newest first."""
    root = store._reader.root_seq(row)
    found: list[RecordedEvent] = []
    window = 64
    while True:
        after = max(root, commit.first_seq - 1 - window)
        found = list(store.events(row.trace_id, after=after, upto=commit.first_seq - 1))[::-1]
        if after == root or window >= LOOKED_BACK or any(isinstance(one.event, NodeExecuted) for one in found):
            return found
        window *= 8


def _chosen_by(store: Store, row: TraceRow, commit: LogRow, node: str) -> RecordedEvent | None:
    """The event that made `node` the next one."""
    for found in _before(store, row, commit):
        event = found.event
        chose = (
            (isinstance(event, NodeExecuted | NodeRouted) and event.next == node)
            or (isinstance(event, TraceStarted) and event.node == node)
            or (isinstance(event, BarrierDecided) and getattr(event.decision, "target", None) == node)
        )
        if chose:
            return found
        if isinstance(event, NodeExecuted) and event.success:
            return None
    return None


def _barrier_left(store: Store, row: TraceRow, commit: LogRow, node: str) -> RecordedEvent | None:
    """The decision after which a barrier, or a node that was asked about, went on."""
    for found in _before(store, row, commit):
        if isinstance(found.event, BarrierDecided) and found.event.node.partition("/")[0] == node:
            return found
        if isinstance(found.event, NodeExecuted) and found.event.success:
            return None
    return None


def _around(store: Store, trace_id: str, seq: int, key: str) -> tuple[Any, Any]:
    before = store.state_at(trace_id, seq - 1).get(key, UNSET) if seq > 1 else UNSET
    return before, store.state_at(trace_id, seq).get(key, UNSET)


def _reasons(found: Why, trace_id: str) -> list[str]:
    event, seq = found.event.event, found.event.seq
    told: list[str] = []
    if isinstance(event, StateDelta):
        told.append(f"event {seq} changed {event.key!r}: {_shown(found.before)} -> {_shown(found.after)}")
        told.append(f"it is a literal {event.op} written by {_source(found)}")
        if found.previous is None:
            told.append("nobody wrote the key before")
        else:
            earlier = found.previous
            told.append(f"before, {earlier.node or earlier.source} wrote it at seq {earlier.seq}")
    else:
        told.append(f"event {seq} is {found.event.kind}: {_brief_event(event)}")
    if found.execution is not None and not (isinstance(event, NodeExecuted | BranchExecuted)):
        told.append(f"it was committed with {_executed(found.execution)}")
    elif found.execution is not None:
        told.append(_executed(found.execution))
    if found.decision is not None and isinstance(found.decision.event, BarrierDecided):
        told.append(f"after {_decided(found.decision.event)} at seq {found.decision.seq}")
    if found.chosen_by is not None and found.execution is not None:
        told.append(f"{found.execution.node_name!r} was entered because {_chose(found.chosen_by)}")
    if found.owner_id != trace_id:
        told.append(f"trace {found.owner_id} wrote it, and this one shares its history up to there")
    if isinstance(event, TraceForked):
        told.append(f"it begins the fork's own history, after seq {event.fork_seq} of {event.parent_trace_id}")
    return told


def _shown(value: Any) -> str:
    return "nothing" if value is UNSET else brief(value)


def _source(found: Why) -> str:
    event = found.event.event
    assert isinstance(event, StateDelta)
    node = found.execution.node_name if found.execution is not None else None
    match str(event.source):
        case "node":
            return f"node {node!r}" if node else "an append"
        case "hook":
            return f"a hook of node {node!r}"
        case "reducer_merge":
            return f"a reducer, for node {node!r}" if node else "a reducer"
        case "human":
            return "a human"
        case "fork":
            return "the fork"
    return f"the {event.source}"


def _executed(entry: ExecutionEntry) -> str:
    name = f"{entry.node_name}/{entry.branch}" if entry.branch else entry.node_name
    what = f"step {entry.label}, node {name!r}" if entry.success else f"a failed attempt of node {name!r}"
    if entry.attempt > 1:
        what += f", attempt {entry.attempt}"
    what += f", {entry.metadata.duration_ms or 0:.1f} ms"
    if entry.metadata.token_cost:
        what += f", cost {entry.metadata.token_cost:g}"
    return what if entry.error is None else f"{what}: {entry.error}"


def _decided(event: BarrierDecided) -> str:
    decision = event.decision
    action = type(decision).__name__.lower()
    by = f" by {decision.by}" if decision.by else ""
    if isinstance(decision, Reject) and decision.reason:
        return f"{event.barrier_id} was decided{by}: {action} ({decision.reason})"
    if isinstance(decision, Modify):
        return f"{event.barrier_id} was decided{by}: {action} {', '.join(decision.values)}"
    if isinstance(decision, Reroute):
        return f"{event.barrier_id} was decided{by}: {action} to {decision.target}"
    return f"{event.barrier_id} was decided{by}: {action}"


def _chose(found: RecordedEvent) -> str:
    event = found.event
    if isinstance(event, TraceStarted):
        return "the graph starts there"
    if isinstance(event, BarrierDecided):
        return f"{_decided(event)} (seq {found.seq})"
    return f"{event.node!r} led there (seq {found.seq})"


def _brief_event(event: Any) -> str:
    if isinstance(event, BarrierDecided):
        return _decided(event)
    if isinstance(event, BarrierRaised):
        return f"{event.barrier_id} asks {event.prompt!r}" if event.prompt else f"{event.barrier_id} waits"
    if isinstance(event, NodeIntended):
        return f"{event.path!r} is about to act, with key {event.key}"
    if isinstance(event, NodeExecuted) and event.next is not None:
        return f"{event.node!r} led to {event.next!r}"
    return brief(event)
