"""What events from elsewhere are held to before they may stand in the log: all that an append is held to.

A body holds its events exactly as the engine writes them; values are JSON values within the limits; each delta
fits the value below it, each event follows from where the trace stands. Folding goes along with checking, and
keeps the figures that the fold policy asks for. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, DecodeError
from msgspec.json import decode as json_decode

from eventstore.codec import (
    MAX_DEPTH,
    Row,
    check_cost,
    check_key,
    decode_event,
    decode_rows,
    json_encode,
    msgpack_encode,
    normalise,
    size_bytes,
    state_size_bytes,
)
from eventstore.control import ENDED, check_types, control_deltas, status_of
from eventstore.errors import ValueRefused
from eventstore.event import FIRST_US, LAST_US, DeltaOp, DeltaSource
from eventstore.fold import INT_MAX, INT_MIN, MISSING, advance, apply, apply_control, shape_of
from eventstore.opaque import Opaque
from eventstore.pending import Statement, control_growth_bytes
from eventstore.policy import FoldInput
from eventstore.recorded import ADAPTER_KINDS, KINDS, MAIL
from eventstore.reduce import Reducer
from eventstore.regraphing import OPEN
from eventstore.scope_event import CheckpointPut
from eventstore.writer import DECIDE_BARRIER, RAISE_BARRIER, SET_STATUS, TRACE_ROW

from .lines import TraceLine

if TYPE_CHECKING:
    from eventstore.bases import Folded, Restored

MOST_CLAIMS = 2**20
"""How far an epoch can rise without an event of it: a claim that appends nothing raises the lease's alone.

An event has room for twice as many: those of a lease that was loaded, and those after it."""
CONTROL_DEPTH = MAX_DEPTH + 2
"""Control keeps a recorded value in a list of pairs."""
OPS = {op.value for op in DeltaOp}
SOURCES = {source.value for source in DeltaSource}
REDUCERS = {reducer.value for reducer in Reducer}
FIELDS = {kind: frozenset(cls.__struct_encode_fields__) for kind, cls in KINDS.items()}
OPAQUE = frozenset({"metadata", "rest", "values"})
IDS = frozenset({"name", "checkpoint", "task"})
"""Of an adapter's events: what may be opaque, and what may be the 16 bytes of a UUID."""
ROW_FIELDS = frozenset(Row.__struct_fields__)
AFTER_THE_END = {"note", "owner_changed", "graph_changed", "trace_reopened"}
PROTECTED = frozenset({"name", "status", "graph_hash", "waits", "steps", "epoch"})
PROTECTED_PREFIXES = ("barrier/", "raised/", "visits/", "reducer/")


