"""What the tests share: a store on a fresh file, ways to look behind its back, and Hypothesis' profiles.

`HYPOTHESIS_PROFILE=long` runs the campaigns.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, settings

import eventstore as es
from eventstore.chain import Chain

_settings = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("default", max_examples=50, stateful_step_count=40, **_settings)
settings.register_profile("long", max_examples=3000, stateful_step_count=60, **_settings)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"


@pytest.fixture
def long() -> bool:
    """Whether this run is a campaign."""
    return LONG


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where a new store can be made."""
    return str(tmp_path / "runs.db")


@pytest.fixture
def store(path: str) -> Iterator[es.Store]:
    """An open store on a new file."""
    with es.open(path, durability="normal") as store:
        yield store


@pytest.fixture
def trace(store: es.Store) -> es.Trace:
    """A trace named t1, at version 1, with a list, a number and a string."""
    return store.start({"log": [], "n": 0, "text": "a"}, id="t1", name="chat")


@pytest.fixture
def tiny_fold() -> es.AdaptiveFold:
    """The adaptive policy with limits so small that a dozen steps make links and collapses."""
    return es.AdaptiveFold(min_tail_deltas=2, min_link_bytes=64, max_link_bytes=256, small_state_bytes=64)


@pytest.fixture
def exact() -> Callable[[Any], str]:
    """A JSON value as text in which 1, 1.0 and true differ, and the order of keys counts."""
    return json.dumps


@pytest.fixture
def record() -> Callable[..., es.Trace]:
    """`record(store, steps, id=…)`: a run of appends, overwrites and a sum, two deltas and more a step."""

    def run(store: es.Store, steps: int, id: str = "t1") -> es.Trace:
        trace = store.start({"log": [], "n": 0, "text": ""}, id=id, name="chat", reducers={"n": "sum"})
        for number in range(steps):
            with trace.step("work") as step:
                step.append("log", {"number": number, "text": "x" * 20})
                step.put("n", 1)
                step.replace("text", f"step {number}")
        return trace

    return run


@pytest.fixture
def raw(path: str) -> Iterator[apsw.Connection]:
    """A connection of our own to the store's file, with every guard in place."""
    connection = apsw.Connection(path)
    connection.create_scalar_function("seal", Chain().seal, -1)
    yield connection
    connection.close()


@pytest.fixture
def bytes_of() -> Callable[[Path], bytes]:
    """`bytes_of(file)`: read by another process, since closing an open store's file here would drop its locks."""
    return lambda file: subprocess.run(["cat", str(file)], capture_output=True, check=True).stdout


@pytest.fixture
def tamper(path: str, damage_file: Callable[..., int]) -> Callable[..., int]:
    """`tamper(sql, *parameters)`: damage the file past its guards; gives the number of rows changed."""
    return partial(damage_file, path)


@pytest.fixture
def damage_file() -> Callable[..., int]:
    """`damage_file(path, sql, *parameters)`: as `tamper`, of any file."""

    def run(path: str | Path, sql: str, *parameters: Any) -> int:
        connection = apsw.Connection(str(path))
        guards = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(sql, parameters)
        changed = connection.changes()
        for _, text in guards:
            connection.execute(text)
        connection.close()
        return changed

    return run
