"""What a trim or an erasure must not take: who still needs what would go, each one named.

History may go up to the furthest step boundary that nobody forbids: a fork needs what it shares, a kept
checkpoint its place, a barrier its question until it is decided, a retry the row that its first attempt left,
and a parallel step its own beginning until it is joined.
A trace whose forks live is not erased; neither is one that a living owner runs. What a thread of another framework
reads is its adapter's to remove. A plan looks ahead: forks that it erases, and checkpoints that it removes, block
nothing (`Leaving`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import apsw
import msgspec

from . import bases, log
from .codec import decode_rows
from .errors import LogCorrupted, StateError
from .event import JsonRecord, utc
from .link import State, fold_rows
from .log import Head, Segment, TraceRow

FORKS = "SELECT id, trace_id, fork_seq FROM trace WHERE parent = ? AND fork_seq < ? ORDER BY fork_seq, id"
KEPT = (
    "SELECT checkpoint_id, seq FROM (SELECT checkpoint_id, seq FROM checkpoint WHERE trace = ?1"
    " ORDER BY seq DESC, checkpoint_id DESC LIMIT ?2) WHERE seq < ?3 ORDER BY seq, checkpoint_id"
)
OPEN_AT = (
    "SELECT barrier_id, raised_seq FROM barrier WHERE trace = ?1 AND raised_seq <= ?2"
    " AND (decided_seq IS NULL OR decided_seq > ?2) ORDER BY raised_seq, barrier_id"
)
PENDING = (
    "SELECT barrier_id, raised_seq FROM barrier WHERE trace = ? AND decided_seq IS NULL ORDER BY raised_seq, barrier_id"
)
READERS = (
    "SELECT s.adapter, s.thread_id, s.namespace FROM scope_trace r JOIN scope s ON s.id = r.scope"
    " WHERE r.trace = ? ORDER BY s.id"
)
ALL = 2**62
REMEDIES = {"langgraph": " (see EventStoreSaver.delete_thread and prune)"}
"""What removes an adapter's thread, or some of it."""
BRANCHES = ("held/", "failed/", "intent/", "retry/", "calls/")
"""What a branch has in control from its beginning to the join, under NODE/BRANCH."""
LOOKED_BACK_SEQS = 256


class RetentionBlocker(JsonRecord, frozen=True):
    """What stands in the way of `action` (trim, erase or any), told in `reason`.

    `kind`: fork, checkpoint, thread, barrier, parallel, retry, owner, changed, gone or damaged. `limit_seq`: the
    furthest seq that history may be trimmed to for its sake; None where the action is forbidden altogether. `more`:
    how many others of the same kind stand behind it.

    >>> str(RetentionBlocker("trim", "fork", "fork t2 at seq 9", limit_seq=9, more=3))
    'fork t2 at seq 9 and 3 more'
    """

    action: str
    kind: str
    reason: str
    limit_seq: int | None = None
    more: int = 0

    def __str__(self) -> str:
        return f"{self.reason} and {self.more} more" if self.more else self.reason


class Leaving(NamedTuple):
    """What a plan removes before: row ids of traces that are erased, that lose all but `keep` checkpoints, and
    that lose their bases.

    >>> Leaving(set(), {7}, set(), 3).keeps(7)
    3
    """

    erased: set[int]
    pruned: set[int]
    bare: set[int]
    keep: int = -1

    def keeps(self, row_id: int) -> int:
        """How many of that trace's newest checkpoints stay; -1 for all."""
        return self.keep if row_id in self.pruned else -1


NOTHING_LEAVES = Leaving(set(), set(), set())


def family(connection: apsw.Connection, trace: TraceRow, leaving: Leaving = NOTHING_LEAVES) -> list[TraceRow]:
    """The trace and all that forked from it, parents before children."""
    found, position = [trace], 0
    while position < len(found):
        for row_id, _, _ in connection.execute(FORKS, (found[position].id, ALL)).fetchall():
            if isinstance(row_id, int) and row_id not in leaving.erased:
                found.append(log.trace_by_row(connection, row_id))
        position += 1
    return found


