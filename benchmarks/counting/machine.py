"""CPU in machine instructions a step, by valgrind, where it is installed: SQLite and msgspec included.

Of a long run less those of a short one; both make the whole plan, so that making it falls out too. Reported and never
checked: the compiler, the libraries and the C library's choice of routines for this processor all show in it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import msgspec

from benchmarks.measuring import remove
from benchmarks.systems import system
from benchmarks.worker import under
from benchmarks.workloads import Work

_SUMMARY = re.compile(r"^(?:summary|totals): *(\d+)", re.MULTILINE)


class Instructions(msgspec.Struct, frozen=True):
    """`per_step`: None where nobody can count, and `how` says why."""

    per_step: float | None
    how: str


def instructions(name: str, path: str, work: Work) -> Instructions:
    """The machine instructions of a step of the system `name`; files are made at `path` and gone afterwards.

    Some thirty times slower than the run itself: 60 steps are enough.
    """
    if shutil.which("valgrind") is None:
        return Instructions(None, "valgrind is not here")
    steps = sum(len(steps) for _, steps in work.plan())
    (few, less), (many, more) = (_executed(name, path, work, count) for count in (steps // 3, steps))
    if many == few:
        raise ValueError(f"{work} cannot be made shorter: give it more runs or steps")
    return Instructions((more - less) / (many - few), "valgrind")


def write_some(name: str, path: str, work: Work, count: int) -> int:
    """Make the whole plan, and write its first runs and steps up to `count`; how many were written."""
    plan, written = list(work.plan()), 0
    opened = system(name)(path)
    for run, steps in plan:
        if written < count:
            written += len(opened.write(run, work.state, steps[: count - written]))
    opened.close()
    return written


def _executed(name: str, path: str, work: Work, count: int) -> tuple[int, int]:
    """`(steps written, instructions)`."""
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder, "notes")
        tool = ("--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={notes}", f"--log-file={folder}/log")
        try:
            written = under(("env", "PYTHONHASHSEED=0", "valgrind", *tool), write_some, name, path, work, count)
        finally:
            remove(path)
        return written, collected(notes.read_text("utf-8", "replace"))


def collected(notes: str) -> int:
    """The instructions in an output file of cachegrind or callgrind.

    >>> collected("events: Ir\\nfn=main\\n1 20\\nsummary: 1234\\n")
    1234
    """
    found = _SUMMARY.search(notes)
    if found is None:
        raise ValueError("valgrind left no summary")
    return int(found[1])
