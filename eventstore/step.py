"""A step: what one node execution writes, gathered and checked before anything is committed.

Every write is normalised and checked against what the state will be at that point of the step, so a
delta that reaches the log always folds. The state itself is touched only after the commit was
acknowledged; until then `step.get` shows the step's own writes over it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from .codec import check_key, normalise, size_bytes
from .errors import Deserialize, EventStoreError, MissingKey
from .event import DeltaOp, DeltaSource, NodeExecuted, StateDelta
from .fold import MISSING, advance, apply, copy_value, shape_of
from .opaque import Opaque
from .record import ExecutionMetadata
from .reduce import ReducerRegistry

if TYPE_CHECKING:
    from .pending import Pending
    from .trace import Trace

T = TypeVar("T")
Redactor = Callable[[str, Any], Any]
_UNMEASURED = ExecutionMetadata()


class LiveDelta(NamedTuple):
    """A delta as the live state takes it."""

    key: str
    op: DeltaOp
    value: Any


class Draft:
    """Deltas over a state, each checked at the door; `wire` for the body, `live` for the state.

    >>> draft = Draft({"n": 1}, ReducerRegistry({"n": "sum"}))
    >>> draft.put("n", 2); draft.get("n"), draft.growth_bytes
    (3, 0)
    """

    __slots__ = ("_redact", "_reducers", "_shapes", "_state", "growth_bytes", "live", "opaque", "wire")

    def __init__(self, state: dict[str, Any], reducers: ReducerRegistry, redact: Redactor | None = None) -> None:
        self._state = state
        self._reducers = reducers
        self._redact = redact
        self._shapes: dict[str, Any] = {}
        self.wire: list[StateDelta] = []
        self.live: list[LiveDelta] = []
        self.opaque = False
        self.growth_bytes = 0

    def put(self, key: str, value: Any, source: DeltaSource = DeltaSource.NODE) -> None:
        """`value` through the key's reducer."""
        reducers = self._reducers
        op = reducers.op_of(key)
        if op is not None:
            self.write(key, op, reducers.update(key, value), source)
        elif (function := reducers.custom(key)) is not None:
            self.write(key, DeltaOp.PUT, function(self.get(key, None), value), DeltaSource.REDUCER_MERGE)
        else:
            self.write(key, DeltaOp.PUT, value, source)

    def write(self, key: str, op: DeltaOp, value: Any, source: DeltaSource = DeltaSource.NODE) -> None:
        """One literal delta. Raises ValueRefused, DeltaApply, MissingKey."""
        state, shapes = self._state, self._shapes
        if key not in state:
            check_key(key)
        if op is DeltaOp.DELETE:
            if self._shape(key) is MISSING:
                raise MissingKey(key)
            wire: Any = msgspec.UNSET
            live, size = None, 0
        else:
            if self._redact is not None:
                value = self._redact(key, value)
            if op is DeltaOp.SPLICE and isinstance(value, dict) and isinstance(value.get("items"), Opaque):
                wire, live, size = value, dict(value), len(value["items"].data)
            else:
                wire, live, size = normalise(key, value)
            self.opaque = self.opaque or type(live) is Opaque or (op is DeltaOp.SPLICE and wire is value)
        if op is DeltaOp.PUT:
            old = shapes[key][1] if key in shapes else state.get(key, MISSING)
            kind = type(live)
            self.growth_bytes += size
            if old is MISSING:
                self.growth_bytes += len(key) + 4
            elif type(old) is kind and (kind is int or kind is float):
                self.growth_bytes -= size
            else:
                self.growth_bytes -= size_bytes(old)
            shapes[key] = (None, live)
        else:
            shape = self._shape(key)
            after = advance(shape, key, op, live)
            self.growth_bytes += self._growth(key, op, live, size, shape)
            shapes[key] = (after, 0)
        self.live.append(LiveDelta(key, op, live))
        self.wire.append(StateDelta(key, op, wire, source))

    def get(self, key: str, default: Any = MISSING) -> Any:
        """A copy of the value as it stands, this draft's writes included. Raises MissingKey."""
        value = copy_value(self._state.get(key, MISSING))
        own = {} if value is MISSING else {key: value}
        for delta in self.live:
            if delta.key == key:
                apply(own, key, delta.op, copy_value(delta.value))
        if key in own:
            return own[key]
        if default is MISSING:
            raise MissingKey(key)
        return default

    def body(self) -> list[Any]:
        """The deltas as their body holds them."""
        if not self.opaque:
            return list(self.wire)
        return [
            StateDelta(delta.key, delta.op, msgspec.UNSET if delta.op is DeltaOp.DELETE else live.value, delta.source)
            for delta, live in zip(self.wire, self.live, strict=True)
        ]

    def _shape(self, key: str) -> Any:
        if key not in self._shapes:
            return shape_of(self._state.get(key, MISSING))
        shape, value = self._shapes[key]
        return shape_of(value) if shape is None else shape

    def _growth(self, key: str, op: DeltaOp, live: Any, size: int, shape: Any) -> int:
        if shape is MISSING:
            return size + len(key) + 4
        if op in (DeltaOp.SUM, DeltaOp.MAX, DeltaOp.MIN):
            return 0
        if op is DeltaOp.DELETE or op is DeltaOp.SPLICE:
            old = self._state.get(key)
            if op is DeltaOp.DELETE:
                return -(size_bytes(old) + len(key) + 4)
            removed = old[live["start"] : live["start"] + live["count"]] if type(old) is list else []
            return size - 28 - (size_bytes(removed) if removed else 0)
        return size - 1


