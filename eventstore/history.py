"""Reading a trace as data: its events, executions and decisions, from rows of the log.

Pure functions over rows and recorded events; the store pages the rows in, so a walk over a trace of
any length holds one page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from .codec import decode_event, decode_rows, decode_some
from .event import EPOCH, BarrierDecided, NodeExecuted, StateDelta, TraceStarted, utc
from .log import LogRow
from .record import BarrierDecisionRecord, ExecutionEntry, ExecutionMetadata, ExecutionTrace
from .recorded import RecordedEvent
from .run_event import BranchExecuted

EXECUTIONS = {"node_executed": NodeExecuted, "branch_executed": BranchExecuted}


def recorded(trace_id: str, row: LogRow, after: int, upto: int) -> Iterator[RecordedEvent]:
    """The events of one row with `after < seq <= upto`. Raises ValueError on a malformed body."""
    at = utc(row.at_us)
    for seq, event in enumerate(decode_rows(row.body), row.first_seq):
        if after < seq <= upto:
            yield RecordedEvent(trace_id, seq, row.first_seq, event.kind, decode_event(event), at)


def execution_trace(trace_id: str, events: Iterable[RecordedEvent]) -> ExecutionTrace:
    """Fold events into one `ExecutionTrace`."""
    trace = ExecutionTrace(trace_id, {}, [], [], [])
    initial = trace.initial_state
    steps = 0
    for recorded_event in events:
        event, at = recorded_event.event, recorded_event.at
        if isinstance(event, StateDelta):
            trace.deltas.append(event)
        elif isinstance(event, NodeExecuted):
            steps += event.success or event.falls_back
            trace.entries.append(execution_entry(event, steps, recorded_event.seq, at))
        elif isinstance(event, BranchExecuted):
            trace.entries.append(branch_entry(event, steps + 1, recorded_event.seq, at))
        elif isinstance(event, BarrierDecided):
            decision = event.decision
            trace.barrier_decisions.append(
                BarrierDecisionRecord(event.barrier_id, event.node, decision, at, decision.by)
            )
        elif isinstance(event, TraceStarted):
            initial.update(event.state)
    return trace


def entries(row: LogRow, steps: int) -> list[ExecutionEntry]:
    """The executions in one row, `steps` after the beginning; its other events are not looked at.

    Raises ValueError on a malformed body.
    """
    found: list[ExecutionEntry] = []
    executions = decode_some(row.body, EXECUTIONS)
    at = utc(row.at_us)
    for index, event in executions:
        if isinstance(event, BranchExecuted):
            found.append(branch_entry(event, steps + 1, row.first_seq + index, at))
        else:
            steps += event.success or event.falls_back
            found.append(execution_entry(event, steps, row.first_seq + index, at))
    return found


def execution_entry(event: NodeExecuted, step: int, seq: int, at: datetime) -> ExecutionEntry:
    """A node's execution; its commit is its end, and its duration gives the start."""
    return _entry(event, event.node, step if event.success or event.falls_back else 0, seq, at, None)


def branch_entry(event: BranchExecuted, step: int, seq: int, at: datetime) -> ExecutionEntry:
    """A branch's execution, within the step that will join it."""
    node, _, branch = event.path.partition("/")
    return _entry(event, node, step if event.success else 0, seq, at, branch)


def _entry(
    event: NodeExecuted | BranchExecuted, node: str, step: int, seq: int, at: datetime, branch: str | None
) -> ExecutionEntry:
    return ExecutionEntry(
        step,
        node,
        _begun(at, event.duration_ms),
        at,
        event.success,
        event.error,
        ExecutionMetadata(event.duration_ms, event.token_cost, event.has_side_effects),
        seq,
        branch,
        event.attempt,
    )


def _begun(at: datetime, duration_ms: float) -> datetime:
    """When what ended at `at` began; 1970 where that is longer ago than there are dates."""
    try:
        return at - timedelta(milliseconds=duration_ms)
    except OverflowError:
        return EPOCH


def owner_of(trace_id: str, ancestors: Sequence[tuple[str, int]], seq: int) -> str:
    """The id of the trace that wrote `seq`. `ancestors`: nearest first, each with the last seq shared with it.

    >>> owner_of("fork", [("parent", 9), ("root", 4)], 7), owner_of("fork", [("parent", 9), ("root", 4)], 4)
    ('parent', 'root')
    """
    for ancestor_id, shared_upto in ancestors:
        if seq > shared_upto:
            break
        trace_id = ancestor_id
    return trace_id
