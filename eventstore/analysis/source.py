"""What an export reads of the store beside the log: which runs there are, where each stands, what was erased.

A run is known by its row id, which no other run ever gets; ids go up with the time of the start, so a parent
comes before its forks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from eventstore import log
from eventstore.codec import check_text
from eventstore.database import Database
from eventstore.errors import FileCorrupted, LogCorrupted, NotAStepBoundary, SeqOutOfRange, Trimmed
from eventstore.log import Head, TraceRow

PAGE_ROWS = 500
CHOSEN = "SELECT id FROM trace WHERE (?1 IS NULL OR name = ?1) AND (?2 IS NULL OR status = ?2) ORDER BY id"
PARENTS = "SELECT id, parent FROM trace WHERE parent IS NOT NULL"
RUN = (
    "SELECT t.id, t.trace_id, t.name, t.parent, t.fork_seq, t.created_us, t.status, p.trace_id,"
    " coalesce((SELECT max(seq) FROM root WHERE root.trace = t.id), 0),"
    " EXISTS (SELECT 1 FROM checkpoint c WHERE c.trace = t.id) FROM trace t"
    " LEFT JOIN trace p ON p.id = t.parent WHERE t.id = ?"
)
CHECKPOINTS = (
    "SELECT checkpoint_id, seq, node, triggers, created_us FROM checkpoint"
    " WHERE trace = ? AND seq <= ? ORDER BY seq, checkpoint_id"
)
TOMBSTONES = "SELECT trace_id FROM tombstone WHERE trace_id > ? ORDER BY trace_id LIMIT ?"


class Run(NamedTuple):
    """A run, and where it stood when it was looked at; `root_seq`: up to where it is trimmed; `damage`: why it
    cannot be read.
    """

    row: TraceRow
    parent_trace_id: str | None
    root_seq: int
    has_checkpoints: bool
    head: Head
    damage: LogCorrupted | None = None


def chosen(database: Database, trace_ids: Sequence[str] | None, name: str | None, status: str | None) -> list[int]:
    """The row ids of the runs named (None: of all of that name and status) and of all they were forked from.

    Raises TraceNotFound, TraceErased, ValueRefused.
    """
    check_text("name", name)
    check_text("status", status)
    with database.reader() as connection:
        if trace_ids is None:
            found: set[Any] = {row_id for (row_id,) in connection.execute(CHOSEN, (name, status))}
        else:
            found = {log.find_trace(connection, trace_id).id for trace_id in trace_ids}
        if trace_ids is not None or name is not None or status is not None:
            parents: dict[Any, Any] = {fork: parent for fork, parent in connection.execute(PARENTS)}  # noqa: C416
            for row_id in list(found):
                while (row_id := parents.get(row_id)) is not None and row_id not in found:
                    found.add(row_id)
    return sorted(found)


def looked_at(database: Database, row_ids: Sequence[int], path: str) -> list[Run]:
    """Those runs as they stand at one instant; erased ones are left out."""
    runs: list[Run] = []
    with database.reader() as connection:
        for row_id in row_ids:
            found: Any = connection.execute(RUN, (row_id,)).fetchone()
            if found is None:
                continue
            row, place = log.trace_row(connection, found[:7]), (found[7], found[8], bool(found[9]))
            if type(found[8]) is not int:
                raise FileCorrupted(path, f"the root of trace {row.trace_id} is none that was written")
            try:
                runs.append(Run(row, *place, log.head(connection, row)))
            except LogCorrupted as error:
                runs.append(Run(row, *place, Head(0, b"", row.created_us), error))
    return runs


def digest_at(database: Database, row: TraceRow, seq: int) -> bytes | None:
    """The chain's digest after that seq; None where it is trimmed, empty where no commit of the run ends there."""
    with database.reader() as connection:
        try:
            return log.boundary(connection, row, seq).digest
        except Trimmed:
            return None
        except (NotAStepBoundary, SeqOutOfRange):
            return b""


def checkpoints(database: Database, row: TraceRow, upto: int) -> Iterator[tuple[str, int, str | None, str, int]]:
    """`(checkpoint_id, seq, node, triggers, created_us)` of the run's checkpoints, by seq and id."""
    with database.reader() as connection:
        for checkpoint in connection.execute(CHECKPOINTS, (row.id, upto)):
            checkpoint_id, seq, node, triggers, created_us = checkpoint
            texts = type(checkpoint_id) is type(triggers) is str and (node is None or type(node) is str)
            if not (texts and type(seq) is type(created_us) is int):
                raise FileCorrupted(database.path, f"checkpoint {checkpoint_id!r} is none that was written")
            yield checkpoint


def erased(database: Database) -> Iterator[list[str]]:
    """The ids of every erased trace, in pages."""
    after = ""
    while True:
        with database.reader() as connection:
            page: list[Any] = connection.execute(TOMBSTONES, (after, PAGE_ROWS)).fetchall()
        if page:
            yield [trace_id for (trace_id,) in page]
            after = page[-1][0]
        if len(page) < PAGE_ROWS:
            return
