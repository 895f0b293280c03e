"""Do the rows of another framework's threads say what the log says?

Each checkpoint must stand where a commit ends with its event, under the parent, run and metadata that this event
tells of; its writes must be events of writes of that checkpoint. A scope must read the traces that its checkpoints,
their writes and its journal stand in, and no others: what it fails to read could be erased, what it reads in vain
never is. An event whose checkpoint has no row says nothing: that was deleted.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from . import log, scope_places, scopes
from .codec import same
from .errors import EventStoreError
from .log_check import DAMAGE
from .scopes import Scope, ScopeCheckpoint

if TYPE_CHECKING:
    import apsw

    from .chain import Chain


class Fault(NamedTuple):
    """What does not hold: in which trace (None: in none that there is), at which seq, and what."""

    trace_id: str | None
    seq: int
    reason: str


def checks(
    connection: apsw.Connection, chain: Chain, trace: int | None, damaged: Container[int]
) -> Iterator[Iterator[Fault]]:
    """What does not hold of the rows that stand on a trace, or of all; one check a scope, so that each can fail alone.

    Rows on `damaged` traces are not judged.
    """
    yield _strays(connection, trace)
    for scope_id in scope_places.scope_ids(connection, trace):
        yield _unsealed(connection, chain, scope_id)
        yield _faults(connection, scope_id, trace, damaged)


def _strays(connection: apsw.Connection, trace: int | None) -> Iterator[Fault]:
    for row_id, stray in connection.execute(scope_places.STRAY).fetchall():
        if trace is None or row_id == trace:
            yield Fault(None, 0, f"trace {row_id} is read by scope {stray}, which does not exist")


def _unsealed(connection: apsw.Connection, chain: Chain, scope_id: int) -> Iterator[Fault]:
    """Whose thread it is, a renamed one could not be told from a copy by."""
    for *named, seal in connection.execute(scope_places.SEALED, (scope_id,)):
        if not chain.is_sealed(seal, "scope", *named):
            yield Fault(None, 0, f"the names of scope {scope_id}, {named}, are not what was sealed")


def _faults(connection: apsw.Connection, scope_id: int, trace: int | None, damaged: Container[int]) -> Iterator[Fault]:
    scope = scopes.by_id(connection, scope_id)
    if scope is not None:
        yield from _ScopeCheck(connection, scope, damaged).faults(trace)


class _ScopeCheck:
    """One scope under judgement."""

    def __init__(self, connection: apsw.Connection, scope: Scope, damaged: Container[int]) -> None:
        self.connection = connection
        self.scope = scope
        self.damaged = damaged
        self.held = scope_places.held(connection, scope.id)
        self.label = repr(scope.thread_id) + (f", namespace {scope.namespace!r}" if scope.namespace else "")

    def faults(self, only: int | None) -> Iterator[Fault]:
        """What does not hold; of the rows that stand on the trace `only`, where that is one."""
        journal = self.scope.journal
        needed: set[int] = set() if journal is None else {journal}
        is_judged = journal in self.held and only in (None, journal) and journal not in self.damaged
        if journal is not None and is_judged and not scope_places.is_journal(self.connection, journal):
            yield Fault(self.trace_id(journal), 0, f"thread {self.label} has it for its journal, and it is none")
        for row in scopes.every(self.connection, self.scope.id).values():
            try:
                places = row.written
            except msgspec.DecodeError as error:
                yield self.fault(row.trace, row.seq or 0, row, f"its writes cannot be read: {error}")
                places = []
            needed.update(trace for trace, _ in places)
            if row.trace is not None:
                needed.add(row.trace)
            if only is None or row.trace == only:
                yield from self.placed(row)
            for trace, seq in places:
                if only is None or trace == only:
                    yield from self.written(row, trace, seq)
            if not places and row.status == "announced":
                yield self.fault(None, 0, row, "it is announced by no writes")
        for trace in sorted(needed - self.held.keys()):
            if only is None or trace == only:
                yield Fault(self.trace_id(trace), 0, f"thread {self.label} needs it and does not list it")

    def placed(self, row: ScopeCheckpoint) -> Iterator[Fault]:
        """A checkpoint against the event that it stands at."""
        if row.trace is None or row.seq is None or row.trace in self.damaged:
            return
        try:
            said = scope_places.recorded(self.connection, log.trace_by_row(self.connection, row.trace), row.seq)
        except (EventStoreError, *DAMAGE) as error:
            yield self.fault(row.trace, row.seq, row, f"what the log says of it cannot be read: {error}")
            return
        if said is None or said.name != row.name:
            found = "no checkpoint" if said is None else f"checkpoint {said.name}"
            yield self.fault(row.trace, row.seq, row, f"the log has {found} there")
            return
        if said.parent != row.parent:
            yield self.fault(row.trace, row.seq, row, f"listed under {row.parent}, the log says {said.parent}")
        metadata = None if row.metadata is None else msgspec.json.decode(row.metadata)
        if not same(metadata, said.metadata):
            yield self.fault(row.trace, row.seq, row, "its metadata are not those in the log")
        run_id = said.run_id if row.status == "live" else None
        if row.run_id != run_id and said.metadata is not None:
            yield self.fault(row.trace, row.seq, row, f"listed as of run {row.run_id}, the log says {run_id}")

    def written(self, row: ScopeCheckpoint, trace: int, seq: int) -> Iterator[Fault]:
        """Writes of a checkpoint against the event that they stand at."""
        if trace in self.damaged:
            return
        try:
            name = scope_places.written_at(self.connection, trace, seq)
        except ValueError as error:
            yield self.fault(trace, seq, row, f"its writes cannot be read: {error}")
            return
        if name != row.name:
            found = "none" if name is None else f"those of checkpoint {name}"
            yield self.fault(trace, seq, row, f"its writes are listed here, the log has {found}")

    def fault(self, trace: int | None, seq: int, row: ScopeCheckpoint, reason: str) -> Fault:
        trace_id = None if trace is None else self.trace_id(trace)
        return Fault(trace_id, seq, f"checkpoint {row.name} of thread {self.label}: {reason}")

    def trace_id(self, trace: int) -> str | None:
        """The trace's id; None where there is no such trace."""
        if trace in self.held:
            return self.held[trace]
        try:
            return log.trace_by_row(self.connection, trace).trace_id
        except EventStoreError:
            return None
