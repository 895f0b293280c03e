"""Serialized values taken apart, and put together again, without making any object that they name.

`Pieces` is a serializer like LangGraph's, but what it reads and writes is bytes: an item of a list is its msgpack, a
list is a list of items, anything else is a `Piece`. To the saver these are values like any others: an item that
stayed is the same object, so a put of them finds what changed, and what is read back can be compared to the byte.
What is encrypted is opened first and sealed again, piece by piece.
"""

from __future__ import annotations

from typing import Any

import msgspec
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from .kept_lists import KeptList, cut, header_bytes
from .values import Serializer, array_header

_fields = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_plain = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode
_unbin = msgspec.msgpack.Decoder(bytes).decode
NIL = b"\xc0"
HEADER = frozenset(("v", "id", "ts", "channel_versions", "versions_seen", "updated_channels"))
"""The keys of a checkpoint that the saver keeps apart, beside its channels' values."""
NEEDED = HEADER - {"updated_channels"} | {"channel_values"}
Buffer = bytes | memoryview | msgspec.Raw
Held = dict[str, KeptList]
"""The lists of the checkpoint taken apart before, by channel."""


class Piece:
    """A value as its serializer's type tag and bytes. One of msgpack that is an object can be read as a mapping.

    >>> Piece("msgpack", msgspec.msgpack.encode({"n": [1]}))["n"]
    Piece('msgpack', 2 bytes)
    """

    __slots__ = ("codec", "data")

    def __init__(self, codec: str, data: bytes) -> None:
        self.codec = codec
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Piece) and (self.codec, self.data) == (other.codec, other.data)

    def __hash__(self) -> int:
        return hash((self.codec, self.data))

    def __repr__(self) -> str:
        return f"Piece({self.codec!r}, {len(self.data)} bytes)"

    def keys(self) -> list[str]:
        """Of the object that it is. Raises ValueError for anything else."""
        return list(fields(self.data))

    def __getitem__(self, key: str) -> Piece:
        return Piece("msgpack", bytes(fields(self.data)[key]))


