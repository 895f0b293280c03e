"""What every case shares: where its files go, which sizes it runs at, and whom it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path


class Bench:
    """One run of the harness. `quick`: small sizes, to see that everything still works."""

    def __init__(self, folder: Path, *, quick: bool, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.quick = quick
        self.say = say
        self._names = count()
        self._built: dict[str, Path] = {}

    def path(self, name: str) -> str:
        """A path that no measurement used before: files are never shared by accident."""
        return str(self.folder / f"{next(self._names):04d}-{name}.db")

    def size(self, full: int, quick: int) -> int:
        """`full`, or `quick` in a quick run."""
        return quick if self.quick else full

    def rounds(self, name: str, full: int, quick: int = 1) -> Iterator[int]:
        """Count rounds, telling of each."""
        total = self.size(full, quick)
        for index in range(total):
            self.say(f"{name}: round {index + 1} of {total}")
            yield index

    def built(self, name: str, build: Callable[[str], object]) -> str:
        """The file that several cases read: built once a run."""
        if name not in self._built:
            path = self.path(name)
            self.say(f"building {name}")
            build(path)
            self._built[name] = Path(path)
        return str(self._built[name])
