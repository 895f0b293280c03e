"""The second half of the fold: where a run stands.

Control is a flat mapping folded by the same ops as the state: an event is translated into deltas on
control keys, so bases, links and forks carry it with no mechanism of its own. Keys: `name`, `status`,
`graph_hash`, `next`, `steps`, `waits` (barriers pending), `visits/NODE`, `reducer/KEY`, `raised/NODE`,
`barrier/ID`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ControlDelta = tuple[str, str, Any]

ENDED = frozenset({"completed", "failed", "cancelled"})


def control_deltas(kind: str, data: Mapping[str, Any]) -> Sequence[ControlDelta]:
    """What one event (as its body holds it) does to control, as `(key, op, value)`.

    >>> control_deltas("node_executed", {"node": "ask", "next": "answer"})
    (('steps', 'sum', 1), ('visits/ask', 'sum', 1), ('next', 'put', 'answer'))
    """
    if kind == "node_executed":
        return executed_deltas(data["node"], data.get("next")) if data.get("success", True) else ()
    return tuple(_rare_deltas(kind, data))


def executed_deltas(node: str, next_node: str | None) -> Sequence[ControlDelta]:
    """What a node's successful execution does to control."""
    return ("steps", "sum", 1), ("visits/" + node, "sum", 1), ("next", "put", next_node)


def _rare_deltas(kind: str, data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    if kind == "trace_started":
        yield "name", "put", data["name"]
        yield "status", "put", "running"
        yield "graph_hash", "put", data.get("graph_hash", "")
        yield "next", "put", data.get("node")
        for key, reducer in data.get("reducers", {}).items():
            yield f"reducer/{key}", "put", reducer
    elif kind == "trace_forked":
        yield "name", "put", data["name"]
        yield "status", "put", "running"
        if data.get("node") is not None:
            yield "next", "put", data["node"]
    elif kind == "barrier_raised":
        yield "waits", "sum", 1
        yield f"raised/{data['node']}", "sum", 1
        yield f"barrier/{data['barrier_id']}", "put", data["node"]
    elif kind == "barrier_decided":
        yield "waits", "sum", -1
        yield f"barrier/{data['barrier_id']}", "delete", None
        if data["decision"]["action"] == "reroute":
            yield "next", "put", data["decision"]["target"]
    elif kind == "trace_ended":
        yield "status", "put", data.get("status", "completed")
        yield "next", "put", None


def status_of(control: Mapping[str, Any]) -> str:
    """running, waiting (while a barrier is pending), completed, failed or cancelled.

    >>> status_of({"status": "running", "waits": 1})
    'waiting'
    """
    status = str(control.get("status", "running"))
    return "waiting" if status == "running" and control.get("waits") else status


def reducers(control: Mapping[str, Any]) -> dict[str, str]:
    """The reducers' names by key.

    >>> reducers({"reducer/n": "sum", "steps": 3})
    {'n': 'sum'}
    """
    return {key[8:]: value for key, value in control.items() if key.startswith("reducer/")}


def pending_barriers(control: Mapping[str, Any]) -> list[str]:
    """The ids of the barriers that wait, in the order they were raised.

    >>> pending_barriers({"barrier/approve#1": "approve"})
    ['approve#1']
    """
    return [key[8:] for key in control if key.startswith("barrier/")]
