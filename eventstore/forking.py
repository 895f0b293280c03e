"""What a fork takes over of its parent's run, and what it does not. Pure.

The state at the fork point is shared. A lease, an intent, a request to cancel and unused decisions are the
parent's alone; barriers that wait there are raised anew, with their time to decide beginning again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .event import BarrierRaised, TraceForked

NOT_INHERITED = ("cancel", "decision/", "intent/", "retry/", "failed/")


def fork_events(
    forked: TraceForked,
    control: Mapping[str, Any],
    at_us: int,
    raised: Callable[[str], tuple[BarrierRaised, int] | None],
) -> list[Any]:
    """The first events of a fork: `forked`, and the barriers of `control` raised anew at `at_us`.

    `raised`: gives the event that raised a barrier, and its time.

    >>> control = {"intent/pay": {"key": "9f0c"}, "barrier/ask#1": {"node": "ask"}, "steps": 3}
    >>> events = fork_events(TraceForked("again", "t1", 9), control, 0, lambda barrier_id: None)
    >>> events[0].clears, events[0].withdrawn, events[1].barrier_id
    (['intent/pay'], [('ask#1', 'ask')], 'ask#1')
    """
    waiting = {key[8:]: asked["node"] for key, asked in control.items() if key.startswith("barrier/")}
    clears = [key for key in control if key.startswith(NOT_INHERITED)]
    events: list[Any] = [msgspec.structs.replace(forked, withdrawn=list(waiting.items()), clears=clears)]
    for barrier_id, node in waiting.items():
        found = raised(barrier_id)
        event, raised_us = found or (BarrierRaised(barrier_id, node), at_us)
        if event.deadline_us is not None:
            event = msgspec.structs.replace(event, deadline_us=at_us + event.deadline_us - raised_us)
        events.append(event)
    return events