class Admission:
    """State and control while commits go in, and what the fold policy is to know of them."""

    def __init__(self, restored: Restored) -> None:
        self.state, self.control = restored.state, restored.control
        self.chain_bytes, self.log_bytes, self.base_bytes = (
            restored.chain_bytes, restored.log_bytes, restored.base_bytes)  # fmt: skip
        self.tail_bytes, self.tail_rows, self.tail_deltas = (
            restored.tail_bytes, restored.tail_rows, restored.tail_events)  # fmt: skip
        self.sizes = {key: size_bytes(value) for key, value in self.state.items()}
        self.measure()
        self.listed = status_of(self.control)
        self.costs: list[tuple[float, float, bool]] = []

    def measure(self) -> None:
        """The JSON size of state and control, anew."""
        self.size_bytes = state_size_bytes(self.control) + 2
        self.size_bytes += sum(len(key) + 4 + size for key, size in self.sizes.items())

    def decide(self, policy: Any, restore_us_per_kib: float, score: Any) -> Any:
        """A base to write now, or None."""
        size = max(2, self.size_bytes)
        passed = any(score.of(*cost) >= score.threshold for cost in self.costs)
        may_fold = getattr(policy, "may_fold", None)
        if not (passed or may_fold is None) and not may_fold(
            self.tail_deltas, self.tail_rows, self.tail_bytes, self.chain_bytes, size
        ):
            return None
        return policy.decide(
            FoldInput(self.tail_deltas, self.tail_rows, self.tail_bytes, self.chain_bytes, size, passed, 0,
                      restore_us_per_kib, self.log_bytes, self.base_bytes)
        )  # fmt: skip

    def rebased(self, folded: Folded) -> None:
        """A base now stands at the head."""
        place = folded.place
        self.chain_bytes, self.size_bytes = place.chain_bytes, place.state_bytes
        self.log_bytes, self.base_bytes = place.log_bytes, place.base_bytes
        self.tail_bytes = self.tail_rows = self.tail_deltas = 0

    def take(
        self, rows: list[Row], first_seq: int, at_us: int, opening: str | None, line: TraceLine
    ) -> list[Statement]:
        """Check and fold the events of one commit; what else moves with them.

        `opening`: the kind that the first event must be. Raises ValueError, EventStoreError, TypeError, KeyError.
        """
        statements: list[Statement] = []
        self.costs = []
        if opening is not None:
            if rows[0].kind != opening:
                raise ValueError(f"its first event is {rows[0].kind}, not {opening}")
            if rows[0].data.get("name") != line.name or rows[0].data.get("fork_seq", 0) != line.fork_seq:
                raise ValueError("its first event tells of another name or fork point")
            self.listed = "running"
            if opening == "trace_started":
                self.control, self.state = {}, {}
        control = self.control
        for seq, row in enumerate(rows, first_seq):
            if row.kind == "delta":
                if self.control.get("status") in ENDED:
                    raise ValueError(f"a delta after the trace {self.control['status']}")
                self._delta(row)
                continue
            if row.kind in ("trace_started", "trace_forked") and (opening is None or seq > first_seq):
                raise ValueError(f"{row.kind} is the first event, and only that")
            self._check(row)
            if row.kind in ADAPTER_KINDS:
                self._check_adapters(row, seq - first_seq, len(rows), opening is not None)
            data = row.data
            if row.kind == "barrier_raised":
                asked = (TRACE_ROW, data["barrier_id"], seq, at_us, data.get("deadline_us"))
                statements.append((RAISE_BARRIER, asked))
            elif row.kind == "barrier_decided":
                statements.append((DECIDE_BARRIER, (seq, TRACE_ROW, data["barrier_id"])))
            elif row.kind == "trace_started":
                for key, value in data["state"].items():
                    self._put(key, value, size_bytes(value))
                self.tail_deltas += len(data["state"])
            for key, op, value in control_deltas(row.kind, data):
                if op == "put" and key == "next":
                    control["next"] = value
                    continue
                if op == "clear":
                    gone = [name for name in control if name.startswith(key)]
                    self.size_bytes += control_growth_bytes(control, [(name, "delete", None) for name in gone])
                elif op != "sum" or key not in control:
                    self.size_bytes += control_growth_bytes(control, ((key, op, value),))
                apply_control(control, key, op, value)
        if opening is not None:
            self.measure()
            if opening == "trace_forked":  # as whoever opens the fork counts
                self.tail_deltas += sum(row.kind != "delta" for row in rows)
        status = status_of(self.control)
        if status != self.listed:
            statements.append((SET_STATUS, (status, TRACE_ROW)))
            self.listed = status
        return statements

    def _delta(self, row: Row) -> None:
        key, op, value = row.key, row.op, row.value
        if row.data is not UNSET or op not in OPS or row.source not in SOURCES:
            raise ValueError(f"a delta of op {op!r}, source {row.source!r}")
        is_there = key in self.sizes
        if not is_there:
            check_key(key)
        self.tail_deltas += 1
        if op == "delete":
            if value is not UNSET:
                raise ValueError("a delete with a value")
            if is_there:
                self.size_bytes -= self.sizes.pop(key) + len(key) + 4
                del self.state[key]
            return
        if value is UNSET:
            raise ValueError(f"a delta of op {op} needs a value")
        if op == "splice" and isinstance(value, dict) and isinstance(value.get("items"), Opaque):
            if value.keys() != {"start", "count", "items"}:
                raise ValueError("a splice of other parts than start, count and items")
            size = normalise(key, value["items"])[2]
        else:
            _, live, size = normalise(key, value)
            if live is not value and msgpack_encode(live) != msgpack_encode(value):
                raise ValueRefused(key, "it holds what is no JSON value")
        if op == "put":
            after = size
            self.state[key] = value
        elif op == "append" and is_there and type(old := self.state[key]) is list and type(value) is list:
            old.extend(value)
            after = self.sizes[key] + size - 1
        else:
            old = self.state.get(key, MISSING)
            advance(shape_of(old), key, op, value)
            grown = self._grown(key, op, old, value, size)
            apply(self.state, key, op, value)
            after = size_bytes(self.state[key]) if grown is None else grown
        self.size_bytes += after - self.sizes[key] if is_there else after + len(key) + 4
        self.sizes[key] = after

    def _put(self, key: str, value: Any, size: int) -> None:
        self.size_bytes += size - (self.sizes[key] if key in self.sizes else -len(key) - 4)
        self.sizes[key] = size
        self.state[key] = value

    def _grown(self, key: str, op: str, old: Any, value: Any, size: int) -> int | None:
        """The size of a large value after an op, without encoding the whole of it; None for a small one."""
        if old is MISSING:
            return size
        if op == "append":
            return self.sizes[key] + size - (0 if type(old) is Opaque else 1)
        if op == "merge":
            replaced = sum(size_bytes(old[name]) + len(name) + 4 for name in value if name in old)
            return max(2, self.sizes[key] + size - 1 - replaced)
        if op == "splice" and type(old) is list:
            removed = old[value["start"] : value["start"] + value["count"]]
            return max(2, self.sizes[key] + size_bytes(value["items"]) - size_bytes(removed))
        return None

    def _check(self, row: Row) -> None:
        """Raise unless the event has its kind's shape, and follows from where the trace stands."""
        kind, data, control = row.kind, row.data, self.control
        if (row.key, row.op, row.value, row.source) != ("", "put", UNSET, "node"):
            raise ValueError(f"{kind} with fields of a delta")
        event = decode_event(row)
        if kind in ADAPTER_KINDS:
            if control.get("status") in ENDED:
                raise ValueError(f"{kind} after the trace {control['status']}")
            return
        if not data.keys() <= FIELDS[kind]:
            raise ValueError(f"{kind} with unknown fields {sorted(data.keys() - FIELDS[kind])}")
        if kind == "trace_started":
            for key, value in data["state"].items():
                check_key(key)
                normalised(key, value)
            normalised(kind, {**data, "state": {}})
            if not set(event.reducers.values()) <= REDUCERS:
                raise ValueError(f"unknown reducers {sorted(set(event.reducers.values()) - REDUCERS)}")
            return
        normalised(kind, data)
        if kind == "trace_forked":
            waiting = [[key[8:], asked["node"]] for key, asked in control.items() if key.startswith("barrier/")]
            if sorted(data.get("withdrawn", [])) != sorted(waiting):
                raise ValueError(f"it withdraws {data.get('withdrawn', [])}, and {waiting} wait")
            _check_clears(event.clears)
            return
        if control.get("status") in ENDED and kind not in AFTER_THE_END:
            raise ValueError(f"{kind} after the trace {control['status']}")
        if kind in ("node_executed", "branch_executed"):
            check_cost(data.get("duration_ms", 0), data.get("token_cost", 0))
            if event.success:
                self.costs.append((event.duration_ms, event.token_cost, event.has_side_effects))
        elif kind == "barrier_raised":
            barrier_id = f"{event.node}#{control.get(f'raised/{event.node}', 0) + 1}"
            if event.barrier_id != barrier_id:
                raise ValueError(f"barrier {event.barrier_id} is raised, the next one there is {barrier_id}")
        elif kind == "barrier_decided":
            asked = control.get(f"barrier/{event.barrier_id}")
            if asked is None or asked["node"] != event.node:
                raise ValueError(f"barrier {event.barrier_id} is decided, and is not pending")
        elif kind == "trace_ended" and event.status not in ENDED:
            raise ValueError(f"status {event.status!r} is none of {', '.join(sorted(ENDED))}")
        elif kind == "owner_changed" and not 0 < event.epoch - control.get("epoch", 0) <= 2 * MOST_CLAIMS:
            raise ValueError(f"epoch {event.epoch} does not follow {control.get('epoch', 0)}")
        elif kind == "trace_reopened" and control.get("status") not in ENDED:
            raise ValueError("a trace is reopened that has not ended")
        elif kind == "graph_changed":
            _check_puts(control, event.clears, event.puts)
        if kind not in MAIL:
            _check_clears(getattr(event, "clears", ()))

    def _check_adapters(self, row: Row, index: int, n: int, is_opening: bool) -> None:
        """Raise unless an event of another framework's thread has its shape, and stands where an adapter puts it."""
        kind, data, fields = row.kind, row.data, KINDS[row.kind].__struct_fields__
        if type(data) is not list or len(data) > len(fields):
            raise ValueError(f"{kind} is a list of at most {len(fields)} parts")
        plain = []
        for field, value in zip(fields, data, strict=False):
            if type(value) is Opaque and field in OPAQUE:
                normalise(field, value)
            elif not (type(value) is bytes and len(value) == 16 and field in IDS):
                plain.append(value)
            if field in IDS and type(value) not in (str, bytes):
                raise ValueError(f"{field} is an id, not {value!r:.60}")
        normalised(kind, plain)
        event = decode_event(row)
        if kind == "scope_entered":
            if not is_opening or self.control.get("scope") == data:
                raise ValueError("a trace enters a thread with its first commit, once")
        elif "scope" not in self.control:
            raise ValueError(f"{kind} in a trace of no thread")
        elif kind == "writes_put":
            if type(event.values) is not Opaque or event.values.count is None:
                raise ValueError("its values are no opaque list")
        elif index != n - 1:
            raise ValueError("a checkpoint is put by the last event of its commit")
        elif event.follows and (event.parent is not None or "checkpoint" not in self.control):
            raise ValueError("a checkpoint follows none, or names its parent as well")
        else:
            _check_checkpoint(event)
            if not all(type(value) is Opaque for value in self.state.values()):
                raise ValueError("a channel of a checkpoint is not opaque")


