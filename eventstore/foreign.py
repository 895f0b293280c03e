"""A file from someone else: what a connection gets before its first query, and what the file has to look like.

A file is data, but SQLite lets it hold more: views and triggers that run functions, tables that are no tables, pages
that point at one another so that a walk over 40 KB never ends. So a connection that only reads runs no view and no
trigger, trusts no function of the schema, takes no statement or value longer than such a file can need, and has a
budget of steps: an honest read takes steps in proportion to the file, and only damage or a trap takes more. The
schema has to be the one that this version writes, word by word (comments and spaces apart), before any of its tables
is read. Nothing here keeps a person from the data: the file is left as it is, and any SQLite tool opens it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

import apsw

from .errors import ForeignSchema

SWITCHES = (
    (apsw.SQLITE_DBCONFIG_DEFENSIVE, 1),
    (apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0),
    (apsw.SQLITE_DBCONFIG_WRITABLE_SCHEMA, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_ATTACH_CREATE, 0),
    (apsw.SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, 0),
)
LIMITS = (
    (apsw.SQLITE_LIMIT_SQL_LENGTH, 64 * 1024),
    (apsw.SQLITE_LIMIT_COLUMN, 64),
    (apsw.SQLITE_LIMIT_EXPR_DEPTH, 100),
    (apsw.SQLITE_LIMIT_COMPOUND_SELECT, 16),
    (apsw.SQLITE_LIMIT_VDBE_OP, 25_000),
    (apsw.SQLITE_LIMIT_FUNCTION_ARG, 32),
    (apsw.SQLITE_LIMIT_ATTACHED, 0),
    (apsw.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000),
    (apsw.SQLITE_LIMIT_VARIABLE_NUMBER, 1000),
    (apsw.SQLITE_LIMIT_TRIGGER_DEPTH, 10),
    (apsw.SQLITE_LIMIT_WORKER_THREADS, 0),
)
LENGTH_SLACK_BYTES = 16 * 1024 * 1024
"""A value can be that much longer than the file was a moment ago: others write to it."""
MAX_LENGTH_BYTES = 1_000_000_000
PACE_STEPS = 20_000
"""How many steps of SQLite's machine pass between two looks at the budget."""
BUDGET_STEPS = 500_000
BUDGET_STEPS_A_BYTE = 5
"""A whole verification takes less than one step a byte; more in a file of many forks, whose parents' logs are folded
anew for each: that fold looks at every row, so it ends by itself, and has a budget of its own."""
OBJECTS = "SELECT type, name, tbl_name, sql, rootpage FROM sqlite_schema LIMIT 1000"
ADDED = {
    ("table", "sqlite_stat1", "sqlite_stat1"): "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    ("table", "sqlite_stat4", "sqlite_stat4"): "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
    ("table", "_litestream_seq", "_litestream_seq"): (
        "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)"
    ),
    ("table", "_litestream_lock", "_litestream_lock"): "CREATE TABLE _litestream_lock (id INTEGER)",
}
"""What a person's ANALYZE, or a tool that replicates the file, may have added."""
_TOKENS = re.compile(r"('(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\[[^\]]*\]|`[^`]*`)|(?:--[^\n]*|/\*.*?\*/|\s)+", re.DOTALL)

Object = tuple[str, str, str]
Schema = dict[Object, str | None]


def harden(connection: apsw.Connection) -> None:
    """Make a connection fit to read a file that nobody vouches for; before its first query.

    >>> connection = apsw.Connection(":memory:")
    >>> harden(connection)
    >>> connection.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, -1)
    0
    """
    for switch, value in SWITCHES:
        connection.config(switch, value)
    for limit, value in LIMITS:
        connection.limit(limit, value)
    connection.execute("PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0").fetchall()
    refill(connection)


def refill(connection: apsw.Connection) -> None:
    """A new budget, for another read transaction: the file's size says what it may take."""
    size_bytes = _size_bytes(connection.filename)
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, min(MAX_LENGTH_BYTES, size_bytes + LENGTH_SLACK_BYTES))
    budget = _budget((BUDGET_STEPS + BUDGET_STEPS_A_BYTE * size_bytes) // PACE_STEPS)
    connection.set_progress_handler(budget, PACE_STEPS)


def go_on(connection: apsw.Connection) -> None:
    """A new budget within a read transaction, before another one of many parts that each end by themselves.

    Does nothing to a connection that is not hardened.
    """
    if connection.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, -1) == 0:
        refill(connection)


def _size_bytes(path: str) -> int:
    """The file's size with what its write-ahead log adds. `path`: as SQLite found it, behind all links."""
    size_bytes = 0
    for name in (path, path + "-wal"):
        with suppress(FileNotFoundError):
            size_bytes += os.stat(name).st_size  # noqa: PTH116 - at every read
    return size_bytes


def _budget(looks: int) -> Callable[[], bool]:
    left = looks

    def is_spent() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    return is_spent


def check_schema(connection: apsw.Connection, path: str, scripts: Sequence[str]) -> None:
    """Raise ForeignSchema unless the file's schema is what `scripts` make. SQLite's own tables may be there or not.

    >>> connection = apsw.Connection(":memory:")
    >>> connection.execute("CREATE TABLE t (n); CREATE VIEW v AS SELECT load_extension('x')").fetchall()
    []
    >>> check_schema(connection, "runs.db", ("CREATE TABLE t (n)",))
    Traceback (most recent call last):
    eventstore.errors.ForeignSchema: runs.db: it is not an event store of this version: its view v is none of its own
    """
    found: Schema = {}
    roots = []
    for kind, name, table, sql, root in connection.execute(OBJECTS):
        if type(kind) is not str or type(name) is not str or type(table) is not str or type(root) is not int:
            raise ForeignSchema(path, "schema", "holds a row that no statement writes")
        if (kind, name, table) in found:
            raise ForeignSchema(path, f"{kind} {name}", "is there twice")
        found[kind, name, table] = sql if sql is None or type(sql) is str else repr(sql)
        if root:
            roots.append(root)
    expected = _made_by(tuple(scripts))
    for key, sql in ADDED.items():
        if key in found and found[key] == sql:
            del found[key]
    if found != expected:
        _tell_difference(path, found, expected)
    if len(set(roots)) != len(roots) or min(roots) < 2:
        raise ForeignSchema(path, "schema", "has two tables in one place")


@cache
def _made_by(scripts: tuple[str, ...]) -> Schema:
    connection = apsw.Connection(":memory:")
    try:
        for script in scripts:
            connection.execute(script).fetchall()
        rows = connection.execute(OBJECTS).fetchall()
    finally:
        connection.close()
    return {(str(kind), str(name), str(table)): None if sql is None else str(sql) for kind, name, table, sql, _ in rows}


def _tell_difference(path: str, found: Schema, expected: Schema) -> None:
    for key, sql in found.items():
        name = f"{key[0]} {_shown(key[1])}"
        if key not in expected:
            raise ForeignSchema(path, name, "is none of its own")
        if _plain(sql) != _plain(expected[key]):
            raise ForeignSchema(path, name, "is not the one that this version writes")
    for kind, name, table in expected:
        if (kind, name, table) not in found:
            raise ForeignSchema(path, f"{kind} {name}", "is missing")


def _plain(sql: str | None) -> str | None:
    """A statement without comments, each run of spaces as one."""
    return None if sql is None else _TOKENS.sub(lambda token: token[1] or " ", sql)


def _shown(name: str) -> str:
    return name if len(name) <= 60 else name[:60] + "…"
