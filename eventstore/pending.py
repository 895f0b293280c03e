"""An append between its draft and its acknowledgement, and the rows that go with it.

The events of a commit also move the projections (a trace's status, the list of barriers) and may mark
checkpoints; all of that is one transaction with the log row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

import msgspec

from .checkpoint import CheckpointTrigger
from .codec import Envelope, Row, decode_rows, json_encode, msgpack_encode, size_bytes
from .control import ControlDelta, control_deltas, executed_deltas, status_of
from .event import NodeExecuted
from .fold import apply
from .step import LiveDelta
from .writer import (
    ADD_CHECKPOINT,
    DECIDE_BARRIER,
    MERGE_CHECKPOINT,
    RAISE_BARRIER,
    SET_STATUS,
    TRACE_ROW,
    Append,
)

Statement = tuple[str, tuple[Any, ...]]
Mark = tuple[int, str | None, CheckpointTrigger]
"""A checkpoint to make with a commit: seq, next node, trigger."""


PROJECTED_NOWHERE = frozenset(("node_executed", "note", "checkpoint_put", "writes_put"))
"""Events of which neither the list of traces nor that of barriers is told."""


class AnyVersion:
    """`expected_version=ANY`: append wherever the trace stands."""

    def __repr__(self) -> str:
        return "ANY"


ANY: Final = AnyVersion()


class Appended(msgspec.Struct, frozen=True):
    """Where an append stands: its first and last seq; `duplicate`: it was there before (same `append_id`).

    >>> Appended(2, 4).version
    4
    """

    first_seq: int
    version: int
    duplicate: bool = False


class Pending(Append, eq=False):
    """An append, and what its acknowledgement does to the live trace."""

    live: Sequence[LiveDelta] = ()
    control: Sequence[ControlDelta] = ()
    size_bytes: int = 0
    is_exact: bool = True


def moves(event: Envelope) -> Sequence[ControlDelta]:
    """What an event, on its way into the log, does to control."""
    data = event.data
    if type(data) is NodeExecuted:
        if data.success and not data.clears and not data.unrouted:
            return executed_deltas(data.node, data.next)
        data = msgspec.to_builtins(data)
    return control_deltas(event.kind, data)


def control_growth_bytes(control: Mapping[str, Any], deltas: Sequence[ControlDelta]) -> int:
    """About how much larger `deltas` make the JSON of control; scalars in the place of scalars count as equal."""
    grown = 0
    for key, op, value in deltas:
        if key not in control:
            if op != "delete":
                grown += len(key) + 4 + (2 if value is None or type(value) is int else size_bytes(value))
        elif op == "sum":
            continue
        elif op == "put":
            if type(value) is dict or type(value) is list:
                grown += size_bytes(value) - size_bytes(control[key])
        elif op == "delete":
            grown -= len(key) + 4 + size_bytes(control[key])
        elif op == "append":
            grown += size_bytes(value) - 1
        elif op == "merge":
            old = control[key]
            grown += sum(
                size_bytes(item) - size_bytes(old[name]) if name in old else len(name) + 4 + size_bytes(item)
                for name, item in value.items()
            )
    return grown


def projections(
    control: list[Envelope],
    wire: list[Any],
    first_seq: int,
    before: Mapping[str, Any],
    at_us: int,
) -> list[Statement]:
    """What the lists of traces and of barriers must be told of these events; `before`: control until now."""
    statements: list[Statement] = []
    after = {key: before[key] for key in ("status", "waits") if key in before}
    seqs = iter(first_seq + index for index, item in enumerate(wire) if isinstance(item, Envelope))
    for event, seq in zip(control, seqs, strict=True):
        if event.kind == "barrier_raised":
            barrier = (TRACE_ROW, event.data["barrier_id"], seq, at_us, event.data.get("deadline_us"))
            statements.append((RAISE_BARRIER, barrier))
        elif event.kind == "barrier_decided":
            statements.append((DECIDE_BARRIER, (seq, TRACE_ROW, event.data["barrier_id"])))
        for key, op, value in moves(event):
            if key in ("status", "waits"):
                apply(after, key, op, value)
    if status_of(after) != status_of(before):
        statements.append((SET_STATUS, (status_of(after), TRACE_ROW)))
    return statements


def mark_statements(
    seq: int, node: str | None, graph_hash: str, trigger: CheckpointTrigger, at_us: int, trace: Any = TRACE_ROW
) -> list[Statement]:
    """Mark a checkpoint at `seq`: one row gathers all triggers."""
    metadata = None if trigger.metadata is None else trigger.metadata.to_json().decode()
    triggers = json_encode([trigger.name]).decode()
    return [
        (MERGE_CHECKPOINT, (node, metadata, triggers, trace, seq)),
        (ADD_CHECKPOINT, (str(uuid4()), trace, seq, node, graph_hash, triggers, metadata, at_us)),
    ]


def same_events(one: bytes, other: bytes) -> bool:
    """Whether two bodies hold the same events; what an execution cost is measured and may differ."""
    return [*map(_essence, decode_rows(one))] == [*map(_essence, decode_rows(other))]


def _essence(row: Row) -> tuple[Any, ...]:
    data = row.data
    if row.kind == "node_executed":
        data = {key: data.get(key) for key in ("node", "success", "error", "next")}
    return row.kind, row.key, row.op, _bytes_of(row.value), row.source, _bytes_of(data)


def _bytes_of(value: Any) -> bytes:
    """For a comparison that tells 1, 1.0 and true apart."""
    return b"" if value is msgspec.UNSET else msgpack_encode(value)
