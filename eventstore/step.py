"""A step: what one node execution writes, gathered and checked before anything is committed.

Every write is normalised and checked against what the state will be at that point of the step, so a
delta that reaches the log always folds. The state itself is touched only after the commit was
acknowledged; until then `step.get` shows the step's own writes over it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from .codec import Row, check_append_id, check_key, json_encode, normalise, size_bytes
from .errors import Deserialize, EventStoreError, MissingKey, WrongExpectedVersion
from .event import NodeExecuted
from .fold import MISSING, advance, apply, copy_value, shape_of
from .opaque import Opaque
from .record import ExecutionMetadata
from .redaction import Redactor
from .reduce import ReducerRegistry

if TYPE_CHECKING:
    from .log import LogRow
    from .pending import Pending
    from .trace import Trace

T = TypeVar("T")
_UNMEASURED = ExecutionMetadata()


LiveDelta = tuple[str, str, Any]
"""A delta as the live state takes it: key, op, value."""


class Draft:
    """Deltas over a state, each checked at the door; `wire` for the body, `live` for the state.

    `growth_bytes`: how much larger the state's JSON will be; `is_exact` False where that was not followed.
    `ops`: of the keys with a reducer; `source`: who writes; `updates`: in a branch, what was put to CUSTOM
    keys, by the delta's index.

    >>> draft = Draft({"n": 1}, ReducerRegistry({"n": "sum"}))
    >>> draft.put("n", 2); draft.get("n"), draft.growth_bytes
    (3, 0)
    """

    __slots__ = (
        "_overlay",
        "_redact",
        "_reducers",
        "_state",
        "growth_bytes",
        "is_exact",
        "live",
        "opaque",
        "ops",
        "source",
        "updates",
        "wire",
    )

    def __init__(self, state: dict[str, Any], reducers: ReducerRegistry, redact: Redactor | None = None) -> None:
        self._state = state
        self._reducers = reducers
        self.ops = reducers.ops
        self._redact = redact
        self._overlay: dict[str, Any] = {}
        self.wire: list[Row] = []
        self.live: list[LiveDelta] = []
        self.opaque = False
        self.growth_bytes = 0
        self.is_exact = True
        self.source = "node"
        self.updates: dict[int, Any] | None = None

    @property
    def state(self) -> Mapping[str, Any]:
        """The state below."""
        return self._state

    def wrote(self, key: str) -> bool:
        """Whether this draft changes `key`."""
        return key in self._overlay

    def deleted(self, key: str) -> bool:
        """Whether this draft leaves `key` deleted."""
        return self._overlay.get(key) is MISSING

    def added(self) -> list[str]:
        """The keys that the state below does not have."""
        return [key for key, shape in self._overlay.items() if shape is not MISSING and key not in self._state]

    def put(self, key: str, value: Any) -> None:
        """`value` through the key's reducer. Raises as `replace` and `write`, and ReducerConflict."""
        op = self.ops.get(key)
        if op is None:
            self.replace(key, value)
        elif op != "custom":
            self.write(key, op, value if op == "append" and type(value) is list else self._reducers.update(key, value))
        else:
            function = self._reducers.custom(key)
            assert function is not None
            if self.updates is not None:
                value = normalise(key, value)[1]
            self.replace(key, function(self.get(key, None), copy_value(value)), "reducer_merge")
            if self.updates is not None:
                self.updates[len(self.live) - 1] = value

    def replace(self, key: str, value: Any, source: str = "") -> None:
        """A literal put. Raises ValueRefused."""
        overlay = self._overlay
        old = overlay[key] if key in overlay else self._state.get(key, MISSING)
        if old is MISSING or type(key) is not str:
            check_key(key)
        if self._redact is not None:
            value = self._redact(key, value)
        wire, live, size = normalise(key, value)
        kind = type(old)
        if old is MISSING:
            self.growth_bytes += size + len(key) + 4
        elif kind is tuple:
            self.is_exact = False
        else:
            self.growth_bytes += size - (old.size_bytes if kind is Opaque else len(json_encode(old)))
        if type(live) is Opaque:
            self.opaque = True
        overlay[key] = live
        self.live.append((key, "put", live))
        self.wire.append(Row("delta", key, "put", wire, source or self.source))

    def write(self, key: str, op: str, value: Any, source: str = "") -> None:
        """One literal delta of any op. Raises ValueRefused, DeltaApply, MissingKey."""
        if op == "put":
            self.replace(key, value, source)
            return
        overlay = self._overlay
        old = overlay[key] if key in overlay else self._state.get(key, MISSING)
        if op == "delete":
            if old is MISSING:
                raise MissingKey(key)
            wire: Any = msgspec.UNSET
            live: Any = None
            size = 0
        else:
            if old is MISSING or type(key) is not str:
                check_key(key)
            if self._redact is not None:
                value = self._redact(key, value)
            if op == "splice" and isinstance(value, dict) and isinstance(value.get("items"), Opaque):
                self.opaque = True
                size = normalise(key, value["items"])[2]
                wire = live = {name: value.get(name) for name in ("start", "count", "items")}
            else:
                wire, live, size = normalise(key, value)
                if type(live) is Opaque:
                    self.opaque = True
        if op == "append" and type(old) is list and type(live) is list:
            overlay[key] = ("list", len(old) + len(live))
            self.growth_bytes += size - 1
        else:
            shape = shape_of(old)
            after = advance(shape, key, op, live)
            overlay[key] = ("object", 0) if op == "merge" else after
            self.growth_bytes += self._growth(key, op, live, size, old)
        self.live.append((key, op, live))
        self.wire.append(Row("delta", key, op, wire, source or self.source))

    def get(self, key: str, default: Any = MISSING) -> Any:
        """A copy of the value as it stands, this draft's writes included. Raises MissingKey."""
        value = copy_value(self._state.get(key, MISSING))
        own = {} if value is MISSING else {key: value}
        for written, op, change in self.live:
            if written == key:
                apply(own, key, op, copy_value(change))
        if key in own:
            return own[key]
        if default is MISSING:
            raise MissingKey(key)
        return default

    def body(self) -> list[Any]:
        """The deltas as their body holds them."""
        if not self.opaque:
            return self.wire
        return [
            Row("delta", row.key, row.op, msgspec.UNSET if row.op == "delete" else live, row.source)
            for row, (_, _, live) in zip(self.wire, self.live, strict=True)
        ]

    def _growth(self, key: str, op: str, live: Any, size: int, old: Any) -> int:
        if old is MISSING:
            return size + len(key) + 4
        if type(old) is tuple and op != "append":
            self.is_exact = False
            return 0
        if op == "append":
            return size - 1
        if op == "delete":
            return -(size_bytes(old) + len(key) + 4)
        if op == "merge":
            replaced = sum(size_bytes(old[name]) + len(name) + 4 for name in live if name in old)
            return size - 1 - replaced
        if op == "splice":
            if type(old) is not list:
                self.is_exact = False
                return 0
            removed, items = old[live["start"] : live["start"] + live["count"]], live["items"]
            return size_bytes(items) - size_bytes(removed)
        return size_bytes(self._overlay[key]) - size_bytes(old)


