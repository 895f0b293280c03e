"""The first commit of a line, of a fork of one, and of a journal; and its trace once that is there."""

from __future__ import annotations

import random
import time
from typing import Any, NamedTuple

from eventstore import scopes
from eventstore.chain import Chain, genesis
from eventstore.codec import as_column, encode_body
from eventstore.log import Head, TraceRow
from eventstore.reduce import ReducerRegistry
from eventstore.scopes import ScopeKey
from eventstore.store import Store, uuid7
from eventstore.trace import Trace
from eventstore.writer import Append

_random = random.Random()


class Origin(NamedTuple):
    """Where a fork begins: after that commit of the trace with the row id `owner`."""

    owner: int
    head: Head


def first_append(chain: Chain, label: str, wire: list[Any], origin: Origin | None = None) -> Append:
    """The append that begins a trace of its own, or a fork.

    >>> from eventstore.codec import envelope
    >>> from eventstore.event import TraceStarted
    >>> first_append(Chain(), "t1", [envelope(TraceStarted("t1", {}))]).row[1:3]
    (1, 1)
    """
    trace_id, at_us = uuid7(), time.time_ns() // 1000
    owner, after, previous = None, 0, genesis(trace_id)
    if origin is not None:
        owner, (after, previous, then_us) = origin
        at_us = max(at_us, then_us)
    body, own_id = encode_body(wire, True), _random.getrandbits(63)
    digest = chain.extend(previous, after + 1, len(wire), at_us, own_id, body)
    row = (0, after + 1, len(wire), own_id, at_us, digest, as_column(body))
    return Append(trace_id, row, new_trace=(trace_id, label, owner, after, at_us))


def begun(store: Store, key: ScopeKey, append: Append) -> tuple[int, Trace] | None:
    """After its commit: the scope's row id, and the trace; None where the scope was deleted meanwhile."""
    assert append.new_trace is not None
    trace_row, first_seq, n, _, at_us, digest, _ = append.row
    with store._database.reader() as connection:
        scope = scopes.find(connection, key)
    if scope is None:
        return None
    row = TraceRow._make((trace_row, *append.new_trace, "running"))
    return scope.id, Trace(store, row, Head(first_seq + n - 1, digest, at_us), ReducerRegistry())
