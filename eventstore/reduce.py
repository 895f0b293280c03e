"""Reducers: how a `put` becomes a literal delta, and how sibling branches merge.

A reducer registered for a key applies to every `put` of that key and is translated when written
(append, merge, sum, max, min, or the put that a custom function returned), so a replay needs no
registry. Between sibling branches of a parallel step a literal put or delete beside any sibling's
write of the same key is a `StateConflict`, unless the key's reducer is REPLACE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from .codec import check_key
from .errors import DeltaApply, ReducerConflict, StateConflict
from .event import DeltaOp, DeltaSource, StateDelta
from .fold import MISSING, advance, combine, copy_value, shape_of
from .opaque import Opaque

CustomReducer = Callable[[Any, Any], Any]


class Reducer(StrEnum):
    """What a `put` of a key means. ERROR, the default, is a plain put that siblings may not share.

    >>> Reducer.APPEND.value
    'append'
    """

    ERROR = "error"
    REPLACE = "replace"
    APPEND = "append"
    MERGE_OBJECT = "merge_object"
    SUM = "sum"
    MAX = "max"
    MIN = "min"
    CUSTOM = "custom"


_OP_OF = {
    Reducer.APPEND: DeltaOp.APPEND,
    Reducer.MERGE_OBJECT: DeltaOp.MERGE,
    Reducer.SUM: DeltaOp.SUM,
    Reducer.MAX: DeltaOp.MAX,
    Reducer.MIN: DeltaOp.MIN,
}


class ReducerRegistry:
    """Reducers by key. A callable `(current, update) -> new` is a CUSTOM reducer.

    `current` is None where the key is missing. `ops`: the op that a put of a key becomes ("custom" for
    a function), for keys where it is no plain put. Raises TypeError on anything but a `Reducer`, its
    name or a callable.

    >>> registry = ReducerRegistry({"n": Reducer.SUM, "best": lambda old, new: new if old is None else max(old, new)})
    >>> registry.names()
    {'n': 'sum', 'best': 'custom'}
    >>> registry.translate("n", 2, {})
    StateDelta(key='n', op=<DeltaOp.SUM: 'sum'>, value=2, source=<DeltaSource.NODE: 'node'>)
    """

    __slots__ = ("_custom", "_reducers", "ops")

    def __init__(self, reducers: Mapping[str, Reducer | str | CustomReducer] | None = None) -> None:
        self._reducers: dict[str, Reducer] = {}
        self._custom: dict[str, CustomReducer] | None = None
        self.ops: dict[str, str] = {}
        for key, reducer in (reducers or {}).items():
            self.register(key, reducer)

    def register(self, key: str, reducer: Reducer | str | CustomReducer) -> None:
        """Set the reducer of `key`. Raises ValueRefused, TypeError."""
        check_key(key)
        if isinstance(reducer, str):
            try:
                self._reducers[key] = Reducer(reducer)
            except ValueError:
                raise TypeError(
                    f"reducer of {key!r}: {reducer!r} is none of {', '.join(Reducer)} and no function"
                ) from None
        elif callable(reducer):
            self._reducers[key] = Reducer.CUSTOM
            self._custom = {**(self._custom or {}), key: reducer}
        else:
            raise TypeError(f"reducer of {key!r}: {reducer!r} is neither an es.Reducer nor a function")
        op = "custom" if self._reducers[key] is Reducer.CUSTOM else _OP_OF.get(self._reducers[key])
        if op is not None:
            self.ops[key] = str(op)
        else:
            self.ops.pop(key, None)

    def get(self, key: str) -> Reducer:
        """The reducer of `key`; ERROR when none is registered."""
        return self._reducers.get(key, Reducer.ERROR)

    def names(self) -> dict[str, str]:
        """Each registered key with its reducer's name, as the log keeps them."""
        return {key: reducer.value for key, reducer in self._reducers.items()}

    def custom(self, key: str) -> CustomReducer | None:
        """The function of a CUSTOM key; None for any other key. Raises ReducerConflict when not at hand."""
        if self._reducers.get(key) is not Reducer.CUSTOM:
            return None
        function = (self._custom or {}).get(key)
        if function is None:
            raise ReducerConflict(
                key,
                "custom",
                f"its function is not at hand; pass reducers={{{key!r}: function}} when opening the trace",
            )
        return function

    def update(self, key: str, value: Any) -> Any:
        """`value` as the op of `key` takes it: an APPEND of one item becomes a list of it.

        Raises ReducerConflict when the reducer cannot take the value.
        """
        reducer = self._reducers.get(key)
        if reducer is Reducer.APPEND:
            kind = type(value)
            if kind is list or kind is Opaque:
                return value
            return list(value) if isinstance(value, list | tuple) else [value]
        if reducer is Reducer.MERGE_OBJECT and type(value) is not dict:
            raise ReducerConflict(key, reducer, f"{type(value).__name__} is not an object")
        if reducer in (Reducer.SUM, Reducer.MAX, Reducer.MIN) and type(value) not in (int, float):
            raise ReducerConflict(key, reducer, f"{value!r:.60} is not a number")
        return value

    def translate(self, key: str, value: Any, state: Mapping[str, Any]) -> StateDelta:
        """A put as the literal delta that the log will hold. Raises ReducerConflict or DeltaApply."""
        function = self.custom(key)
        if function is not None:
            result = function(copy_value(state.get(key)), value)
            return StateDelta(key, DeltaOp.PUT, result, DeltaSource.REDUCER_MERGE)
        op = self.ops.get(key)
        if op is None:
            return StateDelta(key, DeltaOp.PUT, value)
        update = self.update(key, value)
        advance(shape_of(state.get(key, MISSING)), key, op, update)
        return StateDelta(key, DeltaOp(op), update)

    def merge_branches(
        self, state: Mapping[str, Any], branches: Iterable[tuple[str, Sequence[StateDelta]]]
    ) -> list[StateDelta]:
        """The deltas of sibling branches as one list, in declared order; `state` is what all of them saw.

        `branches`: pairs of (branch name, its deltas). A put with source reducer-merge holds what the branch
        put to a CUSTOM key and is resolved here. Raises StateConflict with the branches' names, ReducerConflict,
        DeltaApply.

        >>> registry = ReducerRegistry({"n": "sum"})
        >>> both = [("a", [registry.translate("n", 1, {})]), ("b", [registry.translate("n", 2, {})])]
        >>> [delta.value for delta in registry.merge_branches({}, both)]
        [1, 2]
        """
        declared = [(name, list(deltas)) for name, deltas in branches]
        writers: dict[str, list[str]] = {}
        literal: set[str] = set()
        for name, deltas in declared:
            for delta in deltas:
                if name not in writers.setdefault(delta.key, []):
                    writers[delta.key].append(name)
                if delta.op is DeltaOp.DELETE or (delta.op is DeltaOp.PUT and not _is_update(delta)):
                    literal.add(delta.key)
        for key, names in writers.items():
            if len(names) > 1 and key in literal and self.get(key) is not Reducer.REPLACE:
                raise StateConflict(key, names)
        return self._resolve(state, declared)

    def _resolve(self, state: Mapping[str, Any], declared: list[tuple[str, list[StateDelta]]]) -> list[StateDelta]:
        merged: list[StateDelta] = []
        current: dict[str, Any] = {}
        for _, deltas in declared:
            for delta in deltas:
                key = delta.key
                if key not in current:
                    current[key] = copy_value(state.get(key, MISSING))
                resolved = delta
                if _is_update(delta) and (function := self.custom(key)) is not None:
                    before = None if current[key] is MISSING else copy_value(current[key])
                    resolved = StateDelta(key, DeltaOp.PUT, function(before, delta.value), DeltaSource.REDUCER_MERGE)
                if resolved.op is DeltaOp.DELETE:
                    current[key] = MISSING
                else:
                    if resolved.op is not DeltaOp.PUT and current[key] is MISSING and resolved.op is DeltaOp.SPLICE:
                        raise DeltaApply(key, resolved.op, "the value is missing, not a list")
                    current[key] = combine(current[key], key, resolved.op, copy_value(resolved.value))
                merged.append(resolved)
        return merged


def _is_update(delta: StateDelta) -> bool:
    """Whether it is what a branch put to a CUSTOM key, before its function saw it."""
    return delta.op is DeltaOp.PUT and delta.source == DeltaSource.REDUCER_MERGE
