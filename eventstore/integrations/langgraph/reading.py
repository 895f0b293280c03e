"""Checkpoints out of the log: one, the latest, a list of them, the history of a delta channel.

A row says where a checkpoint stands; the state there holds its channels' values, control the rest of it. In a list,
states share what did not change between them, so a list that grew is decoded once and its items stand in each of
the states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from langgraph.checkpoint.base import CheckpointTuple, DeltaChannelHistory

from eventstore import scopes
from eventstore.errors import TraceErased, TraceNotFound
from eventstore.opaque import Opaque
from eventstore.scopes import ScopeCheckpoint, ScopeKey
from eventstore.store import Store
from eventstore.windows import Snapshot, Windows

from . import journal
from .bodies import checkpoint_of, metadata_of
from .values import CHUNKS, Serializer, decoded

ADAPTER = "langgraph"
_json = msgspec.json.Decoder().decode


class Shared:
    """Lists decoded before, so that a shorter version of one is a slice of it."""

    def __init__(self, serde: Serializer) -> None:
        self._serde = serde
        self._longest: dict[str, tuple[Opaque, list[Any]]] = {}

    def decoded(self, channel: str, value: Opaque) -> Any:
        """The value of a channel. Raises what the serializer raises."""
        if value.count is None or value.codec.endswith(CHUNKS):
            return decoded(self._serde, value)
        held = self._longest.get(channel)
        if held is None or not value.begins(held[0]):
            items = decoded(self._serde, value)
            self._longest[channel] = value, items
            return list(items)
        return held[1][: value.count]


class Reading:
    """Reads of the checkpoints of one store."""

    def __init__(self, store: Store, windows: Windows) -> None:
        self._store = store
        self._windows = windows

    def row(self, key: ScopeKey, name: str | None) -> ScopeCheckpoint | None:
        """The live checkpoint of that name, or the latest."""
        with self._store._database.reader() as connection:
            if name is None:
                return scopes.latest(connection, key)
            found = scopes.named(connection, key, name)
        return found if found is not None and found.status == "live" else None

    def tuple_of(
        self, serde: Serializer, key: ScopeKey, row: ScopeCheckpoint, config: Any = None, shared: Shared | None = None
    ) -> CheckpointTuple | None:
        """The checkpoint of a row; None where it was deleted meanwhile.

        Raises LogCorrupted, and what the serializer raises.
        """
        snapshot = self._snapshot(row)
        if snapshot is None:
            return None
        if shared is None:
            values = {channel: decoded(serde, value) for channel, value in snapshot.state.items()}
        else:
            values = {channel: shared.decoded(channel, value) for channel, value in snapshot.state.items()}
        checkpoint: Any = checkpoint_of(serde, snapshot.control, values)
        metadata = metadata_of(serde, snapshot.control) if row.metadata is None else _json(row.metadata)
        written = journal.read(self._store, row)
        return CheckpointTuple(
            config if config is not None else config_of(key, row.name),
            checkpoint,
            metadata,
            None if row.parent is None else config_of(key, row.parent),
            journal.pending_writes(serde, written) if written else [],
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
    ) -> Iterator[CheckpointTuple]:
        """Live checkpoints of a scope, of a thread or of all, the greatest id first. Raises as `tuple_of`."""
        shared: dict[int, Shared] = {}
        keys: dict[int, ScopeKey] = {}
        left = limit
        for row in self._rows(key, thread_id, name, before):
            if left is not None and left <= 0:
                return
            if filter and not self._matches(serde, row, filter):
                continue
            if row.scope not in keys:
                keys[row.scope] = key or self._key(row.scope)
            sharing = shared.setdefault(row.scope, Shared(serde))
            found = self.tuple_of(serde, keys[row.scope], row, shared=sharing)
            if found is not None:
                left = None if left is None else left - 1
                yield found

    def delta_history(
        self, serde: Serializer, key: ScopeKey, name: str | None, channels: Sequence[str]
    ) -> dict[str, DeltaChannelHistory]:
        """What each channel's value at a checkpoint is made of; see `BaseCheckpointSaver.get_delta_channel_history`."""
        writes: dict[str, list[list[tuple[str, str, Any]]]] = {channel: [] for channel in channels}
        seeds: dict[str, Any] = {}
        left = set(channels)
        target = self.row(key, name)
        parent = None if target is None else target.parent
        walked = set()
        while target is not None and parent is not None and left and parent not in walked:
            walked.add(parent)
            with self._store._database.reader() as connection:
                row = scopes.checkpoint(connection, target.scope, parent)
            snapshot = None if row is None else self._snapshot(row)
            if row is None or snapshot is None:
                break
            pending = journal.pending_writes(serde, journal.read(self._store, row))
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

    def _snapshot(self, row: ScopeCheckpoint) -> Snapshot | None:
        if row.trace is None or row.seq is None:
            return None
        try:
            return self._windows.at(row.trace, row.seq)
        except (TraceErased, TraceNotFound):
            return None

    def _rows(
        self, key: ScopeKey | None, thread_id: str | None, name: str | None, before: str | None
    ) -> Iterator[ScopeCheckpoint]:
        if key is not None and name is not None:
            found = self.row(key, name)
            if found is not None and (before is None or found.name < before):
                yield found
            return
        store, last = self._store, (before, -1)
        with store._database.reader() as connection:
            scope = None if key is None else scopes.find(connection, key)
        if key is not None and scope is None:
            return
        while True:
            with store._database.reader() as connection:
                page = scopes.page(connection, ADAPTER, thread_id, None if scope is None else scope.id, last)
            for row in page:
                if name is None or row.name == name:
                    yield row
            if len(page) < scopes.PAGE_ROWS:
                return
            last = page[-1].name, page[-1].scope

    def _key(self, scope: int) -> ScopeKey:
        with self._store._database.reader() as connection:
            found = scopes.by_id(connection, scope)
        return ScopeKey(ADAPTER, found.thread_id, found.namespace)

    def _matches(self, serde: Serializer, row: ScopeCheckpoint, filter: Mapping[str, Any]) -> bool:
        """Whether its metadata have these values, compared in Python: no word of a filter is ever part of SQL."""
        if row.metadata is not None:
            metadata = _json(row.metadata)
        else:
            snapshot = self._snapshot(row)
            if snapshot is None:
                return False
            metadata = metadata_of(serde, snapshot.control)
        return all(metadata.get(name) == value for name, value in filter.items())


def config_of(key: ScopeKey, name: str) -> Any:
    """The config that addresses a checkpoint."""
    return {"configurable": {"thread_id": key.thread_id, "checkpoint_ns": key.namespace, "checkpoint_id": name}}
