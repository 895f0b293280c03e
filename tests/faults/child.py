"""A process that works on a run: it says that it is ready, takes orders, and says what came of them.

`python -m tests.faults.child` reads orders, a JSON object a line, from its standard input; see `work`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time

import eventstore as es

from .world import INPUT, ROUNDS, Outside, make_graph

STORES = []


def tell(message):
    """One line of JSON to whoever started this process."""
    print(json.dumps(message), flush=True)


def work(order):
    """Start or resume the runs of the order, and tell how each went."""
    outside = Outside(order["outside"], order["process"])
    if "fault" in order:
        outside.watch = fault(**order["fault"])
    is_async, pace, rounds = order.get("is_async", False), order.get("pace", 0.001), order.get("rounds", ROUNDS)
    graph = make_graph(outside, is_async=is_async, pace=pace, rounds=rounds)
    tell("began")
    with es.open(
        order["path"], durability=order.get("durability", "full"), owner_timeout_s=order.get("owner_timeout_s", 30.0)
    ) as store:
        STORES.append(store)
        if "shuffle" in order:
            return share(graph, store, order)
        return attempt(graph, store, order["trace_id"], order.get("force", False), is_async)


def fault(what, path, action, times=1):
    """Right after that line is written outside, for the n-th time: a signal to this very process, or a fork."""
    left = times

    def watch(kind, ctx):
        nonlocal left
        left -= (kind, ctx.path) == (what, path)
        if left == 0:
            left = -1
            if action == "fork":
                fork(ctx.trace_id)
            else:
                with STORES[-1]._writer._mutex:  # stopped in a commit, it would keep the whole file
                    os.kill(os.getpid(), getattr(signal, action))
                    time.sleep(0.05)  # the signal may reach another thread first, a moment later

    return watch


def fork(trace_id):
    """In the midst of a run, a child that tries the store it was born with; then both wait for their end."""
    born = os.fork()
    if born == 0:
        graph = make_graph(Outside(os.devnull))
        tries = {
            "read": lambda: STORES[-1].state_at(trace_id),
            "append": lambda: STORES[-1].append(trace_id, [es.Note("mine")]),
            "resume": lambda: es.resume(graph, STORES[-1], trace_id),
            "run": lambda: es.run(graph, STORES[-1], INPUT, id=trace_id),
            "close": STORES[-1].close,
        }
        found = {}
        for name, act in tries.items():
            try:
                act()
                found[name] = None
            except Exception as error:
                found[name] = type(error).__name__
        tell({"pid": os.getpid(), "found": found})
    while True:
        time.sleep(1)


def attempt(graph, store, trace_id, force=False, is_async=False):
    """Run or resume one run; its status, or the name of the error."""
    try:
        if force:
            result = es.resume(graph, store, trace_id, force=True)
        elif is_async:
            result = asyncio.run(es.run_async(graph, store, INPUT, id=trace_id))
        else:
            result = es.run(graph, store, INPUT, id=trace_id)
    except es.EventStoreError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"status": result.status, "pending": result.pending_barriers}


def share(graph, store, order):
    """Resume every run of the order, leaving those that another process works on, until all are done."""
    left = list(order["trace_ids"])
    random.Random(order["shuffle"]).shuffle(left)
    counts = {"completed": 0, "owned": 0}
    while left:
        trace_id = left.pop(0)
        found = attempt(graph, store, trace_id)
        if found.get("status") == "completed":
            counts["completed"] += 1
        elif found.get("error") == "RunOwned":
            counts["owned"] += 1
            left.append(trace_id)
        else:
            return {"error": "unexpected", "text": f"{trace_id}: {found}"}
    return counts


if __name__ == "__main__":
    tell("ready")
    for line in sys.stdin:
        tell(work(json.loads(line)))
