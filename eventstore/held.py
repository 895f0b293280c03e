"""Whole states in memory, encoded as a base in the file is: the ends of traces, and what chains of links come to.

A state that was handed out is the caller's to change, so what is held is bytes, which each read decodes anew. The log
never changes and the ids of traces and bases never come back: what is held never goes stale. Rows that came after,
whoever wrote them, are folded over it as over any base. Only what is read again is worth holding: of a trace that
nobody has looked at before nothing is.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from .link import State, encode_whole
from .recent import Recent

HELD, HELD_BYTES = 4096, 32 * 1024 * 1024
HELD_PER_TAIL = 32
"""How many times the bytes of a tail the end under it may have: encoding is that much faster than folding."""


class End(NamedTuple):
    """A whole state at `seq`."""

    seq: int
    body: bytes


class Held:
    """What is held for one store: at most `HELD_BYTES` of ends, and of bases. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: set[int] = set()
        self._ends = Recent[int, End](HELD, HELD_BYTES)
        self._bases = Recent[int, bytes](HELD, HELD_BYTES)

    def knows(self, trace: int) -> bool:
        """Whether the trace was looked at before. Now it was."""
        with self._lock:
            if trace in self._known:
                return True
            if len(self._known) >= HELD:
                self._known.clear()
            self._known.add(trace)
            return False

    def end(self, trace: int) -> End | None:
        """The last end of that trace that was held."""
        return self._ends.get(trace)

    def keep_end(self, trace: int, seq: int, control: State, state: State, tail_bytes: int) -> None:
        """Hold an end, unless the one that is held was little behind it: `tail_bytes`."""
        before = self.end(trace)
        if before is None or tail_bytes * HELD_PER_TAIL > len(before.body):
            body = encode_whole(control, state)
            with self._lock:
                self._ends.keep(trace, End(seq, body), len(body))

    def base(self, base_id: int) -> bytes | None:
        """The whole state at the base of that row id."""
        return self._bases.get(base_id)

    def keep_base(self, base_id: int, control: State, state: State) -> None:
        """Hold the whole state at a base."""
        body = encode_whole(control, state)
        with self._lock:
            self._bases.keep(base_id, body, len(body))
