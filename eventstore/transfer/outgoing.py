"""A store, or some of its traces, as JSON Lines: to keep, to move, to read with jq; `load` takes them in again.

A header, then per trace (parents before children): the threads of other frameworks that it is the first of, its
line, its root where it was trimmed, its commits with the body as it stands in the log, each followed by its
checkpoints and those of threads, its lease, and a closing line; at last the tombstones and a line of counts. The
log's hash chain covers the commits and is verified on the way out; every other line carries a checksum. Bases are
derived and stay behind. A trace is read at the version it had when its turn came, a page at a time, each page in a
read of its own: nobody waits, and memory stays flat but for the places that threads have in one trace.
"""

from __future__ import annotations

import binascii
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import apsw
import msgspec

from eventstore import chain, log
from eventstore.bases import root_checksum
from eventstore.codec import check_text, decode_rows, json_encode
from eventstore.database import FORMAT as FILE_FORMAT
from eventstore.errors import EventStoreError, FileCorrupted, LogCorrupted, Trimmed
from eventstore.event import JsonRecord, utc
from eventstore.link import decode_whole
from eventstore.log import LogRow, TraceRow

from .lines import (
    FORMAT,
    CheckpointLine,
    ClosedLine,
    DamagedLine,
    EndLine,
    GraphLine,
    HeaderLine,
    LeaseLine,
    RootLine,
    TombstoneLine,
    TraceLine,
    checked,
)
from .threads import Outgoing

if TYPE_CHECKING:
    from eventstore.store import Store

PAGE_ROWS = 256
PAGE_TRACES = 1000
NEWEST = "SELECT coalesce(max(id), 0) FROM trace"
TRACES = (
    "SELECT id, trace_id, name, parent, fork_seq, created_us, status FROM trace WHERE id > ?1 AND id <= ?2"
    " AND (?3 IS NULL OR name = ?3) AND (?4 IS NULL OR status = ?4) ORDER BY id LIMIT ?5"
)
ROOT = (
    "SELECT seq, at_us, digest, checksum, created_us, seal, CAST(body AS BLOB) FROM root WHERE trace = ?"
    " ORDER BY seq DESC LIMIT 1"
)
CHECKPOINTS = (
    "SELECT checkpoint_id, seq, node, graph_hash, triggers, metadata, created_us FROM checkpoint"
    " WHERE trace = ? AND seq >= ? AND seq <= ? ORDER BY seq, checkpoint_id"
)
LEASE = "SELECT epoch, due_us FROM lease WHERE trace = ?"
DEFINITION = "SELECT definition FROM graph WHERE graph_hash = ?"
TOMBSTONES = (
    "SELECT trace_id, version, digest, erased_by, erased_us FROM tombstone WHERE trace_id > ? ORDER BY trace_id LIMIT ?"
)
COMMIT = b'{"commit":{"first_seq":%d,"n":%d,"append_id":%b,"at_us":%d,"digest":"%b",%b}}\n'


class DumpCounts(JsonRecord, frozen=True):
    """What a dump holds. `commits`: rows of the log, one a step; `damaged`: traces that could not be read to the end.

    `threads`: of other frameworks, each namespace of one.

    >>> DumpCounts(traces=1, commits=3, events=12).events
    12
    """

    traces: int = 0
    commits: int = 0
    events: int = 0
    checkpoints: int = 0
    tombstones: int = 0
    damaged: int = 0
    size_bytes: int = 0
    threads: int = 0


