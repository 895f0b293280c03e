"""Parallel nodes and maps: branches side by side on one state, joined in declared order.

Branches that are done append their results, those that settle together in one commit; their deltas are *held*
in control, so a resume runs only what is missing. The join is one append: the held deltas, merged by the
reducers, as ordinary deltas. After a failure under `fail_fast` no further branch starts, async ones without
side effects are stopped, and the node fails when all that started have settled.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .commands import Abort, Call, Command, Idle, Launch, Outcome, Release, Settle, Steps
from .errors import EventStoreError, ValueRefused
from .event import BarrierRaised, DeltaOp, DeltaSource, StateDelta
from .fold import MISSING
from .owned import Batch
from .plan import Node
from .recorded import ControlEvent
from .run_event import BranchExecuted
from .step import Draft, described

if TYPE_CHECKING:
    from .scheduler import Scheduler


class Branch(NamedTuple):
    """One branch: its path, what runs in it, and for a map the item and its place."""

    path: str
    node: Node
    item: Any = None
    place: int | None = None


def branches_of(run: Scheduler, node: Node) -> list[Branch]:
    """The branches in declared order. Raises EventStoreError where a map has no list to go over."""
    if node.kind == "parallel":
        return [Branch(f"{node.name}/{node.label_of(name)}", run.plan.nodes[name]) for name in node.branches]
    items = run.state().get(node.over, MISSING)
    if type(items) is not list:
        found = "no such key" if items is MISSING else f"a value of type {type(items).__name__}"
        raise EventStoreError(f"map {node.name!r} goes over the list at {node.over!r}, the state has {found}")
    return [Branch(f"{node.name}/{index}", node, item, index) for index, item in enumerate(items)]


def parallel(run: Scheduler, node: Node) -> Steps:
    """Run what is missing of a parallel node, then join it."""
    try:
        branches = branches_of(run, node)
    except EventStoreError as error:
        return (yield from run.fail(node, {"node": node.name, "success": False, "error": str(error)}, error))
    asks = yield from _settle_doubts(run, node, branches)
    if asks:
        yield from run.commit(Batch(after=asks, lease="free"))
        return "waiting"
    group = _Group(run, node, branches)
    status = yield from group.run_missing()
    if status is not None or group.interrupted or group.doubtful:
        return status  # what is in doubt by now is asked about in the next round
    return (yield from group.join())


def _settle_doubts(run: Scheduler, node: Node, branches: list[Branch]) -> Generator[Command, Any, list[BarrierRaised]]:
    """Apply rules and decisions to branches in doubt; gives the barriers that are to be raised."""
    asks: list[BarrierRaised] = []
    occurrence = run.occurrence(node)
    has_failed = node.strategy == "fail_fast" and any(run.present(f"failed/{branch.path}") for branch in branches)
    for branch in branches:
        path, effects = branch.path, branch.node.side_effects
        if path in run.fresh or run.present(f"held/{path}", f"failed/{path}") or not effects:
            continue
        action = run.control.get(f"resolved/{path}")
        if action is None and f"intent/{path}" not in run.control:
            done = run.effects.get((path, occurrence), MISSING)
            if done is MISSING or run.options.effects == "run":
                continue
            if run.options.effects == "reuse" and done is not None:
                yield from run.commit(Batch(after=[BranchExecuted(path, has_side_effects=True, deltas=done.deltas)]))
            else:
                asks.append(run.question(branch.node, path, "effect"))
        elif action is None and branch.node.in_doubt == "ask":
            asks.append(run.question(branch.node, path, "in_doubt"))
        elif action == "approve" or (action is None and branch.node.in_doubt == "retry"):
            if has_failed:
                continue  # it will not be started any more
            yield from run.commit(Batch(after=[run.intent(path, occurrence)], sync=True))
            run.fresh.add(path)
        else:
            clears = run.present(f"intent/{path}", f"resolved/{path}")
            error = None if action == "modify" else str(run.doubt_error(path, action))
            event = BranchExecuted(path, error is None, error, has_side_effects=True, clears=clears)
            yield from run.commit(Batch(after=[event]))
    return asks


class _Group:
    """The branches of one visit of one parallel node."""

    def __init__(self, run: Scheduler, node: Node, branches: list[Branch]) -> None:
        self.run = run
        self.node = node
        self.branches = branches
        self.occurrence = run.occurrence(node)
        self.started = time.perf_counter_ns()
        control = run.control
        missing = [branch for branch in branches if not run.present(f"held/{branch.path}", f"failed/{branch.path}")]
        self.ready = deque(branch for branch in missing if not run.due_us(branch.path))
        self.delayed = [branch for branch in missing if run.due_us(branch.path)]
        self.by_path = {branch.path: branch for branch in missing}
        self.running: set[str] = set()
        self.doubtful: set[str] = set()
        self.failed = any(f"failed/{branch.path}" in control for branch in branches)
        self.errors: dict[str, BaseException] = {}
        self.interrupted = False
        self.aborted = False

    @property
    def starts_no_more(self) -> bool:
        """Whether what has not begun is to stay so."""
        desk = self.run.desk
        fails_fast = self.failed and self.node.strategy == "fail_fast"
        return bool(fails_fast or desk.is_cancelled() or desk.is_stopping())

    def run_missing(self) -> Steps:
        """Run the branches that have no result yet, until all that started have settled."""
        run = self.run
        while True:
            self._wake()
            if not self.starts_no_more:
                yield from self._launch()
            if self.running:
                if self.starts_no_more and not self.aborted and not run.desk.is_stopping():
                    self.aborted = True
                    yield Abort()
                settled: list[tuple[Call, Outcome]] = yield Settle(self._next_due_us())
                yield from self._record(settled)
                continue
            if run.desk.is_cancelled() or run.desk.is_stopping():
                self.interrupted = True
                return None
            if self.starts_no_more or not (self.ready or self.delayed):
                return None
            if not self.ready:
                due_us = self._next_due_us() or 0
                if not run.options.waits:
                    yield Release(due_us)
                    return "running"
                yield Idle(due_us)
                self.run.rested |= {branch.path for branch in self.delayed if run.due_us(branch.path) <= due_us}

    def _wake(self) -> None:
        now_us = self.run.desk.now_us()
        late = {branch.path for branch in self.delayed if self.run.due_us(branch.path) > now_us} - self.run.rested
        self.ready += [branch for branch in self.delayed if branch.path not in late]
        self.delayed = [branch for branch in self.delayed if branch.path in late]

    def _next_due_us(self) -> int | None:
        return min((self.run.due_us(branch.path) for branch in self.delayed), default=None)

    def _launch(self) -> Generator[Command, Any, None]:
        run = self.run
        room = (self.node.max_concurrency or run.desk.most_branches) - len(self.running)
        starting = [self.ready.popleft() for _ in range(min(room, len(self.ready)))]
        intents = [
            run.intent(branch.path, self.occurrence)
            for branch in starting
            if branch.node.side_effects and branch.path not in run.fresh
        ]
        if intents:
            yield from run.commit(Batch(after=intents, sync=True))
            run.fresh.update(intent.path for intent in intents)
        if self.starts_no_more:  # mail may have come with it
            self.ready.extendleft(reversed(starting))
            return
        for branch in starting:
            run.fresh.discard(branch.path)
            run.rested.discard(branch.path)
            self.running.add(branch.path)
            yield Launch(run.call(branch.node, branch.path, self.occurrence, branch.item, branch.place))

    def _record(self, settled: list[tuple[Call, Outcome]]) -> Generator[Command, Any, None]:
        """Append the results of all that have settled by now, in one commit; what fails to fit, failed."""
        run = self.run
        events: list[ControlEvent] = []
        failures = [(call, outcome) for call, outcome in settled if outcome.error is not None]
        for call, outcome in settled:
            if outcome.error is None:
                try:
                    events += [*call.context.recorded, self._result(call, outcome)]
                except ValueRefused as refused:
                    failures.append((call, Outcome(refused, outcome.duration_ms)))
        try:
            if events:
                yield from run.commit(Batch(after=events))
        except ValueRefused as refused:
            if len(settled) > 1:
                for one in settled:
                    yield from self._record([one])
                return
            failures = [(call, Outcome(refused, outcome.duration_ms)) for call, outcome in settled]
        for call, _ in settled:
            self.running.discard(call.context.path)
        failed = [event for call, outcome in failures if (event := self._failure(call, outcome)) is not None]
        if failed:
            yield from run.commit(Batch(after=failed))

    def _failure(self, call: Call, outcome: Outcome) -> BranchExecuted | None:
        """What to record of a branch that failed; None where it is in doubt, or was stopped."""
        run, path, error = self.run, call.context.path, outcome.error
        assert error is not None
        if self.aborted and not isinstance(error, Exception):
            return None  # it has no side effects, and runs again if the node does
        if run.leaves_doubt(call.node, error):
            self.doubtful.add(path)
            return None
        wait_s = run.wait_s(call.node, call, error)
        fields = self._fields(call, outcome)
        fields["clears"] = run.present(f"intent/{path}")
        if wait_s is not None:
            fields["retry_at_us"] = run.desk.now_us() + int(wait_s * 1e6)
            fields["since_us"] = run.since_us(call)
            self.delayed.append(self.by_path[path])
        else:
            self.failed = True
            self.errors[path] = error
        return BranchExecuted(**fields)

    def _fields(self, call: Call, outcome: Outcome) -> dict[str, Any]:
        fields = self.run.executed(call.node, call, outcome)
        del fields["node"]
        return {"path": call.context.path, **fields}

    def _result(self, call: Call, outcome: Outcome) -> BranchExecuted:
        path, draft = call.context.path, call.draft
        if draft.opaque:
            raise ValueRefused(path, "a branch cannot write opaque values")
        clears = self.run.present(f"intent/{path}", f"retry/{path}", f"calls/{path}")
        return BranchExecuted(**self._fields(call, outcome), deltas=_held(draft), clears=clears)

    # The join

    def join(self) -> Steps:
        """Merge what the branches wrote, or fail."""
        run, node = self.run, self.node
        failed = {
            branch.path: run.control[f"failed/{branch.path}"]
            for branch in self.branches
            if f"failed/{branch.path}" in run.control
        }
        executed: dict[str, Any] = {
            "node": node.name,
            "duration_ms": round((time.perf_counter_ns() - self.started) / 1e6, 3),
        }
        if failed and (node.strategy == "fail_fast" or len(failed) == len(self.branches)):
            path, reason = next(iter(failed.items()))
            executed |= {"success": False, "error": f"branch {path.partition('/')[2]!r}: {reason}"}
            cause = self.errors.get(path) or EventStoreError(reason)
            return (yield from run.fail(node, executed, cause, keep=("held/",)))
        draft = run.draft()
        try:
            self._merge(draft)
            self._tell_failures(draft, failed)
        except Exception as error:  # a conflict, or a reducer of the user's that fails
            return (yield from run.fail(node, executed | {"success": False, "error": described(error)}, error))
        try:
            return (yield from run.advance(node, Batch(draft=draft), executed, draft))
        except ValueRefused as error:  # more than one append can hold
            return (yield from run.fail(node, executed | {"success": False, "error": described(error)}, error))

    def _merge(self, draft: Draft) -> None:
        run = self.run
        held = [
            (branch.path.partition("/")[2], msgspec.convert(run.control[f"held/{branch.path}"], list[StateDelta]))
            for branch in self.branches
            if f"held/{branch.path}" in run.control
        ]
        for delta in run.merged(held):
            if delta.op is DeltaOp.DELETE and draft.get(delta.key, MISSING) is MISSING:
                continue  # a sibling deleted it first
            draft.write(delta.key, str(delta.op), delta.value, str(delta.source))

    def _tell_failures(self, draft: Draft, failed: dict[str, str]) -> None:
        key = f"{self.node.name}.errors"
        if failed:
            draft.replace(key, {path.partition("/")[2]: reason for path, reason in failed.items()}, "system")
        elif self.node.strategy == "collect_all" and key in draft.state:
            draft.write(key, "delete", None, "system")


def _held(draft: Draft) -> list[StateDelta]:
    """A branch's deltas; of a CUSTOM key what was put, for the join to reduce."""
    updates = draft.updates or {}
    return [
        StateDelta(
            key,
            DeltaOp(op),
            msgspec.UNSET if op == "delete" else updates.get(index, live),
            DeltaSource(row.source),
        )
        for index, (row, (key, op, live)) in enumerate(zip(draft.wire, draft.live, strict=True))
    ]
