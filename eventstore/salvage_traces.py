"""What of each trace is sound: its own rows as far as the hash chain carries them, from its root, its fork, its name.

The chain proves more than itself. A row of the table `trace` that was lost or changed is told anew by the first event,
whose digest begins with that of the trace's id; the id is in the index. What stands beside the log (checkpoints,
leases, threads) is kept where it stands on rows that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from . import chain
from .bases import root_checksum
from .chain import Chain
from .codec import as_column, decode_event, decode_rows
from .event import TraceForked, TraceStarted
from .link import decode_whole
from .salvage_beside import drop, drop_beside, drop_unsealed_tombstones
from .salvage_rows import Found

IDS = "SELECT trace FROM found UNION SELECT id FROM named UNION SELECT trace FROM root"
NAME = "SELECT DISTINCT trace_id FROM named WHERE id = ?"
AT = "SELECT n, append_id, at_us, digest, CAST(body AS BLOB) FROM found WHERE trace = ? AND first_seq = ?"
LATER = (
    "SELECT max(first_seq) FROM (SELECT first_seq FROM found WHERE trace = ?1"
    " UNION ALL SELECT first_seq FROM place WHERE trace = ?1)"
)
LOWEST = "SELECT min(first_seq) FROM found WHERE trace = ?"
UNNAMED = "SELECT count(*) FROM found WHERE trace = ?"
ERASED = "SELECT trace_id FROM tombstone WHERE trace = ?"
ROOTS = (
    "SELECT seq, at_us, digest, checksum, created_us, seal, CAST(body AS BLOB) FROM root WHERE trace = ?"
    " ORDER BY seq DESC"
)
ROOT = "SELECT coalesce(created_us, at_us), CAST(body AS BLOB) FROM root WHERE trace = ? AND seq = ?"
OTHER_ROOTS = "DELETE FROM root WHERE trace = ? AND seq <> ?"
DIGEST_AT = (
    "SELECT digest FROM log WHERE trace = ?1 AND first_seq + n - 1 = ?2 AND first_seq ="
    " (SELECT max(first_seq) FROM log WHERE trace = ?1 AND first_seq <= ?2)"
    " UNION ALL SELECT digest FROM root WHERE trace = ?1 AND seq = ?2"
)
ADD_TRACE = "INSERT INTO trace (id, trace_id, name, parent, fork_seq, created_us) VALUES (?, ?, ?, ?, ?, ?)"
ADD_ROW = "INSERT INTO log (trace, first_seq, n, append_id, at_us, digest, body) VALUES (?, ?, ?, ?, ?, ?, ?)"


class Verdict(NamedTuple):
    """What became of a trace. `kept_to`: the last sound seq, 0 where nothing is; `reason`: why it ends there."""

    trace_id: str
    kept_to: int
    reason: str | None


class Row(NamedTuple):
    """A trace's row, as found or told anew."""

    trace_id: str
    name: str
    parent: int | None
    fork_seq: int
    created_us: int


