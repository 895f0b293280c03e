"""What a human's decision means: which keys tell of it, and which barrier it is for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .errors import BarrierError
from .event import Approve, Decision, Modify, Reject, Reroute
from .fold import MISSING


def decision_marks(node: str, decision: Decision) -> dict[str, Any]:
    """The keys that tell of a decision, with their values; `MISSING` for a mark of an earlier one to clear.

    >>> decision_marks("approve", Reject("too much"))["approve.reject_reason"]
    'too much'
    """
    marks: dict[str, Any] = dict.fromkeys((f"{node}.approved", f"{node}.reject_reason", f"{node}.rerouted_to"), MISSING)
    if isinstance(decision, Approve | Modify):
        marks[f"{node}.approved"] = True
    if isinstance(decision, Modify):
        marks |= decision.values
    elif isinstance(decision, Reject):
        marks |= {f"{node}.approved": False, f"{node}.reject_reason": decision.reason}
    elif isinstance(decision, Reroute):
        marks[f"{node}.rerouted_to"] = decision.target
    return marks


def find_pending(trace_id: str, control: Mapping[str, Any], barrier: str) -> tuple[str, str]:
    """`(barrier_id, node)` of the pending barrier named by id, or by node when one is pending there.

    Raises BarrierError for an unknown or decided one.

    >>> find_pending("t1", {"barrier/approve#1": {"node": "approve"}}, "approve")
    ('approve#1', 'approve')
    """
    pending = {key[8:]: asked["node"] for key, asked in control.items() if key.startswith("barrier/")}
    if barrier in pending:
        return barrier, pending[barrier]
    at_node = [barrier_id for barrier_id, node in pending.items() if node == barrier]
    if len(at_node) == 1:
        return at_node[0], barrier
    node, _, occurrence = barrier.rpartition("#")
    if 0 < _number(occurrence) <= control.get(f"raised/{node}", 0):
        raise BarrierError(trace_id, barrier, "it was decided already")
    if barrier not in pending and not at_node and control.get(f"raised/{barrier}", 0):
        raise BarrierError(trace_id, barrier, f"all {control[f'raised/{barrier}']} raised there were decided already")
    raise BarrierError(trace_id, barrier, f"none is pending there; pending: {', '.join(pending) or 'none'}")


def early_barrier(trace_id: str, control: Mapping[str, Any], barrier: str, unknown: BarrierError) -> str:
    """The id of a barrier that was not raised yet, or of every one at a node (`approve#*`). Raises BarrierError.

    >>> early_barrier("t1", {}, "approve#2", BarrierError("t1", "approve#2", "none is pending there"))
    'approve#2'
    """
    node, _, occurrence = barrier.rpartition("#")
    if occurrence == "*":
        return barrier
    if not node or _number(occurrence) <= control.get(f"raised/{node}", 0):
        raise unknown
    if f"decision/{barrier}" in control:
        raise BarrierError(trace_id, barrier, "it was decided already, before it was raised")
    return barrier


def submitted_decision(control: Mapping[str, Any], barrier_id: str) -> tuple[Any, bool] | None:
    """The decision (as control holds it) that waits for a barrier, and whether for it alone: exact beats standing.

    >>> submitted_decision({"decision/approve#*": {"action": "approve"}}, "approve#1")
    ({'action': 'approve'}, False)
    """
    if (exact := control.get(f"decision/{barrier_id}")) is not None:
        return exact, True
    standing = control.get(f"decision/{barrier_id.rpartition('#')[0]}#*")
    return None if standing is None else (standing, False)


def _number(occurrence: str) -> int:
    """The number that the text is, as a barrier's id writes it; 0 for anything else."""
    return int(occurrence) if re.fullmatch("[1-9][0-9]{0,17}", occurrence) else 0
