"""The progress of a run: a bar with the time left on a terminal, a line per case in a pipe.

A bar measured in cases would jump: it is measured in the seconds that each case took the last time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from .runner import Teller


class ProgressTeller(Teller):
    """A context manager that shows how far a run is. `expected`: seconds of each case."""

    def __init__(self, expected: Mapping[str, float], console: Console) -> None:
        self._expected = dict(expected)
        self._console = console
        self._case = ""
        self._began = time.monotonic()
        self._before = 0.0
        self._progress = Progress(
            TextColumn("{task.percentage:3.0f} %"),
            BarColumn(bar_width=30),
            _Left(self),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=max(sum(self._expected.values()), 1e-9))

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def begins(self, case: str) -> None:
        self._case, self._began = case, time.monotonic()
        self.say("begins")

    def ends(self, case: str, seconds: float) -> None:
        self._before += self._expected.pop(case, 0.0)
        self._case = ""
        self._progress.update(self._task, completed=self._before)
        self._console.print(f"{case}: {seconds:.1f} s", style="dim", markup=False, highlight=False)

    def say(self, text: str) -> None:
        where = f"{self._case}: " if self._case and not text.startswith(self._case) else ""
        self._progress.update(self._task, description=where + text, completed=self._before + self._within())
        if not self._console.is_terminal and ("FAILED" in text or not self._case):
            self._console.print(where + text, markup=False, highlight=False)

    def left_s(self) -> float:
        """Seconds that the cases still to come, and the rest of this one, should take."""
        return max(0.0, sum(self._expected.values()) - self._within())

    def _within(self) -> float:
        """Seconds of the present case that count as done: never all that it should take."""
        return min(time.monotonic() - self._began, self._expected.get(self._case, 0.0) * 0.98)


class _Left(ProgressColumn):
    """`3:20 left`, counting down while a case runs."""

    def __init__(self, teller: ProgressTeller) -> None:
        super().__init__()
        self._teller = teller

    def render(self, task: Task) -> Text:
        minutes, seconds = divmod(round(self._teller.left_s()), 60)
        return Text(f"{minutes}:{seconds:02d} left")
