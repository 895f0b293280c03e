"""Deadlines by the real clock: a question that nobody answers in time, and a node that takes too long.

    python examples/deadline.py [--wait SECONDS] [--db FILE]

The run ends while it waits for the answer: no process has to stay. The deadline stands in the log, and whoever
looks into the run first after it, however much later, makes the default the decision.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import eventstore as es


def is_approved(state: Mapping[str, Any]) -> bool:
    return bool(state["review.approved"])


def release(answer_within_s: float) -> es.Graph:
    """A graph that publishes a text unless a reviewer objects, with a translation if that is quick enough."""
    graph = es.Graph("release")

    @graph.node
    def draft(ctx: es.Context) -> dict[str, Any]:
        return {"text": "Version 2 is out.", "drafted_at": ctx.now().isoformat()}

    @graph.node(timeout_s=0.3)
    def translate(ctx: es.Context) -> dict[str, Any]:
        time.sleep(0.6)  # a service that does not answer; its late result goes nowhere
        return {"text": "Version 2 ist da."}

    @graph.node
    def publish(ctx: es.Context) -> dict[str, Any]:
        return {"published": ctx.state["text"]}

    @graph.node
    def discard(ctx: es.Context) -> None: ...

    objections = "Any objection? Without an answer it is published."
    graph.barrier("review", prompt=objections, timeout_s=answer_within_s, on_timeout=es.Approve(by="the clock"))
    graph.start("draft").edge("draft", "review").edge_if("review", "translate", is_approved).edge("review", "discard")
    graph.edge("translate", "publish").edge_fallback("translate", "publish")
    return graph.end("publish", "discard")


def main() -> None:
    parser = argparse.ArgumentParser(description="A run whose question nobody answers, and whose node is too slow.")
    parser.add_argument("--wait", type=float, default=2.0, metavar="SECONDS", help="time for an answer (default: 2)")
    parser.add_argument("--db", default=":memory:", help="the event store (default: none that stays)")
    options = parser.parse_args()
    graph = release(options.wait)
    with es.open(options.db) as store:
        run = es.run(graph, store)
        (asked,) = store.barriers(trace_id=run.trace_id)
        assert asked.deadline_at is not None
        print(f"{run.status}: {asked.prompt} ({asked.barrier_id}, until {asked.deadline_at:%H:%M:%S.%f} UTC)")
        time.sleep(max(0.0, (asked.deadline_at - datetime.now(UTC)).total_seconds()) + 0.01)
        (asked,) = store.barriers(trace_id=run.trace_id)  # looking at the inbox shows it, and writes nothing
        print(f"expired: {asked.expired}; the run is still {store.open_trace(run.trace_id).status}")
        done = es.resume(graph, store, run.trace_id)
        (decided,) = store.barriers(pending=False, trace_id=run.trace_id)
        assert decided.decision is not None
        print(f"decided at {decided.decided_at:%H:%M:%S.%f} by {decided.decision.by}")
        for entry in done.execution_log:
            print(f"  {entry.node_name}: {entry.error or 'done'}")
        print(f"{done.status}: {done.state['published']!r}")


if __name__ == "__main__":
    main()
