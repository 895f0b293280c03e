"""The file: opening, migrating, and handing out connections.

One writer connection per process and a small pool of readers. A reader's connection is never shared
while it is in use. The connection that opened the file goes to whoever comes first, reader or writer: parsing the
schema is most of what a connection costs, and who only looks needs but one. `schema/NNN_*.sql` are applied in order,
`user_version` counts them. After an I/O error the database is halted: every later call raises, and nothing is
checkpointed on close.

Two things that SQLite leaves to its caller are seen to here. What an earlier process left in the write-ahead log may
not be on the disk: it is settled (`wal`) before anything in it is believed. And SQLite's own checkpoint after a commit
keeps its errors to itself, after which the next one would move pages into the file that the log on the disk lacks: so
the checkpoint is made here.
"""

from __future__ import annotations

import os
import random
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

import apsw

from .chain import Chain, LockedChain
from .encryption import cipher_key
from .errors import (
    EventStoreError,
    FileCorrupted,
    FormatTooNew,
    NotAnEventStore,
    StorageError,
    StorageFull,
    StoreBusy,
    StoreClosed,
    StoreHalted,
    TooMuchWork,
    UnsupportedSQLite,
    WrongChainKey,
)
from .foreign import check_schema, harden, refill
from .turnstile import Turnstile
from .wal import settle

Durability = Literal["full", "normal"]

APPLICATION_ID = 0x74724553  # "trES"
FORMAT = 7
"""The newest format: how many scripts `schema/` holds."""
NEEDED_SQLITE = (3, 51, 3)
CHECKPOINT_PAGES = 1000
"""How many pages the write-ahead log may hold before a commit has it moved into the file."""
OPENING_WAITS_MS = 250.0
_IDLE_READERS = 4
_open_databases: weakref.WeakSet[Database] = weakref.WeakSet()


@cache
def schema_scripts() -> tuple[str, ...]:
    """The SQL of `schema/`, in order: beside the package in a wheel, beside its folder in a checkout."""
    here = Path(__file__).parent
    for folder in (here / "schema", here.parent / "schema"):
        scripts = sorted(folder.glob("[0-9][0-9][0-9]_*.sql"))
        if scripts:
            return tuple(script.read_text("utf-8") for script in scripts)
    raise FileNotFoundError(f"no schema/*.sql beside {here}")


def busy_handler(timeout_ms: float) -> Callable[[int], bool]:
    """Wait for the write lock in short, jittered naps, so that no process is passed over for long.

    SQLite's own handler backs off to 100 ms; a commit takes a fraction of one.
    """
    started = 0.0

    def wait(prior_calls: int) -> bool:
        nonlocal started
        now = time.monotonic()
        if prior_calls == 0:
            started = now
        waited_ms = (now - started) * 1000
        if waited_ms > timeout_ms:
            return False
        time.sleep(random.uniform(0.00002, 0.0001) if waited_ms < 20 else random.uniform(0.0002, 0.001))
        return True

    return wait


