"""One durable 4-delta step, engine against floor.

A step appends one message and puts three scalars, about 590 bytes in the log. Engine and floor take
turns, each in a fresh process on a fresh file; the pair's medians (and 99th percentiles, folding
included) are divided, and of the pairs the median counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Literal

import eventstore as es
from benchmarks import floor
from benchmarks.bench import Bench
from benchmarks.result import Measure, by_pairs, micros, percentile
from benchmarks.syncs import count_syncs
from benchmarks.worker import fresh
from benchmarks.workload import CHAT_REDUCERS, CHAT_STATE, chat, check, fold

MESSAGE_BYTES = 380
Durability = Literal["full", "normal"]


def steps(path: str, durability: Durability, count: int, message_bytes: int) -> list[float]:
    """Write a chat run of `count` steps; µs of each step."""
    inputs = list(chat(count, message_bytes))
    clock = time.perf_counter_ns
    laps: list[float] = []
    with es.open(path, durability=durability) as store:
        trace = store.start(CHAT_STATE, id="chat", reducers=CHAT_REDUCERS)
        for step in inputs:
            started = clock()
            with trace.step("answer") as writing:
                writing.put("messages", [step.message])
                for key, value in step.puts.items():
                    writing.put(key, value)
            laps.append((clock() - started) / 1000)
    with es.open(path) as store:
        check("the engine's state", store.state_at("chat"), fold(CHAT_STATE, inputs))
    return laps


def _paired(bench: Bench, durability: Durability, pairs: int) -> list[tuple[list[float], list[float]]]:
    count = bench.size(3000, 150)
    laps = []
    for _ in bench.rounds(f"step, {durability}", pairs):
        engine = fresh(steps, bench.path("engine"), durability, count, MESSAGE_BYTES)
        bare = fresh(floor.steps, bench.path("floor"), durability, count, MESSAGE_BYTES)
        laps.append((engine, bare))
    return laps


def _against_floor(
    case: str, laps: list[tuple[list[float], list[float]]], of_median: float, of_p99: float
) -> Iterator[Measure]:
    label = case.removeprefix("step-").upper()
    medians = [(median(engine), median(bare)) for engine, bare in laps]
    tails = [(percentile(engine, 99), percentile(bare, 99)) for engine, bare in laps]
    for name, pairs, target in ((f"step, {label}", medians, of_median), (f"p99 of a step, {label}", tails, of_p99)):
        engine_us, floor_us = (micros(side) for side in zip(*pairs, strict=True))
        yield by_pairs(case, f"{name}, to the floor", pairs, target, f"{engine_us} to {floor_us}")


def full(bench: Bench) -> Iterator[Measure]:
    """A step under FULL."""
    yield from _against_floor("step-full", _paired(bench, "full", 5), 1.3, 2.0)


def normal(bench: Bench) -> Iterator[Measure]:
    """A step under NORMAL; many short pairs, since a run lasts a tenth of a second and the machine has moods."""
    yield from _against_floor("step-normal", _paired(bench, "normal", 11), 2.2, 5.0)


def syncs(bench: Bench) -> Iterator[Measure]:
    """Syncs a commit under FULL: of a long run less those of a short one, so that opening does not count."""
    bench.say("syncs per commit")
    short, long = bench.size(500, 20), bench.size(3500, 120)
    found = {
        (name, count): count_syncs(function, bench.path("syncs"), "full", count, MESSAGE_BYTES)
        for name, function in (("engine", steps), ("floor", floor.steps))
        for count in (short, long)
    }
    per_commit = {name: (found[name, long][0] - found[name, short][0]) / (long - short) for name in ("engine", "floor")}
    how = found["engine", long][1]
    yield Measure(
        "syncs",
        "syncs per commit, FULL",
        per_commit["engine"],
        1.01,
        "",
        note=f"floor {per_commit['floor']:.4f}; counted by {how}",
    )
