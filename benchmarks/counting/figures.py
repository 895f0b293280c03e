"""The checked figures of this engine: what a step and a restore take, over five workloads.

Counted by the portable means alone (a VFS and a trace function, never strace), so that every machine gives the same.
The jobs run in processes of their own and take no times: they may run side by side.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.measuring import remove, weigh
from benchmarks.systems import absent
from benchmarks.workloads import Work

from . import opcodes, steady
from .costs import shorter, steps_of
from .pages import pages
from .writes import VFS, watched

WORKS = (
    Work("chat", steps=300),
    Work("small-runs", runs=100),
    Work("overwrite", steps=300),
    Work("document", steps=60),
    Work("mixed", steps=150),
)
SAVER = "langgraph.opcodes_per_step"


class Figures(msgspec.Struct):
    """By name, `workload.figure`; `missing`: what could not be counted here, and why."""

    python: str
    found: dict[str, float]
    missing: dict[str, str]


def figures() -> Figures:
    """Count them all."""
    missing = {SAVER: f"{needed} is not installed"} if (needed := absent("langgraph-graph")) else {}
    with tempfile.TemporaryDirectory(prefix="eventstore-check-") as folder:
        jobs: list[Callable[[str], dict[str, float]]] = [_node] if missing else [_saver, _node]
        jobs += [partial(job, work) for work in WORKS for job in (written, executed)]
        paths = [str(Path(folder, f"{number}.db")) for number in range(len(jobs))]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            parts = list(pool.map(lambda job, path: job(path), jobs, paths))
    found = {name: round(figure, 4) for part in parts for name, figure in part.items()}
    return Figures(f"{sys.version_info.major}.{sys.version_info.minor}", dict(sorted(found.items())), missing)


def written(work: Work, path: str) -> dict[str, float]:
    """What a step of the work costs the disk, and what the closed file weighs."""
    normal, _ = _per_step(work, path, "normal")
    remove(path)
    full, full_bytes = _per_step(work, path, "full")
    found = {
        "syncs_per_step_full": full,
        "syncs_per_step_normal": normal,
        "bytes_per_step": full_bytes,
        "file_bytes": float(weigh(path)),
    }
    trees = pages(path).by_tree or {}
    found |= {f"{table}_pages": float(trees[table]) for table in ("log", "base") if table in trees}
    remove(path)
    return {f"{work.workload}.{name}": figure for name, figure in found.items()}


def executed(work: Work, path: str) -> dict[str, float]:
    """What a step executes, and what a restore executes and reads."""
    of_steps = opcodes.fresh(steady.opcodes_of_steps, path, work)
    remove(path)
    opcodes.fresh(steady.written, path, work, "normal")
    of_restores = opcodes.fresh(steady.lookback, path, work)
    reads, places = of_restores.reads, of_restores.places
    return {
        f"{work.workload}.opcodes_per_step": of_steps / steps_of(work),
        f"{work.workload}.opcodes_per_restore": of_restores.opcodes / places,
        f"{work.workload}.links_per_restore": reads.links / places,
        f"{work.workload}.tail_rows_per_restore": reads.tail_rows / places,
        f"{work.workload}.bytes_per_restore": (reads.link_bytes + reads.tail_bytes) / places,
    }


def _per_step(work: Work, path: str, durability: Literal["full", "normal"]) -> tuple[float, float]:
    """Syncs and bytes a step; the file of the whole work stays."""
    short = shorter(work)
    few = watched(VFS, path, steady.written, path, short, durability)
    remove(path)
    many = watched(VFS, path, steady.written, path, work, durability)
    steps = steps_of(work) - steps_of(short)
    return (many.syncs - few.syncs) / steps, (many.written_bytes - few.written_bytes) / steps


def _node(path: str) -> dict[str, float]:
    return {"node.opcodes_per_visit": opcodes.fresh(steady.opcodes_of_node, path)}


def _saver(path: str) -> dict[str, float]:
    return {SAVER: opcodes.fresh(steady.opcodes_of_saver, path)}
