"""Deleting, copying and pruning threads so that nothing that is kept loses a value.

A copy is a list of places: both threads read the same traces, each goes on with its own. What is deleted leaves its
rows at once, and its traces as soon as nothing else reads them. A delta channel's value is made of the writes of
earlier checkpoints, back to one that holds a value: those that a kept checkpoint needs become ghosts, never listed.
How pruning keeps the rest: `pruning.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec

from eventstore import scopes
from eventstore.errors import LogCorrupted, TraceNotFound
from eventstore.retention import release_pages
from eventstore.scopes import Scope, ScopeCheckpoint, ScopeKey
from eventstore.store import Store
from eventstore.windows import Windows

from .pruning import BY, Act, Rows, replanted
from .reading import ADAPTER

UNDISTURBED = 4
"""How often an act is planned while others may write."""
_json = msgspec.json.Decoder().decode


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

    def _done(self, found: list[Scope]) -> None:
        for scope in found:
            self._forget(ScopeKey(ADAPTER, scope.thread_id, scope.namespace))
        if found:
            release_pages(self._store)

    def _settle(self, scope: Scope, goes: Callable[[Rows], set[str]]) -> None:
        """Delete the live checkpoints that go, but for what the others need of them."""

        def plan(rows: Rows) -> Act:
            going = goes(rows)
            kept = {name for name, row in rows.items() if row.status == "live" and name not in going}
            needed = self._needed(rows, kept)
            ghosts = [name for name in rows if name in needed and name not in kept]
            gone = [
                name
                for name, row in rows.items()
                if name not in needed and name not in kept and (row.status != "announced" or not kept)
            ]
            return lambda connection: scopes.remove(connection, scope, gone, ghosts, BY)

        self._act(scope, plan)

    def _prune(self, scope: Scope) -> None:
        """Keep the latest checkpoint, and what its delta channels need."""

        def plan(rows: Rows) -> Act | None:
            live = [name for name, row in rows.items() if row.status == "live"]
            if not live:
                return None
            stay, at = {max(live): None}, rows[max(live)]
            needed = self._needed(rows, stay)
            while at.parent is not None and at.parent in needed and at.parent not in stay:
                stay[at.parent], at = None, rows[at.parent]
            announced = [row for row in rows.values() if row.status == "announced"]
            if len(live) == 1 and len(stay) + len(announced) == len(rows):
                return None
            return replanted(
                self._store, self._windows, scope, rows, [rows[name] for name in reversed(stay)], announced
            )

        self._act(scope, plan)

    def _act(self, scope: Scope, plan: Callable[[Rows], Act | None]) -> None:
        """Plan on what was read, and act where nobody came between; at last plan while nobody can."""
        for _ in range(UNDISTURBED):
            with self._store._database.reader() as connection:
                rows = scopes.every(connection, scope.id)
            try:
                act = plan(rows)
            except (LogCorrupted, TraceNotFound):
                continue  # it was moved while it was read, or is damaged, which the last attempt tells
            if act is None or self._store._writer.write(self._unless_changed(scope, rows, act), sync=True):
                return

        def at_once(connection: Any) -> None:
            act = plan(scopes.every(connection, scope.id))
            if act is not None:
                act(connection)

        self._store._writer.write(at_once, sync=True)

    def _unless_changed(self, scope: Scope, rows: Rows, act: Act) -> Callable[[Any], bool]:
        def work(connection: Any) -> bool:
            if scopes.every(connection, scope.id) != rows:
                return False
            act(connection)
            return True

        return work

    def _needed(self, rows: Rows, kept: Iterable[str]) -> dict[str, set[str]]:
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
