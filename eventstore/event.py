"""What happened, as immutable facts.

A trace is a dense sequence of events. Most are deltas: literal changes of one key, so that a fold
needs no user code. The others move control: the start, an executed node, a barrier and its decision,
the end. In a body a delta stands flat (`{"key": …, "value": …}`, defaults left out) and any other
event as `{"kind": …, "data": {…}}`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Self

import msgspec
from msgspec import UNSET

from .opaque import json_hook

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
FIRST_US, LAST_US = ((end - EPOCH) // timedelta(microseconds=1) for end in (FIRST, LAST))


class DeltaOp(StrEnum):
    """How a delta changes its key. Every op is literal: the fold consults no reducer.

    >>> DeltaOp("append") is DeltaOp.APPEND
    True
    """

    PUT = "put"
    DELETE = "delete"
    APPEND = "append"
    SPLICE = "splice"
    MERGE = "merge"
    SUM = "sum"
    MAX = "max"
    MIN = "min"


class DeltaSource(StrEnum):
    """Who wrote a delta.

    >>> DeltaSource.HUMAN.value
    'human'
    """

    NODE = "node"
    HOOK = "hook"
    HUMAN = "human"
    REDUCER_MERGE = "reducer_merge"
    IMPORT = "import"
    FORK = "fork"
    SYSTEM = "system"


class JsonMixin:
    """`to_json` and `from_json` of a msgspec Struct."""

    __slots__ = ()

    def to_json(self) -> bytes:
        """This record as JSON (UTF-8 bytes); an opaque value is described."""
        return msgspec.json.encode(self, enc_hook=json_hook)

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """The record written by `to_json`. Raises `msgspec.ValidationError` on another shape."""
        return msgspec.json.decode(data, type=cls)


class JsonRecord(JsonMixin, msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of the records that go to JSON and come back equal.

    >>> Approve.from_json(Approve(by="ana").to_json()) == Approve(by="ana")
    True
    """


class StateDelta(JsonRecord, frozen=True):
    """One literal change of one key.

    `value` by op: put, any JSON value; append, the list of new items; splice, an object with
    `start`, `count` and `items`; merge, the keys to set (shallow); sum, max, min, a number;
    delete, unset.

    >>> StateDelta.append("messages", [{"role": "user"}]).to_json()
    b'{"key":"messages","op":"append","value":[{"role":"user"}]}'
    """

    key: str
    op: DeltaOp = DeltaOp.PUT
    value: Any = UNSET
    source: DeltaSource = DeltaSource.NODE

    @classmethod
    def put(cls, key: str, value: Any, source: DeltaSource = DeltaSource.NODE) -> Self:
        """Set the key to `value`."""
        return cls(key, DeltaOp.PUT, value, source)

    @classmethod
    def delete(cls, key: str, source: DeltaSource = DeltaSource.NODE) -> Self:
        """Remove the key."""
        return cls(key, DeltaOp.DELETE, UNSET, source)

    @classmethod
    def append(cls, key: str, items: list[Any], source: DeltaSource = DeltaSource.NODE) -> Self:
        """Extend the key's list by `items`."""
        return cls(key, DeltaOp.APPEND, items, source)

    @classmethod
    def splice(cls, key: str, start: int, count: int, items: list[Any], source: DeltaSource = DeltaSource.NODE) -> Self:
        """Replace `count` items from `start` by `items`."""
        return cls(key, DeltaOp.SPLICE, {"start": start, "count": count, "items": items}, source)


class Approve(JsonRecord, frozen=True, tag_field="action", tag="approve"):
    """Go on. `by`: who decided.

    >>> Approve(by="ana").to_json()
    b'{"action":"approve","by":"ana"}'
    """

    by: str | None = None


class Reject(JsonRecord, frozen=True, tag_field="action", tag="reject"):
    """Do not go on, for this reason.

    >>> Reject("too much").reason
    'too much'
    """

    reason: str = ""
    by: str | None = None


