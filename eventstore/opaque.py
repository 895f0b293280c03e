"""Values that an adapter serialized itself: `(codec, data, item count)`.

A list is held as its items' bytes one after the other, each a complete msgpack object and without
the array's header. So an append is a concatenation, a splice cuts at item boundaries, and neither
decodes an item. What must stay in pieces (encrypted chunks) is a list of msgpack `bin` items.
"""

from __future__ import annotations

from typing import Any

import msgspec

OPAQUE_EXT = 1
_items_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


class Opaque:
    """Bytes of an adapter. `count` is None for a single value, else the number of items in `data`.

    >>> one = msgspec.msgpack.encode({"role": "user"})
    >>> Opaque("msgpack", one, 1).append(Opaque("msgpack", one, 1)).count
    2
    """

    __slots__ = ("codec", "count", "data")

    codec: str
    data: bytes
    count: int | None

    def __init__(self, codec: str, data: bytes, count: int | None = None) -> None:
        for name, value in (("codec", codec), ("data", data), ("count", count)):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an opaque value is immutable: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and (self.codec, self.data, self.count) == (
            other.codec,
            other.data,
            other.count,
        )

    def __hash__(self) -> int:
        return hash((self.codec, self.data, self.count))

    def __repr__(self) -> str:
        return f"Opaque({self.codec!r}, {len(self.data)} bytes, count={self.count})"

    def check(self) -> None:
        """Raise ValueError unless the fields have their types and `data` holds `count` items."""
        if type(self.codec) is not str or type(self.data) is not bytes:
            raise ValueError("codec is a string, data are bytes")
        self.codec.encode()
        if self.count is None:
            return
        if type(self.count) is not int or not 0 <= self.count < 2**32:
            raise ValueError(f"count is a whole number, not {self.count!r}")
        self.items()

    def append(self, other: Opaque) -> Opaque:
        """This list followed by `other`'s items. Raises ValueError unless both are lists of one codec."""
        if self.count is None or other.count is None:
            raise ValueError("a single opaque value is not a list")
        if self.codec != other.codec:
            raise ValueError(f"codec {other.codec!r} does not append to codec {self.codec!r}")
        return Opaque(self.codec, self.data + other.data, self.count + other.count)

    def splice(self, start: int, count: int, items: Opaque | None) -> Opaque:
        """This list with `count` items from `start` replaced by `items`. Raises ValueError as `append`."""
        if self.count is None:
            raise ValueError("a single opaque value is not a list")
        parts = self.items()
        middle = items if items is not None else Opaque(self.codec, b"", 0)
        head = Opaque(self.codec, b"".join(parts[:start]), start)
        tail = Opaque(self.codec, b"".join(parts[start + count :]), self.count - start - count)
        return head.append(middle).append(tail)

    def items(self) -> list[bytes]:
        """Each item's bytes. Raises ValueError when `data` does not hold `count` msgpack objects."""
        count = self.count or 0
        if self.count is None:
            raise ValueError("a single opaque value has no items")
        try:
            return [bytes(raw) for raw in _items_decoder.decode(b"\xdd" + count.to_bytes(4, "big") + self.data)]
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"opaque list does not hold {count} items: {error}") from None


def enc_hook(value: Any) -> Any:
    """msgpack encoder hook: an `Opaque` becomes extension type 1."""
    if isinstance(value, Opaque):
        return msgspec.msgpack.Ext(OPAQUE_EXT, msgspec.msgpack.encode([value.codec, value.count, value.data]))
    raise TypeError(f"objects of type {type(value).__name__} are not JSON values")


def json_hook(value: Any) -> Any:
    """JSON encoder hook: an `Opaque` is described, since its bytes are no JSON.

    >>> msgspec.json.encode(Opaque("raw", b"xy"), enc_hook=json_hook)
    b'{"opaque":"raw","items":null,"bytes":2}'
    """
    if isinstance(value, Opaque):
        return {"opaque": value.codec, "items": value.count, "bytes": len(value.data)}
    raise TypeError(f"objects of type {type(value).__name__} are not JSON values")


_opaque_decoder = msgspec.msgpack.Decoder(tuple[str, int | None, bytes])


def ext_hook(code: int, data: memoryview) -> Any:
    """msgpack decoder hook, the inverse of `enc_hook`; any other extension is refused."""
    if code != OPAQUE_EXT:
        raise ValueError(f"unknown msgpack extension {code}")
    codec, count, raw = _opaque_decoder.decode(data)
    return Opaque(codec, raw, count)
