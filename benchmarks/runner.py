"""A benchmark run is a durable run of this engine: a graph of a node per case.

Each case's node puts its result under `case/NAME`, and each measurement within it is a durable call, so a run that was
killed goes on where it stopped. A run is resumed only with the sources, cases and sizes that it began with.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

import eventstore as es

from .bench import Bench
from .described import of_system
from .machine import machine
from .registry import CASES
from .result import Measure, Measurement
from .results import NAME, PREFIX, Result, Settings, load, runs
from .systems import SYSTEMS, absent
from .worker import WorkerFailed
from .workload import WrongResult


class Teller:
    """Who is told how a run goes on; this one says nothing."""

    def begins(self, case: str) -> None:
        """A case begins."""

    def ends(self, case: str, seconds: float) -> None:
        """A case has its result."""

    def say(self, text: str) -> None:
        """What is done now."""


def graph(settings: Settings, folder: Path, teller: Teller, input: str = "") -> es.Graph:
    """A node per case, in order."""
    found = es.Graph(NAME, max_steps=len(settings.cases) + 1)
    built: dict[str, str] = {}
    for name in settings.cases:
        found.node(name=name)(_node(name, settings, folder, built, teller, input))
    for earlier, later in zip(settings.cases, settings.cases[1:], strict=False):
        found.edge(earlier, later)
    return found.start(settings.cases[0]).end(settings.cases[-1])


def _node(
    name: str, settings: Settings, folder: Path, built: dict[str, str], teller: Teller, input: str
) -> Callable[[es.Context], None]:
    def node(ctx: es.Context) -> None:
        teller.begins(name)
        inside = folder / name
        inside.mkdir()

        def remember(call: str, function: Callable[[], Any]) -> Any:
            return ctx.call(call, function, durable=True)

        bench = Bench(
            inside,
            quick=settings.quick,
            say=teller.say,
            repeat=settings.repeat,
            asked=tuple(settings.systems),
            input=input,
            built=built,
            remember=remember,
        )
        result = measured(name, bench)
        shutil.rmtree(inside)
        ctx.put(PREFIX + name, msgspec.to_builtins(result))
        teller.ends(name, result.seconds)

    return node


def measured(name: str, bench: Bench) -> Result:
    """Run one case. A crash or a wrong state is its result, not the end of the run."""
    measures: list[Measure] = []
    measurements: list[Measurement] = []
    started = time.monotonic()
    try:
        for found in CASES[name].function()(bench):
            if isinstance(found, Measure):
                measures.append(found)
            else:
                measurements.append(found)
    except (WorkerFailed, WrongResult) as error:
        bench.failed[name] = str(error)
        bench.say(f"{name} FAILED: {error}")
    return Result(measures, measurements, bench.skipped, bench.failed, time.monotonic() - started)


def unfinished(store: es.Store, settings: Settings) -> str | None:
    """The newest run with these settings that has not come to its end."""
    for run in runs(store):
        if run.settings == settings and run.status not in ("completed", "cancelled"):
            return run.trace_id
    return None


def run(
    store: es.Store,
    settings: Settings,
    teller: Teller,
    *,
    input: str = "",
    parent: Path | None = None,
    new: bool = False,
) -> str:
    """Make or resume the run; its trace id.

    `input`: the path of the transcripts. `parent`: where the measured files go for as long as they are needed.
    """
    folder = Path(tempfile.mkdtemp(prefix="eventstore-bench-", dir=parent))
    try:
        cases = graph(settings, folder, teller, input)
        known = None if new else unfinished(store, settings)
        if known is not None:
            done = load(store, known).results
            teller.say(f"going on with run {known}, which has {len(done)} of {len(settings.cases)} cases")
            for name, result in done.items():
                teller.ends(name, result.seconds)
            return es.resume(cases, store, known, force=True).trace_id
        systems = {name: of_system(name) for name in settings.systems or SYSTEMS if not absent(name)}
        state = {"settings": settings, "machine": machine(folder), "systems": systems}
        return es.run(cases, store, msgspec.to_builtins(state)).trace_id
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def expected_s(store: es.Store, settings: Settings) -> dict[str, float]:
    """What each case should take: as long as it took last time in a run like this, else what the registry says."""
    found = {name: CASES[name].seconds * (0.05 if settings.quick else 1) for name in settings.cases}
    for before in reversed(list(runs(store, limit=10))):
        if before.settings.quick == settings.quick and before.settings.repeat == settings.repeat:
            found |= {name: result.seconds for name, result in before.results.items() if name in found}
    return found


def open_results(path: str) -> closing[es.Store]:
    """The event store that keeps the results."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return closing(es.open(path))
