"""What a run of the harness found, as its trace keeps it.

A benchmark run is a trace named `bench`. What was asked, of which systems and on which machine, is the state that it
begins with; each case is a durable step that puts its `Result` under `case/NAME`. So any two runs can be diffed, a
killed one resumes, and the history of a figure is the history of a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

import eventstore as es

from .result import Measure, Measurement
from .systems.system import Durability

NAME = "bench"
PREFIX = "case/"


class Settings(msgspec.Struct, frozen=True):
    """What a run was asked for.

    `input`: the name of a file of transcripts. `code`: a digest of the sources that were measured.
    """

    cases: list[str]
    systems: list[str]
    repeat: int = 0
    quick: bool = False
    input: str = ""
    code: str = ""


class Machine(msgspec.Struct, frozen=True):
    """Where it ran: nothing here names a person or a host."""

    system: str
    processor: str
    cores: int
    memory_bytes: int
    python: str
    sqlite: str
    sync_us: float
    packages: dict[str, str]


class Described(msgspec.Struct, frozen=True):
    """A system as a table names it; see `System`."""

    title: str
    mode: str
    durability: Durability
    through: str = ""


class Result(msgspec.Struct, frozen=True):
    """What a case found.

    `skipped`: systems that were left out, and why. `failed`: those that crashed or gave a wrong state.
    """

    measures: list[Measure] = []
    measurements: list[Measurement] = []
    skipped: dict[str, str] = {}
    failed: dict[str, str] = {}
    seconds: float = 0.0


class BenchRun(msgspec.Struct, frozen=True):
    """One run of the harness as it stands in the log."""

    trace_id: str
    started: datetime
    status: str
    settings: Settings
    machine: Machine
    results: dict[str, Result]
    systems: dict[str, Described] = {}


def runs(store: es.Store, limit: int = 1000) -> Iterator[BenchRun]:
    """The runs in a store, the newest first."""
    for info in store.traces(limit=limit, name=NAME):
        yield load(store, info.trace_id)


def load(store: es.Store, trace_id: str) -> BenchRun:
    """One run, whole or as far as it got. Raises TraceNotFound."""
    trace = store.open_trace(trace_id)
    now, start = trace.at(), trace.at(1)
    results = {
        key.removeprefix(PREFIX): msgspec.convert(value, Result)
        for key, value in now.state.items()
        if key.startswith(PREFIX)
    }
    settings = msgspec.convert(now.state["settings"], Settings)
    machine = msgspec.convert(now.state["machine"], Machine)
    systems = msgspec.convert(now.state["systems"], dict[str, Described])
    return BenchRun(trace.id, start.at, str(now.status), settings, machine, results, systems)
