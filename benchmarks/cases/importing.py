"""Batch import: many steps a commit, and whole files of transcripts; beside the floor's inserts of the same events.

| workload | this engine | the floor |
| --- | --- | --- |
| transcripts | `import_transcript`, as `eventstore import` does: a commit a step, at most once | a commit a run |
| bulk | a run begun, then one append of the events of all its steps | a commit a run |

The floor inserts a row a step with `executemany`, in one transaction a run. Transcripts are real ones where a file is
given; otherwise they are runs as long as agents take, written as JSON Lines.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

import eventstore as es
from benchmarks.bench import Bench
from benchmarks.floor import DIGEST, INSERT, Control, Delta, Executed
from benchmarks.measuring import remove, weigh
from benchmarks.result import Measurement, Spread
from benchmarks.systems.engine import Engine, EngineNormal, reducers
from benchmarks.systems.floor import Floor
from benchmarks.systems.system import State
from benchmarks.worker import fresh
from benchmarks.workload import StepInput, check
from benchmarks.workloads import Work, states
from eventstore.recorded import Event
from eventstore.transcripts import LISTS, Counts, MalformedRun, Transcript, import_transcript

ENGINES = {"engine": Engine, "engine-normal": EngineNormal}
Row = list[Any]
"""The events of one row."""


class Batch(Floor):
    """The floor, a transaction a run."""

    def insert(self, number: int, rows: Iterable[Row]) -> None:
        """Insert the rows of run `number`."""
        bindings, seq, at_us = [], 1, time.time_ns() // 1000
        for events in rows:
            body = self._encode(events).decode()
            bindings.append((number, seq, len(events), self._number(63), at_us, DIGEST, body))
            seq += len(events)
        with self._connection:
            self._connection.executemany(INSERT, bindings)


class BatchNormal(Batch):
    """The same, not waiting for the disk."""

    durability = "normal"


FLOORS = {"floor": Batch, "floor-normal": BatchNormal}


class Imported(msgspec.Struct):
    """Events and steps, and the seconds from opening the file to having closed it."""

    events: int
    steps: int
    seconds: float


# Transcripts


def transcripts(name: str, path: str, source: str) -> Imported:
    """Import a file of runs."""
    runs = list(_runs(source))
    steps = sum(len(run.get(key, [])) for run in runs for key in LISTS)
    events = 2 * (len(runs) + steps)  # of a run its start and its end, of a step its delta and its node
    if name in FLOORS:
        return Imported(events, steps, _insert(name, path, map(_transcript_rows, _runs(source)), runs))
    counts = Counts()
    started = time.perf_counter()
    with es.open(path, durability=ENGINES[name].synced) as store:
        import_transcript(store, Transcript(source), counts)
    seconds = time.perf_counter() - started
    check("steps", counts.steps, steps)
    with es.open(path, read_only=True) as store:
        check("events", sum(trace.version for trace in store.stats().traces), events)
        found = [store.state_at(info.trace_id) for info in store.traces(limit=len(runs) + 1)]
    check("the runs", sorted(map(_canonical, found)), sorted(map(_canonical, runs)))
    return Imported(events, steps, seconds)


def _runs(source: str) -> Iterator[State]:
    for found in Transcript(source):
        if isinstance(found, MalformedRun):
            raise found
        yield found.run


def _transcript_rows(run: State) -> Iterator[Row]:
    """A run's beginning, its items and its end, as the engine's import has them."""
    yield [{"key": key, "value": [] if key in LISTS else value} for key, value in run.items()]
    for key in LISTS:
        for item in run.get(key, []):
            yield [Delta(key, "append", [item]), _executed()]
    yield [Control("trace_ended", Executed(""))]


def _canonical(run: State) -> bytes:
    return msgspec.json.encode(run, order="sorted")


def transcripts_of(given: str, path: str, runs: int) -> str:
    """The file of real runs that was given, or else one that is written at `path`."""
    if given:
        return given
    plan = Work("agent-runs", runs=runs).plan()
    lines = [msgspec.json.encode({"id": run, "messages": [step.message for step in steps]}) for run, steps in plan]
    Path(path).write_bytes(b"\n".join(lines))
    return path


# Many steps a commit


def bulk(name: str, path: str, work: Work) -> Imported:
    """Append whole runs."""
    plan = list(work.plan())
    expected = [_last(work.state, steps) for _, steps in plan]
    counted = sum(len(steps) for _, steps in plan)
    events = len(plan) + sum(len(_events(step)) for _, steps in plan for step in steps)
    if name in FLOORS:
        rows = (_step_rows(work.state, steps) for _, steps in plan)
        return Imported(events, counted, _insert(name, path, rows, expected))
    started = time.perf_counter()
    with es.open(path, durability=ENGINES[name].synced) as store:
        for run, steps in plan:
            trace = store.start(work.state, id=run, reducers=reducers(work.state))
            trace.append([*chain.from_iterable(map(_events, steps))])
    seconds = time.perf_counter() - started
    with es.open(path, read_only=True) as store:
        check("events", sum(trace.version for trace in store.stats().traces), events)
        for (run, _), state in zip(plan, expected, strict=True):
            check(run, store.state_at(run), state)
    return Imported(events, counted, seconds)


def _step_rows(state: State, steps: list[StepInput]) -> Iterator[Row]:
    yield [{"key": key, "value": value} for key, value in state.items()]
    for step in steps:
        deltas = [] if step.message is None else [Delta("messages", "append", [step.message])]
        yield [*deltas, *(Delta(key, value=value) for key, value in step.puts.items()), _executed()]


def _last(state: State, steps: list[StepInput]) -> State:
    *_, last = states(state, steps)
    return last


# Both


def _executed() -> Control:
    return Control("node_executed", Executed("answer", duration_ms=0.012))


def _insert(name: str, path: str, runs: Iterable[Iterable[Row]], expected: list[State]) -> float:
    """The seconds that the floor takes for it; each run's state is compared."""
    started = time.perf_counter()
    floor = FLOORS[name](path)
    for number, rows in enumerate(runs):
        floor.insert(number, rows)
    floor.close()
    seconds = time.perf_counter() - started
    floor = FLOORS[name](path)
    for number, state in enumerate(expected):
        check(f"run-{number}", floor.latest(f"run-{number}"), state)
    floor.close()
    return seconds


