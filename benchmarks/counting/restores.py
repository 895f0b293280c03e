"""What a restore of this engine reads: the links of bases and the rows of the tail, and their bytes.

Every row that a query returns is looked at on its way out of SQLite, so that what is counted is what was read and not
what the engine says of it. A body from table `base` is a link (a whole state is the last link of its chain), one from
table `log` a row of the tail.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import apsw
import msgspec


class Reads(msgspec.Struct):
    """Bodies read."""

    links: int = 0
    link_bytes: int = 0
    tail_rows: int = 0
    tail_bytes: int = 0


@contextmanager
def counting() -> Iterator[Reads]:
    """Count what is read on every connection made inside."""
    reads = Reads()

    def look(cursor: apsw.Cursor, row: Any) -> Any:
        columns = cursor.description_full
        tables = {column[3] for column in columns}
        for column, value in zip(columns, row, strict=True):
            if "body" not in column[0] or not isinstance(value, bytes | str):
                continue
            size = len(value) if isinstance(value, bytes) else len(value.encode())
            if "base" in tables and size:  # where only a base's place was asked for, the body is empty
                reads.links += 1
                reads.link_bytes += size
            elif "log" in tables:
                reads.tail_rows += 1
                reads.tail_bytes += size
        return row

    def hook(connection: apsw.Connection) -> None:
        connection.row_trace = look

    apsw.connection_hooks.append(hook)
    try:
        yield reads
    finally:
        apsw.connection_hooks.remove(hook)
