"""How long a run waited for people: its barriers, from raised to decided. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec

from .event import BarrierDecided, BarrierRaised, TraceForked, utc
from .span import Wait

_LAST_US = 253_402_300_799_999_999
"""The last microsecond that a datetime can hold."""


class Place(NamedTuple):
    """Where an event stands. `owner`: the trace that wrote it, where that is not the one that is read."""

    seq: int
    at: datetime
    owner: str | None


class Waiting:
    """The barriers of one trace.

    >>> waiting = Waiting()
    >>> waiting.raised(BarrierRaised("ok#1", "ok"), Place(3, utc(0), None))
    >>> [(wait.barrier_id, wait.waited_s) for wait in waiting.until(utc(60_000_000))]
    [('ok#1', 60.0)]
    """

    def __init__(self) -> None:
        self._over: list[Wait] = []
        self._pending: dict[str, tuple[BarrierRaised, Place]] = {}

    def until(self, now: datetime) -> list[Wait]:
        """Every waiting, in the order of the log; what is pending, until `now`."""
        pending = [_wait(asked, raised, now) for asked, raised in self._pending.values()]
        return sorted([*self._over, *pending], key=lambda wait: wait.raised_seq)

    def raised(self, event: BarrierRaised, place: Place) -> None:
        """A barrier waits."""
        self._pending[event.barrier_id] = event, place

    def decided(self, event: BarrierDecided, place: Place) -> None:
        """A barrier was decided; of one that was raised behind a trim, no more than that is known."""
        asked, raised = self._pending.pop(event.barrier_id, (BarrierRaised(event.barrier_id, event.node), place))
        wait = _wait(asked, raised, place.at)
        self._over.append(
            msgspec.structs.replace(
                wait,
                decided_at=place.at,
                decided_seq=place.seq,
                decision=event.decision,
                by=event.decision.by,
                submitted=event.submitted,
            )
        )

    def withdrawn(self, event: TraceForked, place: Place) -> None:
        """A fork took back what its parent asked, to ask anew."""
        for barrier_id, _ in event.withdrawn:
            if barrier_id in self._pending:
                wait = _wait(*self._pending.pop(barrier_id), place.at)
                self._over.append(msgspec.structs.replace(wait, withdrawn=True))


def _wait(asked: BarrierRaised, raised: Place, until: datetime) -> Wait:
    return Wait(
        asked.barrier_id,
        asked.node,
        asked.reason,
        asked.prompt,
        raised.at,
        raised.seq,
        max(0.0, (until - raised.at).total_seconds()),
        deadline_at=None if asked.deadline_us is None else when(asked.deadline_us),
        inherited_from=raised.owner,
    )


def when(at_us: int) -> datetime:
    """A time that may lie beyond what a datetime can hold."""
    return utc(max(0, min(at_us, _LAST_US)))
