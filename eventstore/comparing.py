"""The difference of two places: in one trace, in two traces, or of two plain states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checkpoint import Checkpoint
from .diffing import Side, StateDiff, changes
from .past import Past
from .trace import Trace

Comparable = Past | Trace | Checkpoint | Mapping[str, Any]


def diff(left: Comparable, right: Comparable) -> StateDiff:
    """What turned the left state into the right one: keys added, removed and changed, appends as appends.

    Each side is a trace (as it stands), its past (`trace.at`), a checkpoint, or a plain mapping. Of two places in
    traces of one store `parted` tells where their histories part. Raises TypeError for anything else, and what
    reading the states raises.

    >>> print(diff({"total": 40, "log": ["a"]}, {"total": 30, "log": ["a", "b"]}))
    total: 40 -> 30
    log: 1 appended at [1]: ["b"]
    """
    one, other = _past(left), _past(right)
    found = changes(_state(one), _state(other))
    return StateDiff(found, _side(one), _side(other), _parted(one, other))


def _past(side: Any) -> Any:
    return side.at() if isinstance(side, Trace) else side


def _state(side: Any) -> Mapping[str, Any]:
    if isinstance(side, Past | Checkpoint):
        return side.state
    if isinstance(side, Mapping):
        return side
    raise TypeError(f"a side of a diff is a trace, its past, a checkpoint or a mapping, not {type(side).__name__}")


def _side(side: Any) -> Side | None:
    if isinstance(side, Past):
        return Side(side.trace_id, side.seq, side.step, side.at)
    if isinstance(side, Checkpoint) and side.seq is not None:
        return Side(side.parent_trace_id, side.seq, at=side.created_at)
    return None


def _parted(left: Any, right: Any) -> Side | None:
    """The last place that both histories hold, where each goes on from there on its own."""
    if not isinstance(left, Past) or not isinstance(right, Past) or left._store is not right._store:
        return None
    of_left = dict(_spans(left))
    common = [(min(upto, of_left[owner_id]), owner_id) for owner_id, upto in _spans(right) if owner_id in of_left]
    seq, owner_id = max(common, default=(0, ""))
    return None if seq in (0, left.seq, right.seq) else Side(owner_id, seq)


def _spans(past: Past) -> list[tuple[str, int]]:
    """The traces whose events it is made of, each with the last seq that counts."""
    spans = [(past.trace_id, past.seq)]
    for ancestor_id, shared_upto in past._store._ancestors(past._row):
        spans.append((ancestor_id, min(spans[-1][1], shared_upto)))
    return spans
