"""Retention as a plan: what would go, per trace, and what stands in its way; shown before it acts.

Traces are read newest first, in pages, so that a fork comes before what it was forked from, and what the plan
takes from the fork (its checkpoints, its bases, the whole of it) no longer blocks its parent or counts with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import apsw
import msgspec

from . import blockers, log, retention
from .blockers import NOTHING_LEAVES, Leaving, RetentionBlocker
from .codec import check_text
from .errors import LogCorrupted
from .event import JsonRecord, utc
from .log import Head, TraceRow

if TYPE_CHECKING:
    from .store import Store

PAGE_TRACES = 256
STATUSES = ("running", "waiting", "completed", "failed", "cancelled")
CHOSEN = (
    "SELECT id, trace_id, name, parent, fork_seq, created_us, status FROM trace WHERE id < ?1"
    " AND (?2 IS NULL OR name = ?2) AND (?3 IS NULL OR status IN (SELECT value FROM json_each(?3)))"
    " ORDER BY id DESC LIMIT ?4"
)
COUNT_CHECKPOINTS = "SELECT count(*) FROM checkpoint WHERE trace = ?"
AROUND_NEWEST_GONE = (
    "SELECT seq, checkpoint_id FROM checkpoint WHERE trace = ? ORDER BY seq DESC, checkpoint_id DESC LIMIT 2 OFFSET ?"
)


class TracePlan(JsonRecord, frozen=True):
    """What a plan would do to one trace, and what it would not (`blockers`).

    `erase`: everything goes. Otherwise `checkpoints` rows go, up to the one at `checkpoints_upto` (seq, id), and
    `oldest_kept_seq` is where the oldest that stays stands; `bases` of `base_bytes` go; history is trimmed to the
    seq `trim_to`. `rows`, `events` and `log_bytes`: the part of the log that goes.

    >>> TracePlan("t1", "chat", "completed", 41, utc(0), trim_to=41, rows=11, events=41, log_bytes=2200).acts
    True
    """

    trace_id: str
    name: str
    status: str
    version: int
    updated_at: datetime
    erase: bool = False
    checkpoints: int = 0
    checkpoints_upto: tuple[int, str] | None = None
    oldest_kept_seq: int | None = None
    bases: int = 0
    base_bytes: int = 0
    trim_to: int | None = None
    rows: int = 0
    events: int = 0
    log_bytes: int = 0
    blockers: list[RetentionBlocker] = []

    @property
    def acts(self) -> bool:
        """Whether anything would go."""
        return self.erase or self.trim_to is not None or self.checkpoints > 0 or self.bases > 0


class RetentionPlan(JsonRecord, frozen=True):
    """What a retention would do, trace by trace, in the order in which it is done; `store.apply` does it.

    Only traces of which something would go, or is blocked, are in `traces`; `examined` were looked at. `free_bytes`:
    pages that are free already, given back with the rest; `is_unfinished`: a trace was erased before and the file not
    rewritten since (a kill, a lock, a reader or a full disk kept it), so it is rewritten whatever else goes.
    The other fields are what was asked for.

    >>> RetentionPlan(utc(0), 12, trim=True).acts
    False
    """

    made_at: datetime
    examined: int
    traces: list[TracePlan] = []
    keep_checkpoints: int | None = None
    drop_bases: bool = False
    trim: bool = False
    erase: bool = False
    retry_window_s: float = retention.RETRY_WINDOW_S
    free_bytes: int = 0
    is_unfinished: bool = False

    @property
    def acts(self) -> bool:
        """Whether applying it would do anything to any trace, or finish an erasure."""
        return self.is_unfinished or any(entry.acts for entry in self.traces)


def plan_retention(
    store: Store,
    *,
    trace_ids: Sequence[str] | None = None,
    name: str | None = None,
    status: str | Sequence[str] | None = None,
    older_than: timedelta | None = None,
    keep_checkpoints: int | None = None,
    drop_bases: bool = False,
    trim: bool = False,
    erase: bool = False,
    retry_window_s: float = retention.RETRY_WINDOW_S,
) -> RetentionPlan:
    """What would go; nothing is changed. See `Store.plan_retention`.

    >>> import eventstore as es
    >>> with es.open(":memory:") as store:
    ...     trace = store.start({"n": 1}, id="t1")
    ...     trace.end()
    ...     plan = plan_retention(store, status="completed", erase=True)
    ...     [(entry.trace_id, entry.erase, entry.events) for entry in plan.traces]
    [('t1', True, 2)]
    """
    if keep_checkpoints is None and not (drop_bases or trim or erase):
        raise ValueError("ask for at least one of keep_checkpoints, drop_bases, trim and erase")
    if keep_checkpoints is not None and keep_checkpoints < 0:
        raise ValueError(f"keep_checkpoints is 0 or more, not {keep_checkpoints}")
    retention.check_window(retry_window_s)
    check_text("name", name)
    statuses = [status] if isinstance(status, str) else status
    for asked in statuses or ():
        check_text("status", asked)
    for unknown in set(statuses or ()) - set(STATUSES):
        raise ValueError(f"a status is one of {', '.join(STATUSES)}, not {unknown!r}")
    now_us = time.time_ns() // 1000
    oldest_us = None if older_than is None else now_us - int(older_than.total_seconds() * 1_000_000)
    plan = RetentionPlan(
        utc(now_us),
        0,
        keep_checkpoints=keep_checkpoints,
        drop_bases=drop_bases,
        trim=trim,
        erase=erase,
        retry_window_s=retry_window_s,
    )
    leaving = Leaving(set(), set(), set(), -1 if keep_checkpoints is None else keep_checkpoints)
    examined, entries = 0, []
    with store._database.errors():  # what a page is looked at with is read outside of the generator that holds it
        for connection, row in _chosen(store, trace_ids, name, statuses):
            try:
                head, damage = log.head(connection, row), None
            except LogCorrupted as error:
                head, damage = Head(0, b"", row.created_us), error
            if oldest_us is not None and head.at_us > oldest_us:
                continue
            examined += 1
            entry = _Examination(store, connection, row, head, plan, leaving).entry(damage)
            if entry.acts or entry.blockers:
                entries.append(entry)
    with store._database.reader() as connection:
        return msgspec.structs.replace(
            plan,
            examined=examined,
            traces=entries,
            free_bytes=retention.free_bytes(connection),
            is_unfinished=retention.rewrite_due(connection) is not None,
        )


def _chosen(
    store: Store, trace_ids: Sequence[str] | None, name: str | None, statuses: Sequence[str] | None
) -> Iterator[tuple[apsw.Connection, TraceRow]]:
    """The traces asked for, newest first, each page in a read of its own."""
    if trace_ids is not None:
        named = dict.fromkeys([trace_ids] if isinstance(trace_ids, str) else trace_ids)
        with store._database.reader() as connection:
            rows = sorted((log.find_trace(connection, trace_id) for trace_id in named), reverse=True)
            for row in rows:
                if (name is None or row.name == name) and (statuses is None or row.status in statuses):
                    yield connection, row
        return
    among = None if statuses is None else msgspec.json.encode(list(statuses)).decode()
    last = blockers.ALL
    while True:
        with store._database.reader() as connection:
            found: list[Any] = connection.execute(CHOSEN, (last, name, among, PAGE_TRACES)).fetchall()
            for row in map(TraceRow._make, found):
                yield connection, row
        if len(found) < PAGE_TRACES:
            return
        last = found[-1][0]


class _Examination:
    """One trace under the eyes of a plan."""

    def __init__(
        self,
        store: Store,
        connection: apsw.Connection,
        row: TraceRow,
        head: Head,
        plan: RetentionPlan,
        leaving: Leaving,
    ) -> None:
        self.store = store
        self.connection = connection
        self.row = row
        self.head = head
        self.plan = plan
        self.leaving = leaving

    def entry(self, damage: LogCorrupted | None) -> TracePlan:
        """What the plan would do to it."""
        row, plan = self.row, self.plan
        entry = TracePlan(row.trace_id, row.name, row.status, self.head.version, utc(self.head.at_us))
        if damage is not None:
            found = [RetentionBlocker("any", "damaged", f"it is damaged: {damage}")]
            return msgspec.structs.replace(entry, blockers=found)
        found = []
        if plan.erase:
            found = blockers.summed(forbids_erasure(self.store, self.connection, row, self.leaving))
            if not found:
                self.leaving.erased.add(row.id)
                return self.erased(entry)
        fields: dict[str, Any] = {} if plan.keep_checkpoints is None else self.pruned(plan.keep_checkpoints)
        if plan.trim and (owner := retention.running(self.store, self.connection, row, "trim")):
            found += owner
        elif plan.trim:
            seq, forbidden = blockers.trim_point(self.connection, row, self.head, plan.retry_window_s, self.leaving)
            found += forbidden
            if seq > max(row.fork_seq, log.root_seq(self.connection, row.id)):
                rows, events, log_bytes, _, _ = retention.extent(self.connection, row, seq)
                fields |= {"trim_to": seq, "rows": rows, "events": events, "log_bytes": log_bytes}
        if plan.drop_bases or "trim_to" in fields:
            fields |= self.bases()
        return msgspec.structs.replace(entry, blockers=found, **fields)

    def erased(self, entry: TracePlan) -> TracePlan:
        rows, events, log_bytes, _, _ = retention.extent(self.connection, self.row, blockers.ALL)
        fields: dict[str, Any] = {"checkpoints": count_checkpoints(self.connection, self.row), **self.bases()}
        fields |= {"erase": True, "rows": rows, "events": events, "log_bytes": log_bytes}
        return msgspec.structs.replace(entry, **fields)

    def bases(self) -> dict[str, int]:
        _, size = retention.dependent_bases(self.connection, self.row, self.leaving)
        self.leaving.bare.add(self.row.id)
        return {"bases": size.bases, "base_bytes": size.base_bytes}

    def pruned(self, keep: int) -> dict[str, Any]:
        """Which checkpoints go. From here on they block neither this trace nor those it was forked from."""
        self.leaving.pruned.add(self.row.id)
        total = count_checkpoints(self.connection, self.row)
        if total <= keep:
            return {}
        around: list[Any] = self.connection.execute(AROUND_NEWEST_GONE, (self.row.id, max(keep - 1, 0))).fetchall()
        newest_gone = around[1] if keep else around[0]
        return {
            "checkpoints": total - keep,
            "checkpoints_upto": newest_gone,
            "oldest_kept_seq": around[0][0] if keep else None,
        }


def forbids_erasure(
    store: Store, connection: apsw.Connection, row: TraceRow, leaving: Leaving = NOTHING_LEAVES
) -> Iterator[RetentionBlocker]:
    """What forbids a plan to erase that trace: a living owner, a thread, a pending barrier, a fork that stays."""
    yield from blockers.threads(connection, row, "erase")
    yield from retention.running(store, connection, row, "erase")
    yield from blockers.pending(connection, row)
    yield from blockers.forks(connection, row, "erase", blockers.ALL, leaving)


def count_checkpoints(connection: apsw.Connection, row: TraceRow) -> int:
    """How many checkpoint rows the trace has."""
    found: Any = connection.execute(COUNT_CHECKPOINTS, (row.id,)).fetchone()
    return int(found[0])