def _check_checkpoint(event: CheckpointPut) -> None:
    """What everything that reads a checkpoint takes for granted."""
    if type(event.metadata) not in (dict, Opaque) or type(event.rest) not in (type(None), Opaque):
        raise ValueError("its metadata are no object, or the rest of it is not opaque")
    if type(event.at) is int and not FIRST_US <= event.at <= LAST_US:
        raise ValueError("its time is out of range")


def _check_clears(clears: Any) -> None:
    """What a visit leaves can be cleared; where the trace stands cannot."""
    for key in clears:
        if key in PROTECTED or key.startswith(PROTECTED_PREFIXES):
            raise ValueError(f"its `clears` has {key!r}, which no visit leaves")


def _check_puts(control: Mapping[str, Any], clears: list[str], puts: Mapping[str, Any]) -> None:
    """A changed graph moves what was open to another place; it makes up nothing."""
    for key, value in puts.items():
        kind = key.partition("/")[0] + "/"
        moved = [control[old] for old in clears if old in control and old.partition("/")[0] + "/" == kind]
        if not (value in moved and kind in OPEN) and not (key == "unrouted" and type(value) is str):
            raise ValueError(f"it puts {key!r} out of nothing")


def check_control(control: Mapping[str, Any], name: str) -> None:
    """What everything that reads control takes for granted. Raises ValueError."""
    if control.get("name") != name:
        raise ValueError("its control has another name")
    if control.get("status") not in {"running", *ENDED} or control.get("waits", 0) != 0:
        raise ValueError("its control has an unknown status, or barriers wait")
    check_types(control)
    for key, value in control.items():
        if key.startswith("barrier/"):
            raise ValueError("a barrier waits behind it")
        if key.startswith("reducer/") and value not in REDUCERS:
            raise ValueError(f"its control has {key!r} as {value!r:.60}")