class Database:
    """One open file. `path`, `durability`, `read_only` as given to `es.open`. `chain`: what computes its digests."""

    def __init__(
        self,
        path: str,
        *,
        durability: Durability = "full",
        read_only: bool = False,
        create: bool = True,
        busy_timeout_ms: float = 10_000,
        chain_key: str | bytes | None = None,
        encryption_key: str | bytes | None = None,
    ) -> None:
        if durability not in ("full", "normal"):
            raise ValueError(f"durability is 'full' or 'normal', not {durability!r}")
        try:
            path.encode()
        except UnicodeEncodeError:
            raise StorageError(ascii(path), "SQLite takes names of UTF-8 only") from None
        self.path = path
        self._file = os.path.abspath(path)  # noqa: PTH100 - the path keeps its meaning when the process moves
        self.durability: Durability = durability
        self.read_only = read_only
        self.halted: str | None = None
        self.busy_timeout_ms = busy_timeout_ms
        self.checkpoint_pages = CHECKPOINT_PAGES
        self._readers: deque[apsw.Connection] = deque()
        self._first: deque[apsw.Connection] = deque()
        self._written: apsw.Connection | None = None
        self._closed: str | None = None
        self.is_open = True  # False once closed, halted or forked: then check_open says which
        self.chain = Chain(chain_key)
        self._cipher = None if encryption_key is None else cipher_key(path, encryption_key)
        _check_sqlite(path)
        _check_not_inherited(path)
        existed = Path(path).exists()
        if not existed and (read_only or not create):
            raise StorageError(path, "no such file")
        if not existed:
            _create_private(path)
        self.turnstile = Turnstile(None)
        with self.errors():
            first = self._connect()
            try:
                self._prepare(first)
            except BaseException:
                first.close()
                self.turnstile.close()
                raise
        self._first.append(first)
        _open_databases.add(self)

    @property
    def writer(self) -> apsw.Connection:
        """The connection that writes. Who asks for it first holds the writer's mutex."""
        if self._written is None:
            self.check_open()
            with self.errors():
                try:
                    self._written = self._first.pop()
                except IndexError:
                    self._written = self._connect()
                    self._writes(self._written)
        return self._written

    def _connect(self) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READONLY if self.read_only else apsw.SQLITE_OPEN_READWRITE
        connection = apsw.Connection(self._file, flags=flags)
        if self._cipher is not None:
            connection.pragma("key", self._cipher)
        if self.read_only:
            harden(connection)
        connection.set_busy_handler(busy_handler(self.busy_timeout_ms))
        # One checkpointer a process: who writes, and an orderly close. Neither a reader that ends last, nor an exit.
        connection.wal_autocheckpoint(0)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute("PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON")
        return connection

    def _prepare(self, connection: apsw.Connection) -> None:
        connection.execute("BEGIN")  # one instant: another process may be creating the file
        found, application = connection.pragma("user_version"), connection.pragma("application_id")
        tables = connection.execute("SELECT EXISTS (SELECT 1 FROM sqlite_schema)").get
        connection.execute("ROLLBACK")
        if application != APPLICATION_ID:
            if tables or found or application:
                raise NotAnEventStore(self.path, "an SQLite file of another application")
            if self.read_only:
                raise NotAnEventStore(self.path, "an empty file")
        if found > FORMAT:
            raise FormatTooNew(self.path, found, FORMAT)
        if self.read_only:
            if found < FORMAT:
                raise NotAnEventStore(self.path, f"format {found} needs migrating; open it once for writing")
            check_schema(connection, self.path, schema_scripts())
            self._check_chain_key(connection)
            return
        if found == 0:
            connection.pragma("page_size", 4096)
            connection.pragma("auto_vacuum", 2)
        # Processes that create one file together can collide here in spite of the busy handler.
        for attempt in range(50):
            try:
                connection.pragma("journal_mode", "wal")
                break
            except apsw.BusyError:
                if attempt == 49:
                    raise
                time.sleep(0.01)
        self._writes(connection)
        try:
            self.turnstile = Turnstile(self._file)  # before what it tells of is settled
        except OSError as error:
            raise StorageError(self.path, f"its lock file cannot be opened: {error.strerror}") from None
        connection.set_busy_handler(busy_handler(min(OPENING_WAITS_MS, self.busy_timeout_ms)))
        try:
            self.settle(connection)
        except StoreBusy:  # somebody writes for long: then before the first commit
            self.turnstile.doubt()
        connection.set_busy_handler(busy_handler(self.busy_timeout_ms))
        if found < FORMAT:
            self._migrate(connection)
        self._check_chain_key(connection)

    def settle(self, connection: apsw.Connection) -> None:
        """Have on disk what the write-ahead log shows; see `wal`. A disk that fails halts the database."""
        try:
            with self.errors():
                settle(self._file, connection)
        except OSError as error:
            raise self._halt(f"its write-ahead log cannot be written: {error.strerror}") from error

    def _check_chain_key(self, connection: apsw.Connection) -> None:
        row: Any = connection.execute("SELECT fingerprint FROM chain_key").fetchone()
        given, found = self.chain.fingerprint, None if row is None else row[0]
        if given == found:
            return
        if found is None:
            raise WrongChainKey(self.path, "its digests have no key; a file is given one when it is made, or never")
        if given is not None:
            raise WrongChainKey(self.path, "its digests have a key, and this is another one")
        if not self.read_only:
            raise WrongChainKey(self.path, "its digests have a key, which is needed to append")
        self.chain = LockedChain(self.path)

    def _writes(self, connection: apsw.Connection) -> None:
        connection.create_scalar_function("seal", self.chain.seal, -1, deterministic=True)
        connection.pragma("synchronous", self.durability)
        connection.set_wal_hook(self._after_commit)

    def _after_commit(self, connection: apsw.Connection, name: str, pages: int) -> int:
        """The commit stands whatever comes of the checkpoint. An I/O error halts; busy or full, a later one does it."""
        if pages >= self.checkpoint_pages:
            try:
                connection.wal_checkpoint(name, apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.Error as error:
                self.translate(error)
        return apsw.SQLITE_OK

    def _migrate(self, connection: apsw.Connection) -> None:
        scripts = schema_scripts()
        connection.execute("BEGIN IMMEDIATE")
        try:
            found = connection.pragma("user_version")
            for script in scripts[found:]:
                connection.execute(script)
            if not found and (fingerprint := self.chain.fingerprint) is not None:
                connection.execute("INSERT INTO chain_key (id, fingerprint) VALUES (1, ?)", (fingerprint,))
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", FORMAT)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def check_open(self) -> None:
        """Raise StoreClosed or StoreHalted unless calls may go on."""
        if self._closed is not None:
            raise StoreClosed(self.path, self._closed)
        if self.halted is not None:
            raise StoreHalted(self.path, self.halted)

    @contextmanager
    def reader(self) -> Iterator[apsw.Connection]:
        """A connection inside one read transaction: everything read through it is of one instant."""
        self.check_open()
        with self.errors():
            connection = self._idle() or self._connect()
            try:
                if self.read_only:
                    refill(connection)
                connection.execute("BEGIN")
                yield connection
            finally:
                if self._closed is None or "forked" not in self._closed:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    if self._closed is None and len(self._readers) < _IDLE_READERS:
                        self._readers.append(connection)
                    else:
                        connection.close()

    def _idle(self) -> apsw.Connection | None:
        for connections in (self._readers, self._first):
            with suppress(IndexError):
                return connections.pop()
        return None

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn apsw's errors into this package's; an I/O error halts the database."""
        try:
            yield
        except apsw.Error as error:
            raise self.translate(error) from error
        except UnicodeDecodeError as error:
            raise FileCorrupted(self.path, f"a text of it is not UTF-8: {error}") from error

    def translate(self, error: apsw.Error) -> EventStoreError:
        """The package's error for one of apsw; halts on I/O errors."""
        if isinstance(error, apsw.BusyError | apsw.LockedError):
            return self.busy()
        if isinstance(error, apsw.FullError):
            return StorageFull(self.path, "the disk is full; nothing was written")
        if isinstance(error, apsw.NotADBError):
            told = "not an SQLite file" if self._cipher is None else "not encrypted, or with another key"
            return NotAnEventStore(self.path, told)
        if isinstance(error, apsw.InterruptError) and self.read_only:
            return TooMuchWork(self.path)
        if isinstance(error, apsw.CorruptError) and self.read_only:
            return FileCorrupted(self.path, str(error))
        if isinstance(error, apsw.IOError | apsw.CorruptError):
            return self._halt(str(error))
        if isinstance(error, apsw.ReadOnlyError):
            return StorageError(self.path, self._why_read_only(error))
        return StorageError(self.path, f"{type(error).__name__}: {error}")

    def _why_read_only(self, error: apsw.Error) -> str:
        if getattr(error, "extendedresult", 0) in (apsw.SQLITE_READONLY_CANTINIT, apsw.SQLITE_READONLY_DIRECTORY):
            return "its write-ahead log needs an index beside it, and nothing can be made there; read a backup of it"
        return "opened read-only" if self.read_only else "this user may not write it"

    def _halt(self, reason: str) -> StoreHalted:
        self.halted = reason
        self.is_open = False
        self.turnstile.warn()
        return StoreHalted(self.path, reason)

    def busy(self) -> StoreBusy:
        """The error of a write that waited in vain."""
        return StoreBusy(self.path, f"locked for {self.busy_timeout_ms:.0f} ms; nothing was written")

    def close(self) -> None:
        """Close every connection; the last one out removes the WAL, unless the store halted."""
        if self._closed is not None:
            return
        self._closed = "the store is closed"
        self.is_open = False
        if self.halted is None:
            for connection in self._held():
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        while (idle := self._idle()) is not None:
            idle.close()
        if self._written is not None:
            self._written.close()
        self.turnstile.close()

    def _held(self) -> list[apsw.Connection]:
        """Those that nobody reads through just now."""
        written = [] if self._written is None else [self._written]
        return [*self._readers, *self._first, *written]

    def abandon(self) -> None:
        """In a forked child: never touch the parent's connections, not even to close them."""
        self._closed = INHERITED
        with suppress(OSError):
            found = os.stat(self._file)  # noqa: PTH116 - no allocation beyond need between fork and exec
            _inherited.add((found.st_dev, found.st_ino))
        self.is_open = False
        _abandoned.append(self._held())
        self._readers.clear()
        self._first.clear()
        self.turnstile.close()


_abandoned: list[Any] = []
_inherited: set[tuple[int, int]] = set()
INHERITED = (
    "the process that forked this one has it open, and SQLite takes the parent's locks for the child's own;"
    " open it in a fresh process (spawn, subprocess)"
)


def _abandon_all() -> None:
    for database in list(_open_databases):
        database.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


def _check_sqlite(path: str) -> None:
    found = apsw.sqlite_lib_version()
    if tuple(int(part) for part in found.split(".")[:3]) < NEEDED_SQLITE:
        raise UnsupportedSQLite(path, found, ".".join(map(str, NEEDED_SQLITE)))


def _check_not_inherited(path: str) -> None:
    """Raise StoreClosed for a file that was open when this process was forked off.

    SQLite keeps its locks a file (by inode) in the memory of a process: the child would think that it holds
    locks which the kernel knows as its parent's, and what it is acknowledged could be lost.
    """
    if _inherited and Path(path).exists():
        found = Path(path).stat()
        if (found.st_dev, found.st_ino) in _inherited:
            raise StoreClosed(path, INHERITED)


def _create_private(path: str) -> None:
    # EXCL: to open and close a file that another thread has made and opened by now would drop that one's locks.
    try:
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise StorageError(path, f"cannot be created: {error.strerror}") from None
