"""A LangGraph saver's reading, against LangGraph's own on SQLite: one checkpoint, and a run's whole history.

Both savers were told the same recorded run, so what they read back must be equal.
Imported only where LangGraph is installed.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Concatenate, ParamSpec

from langgraph.checkpoint.memory import InMemorySaver

from benchmarks.bench import Bench
from benchmarks.result import Measure, by_pairs, micros
from benchmarks.workload import check

from . import langgraph_chat as chat
from .langgraph_savers import Saver, System, apart, check_told, opened, recorded, taking_turns

LATEST: Any = {"configurable": {"thread_id": chat.THREAD}}
P = ParamSpec("P")
Pairs = list[tuple[float, float]]


def build(path: str, kind: chat.Kind, steps: int) -> None:
    """Tell both savers one run: this one in the file `path`, SqliteSaver in the one beside it."""
    turns = recorded(InMemorySaver(), kind, steps)
    for system, file in both(path):
        with opened(system, file) as saver:
            for turn in turns:
                turn.tell(saver)
        with opened(system, file) as saver:
            check_told(saver, turns)


def both(path: str) -> tuple[tuple[System, str], tuple[System, str]]:
    """The two savers and their files."""
    return ("ours", path), ("SqliteSaver", f"{path}-sqlite")


def _at(checkpoint_id: str) -> Any:
    return {"configurable": {"thread_id": chat.THREAD, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}}


def _got(saver: Saver, config: Any) -> tuple[float, Any]:
    """µs of getting it, and what it is."""
    started = time.perf_counter_ns()
    found = saver.get_tuple(config)
    return (time.perf_counter_ns() - started) / 1000, found


def _turns_taken(savers: tuple[Saver, Saver], configs: list[Any]) -> Pairs:
    """Each saver gets each checkpoint; which of them goes first alternates."""
    pairs = []
    for number, config in enumerate(configs):
        first = number % 2
        taken = {which: _got(savers[which], config) for which in (first, 1 - first)}
        (ours_us, ours), (theirs_us, theirs) = taken[0], taken[1]
        for part in ("checkpoint", "metadata", "parent_config", "pending_writes"):
            check(f"the {part}", getattr(ours, part), getattr(theirs, part))
        pairs.append((ours_us, theirs_us))
    return pairs


def warm(path: str, repeats: int) -> dict[str, Pairs]:
    """µs of getting the latest checkpoint, three known old ones again and again, and others at random."""
    (_, ours), (_, theirs) = both(path)
    with closing(sqlite3.connect(theirs)) as connection:
        ids = [row[0] for row in connection.execute("SELECT checkpoint_id FROM checkpoints ORDER BY checkpoint_id")]
    rng = random.Random(7)
    known = [_at(ids[len(ids) * quarter // 4]) for quarter in (1, 2, 3)]
    asked = {
        "latest": [LATEST] * repeats,
        "known": [config for config in known for _ in range(repeats // len(known))],
        "random": [_at(rng.choice(ids)) for _ in range(repeats)],
    }
    with opened("ours", ours) as mine, opened("SqliteSaver", theirs) as other:
        for config in (LATEST, *known):
            _turns_taken((mine, other), [config])
        return {name: _turns_taken((mine, other), configs) for name, configs in asked.items()}


def cold(system: System, path: str) -> float:
    """µs of opening a file and getting the latest checkpoint."""
    started = time.perf_counter_ns()
    with opened(system, path) as saver:
        found = saver.get_tuple(LATEST)
        elapsed_us = (time.perf_counter_ns() - started) / 1000
    check("that there is one", found is not None, True)
    return elapsed_us


def visit(system: System, path: str, kind: chat.Kind, steps: int) -> float:
    """µs of a run's whole history, each state looked at."""
    with opened(system, path) as saver:
        graph = chat.compiled(kind, steps, saver)
        started = time.perf_counter_ns()
        seen = [len(found.values.get("messages", ())) for found in graph.get_state_history(chat.config(steps))]
        elapsed_us = (time.perf_counter_ns() - started) / 1000
    check("the history", seen, [*range(steps, -1, -1), 0])
    return elapsed_us


def _built(bench: Bench, kind: chat.Kind, steps: int) -> str:
    name = f"LangGraph, {steps:,} steps, {kind}"
    return bench.built(name, lambda path: apart(bench, build, path, kind, steps))


def _each(
    bench: Bench,
    number: int,
    path: str,
    measure: Callable[Concatenate[System, str, P], float],
    *args: P.args,
    **kwargs: P.kwargs,
) -> tuple[float, float]:
    """What both savers measure, in the order of round `number`."""
    files = dict(both(path))
    systems = taking_turns(number, "ours", "SqliteSaver")
    taken = {system: apart(bench, measure, system, files[system], *args, **kwargs) for system in systems}
    return taken["ours"], taken["SqliteSaver"]


def _note(pairs: Pairs) -> str:
    return f"{micros([pair[0] for pair in pairs])} to {micros([pair[1] for pair in pairs])}"


def get(bench: Bench) -> Iterator[Measure]:
    """The latest checkpoint, at once and again; an old one; one at random."""
    steps = bench.size(1000, 30)
    kinds: tuple[chat.Kind, ...] = ("dicts", "messages")
    for kind in kinds:
        path = _built(bench, kind, steps)
        taken: dict[str, Pairs] = {"latest": [], "cold": [], "known": [], "random": []}
        for _ in bench.rounds(f"langgraph-get: {kind}", 2):
            for name, pairs in apart(bench, warm, path, bench.size(30, 6)).items():
                taken[name] += pairs
            for number in range(bench.size(2, 1)):
                taken["cold"].append(_each(bench, number, path, cold))
        for name, what, target in (
            ("latest", f"get_tuple of the latest of {steps:,}, warm", 1.1),
            ("cold", "opening the file and the latest", 2.0),
            ("known", "an old id, again and again", 1.1),
            ("random", "random ids", 1.5),
        ):
            pairs = taken[name]
            yield by_pairs("langgraph-get", f"{what}, {kind}, to SqliteSaver", pairs, target, _note(pairs))


def history(bench: Bench) -> Iterator[Measure]:
    """All of a run's states through its graph."""
    steps = bench.size(1000, 30)
    targets: dict[chat.Kind, float] = {"dicts": 1 / 3, "messages": 1 / 20}
    for kind, target in targets.items():
        path = _built(bench, kind, steps)
        pairs = [
            _each(bench, number, path, visit, kind, steps) for number in bench.rounds(f"langgraph-history: {kind}", 1)
        ]
        name = f"get_state_history of {steps:,} steps, {kind}, to SqliteSaver"
        yield by_pairs("langgraph-history", name, pairs, target, _note(pairs))
