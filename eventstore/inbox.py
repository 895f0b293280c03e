"""The inbox: barriers over all traces, whoever has waited longest first.

The projection says which barriers there are; what one asks (prompt, keys, default) is read from the event
that raised it, a page at a time. Reading shows that a deadline has passed and writes nothing.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import apsw

from . import log
from .codec import decode_event, decode_rows
from .errors import FileCorrupted, LogCorrupted
from .event import BarrierDecided, BarrierRaised, Decision, JsonRecord, utc
from .log import ROW_AT

if TYPE_CHECKING:
    from .store import Store

COLUMNS = (
    "SELECT t.id, t.trace_id, t.name, b.barrier_id, b.raised_seq, b.raised_us, b.deadline_us, b.decided_seq"
    " FROM barrier b JOIN trace t ON t.id = b.trace"
)
AFTER = (
    " AND (?1 IS NULL OR (b.raised_us, b.trace, b.barrier_id) >"
    " (SELECT raised_us, trace, barrier_id FROM barrier"
    " WHERE trace = (SELECT id FROM trace WHERE trace_id = ?1) AND barrier_id = ?2))"
    " AND (?3 IS NULL OR t.trace_id = ?3)"
    " AND (?4 IS NULL OR b.barrier_id = ?4 || substr(b.barrier_id, length(?4) + 1)"
    " AND substr(b.barrier_id, length(?4) + 1, 1) = '#')"
)
ORDER = " ORDER BY b.raised_us, b.trace, b.barrier_id LIMIT ?5"
LAST_US = "SELECT at_us FROM log WHERE trace = ? ORDER BY first_seq DESC LIMIT 1"
PENDING = COLUMNS + " WHERE b.decided_seq IS NULL AND t.status = 'waiting'" + AFTER + ORDER
DECIDED = COLUMNS + " WHERE b.decided_seq IS NOT NULL" + AFTER + ORDER
ALL = COLUMNS + " WHERE 1" + AFTER + ORDER


class BarrierInfo(JsonRecord, frozen=True):
    """A line of `store.barriers()`: what is asked, and how it was decided.

    `reason`: `gate`, `in_doubt` or `effect`; `expired`: its deadline has passed, and the default stands as
    soon as anyone looks into the run; `default`: None stands for a rejection. `decision`, `decided_at`: once
    decided. `seq`: where it was raised.

    >>> info = BarrierInfo("t1", "refund", "approve#1", "approve", "Refund 40?", utc(0), 3)
    >>> BarrierInfo.from_json(info.to_json()) == info
    True
    """

    trace_id: str
    name: str
    barrier_id: str
    node: str
    prompt: str
    raised_at: datetime
    seq: int
    reason: str = "gate"
    keys: list[str] = []
    deadline_at: datetime | None = None
    default: Decision | None = None
    expired: bool = False
    decided_at: datetime | None = None
    decision: Decision | None = None


def barriers(
    store: Store,
    pending: bool | None,
    limit: int,
    after: tuple[str, str] | None,
    trace_id: str | None,
    node: str | None,
) -> list[BarrierInfo]:
    """A page of barriers; see `Store.barriers`."""
    sql = ALL if pending is None else PENDING if pending else DECIDED
    now_us = time.time_ns() // 1000
    with store._database.reader() as connection:
        rows: list[Any] = connection.execute(sql, (*(after or (None, None)), trace_id, node, limit)).fetchall()
        try:
            return [_info(connection, store.path, row, now_us) for row in rows]
        except TypeError as error:
            raise FileCorrupted(store.path, f"a row of its barriers: {error}") from error


def _info(connection: apsw.Connection, path: str, row: Any, now_us: int) -> BarrierInfo:
    row_id, trace_id, name, barrier_id, raised_seq, raised_us, deadline_us, decided_seq = row
    asked, _ = _event(connection, path, row_id, raised_seq, BarrierRaised)
    answer, decided_us = None, None
    if decided_seq is not None:
        answer, decided_us = _event(connection, path, row_id, decided_seq, BarrierDecided)
    is_expired = False
    if decided_seq is None and deadline_us is not None:
        last_us: Any = connection.execute(LAST_US, (row_id,)).fetchone()
        is_expired = max(now_us, 0 if last_us is None else last_us[0]) >= deadline_us  # as a decision would find it
    raised = asked or BarrierRaised(barrier_id, barrier_id.rpartition("#")[0])  # it was trimmed, or never its own
    return BarrierInfo(
        trace_id,
        name,
        barrier_id,
        raised.node,
        raised.prompt,
        utc(raised_us),
        raised_seq,
        raised.reason,
        raised.keys,
        None if deadline_us is None else utc(deadline_us),
        raised.default,
        is_expired,
        None if decided_us is None else utc(decided_us),
        None if answer is None else answer.decision,
    )


def _event(connection: apsw.Connection, path: str, row_id: int, seq: int, kind: type[Any]) -> tuple[Any, int | None]:
    """The event at a seq and its time; `(None, None)` where the log of that trace does not hold one of that kind."""
    found: Any = connection.execute(ROW_AT, (row_id, seq)).fetchone()
    if found is None:
        parent = log.trace_by_row(connection, row_id).parent
        return (None, None) if parent is None else _event(connection, path, parent, seq, kind)
    row = log.log_row(connection, row_id, found, 0)
    if seq > row.last_seq:
        return None, None
    try:
        event = decode_event(decode_rows(row.body)[seq - row.first_seq])
    except (ValueError, IndexError) as error:
        raise LogCorrupted(path, log.trace_by_row(connection, row_id).trace_id, row.first_seq, str(error)) from error
    return (event, row.at_us) if isinstance(event, kind) else (None, None)


def raised_event(
    connection: apsw.Connection, path: str, row_id: int, barrier_id: str
) -> tuple[BarrierRaised, int] | None:
    """The event that raised a barrier of the trace, or of one that it was forked from, and its time."""
    row: Any = connection.execute(
        "SELECT raised_seq FROM barrier WHERE trace = ? AND barrier_id = ?", (row_id, barrier_id)
    ).fetchone()
    if row is not None:
        event, at_us = _event(connection, path, row_id, row[0], BarrierRaised)
        return None if event is None or at_us is None else (event, at_us)
    parent = log.trace_by_row(connection, row_id).parent
    return None if parent is None else raised_event(connection, path, parent, barrier_id)
