"""A refund that a human approves, as a durable run: it waits days for the answer, and pays once.

python examples/refund.py                                   # runs to the question
python examples/refund.py --decide TRACE --by ana           # anyone answers, from any process
python examples/refund.py --resume TRACE                    # the run goes on
"""

from __future__ import annotations

import argparse
from typing import Any

import eventstore as es

graph = es.Graph("refund")


@graph.node
def fetch(ctx: es.Context) -> dict[str, Any]:
    return {"order": {"id": 7, "total": 40}}


graph.barrier("approve", prompt="Refund 40?", timeout_s=86_400, on_timeout=es.Reject("no answer in a day"))


@graph.node(side_effects=True, in_doubt="ask")
def pay(ctx: es.Context) -> dict[str, Any]:
    # The bank gets the key with the payment: it is the same in every attempt, so it can refuse a second one.
    return {"paid": {"amount": ctx.state["order"]["total"], "key": ctx.idempotency_key}}


@graph.node
def refuse(ctx: es.Context) -> dict[str, Any]:
    return {"refused": ctx.state.get("approve.reject_reason", "")}


graph.start("fetch").edge("fetch", "approve")
graph.edge_if("approve", "pay", lambda state: state.get("approve.approved", False), name="approved")
graph.edge("approve", "refuse").end("pay", "refuse")


def show(result: es.GraphResult, store: es.Store) -> None:
    print(f"{result.trace_id} is {result.status}: {' > '.join(entry.node_name for entry in result.execution_log)}")
    for asked in store.barriers(trace_id=result.trace_id):
        until = f", until {asked.deadline_at:%Y-%m-%d %H:%M} UTC" if asked.deadline_at else ""
        print(f"{asked.prompt} ({asked.barrier_id}{until})")
        print(f"  python examples/refund.py --db {store.path} --decide {asked.trace_id} --by YOU [--reject REASON]")
        print(f"  python examples/refund.py --db {store.path} --resume {asked.trace_id}")
    for key in ("paid", "refused"):
        if key in result.state:
            print(f"{key}: {result.state[key]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A refund that waits for a human's approval, then pays once.")
    parser.add_argument("--db", default="refund.db", help="the event store (default: refund.db)")
    parser.add_argument("--decide", metavar="TRACE", help="answer the question of that run: yes, unless --reject")
    parser.add_argument("--by", metavar="NAME", help="who answers")
    parser.add_argument("--reject", metavar="REASON", help="the answer is no")
    parser.add_argument("--resume", metavar="TRACE", help="go on with that run")
    options = parser.parse_args()
    try:
        with es.open(options.db, create=not (options.decide or options.resume)) as store:
            if options.decide:
                answer = es.Approve(options.by) if options.reject is None else es.Reject(options.reject, options.by)
                print(f"{store.decide(options.decide, 'approve', answer)}: {type(answer).__name__.lower()}")
            elif options.resume:
                show(es.resume(graph, store, options.resume), store)
            else:
                show(es.run(graph, store), store)
    except es.EventStoreError as refused:  # a second answer, one after the deadline, an unknown run
        parser.exit(1, f"{refused}\n")


if __name__ == "__main__":
    main()
