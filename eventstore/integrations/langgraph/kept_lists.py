"""The lists of one serialized checkpoint after another, in items: those that stayed are the objects that they were.

A list that grew begins with the bytes that it had, so only the new items are cut off. Its bytes are held in two
buffers that take turns: to allocate half a megabyte anew for each of a thousand checkpoints leaves holes in memory.
"""

from __future__ import annotations

import msgspec

_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class KeptList:
    """A list as it was the last time: its bytes without the array's header, and its items."""

    __slots__ = ("_buffer", "_items", "_size", "_spare")

    def __init__(self) -> None:
        self._buffer, self._spare = bytearray(), bytearray()
        self._size = 0
        self._items: list[bytes] = []

    def items(self, array: memoryview, start: int) -> list[bytes]:
        """The items of a msgpack array whose header is `start` bytes long. Raises ValueError for a broken one.

        >>> kept = KeptList()
        >>> first, second = (kept.items(memoryview(msgspec.msgpack.encode(value)), 1) for value in (["a"], ["a", 1]))
        >>> second, second[0] is first[0]
        ([b'\\xa1a', b'\\x01'], True)
        """
        size, now = len(array) - start, self._spare
        if len(now) < size:
            now = bytearray(size + size // 2)
        now[:size] = array[start:]
        was, items = self._size, self._items
        if now.startswith(memoryview(self._buffer)[:was], 0, size):
            items = [*items, *self._rest(memoryview(now)[was:size], _count(array, start) - len(items))]
        elif self._buffer.startswith(memoryview(now)[:size], 0, was):
            items = items[: _count(array, start)]
        else:
            known = {item: item for item in items}
            items = [known.get(item, item) for item in cut(array)]
        self._buffer, self._spare, self._size, self._items = now, self._buffer, size, items
        return items

    @staticmethod
    def _rest(payload: memoryview, count: int) -> list[bytes]:
        return cut(b"\xdd" + count.to_bytes(4, "big") + payload) if count else []


def cut(array: bytes | memoryview) -> list[bytes]:
    """The items of a msgpack array. Raises ValueError for a broken one."""
    try:
        return [bytes(raw) for raw in _raws(array)]
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"it is no list of msgpack: {error}") from None


def header_bytes(array: memoryview) -> int:
    """How long the header of a msgpack array is; 0 for anything else.

    >>> [header_bytes(memoryview(msgspec.msgpack.encode(value))) for value in ([1], [1] * 16, {})]
    [1, 3, 0]
    """
    kind = array[0]
    return 1 if 0x90 <= kind <= 0x9F else 3 if kind == 0xDC else 5 if kind == 0xDD else 0


def _count(array: memoryview, start: int) -> int:
    return array[0] & 0x0F if start == 1 else int.from_bytes(array[1:start], "big")
