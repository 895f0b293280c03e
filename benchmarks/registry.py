"""The cases by name: what each measures, where it is, and how long it takes on a slow machine of two cores.

A case is a generator of measures and measurements; its module is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module

import msgspec

from .bench import Bench
from .result import Measure, Measurement

Found = Iterator[Measure | Measurement]


class Case(msgspec.Struct, frozen=True):
    """`where`: `module:function` in `benchmarks.cases`, or `module:function:…` of a function that makes the case.

    `seconds`: what it takes at its default size, for the progress bar before any run is known.
    """

    where: str
    seconds: float
    about: str

    def function(self) -> Callable[[Bench], Found]:
        """The case's function."""
        module, name, *made_of = self.where.split(":")
        found = getattr(import_module(f"benchmarks.cases.{module}"), name)
        return found(*made_of) if made_of else found  # type: ignore[no-any-return]


CASES: dict[str, Case] = {
    "peers-chat": Case("peers:peers:chat", 120, "one chat run of 1,000 steps, by every system"),
    "peers-small-runs": Case("peers:peers:small-runs", 90, "2,000 runs of three steps"),
    "peers-agent-runs": Case("peers:peers:agent-runs", 40, "60 runs of 6 to 62 steps, as real agents take"),
    "peers-overwrite": Case("peers:peers:overwrite", 25, "8 of 2,000 keys a step"),
    "peers-document": Case("peers:peers:document", 25, "one document of 40 kB, rewritten at each step"),
    "peers-mixed": Case("peers:peers:mixed", 25, "messages, keys and the document"),
    "peers-transcripts": Case("peers:peers:transcripts", 30, "real runs, with --input FILE"),
    "costs": Case("costs:noise_free", 60, "syncs, bytes and instructions a step, by every system"),
    "contention": Case("contention:contention", 90, "threads and processes on one file, by every system"),
    "growth": Case("growth:growth", 80, "the cost of a step as a run grows, and as a file fills with runs"),
    "fold-policies": Case("folding:folding", 30, "when to fold: never, at every 100th step, geometric, adaptive"),
    "batch-import": Case("importing:importing", 10, "many steps a commit"),
    "starting": Case("starting:starting", 15, "importing the package, opening a file"),
    "memory-peaks": Case("memory_peaks:memory_peaks", 15, "peak memory of a writer and of a reader"),
    "step-full": Case("steps:full", 12, "a durable step, FULL, to the floor"),
    "step-normal": Case("steps:normal", 15, "a durable step, NORMAL, to the floor"),
    "syncs": Case("steps:syncs", 8, "syncs a commit"),
    "threads": Case("concurrency:threads", 12, "32 threads to one"),
    "tasks": Case("concurrency:tasks", 12, "200 asyncio tasks to one append at a time"),
    "processes": Case("concurrency:processes", 25, "4 processes: slowest step, fairness"),
    "chat": Case("chat:run", 15, "a chat run's file and its latest state, to decoding its JSON"),
    "random-seq": Case("scale:reads", 12, "the state at a random seq of 100,000 steps"),
    "depth": Case("scale:long_append", 12, "an append at the end of 100,000 steps"),
    "breadth": Case("scale:many_append", 15, "an append among 50,000 traces"),
    "memory": Case("memory:run", 15, "what an open trace holds, what a reader of a long trace holds"),
    "node-full": Case("runs:node_full", 12, "a node of a durable run, FULL"),
    "node-normal": Case("runs:node_normal", 12, "a node of a durable run, NORMAL"),
    "short-runs": Case("runs:short", 15, "runs of one node"),
    "inbox": Case("inbox:inbox", 20, "10,000 runs that wait, and a decision"),
    "branches": Case("side_by_side:fan", 15, "branches of a map"),
    "concurrent-runs": Case("side_by_side:together", 15, "200 async runs at once"),
    "resume": Case("side_by_side:resumed", 10, "a run resumed after 10,000 steps"),
    "history": Case("lookback:history", 10, "every state of a run"),
    "at": Case("lookback:any_step", 40, "any step of a long run"),
    "fork": Case("lookback:fork", 8, "forks early and late"),
    "blame": Case("lookback:blame", 5, "who wrote a key"),
    "diff": Case("lookback:diff", 5, "what changed between two places"),
    "export": Case("export:export", 60, "the analysis database"),
    "langgraph-file": Case("langgraph_cases:case:langgraph_writing:file", 20, "the checkpointer's file"),
    "langgraph-put": Case("langgraph_cases:case:langgraph_writing:put", 40, "the checkpointer's put_writes and put"),
    "langgraph-wall": Case("langgraph_cases:case:langgraph_writing:run", 40, "a compiled graph's run"),
    "langgraph-get": Case("langgraph_cases:case:langgraph_reading:get", 30, "the checkpointer's get_tuple"),
    "langgraph-history": Case("langgraph_cases:case:langgraph_reading:history", 40, "get_state_history"),
    "langgraph-processes": Case(
        "langgraph_cases:case:langgraph_processes:processes", 30, "4 processes that checkpoint"
    ),
}
