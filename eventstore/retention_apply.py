"""Applying a retention plan: no more goes than was shown, and what is blocked by now stays.

The traces are gone through in the plan's order, forks before what they were forked from, in one synced transaction
each, which looks at everything again: what forbids an action by then is told as the reason why it was skipped.
Pages are given back once, at the end. A kill leaves each trace whole or done, and the next plan goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import apsw

from . import blockers, log, retention
from .blockers import RetentionBlocker
from .codec import check_text
from .errors import LogCorrupted, NotAStepBoundary, SeqOutOfRange, StorageError, TraceErased, TraceNotFound
from .event import JsonRecord
from .log import TraceRow
from .retention_plan import RetentionPlan, TracePlan, count_checkpoints, forbids_erasure

if TYPE_CHECKING:
    from .store import Store

PRUNE = (
    "DELETE FROM checkpoint WHERE trace = ?1 AND (seq, checkpoint_id) <= (?2, ?3) AND checkpoint_id NOT IN"
    " (SELECT checkpoint_id FROM checkpoint WHERE trace = ?1 ORDER BY seq DESC, checkpoint_id DESC LIMIT ?4)"
)


class TraceRemoval(JsonRecord, frozen=True):
    """What applying a plan did to one trace; `skipped`: what it did not, and why.

    >>> TraceRemoval("t1", trimmed_to=41, rows=11).erased
    False
    """

    trace_id: str
    erased: bool = False
    checkpoints: int = 0
    bases: int = 0
    base_bytes: int = 0
    trimmed_to: int | None = None
    rows: int = 0
    events: int = 0
    log_bytes: int = 0
    skipped: list[RetentionBlocker] = []


class RetentionReport(JsonRecord, frozen=True):
    """What applying a plan did. Sizes are those of the file, its write-ahead log moved into it.

    `is_finished` False: the disk is full, another writer held the lock, or a reader kept the write-ahead log, so what
    was removed may stand in the file or its log yet. The next plan that is applied, whatever it asks for, gives the
    pages back, and rewrites the file where a trace was erased; so does the next `Store.erase`.

    >>> RetentionReport([], 40_960, 8192, 32_768, True).freed_bytes
    32768
    """

    traces: list[TraceRemoval]
    before_bytes: int
    after_bytes: int
    freed_bytes: int
    is_finished: bool


def apply_plan(
    store: Store,
    plan: RetentionPlan,
    on_trace: Callable[[TraceRemoval], object] | None = None,
    *,
    by: str | None = None,
) -> RetentionReport:
    """Do what the plan shows; see `Store.apply`.

    >>> import eventstore as es
    >>> from .retention_plan import plan_retention
    >>> with es.open(":memory:") as store:
    ...     trace = store.start({"n": 1}, id="t1")
    ...     trace.end()
    ...     report = apply_plan(store, plan_retention(store, status="completed", erase=True))
    ...     report.traces[0].erased, store.traces()
    (True, [])
    """
    if store._database.read_only:
        raise StorageError(store.path, "opened read-only")
    check_text("by", by)
    retention.check_window(plan.retry_window_s)
    before_bytes = retention.file_bytes(store)
    removals = []
    for entry in plan.traces:
        if entry.acts:
            removals.append(_apply(store, plan, entry, by))
            if on_trace is not None:
                on_trace(removals[-1])
    is_finished = retention.give_back(store, rewrite=True)
    after_bytes = retention.file_bytes(store)
    return RetentionReport(removals, before_bytes, after_bytes, before_bytes - after_bytes, is_finished)


def _apply(store: Store, plan: RetentionPlan, entry: TracePlan, by: str | None) -> TraceRemoval:
    act = _erase if entry.erase else _reduce

    def work(connection: apsw.Connection) -> TraceRemoval:
        return act(store, connection, log.find_trace(connection, entry.trace_id), plan, entry, by)

    try:
        removal = store._writer.write(work, sync=True)
        store._reader.forget()
        return removal
    except LogCorrupted as error:
        kind, told = "damaged", f"it is damaged: {error}"
    except (TraceNotFound, TraceErased) as error:
        kind, told = "gone", str(error)
    except (NotAStepBoundary, SeqOutOfRange) as error:
        kind, told = "changed", f"it is not what the plan saw: {error}"
    return TraceRemoval(entry.trace_id, skipped=[RetentionBlocker("any", kind, told)])


def _erase(
    store: Store, connection: apsw.Connection, row: TraceRow, plan: RetentionPlan, entry: TracePlan, by: str | None
) -> TraceRemoval:
    head = log.head(connection, row)
    found = list(forbids_erasure(store, connection, row))
    if head.version != entry.version:
        told = f"it went on to version {head.version}, the plan saw {entry.version}"
        found.append(RetentionBlocker("erase", "changed", told))
    if found:
        return TraceRemoval(row.trace_id, skipped=blockers.summed(found))
    checkpoints = count_checkpoints(connection, row)
    gone = retention.erase_rows(connection, row, by)
    return TraceRemoval(row.trace_id, erased=True, checkpoints=checkpoints, **gone._asdict())


def _reduce(
    store: Store, connection: apsw.Connection, row: TraceRow, plan: RetentionPlan, entry: TracePlan, by: str | None
) -> TraceRemoval:
    removal: dict[str, Any] = {}
    if entry.checkpoints_upto is not None:
        connection.execute(PRUNE, (row.id, *entry.checkpoints_upto, plan.keep_checkpoints or 0))
        removal["checkpoints"] = connection.changes()
    trims = entry.trim_to is not None and entry.trim_to > log.root_seq(connection, row.id)
    if trims and entry.trim_to is not None:
        at = log.boundary(connection, row, entry.trim_to)
        found = retention.running(store, connection, row, "trim")
        found += blockers.of_trim(connection, row, at, plan.retry_window_s)
        if found:
            removal["skipped"] = blockers.summed(found)
        else:
            gone = retention.trim_history(store, connection, row, at)
            removal |= {"trimmed_to": at.version, **gone._asdict()}
    if plan.drop_bases and entry.bases and "trimmed_to" not in removal:
        dropped = retention.drop_bases(connection, row)
        removal |= {"bases": dropped.bases, "base_bytes": dropped.base_bytes}
    return TraceRemoval(row.trace_id, **removal)