class Pieces:
    """The serializer. `serde`: LangGraph's, for what cannot be taken apart so, and for its cipher, if it has one.

    `is_sealed`: values are encrypted, and one that is not has been smuggled in.
    """

    def __init__(self, serde: Serializer, is_sealed: bool = False) -> None:
        self._is_sealed = is_sealed
        self._cipher = serde.cipher if isinstance(serde, EncryptedSerializer) else None
        self._serde = serde.serde if isinstance(serde, EncryptedSerializer) else serde
        self._sealed: dict[Piece, tuple[str, bytes]] = {}
        self._sealed_before: dict[Piece, tuple[str, bytes]] = {}

    def dumps_typed(self, value: Any) -> tuple[str, bytes]:
        """A piece, items, an object of pieces, or plain data, as LangGraph's serializer would have written it."""
        if self._cipher is None or type(value) is not Piece:
            return self.seal(*self._typed(value))
        # One value has one ciphertext while it stays, so that it is seen to have stayed.
        found = self._sealed.get(value) or self._sealed_before.get(value) or self.seal(value.codec, value.data)
        self._sealed[value] = found
        return found

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The inverse: a piece, or a list of items. Raises ValueError for a broken one."""
        codec, value = self.opened(*data)
        return value_of(memoryview(value)) if codec == "msgpack" else Piece(codec, value)

    def seal(self, codec: str, data: bytes) -> tuple[str, bytes]:
        """Encrypted, where that is not so yet and there is a cipher."""
        if self._cipher is None or "+" in codec:
            return codec, data
        cipher, sealed = self._cipher.encrypt(data)
        return f"{codec}+{cipher}", sealed

    def opened(self, codec: str, data: bytes) -> tuple[str, bytes]:
        """Decrypted. Raises ValueError without the cipher, or for plaintext among ciphertext; what the cipher does."""
        codec, _, cipher = codec.partition("+")
        if not cipher:
            if self._is_sealed:
                raise ValueError("it is not encrypted, and other values of the file are")
            return codec, data
        if self._cipher is None:
            raise ValueError(f"it is encrypted ({cipher})")
        return codec, self._cipher.decrypt(cipher, data)

    def checkpoint(self, codec: str, data: bytes | memoryview, held: Held) -> dict[str, Any]:
        """A serialized checkpoint with its channels' values, and what else it holds, as pieces.

        `held`: what the call before left, of a checkpoint that is much the same. Raises ValueError for what is no
        checkpoint, and what the serializer raises for one that is no msgpack.
        """
        self._sealed, self._sealed_before = {}, self._sealed
        is_open = codec == "msgpack" and not self._is_sealed
        found = fields(data if is_open else self._as_msgpack(codec, bytes(data)))
        if missing := NEEDED - found.keys():
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
        channels = fields(found.pop("channel_values"))
        for channel in held.keys() - channels.keys():
            del held[channel]
        values = {channel: value_of(memoryview(raw), channel, held) for channel, raw in channels.items()}
        header = {key: plain(found.pop(key)) for key in HEADER & found.keys()}
        other = {key: Piece("msgpack", bytes(raw)) for key, raw in found.items()}
        return {**header, "channel_values": values, **other}

    def _as_msgpack(self, codec: str, data: bytes) -> bytes:
        codec, data = self.opened(codec, data)
        if codec == "msgpack":
            return data
        again, data = self._serde.dumps_typed(self._serde.loads_typed((codec, data)))
        if again != "msgpack":
            raise ValueError(f"it is {codec}, and {again} cannot be taken apart")
        return data

    def _typed(self, value: Any) -> tuple[str, bytes]:
        if type(value) is Piece:
            return value.codec, value.data
        if type(value) is list and all(type(item) is bytes for item in value):
            return "msgpack", array_header(len(value)) + b"".join(value)
        if type(value) is dict and value and all(type(item) is Piece for item in value.values()):
            return "msgpack", map_header(len(value)) + b"".join(_encode(key) + value[key].data for key in value)
        return self._serde.dumps_typed(value)


def value_of(raw: memoryview, channel: str = "", held: Held | None = None) -> Piece | list[bytes]:
    """A msgpack value as the saver has it: nil and bytes with a type tag of their own, an array as its items.

    >>> value_of(memoryview(msgspec.msgpack.encode([1, "a"]))), value_of(memoryview(NIL))
    ([b'\\x01', b'\\xa1a'], Piece('null', 0 bytes))
    """
    kind = raw[0]
    if kind == NIL[0]:
        return Piece("null", b"")
    if 0xC4 <= kind <= 0xC6:
        return Piece("bytes", _unbin(raw))
    start = header_bytes(raw)
    if not start:
        return Piece("msgpack", bytes(raw))
    return cut(raw) if held is None else held.setdefault(channel, KeptList()).items(raw, start)


def msgpack_of(value: Any) -> bytes | Piece:
    """A write's value as its msgpack, however it stood; one that has none of its own as it is."""
    if type(value) is list:
        return array_header(len(value)) + b"".join(value)
    if type(value) is not Piece:
        return bytes(value)
    if value.codec == "null":
        return NIL
    return {"msgpack": value.data, "bytes": _encode(value.data)}.get(value.codec, value)


def fields(data: Buffer) -> dict[str, msgspec.Raw]:
    """The msgpack of each of an object's values, in place. Raises ValueError."""
    try:
        return _fields(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"it is no object of msgpack: {error}") from None


def plain(data: Buffer) -> Any:
    """What msgpack holds, of plain data. Raises ValueError."""
    try:
        return _plain(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"it is no msgpack: {error}") from None


def map_header(count: int) -> bytes:
    """The msgpack header of an object of `count` keys.

    >>> map_header(2), map_header(300)
    (b'\\x82', b'\\xde\\x01,')
    """
    if count < 16:
        return bytes((0x80 | count,))
    return b"\xde" + count.to_bytes(2, "big") if count < 1 << 16 else b"\xdf" + count.to_bytes(4, "big")
