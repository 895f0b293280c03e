"""What was used last, within bounds: the rest is forgotten, and made anew when it is asked for again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """What was kept last: at most `limit` things, of `limit_bytes` together. Its users lock it.

    >>> recent = Recent[str, int](10, limit_bytes=100)
    >>> for name in "abc": recent.keep(name, 1, size_bytes=40)
    >>> recent.get("a"), recent.get("c")
    (None, 1)
    """

    def __init__(self, limit: int, limit_bytes: int) -> None:
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: K) -> V | None:
        """It, if it is kept yet."""
        found = self._kept.get(key)
        return None if found is None else found[0]

    def keep(self, key: K, value: V, size_bytes: int) -> None:
        """Keep it; what was kept longest ago goes. The last one stays, however large it is."""
        self.pop(key)
        self._kept[key] = value, size_bytes
        self._bytes += size_bytes
        while len(self._kept) > 1 and (self._bytes > self._limit_bytes or len(self._kept) > self._limit):
            self.pop(next(iter(self._kept)))

    def pop(self, key: K) -> V | None:
        """It, not kept any more."""
        found = self._kept.pop(key, None)
        if found is None:
            return None
        self._bytes -= found[1]
        return found[0]
