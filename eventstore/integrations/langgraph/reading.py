"""Checkpoints out of the log: one, the latest, a list of them, the history of a delta channel.

A row says where a checkpoint stands; the state there holds its channels' values, control the rest of it. In a list,
states share what did not change between them, so a list that grew is decoded once and its items stand in each of
the states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory

from eventstore import scopes
from eventstore.errors import LogCorrupted, TraceErased, TraceNotFound
from eventstore.opaque import Opaque
from eventstore.scopes import ScopeCheckpoint, ScopeKey
from eventstore.store import Store
from eventstore.windows import Snapshot, Windows, size_bytes

from . import journal
from .bodies import checkpoint_of, metadata_of
from .journal import Writes
from .sealed import PlaintextRefused
from .values import CHUNKS, Serializer, chunks_of, decoded

ADAPTER = "langgraph"
ATTEMPTS = 16
WRITTEN = 256
FIRST_ROWS = 16
"""How many rows a list looks at first: most are read for the newest few."""
_json = msgspec.json.Decoder().decode


class Shared:
    """Lists decoded before, so that a shorter version of one is a slice of it."""

    def __init__(self, serde: Serializer) -> None:
        self._serde = serde
        self._last: dict[str, tuple[Opaque, list[Any]]] = {}
        self._longest: dict[str, tuple[bytes, list[Any]]] = {}

    def decoded(self, channel: str, value: Opaque) -> Any:
        """The value of a channel. Raises what the serializer raises."""
        if value.count is None:
            return decoded(self._serde, value)
        parts = self._parts(channel, value)
        if value.codec.endswith(CHUNKS):
            return [item for chunk in parts for item in chunk]
        return parts

    def _parts(self, channel: str, value: Opaque) -> list[Any]:
        """Its items, or of a list of chunks the chunks, each a list."""
        last = self._last.get(channel)
        if last is not None and value.begins(last[0]):
            return last[1][: value.count]
        data = value.data
        longest = self._longest.get(channel)
        if longest is not None and longest[0].startswith(data):  # of another stretch of the line
            parts = longest[1][: value.count]
        else:
            parts = chunks_of(self._serde, value) if value.codec.endswith(CHUNKS) else decoded(self._serde, value)
            self._longest[channel] = data, parts
        self._last[channel] = value, parts
        return list(parts)


class Read(NamedTuple):
    """A row and the writes of its checkpoint, of one instant."""

    row: ScopeCheckpoint
    written: list[Writes]


class Reading:
    """Reads of the checkpoints of one store."""

    def __init__(self, store: Store, windows: Windows) -> None:
        self._store = store
        self._windows = windows
        self._written_before: dict[str, list[Writes]] = {}

    def row(self, key: ScopeKey, name: str | None) -> ScopeCheckpoint | None:
        """The live checkpoint of that name, or the latest."""
        with self._store._database.reader() as connection:
            return _live(connection, key, name)

    def get(
        self, serde: Serializer, key: ScopeKey, name: str | None, config: Any = None, shared: Shared | None = None
    ) -> tuple[ScopeCheckpoint, CheckpointTuple] | None:
        """The live checkpoint of that name, or the latest. Raises LogCorrupted, and what the serializer raises."""
        for _ in range(ATTEMPTS):
            with self._store._database.reader() as connection:
                row = _live(connection, key, name)
                read = None if row is None else Read(row, self._written(connection, row))
            if read is None:
                return None
            found = self.tuple_of(serde, key, read, config, shared)
            if found is not None:
                return read.row, found
        raise self._store._database.busy()

    def tuple_of(
        self, serde: Serializer, key: ScopeKey, read: Read, config: Any = None, shared: Shared | None = None
    ) -> CheckpointTuple | None:
        """The checkpoint of a row; None where that was deleted or moved meanwhile. Raises as `get`."""
        row, written = read
        snapshot = self._snapshot(row)
        if snapshot is None:
            return None
        try:
            if shared is None:
                values = {channel: decoded(serde, value) for channel, value in snapshot.state.items()}
            else:
                values = {channel: shared.decoded(channel, value) for channel, value in snapshot.state.items()}
            checkpoint: Any = checkpoint_of(serde, snapshot.control, values)
            metadata = metadata_of(serde, snapshot.control) if row.metadata is None else _json(row.metadata)
            pending = journal.pending_writes(serde, written) if written else []
        except PlaintextRefused as error:
            raise PlaintextRefused(error.codec, f"checkpoint {row.name} of thread {key.thread_id!r}") from None
        return CheckpointTuple(
            config if config is not None else config_of(key, row.name),
            checkpoint,
            metadata,
            None if row.parent is None else config_of(key, row.parent),
            pending,
        )

    def listed(
        self,
        serde: Serializer,
        key: ScopeKey | None,
        thread_id: str | None,
        *,
        name: str | None,
        before: str | None,
        filter: Mapping[str, Any] | None,
        limit: int | None,
        again_left: int = ATTEMPTS,
    ) -> Iterator[CheckpointTuple]:
        """Live checkpoints of a scope, of a thread or of all, the greatest id first. Raises as `get`."""
        shared: dict[int, Shared] = {}
        keys: dict[int, ScopeKey] = {}
        left, has_given = limit, False
        for read in self._pages(serde, key, thread_id, name, before, filter):
            if left is not None and left <= 0:
                return
            scope = read.row.scope
            if scope not in keys:
                found_key = key or self._key(scope)
                if found_key is None:
                    continue
                keys[scope] = found_key
            found = self.tuple_of(serde, keys[scope], read, shared=shared.setdefault(scope, Shared(serde)))
            if found is None:  # it was moved meanwhile, or deleted
                again = self.get(serde, keys[scope], read.row.name)
                found = None if again is None else again[1]
            if found is not None:
                left, has_given = None if left is None else left - 1, True
                yield found
            elif not has_given and again_left:  # a prune took all that the page had: look anew
                yield from self.listed(
                    serde,
                    key,
                    thread_id,
                    name=name,
                    before=before,
                    filter=filter,
                    limit=limit,
                    again_left=again_left - 1,
                )
                return

    def delta_history(
        self, serde: Serializer, key: ScopeKey, name: str | None, channels: Sequence[str]
    ) -> dict[str, DeltaChannelHistory]:
        """What each channel's value at a checkpoint is made of; see `BaseCheckpointSaver.get_delta_channel_history`."""
        for _ in range(ATTEMPTS):
            found = self._walked(serde, key, name, channels)
            if found is not None:
                return found
        raise self._store._database.busy()

    def _walked(
        self, serde: Serializer, key: ScopeKey, name: str | None, channels: Sequence[str]
    ) -> dict[str, DeltaChannelHistory] | None:
        """None where a checkpoint on the way was moved meanwhile."""
        writes: dict[str, list[list[tuple[str, str, Any]]]] = {channel: [] for channel in channels}
        seeds: dict[str, Any] = {}
        left = set(channels)
        target = self.row(key, name)
        parent = None if target is None else target.parent
        walked = set() if target is None else {target.name}
        while target is not None and parent is not None and left and parent not in walked:
            walked.add(parent)
            with self._store._database.reader() as connection:
                row = scopes.checkpoint(connection, target.scope, parent)
                written = [] if row is None else journal.read(connection, self._store.path, row)
            if row is None or row.trace is None:
                break
            snapshot = self._snapshot(row)
            if snapshot is None:
                return None
            pending = journal.pending_writes(serde, written)
            for channel in list(left):
                writes[channel].append([write for write in pending if write[1] == channel])
                if channel in snapshot.state:
                    seeds[channel] = decoded(serde, snapshot.state[channel])
                    left.discard(channel)
            parent = row.parent
        histories: dict[str, DeltaChannelHistory] = {}
        for channel in channels:
            histories[channel] = {"writes": [write for stage in reversed(writes[channel]) for write in stage]}
            if channel in seeds:
                histories[channel]["seed"] = seeds[channel]
        return histories

    def size_bytes(self, row: ScopeCheckpoint) -> int:
        """About how much the channels of a checkpoint that was just read hold."""
        snapshot = self._snapshot(row)
        return 0 if snapshot is None else size_bytes(snapshot.state)

    def _written(self, connection: Any, row: ScopeCheckpoint) -> list[Writes]:
        """The writes of a checkpoint, remembered: what stands at a place of a journal never changes."""
        if row.writes == scopes.NO_WRITES:
            return []
        found = self._written_before.get(row.writes)
        if found is None:
            found = journal.read(connection, self._store.path, row)
            if len(self._written_before) >= WRITTEN:
                self._written_before.clear()
            self._written_before[row.writes] = found
        return found

    def _snapshot(self, row: ScopeCheckpoint) -> Snapshot | None:
        if row.trace is None or row.seq is None:
            return None
        try:
            snapshot = self._windows.at(row.trace, row.seq)
        except (TraceErased, TraceNotFound):
            return None
        kept = snapshot.control.get("checkpoint", {})
        is_kept = "metadata" in kept if row.metadata is None else row.metadata.startswith("{")
        if "name" not in kept or not is_kept:
            raise LogCorrupted(self._store.path, f"with row id {row.trace}", row.seq, "no such checkpoint stands here")
        return snapshot

    def _pages(
        self,
        serde: Serializer,
        key: ScopeKey | None,
        thread_id: str | None,
        name: str | None,
        before: str | None,
        filter: Mapping[str, Any] | None,
    ) -> Iterator[Read]:
        """The rows that match, page by page, each of one instant with its writes."""
        last, rows = (before, -1), FIRST_ROWS
        while True:
            with self._store._database.reader() as connection:
                scope = None if key is None else scopes.find(connection, key)
                if key is not None and scope is None:
                    return
                if scope is not None and name is not None:
                    one = scopes.checkpoint(connection, scope.id, name)
                    is_listed = one is not None and one.status == "live" and (before is None or one.name < before)
                    page = [one] if one is not None and is_listed else []
                else:
                    page = scopes.page(connection, ADAPTER, thread_id, None if scope is None else scope.id, last, rows)
                matching = [
                    Read(row, journal.read(connection, self._store.path, row))
                    for row in page
                    if (name is None or row.name == name) and (not filter or self._matches(serde, row, filter))
                ]
            yield from matching
            if len(page) < rows:
                return
            last, rows = (page[-1].name, page[-1].scope), scopes.PAGE_ROWS

    def _key(self, scope: int) -> ScopeKey | None:
        with self._store._database.reader() as connection:
            found = scopes.by_id(connection, scope)
        return None if found is None else ScopeKey(ADAPTER, found.thread_id, found.namespace)

    def _matches(self, serde: Serializer, row: ScopeCheckpoint, filter: Mapping[str, Any]) -> bool:
        """Whether its metadata have these values, compared in Python: no word of a filter is ever part of SQL."""
        if row.metadata is not None and row.metadata.startswith("{"):
            metadata = _json(row.metadata)
        else:
            snapshot = self._snapshot(row)
            if snapshot is None:
                return False
            metadata = metadata_of(serde, snapshot.control)
        return all(metadata.get(name) == value for name, value in filter.items())


def _live(connection: Any, key: ScopeKey, name: str | None) -> ScopeCheckpoint | None:
    if name is None:
        return scopes.latest(connection, key)
    found = scopes.named(connection, key, name)
    return found if found is not None and found.status == "live" else None


def config_of(key: ScopeKey, name: str) -> Any:
    """The config that addresses a checkpoint."""
    return {"configurable": {"thread_id": key.thread_id, "checkpoint_ns": key.namespace, "checkpoint_id": name}}
