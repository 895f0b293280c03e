"""The per-trace hash chain: each commit's digest covers the one before it, its place, time and body.

digest = blake2b-128(previous digest | first_seq, n, at_us, own append id (-1 for none) as little-endian
int64 | blake2b-128(body) | a caller's append id as UTF-8). The chain of a trace begins with the digest of
its id, a fork's with its parent's digest at the fork. The body enters by its own digest, so a body can be
redacted later and the chain still verifies. blake2b: RFC 7693.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

_place = Struct("<qqqq").pack


def genesis(trace_id: str) -> bytes:
    """The digest before seq 1 (16 bytes).

    >>> genesis("t1").hex()
    '391bbc3f95fd0429aba4ead7026fc4c0'
    """
    return blake2b(trace_id.encode(), digest_size=16).digest()


def extend(previous: bytes, first_seq: int, n: int, at_us: int, append_id: str | int | None, body: bytes) -> bytes:
    """The digest after one commit (16 bytes).

    >>> extend(genesis("t1"), 1, 1, 0, None, b"[]") == extend(genesis("t1"), 1, 1, 1, None, b"[]")
    False
    """
    own = append_id if type(append_id) is int else -1
    link = previous + _place(first_seq, n, at_us, own) + blake2b(body, digest_size=16).digest()
    if own == -1 and append_id is not None:
        link += str(append_id).encode()
    return blake2b(link, digest_size=16).digest()