def dump(
    store: Store,
    out: BinaryIO,
    *,
    trace_ids: Iterable[str] | None = None,
    name: str | None = None,
    status: str | None = None,
    on_trace: Callable[[str], None] | None = None,
    on_bad: Callable[[EventStoreError], None] | None = None,
) -> DumpCounts:
    """Write traces as JSON Lines; without a choice the whole store, with its tombstones.

    `trace_ids`, `name`, `status`: only those, and what they were forked from, whose history they share. A thread of
    another framework goes with them when all its traces do (its journal of pending writes is one); otherwise they
    are dumped as traces that no thread reads.
    `on_trace`: is told the id of each trace that is written. `on_bad`: is told of a damaged trace (or one that
    was trimmed or erased meanwhile), which the dump then holds up to there; without it the error is raised, and
    the dump has no last line.

    Raises ValueRefused (before anything is written), TraceNotFound, TraceErased, Trimmed, LogCorrupted, storage
    errors, and what `out` raises.

    >>> import io
    >>> from eventstore import open
    >>> with open(":memory:") as store:
    ...     trace = store.start({"n": 1}, id="t1")
    ...     out = io.BytesIO()
    ...     counts = dump(store, out)
    >>> counts.traces, counts.commits, [line[:12] for line in out.getvalue().splitlines()]
    (1, 1, [b'{"eventstore', b'{"trace":{"t', b'{"commit":{"', b'{"closed":{"', b'{"end":{"tra'])
    """
    check_text("name", name)
    check_text("status", status)
    whole = trace_ids is None and name is None and status is None
    wanted = None if whole else _chosen(store, trace_ids, name, status)
    writing = _Dump(store, out, Outgoing(wanted))
    writing.header(whole)
    for row in _every(store) if wanted is None else _rows(store, sorted(wanted)):
        try:
            writing.trace(row)
        except EventStoreError as error:
            if on_bad is None or not store._database.is_open:
                raise
            writing.broken(row, error)
            on_bad(error)
        if on_trace is not None:
            on_trace(row.trace_id)
    if whole:
        writing.tombstones()
    return writing.end()


def _every(store: Store, name: str | None = None, status: str | None = None) -> Iterator[TraceRow]:
    """The traces that the store has now, oldest first: parents before children."""
    after = 0
    with store._database.reader() as connection:
        newest: Any = connection.execute(NEWEST).get
    while True:
        with store._database.reader() as connection:
            rows: list[Any] = connection.execute(TRACES, (after, newest, name, status, PAGE_TRACES)).fetchall()
            found = [log.trace_row(connection, row) for row in rows]
        yield from found
        if len(found) < PAGE_TRACES:
            return
        after = found[-1].id


def _chosen(store: Store, trace_ids: Iterable[str] | None, name: str | None, status: str | None) -> set[int]:
    """The row ids of the traces that are asked for, and of those that they were forked from."""
    wanted: set[int] = set()
    with store._database.reader() as connection:
        if trace_ids is None:
            rows: Iterable[TraceRow] = _every(store, name, status)
        else:
            rows = [log.find_trace(connection, trace_id) for trace_id in trace_ids]
            rows = [row for row in rows if name in (None, row.name) and status in (None, row.status)]
        for row in rows:
            while row.id not in wanted:
                wanted.add(row.id)
                if row.parent is None:
                    break
                row = log.trace_by_row(connection, row.parent)
    return wanted


def _rows(store: Store, row_ids: Iterable[int]) -> Iterator[TraceRow]:
    for row_id in row_ids:
        with store._database.reader() as connection:
            found: Any = connection.execute(log.TRACE_BY_ROW, (row_id,)).fetchone()
            row = None if found is None else log.trace_row(connection, found)
        if row is not None:
            yield row


