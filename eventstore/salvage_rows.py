"""The rows of a damaged file, as found, in a sound file beside the new one: what is judged next can be asked with SQL.

The layout of the tables is that of the newest format: those of older ones only lack the newest columns. A table whose
name the damaged schema has lost is looked for among the roots that no name claims, by the shape of its records.
Rows of the log wait in a table without rules, several of one place if need be: the hash chain chooses. Everything else
goes straight into tables that hold their rules; what these refuse is damaged and counted. Not taken are bases,
barriers, owners: they are derived, or of processes that are gone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import apsw

from .database import APPLICATION_ID, FORMAT, schema_scripts
from .errors import FormatTooNew, NotAnEventStore, WrongChainKey
from .salvage_pages import Pages
from .salvage_trees import Record, Trees, Value, fits, records
from .whole_file import SQLITE

BESIDE_THE_LOG = ("root", "tombstone", "checkpoint", "lease", "graph", "scope", "scope_trace", "scope_checkpoint")
KEPT = ("trace", "log", *BESIDE_THE_LOG)
NAMES = "sqlite_autoindex_trace_1"
PLACES = "sqlite_autoindex_log_1"
FORKS = "trace_forks"
INDEXES = {
    NAMES: [("TEXT", False), ("INTEGER", False)],
    PLACES: [("INTEGER", False), ("INTEGER", False), ("INTEGER", False)],
    FORKS: [("INTEGER", False), ("INTEGER", False), ("INTEGER", False)],
}
AMBIGUOUS = ("scope_trace",)
"""Its records have the shape of those of its own index, the other way round."""
SAMPLE = 20
BUFFERS = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
CREATE TEMP TABLE found (trace, first_seq, n, append_id, at_us, digest, body);
CREATE TEMP TABLE place (trace, first_seq);
CREATE TEMP TABLE named (id, trace_id);
"""
INDEX = "CREATE INDEX temp.found_at ON found (trace, first_seq); CREATE INDEX temp.place_at ON place (trace, first_seq)"
SCHEMA = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
ROOTS = "SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"
COLUMNS = 'SELECT name, type, "notnull", pk FROM pragma_table_info(?) ORDER BY cid'
HAS_ROW_IDS = "SELECT NOT wr FROM pragma_table_list WHERE name = ? AND schema = 'main'"
HAS_FOUND = "SELECT count(*) FROM found"
ADD_FOUND = "INSERT INTO found VALUES (?, ?, ?, ?, ?, ?, ?)"
ADD_PLACE = "INSERT INTO place VALUES (?, ?)"
ADD_NAME = "INSERT INTO named VALUES (?, ?)"
Types = list[tuple[str, bool]]


class Layout:
    """How a table's records are stored: its columns in that order, which of them is the row id."""

    def __init__(self, connection: apsw.Connection, table: str) -> None:
        columns: list[Any] = connection.execute(COLUMNS, (table,)).fetchall()
        has_row_ids = bool(connection.execute(HAS_ROW_IDS, (table,)).get)
        if not has_row_ids:
            columns.sort(key=lambda column: column[3] or 1000)  # the sort is stable: the others keep their order
        alias = [i for i, (_, kind, _, key) in enumerate(columns) if has_row_ids and key and kind == "INTEGER"]
        self.alias = alias[0] if len(alias) == 1 else None
        self.names = [name for name, *_ in columns]
        self.types: Types = [
            (kind, i == self.alias or not (required or (key and not has_row_ids)))
            for i, (_, kind, required, key) in enumerate(columns)
        ]
        marks = ", ".join("?" for _ in columns)
        self.insert = f"INSERT OR IGNORE INTO {table} ({', '.join(self.names)}) VALUES ({marks})"

    def row(self, record: Record) -> list[Value] | None:
        """The columns' values; None where the record is no row of this table."""
        row_id, values = record
        if not fits(values, self.types):
            return None
        values = values + [None] * (len(self.types) - len(values))
        if self.alias is not None:
            values[self.alias] = row_id
        return values


