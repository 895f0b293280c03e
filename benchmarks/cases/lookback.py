"""Looking back: every state of a run in one pass, any step of a long one, forks, and who wrote a key.

A full replay is the latest state of the same run in a file without bases.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from statistics import median

import msgspec

import eventstore as es
from benchmarks.bench import Bench
from benchmarks.result import Measure, by_pairs, micros
from benchmarks.worker import fresh
from benchmarks.workload import CHAT_REDUCERS, CHAT_STATE, SMALL_STATE, chat, check, fold, small

TRACE = "chat"


def build(path: str, steps: int, folds: bool) -> None:
    """Write a chat run, with or without bases."""
    policy = es.AdaptiveFold() if folds else es.NeverFold()
    with es.open(path, durability="normal", fold_policy=policy) as store:
        trace = store.start(CHAT_STATE, id=TRACE, reducers=CHAT_REDUCERS)
        for step in chat(steps):
            with trace.step("answer") as writing:
                step.write(writing)


def build_small(path: str, steps: int) -> None:
    """Write a run of small steps, each of which also counts."""
    with es.open(path, durability="normal") as store:
        trace = store.start({**SMALL_STATE, "count": 0}, id=TRACE)
        for number, step in enumerate(small(steps), 1):
            with trace.step("work") as writing:
                step.write(writing)
                writing.put("count", number)


def _elapsed_us(started: int) -> float:
    return (time.perf_counter_ns() - started) / 1000


# Every state


def visit(path: str, plain: str, steps: int, repeats: int) -> list[tuple[float, float]]:
    """µs of visiting every state, and of one full replay, in turns."""
    pairs = []
    with es.open(path) as store:
        trace = store.open_trace(TRACE)
        for _ in range(repeats):
            started = time.perf_counter_ns()
            seen = [len(past.state["messages"]) for past in trace.history()]
            visited = _elapsed_us(started)
            check("the history", seen, list(range(steps + 1)))
            with es.open(plain, fold_policy=es.NeverFold()) as without:  # a new one, that holds nothing yet
                check("the traces", len(without.traces()), 1)
                started = time.perf_counter_ns()
                state = without.state_at(TRACE)
                pairs.append((visited, _elapsed_us(started)))
    check("the replayed state", state, fold(CHAT_STATE, chat(steps)))
    return pairs


def history(bench: Bench) -> Iterator[Measure]:
    """Every state of a run, to one full replay."""
    steps = bench.size(3000, 60)
    path, plain = bench.path("history"), bench.path("plain")
    bench.say("history: writing the run")
    fresh(build, path, steps, True)
    fresh(build, plain, steps, False)
    pairs = [pair for _ in bench.rounds("history", 3) for pair in fresh(visit, path, plain, steps, bench.size(5, 1))]
    note = f"{micros([pair[0] for pair in pairs])} to {micros([pair[1] for pair in pairs])}"
    yield by_pairs("history", f"every state of {steps:,} steps, to one full replay", pairs, 3, note)


# Any step


def look(path: str, steps: int, looks: int) -> list[tuple[float, float]]:
    """µs of looking at random steps, and of decoding the JSON of the state there."""
    rng = random.Random(7)
    pairs = []
    with es.open(path, read_only=True) as store:
        trace = store.open_trace(TRACE)
        for _ in range(looks):
            step = rng.randint(1, steps)
            started = time.perf_counter_ns()
            past = trace.at(step=step)
            looked = _elapsed_us(started)
            check("the step", past.state.get("turn", past.state.get("count")), step)
            raw = msgspec.json.encode(past.state)
            del past
            started = time.perf_counter_ns()
            msgspec.json.decode(raw)
            pairs.append((looked, _elapsed_us(started)))
    return pairs


def any_step(bench: Bench) -> Iterator[Measure]:
    """A random step of a long chat run, and of a long run of small values."""
    steps = bench.size(100_000, 300)
    path = bench.built(f"a chat run of {steps:,} steps", lambda path: fresh(build, path, steps, True))
    pairs = [pair for _ in bench.rounds("at: chat", 3) for pair in fresh(look, path, steps, bench.size(30, 5))]
    note = f"{micros([pair[0] for pair in pairs])} to {micros([pair[1] for pair in pairs])}"
    yield by_pairs("at", f"a random step of {steps:,} chat steps, to decoding its JSON", pairs, 3, note)
    path = bench.built(f"a run of {steps:,} small steps", lambda path: fresh(build_small, path, steps))
    looks = [pair[0] for _ in bench.rounds("at: small", 3) for pair in fresh(look, path, steps, bench.size(300, 5))]
    name = f"a random step of {steps:,} small steps"
    yield Measure("at", name, median(looks), 500, "µs", samples=looks, note="a state of 21 scalars")


# Forks


def take(path: str, steps: int, forks: int) -> list[list[float]]:
    """µs of taking forks at the start, in the middle and at the end, in turns."""
    places = [max(1, steps // 1000), steps // 2, steps]
    taken: list[list[float]] = [[] for _ in places]
    with es.open(path, durability="normal") as store:
        trace = store.open_trace(TRACE)
        seqs = [trace.at(step=step).seq for step in places]
        for _ in range(forks):
            for at, found in zip(seqs, taken, strict=True):
                started = time.perf_counter_ns()
                forked = trace.fork(at, put={"turn": -1})
                found.append(_elapsed_us(started))
        check("a fork's state", forked.at().state["turn"], -1)
    return taken


def grown(path: str, step: int, forks: int) -> int:
    """Bytes that the closed file grows by with so many forks at one step."""
    before = os.stat(path).st_size  # noqa: PTH116
    with es.open(path, durability="normal") as store:
        trace = store.open_trace(TRACE)
        at = trace.at(step=step).seq
        for _ in range(forks):
            trace.fork(at)
    return os.stat(path).st_size - before  # noqa: PTH116


def fork(bench: Bench) -> Iterator[Measure]:
    """A fork at the end of a long run, to one near its start: time and bytes."""
    steps = bench.size(100_000, 300)
    path = bench.built(f"a chat run of {steps:,} steps", lambda path: fresh(build, path, steps, True))
    taken = [fresh(take, path, steps, bench.size(200, 4)) for _ in bench.rounds("fork", 3)]
    pairs = [(median(late), median(early)) for early, _, late in taken]
    middle = [median(half) for _, half, _ in taken]
    note = (
        f"{micros([pair[0] for pair in pairs])}, {micros(middle)} in the middle, {micros([pair[1] for pair in pairs])}"
    )
    yield by_pairs("fork", f"a fork after {steps:,} steps, to one near the start", pairs, 1.2, note)
    many = bench.size(1000, 50)
    early, late = (fresh(grown, path, step, many) for step in (max(1, steps // 1000), steps))
    ratio = late / max(early, 1)
    note = f"{late / many:.0f} and {early / many:.0f} bytes a fork"
    yield Measure("fork", "its bytes, to those of one near the start", ratio, 1.2, "x", samples=[ratio], note=note)


# Who wrote a key


def blamed(path: str, steps: int, repeats: int) -> list[tuple[float, float]]:
    """ms of the writes of a key that every step writes, and of one that a step in hundred does."""
    found = []
    with es.open(path, read_only=True) as store:
        trace = store.open_trace(TRACE)
        for _ in range(repeats):
            started = time.perf_counter_ns()
            writes = trace.blame("turn")
            every = _elapsed_us(started) / 1000
            check("the writers", [write.value for write in writes], list(range(steps + 1)))
            started = time.perf_counter_ns()
            check("nobody", trace.blame("nobody"), [])
            found.append((every, _elapsed_us(started) / 1000))
    return found


def blame(bench: Bench) -> Iterator[Measure]:
    """Who wrote a key, over 10,000 steps."""
    steps = bench.size(10_000, 200)
    path = bench.built(f"a chat run of {steps:,} steps", lambda path: fresh(build, path, steps, True))
    found = [pair for _ in bench.rounds("blame", 3) for pair in fresh(blamed, path, steps, bench.size(5, 1))]
    every, none = ([pair[place] for pair in found] for place in (0, 1))
    note = f"its {steps + 1:,} writes; {median(none):.1f} ms for a key that no step writes"
    yield Measure("blame", f"blame of one key over {steps:,} steps", median(every), 50, "ms", samples=every, note=note)


# What changed


def compared(path: str, steps: int, repeats: int) -> list[tuple[float, float]]:
    """µs of the diff between two steps of a run, and of reading the two states alone."""
    rng = random.Random(7)
    pairs = []
    with es.open(path, read_only=True) as store:
        trace = store.open_trace(TRACE)
        for _ in range(repeats):
            early, late = sorted(rng.sample(range(1, steps + 1), 2))
            started = time.perf_counter_ns()
            found = es.diff(trace.at(step=early), trace.at(step=late))
            took = _elapsed_us(started)
            started = time.perf_counter_ns()
            before, after = trace.at(step=early).state, trace.at(step=late).state
            pairs.append((took, _elapsed_us(started)))
            check("the diff applied", found.apply(before), after)
            check("what it appends", len(after["messages"]) - len(before["messages"]), late - early)
    return pairs


def diff(bench: Bench) -> Iterator[Measure]:
    """What changed between two steps of a long run, to reading the two states."""
    steps = bench.size(10_000, 200)
    path = bench.built(f"a chat run of {steps:,} steps", lambda path: fresh(build, path, steps, True))
    pairs = [pair for _ in bench.rounds("diff", 3) for pair in fresh(compared, path, steps, bench.size(15, 2))]
    note = f"{micros([pair[0] for pair in pairs])} to {micros([pair[1] for pair in pairs])}"
    yield by_pairs("diff", f"diff of two of {steps:,} chat steps, to reading both", pairs, 2, note)
