"""A chat run: what its file weighs, and what its latest state costs to read.

3,000 steps, each a message of 500 bytes of JSON and three scalars. The file is weighed after close, with
whatever is left beside it; reading is compared with decoding the same state's JSON by msgspec in the
same process, the median of several decodings.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import msgspec

import eventstore as es
from benchmarks.bench import Bench
from benchmarks.result import Measure, by_pairs, micros
from benchmarks.worker import fresh
from benchmarks.workload import CHAT_REDUCERS, CHAT_STATE, chat, check, fold

TRACE = "chat"


class Weight(msgspec.Struct):
    """A closed file and what it holds, in bytes."""

    file: int
    deltas: int
    log: int
    bases: int


def build(path: str, steps: int) -> Weight:
    """Write the run, close, and weigh it."""
    inputs = list(chat(steps))
    with es.open(path) as store:
        trace = store.start(CHAT_STATE, id=TRACE, reducers=CHAT_REDUCERS)
        for step in inputs:
            with trace.step("answer") as writing:
                step.write(writing)
        written = [event.event for event in store.events(TRACE) if event.kind == "delta"]
        check("the log's deltas", written, [delta for step in inputs for delta in step.deltas()])
        stats = store.stats()
    beside = [Path(path + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
    size = sum(file.stat().st_size for file in beside if file.exists())
    with es.open(path, read_only=True) as store:
        check("the latest state", store.state_at(TRACE), fold(CHAT_STATE, inputs))
    return Weight(size, sum(len(delta.to_json()) for delta in written), stats.log_bytes, stats.base_bytes)


class Reads(msgspec.Struct):
    """µs of reads of the latest state, and of decoding its JSON."""

    reads: list[float]
    decodings: list[float]
    opening: float = 0.0


def warm(path: str, repeats: int) -> Reads:
    """Read the latest state again and again in an open store, and decode its JSON in turns."""
    with es.open(path) as store:
        state = store.state_at(TRACE)
        raw = msgspec.json.encode(state)
        reads, decodings = [], []
        for _ in range(repeats):
            del state
            started = time.perf_counter_ns()
            state = store.state_at(TRACE)
            reads.append((time.perf_counter_ns() - started) / 1000)
            decodings.append(_decode(raw))
    check("the latest state", state, fold(CHAT_STATE, chat(len(state["messages"]))))
    return Reads(reads, decodings)


def first_touch(path: str) -> Reads:
    """Open the store in this new process and read the latest state once."""
    started = time.perf_counter_ns()
    store = es.open(path)
    opened = time.perf_counter_ns()
    state = store.state_at(TRACE)
    read = time.perf_counter_ns()
    raw = msgspec.json.encode(state)
    decodings = [_decode(raw) for _ in range(21)]
    check("the latest state", state, fold(CHAT_STATE, chat(len(state["messages"]))))
    store.close()
    return Reads([(read - started) / 1000], decodings, (opened - started) / 1000)


def _decode(raw: bytes) -> float:
    started = time.perf_counter_ns()
    state = msgspec.json.decode(raw)
    elapsed = (time.perf_counter_ns() - started) / 1000
    del state
    return elapsed


def run(bench: Bench) -> Iterator[Measure]:
    """The file, the latest state warm, and its first touch."""
    path = bench.path("chat")
    bench.say("chat: writing the run")
    weight = fresh(build, path, bench.size(3000, 150))
    ratio = weight.file / weight.deltas
    note = ", ".join(
        f"{name} {size / 1e6:.3f} MB"
        for name, size in (
            ("file", weight.file),
            ("deltas", weight.deltas),
            ("log", weight.log),
            ("bases", weight.bases),
        )
    )
    yield Measure("chat", "chat run, file to its deltas", ratio, 2.1, "x", samples=[ratio], note=note)

    found = [fresh(warm, path, bench.size(101, 11)) for _ in bench.rounds("chat: latest, warm", 3)]
    pairs = [(median(one.reads), median(one.decodings)) for one in found]
    note = f"{micros([read for read, _ in pairs])} to {micros([decode for _, decode in pairs])}"
    yield by_pairs("chat", "latest state, warm, to decoding it", pairs, 2.5, note)

    found = [fresh(first_touch, path) for _ in bench.rounds("chat: first touch", 9, 3)]
    first = [(one.reads[0], median(one.decodings)) for one in found]
    opened = [(one.reads[0] - one.opening, median(one.decodings)) for one in found]
    for name, pairs in (("store open", opened), ("opening included", first)):
        note = f"{micros([read for read, _ in pairs])} to {micros([decode for _, decode in pairs])}"
        if pairs is first:
            note += f"; the process's first decoding takes {micros([one.decodings[0] for one in found])}"
        yield by_pairs("chat", f"latest state, first touch, {name}, to decoding it", pairs, 3.3, note)
