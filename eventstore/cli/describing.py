"""Events in words: what an event did, whom or what it is about, and the rest in one line.

The texts come out of the data; whoever prints them makes them visible.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from eventstore.event import (
    BarrierDecided,
    BarrierRaised,
    Decision,
    DeltaSource,
    Modify,
    NodeExecuted,
    Reject,
    Reroute,
    StateDelta,
    TraceEnded,
    utc,
)
from eventstore.readable import readable, readable_hook
from eventstore.recorded import RecordedEvent
from eventstore.run_event import (
    BranchExecuted,
    CancelRequested,
    DecisionSubmitted,
    GraphChanged,
    IntentWithdrawn,
    NodeIntended,
    NodeRouted,
    OwnerChanged,
    TraceReopened,
    ValueRecorded,
)
from eventstore.scope_event import CheckpointPut, ScopeEntered, WritesPut

from .output import to_json

SHORT_HASH = 8


def moment(at: datetime | None) -> str:
    """A time that may be days away, to the second.

    >>> moment(utc(1_700_000_000_000_000))
    '2023-11-14 22:13:20 UTC'
    """
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def decided(decision: Decision) -> str:
    """A decision in a few words.

    >>> decided(Reject("too much", by="ana"))
    'reject: too much, by ana'
    """
    said = str(decision.__struct_config__.tag)
    if isinstance(decision, Reject) and decision.reason:
        said += f": {decision.reason}"
    elif isinstance(decision, Modify):
        said += f": {to_json(decision.values)}"
    elif isinstance(decision, Reroute):
        said += f" to {decision.target}"
    return said if decision.by is None else f"{said}, by {decision.by}"


def change(delta: StateDelta) -> str:
    """The value of a delta, with who wrote it where that was no node."""
    value = "" if delta.value is msgspec.UNSET else to_json(delta.value)
    return value if delta.source == DeltaSource.NODE else f"{value}  (source: {delta.source})".strip()


def described(recorded: RecordedEvent) -> tuple[str, str, str]:
    """What an event did, what it is about, and the rest.

    >>> described(RecordedEvent("t1", 3, 3, "node_executed", NodeExecuted("ask", duration_ms=12), utc(0)))
    ('node_executed', 'ask', '12 ms')
    """
    event, kind = recorded.event, recorded.kind
    if isinstance(event, StateDelta):
        return str(event.op), event.key, change(event)
    if isinstance(event, NodeExecuted | BranchExecuted):
        path = event.node if isinstance(event, NodeExecuted) else event.path
        return kind if event.success else kind.replace("executed", "failed"), path, _execution(event)
    if isinstance(event, BarrierRaised):
        return kind, event.barrier_id, _asked(event)
    if isinstance(event, BarrierDecided | DecisionSubmitted):
        early = ", decided before it was raised" if isinstance(event, BarrierDecided) and event.submitted else ""
        return kind, event.barrier_id, decided(event.decision) + early
    told = _run_event(event) or _scope_event(event)
    if told is not None:
        return kind, *told
    fields = msgspec.to_builtins(event, enc_hook=readable_hook)
    about = str(fields.pop("name", None) or fields.pop("node", None) or "")
    return kind, about, to_json(fields) if fields else ""


def _execution(event: NodeExecuted | BranchExecuted) -> str:
    parts = [f"{event.duration_ms:g} ms"]
    if event.token_cost:
        parts.append(f"cost {event.token_cost:g}")
    if event.has_side_effects:
        parts.append("side effects")
    if event.attempt > 1:
        parts.append(f"attempt {event.attempt}")
    if isinstance(event, NodeExecuted):
        if event.next is not None:
            parts.append(f"{'falls back to' if event.falls_back else 'next'} {event.next}")
        if event.unrouted:
            parts.append("no way on")
    elif event.deltas:
        parts.append(f"holds {', '.join(dict.fromkeys(delta.key for delta in event.deltas))}")
    if event.error is not None:
        parts.append(event.error)
    if event.retry_at_us is not None:
        parts.append(f"again at {moment(utc(event.retry_at_us))}")
    return ", ".join(parts)


def _asked(event: BarrierRaised) -> str:
    parts = [event.prompt] if event.prompt else []
    if event.reason != "gate":
        parts.append(f"reason {event.reason}")
    if event.keys:
        parts.append(f"may change {', '.join(event.keys)}")
    if event.deadline_us is not None:
        parts.append(f"until {moment(utc(event.deadline_us))}")
        parts.append(f"then {'reject' if event.default is None else decided(event.default)}")
    return "; ".join(parts)


def _run_event(event: Any) -> tuple[str, str] | None:
    """What the events of a durable run are about, and the rest."""
    if isinstance(event, OwnerChanged):
        return event.owner, f"epoch {event.epoch}"
    if isinstance(event, NodeIntended):
        return event.path, f"{f'attempt {event.attempt}, ' if event.attempt > 1 else ''}key {event.key}"
    if isinstance(event, IntentWithdrawn):
        return event.path, "not called"
    if isinstance(event, ValueRecorded):
        return event.path, f"{event.name} = {to_json(event.value)}"
    if isinstance(event, NodeRouted):
        return event.node, "the end" if event.next is None else f"next {event.next}"
    if isinstance(event, CancelRequested):
        return event.by or "", event.reason
    if isinstance(event, GraphChanged):
        forced = f"{event.previous[:SHORT_HASH]} became {event.graph_hash[:SHORT_HASH]}, forced"
        return "", forced if event.next is None else f"{forced}, next {event.next}"
    if isinstance(event, TraceReopened):
        return "", "" if event.next is None else f"next {event.next}"
    if isinstance(event, TraceEnded):
        return event.status, event.error or ""
    return None


def _scope_event(event: Any) -> tuple[str, str] | None:
    """What the events of an adapter's thread are about, and the rest."""
    if isinstance(event, ScopeEntered):
        return event.thread_id, f"{event.adapter}{f', namespace {event.namespace}' if event.namespace else ''}"
    if isinstance(event, CheckpointPut):
        return event.name, _checkpoint_put(event)
    if isinstance(event, WritesPut):
        values = readable(event.values)
        told = zip(event.channels, values, strict=False) if isinstance(values, list) else ()
        written = ", ".join(f"{channel} = {to_json(value)}" for channel, value in told)
        return event.task, f"for {event.checkpoint}: {written or ', '.join(event.channels)}"
    return None


def _checkpoint_put(event: CheckpointPut) -> str:
    kept = dict(event.metadata) if isinstance(event.metadata, dict) else {"metadata": event.metadata}
    source, step = kept.pop("source", None), kept.pop("step", None)
    parts = [] if source is None else [f"{source}, step {step}"]
    parts += [f"parent {event.parent}"] if event.parent is not None else []
    changed = ", ".join(channel for _, channels in event.versions for channel in channels)
    parts += [f"new versions of {changed}"] if changed else []
    more = {field: value for field, value in kept.items() if value}
    return "; ".join([*parts, to_json(more)] if more else parts)
