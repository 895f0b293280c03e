"""Where in a trace: a seq, a step, a time or a checkpoint, each resolved to a seq of what the file holds now.

A step is found from the newest base before it, which counts the steps behind it, by reading on from there; a
time by bisection, since times never decrease along a trace; a checkpoint by its id or any beginning of it that
no other one of the trace shares. A checkpoint of a LangGraph thread is one, too, under the id that it has there.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from . import bases, log, threads
from .codec import decode_some
from .errors import LogCorrupted, PlaceNotFound, SeqOutOfRange
from .event import EPOCH, NodeExecuted
from .log import Segment, TraceRow

if TYPE_CHECKING:
    import apsw

    from .store import Store

At = int | str | datetime
"""A place: a seq (from the end where negative: -1 is the last), a time, or text.

Text is what `--at` takes: `12`, `-3`, `step:12`, `step:-1`, `time:2026-11-24T18:00`, `checkpoint:ID`; the words
`time:` and `checkpoint:` may be left out. A time without a zone is UTC.
"""

_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")
_ID = re.compile(r"[0-9A-Fa-f-]+")
_EXECUTED = {"node_executed": NodeExecuted}
_SCANNED_ROWS = 256


class Executed(NamedTuple):
    """Where a step ends (its commit, unless that holds further steps), the event that tells of it, its number."""

    seq: int
    event_seq: int
    steps: int


def seq_at(store: Store, trace_id: str, at: At) -> int:
    """The seq of a place. Raises PlaceNotFound, SeqOutOfRange, TraceNotFound, TraceErased.

    >>> from .store import open
    >>> with open(":memory:") as store:
    ...     trace = store.start({"n": 0})
    ...     with trace.step("count") as step:
    ...         step.put("n", 1)
    ...     [seq_at(store, trace.id, at) for at in (1, -1, "step:1", "2999-01-01")]
    [1, 3, 3, 3]
    """
    with store._database.reader() as connection:
        row = log.find_trace(connection, trace_id)
        return _seq(connection, store.path, row, at)


def _seq(connection: apsw.Connection, path: str, row: TraceRow, at: At) -> int:
    version = log.head(connection, row).version
    if isinstance(at, datetime):
        return _at_time(connection, row, version, at, str(at))
    if isinstance(at, int) and not isinstance(at, bool):
        return _number(row, version, at)
    if not isinstance(at, str):
        raise PlaceNotFound(row.trace_id, repr(at), "a place is a seq, a time or text")
    word, colon, rest = at.partition(":")
    if _NUMBER.fullmatch(at) or (word == "seq" and _NUMBER.fullmatch(rest)):
        return _number(row, version, int(rest or at))
    if word == "step" and colon:
        if not _NUMBER.fullmatch(rest):
            raise PlaceNotFound(row.trace_id, at, "a step is a number, as in step:12")
        return at_step(connection, path, row, version, int(rest)).seq
    if word == "checkpoint" and colon:
        return _at_checkpoint(connection, row, version, rest, at)
    text = rest if word == "time" and colon else at
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is not None and "-" in text:
        return _at_time(connection, row, version, moment, at)
    if word == "time" and colon:
        raise PlaceNotFound(row.trace_id, at, "a time is written as 2026-11-24T18:00:05, in UTC without a zone")
    if _ID.fullmatch(at):
        return _at_checkpoint(connection, row, version, at, at)
    raise PlaceNotFound(row.trace_id, at, "write a seq, -3 (from the end), step:12, a time or a checkpoint's id")


def _number(row: TraceRow, version: int, number: int) -> int:
    seq = number if number >= 0 else version + 1 + number
    if not 1 <= seq <= version:
        raise SeqOutOfRange(row.trace_id, number, version)
    return seq


def _at_time(connection: apsw.Connection, row: TraceRow, version: int, moment: datetime, asked: str) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - EPOCH
    at_us = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    seq = log.seq_at_time(connection, log.lineage(connection, row, version), at_us)
    if seq == 0:
        raise PlaceNotFound(row.trace_id, asked, "all that it holds is younger")
    return seq


def _at_checkpoint(connection: apsw.Connection, row: TraceRow, version: int, prefix: str, asked: str) -> int:
    segments, beginning = log.lineage(connection, row, version), prefix.lower()
    try:
        found = log.checkpoints_beginning(connection, segments, beginning)
        found += threads.checkpoints_beginning(connection, segments, beginning)
    except UnicodeEncodeError:
        prefix = ""  # what no id can be
    if not prefix:
        raise PlaceNotFound(row.trace_id, asked, "write a checkpoint's id, or a beginning of it")
    exact = [seq for checkpoint_id, seq in found if checkpoint_id == prefix]
    if exact or len(found) == 1:
        return exact[0] if exact else found[0][1]
    if not found:
        why = "none of its checkpoints begins so"
        beside = threads.beside(connection, segments, beginning)
        if beside is not None:
            why += f"; {beside[0]} of its thread is in trace {beside[1]} at seq {beside[2]}"
        raise PlaceNotFound(row.trace_id, asked, why)
    named = ", ".join(f"{checkpoint_id} at seq {seq}" for checkpoint_id, seq in found[:4])
    raise PlaceNotFound(row.trace_id, asked, f"several of its checkpoints begin so: {named}")


def at_step(connection: apsw.Connection, path: str, row: TraceRow, version: int, step: int) -> Executed:
    """Where a step ends: 0 for the start, negative from the end. Of a trimmed trace the root stands for its last step.

    Raises PlaceNotFound.
    """
    segments = log.lineage(connection, row, version)
    root = max(log.root_seq(connection, segment.trace) for segment in segments)
    behind = _steps_at(connection, path, row, root) if root else -1
    asked = f"step:{step}"
    if step < 0:
        last = _read_on(connection, path, row, segments, (root, behind), 2**62).steps
        step += last + 1
        if step < 1:
            raise PlaceNotFound(row.trace_id, asked, f"it has {last} steps")
    if step < behind:
        raise PlaceNotFound(row.trace_id, asked, f"it was trimmed at seq {root}, with {behind} steps behind that")
    if step == behind:
        return Executed(root, root, behind)
    found = _read_on(connection, path, row, segments, (root, behind), step)
    if found.steps < step:
        raise PlaceNotFound(row.trace_id, asked, f"it has {found.steps} steps")
    return found


def traces_beginning(store: Store, prefix: str, limit: int) -> list[tuple[str, str]]:
    """`(id, name)` of the traces whose ids begin so, newest first."""
    try:
        with store._database.reader() as connection:
            return log.traces_beginning(connection, prefix, limit)
    except UnicodeEncodeError:
        return []  # what no id can begin with


def execution_seq(store: Store, trace_id: str, step: int) -> int:
    """The seq of the event that tells of a step's execution. Raises as `seq_at`."""
    with store._database.reader() as connection:
        row = log.find_trace(connection, trace_id)
        return at_step(connection, store.path, row, log.head(connection, row).version, step).event_seq


def _steps_at(connection: apsw.Connection, path: str, row: TraceRow, seq: int) -> int:
    restored = bases.restore(connection, path, log.lineage(connection, row, seq), seq, row.trace_id)
    return int(restored.control.get("steps", 0))


def _read_on(
    connection: apsw.Connection,
    path: str,
    row: TraceRow,
    segments: list[Segment],
    root: tuple[int, int],
    step: int,
) -> Executed:
    """The place where that many steps are done, or the end. `root`: where history begins, and its steps."""
    seq, steps = max(bases.before_step(connection, segments, step), root)
    event_seq = seq
    for first_seq, n, body in log.rows(connection, segments, seq):
        try:
            executed = decode_some(body, _EXECUTED)
        except ValueError as error:
            raise LogCorrupted(path, row.trace_id, first_seq, str(error)) from error
        steps, seq = max(steps, 0), first_seq + n - 1
        done = [first_seq + index for index, event in executed if event.success or event.falls_back]
        if steps < step < steps + len(done):
            return Executed(done[step - steps - 1], done[step - steps - 1], step)
        steps += len(done)
        event_seq = done[-1] if done else seq
        if steps >= step:
            break
    return Executed(seq, event_seq, steps)
