"""A run that goes on with a changed graph because it was forced to: where its open ends now belong. Pure.

What control holds for a node (the cursor, an open intent, a held result, a decision not followed yet) must have
a place in the new graph. `renamed_from` gives it one, whatever else has the old name now; `at` puts the cursor
elsewhere and drops what was open. Without either the run is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import GraphHashMismatch
from .plan import Plan
from .run_event import GraphChanged

OPEN = ("intent/", "held/", "calls/", "retry/", "failed/", "resolved/")


def forced_change(
    trace_id: str,
    control: Mapping[str, Any],
    recorded: str,
    plan: Plan,
    renamed_from: Mapping[str, str],
    at: str | None,
) -> GraphChanged:
    """The event of the change. Raises GraphHashMismatch for what has no place in the new graph."""
    renamed = {old: new for new, old in renamed_from.items()}
    branches = {branch for node in plan.nodes.values() for branch in node.branches}
    problems = [f"renamed_from: the graph has no node {new!r}" for new in renamed_from if new not in plan.nodes]
    if at is not None and at not in plan.nodes:
        problems.append(f"at: the graph has no node {at!r}")
    if at in branches:
        problems.append(f"at: {at!r} is a branch, where no run can stand")
    places: dict[str, str] = {}
    for what, name in (("stands at", control.get("next")), ("is to be routed from", control.get("unrouted"))):
        if name is not None and at is None:
            places[what] = renamed.get(name, name)
            if places[what] not in plan.nodes or places[what] in branches:
                problems.append(f"the run {what} node {name!r}, which is gone; give renamed_from or at")
    clears: list[str] = []
    puts: dict[str, Any] = {}
    for key, value in control.items():
        kind, slash, path = key.partition("/")
        if kind + slash not in OPEN:
            continue
        base, branch_slash, branch = path.partition("/")
        place = f"{renamed.get(base, base)}{branch_slash}{renamed.get(branch, branch)}"
        if at is not None and base != at:
            clears.append(key)
        elif not _has_place(plan, place):
            problems.append(f"{kind} of {path!r} has no place in this graph; give renamed_from or at")
        elif place != path:
            clears.append(key)
            puts[kind + slash + place] = value
    if problems:
        raise GraphHashMismatch(trace_id, recorded, plan.hash, problems)
    stands = at or places.get("stands at")
    if "unrouted" in control:
        clears.append("unrouted")
        if at is None:
            puts["unrouted"] = places["is to be routed from"]
    return GraphChanged(plan.hash, recorded, None if stands == control.get("next") else stands, clears, puts)


def _has_place(plan: Plan, path: str) -> bool:
    base, slash, branch = path.partition("/")
    node = plan.nodes.get(base)
    if node is None or not slash:
        return node is not None
    return node.kind == "map" or branch in {node.label_of(name) for name in node.branches}
