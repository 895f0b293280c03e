"""The per-trace hash chain: each commit's digest covers the one before it, its place, time and body.

digest = blake2b-128(previous digest | first_seq, n, at_us, own append id (-1 for none) as little-endian
int64 | blake2b-128(body) | a caller's append id as UTF-8). The chain of a trace begins with the digest of
its id, a fork's with its parent's digest at the fork. The body enters by its own digest, so a body can be
redacted later and the chain still verifies. blake2b: RFC 7693.

With a key the digests are blake2b's keyed ones: whoever does not know it can damage the log, but not compute
a chain that verifies. Whether a file is keyed is decided when it is made; it keeps a fingerprint of the key.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from typing import Any

import msgspec

from .errors import WrongChainKey

MIN_KEY_BYTES = 16
_place = Struct("<qqqq").pack
_encode_fields = msgspec.msgpack.Encoder().encode


def genesis(trace_id: str) -> bytes:
    """The digest before seq 1 (16 bytes).

    >>> genesis("t1").hex()
    '391bbc3f95fd0429aba4ead7026fc4c0'
    """
    return blake2b(trace_id.encode(), digest_size=16).digest()


class Chain:
    """Computes the digests of a file. `secret`: its key, at least `MIN_KEY_BYTES` long; None for a file without one.

    >>> Chain().extend(genesis("t1"), 1, 1, 0, None, b"[]") == Chain().extend(genesis("t1"), 1, 1, 1, None, b"[]")
    False
    """

    __slots__ = ("_key",)

    def __init__(self, secret: str | bytes | None = None) -> None:
        self._key = b""
        if secret is not None:
            secret = secret.encode() if isinstance(secret, str) else secret
            if len(secret) < MIN_KEY_BYTES:
                raise ValueError(f"a chain key has {MIN_KEY_BYTES} bytes or more, this one {len(secret)}")
            self._key = blake2b(secret, digest_size=32, person=b"eventstore chain").digest()

    @property
    def fingerprint(self) -> bytes | None:
        """What the file keeps of the key (16 bytes); None without one."""
        return blake2b(b"fingerprint", digest_size=16, key=self._key).digest() if self._key else None

    def extend(
        self, previous: bytes, first_seq: int, n: int, at_us: int, append_id: str | int | None, body: bytes
    ) -> bytes:
        """The digest after one commit (16 bytes)."""
        own = append_id if type(append_id) is int else -1
        link = previous + _place(first_seq, n, at_us, own) + blake2b(body, digest_size=16).digest()
        if own == -1 and append_id is not None:
            link += str(append_id).encode()
        return blake2b(link, digest_size=16, key=self._key).digest()

    def seal(self, *fields: Any) -> int:
        """A checksum over the fields of a row beside the log: 63 bits of blake2b over their msgpack.

        >>> Chain().seal("t1", 4) == Chain("a key that nobody knows").seal("t1", 4)
        False
        """
        digest = blake2b(_encode_fields(fields), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little") >> 1

    def is_sealed(self, seal: int | None, *fields: Any) -> bool:
        """Whether it is their seal; rows that an older format wrote have none.

        >>> Chain().is_sealed(None, "t1", 4), Chain("a key that nobody knows").is_sealed(None, "t1", 4)
        (True, False)
        """
        expected = self.seal(*fields)
        return seal == expected or (seal is None and not self._key)


class LockedChain(Chain):
    """Of a keyed file that was opened for reading without its key: whoever asks for a digest is told."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def extend(
        self, previous: bytes, first_seq: int, n: int, at_us: int, append_id: str | int | None, body: bytes
    ) -> bytes:
        """Raises WrongChainKey."""
        raise self._error()

    def seal(self, *fields: Any) -> int:
        """Raises WrongChainKey."""
        raise self._error()

    def _error(self) -> WrongChainKey:
        return WrongChainKey(self._path, "its digests are keyed: they cannot be checked without the key")
