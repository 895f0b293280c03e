"""Bringing runs up to date in one transaction of the analysis database.

A run's new rows are unfolded page by page and written whenever enough of them wait, so memory does not grow with
the run. Its own row comes last: what its events come to, and its latest state, restored once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from eventstore.control import pending_barriers, status_of
from eventstore.errors import LogCorrupted

from . import source
from .messages import Cells, json_text
from .rows import RunRows, Totals, time_text
from .schema import TABLES
from .source import Run

if TYPE_CHECKING:
    from eventstore.store import Store

    from .target import Progress, Target

BUFFER_ROWS = 2_000
BUFFER_BYTES = 4 * 1024 * 1024


class Batch:
    """The rows of one transaction. `on_rows(deltas so far)` is called whenever some are written."""

    def __init__(self, store: Store, target: Target, on_rows: Callable[[int], None]) -> None:
        self.store = store
        self.target = target
        self.on_rows = on_rows
        self.counts = dict.fromkeys(("added", "updated", "unchanged", *TABLES), 0)
        self.waiting: dict[str, list[Cells]] = {name: [] for name in TABLES}
        self.waiting_bytes = 0
        self.rows = 0

    def bring(self, run: Run, progress: Progress | None) -> None:
        """Bring one run up to date."""
        reader, row, head = self.store._reader, run.row, run.head
        if progress is not None and not self._continues(run, progress):
            self.write()
            self.target.forget(row.trace_id)
            progress, what = None, "updated"
        else:
            what = "added" if progress is None else "updated"
        is_known = progress is not None
        is_marked = self._checkpoints(run, is_known)
        if progress is not None and progress.version == head.version:
            self.counts["updated" if is_marked else "unchanged"] += 1
            return
        after = max(0 if progress is None else progress.version, row.fork_seq, run.root_seq)
        rows = self._begun(run, after, progress)
        for page in reader.pages(row, after, head.version):
            for log_row in page:
                try:
                    rows.add(log_row)
                except ValueError as error:
                    raise LogCorrupted(self.store.path, row.trace_id, log_row.first_seq, str(error)) from error
                self.waiting_bytes += len(log_row.body)
                if self.waiting_bytes >= BUFFER_BYTES:
                    self.write()
            self._written_when_full()
        rows.close()
        self._finish(run, rows)
        self.counts[what] += 1

    def _continues(self, run: Run, progress: Progress) -> bool:
        """Whether the log still says what was exported."""
        if progress.version >= run.head.version:
            return progress.version == run.head.version and progress.digest == run.head.digest.hex()
        digest = source.digest_at(self.store._database, run.row, progress.version)
        if digest is not None:
            return digest.hex() == progress.digest
        return progress.version >= run.root_seq or self._began_alike(run, progress)

    def _began_alike(self, run: Run, progress: Progress) -> bool:
        """Whether a run that is trimmed beyond its export began as that did, and stands after it at its root."""
        row = run.row
        began = (row.name, time_text(row.created_us), run.parent_trace_id, row.fork_seq or None)
        *exported, updated_at = self.target.beginning(row.trace_id)
        return (
            tuple(exported) == began
            and updated_at <= time_text(self.store._reader.root_us(row, run.root_seq))
            and progress.last_step <= _steps(self._control(row.trace_id, run.root_seq))
        )

    def _begun(self, run: Run, after: int, progress: Progress | None) -> RunRows:
        """Rows that go on after the boundary `after`."""
        trace_id, target = run.row.trace_id, self.target
        if progress is None:
            last_step = _steps(self._control(trace_id, after)) if after else 0
            return RunRows(trace_id, self.waiting, Totals(), last_step)
        known = target.totals(trace_id), progress.last_step, target.open_barriers(trace_id)
        rows = RunRows(trace_id, self.waiting, *known)
        if progress.version < after:
            control = self._control(trace_id, after)
            rows.skip(_steps(control), pending_barriers(control), self.store._reader.root_us(run.row, after))
        return rows

    def _control(self, trace_id: str, seq: int) -> Mapping[str, Any]:
        return self.store._reader.restore(trace_id, seq)[2].control

    def _finish(self, run: Run, rows: RunRows) -> None:
        """The run's own row, and how far it is exported now."""
        row, head, totals = run.row, run.head, rows.totals
        restored = self.store._reader.restore(row.trace_id, head.version)[2]
        control, status = restored.control, status_of(restored.control)
        state = json_text(restored.state)
        self.waiting_bytes += len(state)
        self.waiting["runs"].append(
            (
                row.trace_id,
                row.name,
                status,
                head.version,
                time_text(row.created_us),
                time_text(head.at_us),
                totals.steps,
                totals.failed_attempts,
                totals.duration_ms,
                totals.token_cost,
                totals.waited_s,
                len(pending_barriers(control)) if status == "waiting" else 0,
                run.parent_trace_id,
                row.fork_seq or None,
                control.get("graph_hash", ""),
                state,
            )
        )
        self.waiting["export_progress"].append((row.trace_id, head.version, head.digest.hex(), rows.last_step))
        self._written_when_full()

    def _checkpoints(self, run: Run, is_known: bool) -> bool:
        """Bring the run's checkpoints up to date; whether there was anything to do."""
        if not (run.has_checkpoints or is_known):
            return False
        theirs = (
            (checkpoint_id, run.row.trace_id, seq, node, triggers, time_text(created_us))
            for checkpoint_id, seq, node, triggers, created_us in source.checkpoints(
                self.store._database, run.row, run.head.version
            )
        )
        ours = self.target.checkpoints(run.row.trace_id) if is_known else ()
        gone, new = _differences(ours, theirs)
        if gone:
            self.target.drop_checkpoints(gone)
        self.waiting["checkpoints"] += new
        return bool(gone or new)

    def _written_when_full(self) -> None:
        waiting = sum(map(len, self.waiting.values()))
        if waiting >= BUFFER_ROWS or self.waiting_bytes >= BUFFER_BYTES:
            self.write()

    def write(self) -> None:
        """Write all that waits."""
        self.target.write(self.waiting)
        for name, rows in self.waiting.items():
            self.counts[name] += len(rows)
            self.rows += len(rows)
            rows.clear()
        self.waiting_bytes = 0
        self.on_rows(self.counts["deltas"])


def _steps(control: Mapping[str, Any]) -> int:
    return int(control.get("steps", 0))


def _differences(ours: Iterable[Cells], theirs: Iterable[Cells]) -> tuple[list[str], list[Cells]]:
    """Of two lists of checkpoints: the ids that are only in ours, and the rows that are not in ours as they are."""
    known: dict[str, Cells] = {row[0]: row for row in ours}
    new = [row for row in theirs if known.pop(row[0], None) != row]
    return list(known), new
