"""The pages of a closed SQLite file: how many there are, how many are free, and whose they are."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

BY_TREE = "SELECT name, pageno FROM dbstat WHERE aggregate = TRUE ORDER BY name"


class Pages(msgspec.Struct, frozen=True):
    """`by_tree`: of each table and index; None where the SQLite at hand was built without `dbstat`."""

    page_bytes: int
    total: int
    free: int
    by_tree: dict[str, int] | None


def pages(path: str) -> Pages:
    """The pages of the file at `path`, which nobody may have open. Raises apsw.Error where it is not SQLite's."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        page_bytes, total, free = (connection.pragma(name) for name in ("page_size", "page_count", "freelist_count"))
        has_dbstat = "ENABLE_DBSTAT_VTAB" in apsw.compile_options
        trees: Any = connection.execute(BY_TREE).fetchall() if has_dbstat else None
    finally:
        connection.close()
    return Pages(page_bytes, total, free, None if trees is None else dict(trees))
