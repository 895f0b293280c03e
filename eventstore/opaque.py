"""Values that an adapter serialized itself: `(codec, data, item count)`.

A list is held as its items' bytes one after the other, each a complete msgpack object and without
the array's header. So an append is a concatenation, a splice cuts at item boundaries, and neither
decodes an item. Versions of a list that grows share its bytes: each is a length of one list of chunks, and
only the longest one may extend it. What must stay in pieces (encrypted chunks) is a list of msgpack `bin` items.
"""

from __future__ import annotations

from typing import Any

import msgspec

OPAQUE_EXT = 1
SINGLE_EXT = 2
COMMON_CODEC = "msgpack"
"""The codec that the encoding leaves out."""
_items_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


class Opaque:
    """Bytes of an adapter. `count` is None for a single value, else the number of items in `data`.

    >>> one = msgspec.msgpack.encode({"role": "user"})
    >>> Opaque("msgpack", one, 1).append(Opaque("msgpack", one, 1)).count
    2
    """

    __slots__ = ("_chunks", "_codec", "_count", "_size_bytes", "_used")

    def __init__(self, codec: str, data: bytes, count: int | None = None) -> None:
        self._codec = codec
        self._count = count
        self._chunks = [data]
        self._used = 1
        self._size_bytes = len(data) if type(data) is bytes else 0

    @property
    def codec(self) -> str:
        """What the bytes are, in the adapter's words."""
        return self._codec

    @property
    def count(self) -> int | None:
        """The number of items; None for a single value."""
        return self._count

    @property
    def data(self) -> bytes:
        """The bytes; those of a list that grew are put together each time."""
        return self._chunks[0] if self._used == 1 else b"".join(self._chunks[: self._used])

    @property
    def chunks(self) -> list[bytes]:
        """The bytes as they came, piece by piece; a piece of a list holds whole items."""
        return self._chunks[: self._used]

    @property
    def size_bytes(self) -> int:
        """How many bytes the data have."""
        return self._size_bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and (self._codec, self._count, self._size_bytes, self.data) == (
            other._codec,
            other._count,
            other._size_bytes,
            other.data,
        )

    def __hash__(self) -> int:
        return hash((self._codec, self.data, self._count))

    def __repr__(self) -> str:
        return f"Opaque({self._codec!r}, {self._size_bytes} bytes, count={self._count})"

    def check(self) -> None:
        """Raise ValueError unless the fields have their types and `data` holds `count` items."""
        if type(self._codec) is not str or type(self._chunks[0]) is not bytes:
            raise ValueError("codec is a string, data are bytes")
        self._codec.encode()
        if self._count is None:
            return
        if type(self._count) is not int or not 0 <= self._count < 2**32:
            raise ValueError(f"count is a whole number, not {self._count!r}")
        self.items()

    def append(self, other: Opaque) -> Opaque:
        """This list followed by `other`'s items. Raises ValueError unless both are lists of one codec."""
        if self._count is None or other._count is None:
            raise ValueError("a single opaque value is not a list")
        if self._codec != other._codec:
            raise ValueError(f"codec {other._codec!r} does not append to codec {self._codec!r}")
        data, chunks, used = other.data, self._chunks, self._used
        if used == len(chunks):
            chunks.append(data)
        if used == len(chunks) or chunks[used] is not data:  # another version has extended it, perhaps just now
            chunks = [*chunks[:used], data]
        longer = Opaque(self._codec, b"", self._count + other._count)
        longer._chunks, longer._used = chunks, used + 1
        longer._size_bytes = self._size_bytes + len(data)
        return longer

    def begins(self, other: Opaque) -> bool:
        """Whether `other` surely is a later version of this list, grown by appends."""
        return self._chunks is other._chunks and self._used <= other._used

    def since(self, earlier: Opaque) -> Opaque:
        """The items that this list has grown by; `earlier` begins it."""
        data = b"".join(self._chunks[earlier._used : self._used])
        return Opaque(self._codec, data, (self._count or 0) - (earlier._count or 0))

    def splice(self, start: int, count: int, items: Opaque | None) -> Opaque:
        """This list with `count` items from `start` replaced by `items`. Raises ValueError as `append`."""
        if self._count is None:
            raise ValueError("a single opaque value is not a list")
        parts = self.items()
        middle = items if items is not None else Opaque(self._codec, b"", 0)
        if middle._count is None or middle._codec != self._codec:
            raise ValueError(f"{middle!r} does not go into {self!r}")
        left = b"".join([*parts[:start], middle.data, *parts[start + count :]])
        return Opaque(self._codec, left, self._count - count + middle._count)

    def items(self) -> list[bytes]:
        """Each item's bytes. Raises ValueError when `data` does not hold `count` msgpack objects."""
        if self._count is None:
            raise ValueError("a single opaque value has no items")
        count = self._count
        try:
            return [bytes(raw) for raw in _items_decoder.decode(b"\xdd" + count.to_bytes(4, "big") + self.data)]
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"opaque list does not hold {count} items: {error}") from None


def enc_hook(value: Any) -> Any:
    """msgpack encoder hook: an `Opaque` becomes extension type 1, a single msgpack value type 2."""
    if isinstance(value, Opaque):
        if value._count is None and value._codec == COMMON_CODEC:
            return msgspec.msgpack.Ext(SINGLE_EXT, value.data)
        codec = None if value._codec == COMMON_CODEC else value._codec
        return msgspec.msgpack.Ext(OPAQUE_EXT, _encode([codec, value._count, value.data]))
    raise TypeError(f"objects of type {type(value).__name__} are not JSON values")


def json_hook(value: Any) -> Any:
    """JSON encoder hook: an `Opaque` is described, since its bytes are no JSON.

    >>> msgspec.json.encode(Opaque("raw", b"xy"), enc_hook=json_hook)
    b'{"opaque":"raw","items":null,"bytes":2}'
    """
    if isinstance(value, Opaque):
        return {"opaque": value.codec, "items": value.count, "bytes": value.size_bytes}
    raise TypeError(f"objects of type {type(value).__name__} are not JSON values")


_encode = msgspec.msgpack.Encoder().encode
_opaque_decoder = msgspec.msgpack.Decoder(tuple[str | None, int | None, bytes])


def ext_hook(code: int, data: memoryview) -> Any:
    """msgpack decoder hook, the inverse of `enc_hook`; any other extension is refused."""
    if code == SINGLE_EXT:
        return Opaque(COMMON_CODEC, bytes(data))
    if code != OPAQUE_EXT:
        raise ValueError(f"unknown msgpack extension {code}")
    codec, count, raw = _opaque_decoder.decode(data)
    return Opaque(COMMON_CODEC if codec is None else codec, raw, count)
