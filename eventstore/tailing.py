"""The log read as stream events, in any process: what a run has done, and what it does next.

Polling is the truth: a source reads what stands in the file after its cursor, a page at a time, and whoever
follows asks again after a while. One trace goes by seq. The feed of all traces goes by an opaque cursor, in the
order of the commits; it holds no more than what is open in the nodes that run right now.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from .control import ENDED
from .errors import LogCorrupted, Trimmed
from .event import utc
from .feed import Feed
from .history import recorded
from .log import Head, LogRow, TraceRow
from .run_stream import CheckpointSaved, StreamEvent, Translator

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .store import Store

Told = tuple[int, StreamEvent]
"""An event, and the cursor from which to go on after it without missing one."""


class Source(Protocol):
    """Where a tail reads. `is_over`: nothing comes after the last page."""

    is_over: bool

    def page(self) -> list[Told]:
        """What comes next; empty when all that stands in the file was given."""


def tail(
    store: Store, trace_id: str | None = None, after: int = 0, follow: bool = False, poll_s: float = 0.2
) -> Iterator[StreamEvent]:
    """See `Store.tail`."""
    return (event for _, event in with_cursors(store, trace_id, after, follow, poll_s))


def with_cursors(
    store: Store, trace_id: str | None = None, after: int = 0, follow: bool = False, poll_s: float = 0.2
) -> Iterator[Told]:
    """`tail` with a cursor beside each event.

    In the feed of all traces it passes a commit with the last event of that commit: whoever stops between two
    events of one commit gets all of its events again.
    """
    found = source(store, trace_id, after)
    while True:
        page = found.page()
        yield from page
        if not page:
            if not follow or found.is_over:
                return
            time.sleep(poll_s)


def source(store: Store, trace_id: str | None, after: int) -> Source:
    """The source of one trace, or of all."""
    return FeedSource(store, max(after, 0)) if trace_id is None else TraceSource(store, trace_id, max(after, 0))


class TraceSource:
    """The events of one trace after a seq. Behind a trim it goes on at the trace's root."""

    def __init__(self, store: Store, trace_id: str, after: int) -> None:
        self._store = store
        self._trace_id = trace_id
        self._cursor = after
        self._translator: Translator | None = None
        self._marked: set[str] = set()  # the checkpoints at the cursor that were told
        self.is_over = False

    def page(self) -> list[Told]:
        """See `Source.page`. Raises TraceNotFound, TraceErased, LogCorrupted, storage errors."""
        while True:
            row, head = self._store._reader.find(self._trace_id)
            if self._translator is None:
                self._translator = self._begin(head)
            rows = self._rows(row, head)
            told = list(self._told(self._translator, rows, head.version))
            if told or not rows:
                self.is_over = row.status in ENDED and not rows
                return told

    def _rows(self, row: TraceRow, head: Head) -> list[LogRow]:
        while head.version > self._cursor:
            try:
                return next(self._store._reader.pages(row, self._cursor, head.version), [])
            except Trimmed as trimmed:
                self._cursor = trimmed.root_seq
        return []

    def _begin(self, head: Head) -> Translator:
        """A translator that knows which nodes had started at the cursor."""
        translator = Translator(self._trace_id)
        if self._cursor == 0:
            return translator
        while True:
            try:
                at = min(self._cursor, head.version)
                control = self._store._reader.restore(self._trace_id, at)[2].control
                break
            except Trimmed as trimmed:
                self._cursor = trimmed.root_seq
        for key in control:
            kind, _, path = key.partition("/")
            node, _, branch = path.partition("/")
            if kind == "intent":
                translator.started(path)
            elif branch and kind in ("held", "failed", "retry", "calls"):
                translator.started(node)
        self._marked = self._passed(at)
        return translator

    def _passed(self, seq: int) -> set[str]:
        """The checkpoints at that seq which came with its commit; one that was made later is yet to be told."""
        try:
            recorded_at = next(self._store.events(self._trace_id, after=seq - 1, upto=seq)).at
        except Trimmed:
            return set()
        found = self._store.checkpoints.between(self._trace_id, seq, seq)
        return {mark.checkpoint_id for mark in found if mark.created_at <= recorded_at}

    def _told(self, translator: Translator, rows: list[LogRow], version: int) -> Iterator[Told]:
        last = rows[-1].last_seq if rows else self._cursor
        marks = self._marks(last)
        for row in rows:
            reached = max(self._cursor, row.first_seq - 1)
            try:
                for event in translator.translate(recorded(self._trace_id, row, self._cursor, version)):
                    reached = getattr(event, "seq", reached)
                    yield reached, event
            except ValueError as error:
                raise LogCorrupted(self._store.path, self._trace_id, row.first_seq, str(error)) from error
            at = utc(row.at_us)
            while marks and (marks[0].seq or 0) <= row.last_seq and marks[0].created_at <= at:
                yield row.last_seq, self._saved(marks.popleft())
        for mark in marks:  # made after the commit at their place
            yield last, self._saved(mark)
        self._cursor = last

    def _marks(self, last: int) -> deque[Checkpoint]:
        """The checkpoints from the cursor up to that seq which were not told, in the order they were made."""
        found = self._store.checkpoints.between(self._trace_id, max(1, self._cursor), last)
        new = [mark for mark in found if mark.checkpoint_id not in self._marked]
        self._marked = {mark.checkpoint_id for mark in found if mark.seq == last}
        return deque(sorted(new, key=lambda mark: (mark.created_at, mark.seq)))

    def _saved(self, mark: Checkpoint) -> CheckpointSaved:
        names = [trigger.name for trigger in mark.triggers]
        return CheckpointSaved(self._trace_id, mark.seq or 0, mark.created_at, mark.checkpoint_id, names)


class FeedSource:
    """The events of every trace, in commit order, after a cursor."""

    is_over = False

    def __init__(self, store: Store, after: int) -> None:
        self._path = store.path
        self._feed = Feed(store._database, after)
        self._open: dict[str, Translator] = {}  # those that know of a node which has started and not ended

    def page(self) -> list[Told]:
        """See `Source.page`. Raises LogCorrupted, storage errors."""
        told: list[Told] = []
        cursor = self._feed.cursor
        while not told:
            commits = self._feed.page()
            if not commits:
                return told
            for passed, trace_id, row, marks in commits:
                events = self._translated(trace_id, row)
                for mark in marks:
                    saved = CheckpointSaved(trace_id, mark.seq, utc(mark.created_us), mark.checkpoint_id, mark.triggers)
                    events.append(saved)
                told += [(cursor, event) for event in events[:-1]]
                told += [(passed, event) for event in events[-1:]]
                cursor = passed
        return told

    def _translated(self, trace_id: str, row: LogRow) -> list[StreamEvent]:
        translator = self._open.pop(trace_id, None) or Translator(trace_id)
        try:
            recorded_events = list(recorded(trace_id, row, 0, row.last_seq))
        except ValueError as error:
            raise LogCorrupted(self._path, trace_id, row.first_seq, str(error)) from error
        events = list(translator.translate(recorded_events))
        has_ended = any(event.kind == "trace_ended" for event in recorded_events)
        if translator._started and not has_ended:
            self._open[trace_id] = translator
        return events
