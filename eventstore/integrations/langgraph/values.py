"""Channel values as opaque bytes, and what changed in a list as the smallest delta.

The serializer makes the bytes. A msgpack array is a header and its items, so a list is kept as its items' bytes
and grows by concatenation. What cannot be cut so (ciphertext, pickle) is a list of chunks, each one serialized
list; it can only grow. What became of a list is found by the identity of its items, never by `==`, for which 1
and True are one; where no items are remembered, by their bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import eq, is_
from typing import Any, Protocol

import msgspec

from eventstore.opaque import Opaque

CHUNKS = "[]"
"""The end of the codec of a list of chunks."""
Change = tuple[str, Any]
"""An op and its value, as a delta holds them."""
MOST_CHUNKS, CHUNK_BYTES = 64, 16_384
"""A list of more chunks than the first and one for so many bytes is put as one again: each is opened on its own."""
EACH = "each"
"""The codec of values that stand side by side, each with its own type tag."""
_bin = msgspec.msgpack.Encoder().encode
_unbin = msgspec.msgpack.Decoder(bytes).decode
_each = msgspec.msgpack.Encoder().encode
_uneach = msgspec.msgpack.Decoder(tuple[str, bytes]).decode


class Serializer(Protocol):
    """What LangGraph's serializers do."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The type tag and the bytes."""

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The inverse."""


def encoded(serde: Serializer, value: Any) -> Opaque:
    """A channel's value as opaque bytes: a list as its items. Raises what the serializer raises.

    >>> from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    >>> encoded(JsonPlusSerializer(), ["a", "b"])
    Opaque('msgpack', 4 bytes, count=2)
    """
    codec, data = serde.dumps_typed(value)
    if type(value) is not list:
        return Opaque(codec, data)
    return opaque_list(codec, data, len(value))


def opaque_list(codec: str, data: bytes, count: int) -> Opaque:
    """A serialized list as its items, or as one chunk where its bytes are no msgpack array.

    >>> opaque_list("msgpack+aes", b"??", 2)
    Opaque('msgpack+aes[]', 4 bytes, count=1)
    """
    if codec == "msgpack":
        header = array_header(count)
        if data.startswith(header):
            return Opaque(codec, data[len(header) :], count)
    return Opaque(codec + CHUNKS, _bin(data), 1)


def array_header(count: int) -> bytes:
    """The msgpack header of an array of `count` items, in its shortest form.

    >>> array_header(3), array_header(300)
    (b'\\x93', b'\\xdc\\x01,')
    """
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def serialized(value: Opaque) -> Iterator[tuple[str, bytes]]:
    """What to give to `loads_typed`: once for a value or a list, once a chunk for a list of chunks."""
    if value.count is None:
        yield value.codec, value.data
    elif value.codec.endswith(CHUNKS):
        for chunk in value.items():
            yield value.codec.removesuffix(CHUNKS), _unbin(chunk)
    else:
        yield value.codec, b"".join([array_header(value.count), *value.chunks])


def decoded(serde: Serializer, value: Opaque) -> Any:
    """The inverse of `encoded`. Raises what the serializer raises.

    >>> from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    >>> decoded(JsonPlusSerializer(), encoded(JsonPlusSerializer(), ["a", 1]))
    ['a', 1]
    """
    if value.count is None or not value.codec.endswith(CHUNKS):
        (typed,) = serialized(value)
        return serde.loads_typed(typed)
    return [item for chunk in chunks_of(serde, value) for item in chunk]


def chunks_of(serde: Serializer, value: Opaque) -> list[Any]:
    """The lists that a list of chunks is made of. Raises what the serializer raises, ValueError without a chunk."""
    if not value.count:
        raise ValueError(f"a list of type {value.codec!r} without a chunk")
    return [serde.loads_typed(typed) for typed in serialized(value)]


def together(serde: Serializer, values: list[Any]) -> Opaque:
    """Several values as one opaque value. Raises what the serializer raises."""
    if not any(type(value) is bytearray for value in values):  # within a list it would come back as bytes
        try:
            return encoded(serde, values)
        except Exception:  # of one value, which may have a type tag that only a value alone can have
            if len(values) == 1:
                raise
    return Opaque(EACH, b"".join(_each(serde.dumps_typed(value)) for value in values), len(values))


def apart(serde: Serializer, values: Opaque) -> list[Any]:
    """The inverse of `together`. Raises what the serializer raises, ValueError for what `together` did not make."""
    if type(values) is not Opaque:
        raise ValueError(f"not a channel's values but {type(values).__name__}")
    if values.codec == EACH:
        return [serde.loads_typed(_uneach(item)) for item in values.items()]
    return list(decoded(serde, values))


def change_of(
    serde: Serializer,
    before: Opaque | None,
    remembered: Sequence[Any] | None,
    value: Any,
    is_longer: bool = False,
) -> Sequence[Change]:
    """What makes `value` of the value `before` (None: there was none), to be done in turn.

    `remembered`: the items of the list when `before` was made of it; without them bytes are compared. `is_longer`:
    the list begins with these very items.

    >>> from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    >>> serde = JsonPlusSerializer()
    >>> change_of(serde, encoded(serde, ["a"]), None, ["a", "b"])
    [('append', Opaque('msgpack', 2 bytes, count=1))]
    """
    if type(value) is not list or before is None or before.count is None or remembered is None:
        return change_of_bytes(before, encoded(serde, value))
    return _by_identity(serde, before, remembered, value, is_longer)


def change_of_bytes(before: Opaque | None, now: Opaque) -> Sequence[Change]:
    """As `change_of`, of values that are serialized already.

    >>> change_of_bytes(Opaque("msgpack", b"a", 1), Opaque("msgpack", b"ab", 2))
    [('append', Opaque('msgpack', 1 bytes, count=1))]
    """
    if now == before:
        return ()
    if before is None or before.count is None or now.count is None:
        return [("put", now)]
    if before.codec != now.codec or now.codec.endswith(CHUNKS):
        return [("put", now)]
    old, new = before.data, now.data
    if now.count > before.count and new.startswith(old):
        return [("append", Opaque(now.codec, new[len(old) :], now.count - before.count))]
    was, items = before.items(), now.items()
    start, end = _shared(was, items, eq)
    if 2 * (start + end) < len(items):
        return [("put", now)]
    middle = items[start : len(items) - end]
    return [_splice(start, len(was) - start - end, Opaque(now.codec, b"".join(middle), len(middle)))]


def _by_identity(
    serde: Serializer, before: Opaque, was: Sequence[Any], items: list[Any], is_longer: bool
) -> Sequence[Change]:
    if is_longer:
        if len(items) == len(was):  # and yet the channel was written
            return change_of_bytes(before, encoded(serde, items))
        return _grown(serde, before, items, len(was))
    if not before.codec.endswith(CHUNKS):
        if items and (trimmed := _trimmed(was, items)):
            grown = _grown(serde, before, items, len(was) - trimmed)
            return grown if grown and grown[0][0] == "put" else [_splice(0, trimmed, None), *grown]
        start, end = _shared(was, items, is_)
        middle = encoded(serde, items[start : len(items) - end])
        if 2 * (start + end) >= len(items) and middle.codec == before.codec:
            return [_splice(start, len(was) - start - end, middle)]
    return change_of_bytes(before, encoded(serde, items))  # other objects, which may be equal


def _grown(serde: Serializer, before: Opaque, items: list[Any], kept: int) -> Sequence[Change]:
    if kept == len(items):
        return ()
    if before.codec.endswith(CHUNKS) and (before.count or 0) >= MOST_CHUNKS + before.size_bytes // CHUNK_BYTES:
        return [("put", encoded(serde, items))]
    added = encoded(serde, items[kept:])
    return [("append", added) if added.codec == before.codec else ("put", encoded(serde, items))]


def _trimmed(was: Sequence[Any], items: list[Any]) -> int:
    """How many items went from the head, where the rest of `was` is how `items` begins; 0 where it is not."""
    first = items[0]
    for start in range(max(1, len(was) - len(items)), len(was)):
        if was[start] is first and all(map(is_, was[start:], items)):
            return start
    return 0


def _shared(was: Sequence[Any], items: Sequence[Any], same: Callable[[Any, Any], bool]) -> tuple[int, int]:
    """How many items both lists have in common at their beginning, and after that at their end."""
    limit = min(len(was), len(items))
    start = 0
    while start < limit and same(was[start], items[start]):
        start += 1
    end = 0
    while end < limit - start and same(was[-1 - end], items[-1 - end]):
        end += 1
    return start, end


def _splice(start: int, count: int, items: Opaque | None) -> Change:
    return "splice", {"start": start, "count": count, "items": [] if items is None or items.count == 0 else items}
