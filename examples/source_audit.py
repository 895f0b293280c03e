"""Audit Python source as a durable run, whose worker is killed half-way: another one goes on where the log ends."""

from __future__ import annotations

import argparse
import sysconfig
import warnings
from pathlib import Path

from _source import COUNTS, State, find_modules, measure_all
from _supervisor import supervise

import eventstore as es

CHUNKS, ROUND = 32, 8  # branches in all, and branches whose results are joined together
START: State = {"modules": [], "unreadable": [], **dict.fromkeys(COUNTS, 0)}
APPEND, MAX, SUM = es.Reducer.APPEND, es.Reducer.MAX, es.Reducer.SUM
REDUCERS = {"modules": APPEND, "unreadable": APPEND, **dict.fromkeys(COUNTS, SUM), "longest": MAX}
graph = es.Graph("source-audit", reducers=REDUCERS)


@graph.node
def find(ctx: es.Context) -> State:
    found = find_modules(Path(ctx.state["folder"]))
    return {"found": len(found), "chunks": [found[at::CHUNKS] for at in range(min(CHUNKS, len(found)))]}


@graph.node
def deal(ctx: es.Context) -> State:
    first, end = (ctx.occurrence - 1) * ROUND, min(ctx.occurrence * ROUND, len(ctx.state["chunks"]))
    return {"round": list(range(first, end)), "dealt": end}


@graph.node
def audit(ctx: es.Context, chunk: int) -> State:
    return measure_all(Path(ctx.state["folder"]), ctx.state["chunks"][chunk])


@graph.node
def report(ctx: es.Context) -> State:
    return {"report": sorted(ctx.state["modules"], key=lambda module: -module["lines"])[:10]}


graph.map("audit", over="round", max_concurrency=2)
graph.barrier("approve", prompt=lambda state: f"Report on {len(state['modules']):,} modules?")
graph.start("find").edge("find", "deal").edge("deal", "audit")
graph.edge_if("audit", "deal", lambda state: state["dealt"] < len(state["chunks"]), name="more")
graph.edge("audit", "approve").edge("approve", "report").end("report")


def main() -> None:
    parser = argparse.ArgumentParser(description="Audit Python source as a durable run; kill it, and lose nothing.")
    library = Path(sysconfig.get_path("stdlib"))
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=library, help=f"default: {library}")
    parser.add_argument("--db", type=Path, default=Path("source_audit.db"), help="the event store to write to")
    parser.add_argument("--work-on", metavar="TRACE", help=argparse.SUPPRESS)  # the worker, which is killed
    options = parser.parse_args()
    chunks = min(CHUNKS, len(find_modules(options.folder)))
    if not chunks:
        parser.error(f"{options.folder} holds no Python source")
    if options.work_on:
        warnings.simplefilter("ignore")  # of the source that is read
        with es.open(options.db) as store:
            es.run(graph, store, START | {"folder": str(options.folder.resolve())}, id=options.work_on)
    else:
        supervise(__file__, graph, options.folder, options.db, chunks)


if __name__ == "__main__":
    main()
