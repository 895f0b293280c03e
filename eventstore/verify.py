"""Does the file hold together? Each trace's log in one pass, then what stands beside it, then the file itself.

`log_check` reads the log: dense seqs, a digest that extends the one before it, bodies that decode and fold, bases that
are what their stretch comes to. `row_check` compares the rows beside it, `scope_check` the threads of other frameworks.
A damaged trace is named by its first bad seq and never keeps the others from being read, a damaged page neither.

What no file can tell of itself is that its end was cut off: a log that is shorter is as sound as it was. Whoever keeps
a head elsewhere can have it looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import apsw

from . import log, row_check, scope_check
from .attached import detached
from .database import schema_scripts
from .errors import ForeignSchema
from .event import JsonRecord
from .foreign import check_schema
from .log import TraceRow
from .log_check import DAMAGE, LogCheck
from .problem import Problem

if TYPE_CHECKING:
    from .store import Store

__all__ = ["Problem", "VerifyReport", "verify"]

TRACES = (
    "SELECT id, CAST(trace_id AS BLOB), CAST(name AS BLOB), parent, fork_seq, created_us, CAST(status AS BLOB)"
    " FROM trace"
)
FROM_THE_FRONT = f"{TRACES} ORDER BY id"
FROM_THE_BACK = f"{TRACES} WHERE id > ? ORDER BY id DESC"
TOMBSTONE = "SELECT version, digest FROM tombstone WHERE trace_id = ?"
ORPHANS = (
    "SELECT 'log', trace, min(first_seq) FROM log WHERE trace NOT IN (SELECT id FROM trace) GROUP BY trace"
    " UNION ALL SELECT 'base', trace, min(seq) FROM base WHERE trace NOT IN (SELECT id FROM trace) GROUP BY trace"
)
HEAD_BYTES = 16
MOST_PROBLEMS = 1000


class VerifyReport(JsonRecord, frozen=True):
    """What `verify` read, and what it found. `heads`: each trace's last digest (hex), to keep elsewhere.

    `anchors`: of the heads that were given to look for, the seq at which each was found.

    >>> VerifyReport(2, 10, 1, [], {}).ok
    True
    """

    traces: int
    events: int
    bases: int
    problems: list[Problem]
    heads: dict[str, str]
    anchors: dict[str, int] = {}

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return not self.problems


def verify(store: Store, trace_id: str | None = None, *, heads: Mapping[str, str] | None = None) -> VerifyReport:
    """Verify one trace, or all and the file itself; `heads`: see `Store.verify`. Raises TraceNotFound, ValueError."""
    wanted = {name: _digest(name, head) for name, head in (heads or {}).items() if trace_id in (None, name)}
    report = VerifyReport(0, 0, 0, [], {})
    reason = _detached(store)
    if reason is not None:  # what could be read here is not what stands at the path
        report.problems.append(Problem("-", 0, "wal", reason, True))
        return report
    damaged: set[int] = set()
    events = bases = 0
    with store._database.reader() as connection:
        if trace_id is None:
            report.problems.extend(_file_problems(connection, store))
            traces = _every_trace(connection, report.problems)
        else:
            traces = [log.find_trace(connection, trace_id)]
        for trace in traces:
            check = LogCheck(connection, trace, store._database.chain, wanted.get(trace.trace_id))
            if check.run():
                check.problems.extend(_guarded(trace.trace_id, row_check.of_trace(check)))
            events += check.events
            bases += check.bases
            if check.head is not None:
                report.heads[trace.trace_id] = check.head.hex()
            if trace.trace_id in wanted:
                _look_for_head(check, report)
            report.problems.extend(check.problems)
            if trace.parent in damaged or any(problem.in_log for problem in check.problems):
                damaged.add(trace.id)
        for name in wanted.keys() - {trace.trace_id for trace in traces}:
            report.problems.extend(_guarded(name, _head_of_the_gone(connection, name, wanted[name], report.anchors)))
        only = None if trace_id is None else traces[0].id
        for faults in scope_check.checks(connection, store._database.chain, only, damaged):
            report.problems.extend(_guarded("-", _of_threads(faults)))
    return VerifyReport(len(traces), events, bases, report.problems, report.heads, report.anchors)


def _detached(store: Store) -> str | None:
    """Whether the connections that write and read still work on the files at the path."""
    database, reason = store._database, None
    if database._written is not None:
        reason = store._writer.quiet(lambda: detached(database._file, database.writer))
    if reason is None:
        with database.reader() as connection:
            reason = detached(database._file, connection)
    return reason


def _digest(trace_id: str, head: str) -> bytes:
    try:
        digest = bytes.fromhex(head)
    except ValueError:
        digest = b""
    if len(digest) != HEAD_BYTES:
        raise ValueError(f"the head of trace {trace_id}: {2 * HEAD_BYTES} hex digits are one, not {head!r}")
    return digest


def _every_trace(connection: apsw.Connection, problems: list[Problem]) -> list[TraceRow]:
    """The list of traces: from both ends, where a damaged page lies in it."""
    rows: list[Any] = []
    try:
        rows.extend(connection.execute(FROM_THE_FRONT))
    except apsw.Error as error:
        problems.append(Problem("-", 0, "sqlite", f"the list of traces: {error}", True))
        behind: list[Any] = []
        with suppress(apsw.Error):  # the same page, met from behind: it is named already
            behind.extend(connection.execute(FROM_THE_BACK, (rows[-1][0] if rows else 0,)))
        rows += reversed(behind)
    return [_trace_row(row, problems) for row in rows]


def _trace_row(row: Any, problems: list[Problem]) -> TraceRow:
    row_id, trace_id, name, parent, fork_seq, created_us, status = row
    texts = []
    for text in (trace_id, name, status):
        data = text if type(text) is bytes else repr(text).encode()
        texts.append(data.decode(errors="backslashreplace"))
        if data != text or texts[-1].encode() != data:
            problems.append(Problem(f"row {row_id}", 0, "trace", f"{texts[-1]!r} is no text of UTF-8", True))
    return TraceRow(row_id, texts[0], texts[1], parent, fork_seq, created_us, texts[2])


def _file_problems(connection: apsw.Connection, store: Store) -> Iterator[Problem]:
    yield from _guarded("-", _page_problems(connection))
    yield from _guarded("-", _schema_problems(connection, store.path))
    yield from _guarded("-", _orphans(connection))
    yield from _guarded("-", row_check.of_file(connection, store._database.chain))


def _page_problems(connection: apsw.Connection) -> Iterator[Problem]:
    for (message,) in connection.execute("PRAGMA integrity_check(10)"):
        if message != "ok":
            yield Problem("-", 0, "sqlite", message, True)


def _schema_problems(connection: apsw.Connection, path: str) -> Iterator[Problem]:
    try:
        check_schema(connection, path, schema_scripts())
    except ForeignSchema as error:
        yield Problem("-", 0, "schema", str(error), True)


def _orphans(connection: apsw.Connection) -> Iterator[Problem]:
    for table, row_id, seq in connection.execute(ORPHANS):
        yield Problem(f"row {row_id}", seq, table, "rows of a trace that does not exist", True)
    for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        if table != "base":
            yield Problem("-", 0, table, f"a row of it belongs to a row of table {parent} that does not exist", False)


def _guarded(trace_id: str, problems: Iterator[Problem]) -> Iterator[Problem]:
    """Those problems, up to a number of them; what keeps one from looking for more is one, too."""
    try:
        yield from islice(problems, MOST_PROBLEMS)
        if next(problems, None) is not None:
            yield Problem(trace_id, 0, "verify", f"there are more such problems than {MOST_PROBLEMS}", True)
    except (apsw.Error, *DAMAGE) as error:
        yield Problem(trace_id, 0, "sqlite", f"the rows beside the log cannot be read: {error}", True)


def _of_threads(faults: Iterator[scope_check.Fault]) -> Iterator[Problem]:
    for fault in faults:
        yield Problem(fault.trace_id or "-", fault.seq, "thread", fault.reason, False)


def _look_for_head(check: LogCheck, report: VerifyReport) -> None:
    """The head that was kept elsewhere must stand somewhere in the chain: the log may have grown since."""
    if check.anchored_at is not None:
        report.anchors[check.trace.trace_id] = check.anchored_at
    elif check.head is not None:
        reason = "the head that was kept elsewhere is not in its chain: its end was cut off, or the log was rewritten"
        if check.begins_at is not None:
            reason += f"; or it stood before seq {check.begins_at[0]}, up to which the trace was trimmed"
        check.fail(check.version + 1, "head", reason)


def _head_of_the_gone(
    connection: apsw.Connection, trace_id: str, digest: bytes, anchors: dict[str, int]
) -> Iterator[Problem]:
    row: Any = connection.execute(TOMBSTONE, (trace_id,)).fetchone()
    if row is None:
        yield Problem(trace_id, 1, "head", "its head was kept elsewhere, and the file has no such trace", True)
    elif row[1] == digest:
        anchors[trace_id] = row[0]
    else:
        reason = f"it was erased at seq {row[0]}, and the head that was kept elsewhere is not that of its tombstone"
        yield Problem(trace_id, row[0], "head", f"{reason}: it is older, or another log was erased", True)
