"""Apply deltas to a state: the one meaning of every op, pure and total over what the log holds.

`combine` gives the value that a key has after one op; `apply` does so in a state dict that it owns
(lists and objects are extended in place). `advance` is the same law over *shapes* (a list's length
for the list), so that a step can check a delta before it is written without copying a value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from msgspec import UNSET

from .errors import DeltaApply
from .event import StateDelta
from .opaque import Opaque

MISSING: Final[Any] = object()
INT_MIN, INT_MAX = -(2**63), 2**63 - 1


def combine(current: Any, key: str, op: str, value: Any) -> Any:
    """The value of `key` after `op`; `current` may be `MISSING`. Lists and dicts change in place.

    Raises DeltaApply when the op does not fit the value.

    >>> combine(MISSING, "n", "sum", 2), combine([1, 2, 3], "l", "splice", {"start": 0, "count": 2, "items": [9]})
    (2, [9, 3])
    """
    if value is UNSET:
        raise DeltaApply(key, op, "it has no value")
    if op == "put":
        return value
    if op == "append":
        if current is MISSING:
            return value
        if type(current) is list and type(value) is list:
            current.extend(value)
            return current
        if isinstance(current, Opaque) and isinstance(value, Opaque):
            return _opaque(key, op, current.append, value)
        raise DeltaApply(key, op, f"the value is {_a(current)}, not a list to take {_a(value)}")
    if op == "sum":
        if type(current) is int and type(value) is int:
            total = current + value
            if INT_MIN <= total <= INT_MAX:
                return total
            raise DeltaApply(key, op, f"the result {total} is beyond 64 bits")
        return value if current is MISSING else _number(key, op, current) + _number(key, op, value)
    if op == "max":
        return value if current is MISSING or _number(key, op, value) > _number(key, op, current) else current
    if op == "min":
        return value if current is MISSING or _number(key, op, value) < _number(key, op, current) else current
    if op == "merge":
        if current is MISSING:
            return value
        if type(current) is dict and type(value) is dict:
            current.update(value)
            return current
        raise DeltaApply(key, op, f"the value is {_a(current)}, not an object")
    if op == "splice":
        return _splice(current, key, value)
    raise DeltaApply(key, op, "unknown op")


def apply(state: dict[str, Any], key: str, op: str, value: Any) -> None:
    """One delta on a state that the caller owns. Raises DeltaApply.

    >>> state = {"l": [1]}
    >>> apply(state, "l", "append", [2]); apply(state, "x", "put", 1); apply(state, "x", "delete", None)
    >>> state
    {'l': [1, 2]}
    """
    if op == "put" and value is not UNSET:
        state[key] = value
    elif op == "delete":
        state.pop(key, None)
    else:
        state[key] = combine(state.get(key, MISSING), key, op, value)


def apply_control(control: dict[str, Any], key: str, op: str, value: Any) -> None:
    """One delta on control, which knows the op `clear` as well. Raises DeltaApply.

    >>> control = {"intent/pay": {}, "steps": 3}
    >>> apply_control(control, "intent/", "clear", None); control
    {'steps': 3}
    """
    if op == "sum":
        control[key] = combine(control.get(key, MISSING), key, op, value)
    elif op == "clear":
        for name in [name for name in control if name.startswith(key)]:
            del control[name]
    else:
        apply(control, key, op, value)


def apply_deltas(state: dict[str, Any], deltas: Iterable[StateDelta]) -> dict[str, Any]:
    """A new state: a deep copy of `state` with copies of `deltas` applied. Raises DeltaApply.

    >>> before = {"l": [1]}
    >>> apply_deltas(before, [StateDelta.append("l", [2])]), before
    ({'l': [1, 2]}, {'l': [1]})
    """
    result = copy_value(state)
    for delta in deltas:
        apply(result, delta.key, delta.op, copy_value(delta.value))
    return result  # type: ignore[no-any-return]


def copy_value(value: Any) -> Any:
    """A deep copy of a JSON value; scalars and opaque values are shared.

    >>> items = [{"a": 1}]
    >>> copy_value(items) == items and copy_value(items)[0] is not items[0]
    True
    """
    if type(value) is dict:
        return {key: copy_value(item) for key, item in value.items()}
    if type(value) is list:
        return [copy_value(item) for item in value]
    return value


def shape_of(value: Any) -> Any:
    """What `advance` needs to know of a value: a list's length, or the value itself.

    A shape is its own shape, so what `advance` gives can stand for a value.

    >>> shape_of([1, 2]), shape_of(("list", 2)), shape_of(3)
    (('list', 2), ('list', 2), 3)
    """
    kind = type(value)
    if kind is list:
        return "list", len(value)
    if kind is Opaque and value.count is not None:
        return "opaque list", value.count, value.codec
    return value


def advance(shape: Any, key: str, op: str, value: Any) -> Any:
    """The shape of `key` after `op`: what `combine` would give or raise. Raises DeltaApply.

    >>> advance(("list", 2), "l", "append", [3])
    ('list', 3)
    """
    if op == "put":
        return shape_of(value)
    if op == "delete":
        return MISSING
    if op == "append":
        items = shape_of(value)
        if not (
            type(items) is tuple
            and items[0] != "object"
            and (shape is MISSING or (type(shape) is tuple and shape[::2] == items[::2]))
        ):
            raise DeltaApply(key, op, f"the value is {_named(shape)}, not a list to take {_a(value)}")
        return items if shape is MISSING else (shape[0], shape[1] + items[1], *shape[2:])
    if op == "merge":
        is_object = shape is MISSING or type(shape) is dict or (type(shape) is tuple and shape[0] == "object")
        if type(value) is not dict or not is_object:
            raise DeltaApply(key, op, f"the value is {_named(shape)}, not an object to take {_a(value)}")
        return value
    if op == "splice":
        if type(shape) is not tuple or shape[0] == "object":
            raise DeltaApply(key, op, f"the value is {_named(shape)}, not a list")
        _, count, items = _splice_parts(key, value, shape[1])
        if items is not None and shape_of(items)[::2] != shape[::2]:
            raise DeltaApply(key, op, f"the value is {_named(shape)}, the items are {_a(items)}")
        return (shape[0], shape[1] - count + (0 if items is None else shape_of(items)[1]), *shape[2:])
    _number(key, op, value)
    if type(shape) is tuple:
        raise DeltaApply(key, op, f"{_named(shape)} is not a number")
    result = combine(shape, key, op, value)
    if type(result) is int and not INT_MIN <= result <= INT_MAX:
        raise DeltaApply(key, op, f"the result {result} is beyond 64 bits")
    if type(result) is float and not math.isfinite(result):
        raise DeltaApply(key, op, "the result is not finite")
    return result


def _number(key: str, op: str, value: Any) -> Any:
    if type(value) is int or type(value) is float:
        return value
    raise DeltaApply(key, op, f"{_a(value)} is not a number")


def _splice_parts(key: str, value: Any, length: int) -> tuple[int, int, Any]:
    try:
        start, count, items = value["start"], value["count"], value["items"]
    except (TypeError, KeyError):
        raise DeltaApply(key, "splice", "its value needs start, count and items") from None
    if type(start) is not int or type(count) is not int or not isinstance(items, list | Opaque):
        raise DeltaApply(key, "splice", "start and count are whole numbers, items a list")
    if not (start >= 0 and count >= 0 and start + count <= length):
        raise DeltaApply(key, "splice", f"items {start} to {start + count} of a list of {length}")
    return start, count, None if isinstance(items, list) and not items else items


def _splice(current: Any, key: str, value: Any) -> Any:
    if type(current) is list:
        start, count, items = _splice_parts(key, value, len(current))
        if isinstance(items, Opaque):
            raise DeltaApply(key, "splice", "opaque items do not go into a JSON list")
        current[start : start + count] = items or []
        return current
    if isinstance(current, Opaque) and current.count is not None:
        start, count, items = _splice_parts(key, value, current.count)
        return _opaque(key, "splice", current.splice, start, count, items)
    raise DeltaApply(key, "splice", f"the value is {'missing' if current is MISSING else _a(current)}, not a list")


def _opaque(key: str, op: str, method: Any, *args: Any) -> Any:
    try:
        return method(*args)
    except (ValueError, AttributeError) as error:
        raise DeltaApply(key, op, str(error)) from None


def _named(shape: Any) -> str:
    if shape is MISSING:
        return "missing"
    if type(shape) is tuple:
        return f"a {shape[0]}" if shape[0] == "list" else f"an {shape[0]}"
    return _a(shape)


def _a(value: Any) -> str:
    kind = type(value)
    if value is None:
        return "null"
    if kind is bool:
        return "a boolean"
    if kind is int or kind is float:
        return "a number"
    if kind is str:
        return "a string"
    if kind is dict:
        return "an object"
    if kind is list:
        return "a list"
    return f"an {kind.__name__}" if kind is Opaque else f"a {kind.__name__}"
