"""The committed figures, and how those found are held against them.

A figure that moved by more than its tolerance fails, whichever way: an improvement that is not committed would be the
room in which the next regression hides. Five countings gave the same to the last digit, so that a tolerance is not for
noise: it leaves room for another patch release of Python or SQLite, and for an append id (a random number) that is now
and then a byte or two shorter. What is counted in whole syncs, links and rows has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import msgspec

from .figures import Figures

FILE = Path(__file__).parent.parent / "expected.json"
TOLERANCES = {"bytes": 0.005, "opcodes": 0.005}


class Expected(msgspec.Struct, frozen=True):
    """`counts`: the same under every Python; `opcodes`: by Python's minor version."""

    counts: dict[str, float] = {}
    opcodes: dict[str, dict[str, float]] = {}

    @classmethod
    def load(cls, file: Path = FILE) -> Self:
        """Those in the file; none where it does not exist yet."""
        return msgspec.json.decode(file.read_bytes(), type=cls) if file.exists() else cls()

    def save(self, file: Path = FILE) -> None:
        """Write the file."""
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=2) + b"\n")

    def under(self, python: str) -> dict[str, float]:
        """Every figure that is committed for this version."""
        return self.counts | self.opcodes.get(python, {})

    def updated(self, figures: Figures) -> Expected:
        """With what was found; what could not be counted here, and what other versions gave, stays."""
        before = self.under(figures.python)
        now = {name: before[name] for name in figures.missing if name in before} | figures.found
        counts, opcodes = ({k: v for k, v in now.items() if is_opcodes(k) is kind} for kind in (False, True))
        return Expected(counts, self.opcodes | {figures.python: opcodes})


class Compared(msgspec.Struct, frozen=True):
    """One figure. `change`: by what part it moved, None where there is nothing to compare; `note`: what is said of it.

    `ok`: False where it fails the check.
    """

    figure: str
    expected: float | None
    found: float | None
    change: float | None
    ok: bool
    note: str = ""


def compare(figures: Figures, expected: Expected) -> list[Compared]:
    """Every figure found or expected, by name.

    >>> found = Figures("3.11", {"chat.syncs_per_step_full": 2.0}, {})
    >>> [(one.change, one.ok) for one in compare(found, Expected({"chat.syncs_per_step_full": 1.0}))]
    [(1.0, False)]
    """
    committed, lines = expected.under(figures.python), []
    for name in sorted(figures.found | committed):
        before, now = committed.get(name), figures.found.get(name)
        if before is not None and now is not None:
            lines.append(_moved(name, before, now))
        elif name in figures.missing:
            lines.append(Compared(name, before, None, None, True, figures.missing[name]))
        elif before is not None:
            lines.append(Compared(name, before, None, None, False, "is counted no more"))
        elif is_opcodes(name) and figures.python not in expected.opcodes:
            lines.append(Compared(name, None, now, None, True, f"nothing is committed for Python {figures.python}"))
        else:
            lines.append(Compared(name, None, now, None, False, "is not committed"))
    return lines


def is_opcodes(name: str) -> bool:
    """Whether a figure depends on the version of Python."""
    return "opcodes" in name


def tolerance(name: str) -> float:
    """By what part a figure may move.

    >>> tolerance("chat.bytes_per_step"), tolerance("chat.links_per_restore")
    (0.005, 0)
    """
    return next((part for kind, part in TOLERANCES.items() if kind in name), 0)


def _moved(name: str, before: float, now: float) -> Compared:
    change = 0.0 if now == before else now / before - 1 if before else float("inf")
    ok = abs(change) <= tolerance(name)
    return Compared(name, before, now, change, ok, "" if ok else "is more" if change > 0 else "is less")