class _Dump:
    """A dump that is being written."""

    def __init__(self, store: Store, out: BinaryIO, threads: Outgoing) -> None:
        self.store = store
        self.chain = store._database.chain
        self.out = out
        self.threads = threads
        self.places: deque[tuple[int, bytes]] = deque()
        self.traces = self.commits = self.events = self.checkpoints = self.stones = self.damaged = 0
        self.size_bytes = 0
        self.graphs: set[str] = set()

    def write(self, *lines: bytes) -> None:
        data = b"".join(lines)
        self.size_bytes += len(data)
        self.out.write(data)

    def header(self, whole: bool) -> None:
        from eventstore import __version__  # the package itself, which is there by now

        now = utc(time.time_ns() // 1000).isoformat()
        key = self.chain.fingerprint
        header = HeaderLine(FORMAT, FILE_FORMAT, __version__, now, whole, None if key is None else key.hex())
        self.write(checked("eventstore", json_encode(header)))

    def trace(self, row: TraceRow) -> None:
        """One trace, from its line to the closing one."""
        lines: list[bytes] = []
        with self.store._database.reader() as connection:
            log.find_trace(connection, row.trace_id)
            head = log.head(connection, row)
            digest, seq, parent_id = self._begin(connection, row)
            root: Any = connection.execute(ROOT, (row.id,)).fetchone()
            lease: Any = connection.execute(LEASE, (row.id,)).fetchone()
            lines += self.threads.before(connection, row)
            opened = TraceLine(row.trace_id, row.name, row.created_us, parent_id, row.fork_seq)
            lines.append(checked("trace", json_encode(opened)))
            if root is not None:
                seq, digest = root[0], root[2]
                lines += self._root(connection, row, root)
            early, checkpoints = self._checkpoints(connection, row, 0, seq)
            self.places = deque(self.threads.places(connection, row))
        self.traces += 1
        self.write(*lines, *(line for _, line in early))
        commits, places = 0, len(self.places)
        while seq < head.version:
            lines, count, seq, digest, marks = self._page(row, seq, head.version, digest)
            commits += count
            checkpoints += marks
            self.write(*lines)
        if digest != head.digest:
            raise LogCorrupted(self.store.path, row.trace_id, seq, "the last row is not the one that was there")
        lines = []
        if lease is not None:
            lines.append(checked("lease", json_encode(LeaseLine(*lease)), row.trace_id))
        closed = ClosedLine(row.trace_id, seq, digest.hex(), commits, checkpoints, lease is not None, places)
        self.write(*lines, checked("closed", json_encode(closed), row.trace_id))

    def _begin(self, connection: apsw.Connection, row: TraceRow) -> tuple[bytes, int, str | None]:
        """The digest and the seq before the trace's own rows, and its parent's id."""
        if row.parent is None:
            return chain.genesis(row.trace_id), 0, None
        parent = log.trace_by_row(connection, row.parent)
        return log.boundary(connection, parent, row.fork_seq).digest, row.fork_seq, parent.trace_id

    def _root(self, connection: apsw.Connection, row: TraceRow, root: Any) -> list[bytes]:
        seq, at_us, digest, crc, created_us, seal, body = root
        is_sealed = self.chain.is_sealed(seal, row.trace_id, created_us, seq, at_us, digest, body)
        if crc != root_checksum(row.id, seq, body) or not is_sealed:
            raise LogCorrupted(self.store.path, row.trace_id, seq, "its root fails its checksum")
        try:
            control, state = decode_whole(body)
        except ValueError as error:
            raise LogCorrupted(self.store.path, row.trace_id, seq, f"its root cannot be read: {error}") from error
        try:
            payload = json_encode(RootLine(seq, at_us, digest.hex(), control, state))
        except (TypeError, OverflowError):  # an adapter's opaque value
            payload = json_encode(RootLine(seq, at_us, digest.hex(), body64=_base64(body)))
        return [*self._graph(connection, control.get("graph_hash")), checked("root", payload, row.trace_id)]

    def _page(self, row: TraceRow, after: int, upto: int, digest: bytes) -> tuple[list[bytes], int, int, bytes, int]:
        """A page of commits with their checkpoints: the lines, how many commits, the last seq, digest, checkpoints."""
        lines: list[bytes] = []
        with self.store._database.reader() as connection:
            found: list[Any] = connection.execute(log.FULL_ROWS, (row.id, after, upto, PAGE_ROWS)).fetchall()
            if not found or found[0][0] != after + 1:
                self._explain_gap(connection, row, after)
            seq = after
            last = log.log_row(connection, row.id, found[-1], after).last_seq
            checkpoints, count = self._checkpoints(connection, row, after + 1, last)
            marks = iter(checkpoints)
            mark = next(marks, None)
            try:
                for values in found:
                    commit = log.log_row(connection, row.id, values, seq)
                    lines += self._commit(connection, row, commit, seq, digest)
                    seq, digest = commit.last_seq, commit.digest
                    self.commits += 1
                    self.events += commit.n
                    while mark is not None and mark[0] <= seq:
                        lines.append(mark[1])
                        mark = next(marks, None)
                    while self.places and self.places[0][0] <= seq:
                        lines.append(self.places.popleft()[1])
            except EventStoreError:
                self.write(*lines)  # what is before the damage is sound
                raise
        return lines, len(found), seq, digest, count

    def _commit(
        self, connection: apsw.Connection, row: TraceRow, commit: LogRow, seq: int, digest: bytes
    ) -> Iterator[bytes]:
        first_seq, n, append_id, at_us, own, body = commit
        if first_seq != seq + 1 or self.chain.extend(digest, first_seq, n, at_us, append_id, body) != own:
            reason = "the row is not what was written, or a row before it is missing"
            raise LogCorrupted(self.store.path, row.trace_id, seq + 1, reason)
        if b"graph_hash" in body:
            yield from self._graphs_of(connection, row, commit)
        named = b"%d" % append_id if type(append_id) is int else json_encode(append_id)
        is_line = body[:1] == b"[" and body[-1:] == b"]" and b"\n" not in body and b"\r" not in body
        held = b'"body":%b' % body if is_line else b'"body64":"%b"' % _base64(body).encode()
        yield COMMIT % (first_seq, n, named, at_us, own.hex().encode(), held)

    def _graphs_of(self, connection: apsw.Connection, row: TraceRow, commit: LogRow) -> Iterator[bytes]:
        try:
            events = decode_rows(commit.body)
        except ValueError as error:
            raise LogCorrupted(self.store.path, row.trace_id, commit.first_seq, str(error)) from error
        for event in events:
            if event.kind in ("trace_started", "graph_changed") and isinstance(event.data, dict):
                yield from self._graph(connection, event.data.get("graph_hash"))

    def _graph(self, connection: apsw.Connection, graph_hash: Any) -> Iterator[bytes]:
        """The definition, the first time that the dump comes to its hash."""
        if type(graph_hash) is not str or not graph_hash or graph_hash in self.graphs:
            return
        self.graphs.add(graph_hash)
        found: Any = connection.execute(DEFINITION, (graph_hash,)).fetchone()
        if found is not None and type(found[0]) is str:
            yield checked("graph", json_encode(GraphLine(graph_hash, _raw(found[0]))))

    def _checkpoints(
        self, connection: apsw.Connection, row: TraceRow, first: int, last: int
    ) -> tuple[list[tuple[int, bytes]], int]:
        """The checkpoints with `first <= seq <= last` as (seq, line), with the graphs that they name; how many."""
        lines: list[tuple[int, bytes]] = []
        found: list[Any] = connection.execute(CHECKPOINTS, (row.id, first, last)).fetchall()
        for checkpoint_id, seq, node, graph_hash, triggers, metadata, created_us in found:
            if type(triggers) is not str or type(metadata) not in (str, type(None)):
                raise FileCorrupted(self.store.path, f"checkpoint {checkpoint_id!r} holds what was never written")
            lines += [(seq, line) for line in self._graph(connection, graph_hash)]
            try:
                named, cost = _raw(triggers), _raw("null" if metadata is None else metadata)
            except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                raise FileCorrupted(self.store.path, f"checkpoint {checkpoint_id!r}: {error}") from error
            fields = CheckpointLine(checkpoint_id, seq, node, graph_hash, named, cost, created_us)
            lines.append((seq, checked("checkpoint", json_encode(fields), row.trace_id)))
        self.checkpoints += len(found)
        return lines, len(found)

    def _explain_gap(self, connection: apsw.Connection, row: TraceRow, after: int) -> None:
        """Raise TraceErased, Trimmed or LogCorrupted: the next row is not there."""
        current = log.find_trace(connection, row.trace_id)
        root = log.root_seq(connection, current.id)
        if root > after:
            raise Trimmed(row.trace_id, after + 1, log.head(connection, current).version, root)
        raise LogCorrupted(self.store.path, row.trace_id, after + 1, "a row is missing")

    def broken(self, row: TraceRow, error: EventStoreError) -> None:
        """The trace ends here: whoever loads the dump is told."""
        self.damaged += 1
        self.write(checked("damaged", json_encode(DamagedLine(row.trace_id, str(error)))))

    def tombstones(self) -> None:
        after = ""
        while True:
            with self.store._database.reader() as connection:
                found: list[Any] = connection.execute(TOMBSTONES, (after, PAGE_TRACES)).fetchall()
            for trace_id, version, digest, erased_by, erased_us in found:
                if type(digest) is not bytes or not type(version) is type(erased_us) is int:
                    raise FileCorrupted(self.store.path, f"the tombstone of {trace_id!r} is none that was written")
                stone = TombstoneLine(trace_id, version, digest.hex(), erased_us, erased_by)
                self.write(checked("tombstone", json_encode(stone)))
            self.stones += len(found)
            if len(found) < PAGE_TRACES:
                return
            after = found[-1][0]

    def end(self) -> DumpCounts:
        self.write(checked("end", json_encode(EndLine(self.traces, self.commits, self.events, self.stones))))
        return DumpCounts(
            self.traces, self.commits, self.events, self.checkpoints, self.stones, self.damaged, self.size_bytes,
            self.threads.count,
        )  # fmt: skip


def _raw(text: str) -> msgspec.Raw:
    """JSON of a column, as it is unless it is more than one line."""
    data = text.encode()
    return msgspec.Raw(json_encode(msgspec.json.decode(data)) if b"\n" in data or b"\r" in data else data)


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode()
