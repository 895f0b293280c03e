"""Make the golden file of a format: `python tests/data/make_golden.py FOLDER`, run once with the version that has it.

It writes `format-N.db`, a small file with a little of all that the version can record, and `format-N.json`, what that
version itself read back from it. Later versions are held to these answers; a file that was made is never made again.
What older versions lack is left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import eventstore as es
from eventstore import database


def record(store):
    """Traces of every kind that this version knows; the ids of those that can still be read."""
    chat = store.start(
        {"messages": [], "total": 0}, id="chat", name="chat", reducers={"messages": "append", "total": "sum"}
    )
    for number in range(30):
        with chat.step("ask") as step:
            step.put("messages", [{"role": "user", "text": f"número {number}"}])
            step.put("total", number)
            step.put("last", number % 7)
            if number % 5 == 4:
                step.delete("last")
    chat.checkpoint()
    chat.append(
        [es.StateDelta.splice("messages", 0, 2, [{"role": "system", "text": "cut"}]), es.Note("seen", {"by": "ana"})]
    )
    barrier = chat.raise_barrier("approve", prompt="Refund 40?")
    chat.decide(barrier, es.Modify({"limit": 40}, by="ana"))
    chat.append([es.StateDelta.put("done", True)], append_id="job-7")
    fork = store.fork("chat", 9, id="fork")
    with fork.step("other") as step:
        step.put("messages", ["another way"])
    waiting = store.start({}, id="waiting", name="ask")
    waiting.raise_barrier("gate", prompt="Go on?")
    trimmed = store.start({"n": 0}, id="trimmed", reducers={"n": "sum"})
    for _ in range(12):
        with trimmed.step("count") as step:
            step.put("n", 1)
    trimmed.end()
    store.trim("trimmed", 13, retry_window_s=0)
    store.start({"secret": "word"}, id="erased")
    store.erase("erased", by="ana")
    ids = ["chat", "fork", "waiting", "trimmed"]
    if hasattr(es, "Graph"):
        graph = refund()
        for run_id in ("run-done", "run-open"):
            es.run(graph, store, {"log": []}, id=run_id)
        store.decide("run-done", "approve", es.Approve(by="bo"))
        es.resume(graph, store, "run-done")
        ids += ["run-done", "run-open"]
    return ids


def refund():
    """The graph of the runs."""
    graph = es.Graph("refund", reducers={"log": "append"})

    @graph.node
    def plan(ctx):
        return {"log": ["plan"], "amount": 40}

    @graph.node(side_effects=True)
    def pay(ctx):
        return {"log": ["paid"]}

    return (
        graph.barrier("approve", prompt="Pay?").start("plan").edge("plan", "approve").edge("approve", "pay").end("pay")
    )


def thread(store):
    """A thread of LangGraph, where this version keeps them: the answers of its saver."""
    from langchain_core.messages import AIMessage, HumanMessage
    from langgraph.graph import START, MessagesState, StateGraph

    from eventstore.integrations.langgraph import EventStoreSaver

    graph = StateGraph(MessagesState)
    graph.add_node("answer", lambda state: {"messages": [AIMessage("yes", id=str(len(state["messages"])))]})
    graph.add_edge(START, "answer")
    compiled = graph.compile(checkpointer=EventStoreSaver(store))
    config = {"configurable": {"thread_id": "thread-1"}}
    for text in ("one", "two"):
        compiled.invoke({"messages": [HumanMessage(text, id=text)]}, config)


def answers(store, ids):
    """What can be read of these traces, as plain JSON."""
    told = {}
    for trace_id in ids:
        events = list(store.events(trace_id))
        first = 13 if trace_id == "trimmed" else 1
        version = store.open_trace(trace_id).version
        told[trace_id] = {
            "version": version,
            "events": [[event.seq, event.kind, event.at.isoformat()] for event in events],
            "states": {
                str(seq): store.state_at(trace_id, seq)
                for seq in range(first, version + 1)
                if seq % 7 in (0, version % 7)
            },
            "checkpoints": [
                [str(found.checkpoint_id), found.seq, found.current_node] for found in store.checkpoints.list(trace_id)
            ],
            "status": next(info.status for info in store.traces(limit=1000) if info.trace_id == trace_id),
            "digest": store.verify(trace_id).heads[trace_id],
        }
    return told


def main(folder):
    number = database.FORMAT if hasattr(database, "FORMAT") else len(database.schema_scripts())
    path = Path(folder) / f"format-{number}.db"
    assert not path.exists(), f"{path} was made already"
    with es.open(path, fold_policy=es.FoldEvery(7)) as store:
        ids = record(store)
        has_threads = number >= 6
        if has_threads:
            thread(store)
        told = answers(store, ids)
        assert store.verify().ok
    for beside in ("-lock", "-owners"):
        Path(f"{path}{beside}").unlink(missing_ok=True)
    path.with_suffix(".json").write_text(
        json.dumps({"traces": told, "threads": has_threads}, indent=0, ensure_ascii=False) + "\n", "utf-8"
    )
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1])
