"""Export to an analysis database: plain tables, full-text search and views, brought up to date in place.

Each run is read once, in pages, from where its last export stood, up to where it stands now; its latest state is
restored, not folded here. Runs go in batches, each with its progress in one transaction of the target: an
export that is cut short goes on where it stopped, and the end is the same. A run's progress names the chain's
digest: where the log says otherwise (it is another log, or an older one), that run is exported anew. Where the log
was trimmed beyond what was exported, no digest is left to ask: the run goes on at its root if it began as the
exported one did, to the microsecond, and is exported anew if not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from eventstore.errors import LogCorrupted, TraceErased, TraceNotFound, Trimmed
from eventstore.event import JsonRecord

from . import source
from .batch import Batch
from .schema import TABLES
from .source import Run

if TYPE_CHECKING:
    from eventstore.store import Store

    from .target import Target

PAGE_RUNS = 256
BATCH_ROWS = 50_000
TRIES = 20

OnProgress = Callable[[int, int, int], None]


class Exported(JsonRecord, frozen=True):
    """What an export did. `added`, `updated`, `unchanged`, `removed`: runs; `steps`, `deltas`, `messages`: rows added.

    `damaged`: what is wrong with the runs that could not be read and stay as they were exported before.

    >>> Exported("runs.db", 2, 0, 0, 0, 4, 10, 3, 8192, 0.5).deltas_per_s
    20.0
    """

    path: str
    added: int
    updated: int
    unchanged: int
    removed: int
    steps: int
    deltas: int
    messages: int
    file_bytes: int
    elapsed_s: float
    damaged: list[str] = []

    @property
    def deltas_per_s(self) -> float:
        """Deltas added, by time."""
        return self.deltas / self.elapsed_s if self.elapsed_s else 0.0


def export_analysis(
    store: Store,
    path: str | PathLike[str],
    *,
    trace_ids: Sequence[str] | None = None,
    name: str | None = None,
    status: str | None = None,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Bring the analysis database at `path` up to date with the store, or make it; other processes may append.

    `trace_ids`, or `name` and `status`: only those runs, and what they were forked from. Runs that were erased in
    the store leave the file, whatever was chosen. `on_progress(runs done, of how many, deltas so far)`.

    `runs.steps` counts the run's committed steps that the file has seen, and those that were trimmed between two
    exports; the other sums of such a run are of what the file holds.

    Raises ExportRefused for a file that is no such database, TraceNotFound, TraceErased, ValueRefused for a name
    or status that is not Unicode, storage errors.

    >>> import os, sqlite3, tempfile
    >>> from ..store import open
    >>> with open(":memory:") as store, tempfile.TemporaryDirectory() as folder:
    ...     trace = store.start({"messages": [{"role": "user", "content": "hi"}]}, id="t1")
    ...     with trace.step("answer") as step:
    ...         step.put("n", 1)
    ...     path = os.path.join(folder, "analysis.db")
    ...     exported = export_analysis(store, path)
    ...     with_sql = sqlite3.connect(path)
    ...     with_sql.execute("SELECT node, key, value FROM deltas").fetchall()
    ...     with_sql.close()
    [('answer', 'n', '1')]
    >>> exported.added, exported.steps, exported.messages
    (1, 1, 1)
    """
    from .check import check
    from .target import Target

    started = time.perf_counter()
    check(os.fspath(path))
    chosen = source.chosen(store._database, trace_ids, name, status)
    target = Target(os.fspath(path))
    try:
        export = _Export(store, target, on_progress or (lambda done, total, deltas: None))
        export.bring(chosen)
        export.remove_erased()
        target.finish()
    finally:
        target.close()
    counts = export.counts
    return Exported(
        target.path,
        counts["added"],
        counts["updated"],
        counts["unchanged"],
        counts["removed"],
        counts["steps"],
        counts["deltas"],
        counts["messages"],
        Path(target.path).stat().st_size,
        round(time.perf_counter() - started, 6),
        list(export.damaged.values()),
    )


class _Export:
    """One export under way. `counts` holds what is committed."""

    def __init__(self, store: Store, target: Target, on_progress: OnProgress) -> None:
        self.store = store
        self.target = target
        self.on_progress = on_progress
        self.counts = dict.fromkeys(("added", "updated", "unchanged", "removed", *TABLES), 0)
        self.damaged: dict[str, str] = {}
        self.done = self.total = 0

    def bring(self, row_ids: Sequence[int]) -> None:
        """Bring those runs up to date, batch by batch."""
        self.total = len(row_ids)
        for start in range(0, len(row_ids), PAGE_RUNS):
            waiting = list(row_ids[start : start + PAGE_RUNS])
            tries = 0
            while waiting:
                try:
                    waiting = self._batch(waiting)
                    tries = 0
                except LogCorrupted as error:
                    if error.trace_id in self.damaged:
                        raise
                    self.damaged[error.trace_id] = str(error)
                except (Trimmed, TraceErased, TraceNotFound):
                    tries += 1  # it changed while it was read: look again
                    if tries == TRIES:
                        raise

    def _batch(self, row_ids: list[int]) -> list[int]:
        """One transaction; the ids that it left for the next."""
        batch, left = Batch(self.store, self.target, self._told), len(row_ids)
        with self.target.transaction():  # first, so that no other export knows of more than is seen here
            runs = source.looked_at(self.store._database, row_ids, self.store.path)
            progress = self.target.progress([run.row.trace_id for run in runs])
            for run in runs:
                if run.damage is not None:
                    self.damaged[run.row.trace_id] = str(run.damage)
                elif self._is_orphan(run):
                    self.damaged[run.row.trace_id] = f"trace {run.row.trace_id} is a fork of one that is damaged"
                elif run.row.trace_id not in self.damaged:
                    batch.bring(run, progress.get(run.row.trace_id))
                if batch.rows >= BATCH_ROWS:
                    left = row_ids.index(run.row.id) + 1
                    break
            batch.write()
        for what, count in batch.counts.items():
            self.counts[what] += count
        self.done += left
        self.on_progress(self.done, self.total, self.counts["deltas"])
        return row_ids[left:]

    def _is_orphan(self, run: Run) -> bool:
        """Whether what the run was forked from is missing in the export."""
        parent = run.parent_trace_id
        return parent is not None and parent in self.damaged and not self.target.known([parent])

    def _told(self, deltas: int) -> None:
        self.on_progress(self.done, self.total, self.counts["deltas"] + deltas)

    def remove_erased(self) -> None:
        """Remove the runs that were erased in the store, leaving no copy of what they held."""
        for page in source.erased(self.store._database):
            gone = self.target.known(page)
            if gone:
                with self.target.transaction():
                    for trace_id in gone:
                        self.target.forget(trace_id)
                    self.target.forget_words()
                self.counts["removed"] += len(gone)
        if self.counts["removed"]:
            self.target.rewrite()