class Writes:
    """The verbs that change and read keys, over the draft that is open."""

    __slots__ = ()

    _draft: Draft | None

    def _open(self) -> Draft:
        raise NotImplementedError

    def put(self, key: str, value: Any) -> None:
        """Set `key` through its reducer. Raises ValueRefused, ReducerConflict, DeltaApply."""
        draft = self._draft or self._open()
        if key in draft.ops:
            draft.put(key, value)
        else:
            draft.replace(key, value)

    def replace(self, key: str, value: Any) -> None:
        """Set `key` literally, whatever its reducer. Raises ValueRefused."""
        self._open().replace(key, value)

    def append(self, key: str, *items: Any) -> None:
        """Extend the list at `key` by `items`; a missing key becomes a list. Raises ValueRefused, DeltaApply."""
        self._open().write(key, "append", list(items))

    def extend(self, key: str, items: Any) -> None:
        """Extend the list at `key` by an iterable (or an opaque list). Raises ValueRefused, DeltaApply."""
        self._open().write(key, "append", items if isinstance(items, Opaque) else list(items))

    def splice(self, key: str, start: int, count: int, items: Any = ()) -> None:
        """Replace `count` items of the list at `key`, from `start`. Raises ValueRefused, DeltaApply."""
        new = items if isinstance(items, Opaque) else list(items)
        self._open().write(key, "splice", {"start": start, "count": count, "items": new})

    def merge(self, key: str, value: Mapping[str, Any]) -> None:
        """Set the given keys of the object at `key` (shallow). Raises ValueRefused, DeltaApply."""
        self._open().write(key, "merge", dict(value))

    def sum(self, key: str, number: float) -> None:
        """Add to the number at `key`; a missing key takes `number` itself. Raises ValueRefused, DeltaApply."""
        self._open().write(key, "sum", number)

    def delete(self, key: str) -> None:
        """Remove `key`. Raises MissingKey."""
        self._open().write(key, "delete", None)

    def get(self, key: str, default: Any = MISSING, *, type: type[T] | None = None) -> Any:
        """A copy of the value of `key`, this step's writes included; converted by msgspec to `type`.

        Raises MissingKey without a default, Deserialize when the value does not fit `type`.
        """
        return converted(key, self._open().get(key, default), type)


