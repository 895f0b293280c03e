"""Records read back from the log: executions, decisions, a whole trace, a result.

All are plain data and go to JSON and back (`to_json`, `from_json`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from .codec import check_cost
from .errors import ValueRefused
from .event import Decision, JsonRecord, StateDelta


class ExecutionMetadata(JsonRecord, frozen=True):
    """What a node's run cost. A field that is None is measured or accumulated; a given one is final.

    `duration_ms`: float; `token_cost`: float, in your currency; `has_side_effects`: bool.

    >>> ExecutionMetadata.heavy()
    ExecutionMetadata(duration_ms=90000, token_cost=0.01, has_side_effects=False)
    """

    duration_ms: float | None = None
    token_cost: float | None = None
    has_side_effects: bool | None = None

    def __post_init__(self) -> None:
        check_cost(
            0 if self.duration_ms is None else self.duration_ms, 0 if self.token_cost is None else self.token_cost
        )
        if self.has_side_effects is not None and type(self.has_side_effects) is not bool:
            raise ValueRefused("has_side_effects", f"{self.has_side_effects!r} is neither true nor false")

    @classmethod
    def lightweight(cls) -> ExecutionMetadata:
        """A step that is nothing to repeat: 2 ms, no cost."""
        return cls(duration_ms=2, token_cost=0.0, has_side_effects=False)

    @classmethod
    def heavy(cls) -> ExecutionMetadata:
        """A step that nobody wants to repeat: 90 s, 0.01."""
        return cls(duration_ms=90_000, token_cost=0.01, has_side_effects=False)

    @classmethod
    def with_side_effects(cls) -> ExecutionMetadata:
        """A step that touched the world outside."""
        return cls(duration_ms=0, token_cost=0.0, has_side_effects=True)


class ExecutionEntry(JsonRecord, frozen=True):
    """One execution of a node. `step`: 1-based number of the committed visit, 0 for an attempt that failed.

    `branch`: of a parallel node (`node_name`), executed in the step of that number; `attempt`: 1 for the first.

    >>> from .event import utc
    >>> entry = ExecutionEntry(1, "ask", utc(0), utc(900_000), True, None, ExecutionMetadata(900))
    >>> ExecutionEntry.from_json(entry.to_json()) == entry
    True
    """

    step: int
    node_name: str
    start_time: datetime
    end_time: datetime
    success: bool
    error: str | None = None
    metadata: ExecutionMetadata = ExecutionMetadata()
    seq: int = 0
    branch: str | None = None
    attempt: int = 1

    @property
    def label(self) -> str:
        """The step's number, with its branch: `12` or `12/search`."""
        return str(self.step) if self.branch is None else f"{self.step}/{self.branch}"


class BarrierDecisionRecord(JsonRecord, frozen=True):
    """A barrier's one decision: what, who (`by`) and when.

    >>> from .event import Approve, utc
    >>> record = BarrierDecisionRecord("approve#1", "approve", Approve(by="ana"), utc(0), "ana")
    >>> BarrierDecisionRecord.from_json(record.to_json()) == record
    True
    """

    barrier_id: str
    node_id: str
    decision: Decision
    decided_at: datetime
    by: str | None = None


class ExecutionTrace(JsonRecord, frozen=True):
    """A whole trace as data: initial state, executions, deltas, decisions.

    >>> trace = ExecutionTrace("t1", {"n": 0}, deltas=[StateDelta.put("n", 1)])
    >>> ExecutionTrace.from_json(trace.to_json()) == trace
    True
    """

    trace_id: str
    initial_state: dict[str, Any]
    entries: list[ExecutionEntry] = []
    deltas: list[StateDelta] = []
    barrier_decisions: list[BarrierDecisionRecord] = []


class GraphResult(JsonRecord, frozen=True):
    """What a run came to. `duration_ms`: sum of the executions' durations; `pending_barriers`: what it waits for.

    >>> GraphResult("t1", {"n": 1}, [], 0.0).status
    'completed'
    """

    trace_id: str
    state: dict[str, Any]
    execution_log: list[ExecutionEntry]
    duration_ms: float
    status: str = "completed"
    pending_barriers: list[str] = []

    @property
    def token_cost(self) -> float:
        """What all executions cost together, failed attempts included."""
        return sum(entry.metadata.token_cost or 0 for entry in self.execution_log)
