"""SQL of the bases: restore a state from the nearest base and its tail, and fold the tail into a base.

A base is a link over its parent, down to a whole state. Restoring takes the newest base at or before
the seq, follows the parents, applies the links upwards and folds the rows after. A base that fails its
checksum, or whose parent is gone, is ignored (with a `BaseCorrupted` warning) and the one before it is
taken: the log alone is the truth. A root is a base that is part of the truth.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from zlib import crc32

import apsw

from .codec import as_column, decode_rows, state_size_bytes
from .control import check_types
from .errors import BaseCorrupted, LogCorrupted, StateError, Trimmed
from .event import JsonRecord, utc
from .foreign import go_on
from .held import End, Held
from .link import Link, State, decode_link, decode_whole, encode_whole, fold_rows
from .log import Segment, TraceRow, root_seq, rows, stored_rows
from .policy import RESTORE_SLACK_BYTES, FoldDecision

PLACE = "id, trace, seq, parent, chain_bytes, state_bytes, log_bytes, base_bytes, checksum"
NEAREST = f"SELECT {PLACE}, x'' FROM base WHERE trace = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
BY_ID = f"SELECT {PLACE}, CAST(body AS BLOB) FROM base WHERE id = ?"
ROOT = "SELECT seq, checksum, CAST(body AS BLOB) FROM root WHERE trace = ? AND seq <= ? ORDER BY seq DESC LIMIT 1"
INSERT = (
    "INSERT OR IGNORE INTO base (trace, seq, parent, chain_bytes, state_bytes, log_bytes, base_bytes, at_us, checksum,"
    " steps, steps_crc, reason, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
NEXT_SEQ = "SELECT seq FROM base WHERE trace = ? AND seq >= ? ORDER BY seq LIMIT 1"
STEPS_AT = "SELECT steps, steps_crc FROM base WHERE id = ?"
BEFORE_STEP = (
    "SELECT seq, steps, steps_crc FROM base WHERE trace = ? AND steps < ? AND seq > ? AND seq <= ?"
    " ORDER BY steps DESC, seq DESC"
)
LISTED = (
    "SELECT seq, CASE WHEN parent IS NULL THEN 'whole' ELSE 'link' END, reason, length(CAST(body AS BLOB)), at_us"
    " FROM base WHERE trace = ? AND seq > ? AND seq <= ? ORDER BY seq"
)
_place = struct.Struct("<qqqqqqq").pack
_steps = struct.Struct("<qqq").pack


NO_CHECKSUM = -1
UNFOLDABLE = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, StateError)
"""What a fold of bytes that no engine wrote can raise: they decode, and are not what events or links look like."""
EMPTY = 0
"""The parent of a link that begins at seq 1: the empty state."""


class Place(NamedTuple):
    """Where a base stands, and its sizes."""

    trace: int
    seq: int
    parent: int | None
    chain_bytes: int
    state_bytes: int
    log_bytes: int
    base_bytes: int

    def checksum(self, body: bytes) -> int:
        """crc32 over the place and a body; -1, which no row has, where damage left other types than numbers."""
        trace, seq, parent, *sizes = self
        try:
            return crc32(body, crc32(_place(trace, seq, -1 if parent is None else parent, *sizes)))
        except (struct.error, TypeError):
            return NO_CHECKSUM


class Base(NamedTuple):
    """A row of table `base`."""

    id: int
    trace: int
    seq: int
    parent: int | None
    chain_bytes: int
    state_bytes: int
    log_bytes: int
    base_bytes: int
    checksum: int
    body: bytes

    def is_sound(self) -> bool:
        """Whether the row is what was written."""
        found = Place(*self[1:8]).checksum(self.body)
        return found != NO_CHECKSUM and found == self.checksum


class BaseInfo(JsonRecord, frozen=True):
    """A line of `store.bases()`. `kind`: whole or link; `size_bytes`: of its body; `reason`: the fold policy's.

    >>> BaseInfo(40, "link", "64 rows in the tail", 4096, utc(0)).kind
    'link'
    """

    seq: int
    kind: str
    reason: str
    size_bytes: int
    at: datetime


class Restored(NamedTuple):
    """A state, and what reading it took.

    `version`: the seq asked for; `base_id`, `base_seq`, `chain_bytes`: the chain below the tail (0 for
    none); `tail_*`: the rows folded above it; `log_bytes`, `base_bytes`: written up to here; `bad`: row ids
    of bases that were ignored.
    """

    state: State
    control: State
    version: int
    base_id: int
    base_seq: int
    chain_bytes: int
    links: int
    tail_bytes: int
    tail_rows: int
    tail_events: int
    log_bytes: int
    base_bytes: int
    bad: tuple[int, ...] = ()


def listed(connection: apsw.Connection, segments: list[Segment], after: int) -> list[BaseInfo]:
    """The bases of a lineage after that seq, oldest first."""
    found = []
    for segment in segments:
        rows: Any = connection.execute(LISTED, (segment.trace, max(segment.after, after), segment.upto))
        found += [BaseInfo(seq, kind, reason, size, utc(at_us)) for seq, kind, reason, size, at_us in rows]
    return found


def root_checksum(trace: int, seq: int, body: bytes) -> int:
    """crc32 over a root's place and body."""
    return Place(trace, seq, None, 0, 0, 0, 0).checksum(body)


