"""The lines of a dump: their kinds, their fields, and the checksum of each that the log's hash chain does not cover.

A line is an object of one field that names its kind, and (but for commits) the checksum `sum`. Pure.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec

FORMAT = 1
"""The newest dump format that this version writes and reads."""


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class HeaderLine(_Line, frozen=True):
    """The first line. `whole`: every trace, and the tombstones; `dumped_at`: RFC 3339.

    `chain_key`: the fingerprint of the key of the digests, where they have one.
    """

    format: int
    file_format: int
    version: str
    dumped_at: str
    whole: bool
    chain_key: str | None = None


class TraceLine(_Line, frozen=True):
    """A trace begins. `parent`: the trace whose history up to `fork_seq` it shares."""

    trace_id: str
    name: str
    created_us: int
    parent: str | None = None
    fork_seq: int = 0


class RootLine(_Line, frozen=True):
    """Where a trimmed trace begins: control and state there, or both as base64 of msgpack; the chain's digest."""

    seq: int
    at_us: int
    digest: str
    control: dict[str, Any] | None = None
    state: dict[str, Any] | None = None
    body64: str | None = None


class CommitLine(_Line, frozen=True, gc=False):
    """One row of the log, its body byte for byte; base64 where it is no line of JSON."""

    first_seq: int
    n: int
    append_id: str | int | None
    at_us: int
    digest: str
    body: msgspec.Raw = msgspec.Raw()
    body64: str | None = None


class CheckpointLine(_Line, frozen=True):
    """A checkpoint of the trace, at the commit before it."""

    checkpoint_id: str
    seq: int
    node: str | None
    graph_hash: str
    triggers: msgspec.Raw
    metadata: msgspec.Raw
    created_us: int


class GraphLine(_Line, frozen=True):
    """What a graph hash means."""

    graph_hash: str
    definition: msgspec.Raw


class LeaseLine(_Line, frozen=True):
    """A run that is not over: the epoch of its last ownership, but not whose it was."""

    epoch: int
    due_us: int | None = None


class ThreadLine(_Line, frozen=True):
    """A thread of another framework, one namespace of it, before the first of its traces; `number` is for this dump.

    `traces`: those that it reads; `journal`: the one that its next pending writes go to.
    """

    number: int
    adapter: str
    thread_id: str
    namespace: str
    traces: list[str]
    journal: str | None = None


class StandsLine(_Line, frozen=True):
    """A checkpoint of a thread stands at the commit before. `run_id`: the commit's own where it tells of one."""

    thread: int
    seq: int
    name: str
    status: str = "live"
    run_id: str | None = None


class WritesLine(_Line, frozen=True):
    """A thread has the writes that the event at `seq`, of the commit before, holds."""

    thread: int
    seq: int


class ClosedLine(_Line, frozen=True):
    """A trace is complete: where it stands, and how many lines it has; `places`: those of threads."""

    trace_id: str
    version: int
    digest: str
    commits: int
    checkpoints: int
    has_lease: bool = False
    places: int = 0


class DamagedLine(_Line, frozen=True):
    """The trace could not be read any further."""

    trace_id: str
    reason: str


class TombstoneLine(_Line, frozen=True):
    """What is left of an erased trace."""

    trace_id: str
    version: int
    digest: str
    erased_us: int
    erased_by: str | None = None


class EndLine(_Line, frozen=True):
    """The last line: what the lines before it hold."""

    traces: int
    commits: int
    events: int
    tombstones: int


def checked(kind: str, payload: bytes, trace_id: str = "") -> bytes:
    """A line with its checksum; one that belongs to a trace is bound to it.

    >>> checked("lease", b'{"epoch":2}', "t1")
    b'{"lease":{"epoch":2},"sum":"53258b7c8d1c1aad"}\\n'
    """
    return b'{"%b":%b,"sum":"%b"}\n' % (kind.encode(), payload, line_sum(kind, payload, trace_id).encode())


def line_sum(kind: str, payload: bytes, trace_id: str) -> str:
    """The checksum of a line: blake2b-64 in hex over its kind, its trace and its payload.

    >>> len(line_sum("lease", b"{}", "t1"))
    16
    """
    return blake2b(b"\n".join((kind.encode(), trace_id.encode(), payload)), digest_size=8).hexdigest()
