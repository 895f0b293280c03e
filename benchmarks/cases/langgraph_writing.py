"""A LangGraph saver's writing, against LangGraph's own on SQLite: the file, a step of the saver, a graph's run.

Both under FULL. A saver's step is `put_writes` of what a task wrote, then `put` of the checkpoint after it, called
directly with what a real run calls them. Imported only where LangGraph is installed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.bench import Bench
from benchmarks.result import Measure, by_pairs, micros, percentile
from benchmarks.workload import CHAT_STATE, check

from . import langgraph_chat as chat
from .langgraph_savers import System, apart, check_told, opened, recorded, taking_turns

IN_MEMORY: tuple[System, ...] = ("InMemorySaver", "nothing")


def wall(system: System, path: str, kind: chat.Kind, steps: int) -> float:
    """Seconds that a graph runs, from its invocation to its result."""
    with opened(system, path) as saver:
        graph = chat.compiled(kind, steps, saver)
        started = time.perf_counter()
        result = graph.invoke(CHAT_STATE, chat.config(steps))
        seconds = time.perf_counter() - started
    check(f"the result with {system}", result, chat.final(kind, steps))
    if system not in IN_MEMORY:
        with opened(system, path) as saver:
            kept = chat.compiled(kind, steps, saver).get_state(chat.config(steps)).values
            check(f"the state that {system} kept", kept, result)
    return seconds


def laps(system: System, path: str, kind: chat.Kind, steps: int) -> list[float]:
    """µs of each of a saver's steps."""
    clock = time.perf_counter_ns
    found: list[float] = []
    with opened(system, path) as saver:
        turns = recorded(saver, kind, steps)
        for turn in turns:
            started = clock()
            turn.tell(saver)
            found.append((clock() - started) / 1000)
    with opened(system, path) as saver:
        check_told(saver, turns)
    return found


def _bytes(bench: Bench, system: System, kind: chat.Kind, steps: int) -> int:
    path = bench.path(f"langgraph-{kind}")
    apart(bench, wall, system, path, kind, steps)
    return sum(file.stat().st_size for file in Path(path).parent.glob(f"{Path(path).name}*"))


def file(bench: Bench) -> Iterator[Measure]:
    """The closed file of a run: every message kept, and a window of them."""
    steps = bench.size(1000, 30)
    ratios: dict[chat.Kind, float] = {}
    notes: dict[chat.Kind, str] = {}
    kinds: tuple[chat.Kind, ...] = ("dicts", "messages", "window")
    for kind in kinds:
        bench.say(f"langgraph-file: {kind}")
        theirs, ours = (_bytes(bench, system, kind, steps) for system in ("SqliteSaver", "ours"))
        ratios[kind] = theirs / ours
        notes[kind] = f"{theirs / 1e6:.2f} to {ours / 1e6:.2f} MB"
    names: dict[chat.Kind, str] = {
        "dicts": f"SqliteSaver's file of {steps:,} steps, to this one",
        "window": f"the same, a window of {chat.WINDOW} messages",
    }
    notes["dicts"] += f"; message objects {ratios['messages']:.0f}x, {notes['messages']}"
    for kind, target in (("dicts", 90), ("window", 10)):
        yield Measure("langgraph-file", names[kind], ratios[kind], target, "x", True, [ratios[kind]], notes[kind])


def put(bench: Bench) -> Iterator[Measure]:
    """A saver's step: its median, that of the last ones of a long run, and its 99th percentile."""
    steps, last = bench.size(1000, 30), bench.size(100, 10)
    targets: dict[chat.Kind, tuple[float, float, float]] = {
        "dicts": (1 / 2, 1 / 3, 1 / 5),
        "messages": (1 / 4, 1 / 8, 1 / 5),
    }
    for kind, (of_median, of_last, of_p99) in targets.items():
        runs = [
            {
                system: apart(bench, laps, system, bench.path("put"), kind, steps)
                for system in taking_turns(number, "ours", "SqliteSaver")
            }
            for number in bench.rounds(f"langgraph-put: {kind}", 2)
        ]
        for name, figure, target in (
            ("put_writes and put", median, of_median),
            (f"over the last {last} of {steps:,} steps", lambda taken: median(taken[-last:]), of_last),
            ("p99", lambda taken: percentile(taken, 99), of_p99),
        ):
            pairs = [(figure(taken["ours"]), figure(taken["SqliteSaver"])) for taken in runs]
            note = f"{micros([pair[0] for pair in pairs])} to {micros([pair[1] for pair in pairs])}"
            yield by_pairs("langgraph-put", f"{name}, {kind}, FULL, to SqliteSaver", pairs, target, note)


def run(bench: Bench) -> Iterator[Measure]:
    """A compiled graph's run, at LangGraph's own durability; for scale, with other savers too."""
    steps = bench.size(1000, 30)
    targets: dict[chat.Kind, float] = {"dicts": 0.45, "messages": 0.35}
    systems: tuple[System, ...] = ("ours", "SqliteSaver", *IN_MEMORY)
    for kind, target in targets.items():
        rounds = [
            {
                system: apart(bench, wall, system, bench.path("wall"), kind, steps)
                for system in taking_turns(number, *systems)
            }
            for number in bench.rounds(f"langgraph-wall: {kind}", 1)
        ]
        ratios = {
            system: median(seconds[system] / seconds["SqliteSaver"] for seconds in rounds) for system in systems[2:]
        }
        pairs = [(seconds["ours"], seconds["SqliteSaver"]) for seconds in rounds]
        ours, theirs = (median(side) for side in zip(*pairs, strict=True))
        others = ", ".join(f"{system} {ratio:.2f}x" for system, ratio in ratios.items())
        note = f"{ours:.2f} to {theirs:.2f} s; {others}"
        name = f"a graph's run of {steps:,} steps, {kind}, to SqliteSaver"
        yield by_pairs("langgraph-wall", name, pairs, target, note)