class Step(Writes):
    """One node execution: a context manager whose writes commit together on leaving it, or not at all.

    An exception leaves no delta behind; it is recorded as a failed `ExecutionEntry` and goes on.
    """

    __slots__ = ("_cost", "_draft", "_duration_ms", "_effects", "_expected",
        "_landed", "_started_ns", "_trace", "append_id",
                 "metadata", "next", "node")  # fmt: skip

    def __init__(
        self,
        trace: Trace,
        node: str,
        metadata: ExecutionMetadata | None,
        next: str | None,
        append_id: str | None,
    ) -> None:
        check_key(node)
        if next is not None:
            check_key(next)
        if append_id is not None:
            check_append_id(append_id)
        self._trace = trace
        self.node = node
        self.metadata = metadata
        self.next = next
        self.append_id = append_id
        self._draft: Draft | None = None
        self._landed: LogRow | None = None
        self._duration_ms: float | None = None
        self._cost: float = 0  # the very default of the event, which its body leaves out
        self._effects = False
        if metadata is not None:
            self._duration_ms = metadata.duration_ms
            self._cost = metadata.token_cost or 0
            self._effects = bool(metadata.has_side_effects)

    def __enter__(self) -> Step:
        self._expected, self._draft, self._landed = self._trace._begin(self.append_id)
        self._started_ns = time.perf_counter_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while True:
            try:
                self._trace._commit(self._finish(error))
                return
            except WrongExpectedVersion:
                if error is None:
                    raise
                self._trace.refresh()  # a failure depends on no state: it goes in wherever the trace stands

    def _finish(self, error: BaseException | None) -> Pending:
        """Close the step; gives the append that records it."""
        if error is not None:
            self._draft = None
            return self._trace._prepare_step(self._executed(error), None, self._trace.version, None)
        draft, self._draft = self._open(), None
        pending = self._trace._prepare_step(self._executed(None), draft, self._expected, self.append_id)
        if self._landed is not None:
            pending.duplicate = self._landed
        return pending

    def record(
        self, *, token_cost: float = 0.0, duration_ms: float = 0.0, has_side_effects: bool | None = None
    ) -> None:
        """Add to what this execution cost. Raises EventStoreError for a field that was given up front."""
        given = self.metadata or _UNMEASURED
        ExecutionMetadata((self._duration_ms or 0) + duration_ms, self._cost + token_cost, has_side_effects)  # checks
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
        duration = self._duration_ms
        if duration is None:
            duration = (time.perf_counter_ns() - self._started_ns + 500) // 1000 / 1000
        return NodeExecuted(
            self.node,
            error is None,
            None if error is None else described(error),
            duration,
            self._cost,
            self._effects,
            self.next,
        )


def described(error: BaseException) -> str:
    """An exception as the log tells of it."""
    try:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # an exception that cannot be printed is still the one that happened
        text = type(error).__name__
    return text.encode("utf-8", "replace").decode()


def converted(key: str, value: Any, kind: type[T] | None) -> Any:
    """`value` as `kind`, by msgspec. Raises Deserialize."""
    if kind is None:
        return value
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Deserialize(key, str(error)) from None
