"""Every kind of event, and an event as the log gives it back."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from .event import (
    BarrierDecided,
    BarrierRaised,
    JsonRecord,
    NodeExecuted,
    Note,
    StateDelta,
    TraceEnded,
    TraceForked,
    TraceStarted,
)
from .run_event import (
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
from .scope_event import CheckpointPut, ScopeEntered, WritesPut

RunEvent = (
    OwnerChanged
    | NodeIntended
    | IntentWithdrawn
    | BranchExecuted
    | ValueRecorded
    | NodeRouted
    | DecisionSubmitted
    | CancelRequested
    | GraphChanged
    | TraceReopened
)
AdapterEvent = ScopeEntered | CheckpointPut | WritesPut
ControlEvent = (
    TraceStarted
    | TraceForked
    | NodeExecuted
    | BarrierRaised
    | BarrierDecided
    | TraceEnded
    | Note
    | RunEvent
    | AdapterEvent
)
Event = StateDelta | ControlEvent

RUN_KINDS: dict[str, type[Any]] = {
    "owner_changed": OwnerChanged,
    "node_intended": NodeIntended,
    "intent_withdrawn": IntentWithdrawn,
    "branch_executed": BranchExecuted,
    "value_recorded": ValueRecorded,
    "node_routed": NodeRouted,
    "graph_changed": GraphChanged,
    "trace_reopened": TraceReopened,
}
"""What only a run writes."""
ADAPTER_KINDS: dict[str, type[Any]] = {
    "scope_entered": ScopeEntered,
    "checkpoint_put": CheckpointPut,
    "writes_put": WritesPut,
}
"""What only an adapter writes that keeps another framework's checkpoints."""
MAIL: dict[str, type[Any]] = {
    "note": Note,
    "decision_submitted": DecisionSubmitted,
    "cancel_requested": CancelRequested,
}
"""What anyone may append at any time: it changes no state, and no step in progress."""
KINDS: dict[str, type[Any]] = {
    "trace_started": TraceStarted,
    "trace_forked": TraceForked,
    "node_executed": NodeExecuted,
    "barrier_raised": BarrierRaised,
    "barrier_decided": BarrierDecided,
    "trace_ended": TraceEnded,
    **MAIL,
    **RUN_KINDS,
    **ADAPTER_KINDS,
}
KIND_OF: dict[type[Any], str] = {StateDelta: "delta", **{cls: kind for kind, cls in KINDS.items()}}


class RecordedEvent(JsonRecord, frozen=True):
    """An event as it stands in the log.

    `seq`: 1-based position in its trace; `kind`: `delta` or a key of the body's `kind`;
    `first_seq`: the seq at which its commit begins.

    >>> from .event import utc
    >>> RecordedEvent("t1", 2, 2, "delta", StateDelta.put("n", 1), utc(0)).kind
    'delta'
    """

    trace_id: str
    seq: int
    first_seq: int
    kind: str
    event: Any
    at: datetime

    def __post_init__(self) -> None:
        if isinstance(self.event, dict | list):
            cls = StateDelta if self.kind == "delta" else KINDS[self.kind]
            msgspec.structs.force_setattr(self, "event", msgspec.convert(self.event, cls))