def normalised(key: str, value: Any) -> int:
    """The size of a value that is exactly what an append would have kept. Raises ValueRefused."""
    _, live, size = normalise(key, value)
    if live is not value and msgpack_encode(live) != msgpack_encode(value):
        raise ValueRefused(key, "it holds what is no JSON value")
    return size


def check_held_control(key: str, value: Any) -> None:
    """As `check_held`, of a value of control."""
    if key == "checkpoint" and type(value) is dict:
        for part in OPAQUE & value.keys():
            check_held(part, value[part], CONTROL_DEPTH)
        value = {name: part for name, part in value.items() if type(part) is not Opaque}
    check_held(key, value, CONTROL_DEPTH)


def check_held(key: str, value: Any, max_depth: int = MAX_DEPTH) -> None:
    """Raise ValueRefused unless the log can hold that value, however large it has grown over many appends."""
    if type(value) is Opaque:
        normalise(key, value)
        return
    try:
        packed = msgpack_encode(value)
        is_json = msgpack_encode(json_decode(json_encode(value))) == packed
    except (TypeError, UnicodeEncodeError, OverflowError, RecursionError, DecodeError):
        is_json = False
    if not is_json:
        raise ValueRefused(key, "it holds what is no JSON value")
    level, depth = [value], 0
    while level:
        if any(type(item) is int and not INT_MIN <= item <= INT_MAX for item in level):
            raise ValueRefused(key, "it holds an integer beyond 64 bits")
        level = [item for item in level if type(item) is dict or type(item) is list]
        depth += bool(level)
        if depth > max_depth:
            raise ValueRefused(key, f"nested deeper than {max_depth}")
        level = [child for item in level for child in (item.values() if type(item) is dict else item)]


def decoded(body: bytes, n: int) -> list[Row]:
    """The events of a body that holds them as the engine writes them. Raises ValueError."""
    rows = decode_rows(body)
    if len(rows) != n:
        raise ValueError(f"{len(rows)} events in a commit of {n}")
    is_json = body[:1] < b"\x80"
    if (json_encode(rows) if is_json else msgpack_encode(rows)) != body:
        if not is_json:
            raise ValueError("a body that is not as it was written")
        for event in strict_json(body):
            if not event.keys() <= ROW_FIELDS:
                raise ValueError(f"an event with unknown fields {sorted(event.keys() - ROW_FIELDS)}")
    return rows


def strict_json(text: bytes) -> Any:
    """JSON, whoever wrote it, without what decoders differ over. Raises ValueError, RecursionError."""
    return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return value


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")