class Modify(JsonRecord, frozen=True, tag_field="action", tag="modify"):
    """Go on with these keys set to these values.

    >>> Modify({"total": 30}).values
    {'total': 30}
    """

    values: dict[str, Any]
    by: str | None = None


class Reroute(JsonRecord, frozen=True, tag_field="action", tag="reroute"):
    """Go to another node.

    >>> Reroute("review").target
    'review'
    """

    target: str
    by: str | None = None


Decision = Approve | Reject | Modify | Reroute


class TraceStarted(JsonRecord, frozen=True):
    """Seq 1 of every trace: its name, initial state and the reducers' names by key.

    >>> TraceStarted("chat", {"n": 0}).state
    {'n': 0}
    """

    name: str
    state: dict[str, Any]
    reducers: dict[str, str] = {}
    graph_hash: str = ""
    node: str | None = None


class TraceForked(JsonRecord, frozen=True):
    """The first event of a fork's own: it shares `parent_trace_id` up to `fork_seq`.

    `withdrawn`: barriers (id, node) that waited there and are raised anew; `clears`: what else of the parent's
    run the fork does not inherit, as control keys.

    >>> TraceForked("retry", "t1", 9).fork_seq
    9
    """

    name: str
    parent_trace_id: str
    fork_seq: int
    node: str | None = None
    withdrawn: list[tuple[str, str]] = []
    clears: list[str] = []


class NodeExecuted(JsonRecord, frozen=True, gc=False):
    """A node ran, and its step was committed with this event.

    `retry_at_us`: it failed, and is to be tried again then; `since_us`: when its first attempt began;
    `falls_back`: it failed, and the run goes on at `next`; `unrouted`: it ran, and which node is `next` could not
    be said; `clears`: the control keys that its visit leaves no more; `chosen`: it chose `next` itself, whatever
    its edges say.

    >>> NodeExecuted("ask", duration_ms=1.5).success
    True
    """

    node: str
    success: bool = True
    error: str | None = None
    duration_ms: float = 0
    token_cost: float = 0
    has_side_effects: bool = False
    next: str | None = None
    attempt: int = 1
    retry_at_us: int | None = None
    since_us: int | None = None
    falls_back: bool = False
    unrouted: bool = False
    clears: list[str] = []
    chosen: bool = False


class BarrierRaised(JsonRecord, frozen=True):
    """The trace waits for a human. `deadline_us`: microseconds since 1970, UTC; `default`: the decision then.

    `reason`: `gate`, a barrier of the graph; `in_doubt`, a node with side effects that may have run;
    `effect`, one that the run this one was forked from has run.

    >>> BarrierRaised("approve#1", "approve", prompt="Refund 40?").prompt
    'Refund 40?'
    """

    barrier_id: str
    node: str
    prompt: str = ""
    keys: list[str] = []
    deadline_us: int | None = None
    default: Decision | None = None
    reason: str = "gate"


class BarrierDecided(JsonRecord, frozen=True):
    """The one decision of a barrier. `submitted`: it was in the log before the barrier was raised.

    >>> BarrierDecided("approve#1", "approve", Approve()).decision
    Approve(by=None)
    """

    barrier_id: str
    node: str
    decision: Decision
    submitted: bool = False


class TraceEnded(JsonRecord, frozen=True):
    """The trace is over. `status`: completed, failed or cancelled.

    >>> TraceEnded().status
    'completed'
    """

    status: str = "completed"
    error: str | None = None


class Note(JsonRecord, frozen=True):
    """A fact that changes neither state nor control; it breaks no `unless_changed_since` guard.

    >>> Note("seen", {"by": "ana"}).name
    'seen'
    """

    name: str
    data: Any = None


def utc(at_us: int) -> datetime:
    """Microseconds since 1970 as an aware datetime; the first or last one there is, for a time beyond.

    >>> utc(1_700_000_000_000_001).isoformat(), utc(2**63 - 1).year
    ('2023-11-14T22:13:20.000001+00:00', 9999)
    """
    try:
        return EPOCH + timedelta(0, *divmod(at_us, 1_000_000))
    except OverflowError:
        return FIRST if at_us < 0 else LAST
