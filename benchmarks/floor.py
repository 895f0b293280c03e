"""The floor: the least that any store of this kind does.

The same events, encoded by msgspec, inserted row by row into a table with the log's columns, in WAL with
the same page size and the same `synchronous`. No triggers, no CHECK, no chain, no normalising, no
reducers, no live state: what an engine costs above this is what its promises cost.
"""

from __future__ import annotations

import random
import time
from typing import Any

import apsw
import msgspec

from .workload import CHAT_STATE, check, fold
from .workload import chat as chat_steps

SCHEMA = (
    "CREATE TABLE log (id INTEGER PRIMARY KEY, trace INTEGER NOT NULL, first_seq INTEGER NOT NULL, n INTEGER NOT NULL,"
    " append_id, at_us INTEGER NOT NULL, digest BLOB NOT NULL, body NOT NULL, UNIQUE (trace, first_seq))"
)
INSERT = "INSERT INTO log (trace, first_seq, n, append_id, at_us, digest, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
DIGEST = bytes(16)


class Delta(msgspec.Struct, omit_defaults=True):
    """A delta as the log's body holds it."""

    key: str
    op: str = "put"
    value: Any = None


class Executed(msgspec.Struct, omit_defaults=True):
    """What a node's execution leaves beside its deltas."""

    node: str
    success: bool = True
    duration_ms: float = 0.0


class Control(msgspec.Struct):
    """An event that is no delta, as the log's body holds it."""

    kind: str
    data: Executed


def steps(path: str, durability: str, count: int, message_bytes: int) -> list[float]:
    """Write a chat run of `count` steps; µs of each step."""
    inputs = list(chat_steps(count, message_bytes))
    connection = apsw.Connection(path)
    connection.pragma("page_size", 4096)
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", durability)
    connection.execute(SCHEMA)
    encode = msgspec.json.Encoder().encode
    execute, getrandbits = connection.execute, random.Random().getrandbits
    clock, now = time.perf_counter_ns, time.time_ns
    laps: list[float] = []
    seq = 1
    for step in inputs:
        started = clock()
        events: list[Any] = [Delta("messages", "append", [step.message])]
        for key, value in step.puts.items():
            events.append(Delta(key, value=value))
        events.append(Control("node_executed", Executed("answer", duration_ms=0.012)))
        body = encode(events)
        execute(INSERT, (1, seq, len(events), getrandbits(63), now() // 1000, DIGEST, body.decode()))
        seq += len(events)
        laps.append((clock() - started) / 1000)
    check("the floor's state", _read(connection), fold(CHAT_STATE, inputs))
    connection.close()
    return laps


def _read(connection: apsw.Connection) -> dict[str, Any]:
    state = CHAT_STATE | {"messages": []}
    for (body,) in connection.execute("SELECT body FROM log ORDER BY first_seq"):
        for event in msgspec.json.decode(body):
            if event.get("op") == "append":
                state[event["key"]] += event["value"]
            elif "key" in event:
                state[event["key"]] = event["value"]
    return state
