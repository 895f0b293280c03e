"""The analysis database: its tables, indexes and views, for SQL by people, Datasette and notebooks.

Rows belong to the trace that wrote them: a fork's shared prefix stands once, under its parent, and `lineage`
tells which stretch of which trace a run's history is made of. Times are ISO 8601 in UTC, values JSON in TEXT.
Whatever a row is found by is a plain column; what is derived is a view.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

APPLICATION_ID = 0x74724178  # "trAx"
FORMAT = 1
LARGEST = sys.float_info.max  # JSON knows no infinity


class Table(NamedTuple):
    """A table: types by column, the primary key, and foreign keys as sqlite-utils takes them."""

    columns: dict[str, type]
    pk: str | tuple[str, ...]
    foreign_keys: tuple[tuple[Any, str, Any], ...] = ()


RUN = ("trace_id", "runs", "trace_id")
TABLES: dict[str, Table] = {
    "runs": Table(
        {
            "trace_id": str,
            "name": str,
            "status": str,
            "version": int,
            "started_at": str,
            "updated_at": str,
            "steps": int,
            "failed_attempts": int,
            "duration_ms": float,
            "token_cost": float,
            "waited_s": float,
            "pending_barriers": int,
            "parent_trace_id": str,
            "fork_seq": int,
            "graph_hash": str,
            "state": str,
        },
        "trace_id",
        (("parent_trace_id", "runs", "trace_id"),),
    ),
    "steps": Table(
        {
            "trace_id": str,
            "seq": int,
            "step": int,
            "node": str,
            "branch": str,
            "attempt": int,
            "success": int,
            "error": str,
            "started_at": str,
            "ended_at": str,
            "duration_ms": float,
            "token_cost": float,
            "has_side_effects": int,
            "next": str,
            "falls_back": int,
            "retry_at": str,
        },
        ("trace_id", "seq"),
        (RUN,),
    ),
    "deltas": Table(
        {
            "trace_id": str,
            "seq": int,
            "step_seq": int,
            "step": int,
            "node": str,
            "key": str,
            "op": str,
            "value": str,
            "source": str,
            "at": str,
        },
        ("trace_id", "seq"),
        (RUN, (("trace_id", "step_seq"), "steps", ("trace_id", "seq"))),
    ),
    "events": Table({"trace_id": str, "seq": int, "kind": str, "data": str, "at": str}, ("trace_id", "seq"), (RUN,)),
    "barriers": Table(
        {
            "trace_id": str,
            "barrier_id": str,
            "node": str,
            "reason": str,
            "prompt": str,
            "raised_seq": int,
            "raised_at": str,
            "deadline_at": str,
            "decided_seq": int,
            "decided_at": str,
            "action": str,
            "decided_by": str,
            "detail": str,
            "waited_s": float,
        },
        ("trace_id", "barrier_id"),
        (RUN,),
    ),
    "checkpoints": Table(
        {"checkpoint_id": str, "trace_id": str, "seq": int, "node": str, "triggers": str, "created_at": str},
        "checkpoint_id",
        (RUN,),
    ),
    "messages": Table(
        {
            "id": int,
            "trace_id": str,
            "seq": int,
            "key": str,
            "item": int,
            "role": str,
            "name": str,
            "content": str,
            "tool_calls": str,
            "tool_call_id": str,
            "at": str,
        },
        "id",
        (RUN,),
    ),
    "export_progress": Table(
        {"trace_id": str, "version": int, "digest": str, "last_step": int},
        "trace_id",
        (RUN,),
    ),
}
"""`export_progress`: up to where each run is exported; the others as their names say."""

UNIQUE = {"messages": ("trace_id", "seq", "key", "item")}
INDEXES: dict[str, tuple[tuple[str, ...], ...]] = {
    "runs": (("name",), ("status",), ("parent_trace_id",)),
    "steps": (("node", "branch", "duration_ms"), ("duration_ms",)),
    "deltas": (("key", "node", "source"),),
    "events": (("kind",),),
    "barriers": (("decided_at",),),
    "checkpoints": (("trace_id", "seq"),),
    "messages": (("role",),),
}

VIEWS: dict[str, str] = {
    "costs_by_node": f"""
