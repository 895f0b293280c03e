"""What a step of a system costs the disk: syncs and bytes, of a long run less those of a short one.

Both runs are written and closed by `benchmarks.measuring.write`, in a fresh process each.
"""

from __future__ import annotations

import msgspec

from benchmarks.measuring import remove, write
from benchmarks.workloads import Work

from .writes import VFS, Watcher, Writes, watched, watcher


class Costs(msgspec.Struct, frozen=True):
    """By step. `how`: who counted; where nobody can, the figures are None and it says why."""

    syncs_per_step: float | None
    bytes_per_step: float | None
    how: str


def costs(name: str, path: str, work: Work, by: Watcher | None = None) -> Costs:
    """What a step of the system `name` costs; files are made at `path` and gone afterwards.

    `by`: who counts; by default strace where it works.
    """
    by = by or watcher()
    short = shorter(work)
    few, many = (_written(by, name, path, one) for one in (short, work))
    if by is VFS and not many.files:
        return Costs(None, None, "strace is not here, and without it only what apsw writes can be counted")
    steps = steps_of(work) - steps_of(short)
    return Costs((many.syncs - few.syncs) / steps, (many.written_bytes - few.written_bytes) / steps, by.title)


def shorter(work: Work) -> Work:
    """A third of the work: of its runs, or of the steps of its one run."""
    if work.runs > 1:
        short = msgspec.structs.replace(work, runs=max(1, work.runs // 3))
    else:
        short = msgspec.structs.replace(work, steps=max(1, work.steps // 3))
    if steps_of(short) >= steps_of(work):
        raise ValueError(f"{work} cannot be made shorter: give it more runs or steps")
    return short


def steps_of(work: Work) -> int:
    """How many steps the work is."""
    return sum(len(steps) for _, steps in work.plan())


def _written(by: Watcher, name: str, path: str, work: Work) -> Writes:
    try:
        return watched(by, path, write, name, path, work)
    finally:
        remove(path)