class Found:
    """What a damaged file holds, in the file at `path`. `connection`: to it, in a transaction.

    `bad`: how many records of each table could not be read, `pages`: how many of the file's pages hold such, or none.
    """

    def __init__(self, pages: Pages, path: Path, fingerprint: bytes | None) -> None:
        self.pages = pages
        self.bad: Counter[str] = Counter()
        self.bad_pages: defaultdict[str, set[int]] = defaultdict(set)
        self.connection = apsw.Connection(str(path))
        for script in schema_scripts():
            self.connection.execute(script)
        self.connection.pragma("application_id", APPLICATION_ID)
        self.connection.pragma("user_version", FORMAT)
        self.guards: list[Any] = self.connection.execute(SCHEMA).fetchall()
        for name, _ in self.guards:
            self.connection.execute(f"DROP TRIGGER {name}")
        self.connection.execute(BUFFERS).fetchall()  # the rows of its pragmas, which stop it else
        self.connection.execute("BEGIN")
        self.layouts = {table: Layout(self.connection, table) for table in KEPT}
        self.trees = Trees(pages)
        self.roots = self._roots()
        self._check_key(fingerprint)
        self.traces: dict[int, tuple[Any, ...]] = {}
        self.forks: dict[int, tuple[int, int]] = {}
        try:
            self._read()
        except BaseException:
            self.connection.close()
            raise

    def close(self, *, whole: bool) -> None:
        """Done with it; `whole`: with its guards, as a store's file is."""
        if whole:
            for _, sql in self.guards:
                self.connection.execute(sql)
            self.connection.execute("COMMIT")
        self.connection.close()

    def _roots(self) -> dict[str, list[int]]:
        """Where each table and each index begins; where the schema is lost, what has its shape."""
        first = self.pages.page(1)
        self.trees.claim([1])
        named: dict[str, int] = {}
        for number in self.trees.of[1]:
            for record in records(self.pages, number):
                if record is None or not fits(record[1], SCHEMA_TYPES):
                    self._bad("schema", number)
                elif isinstance(root := record[1][3], int) and 2 <= root <= self.pages.count:
                    named[str(record[1][1])] = root
        self._check_kind(first, named)
        self.trees.claim(sorted(set(named.values())))
        roots = {name: [root] for name, root in named.items()}
        wanted: dict[str, Types] = {table: self.layouts[table].types for table in KEPT} | {NAMES: INDEXES[NAMES]}
        if lost := [name for name in wanted if name not in named and name not in AMBIGUOUS]:
            orphans = self.trees.orphans()
            self.trees.claim(orphans)
            for name in lost:
                roots[name] = [root for root in orphans if self._is_of(root, wanted[name])]
        return roots

    def _check_kind(self, first: bytes, named: dict[str, int]) -> None:
        """Raise NotAnEventStore, FormatTooNew for a sound header that says so."""
        application, version = (int.from_bytes(first[at : at + 4], "big") for at in (68, 60))
        is_sound = first[:16] == SQLITE and "trace" in named
        path = self.pages.path
        if named and first[:16] == SQLITE and application != APPLICATION_ID and not {"trace", "log"} & named.keys():
            raise NotAnEventStore(path, "an SQLite file of another application")
        known = {name for name, _ in self.connection.execute(ROOTS)}
        more = {name for name in named if not name.startswith("sqlite_")} - known
        if is_sound and application == APPLICATION_ID and version > FORMAT and more:
            raise FormatTooNew(path, version, FORMAT)

    def _check_key(self, fingerprint: bytes | None) -> None:
        """Raise WrongChainKey where the file says that its chain has another key."""
        for _, (_, values) in self._of("chain_key", KEY_TYPES):
            if values[1] != fingerprint:
                told = "its digests have a key, which is needed" if fingerprint is None else "its key is another one"
                raise WrongChainKey(self.pages.path, told)
        if fingerprint is not None:
            self.connection.execute("INSERT INTO chain_key (id, fingerprint) VALUES (1, ?)", (fingerprint,))

    def _is_of(self, root: int, types: Types) -> bool:
        found = (record for number in self.trees.of[root] for record in records(self.pages, number))
        sample = list(islice(found, SAMPLE))
        good = sum(record is not None and fits(record[1], types) for record in sample)
        return good > len(sample) / 2

    def _bad(self, table: str, number: int) -> None:
        self.bad[table] += 1
        self.bad_pages[table].add(number)

    def _of(self, name: str, types: Types) -> Iterator[tuple[int, Record]]:
        """The records of a table or an index that have its shape, with their pages."""
        for number in (number for root in self.roots.get(name, ()) for number in self.trees.of.get(root, ())):
            for record in records(self.pages, number):
                if record is None or not fits(record[1], types):
                    self._bad(name, number)
                else:
                    yield number, record

    def _read(self) -> None:
        connection = self.connection
        for row_id, values in self._rows("trace"):
            self.traces.setdefault(row_id, values)
        for _, (_, name) in self._of(NAMES, INDEXES[NAMES]):
            connection.execute(ADD_NAME, (name[1], name[0]))
        for _, (_, fork) in self._of(FORKS, INDEXES[FORKS]):
            parent, fork_seq, number = fork
            self.forks[number] = parent, fork_seq  # type: ignore[index, assignment]
        for _, (_, place) in self._of(PLACES, INDEXES[PLACES]):
            connection.execute(ADD_PLACE, tuple(place[:2]))
        connection.executemany(ADD_FOUND, (values[1:] for _, values in self._rows("log")))
        connection.executemany(ADD_FOUND, self._strays())
        connection.execute(INDEX)
        if not (self.roots["trace"] or self.roots["log"] or connection.execute(HAS_FOUND).get):
            reason = "no page of it can be read as one of an event store; is it encrypted?"
            raise NotAnEventStore(self.pages.path, reason)
        for table in BESIDE_THE_LOG:
            layout = self.layouts[table]
            for number, record in self._of(table, layout.types):
                try:
                    connection.execute(layout.insert, layout.row(record))
                    is_taken = connection.changes() == 1  # OR IGNORE passes over what a CHECK refuses, too
                except (apsw.ConstraintError, apsw.MismatchError):
                    is_taken = False
                if not is_taken:
                    self._bad(table, number)
        self._bury()

    def _bury(self) -> None:
        """Take tombstones behind the damage of the write-ahead log, too: what was erased must not be back."""
        layout = self.layouts["tombstone"]
        for number, data in self.pages.frames_behind():
            for record in records(self.pages, number, data):
                if record is not None and (row := layout.row(record)) is not None and row[-1] is not None:
                    with suppress(apsw.ConstraintError, apsw.MismatchError):  # it was of the shape, and is none
                        self.connection.execute(layout.insert, row)

    def _rows(self, table: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
        layout = self.layouts[table]
        for _, record in self._of(table, layout.types):
            row: Any = layout.row(record)
            yield row[0], tuple(row)

    def _strays(self) -> Iterator[tuple[Any, ...]]:
        """What has the shape of a row of the log, on pages that no tree claims, or behind the damage of the WAL."""
        layout = self.layouts["log"]
        used = {1, *(root for roots in self.roots.values() for root in roots)}
        strays = ((number, None) for number in self.trees.strays(used))
        for number, data in chain(strays, self.pages.frames_behind()):
            for record in records(self.pages, number, data):
                if record is not None and (row := layout.row(record)) is not None:
                    yield tuple(row[1:])


KEY_TYPES: Types = [("INTEGER", True), ("BLOB", False)]
SCHEMA_TYPES: Types = [("TEXT", False), ("TEXT", False), ("TEXT", False), ("INTEGER", True), ("TEXT", True)]
