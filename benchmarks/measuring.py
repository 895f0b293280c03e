"""One system given one work, in fresh processes: what writing it took, what reading it took, and that it is right.

Writing and reading are a process each, so that a reader has nothing in memory that the writer left there. Every
state that is read is compared with the toy model's; a system that gives another one raises WrongResult.
"""

from __future__ import annotations

import gc
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from .result import Measurement, Spread
from .systems import system
from .systems.system import NotSupported, State, System
from .worker import fresh
from .workload import StepInput, check
from .workloads import Work, states

LOOKS = 20


class Written(msgspec.Struct):
    """What a writer saw: µs of each step, ms from opening the file to having closed it, CPU ms of that."""

    laps_us: list[float]
    wall_ms: float
    cpu_ms: float


class Read(msgspec.Struct):
    """What a reader saw; `missing` names what the system cannot tell, and why."""

    open_latest_us: float
    latest_us: list[float]
    at_us: list[float]
    history_ms: float
    missing: dict[str, str]


def write(name: str, path: str, work: Work) -> Written:
    """Write the whole work into a new file."""
    adapter = system(name)
    runs = [(run, work.state, steps) for run, steps in work.plan()]
    laps: list[float] = []
    cpu, started = time.process_time(), time.perf_counter()
    opened = adapter(path)
    for run, state, steps in runs:
        laps += opened.write(run, state, steps)
    opened.close()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    check("steps", len(laps), sum(len(steps) for _, _, steps in runs))
    return Written(laps, seconds * 1000, cpu_seconds * 1000)


def read(name: str, path: str, work: Work) -> Read:
    """Open the file and read the first run: its latest state once, then warm; some states of its past; all of them."""
    adapter = system(name)
    (run, steps), *others = work.plan()
    missing: dict[str, str] = {}
    expected = _states(work.state, steps)
    gc.collect()
    gc.freeze()  # what is expected is no part of what a read allocates: the collector shall not walk it
    started = time.perf_counter_ns()
    opened = adapter(path)
    state = opened.latest(run)
    first = (time.perf_counter_ns() - started) / 1000
    check(f"the latest state by {name}", state, expected[-1])
    del state
    warm = []
    for _ in range(LOOKS):
        started = time.perf_counter_ns()
        state = opened.latest(run)
        warm.append((time.perf_counter_ns() - started) / 1000)
        check(f"the latest state by {name}", state, expected[-1])
        del state
    try:
        at = _looks(opened, name, run, expected)
    except NotSupported as reason:
        at, missing["at_us"] = [], str(reason)
    try:
        history_ms = _walk(opened, name, run, expected[1:])
    except NotSupported as reason:
        history_ms, missing["history_ms"] = 0.0, str(reason)
    for other, written in random.Random(5).sample(others, min(len(others), 50)):
        check(f"{other} by {name}", opened.latest(other), _states(work.state, written)[-1])
    opened.close()
    return Read(first, warm, at, history_ms, missing)


def _states(state: State, steps: Sequence[StepInput]) -> list[State]:
    """The state at the beginning and after each step, by the toy model."""
    return [state, *({**now, **_copied(now)} for now in states(state, list(steps)))]


def _copied(state: State) -> State:
    return {key: list(value) for key, value in state.items() if isinstance(value, list)}


def _looks(opened: System, name: str, run: str, expected: list[State]) -> list[float]:
    rng = random.Random(7)
    laps = []
    for _ in range(LOOKS):
        step = rng.randrange(1, len(expected))
        started = time.perf_counter_ns()
        state = opened.at(run, step)
        laps.append((time.perf_counter_ns() - started) / 1000)
        check(f"the state after step {step} by {name}", state, expected[step])
        del state
    return laps


def _walk(opened: System, name: str, run: str, expected: list[State]) -> float:
    """Walk the history once for the clock, looking at each state's size, and once to compare each state."""
    started = time.perf_counter_ns()
    seen = sum(len(state) for state in opened.history(run))
    elapsed_ms = (time.perf_counter_ns() - started) / 1e6
    check(f"the history by {name}", seen, sum(map(len, expected)))
    for step, (state, wanted) in enumerate(zip(opened.history(run), expected, strict=True), 1):
        check(f"the history's step {step} by {name}", state, wanted)
    return elapsed_ms


def beside(path: str) -> list[Path]:
    """What a system keeps at `path`: all files and folders whose names begin with it."""
    return list(Path(path).parent.glob(f"{Path(path).name}*"))


def weigh(path: str) -> int:
    """Bytes of all that a system keeps at `path`."""
    inside = (file for one in beside(path) for file in (one.rglob("*") if one.is_dir() else (one,)))
    return sum(file.stat().st_size for file in inside if file.is_file())


def remove(path: str) -> None:
    """Delete all that a system keeps at `path`."""
    for one in beside(path):
        shutil.rmtree(one) if one.is_dir() else one.unlink()


def measure(name: str, path: str, work: Work, repeat: int) -> Measurement:
    """Write the work in a fresh process, weigh the closed file, read it in another; the file is gone afterwards."""
    written = fresh(write, name, path, work)
    steps = len(written.laps_us)
    figures: dict[str, float | Spread] = {
        "step_us": Spread.of(written.laps_us),
        "last_step_us": Spread.of(written.laps_us[-max(1, steps // 10) :]),
        "wall_ms": written.wall_ms,
        "cpu_us_per_step": written.cpu_ms * 1000 / steps,
        "file_bytes": weigh(path),
    }
    found = fresh(read, name, path, work)
    remove(path)
    figures |= {"open_latest_us": found.open_latest_us, "latest_us": Spread.of(found.latest_us)}
    if found.at_us:
        figures["at_us"] = Spread.of(found.at_us)
    if "history_ms" not in found.missing:
        figures["history_ms"] = found.history_ms
    return Measurement(name, work.workload, repeat, figures, found.missing)
