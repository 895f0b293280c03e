"""Pruning a thread: what stays is put into a new trace and a new journal, so that the old ones are erased whole."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from eventstore import scopes
from eventstore.chain import Chain, genesis
from eventstore.codec import Envelope, as_column, encode_body, envelope
from eventstore.event import TraceStarted
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
Rows = Mapping[str, ScopeCheckpoint]
"""A scope's checkpoints by name."""
Act = Callable[[Any], object]
"""What is done inside a transaction, with its connection."""
_random = random.Random()
_json = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def replanted(
    store: Store,
    windows: Windows,
    scope: Scope,
    rows: Rows,
    stay: Sequence[ScopeCheckpoint],
    announced: Sequence[ScopeCheckpoint],
) -> Act:
    """What puts the checkpoints that `stay`, each the parent of the next, into a new line, and removes all others.

    `announced`: checkpoints that are still to come, whose writes stay, too. Raises LogCorrupted, TraceNotFound.
    """
    key = ScopeKey(ADAPTER, scope.thread_id, scope.namespace)
    chain = store._database.chain
    line, book = Planting(chain, key, label_of(key)), Planting(chain, key, label_of(key) + " (writes)")
    before = Snapshot({}, {})
    places: dict[str, int] = {}
    for row in stay:
        assert row.trace is not None and row.seq is not None
        snapshot = windows.at(row.trace, row.seq)
        places[row.name] = line.checkpoint(row, snapshot, before)
        before = snapshot
    written: dict[str, list[int]] = {}
    for row in (*stay, *announced):
        with store._database.reader() as connection:
            found = journal.read(connection, store.path, row)
        written[row.name] = [book.writes(writes) for writes in found]

    def act(connection: Any) -> None:
        trace = line.plant(store)
        scopes.reads(connection, scope.id, trace)
        book_trace = book.plant(store) if any(written.values()) else None
        if book_trace is not None:
            scopes.reads(connection, scope.id, book_trace)
        scopes.set_journal(connection, scope.id, book_trace)
        for row in (*stay, *announced):
            writes = _encode([(book_trace, seq) for seq in written[row.name]]).decode()
            moved = row._replace(parent=None if row is stay[0] else row.parent, writes=writes)
            if row.name in places:
                moved = moved._replace(trace=trace, seq=places[row.name])
            scopes.move(connection, moved)
        gone = [name for name in rows if name not in written]
        ghosts = [row.name for row in stay[:-1]]
        scopes.remove(connection, scope, gone, ghosts, BY)

    return act


class Planting:
    """A new trace, commit by commit, before it is in the log."""

    def __init__(self, chain: Chain, key: ScopeKey, label: str) -> None:
        self._chain = chain
        self.label = label
        self._trace_id = uuid7()
        self._digest = genesis(self._trace_id)
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
        self._digest = self._chain.extend(self._digest, first_seq, len(events), self._at_us, own_id, body)
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
