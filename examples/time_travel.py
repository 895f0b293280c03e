"""An agent's run, and what one can ask of it afterwards: any step, any difference, who wrote it, another future.

    python examples/time_travel.py [--db FILE] [--svg FILE]

A human refuses the agent's draft. What was it like at step 2, what changed since, who wrote the answer, and why? And
what would have happened had the human said yes: a fork from just before the decision.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from _support import graph

import eventstore as es
from eventstore.picture import svg


def refused(store: es.Store) -> es.Trace:
    """The run, refused by a human after a while."""
    run = es.run(graph, store)
    time.sleep(0.2)
    store.decide(run.trace_id, "approve", es.Reject("too generous", by="bo"))
    es.resume(graph, store, run.trace_id)
    return store.open_trace(run.trace_id)


def look_back(trace: es.Trace) -> None:
    """Any step, any difference, who wrote it."""
    print("Steps:", [past.node for past in trace.history() if past.node])
    print("Spent at step 2:", trace.get("spent", at="step:2"))
    print(f"\nSince then:\n{es.diff(trace.at(step=2), trace)}")
    writes = trace.blame("messages")
    for write in writes:
        print(f"\nStep {write.step}, {write.node}, wrote: {write.value[0]['content']}")
    print(trace.why(writes[-1].seq))


def other_future(store: es.Store, trace: es.Trace) -> None:
    """A fork from just before the decision, decided otherwise."""
    before = store.checkpoints.list(trace.id)[-1]
    assert before.triggers == (es.CheckpointTrigger.HUMAN_DECISION,)
    other = trace.fork(before.seq)
    store.decide(other.id, "approve", es.Approve(by="ana"))
    es.resume(graph, store, other.id)
    print(f"\nHad the human said yes after event {before.seq}:")
    print(es.diff(trace, store.open_trace(other.id)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Look back at a run, and take another future of it.")
    parser.add_argument("--db", type=Path, default=Path("time_travel.db"), help="the event store")
    parser.add_argument("--svg", type=Path, help="where to draw the timeline")
    options = parser.parse_args()
    with es.open(options.db) as store:
        trace = refused(store)
        look_back(trace)
        other_future(store, trace)
        print(f"\nReplayed, the graph does the same: {es.replay(graph, store, trace.id).ok}")
        if options.svg is not None:
            options.svg.write_text(svg(trace.timeline()), "utf-8")


if __name__ == "__main__":
    main()
