"""The second half of the fold: where a run stands.

Control is a flat mapping folded by the same ops as the state: an event is translated into deltas on
control keys, so bases, links and forks carry it with no mechanism of its own. Keys of every trace: `name`,
`status`, `graph_hash`, `next`, `steps`, `waits` (barriers pending), `visits/NODE`, `reducer/KEY`,
`raised/NODE`, `barrier/ID`, `resolved/NODE` (the decision a node goes on with). Keys of a durable run, by
the path of a node or branch: `epoch`, `unrouted`, `cancel`, `decision/ID`, `intent/PATH`, `retry/PATH`,
`held/PATH` (a branch's result), `failed/PATH`, `calls/PATH` (values recorded at once). Keys of another
framework's thread: `scope`, `checkpoint` (the last one), `versions` by channel, `seen` (versions by node).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .scope_event import unpacked_id

ControlDelta = tuple[str, str, Any]
"""Key, op, value. Beside the ops of a state there is `clear`: every key that begins so is deleted."""

PARENTS_ALONE = ("decision/", "intent/", "retry/", "failed/")
"""What a fork does not inherit of its parent's run; nor a request to cancel."""

ENDED = frozenset({"completed", "failed", "cancelled"})
MAX_EPOCH = 2**53


def control_deltas(kind: str, data: Mapping[str, Any]) -> Sequence[ControlDelta]:
    """What one event (as its body holds it) does to control, as `(key, op, value)`.

    >>> control_deltas("node_executed", {"node": "ask", "next": "answer"})
    (('steps', 'sum', 1), ('visits/ask', 'sum', 1), ('next', 'put', 'answer'))
    """
    if kind == "node_executed":
        if data.get("success", True) and not data.get("clears") and not data.get("unrouted"):
            return executed_deltas(data["node"], data.get("next"))
        return tuple(_executed(data))
    deltas = _DELTAS.get(kind)
    return () if deltas is None else tuple(deltas(data))


def executed_deltas(node: str, next_node: str | None) -> Sequence[ControlDelta]:
    """What a node's plain, successful execution does to control."""
    return ("steps", "sum", 1), ("visits/" + node, "sum", 1), ("next", "put", next_node)


