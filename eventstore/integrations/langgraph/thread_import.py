"""One thread of an old file into the store: put, read back, compared.

Checkpoints go parents before children and one line of descent after the other, so that most of them extend the trace
of the one before and only one is in memory at a time. They are read back from the last to the first, as a list is,
and compared piece by piece.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from langgraph.checkpoint.base import CheckpointTuple

from eventstore import scopes
from eventstore.codec import same
from eventstore.errors import EventStoreError, ValueRefused
from eventstore.scopes import NO_WRITES, ScopeKey
from eventstore.store import Store
from eventstore.windows import Windows

from . import journal
from .families import NOTHING, ImportRefused, Namespace, Rows, has_all, parents_first, refuse_another
from .journal import Journals
from .lines import Lines, Put
from .pieces import Held, Piece, Pieces, msgpack_of
from .pruning import BY
from .reading import ADAPTER, Reading, Shared
from .removing import Removing
from .sqlite_file import SqliteFile
from .written import writes_events, writes_expected

Outcome = Literal["added", "completed", "present", "refused"]


class ThreadImport:
    """Brings over threads, one at a time. `on_step`: told how much of a thread is done, from 0 to 1."""

    def __init__(self, file: SqliteFile, store: Store, pieces: Pieces, on_step: Callable[[float], object]) -> None:
        self._file = file
        self._store = store
        self._pieces = pieces
        self._on_step = on_step
        self._steps = self._total = 0

    def thread(self, thread_id: str) -> tuple[Outcome, int, int]:
        """Bring it over; gives what came of it, and how many checkpoints and writes came.

        Raises ImportRefused, after which the store has what it had before; storage errors.
        """
        spaces = [self._namespace(thread_id, name) for name in self._file.namespaces(thread_id)]
        self._steps, self._total = 0, 2 * sum(len(space.order) for space in spaces)
        there = self._there(thread_id)
        is_there = any(there.values())
        if is_there:
            is_whole = all(has_all(space, there.get(space.key, NOTHING)) for space in spaces)
            for key, rows in there.items() if not is_whole else ():
                refuse_another(rows, next((space for space in spaces if space.key == key), None))
            for space in spaces:
                self._compare(space, there.get(space.key, NOTHING))
            if is_whole:
                return "present", 0, 0
        try:
            counts = [self._put(space, there.get(space.key, NOTHING)) for space in spaces]
            for space in spaces:
                self._compare(space, None)
        except ImportRefused:
            self._take_back(thread_id, spaces, there)
            raise
        outcome: Outcome = "completed" if is_there else "added"
        return outcome, sum(checkpoints for checkpoints, _ in counts), sum(writes for _, writes in counts)

    def sync(self, thread_id: str) -> None:
        """Have all that was committed on the disk, by a commit that waits for it, in this thread's rows."""

        def work(connection: Any) -> None:
            for scope in scopes.of_thread(connection, ADAPTER, thread_id)[:1]:
                scopes.set_journal(connection, scope.id, scope.journal)

        self._store._writer.write(work, sync=True)

    def _take_back(self, thread_id: str, spaces: list[Namespace], there: Mapping[ScopeKey, Rows]) -> None:
        """Delete what was put. What was there before is equal to the file, and stays."""
        if not any(there.values()):
            return Removing(self._store, Windows(self._store), lambda _: None).delete_thread(thread_id)

        def work(connection: Any) -> None:
            for space in spaces:
                scope, rows = scopes.find(connection, space.key), there.get(space.key, NOTHING)
                if scope is not None:
                    names = [name for name in space.order if name not in rows or rows[name].trace is None]
                    names += [name for name in space.written if name not in space.parents and name not in rows]
                    scopes.remove(connection, scope, names, (), BY)

        return self._store._writer.write(work, sync=True)

    def _namespace(self, thread_id: str, name: str) -> Namespace:
        parents = self._file.parents(thread_id, name)
        written = dict.fromkeys(self._file.written(thread_id, name))
        return Namespace(ScopeKey(ADAPTER, thread_id, name), parents, parents_first(parents), written)

    def _there(self, thread_id: str) -> dict[ScopeKey, Rows]:
        with self._store._database.reader() as connection:
            found = scopes.of_thread(connection, ADAPTER, thread_id)
            return {ScopeKey(ADAPTER, thread_id, one.namespace): scopes.every(connection, one.id) for one in found}

    # Putting

    def _put(self, space: Namespace, there: Rows) -> tuple[int, int]:
        """Put what is not there; how many checkpoints and writes."""
        journals = Journals(self._store)
        lines = Lines(self._store, Windows(self._store), exact=False, commit=journals.commit_with)
        held: Held = {}
        checkpoints = writes = 0
        for name in space.order:
            with _telling(name):
                if name not in there or there[name].trace is None:
                    checkpoint, metadata = self._checkpoint(space, name, held)
                    if (parent := space.parents[name]) is not None:
                        lines.written(space.key, parent, ())  # nothing is edited in place here
                    lines.put(
                        self._pieces,
                        space.key,
                        Put(checkpoint, metadata, space.parents[name], checkpoint["channel_values"]),
                    )
                    checkpoints += 1
                writes += self._put_writes(journals, space, name, there)
            self._step()
        for name in space.written:
            if name not in space.parents:
                with _telling(name):
                    writes += self._put_writes(journals, space, name, there)
        return checkpoints, writes

    def _put_writes(self, journals: Journals, space: Namespace, name: str, there: Rows) -> int:
        if name not in space.written or (name in there and there[name].writes != NO_WRITES):
            return 0
        rows = self._file.writes(space.key.thread_id, space.key.namespace, name)
        journals.put(space.key, *writes_events(self._pieces, name, rows))
        return len(rows)

    def _checkpoint(self, space: Namespace, name: str, held: Held) -> tuple[dict[str, Any], dict[str, Any]]:
        """A checkpoint of the file, as pieces, and its metadata. Raises ValueError, what the serializer raises."""
        stored = self._file.checkpoint(space.key.thread_id, space.key.namespace, name)
        checkpoint = self._pieces.checkpoint(stored.codec, stored.data, held)
        if checkpoint["id"] != name:
            raise ValueError(f"it says that it is {checkpoint['id']!r}")
        metadata = {} if stored.metadata is None else json.loads(stored.metadata)
        if type(metadata) is not dict:
            raise ValueError("its metadata are no object")
        return checkpoint, metadata

    # Comparing

    def _compare(self, space: Namespace, there: Rows | None) -> None:
        """Raise ImportRefused where the store differs from the file. `there`: only these rows, as far as they go."""
        reading, shared, held = Reading(self._store, Windows(self._store)), Shared(self._pieces), Held()
        for name in reversed(space.order):
            if there is None or (name in there and there[name].trace is not None):
                with _telling(name):
                    found = self._read_back(reading, shared, space.key, name)
                    checkpoint, metadata = self._checkpoint(space, name, held)
                    different = [*_different(found, checkpoint), *self._different_beside(space, found, metadata, there)]
                    if different:
                        raise ValueError(f"{', '.join(different)}: what the store has differs from the file")
            self._step()
        for name in space.written:
            if name not in space.parents and (there is None or name in there):
                with _telling(name), self._store._database.reader() as connection:
                    row = scopes.named(connection, space.key, name)
                    kept = (
                        []
                        if row is None
                        else journal.pending_writes(self._pieces, journal.read(connection, self._store.path, row))
                    )
                    if self._are_other_writes(space, name, kept):
                        raise ValueError("writes: what the store has differs from the file")

    def _read_back(self, reading: Reading, shared: Shared, key: ScopeKey, name: str) -> CheckpointTuple:
        found = reading.get(self._pieces, key, name, shared=shared)
        if found is None:
            raise ValueError("the store does not have it any more")
        return found[1]

    def _different_beside(
        self, space: Namespace, found: CheckpointTuple, metadata: Any, there: Rows | None
    ) -> Iterator[str]:
        """What differs beside the checkpoint itself."""
        name = found.config["configurable"]["checkpoint_id"]
        parent = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
        if parent != space.parents[name]:
            yield "parent"
        if isinstance(found.metadata, Piece):
            metadata = self._pieces.loads_typed(self._pieces.dumps_typed(metadata))
        if not same(found.metadata, metadata):
            yield "metadata"
        come_yet = there is None or there[name].writes != NO_WRITES
        if come_yet and self._are_other_writes(space, name, found.pending_writes or []):
            yield "writes"

    def _are_other_writes(self, space: Namespace, name: str, kept: Any) -> bool:
        rows = self._file.writes(space.key.thread_id, space.key.namespace, name) if name in space.written else []
        expected = writes_expected(self._pieces, rows)
        return [(task, channel, msgpack_of(value)) for task, channel, value in kept] != expected

    def _step(self) -> None:
        self._steps += 1
        self._on_step(min(1.0, self._steps / self._total))


def _different(found: CheckpointTuple, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    kept: dict[str, Any] = dict(found.checkpoint)
    expected = dict(checkpoint)
    values, values_expected = kept.pop("channel_values"), expected.pop("channel_values")
    for channel in sorted(values.keys() | values_expected.keys()):
        if values.get(channel) != values_expected.get(channel):
            yield f"channel {channel!r}"
    for key in sorted(kept.keys() | expected.keys()):
        if key not in kept or key not in expected or not same(kept[key], expected[key]):
            yield key


@contextmanager
def _telling(name: str) -> Iterator[None]:
    """What is wrong with a checkpoint is told with its name; errors of the storage are not wrong with it."""
    try:
        yield
    except ValueRefused as error:
        raise ImportRefused(f"checkpoint {name}: {error}") from error
    except EventStoreError:
        raise
    except Exception as error:  # a serializer may raise anything
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ImportRefused(f"checkpoint {name}: {kind}{error}") from error
