"""Does the file hold together? One pass over each trace's log, in order.

Checked: seqs are dense, each row's digest extends the one before it, every body decodes and folds, each
link is the net effect of exactly its stretch and each whole state equals the fold, each root equals
nothing but what its digest says, and the projections (status, barriers, checkpoints' places, the threads of
other frameworks) say what the log says. A damaged trace is named by its first bad seq and never keeps the
others from being read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import apsw

from . import chain, log, scope_check
from .bases import EMPTY, PLACE, STEPS_AT, Base, restore, root_checksum, steps_checksum
from .codec import Row, decode_event, decode_rows, msgpack_encode
from .control import pending_barriers, status_of
from .errors import EventStoreError, StateError
from .event import JsonRecord
from .link import OPS, Link, State, decode_link, decode_whole, fold_rows
from .log import LogRow, TraceRow

if TYPE_CHECKING:
    from .store import Store

TRACES = "SELECT id, trace_id, name, parent, fork_seq, created_us, status FROM trace ORDER BY id"
BASES = f"SELECT {PLACE}, CAST(body AS BLOB) FROM base WHERE trace = ? ORDER BY seq"
BASE_SEQ = "SELECT trace, seq FROM base WHERE id = ?"
BARRIERS = "SELECT barrier_id, raised_seq, decided_seq, deadline_us FROM barrier WHERE trace = ?"
CHECKPOINTS = "SELECT checkpoint_id, seq FROM checkpoint WHERE trace = ?"
ORPHANS = (
    "SELECT 'log', trace, min(first_seq) FROM log WHERE trace NOT IN (SELECT id FROM trace) GROUP BY trace"
    " UNION ALL SELECT 'base', trace, min(seq) FROM base WHERE trace NOT IN (SELECT id FROM trace) GROUP BY trace"
)


class Problem(JsonRecord, frozen=True):
    """Something that does not hold: in which trace, from which seq on, and what.

    `in_log`: the truth is damaged; otherwise something derived, which can be rebuilt.

    >>> str(Problem("t1", 7, "digest", "the row is not what was written", True))
    'trace t1, seq 7: digest: the row is not what was written'
    """

    trace_id: str
    seq: int
    check: str
    reason: str
    in_log: bool

    def __str__(self) -> str:
        return f"trace {self.trace_id}, seq {self.seq}: {self.check}: {self.reason}"


class VerifyReport(JsonRecord, frozen=True):
    """What `verify` read, and what it found. `heads`: each trace's last digest (hex), to keep elsewhere.

    >>> VerifyReport(2, 10, 1, [], {}).ok
    True
    """

    traces: int
    events: int
    bases: int
    problems: list[Problem]
    heads: dict[str, str]

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return not self.problems


class _Stop(Exception):
    """The rest of this trace cannot be judged."""


def verify(store: Store, trace_id: str | None = None) -> VerifyReport:
    """Verify one trace, or all and the file itself. Raises TraceNotFound."""
    report = VerifyReport(0, 0, 0, [], {})
    damaged: set[int] = set()
    events = base_count = 0
    with store._database.reader() as connection:
        if trace_id is None:
            report.problems.extend(_file_problems(connection))
            traces = [TraceRow._make(row) for row in connection.execute(TRACES)]
        else:
            traces = [log.find_trace(connection, trace_id)]
        for trace in traces:
            check = _TraceCheck(connection, trace, store._database.chain)
            check.run()
            events += check.events
            base_count += check.bases
            report.problems.extend(check.problems)
            if check.head is not None:
                report.heads[trace.trace_id] = check.head.hex()
            if trace.parent in damaged or any(problem.in_log for problem in check.problems):
                damaged.add(trace.id)
        only = None if trace_id is None else traces[0].id
        for fault in scope_check.faults(connection, only, damaged):
            report.problems.append(Problem(fault.trace_id or "-", fault.seq, "thread", fault.reason, False))
    return VerifyReport(len(traces), events, base_count, report.problems, report.heads)


def _file_problems(connection: apsw.Connection) -> Iterator[Problem]:
    for (message,) in connection.execute("PRAGMA integrity_check(10)"):
        if message != "ok":
            yield Problem("-", 0, "sqlite", message, True)
    for table, row_id, seq in connection.execute(ORPHANS):
        yield Problem(f"row {row_id}", seq, table, "rows of a trace that does not exist", True)


Keys = tuple[frozenset[str], frozenset[str]]


class _TraceCheck:
    def __init__(self, connection: apsw.Connection, trace: TraceRow, chain_: chain.Chain) -> None:
        self.connection = connection
        self.chain = chain_
        self.trace = trace
        self.problems: list[Problem] = []
        self.events = self.bases = 0
        self.head: bytes | None = None
        self.control: State = {}
        self.state: State = {}
        self.boundaries: set[int] = set()
        self.has_root = False
        self.inherited: list[str] = []
        self.barriers: dict[str, list[int | None]] = {}

    def fail(self, seq: int, check: str, reason: str, *, in_log: bool = True) -> None:
        self.problems.append(Problem(self.trace.trace_id, seq, check, reason, in_log))

    def run(self) -> None:
        try:
            self.walk()
        except _Stop:
            return
        except apsw.Error as error:
            self.fail(0, "sqlite", str(error))
            return
        self.projections()

    def walk(self) -> None:
        """Fold own rows from where they begin: nothing, a root, or the parent's state at the fork."""
        trace = self.trace
        digest, seq = self.begin()
        self.inherited = pending_barriers(self.control)
        self.boundaries.add(seq)
        bases = {base.seq: base for base in map(Base._make, self.connection.execute(BASES, (trace.id,)))}
        links: dict[int, Link] = {}
        for base in bases.values():
            if base.parent is not None:
                links[base.seq] = Link()
        starts = {base.seq: self.parent_seq(base) for base in bases.values() if base.parent is not None}
        below, wanted = {seq: self.keys()}, set(starts.values())
        cursor = self.connection.execute(log.FULL_ROWS, (trace.id, seq, 2**62, -1))
        for row in map(LogRow._make, cursor):
            rows = self.check_row(row, seq, digest)
            seq, digest = row.last_seq, row.digest
            self.boundaries.add(seq)
            for end, link in links.items():
                start = starts[end]
                if start is not None and start < row.first_seq and seq <= end:
                    link.add_rows(decode_rows(row.body))
            self.fold(row, rows)
            if seq in wanted:
                below[seq] = self.keys()
            if (found := bases.pop(seq, None)) is not None:
                start = starts.get(seq)
                self.check_base(found, links.pop(seq, None), start, below.get(-1 if start is None else start))
        if seq == trace.fork_seq and not self.has_root:
            self.fail(seq + 1, "seq", "it has no rows")
        self.head = digest
        for left in bases.values():
            self.fail(left.seq, "base", f"base {left.id} stands at no step boundary", in_log=False)

    def begin(self) -> tuple[bytes, int]:
        trace, connection = self.trace, self.connection
        root = connection.execute(
            "SELECT seq, digest, checksum, CAST(body AS BLOB) FROM root WHERE trace = ? ORDER BY seq DESC LIMIT 1",
            (trace.id,),
        ).fetchone()
        if root is not None:
            seq, digest, crc, body = root
            if crc != root_checksum(trace.id, seq, body):
                self.fail(seq, "root", "the root fails its checksum")
                raise _Stop
            self.control, self.state = decode_whole(body)
            self.has_root = True
            return digest, seq
        if trace.parent is None:
            return chain.genesis(trace.trace_id), 0
        parent = log.trace_by_row(connection, trace.parent)
        try:
            head = log.boundary(connection, parent, trace.fork_seq)
            segments = log.lineage(connection, parent, trace.fork_seq)
            restored = restore(connection, "", segments, trace.fork_seq, parent.trace_id, bases=False)
        except EventStoreError as error:
            self.fail(trace.fork_seq, "fork", f"its parent cannot be read: {error}")
            raise _Stop from None
        self.control, self.state = restored.control, restored.state
        return head.digest, trace.fork_seq

    def parent_seq(self, base: Base) -> int | None:
        """Where a link's stretch begins; None when its parent is gone."""
        if base.parent == EMPTY:
            return 0
        row = self.connection.execute(BASE_SEQ, (base.parent,)).fetchone()
        return None if row is None else int(row[1])

    def check_row(self, row: LogRow, seq: int, digest: bytes) -> list[Row]:
        if row.first_seq != seq + 1:
            self.fail(seq + 1, "seq", f"the next row begins at {row.first_seq}")
            raise _Stop
        try:
            rows = decode_rows(row.body)
            for event in rows:
                if event.kind != "delta":
                    decode_event(event)
        except (ValueError, UnicodeError) as error:
            self.fail(row.first_seq, "body", str(error))
            raise _Stop from None
        if self.chain.extend(digest, row.first_seq, row.n, row.at_us, row.append_id, row.body) != row.digest:
            self.fail(row.first_seq, "digest", "the row is not what was written, or a row before it is missing")
            raise _Stop
        if len(rows) != row.n:
            self.fail(row.first_seq, "seq", f"{len(rows)} events in a row of {row.n}")
            raise _Stop
        return rows

    def fold(self, row: LogRow, rows: list[Row]) -> None:
        for seq, event in enumerate(rows, row.first_seq):
            if event.kind == "barrier_raised":
                self.barriers[event.data["barrier_id"]] = [seq, None, event.data.get("deadline_us")]
            elif event.kind == "trace_forked":
                withdrawn = {barrier_id for barrier_id, _ in event.data.get("withdrawn", ())}
                self.inherited = [barrier_id for barrier_id in self.inherited if barrier_id not in withdrawn]
            elif event.kind == "barrier_decided":
                self.barriers.setdefault(event.data["barrier_id"], [None, None, None])[1] = seq
        try:
            fold_rows(self.control, self.state, rows)
        except (StateError, TypeError, KeyError) as error:
            self.fail(row.first_seq, "fold", str(error))
            raise _Stop from None
        self.events += row.n

    def keys(self) -> tuple[frozenset[str], frozenset[str]]:
        """What control and state hold now."""
        return frozenset(self.control), frozenset(self.state)

    def check_base(self, base: Base, link: Link | None, start: int | None, below: Keys | None) -> None:
        self.bases += 1
        problem = None
        steps, crc = self.connection.execute(STEPS_AT, (base.id,)).fetchone() or (None, None)
        if crc is not None and crc != steps_checksum(base.trace, base.seq, steps or 0):
            problem = "fails the checksum of its steps"
        elif steps is not None and steps != self.control.get("steps", 0):
            problem = f"counts {steps} steps, the log {self.control.get('steps', 0)}"
        try:
            if not base.is_sound():
                problem = "fails its checksum"
            elif base.parent is None:
                if msgpack_encode(decode_whole(base.body)) != msgpack_encode((self.control, self.state)):
                    problem = "is not the fold of the log"
            elif start is None:
                problem = f"stands on base {base.parent}, which is gone"
            elif link is not None and start >= self.trace.fork_seq:
                found = decode_link(base.body)
                if not _equal(found, link) and (below is None or not self.has_effect(found, link, below)):
                    problem = "is not the net effect of its stretch"
        except (ValueError, TypeError) as error:
            problem = str(error)
        if problem:
            self.fail(base.seq, "base", f"base {base.id} {problem}", in_log=False)

    def has_effect(self, found: Link, expected: Link, below: Keys) -> bool:
        """Whether a link, in other words, does to the state below it (which had those keys) what the stretch did."""
        pairs = (found.control, expected.control, self.control), (found.state, expected.state, self.state)
        for (net, other, now), had in zip(pairs, below, strict=True):
            if not other.entries.keys() <= net.entries.keys() or not other.deleted.keys() & had <= net.keys():
                return False
            if not net.deleted.keys() <= other.deleted.keys() - now.keys():
                return False
            for key, entry in net.entries.items():
                is_put = len(entry) == 2 and OPS[entry[0]] == "put" and key in now
                same = (now[key], entry[1]) if is_put else (other.entries.get(key), entry)
                if msgpack_encode(same[0]) != msgpack_encode(same[1]):
                    return False
        return True

    def projections(self) -> None:
        trace, connection = self.trace, self.connection
        status = status_of(self.control)
        if trace.status != status:
            self.fail(0, "status", f"listed as {trace.status}, the log says {status}", in_log=False)
        listed: dict[str, list[Any]] = {row[0]: list(row[1:]) for row in connection.execute(BARRIERS, (trace.id,))}
        for barrier_id in self.inherited:  # raised before the own rows: the place is in the parent's log
            raised, _, deadline_us = listed.get(barrier_id, [None, None, None])
            decided = self.barriers.get(barrier_id, [None, None, None])[1]
            self.barriers[barrier_id] = [raised, decided, deadline_us]
        for barrier_id in listed.keys() | self.barriers.keys():
            if listed.get(barrier_id) != self.barriers.get(barrier_id):
                said, is_ = listed.get(barrier_id), self.barriers.get(barrier_id)
                self.fail(0, "barrier", f"{barrier_id} listed as {said}, the log says {is_}", in_log=False)
        for checkpoint_id, seq in connection.execute(CHECKPOINTS, (trace.id,)):
            if seq > trace.fork_seq and seq not in self.boundaries:
                self.fail(seq, "checkpoint", f"{checkpoint_id} stands at no step boundary", in_log=False)


def _equal(one: Link, other: Link) -> bool:
    """Alike in values, types and order."""
    return one.encode(2**62) == other.encode(2**62)
