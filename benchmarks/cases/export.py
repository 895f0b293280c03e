"""The analysis database of 1,000 runs: how fast it is made, brought up to date, and in how little memory.

Every second run is a chat (a message of about 500 bytes a step, which full-text search indexes), the others put a
few small scalars a step. Each export runs in a fresh process. Memory is the peak of one that exports four times as
much, less the peak of the other.
"""

from __future__ import annotations

import resource
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from statistics import median

import msgspec

import eventstore as es
from benchmarks.bench import Bench
from benchmarks.result import Measure
from benchmarks.workload import CHAT_REDUCERS, CHAT_STATE, SMALL_STATE, chat, check, small
from eventstore.analysis import Exported, export_analysis

from .runs import measured

CHUNK = 25


class Timed(msgspec.Struct):
    """Two exports into one file, the second with nothing to do; and the peak of the process."""

    first: Exported
    second: Exported
    peak_bytes: int


def build_runs(path: str, runs: int, steps: int) -> int:
    """Write the runs; how many deltas they hold."""
    deltas = 0
    with es.open(path, durability="normal") as store:
        for index in range(runs):
            is_chat = index % 2 == 1
            state, reducers = (CHAT_STATE, CHAT_REDUCERS) if is_chat else (SMALL_STATE, None)
            trace = store.start(state, name="chat" if is_chat else "small", reducers=reducers)
            for step in chat(steps, seed=index) if is_chat else small(steps, seed=index):
                with trace.step("ask" if is_chat else "tick") as writing:
                    step.write(writing)
                deltas += len(step.deltas())
            trace.end()
    return deltas


def build_deltas(path: str, deltas: int) -> int:
    """Write so many deltas of small scalars into runs of 10,000, `CHUNK` a commit."""
    with es.open(path, durability="normal") as store:
        for start in range(0, deltas, 10_000):
            trace_id = store.start(SMALL_STATE, name="small").id
            for chunk in range(start, min(deltas, start + 10_000), CHUNK):
                puts = [es.StateDelta.put(f"key_{number % 20:02d}", number) for number in range(chunk, chunk + CHUNK)]
                store.append(trace_id, puts)
    return deltas


def export_twice(path: str, target: str) -> Timed:
    """Export into a new file, and again; what loads slowly, whatever is exported, is loaded before."""
    import_module("sqlite_utils")
    with es.open(path, read_only=True) as store:
        first = export_analysis(store, target)
        second = export_analysis(store, target)
    return Timed(first, second, peak_bytes())


def peak_bytes() -> int:
    """The most memory that this process had in use."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def count(target: str, table: str) -> int:
    """Rows of a table of the export."""
    with closing(sqlite3.connect(target)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def export(bench: Bench) -> Iterator[Measure]:
    """How fast, how fast again, and how much memory."""
    runs, steps = bench.size(1000, 40), bench.size(50, 10)
    written: list[int] = []
    path = bench.built("export", lambda file: written.append(measured(bench, build_runs, file, runs, steps)))
    rates, again = [], []
    for _ in bench.rounds("export", 3):
        target = bench.path("analysis")
        timed = measured(bench, export_twice, path, target)
        check("runs", (timed.first.added, timed.second.unchanged, count(target, "runs")), (runs, runs, runs))
        check("steps", (timed.first.steps, count(target, "steps")), (runs * steps, runs * steps))
        check("deltas", (timed.first.deltas, count(target, "deltas")), (written[0], written[0]))
        check("messages", count(target, "messages_fts"), runs // 2 * steps)
        rates.append(timed.first.deltas_per_s)
        again.append(timed.second.elapsed_s * 1000)
        Path(target).unlink()
    note = f"{runs:,} runs, {written[0]:,} deltas, {runs // 2 * steps:,} messages indexed"
    yield Measure("export", "export", median(rates), 50_000, "deltas/s", at_least=True, samples=rates, note=note)
    yield Measure("export", f"export again, {runs:,} runs, nothing new", median(again), 500, "ms", samples=again)
    sizes = bench.size(100_000, 2_000), bench.size(400_000, 8_000)
    peaks = []
    for size in sizes:
        bench.say(f"export: memory of {size:,} deltas")
        file, target = bench.path("deltas"), bench.path("analysis")
        measured(bench, build_deltas, file, size)
        timed = measured(bench, export_twice, file, target)
        check("deltas", (timed.first.deltas, count(target, "deltas")), (size, size))
        peaks.append(timed.peak_bytes)
        Path(target).unlink()
    note = f"peak {peaks[0] / 1e6:.0f} MB with {sizes[0]:,} deltas, {peaks[1] / 1e6:.0f} MB with {sizes[1]:,}"
    yield Measure("export", "peak memory, four times the deltas", (peaks[1] - peaks[0]) / 1e6, 8, "MB", note=note)