def _events(step: StepInput) -> list[Event]:
    return [*step.deltas(), es.NodeExecuted("answer")]


def _measurement(name: str, workload: str, path: str, imported: Imported, repeat: int) -> Measurement:
    figures: dict[str, float | Spread] = {
        "events_per_s": imported.events / imported.seconds,
        "steps_per_s": imported.steps / imported.seconds,
        "file_bytes": weigh(path),
    }
    remove(path)
    return Measurement(name, workload, repeat, figures)


def import_file(name: str, path: str, source: str, runs: int, repeat: int) -> Measurement:
    """One import by one system. `source`: a file of real runs, or none."""
    source = transcripts_of(source, f"{path}.jsonl", runs)
    file = f"{path}-imported"
    return _measurement(name, "transcripts", file, fresh(transcripts, name, file, source), repeat)


def append_runs(name: str, path: str, work: Work, repeat: int) -> Measurement:
    """The same for whole runs a commit."""
    return _measurement(name, "bulk", path, fresh(bulk, name, path, work), repeat)


def importing(bench: Bench) -> Iterator[Measurement]:
    """Both, by this engine and the floor."""
    runs, work = bench.size(100, 4), Work("agent-runs", runs=bench.size(1000, 4))
    for repeat, name in bench.turns("batch-import", bench.systems(*FLOORS, *ENGINES), 1):
        with bench.failing(name):
            path = bench.path(name)
            yield bench.once(f"transcripts {name} {repeat}", import_file, name, path, bench.input, runs, repeat)
            yield bench.once(f"bulk {name} {repeat}", append_runs, name, bench.path(name), work, repeat)
