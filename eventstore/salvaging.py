"""Out of a damaged file into a new one: all that is sound.

A damaged page takes what is on it, not its neighbours; a damaged row takes the rest of its trace, not what is before
it, nor other traces. First the pages are read without trusting any (`salvage_pages`, `salvage_trees`), then the rows
go into a sound file beside the new one (`salvage_rows`), then each trace's chain decides what is kept of it
(`salvage_traces`, `salvage_beside`). What is left goes the way of every import: a dump of that file is loaded into the
new one, held to all that an append is held to. A trace that is refused there for what stands beside its log is tried
again without that. At last the new file is verified. The damaged one is only read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chain import Chain
from .errors import EventStoreError, StorageError, TraceNotFound
from .event import JsonRecord
from .ownership import OFFER
from .problem import Problem
from .salvage_beside import BESIDE, FORGET
from .salvage_pages import Pages
from .salvage_rows import BESIDE_THE_LOG, KEPT, Found
from .salvage_traces import Judge, Verdict
from .store import Store
from .transfer.loading import load
from .transfer.outgoing import dump
from .verify import VerifyReport, verify
from .whole_file import part_of, publish, refusal_of_new

if TYPE_CHECKING:
    import apsw

UNLEASED = (
    "SELECT id, trace_id FROM trace WHERE status IN ('running', 'waiting') AND id NOT IN (SELECT trace FROM lease)"
)


class SalvagedTrace(JsonRecord, frozen=True):
    """A trace that was not kept whole. `kept_to`: the last seq that was, 0 for none; `reason`: why it ends there.

    >>> SalvagedTrace("t1", 30, "the row at seq 31 is missing or cannot be read").is_lost
    False
    """

    trace_id: str
    kept_to: int
    reason: str

    @property
    def is_lost(self) -> bool:
        """Nothing of it was kept."""
        return self.kept_to == 0


class SalvageReport(JsonRecord, frozen=True):
    """What was salvaged. `kept`: traces that are whole; `events`: in the new file; `cut`: the other traces.

    `beside`: rows beside the log (checkpoints, leases, tombstones, graphs, threads) that were lost; `unnamed`: rows of
    the log whose trace nothing names any more; `pages`: of the file, `damaged_pages`: of them, those where rows were
    not readable; `problems`: what `verify` found in the new file.

    >>> SalvageReport("new.db", 9, 412, [], 0, 0, 100, 0, []).ok
    True
    """

    path: str
    kept: int
    events: int
    cut: list[SalvagedTrace]
    beside: int
    unnamed: int
    pages: int
    damaged_pages: int
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """Nothing was lost."""
        return not (self.cut or self.beside or self.unnamed or self.damaged_pages or self.problems)


def salvage(
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    on_trace: Callable[[str, int, str | None], None] | None = None,
    chain_key: str | bytes | None = None,
) -> SalvageReport:
    """Write what is sound in the damaged event store `source` into a new one, `target`.

    Of each trace that is its longest sound beginning, with the same seqs, digests, times, append ids, checkpoints and
    barriers. A run that was cut goes on from there when it is resumed, and does again what was lost: cancel it before
    a worker finds it, where that must not be. Of a fork whose parent is not kept up to the fork nothing can be kept.
    A file that is encrypted cannot be salvaged. `on_trace`: is told each trace's id, the last seq that is kept, and
    why it ends there (None: it is whole). `chain_key`: as the file was made with.

    Raises NotAnEventStore, FormatTooNew, WrongChainKey, StorageError.

    >>> import tempfile
    >>> from eventstore import open
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(f"{folder}/runs.db") as store:
    ...         trace = store.start({"n": 1}, id="t1")
    ...     report = salvage(f"{folder}/runs.db", f"{folder}/new.db")
    >>> report.kept, report.ok
    (1, True)
    """
    old, new = os.fspath(source), Path(os.fspath(target))
    if not Path(old).is_file():
        raise StorageError(old, "no such file")
    if (reason := refusal_of_new(old, new)) is not None:
        raise StorageError(str(new), f"nothing was salvaged: {reason}")
    try:
        with part_of(new) as part, part_of(new) as staged, Pages(old) as pages:
            sound = _Sound(pages, staged, Chain(chain_key))
            _move(staged, part, sound, chain_key)
            found = _verified(part, sound, chain_key)
            publish(part, new, replace=False)
    except OSError as error:
        raise StorageError(str(new), f"nothing was salvaged: {error.strerror or error}") from None
    cut = []
    for trace_id, kept_to, reason in sound.verdicts.values():
        if on_trace is not None:
            on_trace(trace_id, kept_to, reason)
        if reason is not None:
            cut.append(SalvagedTrace(trace_id, kept_to, reason))
    kept = len(sound.verdicts) - len(cut)
    return SalvageReport(
        str(new), kept, found.events, cut, sound.beside, sound.unnamed, pages.count, sound.damaged_pages, found.problems
    )


class _Sound:
    """What is sound, in the file at `staged`, and what became of each trace."""

    def __init__(self, pages: Pages, staged: Path, chain: Chain) -> None:
        found = Found(pages, staged, chain.fingerprint)
        is_whole = False
        try:
            judge = Judge(found, chain)
            self.verdicts = {verdict.trace_id: verdict for verdict in judge.traces()}
            is_whole = True
        finally:
            found.close(whole=is_whole)
        self.unnamed = judge.unnamed
        self.beside = judge.dropped + sum(found.bad[table] for table in BESIDE_THE_LOG)
        self.has_lost_leases = found.bad["lease"] > 0 or not found.roots.get("lease")
        self.damaged_pages = len(set().union(*(found.bad_pages[table] for table in ("schema", *KEPT)))) + len(
            pages.behind
        )


def _move(staged: Path, part: Path, sound: _Sound, chain_key: str | bytes | None) -> None:
    """Load what is staged into the new file; what is refused there once more, without what stands beside its log."""
    with (
        Store(staged, durability="normal", chain_key=chain_key) as source,
        Store(part, durability="normal", chain_key=chain_key) as target,
    ):
        if refused := _loaded(source, target, None):
            for trace_id in refused:
                _forget_beside(source, trace_id, BESIDE)
            sound.beside += len(refused)
            sound.has_lost_leases = True
            refused = _loaded(source, target, list(refused))
        for trace_id, reason in refused.items():
            kept_to = _version(target, trace_id)
            sound.verdicts[trace_id] = Verdict(trace_id, kept_to, sound.verdicts[trace_id].reason or reason)


def _verified(part: Path, sound: _Sound, chain_key: str | bytes | None) -> VerifyReport:
    """What `verify` finds. Where leases were lost, runs that are not over are offered anew, for workers to find."""
    with Store(part, durability="normal", chain_key=chain_key) as store:
        if sound.has_lost_leases:
            with store._database.reader() as connection:
                open_ones: list[Any] = connection.execute(UNLEASED).fetchall()
            for number, trace_id in open_ones:
                trace = store.open_trace(trace_id)
                if trace.graph_hash:
                    _offer(store, number, max(1, trace.control.get("epoch", 0)))
                    sound.beside += 1
        found = verify(store)
        wrong = {problem.trace_id for problem in found.problems if problem.check == "lease"}
        for trace_id in wrong:
            trace = store.open_trace(trace_id)
            _forget_beside(store, trace_id, ("lease",))
            _offer(store, trace._row.id, max(1, trace.control.get("epoch", 0)))
            sound.beside += 1
        return verify(store) if wrong else found


def _offer(store: Store, number: int, epoch: int) -> None:
    store._writer.write(lambda connection: connection.execute(OFFER, (number, epoch)))


def _forget_beside(store: Store, trace_id: str, tables: tuple[str, ...]) -> None:
    """Take from a trace what stands beside its log."""

    def work(connection: apsw.Connection) -> None:
        for table in tables:
            connection.execute(FORGET.format(table), (trace_id,))

    store._writer.write(work)


def _loaded(source: Store, target: Store, trace_ids: list[str] | None) -> dict[str, str]:
    """Dump and load; the traces that were not loaded to their end, and why."""
    refused: dict[str, str] = {}

    def on_trace(trace_id: str, outcome: str) -> None:
        if outcome == "refused":
            refused.setdefault(trace_id, "it does not hold together")

    def on_bad(error: EventStoreError) -> None:
        trace_id = getattr(error, "trace_id", None)
        if isinstance(trace_id, str):
            refused[trace_id] = str(getattr(error, "reason", error))

    with tempfile.TemporaryFile(dir=Path(target.path).parent) as lines:
        dump(source, lines, trace_ids=trace_ids, on_bad=on_bad)
        lines.seek(0)
        load(target, lines, on_trace=on_trace, on_bad=on_bad)
    return refused


def _version(store: Store, trace_id: str) -> int:
    try:
        return store.open_trace(trace_id).version
    except TraceNotFound:
        return 0
