"""Why an event is in the log: what it was committed with, and what led there.

An event belongs to a commit, the commit to the execution of a node (or to a human's decision), and the node was
entered because the execution before it chose it. A delta also has a value before and after it, and a write
before it. Each answer names the seq to ask about next.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from .run_event import BranchExecuted, GraphChanged, NodeIntended, NodeRouted, TraceReopened
from .scope_event import CheckpointPut, WritesPut

if TYPE_CHECKING:
    from .store import Store

LOOKED_BACK = 65_536
"""Events before a commit among which the one that chose its node is looked for."""


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


def why(store: Store, trace_id: str, seq: int) -> Why:
    """See `Trace.why`."""
    row, head = store._reader.find(trace_id)
    if not 1 <= seq <= head.version:
        raise SeqOutOfRange(trace_id, seq, head.version)
    commit = next(found for page in store._reader.pages(row, seq - 1, head.version) for found in page)
    events = list(history.recorded(trace_id, commit, 0, commit.last_seq))
    event = events[seq - commit.first_seq]
    owner_id = history.owner_of(trace_id, store._ancestors(row), seq)
    begin = store._reader.restore(trace_id, commit.first_seq - 1)[2].control if commit.first_seq > 1 else {}
    execution = _execution(events, event, int(begin.get("steps", 0)))
    decision = _decision(events, event)
    chosen_by = None
    entered, place = _entered(event, execution)
    if entered is not None:
        earlier = [found for found in events if found.seq < place][::-1]
        chosen_by = _chosen_by(earlier, store, row, commit, entered)
    if execution is not None and decision is None:
        path = entered if execution.branch is None else f"{execution.node_name}/{execution.branch}"
        earlier = [found for found in events if found.seq < execution.seq][::-1]
        decision = _decision_about(earlier, store, row, commit, str(path))
    before, after, previous = UNSET, UNSET, None
    if isinstance(event.event, StateDelta):
        before, after = _around(store, trace_id, seq, event.event.key)
        root = store._reader.root_seq(row)
        last = blame(store, trace_id, event.event.key, seq - 1, last_alone=True) if seq - 1 >= max(root, 1) else []
        previous = last[0] if last else None
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


def _entered(event: RecordedEvent, execution: ExecutionEntry | None) -> tuple[str | None, int]:
    """The node that was entered for the event's sake, and the seq before which that was chosen."""
    if isinstance(event.event, BarrierRaised):
        return event.event.node.partition("/")[0], event.seq
    if isinstance(event.event, NodeIntended):
        return event.event.path.partition("/")[0], event.seq
    return (None, 0) if execution is None else (execution.node_name, execution.seq)


def _decision(events: list[RecordedEvent], event: RecordedEvent) -> RecordedEvent | None:
    """The decision that a delta of a human was committed with: the last one before it."""
    if not isinstance(event.event, StateDelta):
        return None
    decided = [found for found in events if isinstance(found.event, BarrierDecided) and found.seq < event.seq]
    return decided[-1] if decided else None


def _ends_visit(event: Any) -> bool:
    return isinstance(event, NodeExecuted) and (event.success or event.falls_back)


def _back(earlier: list[RecordedEvent], store: Store, row: TraceRow, commit: LogRow) -> Iterator[RecordedEvent]:
    """The events before one, newest first: those of its commit, then of the commits before."""
    yield from earlier
    root = store._reader.root_seq(row)
    upto, window = commit.first_seq - 1, 64
    lowest = max(root, upto - LOOKED_BACK)
    while upto > lowest:
        after = store._reader.boundary_before(row, max(lowest, upto - window))
        yield from list(store.events(row.trace_id, after=after, upto=upto))[::-1]
        upto, window = after, window * 4


def _chosen_by(
    earlier: list[RecordedEvent], store: Store, row: TraceRow, commit: LogRow, node: str
) -> RecordedEvent | None:
    """The event that made `node` the next one."""
    for found in _back(earlier, store, row, commit):
        event = found.event
        if isinstance(event, NodeExecuted | NodeRouted | GraphChanged | TraceReopened):
            chosen = event.next
        elif isinstance(event, TraceStarted | TraceForked):
            chosen = event.node
        else:
            chosen = getattr(event.decision, "target", None) if isinstance(event, BarrierDecided) else None
        if chosen == node:
            return found
        if _ends_visit(event) and not getattr(event, "unrouted", False):
            return None
    return None


def _decision_about(
    earlier: list[RecordedEvent], store: Store, row: TraceRow, commit: LogRow, path: str
) -> RecordedEvent | None:
    """The decision after which a barrier, or a node or branch that was asked about, went on."""
    for found in _back(earlier, store, row, commit):
        if isinstance(found.event, BarrierDecided) and found.event.node == path:
            return found
        if _ends_visit(found.event):
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
    entered, _ = _entered(found.event, found.execution)
    if found.chosen_by is not None:
        told.append(f"{entered!r} was entered because {_chose(found.chosen_by)}")
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
    if isinstance(event, GraphChanged):
        return f"a changed graph was forced to go on there (seq {found.seq})"
    if isinstance(event, TraceReopened):
        return f"the run was reopened there (seq {found.seq})"
    if isinstance(event, TraceForked):
        return f"the fork goes on there (seq {found.seq})"
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
    if isinstance(event, CheckpointPut):
        return f"checkpoint {event.name} stands there"
    if isinstance(event, WritesPut):
        return f"writes of task {event.task} to {', '.join(event.channels)}, made after {event.checkpoint}"
    return brief(event)
