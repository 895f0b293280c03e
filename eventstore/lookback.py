"""The verbs of a trace that look back: at any step, at differences, at who wrote what, at other futures.

All of them read what the file holds now, not only what the handle has seen, so they work while another process
writes the trace. They follow the path of the trace: a fork's shared history is its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from . import blaming, places, timeline, walk, why
from .blaming import Write
from .errors import EventStoreError
from .past import Past
from .places import At
from .span import Timeline
from .why import Why

if TYPE_CHECKING:
    from .store import Store
    from .trace import Trace


class Lookback:
    """What a trace tells of its past. A part of `es.Trace`."""

    __slots__ = ()

    _store: Store

    @property
    def id(self) -> str:
        """The trace's id."""
        raise NotImplementedError

    def at(
        self,
        seq: At | None = None,
        *,
        step: int | None = None,
        time: datetime | str | None = None,
        checkpoint: str | UUID | None = None,
    ) -> Past:
        """The trace as it stood: after event `seq`, after a step, at a time, or at a checkpoint; by default now.

        `seq` may be any place that the command line's `--at` takes: `-3` counts from the end, `"step:12"`, a time,
        a checkpoint's id or any unique beginning of one. `step`: 0 is the start, -1 the last step. `time`: the last
        commit at or before it; without a zone it is UTC. Raises PlaceNotFound, SeqOutOfRange, Trimmed, TraceErased,
        LogCorrupted, and EventStoreError for two places at once.
        """
        given = {"seq": seq, "step": step, "time": time, "checkpoint": checkpoint}
        named = [(word, value) for word, value in given.items() if value is not None]
        if len(named) > 1:
            words = " and ".join(word for word, _ in named)
            raise EventStoreError(f"trace {self.id}: at() takes one place, not {words}")
        if type(step) is int and step >= 0:
            done = self._store._reader.after_step(self.id, step)
            if done is not None:
                return Past(self._store, *done)
        place: At | None = None
        for word, value in named:
            place = value if word == "seq" or isinstance(value, datetime) else f"{word}:{value}"  # type: ignore[assignment]
        found = None if place is None else places.seq_at(self._store, self.id, place)
        row, head, state, control = self._store._reader.look(self.id, found)
        return Past(self._store, row, head.version if found is None else found, state, control)

    def history(self, *, after: At | None = None, upto: At | None = None, reverse: bool = False) -> Iterator[Past]:
        """The trace after each of its commits with `after < seq <= upto`, oldest first, in one pass of the fold.

        `reverse`: newest first. The states share what did not change between them: they are not to be changed. A
        trimmed trace begins with its root. Raises PlaceNotFound, SeqOutOfRange, Trimmed, TraceErased, LogCorrupted.
        """
        return walk.walk(self._store, self.id, self._place(after), self._place(upto), reverse)

    def blame(self, name: str, *, at: At | None = None) -> list[Write]:
        """Every write of a key up to a place, oldest first; none of a key that nobody wrote.

        `name`: a key, a JSON Pointer (`/order/total`) or a dotted path (`order.total`), whichever is found first;
        below a key only the writes that changed the addressed part. A trimmed trace begins with its root. Raises
        PlaceNotFound, SeqOutOfRange, TraceErased, LogCorrupted.
        """
        return blaming.blame(self._store, self.id, name, self._place(at))

    def why(self, at: At) -> Why:
        """Why an event is in the log: its commit, its node, what chose that node, the values around a delta.

        A step (`"step:12"`) stands for the event that tells of its node's execution.

        Raises PlaceNotFound, SeqOutOfRange, Trimmed, TraceErased, LogCorrupted.
        """
        seq = places.seq_at(self._store, self.id, at)
        if isinstance(at, str) and at.startswith("step:"):
            seq = places.execution_seq(self._store, self.id, int(at[5:]))
        return why.why(self._store, self.id, seq)

    def timeline(self, *, now: datetime | None = None) -> Timeline:
        """When each node ran, for how long and at what cost, and how long humans were waited for, until `now`.

        Raises TraceErased, LogCorrupted.
        """
        return timeline.timeline(self._store, self.id, now=now)

    def fork(
        self,
        at: At | None = None,
        *,
        put: Mapping[str, Any] | None = None,
        name: str | None = None,
        id: str | None = None,
    ) -> Trace:
        """Another future of this trace from a place on; see `Store.fork`."""
        return self._store.fork(self.id, at, put=put, name=name, id=id)

    def _place(self, at: At | None) -> int | None:
        if at is None or (type(at) is int and at >= 0):
            return at
        return places.seq_at(self._store, self.id, at)
