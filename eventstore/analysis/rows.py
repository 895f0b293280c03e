"""Log rows as rows of the analysis database. Pure.

A body is decoded only as far as a column needs it: a value stays the slice of JSON that it is in the log, and
only what may hold chat messages is looked into. A delta belongs to the execution that it was committed with, or
to the decision that made it. Opaque values, and events that stand as arrays, are written as people can read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from eventstore.codec import Row, decode_rows
from eventstore.event import BarrierDecided, BarrierRaised, Modify, NodeExecuted, Reject, Reroute, utc
from eventstore.recorded import ADAPTER_KINDS
from eventstore.run_event import BranchExecuted

from .messages import Cells, json_text, may_hold_messages, messages
from .schema import LARGEST

if TYPE_CHECKING:
    from eventstore.log import LogRow

_BY_DECISION = frozenset({"human", "system"})
DECIDED_UNSEEN = "decided in history that was trimmed, at the latest then"
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 1 to 9999
_AGES_MS = 1e15
_THREE = tuple(f"{number:03}" for number in range(1000))  # twice as fast as formatting


def time_text(at_us: int) -> str:
    """Microseconds since 1970 as ISO 8601 in UTC, within the years that it has names for.

    >>> time_text(1_700_000_000_000_001)
    '2023-11-14T22:13:20.000001Z'
    """
    if not _FIRST_US <= at_us <= _LAST_US:
        at_us = min(max(at_us, _FIRST_US), _LAST_US)
    return f"{_second_text(at_us // 1_000_000)}.{_THREE[at_us // 1000 % 1000]}{_THREE[at_us % 1000]}Z"


@lru_cache(maxsize=1024)
def _second_text(second: int) -> str:
    return utc(second * 1_000_000).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")


class _Slim(msgspec.Struct, gc=False):
    """One event of a body, its value and data as they stand there."""

    kind: str = "delta"
    key: str = ""
    op: str = "put"
    value: msgspec.Raw = msgspec.Raw()
    source: str = "node"
    data: msgspec.Raw = msgspec.Raw()


_slim: Callable[[bytes], list[_Slim]] = msgspec.json.Decoder(list[_Slim]).decode
_executed: Callable[[Any], NodeExecuted] = msgspec.json.Decoder(NodeExecuted).decode
_branch_executed: Callable[[Any], BranchExecuted] = msgspec.json.Decoder(BranchExecuted).decode
_raised: Callable[[Any], BarrierRaised] = msgspec.json.Decoder(BarrierRaised).decode
_decided: Callable[[Any], BarrierDecided] = msgspec.json.Decoder(BarrierDecided).decode
_parse: Callable[[str], Any] = msgspec.json.Decoder().decode


def _events(body: bytes) -> list[_Slim]:
    if body[:1] < b"\x80":
        return _slim(body)
    return [
        _Slim(row.kind, row.key, row.op, _raw(row.value), row.source, _raw(_data(row)))  # msgpack, with opaque values
        for row in decode_rows(body)
    ]


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw() if value is UNSET else msgspec.Raw(json_text(value))


def _data(row: Row) -> Any:
    cls = ADAPTER_KINDS.get(row.kind)
    return row.data if cls is None else _fields(msgspec.convert(row.data, cls))


def _named(kind: str, data: str) -> str:
    """The data of an event as an object, also where they stand as an array."""
    cls = ADAPTER_KINDS.get(kind)
    return data if cls is None or data[:1] != "[" else json_text(_fields(msgspec.json.decode(data, type=cls)))


def _fields(event: Any) -> dict[str, Any]:
    """The fields that an event has, by their names."""
    fields = {field: getattr(event, field) for field in event.__struct_fields__}
    return {field: value for field, value in fields.items() if value not in (None, "", [], {})}


class Totals(msgspec.Struct):
    """What a run's own events come to. `steps`: committed ones, also where they were trimmed between two exports;
    `failed_attempts`: executions that failed; `waited_s`: of the barriers that were decided. Sums end at the
    largest float, since JSON knows no infinity.

    >>> Totals(steps=2, duration_ms=1.5).token_cost
    0.0
    """

    steps: int = 0
    failed_attempts: int = 0
    duration_ms: float = 0.0
    token_cost: float = 0.0
    waited_s: float = 0.0


class RunRows:
    """Unfolds one run's log rows into `out`, the rows of each table.

    `last_step`: steps committed before the first row, a shared prefix included; `open_barriers`: the rows of
    barriers raised before and not decided, by id. All that is given goes on from row to row.
    """

    def __init__(
        self,
        trace_id: str,
        out: dict[str, list[Cells]],
        totals: Totals,
        last_step: int = 0,
        open_barriers: dict[str, list[Any]] | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.out = out
        self.totals = totals
        self.last_step = last_step
        self.open_barriers = {} if open_barriers is None else open_barriers

    def add(self, row: LogRow) -> None:
        """Unfold the events of one commit. Raises ValueError on a malformed body."""
        try:
            self._add(row)
        except (msgspec.DecodeError, RecursionError, UnicodeError, KeyError, TypeError) as error:
            raise ValueError(f"not an event body: {error}") from None

    def _add(self, row: LogRow) -> None:
        trace_id, deltas, at = self.trace_id, self.out["deltas"], time_text(row.at_us)
        waiting: list[tuple[int, str, str, str | None, str]] = []
        step_seq: int | None = None
        step: int | None = None
        node: str | None = None
        decider: str | None = None
        for seq, event in enumerate(_events(row.body), row.first_seq):
            kind = event.kind
            if kind == "delta":
                value = str(event.value, "utf-8") or None
                if value is not None and may_hold_messages(value):
                    self._messages(seq, event.key, event.op, value, at)
                if decider is not None and event.source in _BY_DECISION:
                    deltas.append((trace_id, seq, None, None, decider, event.key, event.op, value, event.source, at))
                else:
                    waiting.append((seq, event.key, event.op, value, event.source))
            elif kind == "node_executed":
                step_seq = seq
                step, node = self._execution(seq, _executed(event.data), row.at_us, at)
                for delta_seq, key, op, value, source in waiting:
                    deltas.append((trace_id, delta_seq, step_seq, step, node, key, op, value, source, at))
                waiting.clear()
            else:
                text = _named(kind, str(event.data, "utf-8"))
                self.out["events"].append((trace_id, seq, kind, text, at))
                if kind == "branch_executed":
                    self._branch(seq, _branch_executed(event.data), row.at_us, at)
                elif kind == "barrier_raised":
                    self._raise(seq, _raised(event.data), at)
                elif kind == "barrier_decided":
                    decider = self._decide(seq, _decided(event.data), at)
                elif kind == "trace_started" and may_hold_messages(text):
                    for key, value in _parse(text)["state"].items():
                        self._listed(seq, key, value, at)
        for delta_seq, key, op, value, source in waiting:
            deltas.append((trace_id, delta_seq, step_seq, step, node, key, op, value, source, at))

    def skip(self, steps: int, pending: Collection[str], at_us: int) -> None:
        """Go on where a stretch that nobody read was trimmed: what was committed, pending and what time it was there.

        The barriers that were decided in between are given out as such: how is not known, nor when exactly.
        """
        self.totals.steps += steps - self.last_step
        self.last_step = steps
        at = time_text(at_us)
        for barrier_id in [one for one in self.open_barriers if one not in pending]:
            row = self.open_barriers.pop(barrier_id)
            row[9], row[12] = at, DECIDED_UNSEEN
            self.out["barriers"].append(tuple(row))

    def close(self) -> None:
        """Give out the barriers that are still open."""
        self.out["barriers"].extend(map(tuple, self.open_barriers.values()))

    def _execution(self, seq: int, event: NodeExecuted, at_us: int, at: str) -> tuple[int | None, str]:
        is_step = event.success or event.falls_back
        if is_step:
            self.last_step += 1
            self.totals.steps += 1
        self.totals.duration_ms = _sum(self.totals.duration_ms, event.duration_ms)
        step = self.last_step if is_step else None
        self._step_row(seq, step, event.node, None, event, at_us, at, event.next, event.falls_back)
        return step, event.node

    def _branch(self, seq: int, event: BranchExecuted, at_us: int, at: str) -> None:
        node, _, branch = event.path.partition("/")
        step = self.last_step + 1 if event.success else None
        self._step_row(seq, step, node, branch, event, at_us, at, None, False)

    def _step_row(
        self,
        seq: int,
        step: int | None,
        node: str,
        branch: str | None,
        event: NodeExecuted | BranchExecuted,
        at_us: int,
        at: str,
        next_node: str | None,
        falls_back: bool,
    ) -> None:
        self.totals.failed_attempts += not event.success
        self.totals.token_cost = _sum(self.totals.token_cost, event.token_cost)
        self.out["steps"].append(
            (
                self.trace_id,
                seq,
                step,
                node,
                branch,
                event.attempt,
                int(event.success),
                event.error,
                time_text(at_us - _us(event.duration_ms)),
                at,
                event.duration_ms,
                event.token_cost,
                int(event.has_side_effects),
                next_node,
                int(falls_back),
                None if event.retry_at_us is None else time_text(event.retry_at_us),
            )
        )

    def _raise(self, seq: int, event: BarrierRaised, at: str) -> None:
        deadline = None if event.deadline_us is None else time_text(event.deadline_us)
        asked = [self.trace_id, event.barrier_id, event.node, event.reason, event.prompt, seq, at, deadline]
        self.open_barriers[event.barrier_id] = asked + [None] * 6

    def _decide(self, seq: int, event: BarrierDecided, at: str) -> str:
        row = self.open_barriers.pop(event.barrier_id, None)
        if row is None:
            row = [self.trace_id, event.barrier_id, event.node, *[None] * 11]
        decision = event.decision
        waited_s = None if row[6] is None else _seconds(row[6], at)
        self.totals.waited_s += waited_s or 0.0
        row[8:] = [seq, at, _action(decision), decision.by, _detail(decision), waited_s]
        self.out["barriers"].append(tuple(row))
        return event.node

    def _messages(self, seq: int, key: str, op: str, value: str, at: str) -> None:
        if op == "splice":
            self._listed(seq, key, _parse(value)["items"], at)
        elif value[0] == "[":
            self._listed(seq, key, _parse(value), at)

    def _listed(self, seq: int, key: str, value: Any, at: str) -> None:
        if isinstance(value, list):
            for item, cells in messages(value):
                self.out["messages"].append((self.trace_id, seq, key, item, *cells, at))


def _sum(one: float, other: float) -> float:
    both = one + other
    return both if -LARGEST <= both <= LARGEST else math.copysign(LARGEST, both)


def _us(duration_ms: float) -> int:
    """As microseconds, within what no time is apart from another."""
    if not -_AGES_MS <= duration_ms <= _AGES_MS:
        duration_ms = math.copysign(_AGES_MS, duration_ms)
    return round(duration_ms * 1000)


def _action(decision: Any) -> str:
    return str(type(decision).__struct_config__.tag)


def _detail(decision: Any) -> str | None:
    """The reason of a reject, the target of a reroute, the values of a modify (JSON)."""
    if isinstance(decision, Reject):
        return decision.reason
    if isinstance(decision, Reroute):
        return decision.target
    return json_text(decision.values) if isinstance(decision, Modify) else None


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
