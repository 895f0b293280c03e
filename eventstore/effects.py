"""Which side effects a trace's log shows after some place: what a fork from there should ask about. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .event import DeltaSource, NodeExecuted, StateDelta
from .recorded import RecordedEvent
from .run_event import BranchExecuted, IntentWithdrawn, NodeIntended


class Effect(NamedTuple):
    """What a visit with side effects wrote, and where the run went after it (a branch goes nowhere).

    `chosen`: the node chose that way itself.
    """

    deltas: list[StateDelta]
    next: str | None = None
    chosen: bool = False


Effects = dict[tuple[str, int], Effect | None]


def effects_after(events: Iterable[RecordedEvent], control: Mapping[str, Any]) -> Effects:
    """By path and occurrence of each visit with side effects, what it wrote; None where only its intent is known.

    `control`: as it was before `events`.

    >>> from .event import utc
    >>> row = [RecordedEvent("t1", 2, 2, "delta", StateDelta.put("paid", 40), utc(0)),
    ...        RecordedEvent("t1", 3, 2, "node_executed", NodeExecuted("pay", has_side_effects=True), utc(0))]
    >>> list(effects_after(row, {"visits/pay": 1}))
    [('pay', 2)]
    """
    visits = {key[7:]: int(count) for key, count in control.items() if key.startswith("visits/")}
    found: Effects = {
        _visit(key[7:], visits): None for key in control if key.startswith("intent/")
    }  # begun before, and perhaps done after
    deltas: list[StateDelta] = []
    row = 0
    for recorded in events:
        if recorded.first_seq != row:
            row, deltas = recorded.first_seq, []
        event = recorded.event
        if isinstance(event, StateDelta):
            if event.source in (DeltaSource.NODE, DeltaSource.HOOK, DeltaSource.REDUCER_MERGE):
                deltas.append(event)
        elif isinstance(event, NodeIntended):
            found.setdefault(_visit(event.path, visits), None)
        elif isinstance(event, IntentWithdrawn):
            found.pop(_visit(event.path, visits), None)
        elif isinstance(event, BranchExecuted) and event.success and event.has_side_effects:
            found[_visit(event.path, visits)] = Effect(event.deltas)
        elif isinstance(event, NodeExecuted):
            if event.success and event.has_side_effects:
                found[event.node, visits.get(event.node, 0) + 1] = Effect(list(deltas), event.next, event.chosen)
            if event.success or event.falls_back:
                visits[event.node] = visits.get(event.node, 0) + 1
    return found


def _visit(path: str, visits: Mapping[str, int]) -> tuple[str, int]:
    return path, visits.get(path.partition("/")[0], 0) + 1
