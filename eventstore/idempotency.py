"""The key that makes a side effect happen once: the same for every attempt of one visit, and for no other visit."""

from __future__ import annotations

import json
from hashlib import blake2b


def idempotency_key(trace_id: str, node: str, occurrence: int, path: str) -> str:
    """The key of a visit: blake2b-128 over trace, node, occurrence and branch; no attempt, no epoch.

    >>> idempotency_key("t1", "pay", 1, "pay") == idempotency_key("t1", "pay", 1, "pay")
    True
    """
    return blake2b(json.dumps([trace_id, node, occurrence, path]).encode(), digest_size=16).hexdigest()
