"""Do the rows beside the log say what the log says?

Most are projections: what lists show of a trace, its barriers, who owns a run. The log says each of them, and what it
says is what they must say. What it does not say (which checkpoints were marked, what a trim and an erasure left) is
sealed, and must be as it was sealed; the row of a graph is named by its hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import apsw

from . import log
from .chain import Chain
from .control import status_of
from .definition import canonical, graph_hash
from .errors import TraceErased, TraceNotFound
from .log_check import LogCheck, Said
from .problem import Problem

BARRIERS = "SELECT barrier_id, raised_seq, raised_us, deadline_us, decided_seq FROM barrier WHERE trace = ?"
CHECKPOINTS = (
    "SELECT checkpoint_id, seq, node, graph_hash, triggers, metadata, created_us, seal"
    " FROM checkpoint WHERE trace = ? ORDER BY seq"
)
LEASE = "SELECT epoch, due_us FROM lease WHERE trace = ?"
GRAPHS = "SELECT CAST(graph_hash AS BLOB), CAST(definition AS BLOB) FROM graph"
TOMBSTONES = "SELECT trace_id, trace, version, digest, erased_by, erased_us, seal FROM tombstone"
NUMBERS = (
    "SELECT s.name, s.seq, CASE s.name WHEN 'trace' THEN (SELECT max(id) FROM trace)"
    " WHEN 'base' THEN (SELECT max(id) FROM base) WHEN 'owner' THEN (SELECT max(id) FROM owner)"
    " WHEN 'scope' THEN (SELECT max(id) FROM scope) END FROM sqlite_sequence s"
)
GONE = "SELECT id FROM trace UNION ALL SELECT trace FROM tombstone WHERE trace > 0 ORDER BY 1"
"""Tombstones that were loaded from a dump are no traces of this file, and have numbers below 0."""


def of_trace(check: LogCheck) -> Iterator[Problem]:
    """What does not hold beside the log of a trace, whose pass came to its end."""
    trace = check.trace
    for seq, name, reason in (*_named(check), *_barriers(check), *_lease(check), *_checkpoints(check)):
        yield Problem(trace.trace_id, seq, name, reason, name == "trace")


Fault = tuple[int, str, str]


def _named(check: LogCheck) -> Iterator[Fault]:
    """Its row in the list of traces."""
    trace, control = check.trace, check.control
    status = status_of(control)
    if trace.status != status:
        yield 0, "status", f"listed as {trace.status}, the log says {status}"
    if trace.name != control.get("name"):
        yield 0, "trace", f"listed as {trace.name!r}, the log says {control.get('name')!r}"
    if check.begins_at is not None:
        if trace.created_us > check.begins_at[1]:
            yield 0, "trace", f"made at {trace.created_us}, and trimmed up to {check.begins_at[1]} already"
        elif check.created_us not in (None, trace.created_us):
            yield 0, "trace", f"listed as made at {trace.created_us}, its root says {check.created_us}"
        return
    if check.first is None:
        return
    if trace.created_us != check.first_us:
        yield 0, "trace", f"listed as made at {trace.created_us}, its first row is of {check.first_us}"
    expected = "trace_started" if trace.parent is None else "trace_forked"
    if check.first.kind != expected:
        yield trace.fork_seq + 1, "trace", f"it begins with an event of kind {check.first.kind}, not {expected}"
    elif trace.parent is not None:
        yield from _forked(check, check.first.data)


def _forked(check: LogCheck, said: Mapping[str, Any]) -> Iterator[Fault]:
    """Where a fork begins: at a row of its parent's own, which may be one that the trace it was taken from shares."""
    trace, connection = check.trace, check.connection
    assert trace.parent is not None
    parent = log.trace_by_row(connection, trace.parent)
    if trace.fork_seq != said.get("fork_seq") or trace.fork_seq <= parent.fork_seq:
        yield trace.fork_seq + 1, "trace", f"listed as forked at {trace.fork_seq}, the log says {said.get('fork_seq')}"
        return
    try:
        taken_from = log.find_trace(connection, said["parent_trace_id"])
    except (TraceErased, TraceNotFound):  # the rows that the fork shares were not its own
        return
    owner = log.lineage(connection, taken_from, trace.fork_seq)[-1].trace
    if owner != trace.parent:
        told = f"listed as a fork of {parent.trace_id}, the log says that it was taken from {taken_from.trace_id}"
        yield trace.fork_seq + 1, "trace", told


