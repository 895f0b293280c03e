"""Encryption at rest: the whole file, its write-ahead log included, by SQLite3 Multiple Ciphers.

It comes with `apsw-sqlite3mc`, which takes the place of `apsw`; its default cipher authenticates each page
(ChaCha20-Poly1305), so a page that was changed is not read. Values alone could be encrypted without it, but keys,
node names, prompts and times would still be there to read. The key is taken as it is, without the rounds of hashing
that a password needs: they would cost 25 ms for each connection.
"""

from __future__ import annotations

from hashlib import blake2b

import apsw

from .errors import StorageError

MIN_KEY_BYTES = 16


def cipher_key(path: str, secret: str | bytes) -> str:
    """The value of `PRAGMA key`. Raises ValueError for a short key, StorageError where SQLite cannot encrypt.

    >>> cipher_key("runs.db", "short")
    Traceback (most recent call last):
    ValueError: an encryption key has 16 random bytes or more, this one 5
    """
    secret = secret.encode() if isinstance(secret, str) else secret
    if len(secret) < MIN_KEY_BYTES:
        raise ValueError(f"an encryption key has {MIN_KEY_BYTES} random bytes or more, this one {len(secret)}")
    if not hasattr(apsw, "mc_version"):
        reason = "to encrypt takes apsw-sqlite3mc in the place of apsw: pip uninstall apsw; pip install apsw-sqlite3mc"
        raise StorageError(path, reason)
    return "raw:" + blake2b(secret, digest_size=32, person=b"eventstore file").hexdigest()
