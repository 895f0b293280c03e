"""What every case shares: where its files go, its sizes and systems, what is measured once, whom it tells.

A case is a durable node of the benchmark run's graph. A measurement made by `once` is a durable call of that node:
when the run is killed and resumed, it is answered from the log and not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_type_hints

import msgspec

from .systems import absent
from .worker import WorkerFailed
from .workload import WrongResult

P = ParamSpec("P")
T = TypeVar("T")
QUICK = ("floor", "floor-normal", "engine", "engine-normal")
Remember = Callable[[str, Callable[[], Any]], Any]


def call_always(name: str, function: Callable[[], Any]) -> Any:
    """Remember nothing."""
    return function()


class Bench:
    """One case's view of the run.

    `quick`: small sizes, to see that everything still works. `repeat`: how often each measurement is made, 0 for as
    often as its case says. `asked`: the systems to measure, all of them where empty. `input`: a file of real
    transcripts. `built`: the files that several cases read, by name. `remember`: `(name, function) -> its value`,
    called once in the life of the run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        quick: bool,
        say: Callable[[str], None],
        repeat: int = 0,
        asked: tuple[str, ...] = (),
        input: str = "",
        built: dict[str, str] | None = None,
        remember: Remember = call_always,
    ) -> None:
        self.folder = folder
        self.quick = quick
        self.say = say
        self.repeat = repeat
        self.input = input
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self._asked = asked
        self._remember = remember
        self._names = count()
        self._built = {} if built is None else built

    def path(self, name: str) -> str:
        """A path that no measurement used before: files are never shared by accident."""
        return str(self.folder / f"{next(self._names):04d}-{name}.db")

    def size(self, full: int, quick: int) -> int:
        """`full`, or `quick` in a quick run."""
        return quick if self.quick else full

    def rounds(self, name: str, full: int, quick: int = 1) -> Iterator[int]:
        """Count rounds, telling of each."""
        total = self.repeat or self.size(full, quick)
        for index in range(total):
            self.say(f"{name}: round {index + 1} of {total}")
            yield index

    def built(self, name: str, build: Callable[[str], object]) -> str:
        """The file that several measurements or cases read: built once."""
        if name not in self._built:
            path = self.folder.parent / f"built-{len(self._built)}.db"
            self.say(f"building {name}")
            build(str(path))
            self._built[name] = str(path)
        return self._built[name]

    def systems(self, *names: str, quick: tuple[str, ...] = QUICK) -> tuple[str, ...]:
        """Those that are asked for and installed; the others are noted with the reason.

        A quick run measures those in `quick` unless others are asked for: most peers take a second to import.
        """
        asked = self._asked or (quick if self.quick else names)
        chosen = []
        for name in names:
            if name not in asked:
                continue
            if needed := absent(name):
                self.skip(name, f"{needed} is not installed (pip install 'trace-eventstore[bench]')")
            else:
                chosen.append(name)
        return tuple(chosen)

    def skip(self, name: str, reason: str) -> None:
        """Leave out a system, saying so."""
        if name not in self.skipped:
            self.say(f"{name} is left out: {reason}")
        self.skipped[name] = reason

    def turns(self, name: str, systems: tuple[str, ...], repeats: int, quick: int = 1) -> Iterator[tuple[int, str]]:
        """`(repeat, system)`; the systems take turns within a repeat, and who begins goes round, too."""
        total = self.repeat or self.size(repeats, quick)
        for repeat in range(total):
            first = repeat % max(1, len(systems))
            for system in systems[first:] + systems[:first]:
                if system not in self.failed:
                    self.say(f"{name}: {system}, {repeat + 1} of {total}")
                    yield repeat, system

    def once(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function(…)` gives, as JSON keeps it; called once, however often the run is killed and resumed."""
        kept = self._remember(name, lambda: msgspec.to_builtins(function(*args, **kwargs)))
        result: T = msgspec.convert(kept, get_type_hints(function)["return"])
        return result

    @contextmanager
    def failing(self, system: str) -> Iterator[None]:
        """A crash or a wrong state inside is noted as this system's failure; the others go on."""
        try:
            yield
        except (WorkerFailed, WrongResult) as error:
            self.failed[system] = str(error)
            self.say(f"{system} FAILED: {error}")
