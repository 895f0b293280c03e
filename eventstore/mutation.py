"""Strict mode: a checksum of every live value, to find one that was changed in place.

A value changed without a delta is in no log: a restore would not have it. Checking costs one pass over
the state a step, so it is for development and tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from zlib import crc32

from .codec import msgpack_encode


class Fingerprints:
    """The values as the log has them.

    >>> state = {"messages": [1]}
    >>> prints = Fingerprints(state)
    >>> state["messages"].append(2)
    >>> prints.changed_key(state)
    'messages'
    """

    __slots__ = ("_prints",)

    def __init__(self, state: dict[str, Any]) -> None:
        self._prints = {key: _print(value) for key, value in state.items()}

    def update(self, state: dict[str, Any], keys: Iterable[str]) -> None:
        """Take in keys that deltas have just changed."""
        for key in keys:
            if key in state:
                self._prints[key] = _print(state[key])
            else:
                self._prints.pop(key, None)

    def changed_key(self, state: dict[str, Any]) -> str | None:
        """The first key whose value is not what the log has; None when all are."""
        for key, value in state.items():
            if self._prints.get(key) != _print(value):
                return key
        return next((key for key in self._prints if key not in state), None)


def _print(value: Any) -> int:
    try:
        return crc32(msgpack_encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return -1  # what no log can hold was put there in place
