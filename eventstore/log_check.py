"""Does the log of one trace hold together? One pass over its own rows, in order.

They begin where the trace does: with nothing, at a root, or after its parent's row at the fork. Seqs are dense, each
digest extends the one before it, every body decodes and folds; each base on the way is what the rows come to. What
the rows say of what stands beside the log (barriers, name and time of the trace) is noted for `row_check`. The
first row that does not hold ends the pass: nothing after it can be judged. Whatever goes wrong is a problem of this
trace; the next one has its own pass.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import apsw

from . import base_check, chain, log
from .bases import EMPTY, PLACE, UNFOLDABLE, Base, restore, root_checksum
from .chain import Chain
from .codec import Row, decode_event, decode_rows
from .control import pending_barriers
from .errors import EventStoreError
from .link import Link, State, decode_whole, fold_rows
from .log import LogRow, TraceRow
from .problem import Problem

ROOT = (
    "SELECT seq, at_us, digest, checksum, created_us, seal, CAST(body AS BLOB) FROM root WHERE trace = ?"
    " ORDER BY seq DESC LIMIT 1"
)
BASES = f"SELECT {PLACE}, CAST(body AS BLOB) FROM base WHERE trace = ? ORDER BY seq"
BASE_SEQ = "SELECT trace, seq FROM base WHERE id = ?"
DAMAGE = (*UNFOLDABLE, struct.error)
"""What reading a row can come to that nobody wrote: a bit decides whether a column holds a number or a text."""


class Stop(Exception):
    """The rest of this trace cannot be judged."""


class Said(NamedTuple):
    """What the log says of a barrier. None: that is behind what can be read."""

    raised_seq: int | None = None
    raised_us: int | None = None
    deadline_us: int | None = None
    decided_seq: int | None = None


class LogCheck:
    """One trace under judgement. `chain_`: what computes the digests of the file; `anchor`: a digest to look for.

    After `run`: `problems`; `head`, the last digest, None where the pass ended early; `anchored_at`, the seq at which
    the anchor was found; and what `row_check` asks for.
    """

    def __init__(
        self, connection: apsw.Connection, trace: TraceRow, chain_: Chain, anchor: bytes | None = None
    ) -> None:
        self.connection = connection
        self.trace = trace
        self.chain = chain_
        self.anchor = anchor
        self.anchored_at: int | None = None
        self.problems: list[Problem] = []
        self.events = self.bases = 0
        self.head: bytes | None = None
        self.version = 0
        self.control: State = {}
        self.state: State = {}
        self.boundaries: set[int] = set()
        self.begins_at: tuple[int, int] | None = None
        self.created_us: int | None = None
        self.first: Row | None = None
        self.first_us: int | None = None
        self.inherited: list[str] = []
        self.barriers: dict[str, Said] = {}

    def fail(self, seq: int, check: str, reason: str, *, in_log: bool = True) -> None:
        """Note a problem."""
        self.problems.append(Problem(self.trace.trace_id, seq, check, reason, in_log))

    def run(self) -> bool:
        """The pass; whether it came to the end."""
        try:
            self._walk()
        except Stop:
            return False
        except (apsw.Error, *DAMAGE) as error:
            self.fail(self.version + 1, "sqlite", str(error))
            return False
        return True

    def _walk(self) -> None:
        trace = self.trace
        digest, seq = self._begin()
        self._reached(seq, digest)
        self.inherited = pending_barriers(self.control)
        bases = {base.seq: base for base in map(Base._make, self.connection.execute(BASES, (trace.id,)))}
        links = {base.seq: Link() for base in bases.values() if base.parent is not None}
        starts = {base.seq: self._parent_seq(base) for base in bases.values() if base.parent is not None}
        below, wanted = {seq: base_check.keys_of(self.control, self.state)}, set(starts.values())
        cursor = self.connection.execute(log.FULL_ROWS, (trace.id, seq, 2**62, -1))
        for row in map(LogRow._make, cursor):
            rows = self._check_row(row, seq, digest)
            seq, digest = row.last_seq, row.digest
            for end, link in links.items():
                start = starts[end]
                if start is not None and start < row.first_seq and seq <= end:
                    link.add_rows(decode_rows(row.body))
            self._fold(row, rows)
            self._reached(seq, digest)
            if seq in wanted:
                below[seq] = base_check.keys_of(self.control, self.state)
            if (found := bases.pop(seq, None)) is not None:
                start = starts.get(seq)
                link_ = links.pop(seq, None)
                is_own = start is not None and start >= trace.fork_seq
                self._check_base(found, link_ if is_own else None, start, below.get(-1 if start is None else start))
        for left in bases.values():
            self.fail(left.seq, "base", f"base {left.id} stands at no step boundary", in_log=False)
        self.head = digest
        if seq == trace.fork_seq and self.begins_at is None:
            self.fail(seq + 1, "seq", "it has no rows")
            raise Stop

    def _reached(self, seq: int, digest: bytes) -> None:
        self.version = seq
        self.boundaries.add(seq)
        if digest == self.anchor:
            self.anchored_at = seq

    def _begin(self) -> tuple[bytes, int]:
        """The digest and the seq before the first row; control and state there."""
        trace, connection = self.trace, self.connection
        root = connection.execute(ROOT, (trace.id,)).fetchone()
        if root is not None:
            seq, at_us, digest, crc, created_us, seal, body = root
            if crc != root_checksum(trace.id, seq, body):
                self.fail(seq, "root", "the root fails its checksum")
                raise Stop
            if not self.chain.is_sealed(seal, trace.trace_id, created_us, seq, at_us, digest, body):
                self.fail(seq, "root", "the root is not what was sealed")
                raise Stop
            try:
                self.control, self.state = decode_whole(body)
            except ValueError as error:
                self.fail(seq, "root", str(error))
                raise Stop from None
            self.begins_at, self.created_us = (seq, at_us), created_us
            return digest, seq
        if trace.parent is None:
            return chain.genesis(trace.trace_id), 0
        try:
            parent = log.trace_by_row(connection, trace.parent)
            head = log.boundary(connection, parent, trace.fork_seq)
            segments = log.lineage(connection, parent, trace.fork_seq)
            restored = restore(connection, "", segments, trace.fork_seq, parent.trace_id, bases=False)
        except (EventStoreError, apsw.Error, *DAMAGE) as error:
            self.fail(trace.fork_seq, "fork", f"its parent cannot be read: {error}")
            raise Stop from None
        self.control, self.state = restored.control, restored.state
        return head.digest, trace.fork_seq

    def _parent_seq(self, base: Base) -> int | None:
        """Where a link's stretch begins; None when its parent is gone."""
        if base.parent == EMPTY:
            return 0
        row = self.connection.execute(BASE_SEQ, (base.parent,)).fetchone()
        return None if row is None else int(row[1])

    def _check_row(self, row: LogRow, seq: int, digest: bytes) -> list[Row]:
        if row.first_seq != seq + 1:
            self.fail(seq + 1, "seq", f"the next row begins at {row.first_seq}")
            raise Stop
        try:
            rows = decode_rows(row.body)
            for event in rows:
                if event.kind != "delta":
                    decode_event(event)
        except DAMAGE as error:
            self.fail(row.first_seq, "body", str(error))
            raise Stop from None
        if self.chain.extend(digest, row.first_seq, row.n, row.at_us, row.append_id, row.body) != row.digest:
            self.fail(row.first_seq, "digest", "the row is not what was written, or a row before it is missing")
            raise Stop
        if len(rows) != row.n:
            self.fail(row.first_seq, "seq", f"{len(rows)} events in a row of {row.n}")
            raise Stop
        return rows

    def _fold(self, row: LogRow, rows: list[Row]) -> None:
        if self.first is None and self.begins_at is None:
            self.first, self.first_us = rows[0], row.at_us
        try:
            for seq, event in enumerate(rows, row.first_seq):
                if event.kind != "delta":
                    self._note(event, seq, row.at_us)
            fold_rows(self.control, self.state, rows)
        except DAMAGE as error:
            self.fail(row.first_seq, "fold", str(error))
            raise Stop from None
        self.events += row.n

    def _note(self, event: Row, seq: int, at_us: int) -> None:
        """What the event says of the rows beside the log."""
        data = event.data
        if event.kind == "barrier_raised":
            self.barriers[data["barrier_id"]] = Said(seq, at_us, data.get("deadline_us"))
        elif event.kind == "barrier_decided":
            said = self.barriers.get(data["barrier_id"], Said())
            self.barriers[data["barrier_id"]] = said._replace(decided_seq=seq)
        elif event.kind == "trace_forked":
            withdrawn = {barrier_id for barrier_id, _ in data.get("withdrawn", ())}
            self.inherited = [barrier_id for barrier_id in self.inherited if barrier_id not in withdrawn]

    def _check_base(self, base: Base, link: Link | None, start: int | None, below: base_check.Keys | None) -> None:
        self.bases += 1
        found = base_check.fault(self.connection, base, (self.control, self.state), link, start, below)
        if found is not None:
            self.fail(base.seq, "base", f"base {base.id} {found}", in_log=False)
