"""A stretch of a trace, state by state: what reading one place of it costs anyway, and its neighbours for little more.

From the base before a place the log is folded forward to it, and the state after each commit is kept on the way.
Those states share what did not change, opaque lists that grew included, so a window is about as large as its last
state. The log never changes, so a window never goes stale: the cache is bounded, and nothing else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from . import bases, log
from .codec import decode_rows
from .errors import LogCorrupted
from .link import decode_link, decode_whole, fold_rows
from .opaque import Opaque
from .recent import Recent
from .walk import take_in

if TYPE_CHECKING:
    from .store import Store

State = dict[str, Any]
PLACE_BYTES = 2048
"""What a kept state costs beside its values, about."""
TIPS = 256
"""How many traces' ends are kept."""
BASES = ASKED = 4096
STRETCH_SEQS = 2048
"""How far beyond a place its neighbours are kept, where no base comes sooner."""


class Snapshot(NamedTuple):
    """State and control at one place, shared: not to be changed."""

    state: State
    control: State


def size_bytes(state: State) -> int:
    """What opaque values hold."""
    return sum(value.size_bytes for value in state.values() if type(value) is Opaque)


class Windows:
    """The states read last, of one store. Thread-safe.

    `limit_bytes`: how much windows, traces' ends and bases may hold, each; what was read longest ago goes first.
    """

    def __init__(self, store: Store, limit_bytes: int = 64 * 1024 * 1024) -> None:
        self._store = store
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int], tuple[dict[int, Snapshot], int]] = OrderedDict()
        self._where: dict[tuple[int, int], tuple[int, int]] = {}
        self._bytes = 0
        self._asked: set[int] = set()
        self._bases = Recent[int, Snapshot](BASES, limit_bytes)
        self._tips = Recent[int, tuple[int, Snapshot]](TIPS, limit_bytes)

    def at(self, trace: int, seq: int) -> Snapshot:
        """State and control at that boundary of the trace with that row id. Raises LogCorrupted, TraceNotFound."""
        with self._lock:
            tip = self._tips.get(trace)
            if tip is not None and tip[0] == seq:
                return tip[1]
            key = self._where.get((trace, seq))
            if key is not None:
                self._held.move_to_end(key)
                return self._held[key][0][seq]
        with self._store._database.reader() as connection:
            start, window = self._read(connection, trace, seq)
        if start is not None:
            self._keep((trace, start), window)
        else:
            self.keep(trace, seq, window[seq])
        return window[seq]

    def _read(self, connection: Any, trace: int, seq: int) -> tuple[int | None, dict[int, Snapshot]]:
        """The states from the base before `seq` to the one after it, by seq, and where it begins, 0 for no base.

        Of a trace that nobody has read before only the state at `seq`, and None.
        """
        row = log.trace_by_row(connection, trace)
        segments = log.lineage(connection, row, seq)
        base = bases.nearest(connection, segments, seq)
        trimmed = any(log.root_seq(connection, segment.trace) for segment in segments)
        below = self._base(connection, base.id) if base is not None else None if trimmed else Snapshot({}, {})
        if below is None:  # a base that is damaged, or a root
            restored = bases.restore(connection, self._store.path, segments, seq, row.trace_id)
            return None, {seq: Snapshot(restored.state, restored.control)}
        start = 0 if base is None else base.seq
        is_known = self._is_known(trace)
        if is_known:  # as far as the base after it: whoever looks around here finds it all
            upto = bases.next_seq(connection, trace, seq) or log.head(connection, row).version
            segments = log.lineage(connection, row, min(max(seq, upto), seq + STRETCH_SEQS))
        window = {start: below}
        state, control, last = _own(below.state), _own(below.control), start
        sizes, held_bytes = {start: 0}, 0
        for first_seq, n, body in log.rows(connection, segments, start):
            last = first_seq + n - 1
            try:
                if is_known:
                    before = dict(state)
                    take_in(state, control, body)
                    window[last], sizes[last] = Snapshot(dict(state), dict(control)), _beside(before, state)
                    held_bytes += sizes[last]
                    if held_bytes > self._limit_bytes:  # they share little
                        if last > seq:
                            break
                        while held_bytes > self._limit_bytes and len(window) > 1:
                            oldest = next(iter(window))
                            held_bytes -= sizes.pop(oldest)
                            del window[oldest]
                else:
                    fold_rows(control, state, decode_rows(body))
            except bases.UNFOLDABLE as error:
                raise LogCorrupted(self._store.path, row.trace_id, first_seq, str(error)) from error
        if not is_known and last == seq:
            return None, {seq: Snapshot(state, control)}
        if seq not in window:
            raise LogCorrupted(self._store.path, row.trace_id, seq, "no commit ends here")
        return start, window

    def _base(self, connection: Any, base_id: int) -> Snapshot | None:
        """The state at a base: the links since the last one that is held, applied to it. None where one is damaged."""
        above: list[bases.Base] = []
        while True:
            with self._lock:
                found = self._bases.get(base_id)
            if found is not None:
                break
            base = bases.by_id(connection, base_id)
            if base is None or not base.is_sound():
                return None
            above.append(base)
            if base.parent is None or base.parent == bases.EMPTY:
                found = Snapshot({}, {})
                break
            base_id = base.parent
        for base in reversed(above):
            try:
                if base.parent is None:
                    control, state = decode_whole(base.body)
                else:
                    state, control = _own(found.state), _own(found.control)
                    decode_link(base.body).apply(control, state)
            except bases.UNFOLDABLE:
                return None
            found = Snapshot(state, control)
            with self._lock:
                self._bases.keep(base.id, found, len(base.body))
        return found

    def _is_known(self, trace: int) -> bool:
        """Whether the trace was read before: who reads one place of it may never read another."""
        with self._lock:
            if trace in self._asked:
                return True
            if len(self._asked) >= ASKED:
                self._asked.clear()
            self._asked.add(trace)
            return False

    def keep(self, trace: int, seq: int, snapshot: Snapshot) -> None:
        """Remember a state that is known anyway, at the trace's end mostly, in the place of the one kept so before."""
        with self._lock:
            self._tips.keep(trace, (seq, snapshot), size_bytes(snapshot.state))

    def _keep(self, key: tuple[int, int], window: dict[int, Snapshot]) -> None:
        size, before = 0, State()
        for snapshot in window.values():
            size += _beside(before, snapshot.state)
            before = snapshot.state
        with self._lock:
            self._drop(key)
            self._held[key] = window, size
            self._bytes += size
            self._where.update(dict.fromkeys(((key[0], seq) for seq in window), key))
            while self._bytes > self._limit_bytes and len(self._held) > 1:
                self._drop(next(iter(self._held)))

    def _drop(self, key: tuple[int, int]) -> None:
        found = self._held.pop(key, None)
        if found is not None:
            window, size = found
            self._bytes -= size
            for seq in window:
                if self._where.get((key[0], seq)) == key:
                    del self._where[key[0], seq]


def _own(values: State) -> State:
    """A copy in which what deltas extend in place is copied, too."""
    return {key: value.copy() if type(value) is dict or type(value) is list else value for key, value in values.items()}


def _beside(before: State, state: State) -> int:
    """About what a state costs beside the one before it, with which it shares what did not change."""
    size = PLACE_BYTES
    for channel, value in state.items():
        old = before.get(channel)
        if type(value) is Opaque and value is not old:
            size += value.size_bytes - (old.size_bytes if type(old) is Opaque and old.begins(value) else 0)
    return size
