"""A run that goes on with a changed graph because it was forced to: where its open ends now belong. Pure.

What control holds for a node that is gone (the cursor, an open intent, a held result) must be given a new
place, by `renamed_from` or, for the cursor, by `at`; otherwise the run is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .errors import GraphHashMismatch
from .event import StateDelta
from .plan import Plan
from .recorded import ControlEvent
from .run_event import BranchExecuted, GraphChanged, NodeIntended, ValueRecorded

OPEN = ("intent/", "held/", "calls/", "retry/", "failed/", "resolved/")


def forced_events(
    trace_id: str,
    control: Mapping[str, Any],
    recorded: str,
    plan: Plan,
    renamed_from: Mapping[str, str],
    at: str | None,
) -> list[ControlEvent]:
    """The events of the change. Raises GraphHashMismatch for what has no place in the new graph."""
    renamed = {old: new for new, old in renamed_from.items()}
    problems = [f"renamed_from: the graph has no node {new!r}" for new in renamed_from if new not in plan.nodes]
    if at is not None and at not in plan.nodes:
        problems.append(f"at: the graph has no node {at!r}")
    next_node, moved = control.get("next"), None
    if at is not None:
        moved = at
    elif next_node is not None and next_node not in plan.nodes:
        moved = renamed.get(next_node)
        if moved is None:
            problems.append(f"the run stands at node {next_node!r}, which is gone; give renamed_from or at")
    clears: list[str] = []
    more: list[ControlEvent] = []
    for key, value in control.items():
        kind, slash, path = key.partition("/")
        if kind + slash not in OPEN or _has_place(plan, path):
            continue
        base, branch_slash, branch = path.partition("/")
        place = f"{renamed.get(base, base)}{branch_slash}{renamed.get(branch, branch)}"
        if _has_place(plan, place):
            more += _again(kind, place, value)
        elif at is None:
            problems.append(f"{kind} of {path!r} has no place in this graph; give renamed_from or at")
        clears.append(key)
    if problems:
        raise GraphHashMismatch(trace_id, recorded, plan.hash, problems)
    return [GraphChanged(plan.hash, recorded, moved, clears), *more]


def _has_place(plan: Plan, path: str) -> bool:
    base, slash, branch = path.partition("/")
    node = plan.nodes.get(base)
    if node is None or not slash:
        return node is not None
    return node.kind == "map" or branch in {name.rpartition(".")[2] for name in node.branches}


def _again(kind: str, path: str, value: Any) -> list[ControlEvent]:
    """The events that put `value` under the new path; counts of attempts begin again."""
    if kind == "intent":
        return [NodeIntended(path, value["key"], value["attempt"])]
    if kind == "held":
        return [BranchExecuted(path, deltas=msgspec.convert(value, list[StateDelta]))]
    if kind == "calls":
        return [ValueRecorded(path, name, called, held=True) for name, called in value]
    return []
