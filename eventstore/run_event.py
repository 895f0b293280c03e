"""What a durable run writes besides deltas and executed nodes.

A *path* names who acts in the visit that is open: a node, or a branch of it (`gather/search`). What a
visit leaves until it is over (an intent, a held result, values of calls) stands in control under its
path, and the event that ends the visit names the control keys it clears. Decisions submitted early and
requests to cancel are *mail*: anyone may append them at any time, and they change no state.
"""

from __future__ import annotations

from typing import Any

from .event import Decision, JsonRecord, StateDelta


class OwnerChanged(JsonRecord, frozen=True):
    """A process took the run over. `epoch`: counts ownerships; an append of an older epoch is fenced off.

    >>> OwnerChanged(2, "4711@ana-laptop").epoch
    2
    """

    epoch: int
    owner: str


class NodeIntended(JsonRecord, frozen=True):
    """A node with side effects is about to run. Without a result after it, the node is in doubt.

    `key`: the idempotency key, the same for every attempt of this visit.

    >>> NodeIntended("pay", "9f0c").attempt
    1
    """

    path: str
    key: str
    attempt: int = 1
    clears: list[str] = []


class IntentWithdrawn(JsonRecord, frozen=True):
    """The node of that intent was not called, and will not be.

    >>> IntentWithdrawn("pay").path
    'pay'
    """

    path: str


class BranchExecuted(JsonRecord, frozen=True):
    """A branch of a parallel node ran; its deltas are held until the join.

    `retry_at_us`: it failed, and is to be tried again then.

    >>> BranchExecuted("gather/search", deltas=[StateDelta.put("hits", 3)]).success
    True
    """

    path: str
    success: bool = True
    error: str | None = None
    duration_ms: float = 0
    token_cost: float = 0
    has_side_effects: bool = False
    attempt: int = 1
    retry_at_us: int | None = None
    since_us: int | None = None
    deltas: list[StateDelta] = []
    clears: list[str] = []


class ValueRecorded(JsonRecord, frozen=True):
    """What `ctx.now`, `ctx.uuid`, `ctx.random` or `ctx.call` gave. `held`: committed at once, for a resume.

    >>> ValueRecorded("ask", "call:search", {"hits": 3}, held=True).held
    True
    """

    path: str
    name: str
    value: Any = None
    held: bool = False


class NodeRouted(JsonRecord, frozen=True):
    """The next node of one that ran before it could be routed.

    >>> NodeRouted("plan", "act").next
    'act'
    """

    node: str
    next: str | None = None


class DecisionSubmitted(JsonRecord, frozen=True):
    """Mail: a decision before its barrier. `barrier_id`: `approve#2`, or `approve#*` for every visit.

    >>> from .event import Approve
    >>> DecisionSubmitted("approve#*", "approve", Approve()).node
    'approve'
    """

    barrier_id: str
    node: str
    decision: Decision


class CancelRequested(JsonRecord, frozen=True):
    """Mail: end the run as cancelled at the next place where that is possible.

    >>> CancelRequested(by="ana").by
    'ana'
    """

    by: str | None = None
    reason: str = ""


class GraphChanged(JsonRecord, frozen=True):
    """The run goes on with another graph, because it was forced to. `next`: where, if not where it stood.

    `clears`, `puts`: control keys of nodes that are gone, and what stands under the new names instead.

    >>> GraphChanged("9f0c", "77aa").previous
    '77aa'
    """

    graph_hash: str
    previous: str
    next: str | None = None
    clears: list[str] = []
    puts: dict[str, Any] = {}


class TraceReopened(JsonRecord, frozen=True):
    """A failed or cancelled run goes on. `next`: the node to enter, if not the one where it stood.

    >>> TraceReopened().next is None
    True
    """

    next: str | None = None
    clears: list[str] = []