def restore(
    connection: apsw.Connection,
    path: str,
    segments: list[Segment],
    seq: int,
    trace_id: str,
    *,
    bases: bool = True,
    with_control: bool = True,
    held: Held | None = None,
    end: End | None = None,
    step: int | None = None,
) -> Restored:
    """The state and control at `seq`. `bases` False folds the log alone (from the root).

    `with_control` False leaves control as the whole state below had it. `held`: to take bases from and to
    put them into. `end`: the base to take, with no hole between it and `seq`. `step`: stop at the first commit after
    which so many steps are done, wherever before `seq` that is; `version` tells.

    Raises LogCorrupted on a row that cannot be folded, Trimmed before the root.
    """
    if not bases:
        go_on(connection)
    bad: list[int] = []
    below = seq if step is None else before_step(connection, segments, step)[0]
    chain = _chain(connection, segments, below, bad, with_control, held) if bases and end is None else None
    links = base_id = log_bytes = base_bytes = 0
    if end is not None:
        control, state = decode_whole(end.body)
        base_seq, chain_bytes = end.seq, len(end.body)
    elif chain is not None:
        control, state, base, links = chain
        base_id, base_seq, chain_bytes = base.id, base.seq, base.chain_bytes
        log_bytes, base_bytes = base.log_bytes, base.base_bytes
    else:
        control, state, base_seq, chain_bytes = _root(connection, segments, seq, path, trace_id)
    tail_bytes = tail_rows = tail_events = 0
    folded_control = control if with_control else None
    version = base_seq
    for first_seq, n, body in stored_rows(connection, segments, base_seq):
        if step is not None and version and control.get("steps", 0) >= step:
            break
        if first_seq != version + 1 or type(n) is not int or n < 1:
            raise LogCorrupted(path, trace_id, version + 1, f"the next row holds {n!r} events from {first_seq!r}")
        try:
            limit = seq - first_seq + 1 if first_seq + n - 1 > seq else None
            fold_rows(folded_control, state, decode_rows(body), limit)
        except UNFOLDABLE as error:
            raise LogCorrupted(path, trace_id, first_seq, _told(error)) from error
        version = first_seq + n - 1
        tail_rows += 1
        tail_events += n
        tail_bytes += len(body)
    return Restored(
        state,
        control,
        seq if step is None else version,
        base_id,
        base_seq,
        chain_bytes,
        links,
        tail_bytes,
        tail_rows,
        tail_events,
        log_bytes + tail_bytes,
        base_bytes,
        tuple(bad),
    )


def _told(error: Exception) -> str:
    """What is wrong with a body, where Python's own words say little."""
    return str(error) if isinstance(error, ValueError | StateError) else f"no event looks so ({error!r})"


def steps_checksum(trace: int, seq: int, steps: int) -> int:
    """crc32 over a base's place and its number of steps; -1 where one of them is no number."""
    try:
        return crc32(_steps(trace, seq, steps))
    except struct.error:
        return NO_CHECKSUM


