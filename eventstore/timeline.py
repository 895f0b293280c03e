"""When what ran: the timeline of a run, read in one light pass over its log.

Deltas, states and recorded values are passed over, never built. A fork's timeline begins with the history that it
shares, each part marked with the trace that ran it; a trimmed one's begins at the root, with what stood open there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from .bases import UNFOLDABLE
from .codec import decode_some
from .errors import LogCorrupted, Trimmed
from .event import utc
from .history import owner_of
from .span import CheckpointMark, ForkMark, Span, Timeline, Totals
from .spanning import KINDS, Spanning
from .waiting import Place

if TYPE_CHECKING:
    from .log import LogRow
    from .store import Store


def timeline(store: Store, trace_id: str, *, now: datetime | None = None) -> Timeline:
    """The timeline of a trace, the history that a fork shares included. `now`: until when what is pending counts.

    Of a trimmed trace it begins at the root. Raises TraceNotFound, TraceErased, LogCorrupted, storage errors.

    >>> from .store import open
    >>> with open(":memory:") as store:
    ...     trace = store.start({"n": 0}, name="count")
    ...     with trace.step("add") as step:
    ...         step.put("n", 1)
    ...     barrier_id = trace.raise_barrier("ok")
    ...     told = timeline(store, trace.id)
    >>> [(span.label, span.node, span.seq) for span in told.spans], told.status, told.waits[0].is_pending
    ([('1', 'add', 3)], 'waiting', True)
    """
    while True:
        reading = Reading(store, trace_id)
        try:
            spans = list(reading.spans())
        except Trimmed:  # meanwhile; what is left begins later
            continue
        return reading.timeline(spans, now or datetime.now(UTC))


class Reading:
    """One pass over a trace. `spans` gives each span when it is over; the rest is known at its end.

    Raises TraceNotFound, TraceErased.

    >>> from .store import open
    >>> with open(":memory:") as store:
    ...     trace = store.start({"n": 0})
    ...     with trace.step("add") as step:
    ...         step.put("n", 1)
    ...     [span.node for span in Reading(store, trace.id).spans()]
    ['add']
    """

    def __init__(self, store: Store, trace_id: str) -> None:
        self._store = store
        self.row, self.head = store._reader.find(trace_id)
        self.ancestors: Sequence[tuple[str, int]] = store._ancestors(self.row)
        self.trimmed_seq = store._reader.root_seq(self.row)
        self.started_at: datetime | None = None
        self.fold = Spanning()

    def spans(self) -> Iterator[Span]:
        """The spans in the order in which they were over; at last those without an end.

        Raises LogCorrupted, and Trimmed for history that is trimmed meanwhile.
        """
        if self.trimmed_seq:
            self._begin_at_root()
        for page in self._store._reader.pages(self.row, self.trimmed_seq, self.head.version):
            for commit in page:
                yield from self._commit(commit)
        yield from self.fold.without_end()

    def _begin_at_root(self) -> None:
        reader = self._store._reader
        control = reader.restore(self.row.trace_id, self.trimmed_seq)[2].control
        place = self._place(self.trimmed_seq, reader.root_us(self.row, self.trimmed_seq))
        self.started_at = place.at
        try:
            self.fold.begin(control, place)
        except UNFOLDABLE as error:
            told = f"its root holds what no trim wrote ({error!r})"
            raise LogCorrupted(self._store.path, self.row.trace_id, self.trimmed_seq, told) from error

    def _place(self, seq: int, at_us: int) -> Place:
        owner = owner_of(self.row.trace_id, self.ancestors, seq) if self.ancestors else self.row.trace_id
        return Place(seq, utc(at_us), None if owner == self.row.trace_id else owner)

    def _commit(self, commit: LogRow) -> Iterator[Span]:
        try:
            events = decode_some(commit.body, KINDS)
        except ValueError as error:
            raise LogCorrupted(self._store.path, self.row.trace_id, commit.first_seq, str(error)) from error
        if self.started_at is None:
            self.started_at = utc(commit.at_us)
        for index, event in events:
            yield from self.fold.take(event, self._place(commit.first_seq + index, commit.at_us))

    def timeline(self, spans: list[Span], now: datetime) -> Timeline:
        """All of it, once `spans` were read."""
        row, ended = self.row, self.fold.ended
        waits = self.fold.waits(max(now, utc(self.head.at_us)))
        totals = Totals(
            _union_s((span.went_on_at, span.ended_at) for span in spans if span.ended_at) * 1000,
            _union_s((wait.raised_at, wait.until) for wait in waits),
            sum(span.token_cost for span in spans),
            sum(span.success is False for span in spans),
        )
        return Timeline(
            row.trace_id,
            row.name,
            row.status,
            self.head.version,
            self.started_at or utc(row.created_us),
            utc(self.head.at_us),
            now,
            ended_at=None if ended is None else ended[0],
            error=None if ended is None else ended[1],
            graph_hash=self.fold.graph_hash,
            trimmed_seq=self.trimmed_seq,
            origin=self.origin,
            spans=sorted(spans, key=_place_in_log),
            waits=waits,
            checkpoints=self.checkpoints(),
            retries=self.fold.retries(),
            cancels=self.fold.cancels,
            forks=self.forks(),
            totals=totals,
        )

    @property
    def origin(self) -> ForkMark | None:
        """Where this trace was forked from another."""
        if not self.ancestors:
            return None
        parent, seq = self.ancestors[0]
        return ForkMark(parent, seq, utc(self.row.created_us))

    def checkpoints(self) -> list[CheckpointMark]:
        """The checkpoints of this trace and of the history that it shares, oldest first."""
        trace_id, upto = self.row.trace_id, self.head.version
        found = []
        for owner, shared_upto in [(trace_id, upto), *self.ancestors]:
            upto = min(upto, shared_upto)
            for saved in self._store.checkpoints.between(owner, max(self.trimmed_seq, 1), upto):
                names = [trigger.name for trigger in saved.triggers]
                place = saved.seq or 0, saved.created_at, saved.current_node, names, saved.checkpoint_id
                found.append(CheckpointMark(*place, None if owner == trace_id else owner))
        return sorted(found, key=lambda mark: (mark.seq, mark.at))

    def forks(self) -> list[ForkMark]:
        """The traces that were forked from this one, by the place of the fork."""
        found = self._store._reader.forks(self.row)
        return [ForkMark(trace_id, seq, utc(created_us)) for trace_id, seq, created_us in found]


def _place_in_log(span: Span) -> tuple[int, bool, int, int]:
    """By the first event of the visit; a parallel node before its branches."""
    return span.within or span.opened_seq, span.within is not None, span.opened_seq, span.seq


def _union_s(stretches: Iterable[tuple[datetime, datetime]]) -> float:
    """The seconds that lie in at least one of the stretches."""
    total, begin, end = timedelta(), None, None
    for start, stop in sorted(stretches):
        if end is None or start > end:
            if begin is not None and end is not None:
                total += end - begin
            begin, end = start, stop
        else:
            end = max(end, stop)
    if begin is not None and end is not None:
        total += end - begin
    return total.total_seconds()
