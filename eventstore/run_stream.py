"""What happens in a run, as typed events to iterate: in the process that runs it, or read from the log elsewhere.

Both come from the same translation of committed rows, so a tail in another process sees what a stream in
this one does. Two things differ: `Emitted` is told live only, and a node that leaves no intent in the log is
known to have started when it has ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from .event import (
    BarrierDecided,
    BarrierRaised,
    Decision,
    JsonRecord,
    NodeExecuted,
    StateDelta,
    TraceEnded,
    TraceForked,
    TraceStarted,
    utc,
)
from .recorded import RecordedEvent
from .run_event import BranchExecuted, NodeIntended, TraceReopened


class GraphStarted(JsonRecord, frozen=True, tag=True):
    """A run began (or was forked, or reopened). `name`: the graph's.

    >>> GraphStarted("t1", 1, utc(0), "refund").to_json()[:23]
    b'{"type":"GraphStarted",'
    """

    trace_id: str
    seq: int
    at: datetime
    name: str


class NodeStarted(JsonRecord, frozen=True, tag=True):
    """A node, or a branch of one (`gather/search`), began.

    >>> NodeStarted("t1", "pay", attempt=2).attempt
    2
    """

    trace_id: str
    path: str
    attempt: int = 1


class NodeEnded(JsonRecord, frozen=True, tag=True):
    """A node or a branch ended. `next`: where the run goes; `retry_at`: it failed, and is tried again then.

    >>> NodeEnded("t1", 5, utc(0), "pay").success
    True
    """

    trace_id: str
    seq: int
    at: datetime
    path: str
    success: bool = True
    error: str | None = None
    duration_ms: float = 0
    next: str | None = None
    retry_at: datetime | None = None


class DeltaWritten(JsonRecord, frozen=True, tag=True):
    """One change of the state.

    >>> DeltaWritten("t1", 4, utc(0), StateDelta.put("n", 1)).delta.key
    'n'
    """

    trace_id: str
    seq: int
    at: datetime
    delta: StateDelta


class BarrierWaiting(JsonRecord, frozen=True, tag=True):
    """The run waits for a decision. `reason`: gate, in_doubt or effect.

    >>> BarrierWaiting("t1", 4, utc(0), "approve#1", "approve", "Refund 40?").deadline_at is None
    True
    """

    trace_id: str
    seq: int
    at: datetime
    barrier_id: str
    node: str
    prompt: str = ""
    deadline_at: datetime | None = None
    reason: str = "gate"


class BarrierResolved(JsonRecord, frozen=True, tag=True):
    """A barrier was decided.

    >>> from .event import Approve
    >>> BarrierResolved("t1", 5, utc(0), "approve#1", "approve", Approve(by="ana")).decision.by
    'ana'
    """

    trace_id: str
    seq: int
    at: datetime
    barrier_id: str
    node: str
    decision: Decision


class CheckpointSaved(JsonRecord, frozen=True, tag=True):
    """A place was marked. `triggers`: the names of what marked it.

    >>> CheckpointSaved("t1", 5, utc(0), "c1", ["explicit"]).triggers
    ['explicit']
    """

    trace_id: str
    seq: int
    at: datetime
    checkpoint_id: str
    triggers: list[str]


class GraphCompleted(JsonRecord, frozen=True, tag=True):
    """The run is over. `status`: completed or cancelled.

    >>> GraphCompleted("t1", 9, utc(0)).status
    'completed'
    """

    trace_id: str
    seq: int
    at: datetime
    status: str = "completed"


class GraphError(JsonRecord, frozen=True, tag=True):
    """The run ended as failed.

    >>> GraphError("t1", 9, utc(0), "ConnectionError: bank unreachable").error
    'ConnectionError: bank unreachable'
    """

    trace_id: str
    seq: int
    at: datetime
    error: str


class Emitted(JsonRecord, frozen=True, tag=True):
    """What a node told with `ctx.emit`; in no log.

    >>> Emitted("t1", "ask", "Hel").value
    'Hel'
    """

    trace_id: str
    path: str
    value: Any


StreamEvent = (
    GraphStarted
    | NodeStarted
    | NodeEnded
    | DeltaWritten
    | BarrierWaiting
    | BarrierResolved
    | CheckpointSaved
    | GraphCompleted
    | GraphError
    | Emitted
)


class Translator:
    """Committed events of one trace as stream events. `is_live`: someone else tells when nodes start.

    >>> from .event import utc
    >>> row = [RecordedEvent("t1", 2, 2, "delta", StateDelta.put("n", 1), utc(0)),
    ...        RecordedEvent("t1", 3, 2, "node_executed", NodeExecuted("ask"), utc(0))]
    >>> [type(event).__name__ for event in Translator("t1").translate(row)]
    ['NodeStarted', 'DeltaWritten', 'NodeEnded']
    """

    def __init__(self, trace_id: str, *, is_live: bool = False) -> None:
        self.trace_id = trace_id
        self._is_live = is_live
        self._started: set[str] = set()

    def started(self, path: str, attempt: int = 1) -> list[StreamEvent]:
        """A node or a branch starts; before the first branch, its node."""
        told: list[StreamEvent] = []
        parent = path.partition("/")[0]
        if parent != path and parent not in self._started:
            told += self.started(parent)
        self._started.add(path)
        return [*told, NodeStarted(self.trace_id, path, attempt)]

    def translate(self, events: Iterable[RecordedEvent]) -> Iterator[StreamEvent]:
        """Whole commits, in order."""
        row: list[RecordedEvent] = []
        for event in events:
            if row and event.first_seq != row[0].first_seq:
                yield from self._row(row)
                row = []
            row.append(event)
        yield from self._row(row)

    def _row(self, row: list[RecordedEvent]) -> Iterator[StreamEvent]:
        for recorded in row:
            event = recorded.event
            if isinstance(event, NodeExecuted | BranchExecuted) and _path(event) not in self._started:
                yield from self.started(_path(event), event.attempt)
        for recorded in row:
            yield from self._one(recorded)

    def _one(self, recorded: RecordedEvent) -> Iterator[StreamEvent]:
        event, place = recorded.event, (recorded.trace_id, recorded.seq, recorded.at)
        if isinstance(event, StateDelta):
            yield DeltaWritten(*place, event)
        elif isinstance(event, NodeExecuted | BranchExecuted):
            path = _path(event)
            self._started.discard(path)
            retry_at = None if event.retry_at_us is None else utc(event.retry_at_us)
            leads_to = event.next if isinstance(event, NodeExecuted) else None
            yield NodeEnded(*place, path, event.success, event.error, event.duration_ms, leads_to, retry_at)
        elif isinstance(event, NodeIntended) and not self._is_live:
            yield from self.started(event.path, event.attempt)
        elif isinstance(event, BarrierRaised):
            deadline = None if event.deadline_us is None else utc(event.deadline_us)
            yield BarrierWaiting(*place, event.barrier_id, event.node, event.prompt, deadline, event.reason)
        elif isinstance(event, BarrierDecided):
            yield BarrierResolved(*place, event.barrier_id, event.node, event.decision)
        elif isinstance(event, TraceStarted | TraceForked):
            yield GraphStarted(*place, event.name)
        elif isinstance(event, TraceReopened):
            yield GraphStarted(*place, "")
        elif isinstance(event, TraceEnded):
            if event.status == "failed":
                yield GraphError(*place, event.error or "")
            else:
                yield GraphCompleted(*place, event.status)


def _path(event: NodeExecuted | BranchExecuted) -> str:
    return event.node if isinstance(event, NodeExecuted) else event.path
