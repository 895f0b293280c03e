"""The redaction hook, `(key, value) -> value`, over everything that holds a user's value.

Deltas pass it in their draft. This is for the events that carry values themselves: a decision (under the
keys it will write), a barrier's default, a note (under its name). The first event's state is redacted by `start`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from .event import BarrierDecided, BarrierRaised, Decision, Modify, Note, Reject
from .recorded import Event
from .run_event import CancelRequested, DecisionSubmitted, ValueRecorded

Redactor = Callable[[str, Any], Any]


def redact_decision(redact: Redactor, node: str, decision: Decision) -> Decision:
    """The decision with its values redacted.

    >>> redact_decision(lambda key, value: "***" if key == "card" else value, "pay", Modify({"card": "4111"})).values
    {'card': '***'}
    """
    if isinstance(decision, Modify):
        return Modify({key: redact(key, value) for key, value in decision.values.items()}, decision.by)
    if isinstance(decision, Reject):
        return Reject(redact(f"{node}.reject_reason", decision.reason), decision.by)
    return decision


def redact_event(redact: Redactor, event: Event) -> Event:
    """The event with its values redacted; deltas are left to their draft.

    >>> redact_event(lambda key, value: None, Note("card", "4111")).data is None
    True
    """
    if isinstance(event, Note):
        return Note(event.name, redact(event.name, event.data))
    if isinstance(event, BarrierDecided):
        return msgspec.structs.replace(event, decision=redact_decision(redact, event.node, event.decision))
    if isinstance(event, BarrierRaised) and event.default is not None:
        default = redact_decision(redact, event.node, event.default)
        return msgspec.structs.replace(event, default=default)
    if isinstance(event, DecisionSubmitted):
        return msgspec.structs.replace(event, decision=redact_decision(redact, event.node, event.decision))
    if isinstance(event, CancelRequested):
        return msgspec.structs.replace(event, reason=str(redact("cancel.reason", event.reason)))
    if isinstance(event, ValueRecorded):
        return msgspec.structs.replace(event, value=redact(event.name, event.value))
    return event