def _barriers(check: LogCheck) -> Iterator[Fault]:
    rows: Any = check.connection.execute(BARRIERS, (check.trace.id,))
    listed = {barrier_id: Said(*row) for barrier_id, *row in rows}
    said = dict(check.barriers)
    for barrier_id in check.inherited:  # raised before the own rows: where and when is in the parent's log
        shown = listed.get(barrier_id, Said())
        said[barrier_id] = said.get(barrier_id, Said())._replace(
            raised_seq=shown.raised_seq, raised_us=shown.raised_us, deadline_us=shown.deadline_us
        )
    for barrier_id in listed.keys() | said.keys():
        if listed.get(barrier_id) != said.get(barrier_id):
            yield 0, "barrier", f"{barrier_id} listed as {listed.get(barrier_id)}, the log says {said.get(barrier_id)}"


def _lease(check: LogCheck) -> Iterator[Fault]:
    control = check.control
    row: Any = check.connection.execute(LEASE, (check.trace.id,)).fetchone()
    if row is None:
        return  # which a load that was cut short leaves, too
    epoch, due_us = row
    if epoch < control.get("epoch", 0):
        yield 0, "lease", f"at epoch {epoch}, the log at {control['epoch']}"
    retries = [value["at_us"] for key, value in control.items() if key.startswith("retry/")]
    if due_us is not None and due_us not in retries:
        yield 0, "lease", f"due at {due_us}, the log says {sorted(retries) or 'now'}"


def _checkpoints(check: LogCheck) -> Iterator[Fault]:
    trace = check.trace
    for checkpoint_id, seq, *fields, seal in check.connection.execute(CHECKPOINTS, (trace.id,)):
        if not check.chain.is_sealed(seal, checkpoint_id, trace.trace_id, seq, *fields):
            yield seq, "checkpoint", f"{checkpoint_id} is not what was sealed"
        elif seq > trace.fork_seq and seq not in check.boundaries:
            yield seq, "checkpoint", f"{checkpoint_id} stands at no step boundary"


def of_file(connection: apsw.Connection, chain_: Chain) -> Iterator[Problem]:
    """What does not hold of the rows that belong to no trace that there is."""
    for found, definition in connection.execute(GRAPHS):
        if not _is_named_so(found, definition):
            name = bytes(found).decode(errors="replace")
            yield Problem("-", 0, "graph", f"what stands under hash {name} has another one", False)
    for trace_id, row, version, digest, by, at_us, seal in connection.execute(TOMBSTONES):
        if not chain_.is_sealed(seal, trace_id, row, version, digest, by, at_us):
            yield Problem(trace_id, version, "tombstone", "it is not what was sealed", True)
    last = 0
    for name, number, highest in connection.execute(NUMBERS):
        last = number if name == "trace" else last
        if highest is not None and highest > number:
            yield Problem("-", 0, "sqlite", f"the last number of table {name} is {number}, row {highest} exists", True)
    yield from _vanished(connection, last)


def _is_named_so(found: Any, definition: Any) -> bool:
    try:
        data = json.loads(definition)
        return (canonical(data).encode(), graph_hash(data).encode()) == (definition, found)
    except (ValueError, RecursionError):
        return False


def _vanished(connection: apsw.Connection, last: int) -> Iterator[Problem]:
    """A number is given to one trace only, and an erasure leaves a tombstone: so what has none was removed."""
    before = 0
    for (number,) in connection.execute(GONE):
        for free in range(before + 1, min(number, before + 100)):
            yield Problem(f"row {free}", 0, "tombstone", "a trace is gone that nobody erased", True)
        if number == before:
            yield Problem(f"row {number}", 0, "tombstone", "two traces have this number, or one has a tombstone", True)
        before = number
    if last != before:
        reason = f"{last} traces were made, and the last that is known is row {before}"
        yield Problem(f"row {before + 1}", 0, "tombstone", reason, True)