def forks(
    connection: apsw.Connection, trace: TraceRow, action: str, before: int, leaving: Leaving = NOTHING_LEAVES
) -> Iterator[RetentionBlocker]:
    """Forks that share history past `before`."""
    for row_id, fork_id, seq in connection.execute(FORKS, (trace.id, before)):
        if row_id not in leaving.erased and isinstance(seq, int):
            limit = seq if action == "trim" else None
            yield RetentionBlocker(action, "fork", f"fork {fork_id} at seq {seq}", limit)


def threads(connection: apsw.Connection, trace: TraceRow, action: str) -> Iterator[RetentionBlocker]:
    """Threads of another framework that read the trace, and what removes them."""
    rows: Any = connection.execute(READERS, (trace.id,))
    for adapter, thread_id, namespace in rows:
        within = f", namespace {namespace!r}," if namespace else ""
        reason = f"thread {thread_id!r}{within} of {adapter}{REMEDIES.get(adapter, '')}"
        yield RetentionBlocker(action, "thread", reason)


def of_trim(
    connection: apsw.Connection, trace: TraceRow, at: Head, retry_window_s: float, leaving: Leaving = NOTHING_LEAVES
) -> Iterator[RetentionBlocker]:
    """What forbids to trim the trace at that step boundary; of each kind the oldest comes first."""
    yield from threads(connection, trace, "trim")
    yield from forks(connection, trace, "trim", at.version, leaving)
    for member in family(connection, trace, leaving):
        for checkpoint_id, seq in connection.execute(KEPT, (member.id, leaving.keeps(member.id), at.version)):
            if not isinstance(seq, int) or (member is trace and seq <= trace.fork_seq):
                continue
            of_fork = "" if member is trace else f" of fork {member.trace_id}"
            yield RetentionBlocker("trim", "checkpoint", f"checkpoint {checkpoint_id}{of_fork} at seq {seq}", seq)
    for barrier_id, seq in connection.execute(OPEN_AT, (trace.id, at.version)):
        if isinstance(seq, int):
            yield RetentionBlocker("trim", "barrier", f"barrier {barrier_id} raised at seq {seq}", seq - 1)
    yield from parallel(connection, trace, at)
    cutoff_us = time.time_ns() // 1000 - int(retry_window_s * 1_000_000)
    if at.at_us > cutoff_us:
        limit = log.seq_at_time(connection, [Segment(trace.id, trace.fork_seq, at.version)], cutoff_us)
        until = f"{utc(at.at_us):%Y-%m-%d %H:%M:%S} UTC"
        yield RetentionBlocker("trim", "retry", f"a retry may still come for appends up to {until}", limit)


def parallel(connection: apsw.Connection, trace: TraceRow, at: Head) -> Iterator[RetentionBlocker]:
    """The parallel step that is open at that step boundary: some branches are done, and the join is yet to come."""
    if trace.status in ("completed", "cancelled") and at.version == log.head(connection, trace).version:
        return  # the run is over, and no branch of it will be joined: nothing need be read
    try:
        control = bases.restore(connection, "", log.lineage(connection, trace, at.version), at.version, "").control
        if nodes := open_parallel(control):
            limit = _before_parallel(connection, trace, at.version)
            yield RetentionBlocker("trim", "parallel", f"parallel step {nodes[0]} is open since seq {limit + 1}", limit)
    except LogCorrupted:
        return  # the trim itself reads every row, and is what refuses a damaged one, by its name


def open_parallel(control: State) -> list[str]:
    """The parallel nodes whose branches have begun and are not joined.

    >>> open_parallel({"held/gather/search": [], "intent/gather/ask": {}, "intent/pay": {}})
    ['gather']
    """
    paths = (key.partition("/")[2] for key in control if key.startswith(BRANCHES))
    return list(dict.fromkeys(path.partition("/")[0] for path in paths if "/" in path))


