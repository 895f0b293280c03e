"""Barriers of an open trace: raised, decided, decided early, expired; and the request to cancel.

A barrier is decided exactly once, in one append with its deltas; whoever loses a race looks again. Deadlines
are hard: at or past one, whoever looks first appends the default. A decision may come before its barrier
(`approve#2`, or `approve#*` for every visit); it waits in the log until the barrier is raised, and both are
then one append.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from .barrier import decision_marks, early_barrier, find_pending, submitted_decision
from .checkpoint import CheckpointTrigger
from .codec import Envelope, envelope
from .errors import BarrierError, BarrierExpired, WrongExpectedVersion
from .event import BarrierDecided, BarrierRaised, Decision, Modify, Reject, Reroute, TraceEnded, utc
from .fold import MISSING
from .ownership import END, OFFER
from .pending import Mark
from .redaction import redact_decision
from .run_event import CancelRequested, DecisionSubmitted
from .step import Draft
from .writer import TRACE_ROW

if TYPE_CHECKING:
    from .trace import Trace

DEFAULT_ON_TIMEOUT = Reject("no decision before the deadline")


def now_us(trace: Trace) -> int:
    """The time of an append that is made now: a trace's time never runs backwards."""
    return max(time.time_ns() // 1000, trace._at_us)


def raised(trace: Trace, event: BarrierRaised) -> BarrierRaised:
    """The event with its texts and its default redacted."""
    redact = trace._store.redact
    if redact is None:
        return event
    default = None if event.default is None else redact_decision(redact, event.node, event.default)
    return msgspec.structs.replace(event, prompt=str(redact(f"{event.node}.prompt", event.prompt)), default=default)


def next_barrier_id(trace: Trace, node: str) -> str:
    """The id of the barrier that `node` raises next."""
    return f"{node}#{trace._control.get(f'raised/{node}', 0) + 1}"


def decided(
    trace: Trace,
    draft: Draft,
    barrier_id: str,
    node: str,
    decision: Decision,
    *,
    reason: str,
    source: str,
    submitted: bool = False,
) -> BarrierDecided:
    """The event of a decision; its deltas go into `draft`."""
    if trace._store.redact is not None:
        decision = redact_decision(trace._store.redact, node, decision)
    if reason == "gate":
        for key, value in decision_marks(node, decision).items():
            if value is not MISSING:
                draft.replace(key, value, source)
            elif key in trace._live():
                draft.write(key, "delete", None, source)
    elif isinstance(decision, Modify):
        for key, value in decision.values.items():
            draft.replace(key, value, source)
    return BarrierDecided(barrier_id, node, decision, submitted)


def decision_checkpoints(trace: Trace, node: str, decision: Decision) -> list[Mark]:
    """The checkpoints of a decision: at seq 0 for the place before it, 1 for the place after it."""
    policy = trace._store.checkpoint_policy
    marks: list[Mark] = []
    if policy.should_checkpoint_on_human_decision():
        marks.append((0, node, CheckpointTrigger.HUMAN_DECISION))
    if policy.should_checkpoint_on_barrier():
        target = decision.target if isinstance(decision, Reroute) else trace._control.get("next")
        marks.append((1, target, CheckpointTrigger.BARRIER_RESOLVED))
    return marks


def decide(trace: Trace, barrier: str, decision: Decision) -> str:
    """Decide a barrier; see `Trace.decide`."""
    check_decision(trace, barrier, decision)
    while True:
        expected, _, _ = trace._begin()
        try:
            barrier_id, node = find_pending(trace.id, trace._control, barrier)
        except BarrierError as unknown:
            if trace.refresh() != expected:
                continue  # another handle raised it meanwhile
            if not _may_come_early(trace, barrier):
                raise
            barrier_id = early_barrier(trace.id, trace._control, barrier, unknown)
            if _submit(trace, barrier_id, decision, expected):
                return barrier_id
            continue
        asked = trace._control[f"barrier/{barrier_id}"]
        at_us = now_us(trace)
        deadline_us = asked.get("deadline_us")
        if deadline_us is not None and at_us >= deadline_us:
            made: Decision = _default(asked)
            if _append(trace, barrier_id, node, made, asked, expected, at_us, source="system"):
                raise BarrierExpired(trace.id, barrier_id, f"{utc(deadline_us):%Y-%m-%d %H:%M:%S} UTC", made)
        elif _append(trace, barrier_id, node, decision, asked, expected, at_us, source="human"):
            return barrier_id


def expire(trace: Trace) -> list[str]:
    """Apply the defaults of barriers past their deadline; the ids of those that this call decided."""
    done: list[str] = []
    while True:
        expired = [
            (key[8:], asked)
            for key, asked in trace._control.items()
            if key.startswith("barrier/") and asked.get("deadline_us") is not None
            if now_us(trace) >= asked["deadline_us"]
        ]
        if not expired or trace.status != "waiting":
            return done
        barrier_id, asked = expired[0]
        at_us = now_us(trace)
        if _append(trace, barrier_id, asked["node"], _default(asked), asked, trace.version, at_us, source="system"):
            done.append(barrier_id)


def request_cancel(trace: Trace, by: str | None, reason: str, *, end: bool) -> None:
    """Ask for the run's end; with `end` (nobody runs it), end it in the same append. Raises TraceEndedError."""
    event: Any = CancelRequested(by, reason)
    if trace._store.redact is not None:
        event = CancelRequested(by, str(trace._store.redact("cancel.reason", reason)))
    while True:
        expected, _, _ = trace._begin()
        events = [envelope(event)]
        if end:
            events.append(envelope(TraceEnded("cancelled", reason or None)))
        try:
            pending = trace._prepare(events, None, events, expected, None, sync=True)
            if end:
                pending.extras.append((END, (TRACE_ROW,)))
            trace._commit(pending)
            return
        except WrongExpectedVersion:
            trace.refresh()


def check_decision(trace: Trace, barrier: str, decision: Decision) -> None:
    """Raise BarrierError for a target that the run's graph does not have."""
    if isinstance(decision, Reroute):
        nodes = trace._store._graph_nodes(trace.graph_hash)
        if nodes is not None and decision.target not in nodes:
            raise BarrierError(trace.id, barrier, f"the graph has no node {decision.target!r} to go to")


def _default(asked: dict[str, Any]) -> Decision:
    default = asked.get("default")
    if default is None:
        return DEFAULT_ON_TIMEOUT
    return msgspec.convert(default, Decision)  # type: ignore[no-any-return]


def _append(
    trace: Trace,
    barrier_id: str,
    node: str,
    decision: Decision,
    asked: dict[str, Any],
    expected: int,
    at_us: int,
    *,
    source: str,
) -> bool:
    """Append a decision and its deltas; False when another append came first."""
    draft = Draft(trace._live(), trace._registry)
    event = envelope(
        decided(trace, draft, barrier_id, node, decision, reason=asked.get("reason", "gate"), source=source)
    )
    events: list[Any] = [event, *draft.body()]
    marks = [
        (expected if place == 0 else expected + len(events), target, trigger)
        for place, target, trigger in decision_checkpoints(trace, node, decision)
    ]
    try:
        pending = trace._prepare(events, draft, [event], expected, None, marks=marks, sync=True, at_us=at_us)
        if trace.graph_hash:  # a fork has no lease yet; decided, it is to be found by whoever goes on with runs
            pending.extras.append((OFFER, (TRACE_ROW, max(1, trace._control.get("epoch", 0)))))
        trace._commit(pending)
        return True
    except WrongExpectedVersion:
        trace.refresh()
        return False


def _may_come_early(trace: Trace, barrier: str) -> bool:
    nodes = trace._store._graph_nodes(trace.graph_hash)
    node = barrier.rpartition("#")[0]
    return nodes is not None and nodes.get(node) == "barrier"


def _submit(trace: Trace, barrier_id: str, decision: Decision, expected: int) -> bool:
    """Append a decision that waits for its barrier; False when another append came first.

    A standing decision (`approve#*`) decides what is pending at its node now, too.
    """
    node = barrier_id.rpartition("#")[0]
    made = decision
    if trace._store.redact is not None:
        made = redact_decision(trace._store.redact, node, decision)
    event: Envelope = envelope(DecisionSubmitted(barrier_id, node, made))
    try:
        trace._commit(trace._prepare([event], None, [event], expected, None, sync=True))
    except WrongExpectedVersion:
        trace.refresh()
        return False
    if barrier_id.endswith("#*"):
        for pending in [key[8:] for key, asked in trace._control.items() if key.startswith("barrier/")]:
            if pending.rpartition("#")[0] == node:
                decide(trace, pending, decision)
    return True


def waiting_decision(trace: Trace, barrier_id: str) -> tuple[Decision, bool] | None:
    """The decision that was submitted for a barrier before it was raised, and whether for it alone."""
    found = submitted_decision(trace._control, barrier_id)
    if found is None:
        return None
    return msgspec.convert(found[0], Decision), found[1]
