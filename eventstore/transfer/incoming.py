"""One trace of a dump on its way into a store: compared as far as the store has it, then added.

Each commit extends the digest of the one before it, from the trace's id, its parent's digest at the fork, or its
root's. What stands in the store already must be the same commit; what does not is checked, folded and inserted
through the schema's guards, with the projections that it moves and the base that the fold policy asks for there.
Whoever adds a commit adds its checkpoints, those of threads, and its lease with it: of a trace that is there already
nothing is touched, so what was pruned, deleted, trimmed or decided here since does not come back. A commit of whose
checkpoints or lease a line does not hold is taken back for that, to come whole the next time.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import apsw
import msgspec

from eventstore import bases, chain, log
from eventstore.bases import Restored, root_checksum
from eventstore.codec import (
    MAX_BODY_BYTES,
    as_column,
    check_append_id,
    check_key,
    decode_derived,
    normalise,
    state_size_bytes,
)
from eventstore.control import MAX_EPOCH
from eventstore.errors import (
    EventStoreError,
    MalformedDump,
    NotAStepBoundary,
    TraceDiffers,
    TraceErased,
    TraceNotFound,
    Trimmed,
)
from eventstore.event import LAST_US
from eventstore.link import encode_whole
from eventstore.log import TraceRow
from eventstore.ownership import END
from eventstore.pending import Statement
from eventstore.record import ExecutionMetadata
from eventstore.retention import INSERT_ROOT
from eventstore.writer import INSERT_ROW, INSERT_TRACE, SET_STATUS, TRACE_ROW

from .admission import MOST_CLAIMS, Admission, check_control, check_held, check_held_control, decoded
from .lines import (
    CheckpointLine,
    ClosedLine,
    CommitLine,
    LeaseLine,
    RootLine,
    StandsLine,
    TraceLine,
    WritesLine,
)
from .threads import Thread, Threads

if TYPE_CHECKING:
    from eventstore.store import Store

ROW_OF = "SELECT n, digest FROM log WHERE trace = ? AND first_seq = ?"
CHECKPOINT = "SELECT trace, seq FROM checkpoint WHERE checkpoint_id = ?"
ADD_CHECKPOINT = (
    "INSERT INTO checkpoint (checkpoint_id, trace, seq, node, graph_hash, triggers, metadata, created_us, seal)"
    " SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,"
    " seal(?1, (SELECT trace_id FROM trace WHERE id = ?2), ?3, ?4, ?5, ?6, ?7, ?8)"
)
OFFER = (
    "INSERT INTO lease (trace, epoch, due_us) VALUES (?1, ?2, ?3)"
    " ON CONFLICT (trace) DO UPDATE SET epoch = max(epoch, ?2), due_us = ?3 WHERE owner IS NULL"
)
END_FREE = END + " AND owner IS NULL"


class Loading:
    """A load under way: the store, its connection in the transaction of the batch, the line that is read."""

    connection: apsw.Connection

    def __init__(self, store: Store) -> None:
        self.store = store
        self.line = 0
        self.commits = self.events = 0
        self.threads = Threads()


def digest_of(text: str) -> bytes:
    """A digest of the chain from its hex. Raises ValueError.

    >>> len(digest_of("391bbc3f95fd0429aba4ead7026fc4c0"))
    16
    """
    digest = bytes.fromhex(text)
    if len(digest) != 16 or digest.hex() != text:
        raise ValueError("not 16 bytes in hex")
    return digest


class Incoming:
    """The trace whose lines are being read: where the dump stands in it, and where the store."""

    def __init__(self, loading: Loading, line: TraceLine) -> None:
        self.loading = loading
        self.line = line
        self.trace_id = line.trace_id
        self.row: TraceRow | None = None
        self.stands_at = self.root_seq = 0
        self.parent: TraceRow | None = None
        self.root: tuple[int, int, bytes, bytes] | None = None
        self.fold: Admission | None = None
        self.early: list[tuple[CheckpointLine, str | None]] = []
        self.lease: LeaseLine | None = None
        self.commits = self.checkpoints = self.places = 0
        self.has_added = self.was_there = False
        self.is_new = False  # the last commit was added by this load
        self.kept: tuple[TraceRow | None, int, int, bool] | None = (
            None  # what it was before, while it can be taken back
        )
        self.version = self.begin = line.fork_seq
        self.at_us = self.last_first_seq = 0
        self.digest = chain.genesis(line.trace_id)
        if (line.parent is None) != (line.fork_seq == 0) or line.fork_seq < 0:
            raise self.malformed("a fork names its parent and where it begins")
        if not 0 <= line.created_us <= LAST_US:
            raise self.malformed("its time is out of range")
        if line.parent is not None:
            self._find_parent(line.parent, line.fork_seq)
        self._find()
        if self.row is not None:
            self.was_there = True
            self._compare_line(self.row)
        elif (threads := list(loading.threads.of(self.trace_id))) and all(map(self._is_other, threads)):
            raise self._taken(threads[0])

    @property
    def connection(self) -> apsw.Connection:
        return self.loading.connection

    def malformed(self, reason: str) -> MalformedDump:
        return MalformedDump(self.loading.line, reason, self.trace_id, self.version + 1)

    def _find(self) -> None:
        """Where the store stands in this trace. Raises TraceErased, LogCorrupted."""
        try:
            self.row = log.find_trace(self.connection, self.trace_id)
        except TraceNotFound:
            if self.has_added:
                raise
            return
        self.stands_at = log.head(self.connection, self.row).version
        self.root_seq = log.root_seq(self.connection, self.row.id)

    def look_again(self) -> None:
        """At the beginning of a batch: others may have written since the last one."""
        self.kept = None
        self._find()
        if self.stands_at != self.version and not (self.row is None and self.root is not None):
            self.fold = None
        if self.row is not None and not self.was_there and not self.has_added:  # another load was first
            self.was_there = True
            self._compare_line(self.row)

    def _find_parent(self, parent_id: str, fork_seq: int) -> None:
        try:
            self.parent = log.find_trace(self.connection, parent_id)
        except TraceNotFound:
            raise self.malformed(f"its parent {parent_id} is not in the store") from None
        except TraceErased:
            raise self.malformed(f"its parent {parent_id} was erased in this store") from None
        if fork_seq <= self.parent.fork_seq:
            raise self.malformed(f"seq {fork_seq} is no row of its parent's own")
        try:
            head = log.boundary(self.connection, self.parent, fork_seq)
        except EventStoreError as error:
            raise self.malformed(f"its parent has no commit that ends at {fork_seq}: {error}") from None
        self.digest, self.at_us = head.digest, head.at_us

    def _compare_line(self, row: TraceRow) -> None:
        line, parent = self.line, None if self.parent is None else self.parent.id
        for what, ours, theirs in (
            ("parent", row.parent, parent),
            ("fork point", row.fork_seq, line.fork_seq),
            ("name", row.name, line.name),
            ("creation time", row.created_us, line.created_us),
        ):
            if ours != theirs:
                raise TraceDiffers(self.trace_id, min(row.fork_seq, line.fork_seq) + 1, f"another {what}")

    # Its root

    def take_root(self, line: RootLine) -> None:
        if self.commits or self.root is not None or self.early:
            raise self.malformed("a root stands at the beginning of a trace")
        if line.seq <= self.version or line.seq >= 2**62 or not self.at_us <= line.at_us <= LAST_US:
            raise self.malformed("the root's place or time is out of range")
        digest, control, state = self._root_body(line)
        crc_body = encode_whole(control, state, state_size_bytes(state))
        self.version = self.begin = line.seq
        self.digest, self.at_us = digest, line.at_us
        if self.row is None:
            self.root = (line.seq, line.at_us, digest, crc_body)
            restored = Restored(state, control, line.seq, 0, line.seq, len(crc_body), 0, 0, 0, 0, 0, 0)
            self.fold = Admission(restored)
            return
        if line.seq > self.stands_at:
            reason = f"it ends here, and the dump begins after seq {line.seq}"
            raise TraceDiffers(self.trace_id, self.stands_at + 1, reason)
        if line.seq >= self.root_seq:
            try:
                same = log.boundary(self.connection, self.row, line.seq).digest == digest
            except NotAStepBoundary:
                same = False
            if not same:
                raise TraceDiffers(self.trace_id, line.seq, "the history up to there is another")

    def _root_body(self, line: RootLine) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
        try:
            digest = digest_of(line.digest)
            if line.body64 is not None:
                body = binascii.a2b_base64(line.body64, strict_mode=True)
                control, state = decode_derived(body)
                if not isinstance(control, dict) or not isinstance(state, dict) or line.control or line.state:
                    raise ValueError("it holds no two objects")
            elif line.control is None or line.state is None:
                raise ValueError("it has neither state nor control")
            else:
                control, state = line.control, line.state
            for key, value in state.items():
                check_key(key)
                check_held(key, value)
            for key, value in control.items():
                check_held_control(key, value)
            check_control(control, self.line.name)
            if control.get("epoch", 0) > line.seq * 2 * MOST_CLAIMS:
                raise ValueError(f"epoch {control['epoch']} at seq {line.seq}")
        except (ValueError, TypeError, RecursionError) as error:
            raise self.malformed(f"a root that no trim could write: {error}") from None
        return digest, control, state

    # Its commits

    def commit(self, line: CommitLine) -> None:
        self.commits += 1
        first_seq, n, append_id, at_us = line.first_seq, line.n, line.append_id, line.at_us
        self._check_open()
        if first_seq != self.version + 1:
            raise self.malformed(f"the next commit begins at {first_seq}")
        try:
            body = bytes(line.body) if line.body64 is None else binascii.a2b_base64(line.body64, strict_mode=True)
            if not 0 < n < 2**32 or first_seq + n >= 2**62 or not 0 < len(body) <= MAX_BODY_BYTES:
                raise ValueError("its size is out of range")
            if not self.at_us <= at_us <= LAST_US:
                raise ValueError("its time is before that of the commit before it, or after all time")
            check_append_id(append_id)
            digest = self.loading.store._database.chain.extend(self.digest, first_seq, n, at_us, append_id, body)
            if digest.hex() != line.digest:
                raise ValueError("the digest is not that of this line: it was changed, or one before it is missing")
        except ValueError as error:
            raise self.malformed(str(error)) from None
        if first_seq <= self.stands_at:
            self.settle()
            self.is_new = False
            self._compare(first_seq, n, digest)
        else:
            self._add(first_seq, n, append_id, at_us, digest, body)
        self.version, self.digest, self.at_us = first_seq + n - 1, digest, at_us
        self.last_first_seq = first_seq

    def _check_open(self) -> None:
        if self.lease is not None:
            raise self.malformed("it goes on after its lease, which comes last")

    def _compare(self, first_seq: int, n: int, digest: bytes) -> None:
        """A commit that the store has, or had before a trim. Raises TraceDiffers."""
        assert self.row is not None
        found: Any = self.connection.execute(ROW_OF, (self.row.id, first_seq)).fetchone()
        if found is not None:
            if found != (n, digest):
                raise TraceDiffers(self.trace_id, first_seq, "another commit stands there")
            return
        last_seq = first_seq + n - 1
        if last_seq < self.root_seq:
            return  # the digest at the root covers it
        if last_seq > self.root_seq or log.boundary(self.connection, self.row, last_seq).digest != digest:
            raise TraceDiffers(self.trace_id, first_seq, "the history there is another")

    def _restored(self) -> Admission:
        """State and control where the dump stands, from the store."""
        row = self.row or self.parent
        if row is None:
            return Admission(Restored({}, {}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
        segments = log.lineage(self.connection, row, self.version)
        return Admission(bases.restore(self.connection, self.loading.store.path, segments, self.version, self.trace_id))

    def _add(self, first_seq: int, n: int, append_id: str | int | None, at_us: int, digest: bytes, body: bytes) -> None:
        fold = self.fold
        if fold is None:
            fold = self.fold = self._restored()
        is_first = self.row is None and self.root is None
        try:
            if is_first and at_us != self.line.created_us:
                raise ValueError("it was not made when its first commit was")
            expected = None if not is_first else "trace_started" if self.parent is None else "trace_forked"
            rows = decoded(body, n)
            statements = fold.take(rows, first_seq, at_us, expected, self.line)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, EventStoreError) as error:
            self.fold = None
            raise self.malformed(f"no append could write this: {error}") from None
        before = self.row, self.stands_at, n, self.has_added
        row = self._insert((first_seq, n, append_id, at_us, digest, as_column(body)), statements)
        self.kept = before
        self.has_added = self.is_new = True
        self.stands_at = first_seq + n - 1
        self.loading.commits += 1
        self.loading.events += n
        fold.tail_rows += 1
        fold.tail_bytes += len(body)
        fold.log_bytes += len(body)
        if not is_first:
            self._ask_for_base(row, fold)

    def _insert(self, values: tuple[Any, ...], statements: list[Statement]) -> TraceRow:
        """The row and what moves with it, all or nothing; the schema's guards have the last word."""
        self.settle()
        with self._savepoint():
            row = self.row or self._begin_trace()
            self.connection.execute(INSERT_ROW, (row.id, *values))
            for sql, parameters in statements:
                self.connection.execute(sql, tuple(row.id if item is TRACE_ROW else item for item in parameters))
            if not self.was_there and not self.has_added:
                for thread in self.loading.threads.of(self.trace_id):
                    thread.begin_journal(self.connection, row)
        return row

    @contextmanager
    def _savepoint(self) -> Iterator[None]:
        """All or nothing; when all, it stays open. Raises MalformedDump, TraceDiffers."""
        self.connection.execute("SAVEPOINT one")
        try:
            yield
        except apsw.ConstraintError as error:
            self._roll_back()
            raise self.malformed(f"the store's guards refuse it: {error}") from None
        except EventStoreError:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        self.connection.execute("ROLLBACK TO one")
        self.connection.execute("RELEASE one")

    def settle(self) -> None:
        """The last commit is whole: it stays."""
        if self.kept is not None:
            self.connection.execute("RELEASE one")
            self.kept = None

    def take_back(self) -> None:
        """Undo the last commit, if this batch added it: a line that belongs to it does not hold."""
        if self.kept is None:
            return
        self._roll_back()
        self.row, self.stands_at, n, self.has_added = self.kept
        self.kept, self.fold = None, None
        self.loading.commits -= 1
        self.loading.events -= n

    def _begin_trace(self) -> TraceRow:
        """The trace's row, with its root, inside the caller's savepoint."""
        line, parent = self.line, None if self.parent is None else self.parent.id
        self.connection.execute(INSERT_TRACE, (line.trace_id, line.name, parent, line.fork_seq, line.created_us))
        row_id = self.connection.last_insert_rowid()
        self.row = TraceRow(row_id, line.trace_id, line.name, parent, line.fork_seq, line.created_us, "running")
        if self.root is not None:
            seq, at_us, digest, body = self.root
            crc = root_checksum(row_id, seq, body)
            self.connection.execute(INSERT_ROOT, (row_id, seq, at_us, digest, crc, as_column(body)))
            self.root_seq = seq
            assert self.fold is not None
            if self.fold.listed != "running":
                self.connection.execute(SET_STATUS, (self.fold.listed, row_id))
        for checkpoint, metadata in self.early:
            self._put_checkpoint(self.row, checkpoint, metadata)
        self.early = []
        return self.row

    def _ask_for_base(self, row: TraceRow, fold: Admission) -> None:
        """What an append would have asked of the fold policy here."""
        if "scope" in fold.control and "checkpoint" not in fold.control:
            return  # a journal of pending writes: it has no state, and its events are read one by one
        store = self.loading.store
        decision = fold.decide(store.fold_policy, store._reader.restore_us_per_kib, store.checkpoint_policy.score)
        if decision is None:
            return
        folded = store._reader.fold_at(self.connection, row, self.stands_at, max(2, fold.size_bytes), decision)
        if folded is not None:
            fold.rebased(folded)

    # Its checkpoints, its lease, its end

    def checkpoint(self, line: CheckpointLine) -> None:
        self.checkpoints += 1
        try:
            self._check_open()
            check_key(line.checkpoint_id)
            triggers = msgspec.json.decode(line.triggers, type=list[str])
            cost = msgspec.json.decode(line.metadata, type=ExecutionMetadata | None)
            for text in (line.node, line.graph_hash, *triggers):
                normalise("checkpoint", text)
            if not 0 <= line.created_us <= LAST_US:
                raise ValueError("its time is out of range")
            is_there = self._holds(line.seq)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise self.malformed(f"checkpoint {line.checkpoint_id}: {error}") from None
        metadata = None if cost is None else bytes(line.metadata).decode()
        if self.row is None:
            if is_there:
                self.early.append((line, metadata))
        elif is_there and self.is_new:
            self._put_checkpoint(self.row, line, metadata)

    def _holds(self, seq: int) -> bool:
        """Whether a checkpoint can stand there in the store. Raises ValueError where none ever could."""
        is_shared = self.parent is not None and 0 < seq <= self.line.fork_seq
        if seq < 1 or (seq != self.version and not is_shared):
            raise ValueError(f"it stands at seq {seq}, and no commit before it ends there")
        if not is_shared or self.parent is None:
            return seq >= self.root_seq
        try:
            log.boundary(self.connection, self.parent, seq)
        except NotAStepBoundary:
            raise ValueError(f"it stands at seq {seq}, where no commit of its parent ends") from None
        except Trimmed:
            return False
        return True

    def _put_checkpoint(self, row: TraceRow, line: CheckpointLine, metadata: str | None) -> None:
        """Add it. Raises TraceDiffers where another one has its id."""
        found: Any = self.connection.execute(CHECKPOINT, (line.checkpoint_id,)).fetchone()
        if found is None:
            triggers = bytes(line.triggers).decode()
            values = (line.checkpoint_id, row.id, line.seq, line.node, line.graph_hash, triggers, metadata)
            self.connection.execute(ADD_CHECKPOINT, (*values, line.created_us))
        elif found != (row.id, line.seq):
            raise TraceDiffers(self.trace_id, line.seq, f"the store has checkpoint {line.checkpoint_id} elsewhere")

    def stands(self, line: StandsLine) -> None:
        """A checkpoint of a thread stands at the last commit. Raises TraceDiffers where the thread has it elsewhere."""
        thread = self._place(line, self.version)
        if thread is None or self.row is None:
            return
        try:
            refusal = thread.stands(self.connection, self.row, line)
        except ValueError as error:
            raise self.malformed(f"checkpoint {line.name} of {thread}: {error}") from None
        if refusal is not None:
            raise TraceDiffers(self.trace_id, line.seq, refusal)

    def writes(self, line: WritesLine) -> None:
        """A thread has writes that the last commit holds."""
        thread = self._place(line, self.last_first_seq)
        if thread is None or self.row is None:
            return
        try:
            thread.has_writes(self.connection, self.row, line.seq)
        except ValueError as error:
            raise self.malformed(f"writes of {thread}: {error}") from None

    def _place(self, line: StandsLine | WritesLine, first: int) -> Thread | None:
        """The thread that a line is of; None where the store has what it tells of, or a thread that is another."""
        self.places += 1
        self._check_open()
        try:
            thread = self.loading.threads.numbered(line.thread)
            if not self.commits or not first <= line.seq <= self.version:
                raise ValueError(f"it tells of seq {line.seq}, and comes after the commit that ends at {self.version}")
        except ValueError as error:
            raise self.malformed(f"a line of a thread: {error}") from None
        comes = self.is_new or (thread.is_made and line.seq > self.root_seq)
        return thread if comes and not self._is_other(thread) else None

    def _is_other(self, thread: Thread) -> bool:
        return thread.is_other(self.connection)

    def _taken(self, thread: Thread) -> TraceDiffers:
        reason = f"{thread}, which reads it, is another one here, of the same name"
        return TraceDiffers(self.trace_id, self.line.fork_seq + 1, reason)

    def take_lease(self, line: LeaseLine) -> None:
        if self.lease is not None or not 0 < line.epoch <= MAX_EPOCH:
            raise self.malformed("its lease is out of range, or its second one")
        if self.fold is not None and line.epoch > (epoch := self.fold.control.get("epoch", 0)) + MOST_CLAIMS:
            raise self.malformed(f"its lease has epoch {line.epoch}, and its commits end with epoch {epoch}")
        self.lease = line

    def close(self, line: ClosedLine) -> None:
        said = (line.trace_id, line.version, line.digest, line.commits, line.checkpoints, line.has_lease,
                line.places)  # fmt: skip
        read = (self.trace_id, self.version, self.digest.hex(), self.commits, self.checkpoints,
                self.lease is not None, self.places)  # fmt: skip
        if said != read:
            raise self.malformed(f"lines of it are missing or too many: it had {said[1:]}, these are {read[1:]}")
        if self.row is None:
            if self.root is None:
                raise self.malformed("it has no commits")
            with self._savepoint():
                self._begin_trace()
            self.connection.execute("RELEASE one")
            self.has_added = self.is_new = True
            self.stands_at = self.version
        self.settle()
        assert self.row is not None
        if self.stands_at != self.version or not self.is_new or self.fold is None:
            return  # the store knows as much of it as the dump, or more
        if self.lease is None:
            self.connection.execute(END_FREE, (self.row.id,))
            return
        retries = [value for key, value in self.fold.control.items() if key.startswith("retry/")]
        is_due = any(self.lease.due_us == retry.get("at_us") for retry in retries)
        due_us = self.lease.due_us if is_due else None  # nothing in the log waits for any other time
        self.connection.execute(OFFER, (self.row.id, self.lease.epoch, due_us))

    @property
    def outcome(self) -> str:
        return "added" if not self.was_there else "continued" if self.has_added else "present"
