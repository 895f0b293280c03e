"""The cases that need LangGraph: left out, with a note, where it is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec

from benchmarks.bench import Bench
from benchmarks.result import Measure

NEEDED = ("langgraph", "langgraph.graph", "langgraph.checkpoint", "langgraph.checkpoint.sqlite")


def case(module: str, function: str) -> Callable[[Bench], Iterator[Measure]]:
    """The case `function` of `benchmarks.MODULE`, which is not imported before it runs."""

    def measured(bench: Bench) -> Iterator[Measure]:
        if not all(map(find_spec, NEEDED)):  # from the outside in: a name in what is missing cannot be looked for
            bench.say(f"{module}: LangGraph is not installed (pip install 'trace-eventstore[bench]'), left out")
            return
        yield from getattr(import_module(f".{module}", __package__), function)(bench)

    return measured