WITH sizes AS (
  SELECT node, branch, count(*) AS executions, min(sum(duration_ms), {LARGEST}) AS total_duration_ms,
         max(duration_ms) AS longest_duration_ms
    FROM steps GROUP BY node, branch
), ranked AS (
  SELECT node, branch, duration_ms, row_number() OVER (PARTITION BY node, branch ORDER BY duration_ms) AS place
    FROM steps
), medians AS (
  SELECT r.node, r.branch, min(avg(r.duration_ms), {LARGEST}) AS median_duration_ms
    FROM ranked r JOIN sizes s ON s.node = r.node AND s.branch IS r.branch
   WHERE r.place IN ((s.executions + 1) / 2, (s.executions + 2) / 2) GROUP BY r.node, r.branch
), costs AS (
  SELECT node, branch, count(DISTINCT trace_id) AS runs, sum(NOT success) AS failures,
         min(sum(token_cost), {LARGEST}) AS token_cost
    FROM steps GROUP BY node, branch
)
SELECT s.node, s.branch, runs, executions, failures, total_duration_ms, median_duration_ms, longest_duration_ms,
       token_cost
  FROM sizes s JOIN medians m ON m.node = s.node AND m.branch IS s.branch
  JOIN costs c ON c.node = s.node AND c.branch IS s.branch
 ORDER BY token_cost DESC, total_duration_ms DESC""",
    "slowest_steps": """
SELECT s.duration_ms, s.node, s.branch, s.attempt, s.success, s.error, s.token_cost, s.trace_id, r.name, s.seq,
       s.started_at
  FROM steps s JOIN runs r USING (trace_id) ORDER BY s.duration_ms DESC""",
    "failures": """
SELECT s.trace_id, r.name, r.status, s.seq, s.node, s.branch, s.attempt, s.error, s.ended_at
  FROM steps s JOIN runs r USING (trace_id) WHERE NOT s.success ORDER BY s.ended_at DESC""",
    "waiting": """
SELECT b.trace_id, r.name, b.barrier_id, b.node, b.reason, b.prompt, b.raised_at, b.deadline_at
  FROM barriers b JOIN runs r USING (trace_id)
 WHERE b.decided_at IS NULL AND r.status = 'waiting' ORDER BY b.raised_at""",
    "writers_of_keys": """
SELECT key, node, source, count(*) AS deltas, count(DISTINCT trace_id) AS runs
  FROM deltas GROUP BY key, node, source ORDER BY key, deltas DESC""",
    "latest_messages": """
SELECT m.trace_id, r.name AS run, r.status, m.key, m.role, m.content, m.tool_calls, m.at
  FROM messages m JOIN runs r USING (trace_id)
 WHERE m.id = (SELECT l.id FROM messages l WHERE l.trace_id = m.trace_id ORDER BY l.seq DESC, l.item DESC LIMIT 1)
 ORDER BY m.at DESC""",
    "run_tree": """
WITH RECURSIVE tree (trace_id, root_trace_id, depth, path) AS (
  SELECT trace_id, trace_id, 0, trace_id FROM runs WHERE parent_trace_id IS NULL
  UNION ALL
  SELECT r.trace_id, t.root_trace_id, t.depth + 1, t.path || ' > ' || r.trace_id
    FROM runs r JOIN tree t ON r.parent_trace_id = t.trace_id
)
SELECT t.root_trace_id, t.depth, t.trace_id, r.name, r.status, r.fork_seq, r.version, r.steps, r.token_cost, t.path
  FROM tree t JOIN runs r USING (trace_id) ORDER BY t.path""",
    "lineage": """
WITH RECURSIVE segment (trace_id, owner, after_seq, upto_seq) AS (
  SELECT trace_id, trace_id, coalesce(fork_seq, 0), version FROM runs
  UNION ALL
  SELECT s.trace_id, p.trace_id, coalesce(p.fork_seq, 0), r.fork_seq
    FROM segment s JOIN runs r ON r.trace_id = s.owner JOIN runs p ON p.trace_id = r.parent_trace_id
)
SELECT trace_id, owner, after_seq, upto_seq FROM segment WHERE upto_seq > after_seq ORDER BY trace_id, after_seq""",
}
"""`lineage`: the events of `owner` with `after_seq < seq <= upto_seq` are part of the history of `trace_id`."""