class Step:
    """One node execution: a context manager whose writes commit together on leaving it, or not at all.

    An exception leaves no delta behind; it is recorded as a failed `ExecutionEntry` and goes on.
    """

    __slots__ = ("_cost", "_draft", "_duration_ms", "_effects", "_expected", "_started_ns", "_trace", "append_id",
                 "metadata", "next", "node")  # fmt: skip

    def __init__(
        self,
        trace: Trace,
        node: str,
        metadata: ExecutionMetadata | None,
        next: str | None,
        append_id: str | None,
    ) -> None:
        for name in (node, next):
            if name is not None:
                check_key(name)
        self._trace = trace
        self.node = node
        self.metadata = metadata or _UNMEASURED
        self.next = next
        self.append_id = append_id
        self._draft: Draft | None = None
        self._duration_ms: float | None = None
        self._cost = 0.0
        self._effects = False

    def __enter__(self) -> Step:
        self._expected, self._draft = self._trace._begin()
        self._started_ns = time.perf_counter_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._trace._commit(self._finish(error))

    def _finish(self, error: BaseException | None) -> Pending:
        """Close the step; gives the append that records it."""
        draft, self._draft = self._open(), None
        return self._trace._prepare_step(
            self._executed(error), draft if error is None else None, self._expected, self.append_id
        )

    def put(self, key: str, value: Any) -> None:
        """Set `key` through its reducer. Raises ValueRefused, ReducerConflict, DeltaApply."""
        self._open().put(key, value)

    def replace(self, key: str, value: Any) -> None:
        """Set `key` literally, whatever its reducer. Raises ValueRefused."""
        self._open().write(key, DeltaOp.PUT, value)

    def append(self, key: str, *items: Any) -> None:
        """Extend the list at `key` by `items`; a missing key becomes a list. Raises ValueRefused, DeltaApply."""
        self._open().write(key, DeltaOp.APPEND, list(items))

    def extend(self, key: str, items: Any) -> None:
        """Extend the list at `key` by an iterable (or an opaque list). Raises ValueRefused, DeltaApply."""
        self._open().write(key, DeltaOp.APPEND, items if isinstance(items, Opaque) else list(items))

    def splice(self, key: str, start: int, count: int, items: Any = ()) -> None:
        """Replace `count` items of the list at `key`, from `start`. Raises ValueRefused, DeltaApply."""
        new = items if isinstance(items, Opaque) else list(items)
        self._open().write(key, DeltaOp.SPLICE, {"start": start, "count": count, "items": new})

    def merge(self, key: str, value: Mapping[str, Any]) -> None:
        """Set the given keys of the object at `key` (shallow). Raises ValueRefused, DeltaApply."""
        self._open().write(key, DeltaOp.MERGE, dict(value))

    def sum(self, key: str, number: float) -> None:
        """Add to the number at `key`; a missing key takes `number` itself. Raises ValueRefused, DeltaApply."""
        self._open().write(key, DeltaOp.SUM, number)

    def delete(self, key: str) -> None:
        """Remove `key`. Raises MissingKey."""
        self._open().write(key, DeltaOp.DELETE, None)

    def get(self, key: str, default: Any = MISSING, *, type: type[T] | None = None) -> Any:
        """A copy of the value of `key`, this step's writes included; converted by msgspec to `type`.

        Raises MissingKey without a default, Deserialize when the value does not fit `type`.
        """
        return converted(key, self._open().get(key, default), type)

    def record(
        self, *, token_cost: float = 0.0, duration_ms: float = 0.0, has_side_effects: bool | None = None
    ) -> None:
        """Add to what this execution cost. Raises EventStoreError for a field that was given up front."""
        given = self.metadata
        ExecutionMetadata(duration_ms, token_cost)  # refuses what is not finite
        for name, value, final in (
            ("token_cost", token_cost, given.token_cost),
            ("duration_ms", duration_ms, given.duration_ms),
            ("has_side_effects", has_side_effects, given.has_side_effects),
        ):
            if value and final is not None:
                raise EventStoreError(f"step {self.node!r}: {name} was given up front as {final}, which is final")
        self._cost += token_cost
        self._duration_ms = (self._duration_ms or 0.0) + duration_ms if duration_ms else self._duration_ms
        self._effects = self._effects or bool(has_side_effects)

    def _open(self) -> Draft:
        if self._draft is None:
            raise EventStoreError(f"step {self.node!r} is not open; write inside its `with` block")
        return self._draft

    def _executed(self, error: BaseException | None) -> NodeExecuted:
        given = self.metadata
        duration = given.duration_ms if given.duration_ms is not None else self._duration_ms
        if duration is None:
            duration = round((time.perf_counter_ns() - self._started_ns) / 1e6, 3)
        return NodeExecuted(
            self.node,
            error is None,
            None if error is None else _described(error),
            duration,
            self._cost if given.token_cost is None else given.token_cost,
            self._effects if given.has_side_effects is None else given.has_side_effects,
            self.next,
        )


def state_size_bytes(state: dict[str, Any]) -> int:
    """About the JSON size of a state, opaque values by their bytes."""
    return 2 + sum(len(key) + 4 + size_bytes(value) for key, value in state.items())


def _described(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".rstrip(": ")
    return text.encode("utf-8", "replace").decode()


def converted(key: str, value: Any, kind: type[T] | None) -> Any:
    """`value` as `kind`, by msgspec. Raises Deserialize."""
    if kind is None:
        return value
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Deserialize(key, str(error)) from None
