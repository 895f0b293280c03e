"""Taking a fork: a new trace that begins at a step boundary of another one, by reference.

Neither the state nor the history is read: what the fork does not inherit, the fold drops at its first event. So
a fork costs the same at every place of a trace of any length: a few lookups by index and one commit.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import log
from .codec import Envelope, as_column, encode_body, envelope
from .errors import ValueRefused
from .event import DeltaOp, DeltaSource, StateDelta, TraceForked
from .forking import fork_events
from .inbox import raised_event
from .log import Head, TraceRow
from .pending import projections
from .reduce import ReducerRegistry
from .step import Draft
from .writer import SET_STATUS, TRACE_ROW, Append

if TYPE_CHECKING:
    from .store import Store

WAITING = (
    "SELECT barrier_id FROM barrier WHERE trace = ?1 AND raised_seq <= ?2"
    " AND (decided_seq IS NULL OR decided_seq > ?2) ORDER BY raised_seq"
)
_random = random.Random()


def fork(
    store: Store, trace_id: str, seq: int | None, put: Mapping[str, Any], name: str | None, new_id: str
) -> tuple[TraceRow, Head]:
    """Commit the first events of a fork; see `Store.fork`."""
    if not isinstance(put, Mapping):
        raise ValueRefused("put", f"a mapping of keys to values, not {type(put).__name__}")
    draft = Draft({}, ReducerRegistry(), store.redact)
    for key, value in put.items():
        draft.replace(key, value, "fork")
    puts = [StateDelta(key, DeltaOp.PUT, live, DeltaSource.FORK) for key, _, live in draft.live]
    with store._database.reader() as connection:
        parent = log.find_trace(connection, trace_id)
        at = log.head(connection, parent).version if seq is None else seq
        head = log.boundary(connection, parent, at)
        owner = log.lineage(connection, parent, at)[-1].trace
        pending: list[Any] = connection.execute(WAITING, (owner, at)).fetchall()
        waiting = [
            found
            for (barrier_id,) in pending
            if (found := raised_event(connection, store.path, owner, barrier_id)) is not None
        ]
    at_us = max(time.time_ns() // 1000, head.at_us)
    label = parent.name if name is None else name
    events = fork_events(TraceForked(label, trace_id, at), waiting, puts, at_us)
    rows = iter(draft.body())
    wire = [next(rows) if isinstance(event, StateDelta) else envelope(event) for event in events]
    control = [item for item in wire if isinstance(item, Envelope)]
    body = encode_body(wire, draft.opaque)
    own_id = _random.getrandbits(63)
    digest = store._database.chain.extend(head.digest, at + 1, len(wire), at_us, own_id, body)
    log_row = (0, at + 1, len(wire), own_id, at_us, digest, as_column(body))
    append = Append(new_id, log_row, new_trace=(new_id, label, owner, at, at_us))
    append.extras = projections(control, wire, at + 1, {"status": "running", "waits": len(waiting)}, at_us)
    if waiting:
        append.extras.append((SET_STATUS, ("waiting", TRACE_ROW)))
    store._writer.commit(append)
    row = TraceRow(append.row[0], new_id, label, owner, at, at_us, "running")
    return row, Head(at + len(wire), digest, at_us)
