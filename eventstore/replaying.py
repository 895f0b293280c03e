"""Run a graph's functions again against a recorded run, and tell where they first do something else.

The log is walked once, row by row, state and control folded along from one restore. Where it tells of a visit that
succeeded, the node runs on the state before it, fed with what was recorded; what it wrote and where it went on to
are compared with the log (`replay_checks.py`), and the fold goes on with what the log holds. Nothing is written.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from .codec import Row, decode_event, decode_rows
from .definition import changes
from .divergence import Replay
from .errors import EventStoreError
from .event import NodeExecuted, TraceForked, TraceStarted
from .graph import Graph
from .history import owner_of
from .log import LogRow, TraceRow
from .places import At, seq_at
from .plan import Plan
from .replay_calls import Recaller, Recorded
from .replay_checks import Checks, Diverged, Place
from .run_event import BranchExecuted, GraphChanged, NodeRouted, OwnerChanged, TraceReopened, ValueRecorded

if TYPE_CHECKING:
    from .store import Store

BEGINNING = (0, "0")
ANEW = (OwnerChanged, TraceForked, TraceReopened, GraphChanged)
"""After these, and after a failure, a node that had begun begins again."""


def replay(graph: Graph, store: Store, trace_id: str, *, after: At | None = None, until: At | None = None) -> Replay:
    """Run the graph's functions again on what the log of a run holds, and report the first divergence.

    The regression test of a changed graph against yesterday's runs: no side effect happens, `ctx.call` is answered
    from the log and nothing is written, so the store may be read-only and the run may be going on elsewhere. Nodes
    run one after the other, without their time limits and retries; values that they read through `ctx.get` are
    copies, those of `ctx.state` are shared, as in a run. A graph that is not the recorded one is no divergence by
    itself; `Replay.graph_changes` names the differences.

    What a replay cannot know: a `ctx.call` that failed is not in the log, so one that the node caught is told as
    missing; `ctx.cancelled` is true where the log holds the request before the visit's end, also at looks that came
    before it; values pass the redaction hook of `store`, so open it with the one that the run had. What a node raises
    that is no Exception comes out here, but for what a run takes for a failure (SystemExit). Sync nodes run on the
    calling thread: inside a running event loop, those that use `asyncio.run` fail, so replay in a thread there.

    `after`, `until`: only the visits committed after that place (see `seq_at`), and up to that one. A trimmed trace
    begins at its root. Raises EventStoreError for a trace that no graph ran, GraphInvalid, PlaceNotFound, Trimmed,
    TraceNotFound, LogCorrupted, and RuntimeError inside a running event loop where the graph has async nodes.

    >>> from .runs import run
    >>> from .store import open
    >>> def price(factor):
    ...     graph = Graph("price")
    ...     graph.node(name="total")(lambda ctx: {"total": ctx.state["net"] * factor})
    ...     return graph.start("total").end("total")
    >>> with open(":memory:") as store:
    ...     done = run(price(2), store, {"net": 20})
    ...     replay(price(2), store, done.trace_id).ok
    ...     print(replay(price(3), store, done.trace_id).divergence)
    True
    seq 4, step 1, total: 'total' was 40, now it is 60
    """
    plan = graph.plan()
    if plan.is_async:
        _refuse_in_loop()
    row, head = store._reader.find(trace_id)
    first = None if after is None or after in BEGINNING else seq_at(store, trace_id, after)
    last = head.version if until is None else min(seq_at(store, trace_id, until), head.version)
    recaller = Recaller(plan, store, row)
    try:
        return _Walk(plan, store, row, recaller).replay(first, last, last == head.version)
    finally:
        recaller.close()


class _Walk:
    """One replay along the log of one trace."""

    def __init__(self, plan: Plan, store: Store, row: TraceRow, recaller: Recaller) -> None:
        self.plan = plan
        self.store = store
        self.row = row
        self.recaller = recaller
        self.position = recaller.position
        self.checks = Checks(store, recaller)
        self.ancestors = store._ancestors(row)

    def replay(self, after: int | None, until: int, is_whole: bool) -> Replay:
        """Walk from the boundary before `after` to `until`, or to the first divergence. Raises as `replay`.

        `is_whole`: nothing comes after `until`.
        """
        upto, divergence = until, None
        try:
            self._walk(after, until)
            if is_whole:
                self.checks.ended()
        except Diverged as diverged:
            divergence = diverged.divergence
            upto = divergence.seq
        checks = self.checks
        return Replay(
            self.row.trace_id,
            self.row.name,
            checks.checked,
            checks.reused,
            checks.failed_attempts,
            upto,
            self._graph_changes(),
            divergence,
        )

    def _walk(self, after: int | None, until: int) -> None:
        began = False
        for page in self.store._reader.pages(self.row, after, until):
            for found in page:
                if not began:
                    self._begin(found.first_seq - 1)
                began = True
                self._take(found, after or 0, until)
        if not began:
            self._begin(until)

    def _begin(self, seq: int) -> None:
        """Stand at the boundary `seq`."""
        if seq > 0:
            restored = self.store._reader.restore(self.row.trace_id, seq)[2]
            self.position.stand(restored.state, restored.control)
            self.recaller.begin_attempts()
            self._check_started()

    def _check_started(self) -> None:
        if not self.position.control.get("graph_hash"):
            raise EventStoreError(f"trace {self.row.trace_id} was not started by a graph, so no graph can replay it")

    def _take(self, found: LogRow, after: int, until: int) -> None:
        """Check and fold the events of one row."""
        self.recaller.trace_id = owner_of(self.row.trace_id, self.ancestors, found.first_seq)
        deltas: list[Row] = []
        recorded: Recorded = {}
        for seq, (row, event) in enumerate(self._decoded(found), found.first_seq):
            if seq > until:
                break
            if row.kind == "delta":
                deltas.append(row)
                continue
            if isinstance(event, ValueRecorded) and not event.held:
                recorded.setdefault(event.path, []).append([event.name, event.value])
            elif seq > after:
                self._check(seq, event, deltas, recorded)
            self.position.fold_control(row, found.first_seq)
            if isinstance(event, ANEW) or getattr(event, "success", True) is False:
                self.recaller.begin_attempts()
            if isinstance(event, TraceStarted):
                self._check_started()
        self.position.fold(deltas, found.first_seq)

    def _check(self, seq: int, event: Any, deltas: list[Row], recorded: Recorded) -> None:
        step = self.position.control.get("steps", 0) + 1
        if isinstance(event, NodeExecuted):
            self.checks.visited(Place(seq, step, event.node), event, deltas, recorded)
        elif isinstance(event, BranchExecuted):
            self.checks.branched(Place(seq, step, event.path), event, recorded)
        elif isinstance(event, NodeRouted):
            self.checks.routed(Place(seq, step - 1, event.node), event)
        elif isinstance(event, TraceStarted) and event.graph_hash and event.node != self.plan.start:
            place = Place(seq, 0, event.node or "")
            raise Diverged(place, "route", None, event.node, self.plan.start, "the start of the graph")

    def _decoded(self, found: LogRow) -> list[tuple[Row, Any]]:
        """The events of a row as the fold reads them, and (but for deltas) as what they are. Raises LogCorrupted."""
        try:
            return [(row, None if row.kind == "delta" else decode_event(row)) for row in decode_rows(found.body)]
        except ValueError as error:
            raise self.position.corrupted(found.first_seq, error) from error

    def _graph_changes(self) -> list[str]:
        recorded = self.position.control.get("graph_hash", "")
        if recorded in ("", self.plan.hash):
            return []
        text = self.store._ownership.definition(recorded)
        if text is None:
            return [f"the recorded graph has hash {recorded}, this one {self.plan.hash}"]
        return changes(msgspec.json.decode(text), self.plan.definition)


def _refuse_in_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("es.replay would block the running event loop; await asyncio.to_thread(es.replay, ...)")
