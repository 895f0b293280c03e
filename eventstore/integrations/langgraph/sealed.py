"""An encrypted thread takes no plaintext: LangGraph's `EncryptedSerializer` alone reads what was never encrypted.

Whoever can write to the file but has no key could put values into a thread otherwise.
"""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from eventstore.errors import EventStoreError

from .values import Serializer


class PlaintextRefused(EventStoreError):
    """A value that is not encrypted stands in a thread whose serializer encrypts. Attributes: `codec`, `where` (str).

    >>> print(PlaintextRefused("msgpack", "checkpoint 1f"))
    checkpoint 1f: a value of type 'msgpack' is not encrypted, and this saver reads encrypted threads only
    """

    def __init__(self, codec: str, where: str = "") -> None:
        told = f"a value of type {codec!r} is not encrypted, and this saver reads encrypted threads only"
        super().__init__(f"{where}: {told}" if where else told)
        self.codec = codec
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.codec, self.where)


class Sealed:
    """An encrypting serializer that refuses plaintext."""

    def __init__(self, serde: EncryptedSerializer) -> None:
        self._serde = serde

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """The type tag and the ciphertext."""
        return self._serde.dumps_typed(obj)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """The inverse. Raises PlaintextRefused, and what the cipher raises."""
        if "+" not in data[0]:
            raise PlaintextRefused(data[0])
        return self._serde.loads_typed(data)


def guarded(serde: Any) -> Serializer:
    """The serializer as a saver uses it."""
    return Sealed(serde) if isinstance(serde, EncryptedSerializer) else serde
