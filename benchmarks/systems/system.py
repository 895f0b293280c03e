"""What every measured system can do: write a run step by step, and read a state of it back.

An adapter is opened on a fresh path, is told whole runs, and is asked for states that are checked. How it does that
is how its documentation says to, at its own defaults; `mode` names its journal and sync setting, and `durability` what
a returned step survives. A system that cannot answer a question raises NotSupported with the reason.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from benchmarks.workload import StepInput

State = dict[str, Any]
Durability = Literal["full", "normal", "none"]


class NotSupported(Exception):
    """A system has no such thing; the text says why."""


class System(ABC):
    """One store at `path`, open from its construction to `close()`.

    `durability`: `full` where a returned step survives power loss, `normal` where a power cut may take the newest,
    `none` where nothing is synced. `through`: the name of what calls the steps, where the caller does not. `threads`,
    `processes`: whether several may write one file. `largest`: the most steps of one run that are worth waiting for.
    """

    title: ClassVar[str]
    mode: ClassVar[str]
    durability: ClassVar[Durability]
    through: ClassVar[str] = ""
    threads: ClassVar[bool] = True
    processes: ClassVar[bool] = True
    largest: ClassVar[int] = 100_000

    @abstractmethod
    def __init__(self, path: str) -> None: ...

    @abstractmethod
    def write(self, run: str, state: State, steps: Sequence[StepInput]) -> list[float]:
        """Write a whole run that begins with `state`, each step kept before the next begins; µs of each step."""

    @abstractmethod
    def latest(self, run: str) -> State:
        """The run's state as it stands."""

    def at(self, run: str, step: int) -> State:
        """The state after so many steps, 0 for the one that it began with."""
        raise NotSupported("it keeps the latest state only")

    def history(self, run: str) -> Iterator[State]:
        """The state after each step, oldest first, without the one that the run began with."""
        raise NotSupported("it keeps the latest state only")

    @abstractmethod
    def close(self) -> None:
        """Close it, as a program that ends well does."""


def timed(write: Callable[[StepInput], object], steps: Iterable[StepInput]) -> list[float]:
    """Call `write` with each step; µs of each call."""
    clock, laps = time.perf_counter_ns, []
    for step in steps:
        started = clock()
        write(step)
        laps.append((clock() - started) / 1000)
    return laps


class Laps:
    """The times between one step and the next, of a loop that is not ours.

    `lap()` is called in each step, by the function that the loop calls; `close()` when the run is over: its last step
    ends there.
    """

    def __init__(self) -> None:
        self.laps: list[float] = []
        self._last: int | None = None

    def lap(self) -> None:
        """A step begins; the one before it has ended."""
        now = time.perf_counter_ns()
        if self._last is not None:
            self.laps.append((now - self._last) / 1000)
        self._last = now

    def close(self) -> list[float]:
        """The run is over; µs of each step."""
        self.lap()
        return self.laps