def _executed(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    node = data["node"]
    yield from _cleared(data)
    if data.get("success", True):
        yield from executed_deltas(node, data.get("next"))
        if data.get("unrouted"):
            yield "unrouted", "put", node
    elif data.get("retry_at_us") is not None:
        yield f"retry/{node}", "put", _retry(data)
    elif data.get("falls_back"):
        yield "steps", "sum", 1
        yield f"visits/{node}", "sum", 1
        yield "next", "put", data.get("next")


def _retry(data: Mapping[str, Any]) -> dict[str, int]:
    at_us = data["retry_at_us"]
    return {"attempt": data.get("attempt", 1), "at_us": at_us, "since_us": data.get("since_us", at_us)}


def _cleared(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    for key in data.get("clears", ()):
        yield key, "delete", None


def _trace_started(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    yield "name", "put", data["name"]
    yield "status", "put", "running"
    yield "graph_hash", "put", data.get("graph_hash", "")
    yield "next", "put", data.get("node")
    for key, reducer in data.get("reducers", {}).items():
        yield f"reducer/{key}", "put", reducer


def _trace_forked(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    yield "name", "put", data["name"]
    yield "status", "put", "running"
    for barrier_id, node in data.get("withdrawn", ()):
        yield "waits", "sum", -1
        yield f"raised/{node}", "sum", -1
        yield f"barrier/{barrier_id}", "delete", None
    yield from _cleared(data)
    yield "cancel", "delete", None
    for prefix in PARENTS_ALONE:
        yield prefix, "clear", None
    if data.get("node") is not None:
        yield "next", "put", data["node"]


def _barrier_raised(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    yield "waits", "sum", 1
    yield f"raised/{data['node']}", "sum", 1
    asked = {name: data[name] for name in ("node", "deadline_us", "default", "reason") if data.get(name) is not None}
    yield f"barrier/{data['barrier_id']}", "put", asked


def _barrier_decided(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    action = data["decision"]["action"]
    yield "waits", "sum", -1
    yield f"barrier/{data['barrier_id']}", "delete", None
    yield f"resolved/{data['node']}", "put", action
    if data.get("submitted"):
        yield f"decision/{data['barrier_id']}", "delete", None
    if action == "reroute":
        yield "next", "put", data["decision"]["target"]


def _trace_ended(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    status = data.get("status", "completed")
    yield "status", "put", status
    if status == "completed":
        yield "next", "put", None


def _owner_changed(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    yield "epoch", "put", data["epoch"]


def _node_intended(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    yield from _cleared(data)
    yield f"intent/{data['path']}", "put", {"key": data["key"], "attempt": data.get("attempt", 1)}


def _intent_withdrawn(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    yield f"intent/{data['path']}", "delete", None


def _branch_executed(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    path = data["path"]
    yield from _cleared(data)
    if data.get("success", True):
        yield f"held/{path}", "put", data.get("deltas", [])
    elif data.get("retry_at_us") is not None:
        yield f"retry/{path}", "put", _retry(data)
    else:
        yield f"failed/{path}", "put", data.get("error") or ""


def _value_recorded(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    if data.get("held"):
        yield f"calls/{data['path']}", "append", [[data["name"], data.get("value")]]


def _node_routed(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    yield "next", "put", data.get("next")
    yield "unrouted", "delete", None


def _decision_submitted(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    yield f"decision/{data['barrier_id']}", "put", data["decision"]


def _cancel_requested(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    yield "cancel", "put", {"by": data.get("by"), "reason": data.get("reason", "")}


def _graph_changed(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    yield "graph_hash", "put", data["graph_hash"]
    yield from _cleared(data)
    for key, value in data.get("puts", {}).items():
        yield key, "put", value
    if data.get("next") is not None:
        yield "next", "put", data["next"]


def _trace_reopened(data: Mapping[str, Any]) -> Iterator[ControlDelta]:
    yield "status", "put", "running"
    yield from _cleared(data)
    if data.get("next") is not None:
        yield "next", "put", data["next"]


def _scope_entered(data: Sequence[Any]) -> Iterator[ControlDelta]:
    yield "scope", "put", list(data)


CHECKPOINT_DEFAULTS: tuple[Any, ...] = ([], {}, {}, False, None, 4, None, False, None)
"""Of a `CheckpointPut` as its body holds it, from `versions` on."""


def _checkpoint_put(data: Sequence[Any]) -> Iterator[ControlDelta]:
    name, at, *given = data
    versions, seen, metadata, follows, updated, kept_as, parent, is_whole, rest = (
        *given,
        *CHECKPOINT_DEFAULTS[len(given) :],
    )
    by_channel = {channel: version for version, channels in versions for channel in channels}
    op = "put" if is_whole else "merge"
    if by_channel or is_whole:
        yield "versions", op, by_channel
    if seen or is_whole:
        yield "seen", op, seen
    kept = {
        "name": unpacked_id(name),
        "at": at,
        "updated": sorted(by_channel) if updated is True else updated,
        "format": kept_as,
    }
    if not follows:
        kept["parent"] = parent
    if rest is not None:
        kept["rest"] = rest
    if type(metadata) is not dict:
        kept["metadata"] = metadata
    yield "checkpoint", "put", kept


_DELTAS: Mapping[str, Any] = {
    "scope_entered": _scope_entered,
    "checkpoint_put": _checkpoint_put,
    "trace_started": _trace_started,
    "trace_forked": _trace_forked,
    "barrier_raised": _barrier_raised,
    "barrier_decided": _barrier_decided,
    "trace_ended": _trace_ended,
    "owner_changed": _owner_changed,
    "node_intended": _node_intended,
    "intent_withdrawn": _intent_withdrawn,
    "branch_executed": _branch_executed,
    "value_recorded": _value_recorded,
    "node_routed": _node_routed,
    "decision_submitted": _decision_submitted,
    "cancel_requested": _cancel_requested,
    "graph_changed": _graph_changed,
    "trace_reopened": _trace_reopened,
}


def check_types(control: Mapping[str, Any]) -> None:
    """What everything that reads control takes for granted. Raises ValueError.

    >>> check_types({"steps": 3, "next": None}); check_types({"steps": "x"})
    Traceback (most recent call last):
    ValueError: its control has 'steps' as 'x'
    """
    for key, value in control.items():
        kind = key.partition("/")[0]
        if kind in ("steps", "waits", "epoch", "visits", "raised"):
            fits = type(value) is int and 0 <= value <= MAX_EPOCH
        elif kind in ("name", "status", "graph_hash", "unrouted", "resolved", "failed", "reducer"):
            fits = type(value) is str
        elif kind == "next":
            fits = value is None or type(value) is str
        elif kind in ("held", "calls"):
            fits = type(value) is list
        elif kind in ("barrier", "intent", "retry", "decision", "cancel", "versions", "seen"):
            fits = type(value) is dict
        elif kind == "scope":
            fits = type(value) is list and len(value) in (2, 3) and all(type(part) is str for part in value)
        else:
            has = {"name", "at", "updated", "format"}
            fits = kind == "checkpoint" and type(value) is dict and value.keys() >= has
        if not fits:
            raise ValueError(f"its control has {key!r} as {value!r:.60}")


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

    >>> pending_barriers({"barrier/approve#1": {"node": "approve"}})
    ['approve#1']
    """
    return [key[8:] for key in control if key.startswith("barrier/")]


def with_prefix(control: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What stands in control under `prefix`, by the rest of the key.

    >>> with_prefix({"held/gather/search": [], "steps": 3}, "held/gather/")
    {'search': []}
    """
    return {key[len(prefix) :]: value for key, value in control.items() if key.startswith(prefix)}
