"""A dump into a store, so that every state, event, digest and time equals the original's.

Nothing in a dump is believed: each commit's digest is computed anew from the one before it (the trace's id, the
parent's digest at the fork), its events are held to the limits and the order that appends are held to, and folded.
What is there already is compared and passed over, so a load can be repeated, and one that was killed goes on. Rows
go in a batch a transaction, each with the projections it moves; the fold policy is asked at every commit, so a
restore costs no more than in the original. A line that does not hold ends its trace at the last commit before it
that is there with its checkpoints and its lease; a trace that has all of the dump's commits is not touched. Only a
trimmed trace's root has nothing to be checked against: it is trusted.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import apsw
import msgspec

from eventstore import log
from eventstore.codec import MAX_BODY_BYTES, check_key
from eventstore.database import FORMAT as FILE_FORMAT
from eventstore.definition import graph_hash as hash_of
from eventstore.errors import (
    EventStoreError,
    MalformedDump,
    TraceDiffers,
    TraceErased,
    TraceNotFound,
    ValueRefused,
)
from eventstore.event import LAST_US, JsonRecord
from eventstore.ownership import DEFINE
from eventstore.retention import INSERT_TOMBSTONE

from .admission import strict_json
from .incoming import Incoming, Loading, digest_of
from .lines import (
    FORMAT,
    CheckpointLine,
    ClosedLine,
    CommitLine,
    DamagedLine,
    EndLine,
    GraphLine,
    HeaderLine,
    LeaseLine,
    RootLine,
    StandsLine,
    ThreadLine,
    TombstoneLine,
    TraceLine,
    WritesLine,
    line_sum,
)

if TYPE_CHECKING:
    from eventstore.store import Store

MAX_HEADER_BYTES = 1024 * 1024
MAX_LINE_BYTES = MAX_BODY_BYTES // 3 * 4 + 64 * 1024
"""What a commit can take: its body as base64, and the rest."""
MAX_ROOT_BYTES = 1024 * 1024 * 1024
"""A state has grown over many commits; more than that, no row of SQLite holds."""
BATCH_LINES = 512
BATCH_BYTES = 4 * 1024 * 1024
MOST_BATCH = 16
# A number that no trace ever has; nor -1, which is what a trigger sees of a trace before it has one.
STONE_ROW = "SELECT min(-1, coalesce(min(trace), -1)) - 1 FROM tombstone"
STARTS = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"eventstore"\s*:')


class LoadCounts(JsonRecord, frozen=True):
    """What became of a dump's traces. `continued`: there before up to some seq; `refused`: not loaded to its end.

    `commits`, `events`: added; `problems`: how many `on_bad` was told of, those of no trace included.

    >>> LoadCounts(added=2, commits=9).refused
    0
    """

    added: int = 0
    continued: int = 0
    present: int = 0
    refused: int = 0
    commits: int = 0
    events: int = 0
    tombstones: int = 0
    problems: int = 0


def is_dump(beginning: bytes) -> bool:
    """Whether a file that begins so (64 bytes are enough) is a dump.

    >>> is_dump(b'{"eventstore":{"format":1'), is_dump(b'{"messages":[]}')
    (True, False)
    """
    return STARTS.match(beginning) is not None


def load(
    store: Store,
    lines: BinaryIO,
    *,
    on_trace: Callable[[str, str], None] | None = None,
    on_bad: Callable[[EventStoreError], None] | None = None,
) -> LoadCounts:
    """Put a dump into a store, empty or not. Loading it again adds nothing; one that was cut short goes on.

    `on_trace`: is told each trace's id and what became of it: added, continued, present, refused. `on_bad`: is
    told of what cannot be loaded (MalformedDump; TraceDiffers; TraceErased) and the rest goes on; without it the
    first one is raised, and what was loaded before it stays.

    A checkpoint comes with the commit that it stands at: what is there already gets none, and its own stay as they
    are. So does its lease; of a run that is added or goes on, a due time that no retry of it waits for is dropped.

    A thread of another framework comes with its traces' commits in the same way: one that is here goes on, one that
    is not is made, also of commits that are here already (a copy's), once some trace of it is news. Where one of the
    same name shares no trace with it, it is another one, and the traces that only the dump's thread reads are refused
    (TraceDiffers).

    A root of a trimmed trace cannot be verified by the chain: it is trusted, so load such dumps from those whom
    you trust. Raises MalformedDump for what is no dump, or one of a newer version; storage errors.

    >>> import io
    >>> from eventstore import open
    >>> from .outgoing import dump
    >>> with open(":memory:") as store, open(":memory:") as other:
    ...     trace = store.start({"n": 1}, id="t1")
    ...     with trace.step("double") as step:
    ...         step.put("n", 2)
    ...     file = io.BytesIO()
    ...     counts = dump(store, file)
    ...     _ = file.seek(0)
    ...     load(other, file).added, other.state_at("t1"), other.verify().ok
    (1, {'n': 2}, True)
    """
    loading = _Load(store, on_bad is None)
    for batch in _batches(lines):
        loading.outcomes.clear()
        store._writer.write(lambda connection, batch=batch: loading.take(connection, batch), sync=True)  # type: ignore[misc]
        if on_trace is not None:
            for trace_id, outcome in loading.outcomes:
                on_trace(trace_id, outcome)
        for problem in loading.problems:
            if on_bad is None:
                raise problem
            on_bad(problem)
        loading.told += len(loading.problems)
        loading.problems.clear()
    return loading.counts()


# Lines


class _Commit(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    commit: CommitLine


NONE = msgspec.Raw()


class _Other(msgspec.Struct, forbid_unknown_fields=True):
    """A line that is no commit: one of these, and its checksum."""

    sum: str
    eventstore: msgspec.Raw = NONE
    trace: msgspec.Raw = NONE
    root: msgspec.Raw = NONE
    checkpoint: msgspec.Raw = NONE
    graph: msgspec.Raw = NONE
    lease: msgspec.Raw = NONE
    closed: msgspec.Raw = NONE
    damaged: msgspec.Raw = NONE
    tombstone: msgspec.Raw = NONE
    thread: msgspec.Raw = NONE
    stands: msgspec.Raw = NONE
    writes: msgspec.Raw = NONE
    end: msgspec.Raw = NONE


_commit: Callable[[bytes], _Commit] = msgspec.json.Decoder(_Commit).decode
_other: Callable[[bytes], _Other] = msgspec.json.Decoder(_Other).decode
OTHERS: dict[str, type[Any]] = {
    "eventstore": HeaderLine,
    "trace": TraceLine,
    "root": RootLine,
    "checkpoint": CheckpointLine,
    "graph": GraphLine,
    "lease": LeaseLine,
    "closed": ClosedLine,
    "damaged": DamagedLine,
    "tombstone": TombstoneLine,
    "thread": ThreadLine,
    "stands": StandsLine,
    "writes": WritesLine,
    "end": EndLine,
}
COMMIT = b'{"commit"'
BETWEEN_TRACES = (b'{"trace"', b'{"thread"', b'{"tombstone"', b'{"end"')
OF_A_TRACE = ("root", "checkpoint", "stands", "writes", "lease", "closed")


class _Lines(list[tuple[int, bytes]]):
    """A batch; `is_last`: the file ends with it, `broken` says how if not well, `in_commit`: inside a commit's line."""

    is_last = False
    broken = ""
    in_commit = False


def _batches(lines: BinaryIO) -> Iterator[_Lines]:
    """The lines with their numbers. The header comes alone; a commit and what belongs to it are never parted."""
    batch, size, number, limit = _Lines(), 0, 0, MAX_HEADER_BYTES
    while True:
        number += 1
        try:
            line = lines.readline(limit + 1)
            if len(line) > limit > MAX_HEADER_BYTES and line.startswith(b'{"root"'):
                limit = MAX_ROOT_BYTES
                line += lines.readline(limit + 1 - len(line))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            line, batch.broken = b"", f"the gzip stream ends or breaks here: {error}"
        if len(line) > limit:
            batch.in_commit = line.startswith(COMMIT)
            line, batch.broken = b"", f"the line is longer than {limit} bytes"
        if not line:
            batch.append((number, b""))
            batch.is_last = True
            yield batch
            return
        is_full = len(batch) >= BATCH_LINES or size >= BATCH_BYTES
        is_over = len(batch) >= MOST_BATCH * BATCH_LINES or size >= MOST_BATCH * BATCH_BYTES
        if is_over or (is_full and line.startswith((COMMIT, *BETWEEN_TRACES))):
            yield batch
            batch, size = _Lines(), 0
        if line.isspace():
            continue
        batch.append((number, line))
        size += len(line)
        if limit == MAX_HEADER_BYTES:
            yield batch
            batch, size = _Lines(), 0
        limit = MAX_LINE_BYTES


class _Load(Loading):
    """A load under way: the trace that is open, and what became of those before it."""

    def __init__(self, store: Store, is_strict: bool) -> None:
        super().__init__(store)
        self.is_strict = is_strict
        self.has_header = self.has_end = self.is_torn = False
        self.seen = [0, 0, 0, 0]
        self.traces = {"added": 0, "continued": 0, "present": 0, "refused": 0}
        self.stones = 0
        self.told = 0
        self.problems: list[EventStoreError] = []
        self.outcomes: list[tuple[str, str]] = []
        self.open: Incoming | None = None
        self.skipping = False
        self.goes_on = False  # the line is a commit's, so that nothing of the one before it is missing

    def counts(self) -> LoadCounts:
        return LoadCounts(**self.traces, commits=self.commits, events=self.events, tombstones=self.stones,
                          problems=self.told)  # fmt: skip

    def take(self, connection: apsw.Connection, batch: _Lines) -> None:
        """All lines of a batch, inside one transaction."""
        self.connection = connection
        if self.open is not None:
            self.guarded(self.open.look_again)
        for number, line in batch:
            self.line = number
            if line:
                self.guarded(lambda line=line: self.one(line))  # type: ignore[misc]
            if self.is_strict and self.problems:
                return
        if batch.is_last:
            self.goes_on = batch.in_commit
            self.guarded(lambda: self.finish(batch.broken))

    def guarded(self, work: Callable[[], None]) -> None:
        """Run `work`; what it raises ends the trace that is open, not the load."""
        try:
            work()
        except EventStoreError as error:
            if not self.has_header or not self.store._database.is_open:
                raise
            self.refuse(error)

    def refuse(self, error: EventStoreError) -> None:
        """Tell of it once: the lines that follow, up to the next trace, are passed over."""
        self.problems.append(error)
        self.skipping = True
        if self.open is not None:
            if self.goes_on:
                self.open.settle()
            else:
                self.open.take_back()
            trace_id, self.open = self.open.trace_id, None
            self.outcome(trace_id, "refused")

    def outcome(self, trace_id: str, outcome: str) -> None:
        self.traces[outcome] += 1
        self.outcomes.append((trace_id, outcome))

    def malformed(self, reason: str) -> MalformedDump:
        if self.open is None:
            return MalformedDump(self.line, reason)
        return MalformedDump(self.line, reason, self.open.trace_id, self.open.version + 1)

    def one(self, line: bytes) -> None:
        self.goes_on = line.startswith(COMMIT)
        try:
            if self.goes_on:
                commit = _commit(line).commit
            else:
                commit, other = None, _other(line.removeprefix(b"\xef\xbb\xbf") if self.line == 1 else line)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            self.is_torn = True
            raise self.malformed(f"not a line of a dump: {error}") from None
        if self.has_end and (commit is not None or not bytes(other.eventstore)):
            raise self.malformed("the dump has ended before this line")
        if commit is None:
            kind, said = self._checked(other)
            if said is not None:
                getattr(self, f"take_{kind}")(said)
            return
        self.seen[1] += 1
        self.seen[2] += commit.n
        if self.open is not None:
            self.open.commit(commit)
        elif not self.skipping:
            raise self.malformed("a commit of no trace")

    def _checked(self, other: _Other) -> tuple[str, Any]:
        """The kind of a line that is no commit, and what it says; None where its trace was refused before."""
        found = [(kind, data) for kind in OTHERS if (data := bytes(getattr(other, kind)))]
        if len(found) != 1:
            raise self.malformed(f"not a line of a dump: it is {' and '.join(kind for kind, _ in found) or 'empty'}")
        kind, data = found[0]
        if kind == "eventstore":
            self._check_format(data)
        elif not self.has_header:
            raise self.malformed("not a dump: it does not begin with a header")
        trace_id = ""
        if kind in OF_A_TRACE:
            if self.open is None:
                if not self.skipping:
                    raise self.malformed(f"a {kind} line of no trace")
                return kind, None
            trace_id = self.open.trace_id
        if other.sum != line_sum(kind, data, trace_id):
            raise self.malformed(f"the {kind} line is not what was written, or this is not its place")
        try:
            return kind, msgspec.json.decode(data, type=OTHERS[kind])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise self.malformed(f"not a {kind} line: {error}") from None

    def _check_format(self, raw: bytes) -> None:
        """Before anything else of a header: a newer one may look otherwise."""
        try:
            found = msgspec.json.decode(raw)
            formats = found["format"], found.get("file_format", 0)
        except (msgspec.DecodeError, UnicodeError, RecursionError, KeyError, TypeError, AttributeError):
            raise self.malformed("not a dump: its header names no format") from None
        for what, number, known in (("dump", formats[0], FORMAT), ("file", formats[1], FILE_FORMAT)):
            if type(number) is not int or number < 0:
                raise self.malformed("not a dump: its header names no format")
            if number > known:
                self.has_header = False  # nothing after it is to be read
                raise self.malformed(
                    f"{what} format {number} was written by a newer version; this one knows formats up to {known}"
                )

    # What is outside of a trace

    def take_eventstore(self, header: HeaderLine) -> None:
        """The first line; or another dump begins where the one before has ended."""
        if self.has_header:
            self.close_file("the next dump begins here")
        self.has_header, self.has_end, self.is_torn, self.seen = True, False, False, [0, 0, 0, 0]
        key = self.store._database.chain.fingerprint
        if header.chain_key != (None if key is None else key.hex()):
            self.has_header = False  # no digest of it will be the one that is computed here
            keyed = "no key" if header.chain_key is None else "a key that is not this store's"
            raise self.malformed(f"its digests have {keyed}: load it into a store that was made with the same")
        self.skipping = False
        self.threads.clear()

    def take_end(self, end: EndLine) -> None:
        self.leave_trace()
        self.skipping, self.has_end = False, True
        said = [end.traces, end.commits, end.events, end.tombstones]
        if said != self.seen and not self.is_torn:  # else that was told
            names = ("traces", "commits", "events", "tombstones")
            differing = [
                f"{one} {name}, {other} were read"
                for name, one, other in zip(names, said, self.seen, strict=True)
                if one != other
            ]
            raise self.malformed(f"lines are missing or too many: the dump held {'; '.join(differing)}")

    def finish(self, broken: str) -> None:
        if not self.has_header:
            raise self.malformed(f"not a dump: {broken or 'the file is empty'}")
        if broken or not self.has_end or self.open is not None:
            self.close_file(broken or "the file ends here")

    def close_file(self, reason: str) -> None:
        """Tell of what is missing where a dump is over."""
        if self.open is not None:
            self.refuse(self.malformed(f"the dump is cut short: {reason}"))
        elif not self.has_end or reason.startswith(("the gzip", "the line")):
            self.problems.append(self.malformed(f"the dump is cut short: {reason}"))

    def take_damaged(self, damaged: DamagedLine) -> None:
        self.goes_on = True
        raise self.malformed(f"trace {damaged.trace_id} was damaged when it was dumped: {damaged.reason}")

    def take_graph(self, graph: GraphLine) -> None:
        text = bytes(graph.definition)
        try:
            definition = strict_json(text)
            holds = isinstance(definition, dict) and hash_of(definition) == graph.graph_hash
        except (ValueError, RecursionError):
            holds = False
        if not holds:
            raise self.malformed(f"the definition of graph {graph.graph_hash} has another hash")
        self.connection.execute(DEFINE, (graph.graph_hash, text.decode()))

    def take_thread(self, line: ThreadLine) -> None:
        self.leave_trace()
        try:
            self.threads.add(line)
        except ValueError as error:
            raise self.malformed(f"a thread: {error}") from None

    def take_tombstone(self, stone: TombstoneLine) -> None:
        self.leave_trace()
        self.skipping = False
        self.seen[3] += 1
        self.check_id(stone.trace_id)
        try:
            digest = digest_of(stone.digest)
        except ValueError as error:
            raise self.malformed(f"its digest: {error}") from None
        if not 0 <= stone.version < 2**62 or not 0 <= stone.erased_us <= LAST_US:
            raise self.malformed("its version or time is out of range")
        try:
            row = log.find_trace(self.connection, stone.trace_id)
        except TraceErased:
            return
        except TraceNotFound:
            number: Any = self.connection.execute(STONE_ROW).get
            values = (stone.trace_id, number, stone.version, digest, stone.erased_by, stone.erased_us)
            self.connection.execute(INSERT_TOMBSTONE, values)
            self.stones += 1
            return
        reason = "it was erased where the dump was made, and is still here; `erase` it here, too"
        raise TraceDiffers(row.trace_id, 1, reason)

    def check_id(self, trace_id: str) -> None:
        try:
            if not 0 < len(trace_id) <= 200 or "\0" in trace_id:
                raise ValueRefused("id", "a trace id is a string of 1 to 200 characters")
            check_key(trace_id)
        except ValueRefused as error:
            raise self.malformed(str(error)) from None

    # A trace

    def leave_trace(self) -> None:
        """Something else begins."""
        if self.open is not None:
            self.refuse(self.malformed("lines of this trace are missing: the next one begins"))

    def take_trace(self, line: TraceLine) -> None:
        self.leave_trace()
        self.seen[0] += 1
        self.skipping = False
        self.check_id(line.trace_id)
        self.threads.judge(self.connection)
        try:
            self.open = Incoming(self, line)
        except EventStoreError:
            self.outcome(line.trace_id, "refused")
            raise

    def take_root(self, line: RootLine) -> None:
        assert self.open is not None
        self.open.take_root(line)

    def take_checkpoint(self, line: CheckpointLine) -> None:
        assert self.open is not None
        self.open.checkpoint(line)

    def take_stands(self, line: StandsLine) -> None:
        assert self.open is not None
        self.open.stands(line)

    def take_writes(self, line: WritesLine) -> None:
        assert self.open is not None
        self.open.writes(line)

    def take_lease(self, line: LeaseLine) -> None:
        assert self.open is not None
        self.open.take_lease(line)

    def take_closed(self, line: ClosedLine) -> None:
        assert self.open is not None
        trace = self.open
        trace.close(line)
        self.open = None
        self.outcome(trace.trace_id, trace.outcome)