def before_step(connection: apsw.Connection, segments: list[Segment], step: int) -> tuple[int, int]:
    """`(seq, steps)` of the newest base with fewer than `step` steps behind it; `(0, -1)` without one."""
    for segment in reversed(segments):
        place = (segment.trace, step, segment.after, segment.upto)
        rows: Any = connection.execute(BEFORE_STEP, place)
        for seq, steps, crc in rows:
            if crc == steps_checksum(segment.trace, seq, steps) and crc != NO_CHECKSUM:
                return seq, steps
        if root_seq(connection, segment.trace):
            break
    return 0, -1


def _steps_at(connection: apsw.Connection, base: Base) -> int | None:
    steps, crc = connection.execute(STEPS_AT, (base.id,)).fetchone() or (None, None)
    return steps if steps is not None and crc == steps_checksum(base.trace, base.seq, steps) else None


def _root(
    connection: apsw.Connection, segments: list[Segment], seq: int, path: str, trace_id: str
) -> tuple[State, State, int, int]:
    for segment in reversed(segments):
        row = connection.execute(ROOT, (segment.trace, min(seq, segment.upto))).fetchone()
        if row is not None:
            found, crc, body = row
            if crc != root_checksum(segment.trace, found, body) or crc == NO_CHECKSUM:
                raise LogCorrupted(path, trace_id, found, "its root fails its checksum")
            try:
                control, state = decode_whole(body)
                check_types(control)
            except ValueError as error:
                raise LogCorrupted(path, trace_id, found, f"its root cannot be read: {error}") from error
            return control, state, found, len(body)
        trimmed = root_seq(connection, segment.trace)
        if trimmed:
            raise Trimmed(trace_id, seq, segments[-1].upto, trimmed)
    return {}, {}, 0, 0


def _chain(
    connection: apsw.Connection,
    segments: list[Segment],
    seq: int,
    bad: list[int],
    with_control: bool,
    held: Held | None,
) -> tuple[State, State, Base, int] | None:
    """The newest sound base at or before `seq`, with its chain applied."""
    while (base := nearest(connection, segments, seq)) is not None:
        try:
            control, state, links = _apply_chain(connection, base.id, with_control, held)
            return control, state, base, links
        except UNFOLDABLE as error:
            bad.append(base.id)
            warnings.warn(
                f"base {base.id} at seq {base.seq} is ignored: {error}; the log is whole",
                BaseCorrupted,
                stacklevel=2,
            )
            seq = base.seq - 1
    return None


def nearest(connection: apsw.Connection, segments: list[Segment], seq: int) -> Base | None:
    """The newest base at or before `seq` on this lineage, sound or not; its body is not read."""
    for segment in reversed(segments):
        row: Any = connection.execute(NEAREST, (segment.trace, min(seq, segment.upto))).fetchone()
        if row is not None and row[2] > segment.after:
            return Base._make(row)
        if root_seq(connection, segment.trace):
            return None  # what stands below a root has a hole between
    return None


def next_seq(connection: apsw.Connection, trace: int, seq: int) -> int | None:
    """Where the first base of the trace's own at `seq` or after it stands."""
    row: Any = connection.execute(NEXT_SEQ, (trace, seq)).fetchone()
    return None if row is None else int(row[0])


def by_id(connection: apsw.Connection, base_id: int) -> Base | None:
    """The base of that row id, its body read."""
    row: Any = connection.execute(BY_ID, (base_id,)).fetchone()
    return None if row is None else Base._make(row)


def _apply_chain(
    connection: apsw.Connection, base_id: int, with_control: bool, held: Held | None
) -> tuple[State, State, int]:
    links: list[Link] = []
    below, above = base_id, base_id + 1
    control: State = {}
    state: State = {}
    while below != EMPTY:
        if type(below) is not int or below >= above:
            raise ValueError(f"its parent {below!r} is no older base")
        above = below
        body = None if held is None else held.base(below)
        if body is not None:
            control, state = decode_whole(body)
            break
        base = by_id(connection, below)
        if base is None:
            raise ValueError(f"its parent {below} is gone")
        if not base.is_sound():
            raise ValueError(f"base {base.id} fails its checksum")
        if base.parent is None:
            control, state = decode_whole(base.body)
            break
        links.append(decode_link(base.body))
        below = base.parent
    for link in reversed(links):
        link.apply(control if with_control else None, state)
    if links and held is not None:
        held.keep_base(base_id, control, state)
    return control, state, len(links)


