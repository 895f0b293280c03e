"""What a fork takes over of its parent's run, and what it does not. Pure.

The state at the fork point is shared. A lease, an intent, a request to cancel and unused decisions are the
parent's alone: the fold drops them at the event that begins a fork, so that taking one reads no state. Barriers
that wait there are raised anew, with their time to decide beginning again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .event import BarrierRaised, StateDelta, TraceForked


def fork_events(
    forked: TraceForked, waiting: Sequence[tuple[BarrierRaised, int]], puts: Sequence[StateDelta], at_us: int
) -> list[Any]:
    """The first events of a fork: `forked`, what it changes, and the barriers `waiting` there raised anew at `at_us`.

    `waiting`: each with the time at which it was raised.

    >>> ask = BarrierRaised("ask#1", "ask", deadline_us=60)
    >>> events = fork_events(TraceForked("again", "t1", 9), [(ask, 10)], [], 100)
    >>> events[0].withdrawn, events[1].deadline_us
    ([('ask#1', 'ask')], 150)
    """
    withdrawn = [(event.barrier_id, event.node) for event, _ in waiting]
    events: list[Any] = [msgspec.structs.replace(forked, withdrawn=withdrawn), *puts]
    for event, raised_us in waiting:
        if event.deadline_us is not None:
            event = msgspec.structs.replace(event, deadline_us=at_us + event.deadline_us - raised_us)
        events.append(event)
    return events
