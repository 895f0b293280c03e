"""SQL of the feed: the commits of every trace in the order in which they were made.

The row ids of the log are the cursor; a caller hands it back and never looks into it. Ids are given in commit
order, but an id can come again: SQLite gives the highest free one, so erasing (or trimming) the newest rows of
the file frees theirs. A feed that reads on therefore remembers the digests of what it gave last. Where its
newest row is gone, it goes back to the newest one that still stands, and all rows after that are new.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, NamedTuple

import apsw

from .database import Database
from .log import LogRow

PAGE_ROWS = 256
REMEMBERED_ROWS = 4096
"""More newest rows than this, erased between two looks, and rows that took their ids can be passed over."""

PAGE = (
    "SELECT l.id, t.trace_id, l.first_seq, l.n, l.append_id, l.at_us, l.digest, CAST(l.body AS BLOB)"
    " FROM log l JOIN trace t ON t.id = l.trace WHERE l.id > ? ORDER BY l.id LIMIT ?"
)
EARLIER = (
    "SELECT p.at_us FROM log p WHERE p.trace = l.trace AND p.first_seq < l.first_seq ORDER BY p.first_seq DESC LIMIT 1"
)
ROOT = "SELECT max(r.at_us) FROM root r WHERE r.trace = l.trace AND r.seq < l.first_seq"
# The checkpoints that came with each commit, or after the commit before it: those are told with it, so that what
# is told does not depend on when it is read.
MARKS = (
    "SELECT l.id, c.checkpoint_id, c.seq, c.created_us, c.triggers"
    " FROM log l JOIN checkpoint c ON c.trace = l.trace AND c.seq BETWEEN l.first_seq - 1 AND l.first_seq + l.n - 1"
    " WHERE l.id > ?1 AND l.id <= ?2 AND CASE WHEN c.seq >= l.first_seq THEN c.created_us <= l.at_us"
    f" ELSE c.created_us > coalesce(({EARLIER}), ({ROOT}), 0) END"
    " ORDER BY l.id, c.seq, c.checkpoint_id"
)
DIGEST = "SELECT digest FROM log WHERE id = ?"


class Marked(NamedTuple):
    """A checkpoint of a commit."""

    checkpoint_id: str
    seq: int
    created_us: int
    triggers: list[str]


class Commit(NamedTuple):
    """A commit of some trace; `cursor` goes on after it."""

    cursor: int
    trace_id: str
    row: LogRow
    marks: list[Marked]


class Feed:
    """Commits after a cursor, page by page. Not thread-safe."""

    def __init__(self, database: Database, after: int) -> None:
        self._database = database
        self._given: deque[tuple[int, bytes]] = deque(maxlen=REMEMBERED_ROWS)
        self.cursor = after

    def page(self) -> list[Commit]:
        """The next commits, oldest first; none when all were given. Raises storage errors."""
        with self._database.reader() as connection:
            self._go_back(connection)
            rows: list[Any] = connection.execute(PAGE, (self.cursor, PAGE_ROWS)).fetchall()
            found: list[Any] = connection.execute(MARKS, (self.cursor, rows[-1][0])).fetchall() if rows else []
        marks: dict[int, list[Marked]] = {}
        for row_id, checkpoint_id, seq, created_us, triggers in found:
            marks.setdefault(row_id, []).append(Marked(checkpoint_id, seq, created_us, json.loads(triggers)))
        commits = [Commit(row[0], row[1], LogRow._make(row[2:]), marks.get(row[0], [])) for row in rows]
        if commits:
            self.cursor = commits[-1].cursor
            self._given += [(commit.cursor, commit.row.digest) for commit in commits]
        return commits

    def _go_back(self, connection: apsw.Connection) -> None:
        """Forget the rows that were given last and are gone."""
        while self._given:
            row_id, digest = self._given[-1]
            found: Any = connection.execute(DIGEST, (row_id,)).fetchone()
            if found is not None and found[0] == digest:
                self.cursor = row_id
                return
            self._given.pop()
            self.cursor = row_id - 1