class Net(NamedTuple):
    """A link made in memory: over the base at `after`; the size of the log that it covers, and all steps so far."""

    after: int
    body: bytes
    tail_bytes: int
    steps: int


class Folded(NamedTuple):
    """What a fold wrote."""

    place: Place
    body_bytes: int


def fold(
    connection: apsw.Connection,
    path: str,
    segments: list[Segment],
    trace_id: str,
    at_us: int,
    state_bytes: int,
    decision: FoldDecision,
    net: Net | None = None,
) -> Folded | None:
    """Write a base at the end of `segments`, inside the caller's transaction.

    A link takes the newest base as its parent, whoever wrote it. Where the chain would then pass the
    restore bound, a whole state is written instead. None when that seq has a base already. `net`: the link, where
    it is known and the newest base is the one that it was made over.
    """
    trace, seq = segments[-1].trace, segments[-1].upto
    kind, reason = decision
    below = nearest(connection, segments, seq)
    if below is not None and below.seq == seq:
        return None
    if kind == "link" and below is None and any(root_seq(connection, segment.trace) for segment in segments):
        kind = "whole"
    parent: int | None = EMPTY if below is None else below.id
    written, covered = (0, 0) if below is None else (below.base_bytes, below.log_bytes)
    steps = 0 if below is None else _steps_at(connection, below)
    if kind == "link":
        after = 0 if below is None else below.seq
        if net is not None and net.after == after:
            body, tail_bytes, steps = net.body, net.tail_bytes, None if steps is None else net.steps
        else:
            link, tail_bytes = Link(), 0
            for _, _, row_body in rows(connection, segments, after):
                link.add_rows(decode_rows(row_body))
                tail_bytes += len(row_body)
            body = link.encode(tail_bytes)
            steps = None if steps is None else steps + link.steps
        chain_bytes = len(body) + (0 if below is None else below.chain_bytes)
        if chain_bytes > 2 * state_bytes + RESTORE_SLACK_BYTES // 2:
            kind, reason = "whole", f"{reason}; the chain would be {chain_bytes} bytes for a state of {state_bytes}"
        else:
            sizes = (chain_bytes, state_bytes, covered + tail_bytes, written + len(body))
    if kind == "whole":
        parent = None
        restored = restore(connection, path, segments, seq, trace_id)
        state_bytes = state_size_bytes(restored.state) + state_size_bytes(restored.control)
        body = encode_whole(restored.control, restored.state, state_bytes)
        steps = restored.control.get("steps", 0)
        sizes = (len(body), state_bytes, restored.log_bytes, written + len(body))
    place = Place(trace, seq, parent, *sizes)
    crc = None if steps is None else steps_checksum(trace, seq, steps)
    connection.execute(INSERT, (*place, at_us, place.checksum(body), steps, crc, reason, as_column(body)))
    return Folded(place, len(body))


def drop(connection: apsw.Connection, trace: TraceRow | None) -> int:
    """Delete every base, or those of one trace and of the forks that stand on them; how many went."""
    if trace is None:
        connection.execute("DELETE FROM base")
        return int(connection.changes())
    ids = connection.execute("SELECT id FROM base WHERE trace = ?", (trace.id,)).fetchall()
    return discard(connection, [row[0] for row in ids])


def discard(connection: apsw.Connection, bad: Sequence[Any]) -> int:
    """Delete bases, by row id, and all that stand on them; how many went."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS gone (id INTEGER PRIMARY KEY)")
    connection.execute("DELETE FROM temp.gone")
    connection.executemany("INSERT OR IGNORE INTO temp.gone VALUES (?)", [(base_id,) for base_id in bad])
    while True:
        connection.execute(
            "INSERT INTO temp.gone SELECT id FROM base WHERE parent IN (SELECT id FROM temp.gone)"
            " AND id NOT IN (SELECT id FROM temp.gone)"
        )
        if not connection.changes():
            break
    connection.execute("DELETE FROM base WHERE id IN (SELECT id FROM temp.gone)")
    return int(connection.changes())
