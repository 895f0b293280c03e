"""Deleting, copying and pruning threads so that nothing that is kept loses a value.

A copy is a list of places: both threads read the same traces, each goes on with its own. What is deleted leaves its
rows at once, and its traces as soon as nothing else reads them. A delta channel's value is made of the writes of
earlier checkpoints, back to one that holds a value: those that a kept checkpoint needs become ghosts, never listed.
Pruning puts what is kept into a new trace and a new journal, so that the old ones can be erased whole.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from eventstore import chain, scopes
from eventstore.codec import Envelope, as_column, encode_body, envelope
from eventstore.event import TraceStarted
from eventstore.retention import release_pages
from eventstore.scopes import Scope, ScopeCheckpoint, ScopeKey
from eventstore.store import Store, uuid7
from eventstore.windows import Snapshot, Windows
from eventstore.writer import Append

from . import journal
from .bodies import moved_data, nodes_of
from .channels import ChannelDraft
from .journal import Writes
from .lines import label_of
from .reading import ADAPTER
from .values import change_of_bytes

BY = "langgraph"
ATTEMPTS = 16
_random = random.Random()
_json = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Removing:
    """What takes checkpoints away, of one store. `forget`: told of each scope that changed."""

    def __init__(self, store: Store, windows: Windows, forget: Callable[[ScopeKey], object]) -> None:
        self._store = store
        self._windows = windows
        self._forget = forget

    def delete_thread(self, thread_id: str) -> None:
        """Delete a thread, all its namespaces. Raises storage errors."""

        def work(connection: Any) -> list[Scope]:
            found = scopes.of_thread(connection, ADAPTER, thread_id)
            for scope in found:
                scopes.remove(connection, scope, list(scopes.every(connection, scope.id)), (), BY)
            return found

        self._done(self._store._writer.write(work, sync=True))

    def delete_for_runs(self, run_ids: Collection[str]) -> None:
        """Delete the checkpoints of these runs. Raises storage errors, LogCorrupted."""
        for run_id in dict.fromkeys(run_ids):
            with self._store._database.reader() as connection:
                found = scopes.of_run(connection, run_id)
            for scope in found:
                self._settle(scope, lambda rows: {name for name, row in rows.items() if row.run_id in run_ids})
            self._done(found)

    def copy_thread(self, source: str, target: str) -> None:
        """Let `target` have all that `source` has. Raises ValueError when it has checkpoints already."""

        def work(connection: Any) -> list[Scope]:
            if source == target or scopes.of_thread(connection, ADAPTER, target):
                raise ValueError(
                    f"thread {target!r} has checkpoints already; {source!r} is copied to a new thread only"
                )
            found = scopes.of_thread(connection, ADAPTER, source)
            for scope in found:
                scopes.copy(connection, scope, ScopeKey(ADAPTER, target, scope.namespace), BY)
            return []

        self._store._writer.write(work, sync=True)

    def prune(self, thread_ids: Iterable[str]) -> None:
        """Keep the latest checkpoint of each namespace, and what its delta channels need. Raises LogCorrupted."""
        for thread_id in dict.fromkeys(thread_ids):
            with self._store._database.reader() as connection:
                found = scopes.of_thread(connection, ADAPTER, thread_id)
                root = {} if not found or found[0].namespace else scopes.every(connection, found[0].id)
            latest = max((name for name, row in root.items() if row.status == "live"), default=None)
            over = {name for name, row in root.items() if row.status != "announced" and name != latest}
            for scope in found:
                if not self._is_over(scope, over):
                    self._prune(scope)
                else:
                    self._settle(scope, lambda rows: set(rows))
            self._done(found)

    def _is_over(self, scope: Scope, over: Collection[str]) -> bool:
        """Whether it is the namespace of one call of a subgraph, made by a checkpoint that is not kept."""
        if ":" not in scope.namespace.rpartition("|")[2]:
            return False
        with self._store._database.reader() as connection:
            latest = scopes.latest(connection, ScopeKey(ADAPTER, scope.thread_id, scope.namespace))
        metadata = {} if latest is None or latest.metadata is None else _json(latest.metadata)
        parents = metadata.get("parents")
        return isinstance(parents, dict) and parents.get("") in over

    def _done(self, found: Sequence[Scope]) -> None:
        for scope in found:
            self._forget(ScopeKey(ADAPTER, scope.thread_id, scope.namespace))
        if found:
            release_pages(self._store)

    def _settle(self, scope: Scope, goes: Callable[[Mapping[str, ScopeCheckpoint]], set[str]]) -> None:
        """Delete the live checkpoints that go, but for what the others need of them."""
        for _ in range(ATTEMPTS):
            with self._store._database.reader() as connection:
                rows = scopes.every(connection, scope.id)
            going = goes(rows)
            kept = [name for name, row in rows.items() if row.status == "live" and name not in going]
            needed = self._needed(rows, kept)
            ghosts = [name for name, row in rows.items() if name in needed and name not in kept]
            removed = [
                name
                for name, row in rows.items()
                if name not in needed and name not in kept and (row.status != "announced" or not kept)
            ]

            if self._remove(scope, rows, removed, ghosts):
                return
        raise self._store._database.busy()

    def _remove(
        self, scope: Scope, rows: Mapping[str, ScopeCheckpoint], names: Sequence[str], ghosts: Sequence[str]
    ) -> bool:
        """Unless another writer came between."""

        def work(connection: Any) -> bool:
            if scopes.every(connection, scope.id) != rows:
                return False
            scopes.remove(connection, scope, names, ghosts, BY)
            return True

        return self._store._writer.write(work, sync=True)

    def _needed(self, rows: Mapping[str, ScopeCheckpoint], kept: Iterable[str]) -> dict[str, set[str]]:
        """The checkpoints whose writes a delta channel of a kept one is made of, and which channels."""
        needed: dict[str, set[str]] = {}
        for name in kept:
            row = rows[name]
            channels = self._delta_channels(row)
            walked = set()
            while channels and row.parent is not None and row.parent not in walked:
                walked.add(row.parent)
                found = rows.get(row.parent)
                if found is None or found.trace is None or found.seq is None:
                    break
                row = found
                if channels <= needed.get(row.name, set()):
                    break
                needed.setdefault(row.name, set()).update(channels)
                channels = channels - self._windows.at(found.trace, found.seq).state.keys()
        return needed

    def _delta_channels(self, row: ScopeCheckpoint) -> set[str]:
        """The delta channels whose value the checkpoint does not hold."""
        metadata = {} if row.metadata is None else _json(row.metadata)
        counters = metadata.get("counters_since_delta_snapshot")
        return set(counters) if isinstance(counters, dict) else set()

    def _prune(self, scope: Scope) -> None:
        for _ in range(ATTEMPTS):
            with self._store._database.reader() as connection:
                rows = scopes.every(connection, scope.id)
            live = [name for name, row in rows.items() if row.status == "live"]
            if not live:
                return
            latest = rows[max(live)]
            needed = self._needed(rows, [latest.name])
            stay, name = [latest], latest.parent
            while name is not None and name in needed and rows[name] not in stay:
                stay.append(rows[name])
                name = rows[name].parent
            stay.reverse()
            announced = [row for row in rows.values() if row.status == "announced"]
            if len(live) == 1 and len(stay) + len(announced) == len(rows):
                return
            if self._replant(scope, rows, stay, announced):
                return
        raise self._store._database.busy()

    def _replant(
        self,
        scope: Scope,
        rows: Mapping[str, ScopeCheckpoint],
        stay: Sequence[ScopeCheckpoint],
        announced: Sequence[ScopeCheckpoint],
    ) -> bool:
        """Put what stays into a new line and a new journal; False where another writer came between."""
        key = ScopeKey(ADAPTER, scope.thread_id, scope.namespace)
        line = Planting(key, label_of(key))
        before: Snapshot = Snapshot({}, {})
        places: dict[str, int] = {}
        for row in stay:
            assert row.trace is not None and row.seq is not None
            snapshot = self._windows.at(row.trace, row.seq)
            places[row.name] = line.checkpoint(row, snapshot, before)
            before = snapshot
        book = Planting(key, line.label + " (writes)")
        with self._store._database.reader() as connection:
            if scopes.every(connection, scope.id) != rows:
                return False
            path = self._store.path
            written = {
                row.name: [book.writes(writes) for writes in journal.read(connection, path, row)]
                for row in (*stay, *announced)
            }

        def work(connection: Any) -> bool:
            if scopes.every(connection, scope.id) != rows:
                return False
            trace = line.plant(self._store)
            scopes.reads(connection, scope.id, trace)
            book_trace = book.plant(self._store) if any(written.values()) else None
            if book_trace is not None:
                scopes.reads(connection, scope.id, book_trace)
            scopes.set_journal(connection, scope.id, book_trace)
            for row in (*stay, *announced):
                writes = _encode([(book_trace, seq) for seq in written[row.name]]).decode()
                moved = row._replace(parent=None if row is stay[0] else row.parent, writes=writes)
                if row.name in places:
                    moved = moved._replace(trace=trace, seq=places[row.name])
                scopes.move(connection, moved)
            kept = {row.name for row in (*stay, *announced)}
            gone = [name for name in rows if name not in kept]
            scopes.remove(connection, scope._replace(journal=book_trace), gone, [row.name for row in stay[:-1]], BY)
            return True

        return self._store._writer.write(work, sync=True)


class Planting:
    """A new trace, commit by commit, before it is in the log."""

    def __init__(self, key: ScopeKey, label: str) -> None:
        self.label = label
        self._trace_id = uuid7()
        self._digest = chain.genesis(self._trace_id)
        self._seq = 0
        self._at_us = time.time_ns() // 1000
        self._appends: list[Append] = []
        self._first = [envelope(TraceStarted(label, {})), Envelope("scope_entered", list(key))]

    def checkpoint(self, row: ScopeCheckpoint, snapshot: Snapshot, before: Snapshot) -> int:
        """Put a checkpoint over the one before it; gives its seq."""
        draft = ChannelDraft(before.state, "import")
        for channel, value in snapshot.state.items():
            for op, changed in change_of_bytes(before.state.get(channel), value):
                draft.change(channel, op, changed)
        for channel in before.state:
            if channel not in snapshot.state:
                draft.drop(channel)
        follows = bool(before.control)
        metadata = {} if row.metadata is None else _json(row.metadata)
        data = moved_data(snapshot.control, before.control, metadata, follows=follows, parent=None)
        executed = Envelope("node_executed", {"node": nodes_of(data)})
        return self._commit([*draft.body(), executed, Envelope("checkpoint_put", data)])

    def writes(self, writes: Writes) -> int:
        """Put a task's writes; gives their seq."""
        return self._commit([writes.envelope()])

    def _commit(self, events: list[Any]) -> int:
        events, self._first = [*self._first, *events], []
        body, own_id, first_seq = encode_body(events, True), _random.getrandbits(63), self._seq + 1
        self._digest = chain.extend(self._digest, first_seq, len(events), self._at_us, own_id, body)
        row = (0, first_seq, len(events), own_id, self._at_us, self._digest, as_column(body))
        new_trace = None if self._appends else (self._trace_id, self.label, None, 0, self._at_us)
        self._appends.append(Append(self._trace_id, row, new_trace=new_trace))
        self._seq += len(events)
        return self._seq

    def plant(self, store: Store) -> int:
        """Insert it, inside the caller's transaction; gives its row id. Raises storage errors."""
        for append in self._appends:
            append.row = (self._appends[0].row[0], *append.row[1:])
            store._writer.insert(append)
        return int(self._appends[0].row[0])