class Judge:
    """Puts what is sound into the tables of the file, each trace's rows along its chain.

    `unnamed`: rows of the log that no id could be found for; `dropped`: rows beside the log that stand on nothing.
    """

    def __init__(self, found: Found, chain_: Chain) -> None:
        self.found, self.chain = found, chain_
        self.connection = found.connection
        self.ids: dict[str, int] = {}
        self.unnamed = 0
        self.dropped = 0

    def traces(self) -> Iterator[Verdict]:
        """Each trace, parents before their forks."""
        self.dropped += drop_unsealed_tombstones(self.connection, self.chain)
        ids = {number for (number,) in self.connection.execute(IDS) if type(number) is int}
        for number in sorted(ids | self.found.traces.keys()):
            if self.connection.execute(ERASED, (number,)).fetchone() is None:
                verdict = self._trace(number)
                if verdict is not None:
                    yield verdict
        self.dropped += drop_beside(self.connection, self.chain)

    def _trace(self, number: int) -> Verdict | None:
        best: Verdict | None = None
        for row in self._candidates(number):
            start = self._start(number, row)
            if isinstance(start, Verdict):
                best = best or start
                continue
            seq, digest, has_root = start
            if has_root or self._next(number, seq, digest) is not None:
                return self._carry(number, row, *start)
            reason = self._why(number, seq) or "none of its rows can be read"
            best = best or Verdict(row.trace_id, 0, reason)
        if best is None:
            count: Any = self.connection.execute(UNNAMED, (number,)).get
            self.unnamed += count
        return best

    def _candidates(self, number: int) -> Iterator[Row]:
        """Who the trace can be: as its row says and as its first event says, by each id that the file has for it."""
        said = self.found.traces.get(number)
        names = [] if said is None else [said[1]]
        names += [name for (name,) in self.connection.execute(NAME, (number,)) if name not in names]
        first = self._opening(number)
        for trace_id in names:
            if not 0 < len(trace_id) <= 200 or trace_id in self.ids:
                continue
            if first is not None:
                event, at_us = first
                if isinstance(event, TraceStarted):
                    yield Row(trace_id, event.name, None, 0, at_us)
                elif (parent := self.ids.get(event.parent_trace_id)) is not None:
                    yield Row(trace_id, event.name, parent, event.fork_seq, at_us)
            if said is not None:
                _, _, name, parent, fork_seq, created_us, _ = said
                yield Row(trace_id, name, parent, fork_seq, created_us)
            elif (root := self._root(number, trace_id)) is not None:
                self.dropped += 1  # when it was made, nothing else says
                yield self._told_by_root(number, trace_id, *root)

    def _told_by_root(self, number: int, trace_id: str, seq: int, digest: bytes) -> Row:
        """Of a trimmed trace whose row was lost: its name is in control, a fork's parent in an index."""
        at_us, body = self.connection.execute(ROOT, (number, seq)).fetchone() or (0, b"")
        control: Any = decode_whole(body)[0]
        parent, fork_seq = self.found.forks.get(number, (None, 0))
        return Row(trace_id, str(control.get("name", "")), parent, fork_seq, at_us)

    def _opening(self, number: int) -> tuple[TraceStarted | TraceForked, int] | None:
        """The event that the trace begins with, if its row is there, and when."""
        said = self.found.traces.get(number)
        lowest: Any = self.connection.execute(LOWEST, (number,)).get
        begins = {1, lowest} if said is None else {1, lowest, said[4] + 1}
        for seq in sorted(seq for seq in begins if type(seq) is int and seq < 2**63):
            for n, _, at_us, _, body in self.connection.execute(AT, (number, seq)):
                try:
                    event = decode_event(decode_rows(body)[0])
                except (ValueError, TypeError, IndexError, KeyError, RecursionError, msgspec.MsgspecError):
                    continue
                if n and isinstance(event, TraceStarted | TraceForked):
                    return event, at_us
        return None

    def _start(self, number: int, row: Row) -> tuple[int, bytes, bool] | Verdict:
        """The seq and the digest before the trace's own rows, and whether that is its root."""
        root = self._root(number, row.trace_id)
        if root is not None:
            return *root, True
        if row.parent is None:
            return 0, chain.genesis(row.trace_id), False
        found: Any = self.connection.execute(DIGEST_AT, (row.parent, row.fork_seq)).fetchone()
        if found is None:
            parent = self._name(row.parent)
            return Verdict(row.trace_id, 0, f"it is a fork of {parent} at seq {row.fork_seq}, which is not kept so far")
        return row.fork_seq, found[0], False

    def _carry(self, number: int, row: Row, seq: int, digest: bytes, has_root: bool) -> Verdict:
        """Keep the trace, as far as the chain carries it."""
        self.ids[row.trace_id] = number
        self.dropped += drop(self.connection, OTHER_ROOTS, (number, seq if has_root else 0))
        self.connection.execute(ADD_TRACE, (number, row.trace_id, row.name, row.parent, row.fork_seq, row.created_us))
        while (found := self._next(number, seq, digest)) is not None:
            n, append_id, at_us, own, body = found
            self.connection.execute(ADD_ROW, (number, seq + 1, n, append_id, at_us, own, as_column(body)))
            seq, digest = seq + n, own
        return Verdict(row.trace_id, seq, self._why(number, seq))

    def _next(self, number: int, seq: int, digest: bytes) -> Any:
        """The row after `seq` that extends the digest."""
        rows = self.connection.execute(AT, (number, seq + 1)).fetchall()
        return next((values for values in rows if self._extends(digest, seq + 1, values)), None)

    def _why(self, number: int, seq: int) -> str | None:
        """Why a trace ends at `seq`; None where nothing speaks against it."""
        if self.connection.execute(AT, (number, seq + 1)).fetchone() is not None:
            return f"the row at seq {seq + 1} is not what was written, or one before it is missing"
        last: Any = self.connection.execute(LATER, (number,)).get
        if type(last) is int and last > seq:
            return f"the row at seq {seq + 1} is missing or cannot be read"
        return None

    def _extends(self, digest: bytes, first_seq: int, values: Any) -> bool:
        n, append_id, at_us, own, body = values
        if type(n) is not int or type(at_us) is not int or type(body) is not bytes or not 0 < n < 2**32:
            return False
        if append_id is not None and type(append_id) not in (int, str):
            return False
        return bool(self.chain.extend(digest, first_seq, n, at_us, append_id, body) == own)

    def _root(self, number: int, trace_id: str) -> tuple[int, bytes] | None:
        """Where a trimmed trace begins; one that does not hold is dropped."""
        roots: list[Any] = self.connection.execute(ROOTS, (number,)).fetchall()
        for seq, at_us, digest, crc, created_us, seal, body in roots:
            is_sound = crc == root_checksum(number, seq, body)
            if is_sound and self.chain.is_sealed(seal, trace_id, created_us, seq, at_us, digest, body):
                return seq, digest
        return None

    def _name(self, number: int | None) -> str:
        return next((name for name, other in self.ids.items() if other == number), f"a trace of row {number}")