def _before_parallel(connection: apsw.Connection, trace: TraceRow, upto: int) -> int:
    """The last step boundary before `upto` at which no parallel step is open; the trace's beginning without one.

    Looks back in growing strides for a place where none is open, then folds forward from there.
    """
    beginning = max(trace.fork_seq, log.root_seq(connection, trace.id))
    segments = log.lineage(connection, trace, upto)
    stride = LOOKED_BACK_SEQS
    while (start := log.boundary_before(connection, segments, max(upto - stride, 0))) > beginning:
        restored = bases.restore(connection, "", log.lineage(connection, trace, start), start, "")
        if not open_parallel(restored.control):
            break
        stride *= 4
    else:
        start = beginning
        restored = bases.restore(connection, "", log.lineage(connection, trace, start), start, "")
    control, state, clear = restored.control, restored.state, start
    for first_seq, n, body in log.rows(connection, segments, start):
        try:
            fold_rows(control, state, decode_rows(body))
        except (ValueError, TypeError, KeyError, StateError) as error:
            raise LogCorrupted(connection.filename, trace.trace_id, first_seq, str(error)) from error
        if not open_parallel(control):
            clear = first_seq + n - 1
    return clear


def pending(connection: apsw.Connection, trace: TraceRow) -> Iterator[RetentionBlocker]:
    """The barriers that the trace waits for: a run that waits is alive, and is not erased by a plan."""
    for barrier_id, seq in connection.execute(PENDING, (trace.id,)):
        yield RetentionBlocker("erase", "barrier", f"barrier {barrier_id} raised at seq {seq} is pending")


def owner(action: str, name: str | None) -> list[RetentionBlocker]:
    """The living owner of that name, if there is one."""
    return [] if name is None else [RetentionBlocker(action, "owner", f"owner {name} runs it")]


def trim_point(
    connection: apsw.Connection, trace: TraceRow, head: Head, retry_window_s: float, leaving: Leaving
) -> tuple[int, list[RetentionBlocker]]:
    """The furthest step boundary that nobody forbids to trim at, and what forbids to go on to the head.

    0, or a seq at or before the trace's beginning, where nothing can go.
    """
    segments = [Segment(trace.id, trace.fork_seq, head.version)]
    beginning = max(trace.fork_seq, log.root_seq(connection, trace.id))
    at, found = head, list[RetentionBlocker]()
    # A barrier may be open at the new place though it is decided before the head: so again, until nothing forbids.
    while at.version > beginning and (blockers := summed(of_trim(connection, trace, at, retry_window_s, leaving))):
        found += blockers
        limit = min(blocker.limit_seq or 0 for blocker in blockers)
        seq = log.boundary_before(connection, segments, limit)
        if seq <= beginning:
            return seq, summed(found)
        at = log.boundary(connection, trace, seq)
    return at.version, summed(found)


def summed(blockers: Iterable[RetentionBlocker]) -> list[RetentionBlocker]:
    """Of each action and kind the one that forbids most, counting the others.

    >>> forks = [RetentionBlocker("trim", "fork", f"fork t{seq} at seq {seq}", seq) for seq in (9, 4, 6)]
    >>> [str(blocker) for blocker in summed(forks)]
    ['fork t4 at seq 4 and 2 more']
    """
    found: dict[tuple[str, str], RetentionBlocker] = {}
    for blocker in blockers:
        kind = blocker.action, blocker.kind
        first = found.get(kind)
        if first is None:
            found[kind] = blocker
            continue
        more = first.more + blocker.more + 1
        if (blocker.limit_seq or 0) < (first.limit_seq or 0):
            first = blocker
        found[kind] = msgspec.structs.replace(first, more=more)
    return list(found.values())
