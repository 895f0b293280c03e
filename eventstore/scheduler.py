"""What a run does next: the rules of durable runs, without I/O, threads or event loops.

The scheduler is a generator. It yields commands (commit this, run that, wait) and is sent what came of them;
a sync and an async driver carry them out. All it knows stands in the trace's state and control, so a new
process that takes the run over continues where the log ends. In memory alone stands which intents are
*fresh*, written by this scheduler for a call that was not made yet, and whose time before a retry it has
sat out (which a clock that is set back does not undo).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from . import deciding
from .branching import parallel
from .codec import envelope
from .commands import Call, Command, Commit, Execute, Idle, Options, Outcome, Release, Steps
from .context import Context, StateView
from .control import with_prefix
from .effects import Effects
from .errors import EventStoreError, MaxStepsExceeded, NodeTimeout, NoRoute, RunFailed, ValueRefused
from .event import BarrierRaised, NodeExecuted, Reroute, StateDelta, TraceEnded
from .fold import MISSING
from .idempotency import idempotency_key
from .owned import Batch
from .plan import Node, Plan
from .recorded import ControlEvent
from .retrying import next_wait_s
from .run_event import IntentWithdrawn, NodeIntended, NodeRouted
from .step import Draft, described

if TYPE_CHECKING:
    from .trace import Trace


LEFT = ("intent/", "retry/", "calls/", "resolved/")
"""What a node's visit may leave in control until it is over."""


MOST_LOOKS = 8


class Scheduler:
    """The steps of one run by one owner. `carry`: events for its first commit."""

    def __init__(
        self,
        plan: Plan,
        trace: Trace,
        desk: Any,
        options: Options,
        carry: list[ControlEvent],
        effects: Effects,
    ) -> None:
        self.plan = plan
        self.trace = trace
        self.desk = desk
        self.options = options
        self.carry = carry
        self.effects = effects
        self.fresh: set[str] = set()
        self.rested: set[str] = set()
        self.looks = 0

    def run(self, at_once: bool) -> Steps:
        """All steps until the run ends, waits, or is to stop; gives its status. `at_once`: commit `carry` first."""
        if self.control.get("waits"):  # a cancelled run that waited is reopened
            yield from self.commit(Batch(lease="free"))
            return "waiting"
        if at_once:
            yield from self.commit(Batch())
        status = yield from self._recover()
        while status is None:
            status = yield from self._boundary()
            if status is None:
                status = yield from self._step()
        return status

    def _step(self) -> Steps:
        name = self.control.get("next")
        if name is None:
            yield from self.commit(self._ended(Batch()))
            return "completed"
        node = self.plan.nodes.get(name)
        if node is None:
            return (yield from self._fail_run(name, EventStoreError(f"the graph has no node {name!r}")))
        return (yield from self._visit(node))

    def _fail_run(self, name: str | None, error: Exception, *before: ControlEvent) -> Steps:
        """End the run as failed, its cursor where it stands."""
        reason = described(error)
        yield from self.commit(Batch(after=[*before, TraceEnded("failed", reason)], lease="end"))
        raise RunFailed(self.trace.id, name, reason) from error

    def _visit(self, node: Node) -> Steps:
        if node.kind == "node":
            return self._plain(node)
        if node.kind == "barrier":
            return self._barrier(node)
        return parallel(self, node)

    @property
    def control(self) -> Mapping[str, Any]:
        """Where the run stands."""
        return self.trace._control

    # Between steps

    def _boundary(self) -> Steps:
        """End, give back or fail the run between two steps, where that is due."""
        withdrawn: list[ControlEvent] = [IntentWithdrawn(path) for path in sorted(self.fresh)] if self.fresh else []
        if self.desk.is_cancelled():
            self.fresh.clear()
            reason = self.control["cancel"].get("reason") or None
            yield from self.commit(Batch(after=[*withdrawn, TraceEnded("cancelled", reason)], lease="end"))
            return "cancelled"
        if self.desk.is_stopping():
            self.fresh.clear()
            if withdrawn:
                yield from self.commit(Batch(after=withdrawn, lease="free"))
            else:
                yield Release()
            return "running"
        limit = self.plan.max_steps if self.options.max_steps is None else self.options.max_steps
        if self.control.get("steps", 0) >= limit and self.control.get("next") is not None:
            self.fresh.clear()
            error = MaxStepsExceeded(self.trace.id, limit)
            return (yield from self._fail_run(self.control.get("next"), error, *withdrawn))
        return None

    def commit(self, batch: Batch) -> Generator[Command, Any, bool]:
        """Append a batch, what is carried first."""
        carried = len(self.carry)
        if carried:
            batch.before = [*self.carry, *batch.before]
        went_in = yield Commit(batch)
        if went_in:
            self.carry.clear()
        elif carried:
            batch.before = batch.before[carried:]
        return bool(went_in)

    def _recover(self) -> Steps:
        """Go on with what an earlier owner, or a decision, left half done."""
        if (node_name := self.control.get("unrouted")) is not None:
            node = self.plan.nodes.get(node_name)
            if node is not None:
                return (yield from self._route_late(node))
        for path, action in with_prefix(self.control, "resolved/").items():
            if f"resolved/{path}" not in self.control:
                continue  # it went with another one of its node
            node = self.plan.nodes.get(path.partition("/")[0])
            if node is not None and node.kind == "barrier":
                status = yield from self._leave_barrier(node, action, Batch(), self.draft())
                if status is not None:
                    return status
            elif node is not None and action == "reroute":
                yield from self.commit(self._abandoned(node))
        return None

    def _route_late(self, node: Node) -> Steps:
        draft = self.draft()
        try:
            target = self.route(node, draft)
        except Exception as error:
            return (yield from self._fail_run(node.name, error))
        batch = Batch(after=[NodeRouted(node.name, target)])
        if target is None:
            self._ended(batch)
        yield from self.commit(batch)
        return "completed" if target is None else None

    def _leave(self, node: Node) -> None:
        """What is known in memory of a visit ends with it."""
        for known in (self.fresh, self.rested):
            known -= {path for path in known if path.partition("/")[0] == node.name}

    def _abandoned(self, node: Node) -> Batch:
        """A node in doubt that a human routed around."""
        self._leave(node)
        target = self.control.get("next")
        error = f"in doubt: rerouted to {target}"
        clears = self.left_by(node)
        return Batch(after=[NodeExecuted(node.name, False, error, falls_back=True, next=target, clears=clears)])

    # A node

    def _plain(self, node: Node) -> Steps:
        path = node.name
        if path not in self.fresh and (node.side_effects or self.left_by(node)):
            if path not in self.rested and (due_us := self.due_us(path)) > self.desk.now_us():
                return (yield from self._back_off(path, due_us))
            self.rested.discard(path)
            if f"intent/{path}" in self.control or f"resolved/{path}" in self.control:
                return (yield from self._doubtful(node))
            if node.side_effects:
                done = yield from self._done_by_parent(node)
                if done is not MISSING:
                    return done  # type: ignore[no-any-return]
                yield from self.commit(Batch(after=[self.intent(path, self.occurrence(node))], sync=True))
                self.fresh.add(path)
                return None  # mail may have come with it
        self.fresh.discard(path)
        call = self.call(node, path, self.occurrence(node))
        outcome: Outcome = yield Execute(call)
        if outcome.error is None:
            return (yield from self._succeeded(node, call, outcome))
        return (yield from self._failed(node, call, outcome))

    def _back_off(self, path: str, due_us: int) -> Steps:
        if self.options.waits:
            yield Idle(due_us)
            self.rested.add(path)
            return None
        yield Release(due_us)
        return "running"

    def _succeeded(self, node: Node, call: Call, outcome: Outcome) -> Steps:
        context = call.context
        executed = self.executed(node, call, outcome)
        batch = Batch(draft=call.draft, after=list(context.recorded), explicit=context._explicit)
        try:
            return (yield from self.advance(node, batch, executed, call.draft, context._goto))
        except ValueRefused as error:  # more than one append can hold
            return (yield from self._failed(node, call, Outcome(error, outcome.duration_ms)))

    def advance(
        self,
        node: Node,
        batch: Batch,
        executed: dict[str, Any],
        draft: Draft,
        goto: Any = MISSING,
        clears: list[str] | None = None,
    ) -> Steps:
        """Commit a node's success with the way on from it, and the intent of the next node or the end."""
        self._leave(node)
        if clears is None:
            clears = self.left_by(node)
        try:
            target = self.route(node, draft) if goto is MISSING else goto
        except Exception as error:
            reason = described(error)
            batch.after += [
                NodeExecuted(**executed, unrouted=True, clears=clears),
                TraceEnded("failed", reason),
            ]
            batch.lease = "end"
            if not (yield from self.commit(batch)):
                return None
            raise RunFailed(self.trace.id, node.name, reason) from error
        chosen = goto is not MISSING and node.kind == "node"  # from a barrier a human chooses
        batch.after.append(NodeExecuted(**executed, next=target, clears=clears, chosen=chosen))
        if target is None:
            return "completed" if (yield from self.commit(self._ended(batch))) else None
        intended = self._intend_next(target, leaving=node.name)
        if intended is not None:
            batch.after.append(intended)
            batch.sync = True
        went_in = yield from self.commit(batch)
        if went_in and intended is not None:
            self.fresh.add(target)
        return None

    def _intend_next(self, target: str, leaving: str) -> NodeIntended | None:
        """The intent of the next node, to ride in this commit, where the run goes straight on into it."""
        node = self.plan.nodes.get(target)
        limit = self.plan.max_steps if self.options.max_steps is None else self.options.max_steps
        if node is None or node.kind != "node" or not node.side_effects or self.desk.is_stopping():
            return None
        occurrence = self.occurrence(node) + (target == leaving)
        if (target, occurrence) in self.effects or self.control.get("steps", 0) + 1 >= limit:
            return None
        if target != leaving and (f"intent/{target}" in self.control or f"resolved/{target}" in self.control):
            return None
        return NodeIntended(target, idempotency_key(self.trace.id, target, occurrence, target))

    def _failed(self, node: Node, call: Call, outcome: Outcome) -> Steps:
        error = outcome.error
        assert error is not None
        if self.leaves_doubt(node, error):
            return None  # the intent is open and not fresh any more
        if self.desk.is_cancelled() and not isinstance(error, Exception):
            return None  # aborted; the boundary ends the run
        wait_s = self.wait_s(node, call, error)
        executed = self.executed(node, call, outcome)
        if wait_s is not None:
            now_us = self.desk.now_us()
            event = NodeExecuted(
                **executed,
                retry_at_us=now_us + int(wait_s * 1e6),
                since_us=self.since_us(call),
                clears=self.present(f"intent/{node.name}"),
            )
            yield from self.commit(Batch(after=[event]))
            return None
        return (yield from self.fail(node, executed, error))

    def fail(self, node: Node, executed: dict[str, Any], error: BaseException, keep: tuple[str, ...] = ()) -> Steps:
        """A node failed for good: go to its fallback, or end the run as failed. `keep`: control keys that stay."""
        self._leave(node)
        reason = executed["error"]
        fallback = self.plan.fallbacks.get(node.name)
        if fallback is not None:
            draft = self.draft(redact=True)
            draft.replace(f"{node.name}.error", reason, "system")
            event = NodeExecuted(**executed, falls_back=True, next=fallback, clears=self.left_by(node))
            yield from self.commit(Batch(draft=draft, after=[event]))
            return None
        clears = [key for key in self.left_by(node) if not key.startswith(("calls/", *keep))]
        event = NodeExecuted(**executed, clears=clears)
        yield from self.commit(Batch(after=[event, TraceEnded("failed", reason)], lease="end"))
        raise RunFailed(self.trace.id, node.name, reason) from error

    def _doubtful(self, node: Node) -> Steps:
        """An intent without a result (or a decision about one): apply the node's rule, or the decision."""
        path = node.name
        action = self.control.get(f"resolved/{path}")
        if action is None and node.in_doubt == "ask":
            yield from self.commit(Batch(after=[self.question(node, path, "in_doubt")], lease="free"))
            return "waiting"
        if action == "approve" or (action is None and node.in_doubt == "retry"):
            yield from self.commit(Batch(after=[self.intent(path, self.occurrence(node))], sync=True))
            self.fresh.add(path)
            return None
        if action == "modify":
            executed = {"node": path, "has_side_effects": node.side_effects}
            return (yield from self.advance(node, Batch(), executed, self.draft()))
        error = self.doubt_error(path, action)
        executed = {"node": path, "success": False, "error": str(error), "has_side_effects": node.side_effects}
        return (yield from self.fail(node, executed, error))

    def leaves_doubt(self, node: Node, error: BaseException) -> bool:
        """Whether a human must say if the effect of an attempt that did not end in time happened."""
        return isinstance(error, NodeTimeout) and node.side_effects and node.in_doubt == "ask"

    def doubt_error(self, path: str, action: str | None) -> EventStoreError:
        """Why a node in doubt counts as failed."""
        what = "a human said that it failed" if action == "reject" else "it may or may not have run"
        return EventStoreError(f"node {path!r} was in doubt: {what}")

    def _done_by_parent(self, node: Node) -> Generator[Command, Any, Any]:
        """In a fork: what to do about an effect that the parent's log shows; MISSING where nothing is."""
        found = self.effects.get((node.name, self.occurrence(node)), MISSING)
        if found is MISSING or self.options.effects == "run":
            return MISSING
        if self.options.effects == "reuse" and found is not None:
            draft = self.draft()
            for delta in found.deltas:
                draft.write(delta.key, str(delta.op), delta.value, "fork")
            executed = {"node": node.name, "has_side_effects": True}
            has_way = found.chosen and (found.next is None or found.next in self.plan.nodes)
            way = found.next if has_way else MISSING
            return (yield from self.advance(node, Batch(draft=draft), executed, draft, way))
        yield from self.commit(Batch(after=[self.question(node, node.name, "effect")], lease="free"))
        return "waiting"

    # A barrier

    def _barrier(self, node: Node) -> Steps:
        trace = self.trace
        barrier_id = deciding.next_barrier_id(trace, node.name)
        try:
            asked = deciding.raised(trace, self._asked(node, barrier_id))
            envelope(asked)  # refuses here what the log cannot hold
        except Exception as error:
            return (yield from self._fail_run(node.name, error))
        early = deciding.waiting_decision(trace, barrier_id)
        if early is None:
            batch = Batch(after=[asked], lease="free", follows_mail=self._follows_mail())
            return "waiting" if (yield from self.commit(batch)) else None
        decision, is_exact = early
        draft = self.draft()
        event = deciding.decided(
            trace, draft, barrier_id, node.name, decision, reason="gate", source="human", submitted=is_exact
        )
        batch = Batch(before=[asked, event], draft=draft, sync=True, follows_mail=self._follows_mail())
        batch.marks = deciding.decision_checkpoints(trace, node.name, decision)
        if isinstance(decision, Reroute):
            return (yield from self._leave_barrier(node, "reroute", batch, draft, decision.target))
        return (yield from self._leave_barrier(node, "approve", batch, draft))

    def _follows_mail(self) -> bool:
        """Mail may hold a decision for this very barrier, so it is looked at first; but not for ever."""
        self.looks += 1
        return self.looks % MOST_LOOKS == 0

    def _asked(self, node: Node, barrier_id: str) -> BarrierRaised:
        prompt = node.prompt
        if not isinstance(prompt, str):
            prompt = str(prompt(StateView(self.draft(), node.scope)))
        deadline_us = None
        if node.timeout_s is not None:
            deadline_us = deciding.now_us(self.trace) + int(node.timeout_s * 1e6)
        return BarrierRaised(barrier_id, node.name, prompt, list(node.keys), deadline_us, node.on_timeout)

    def _leave_barrier(self, node: Node, action: str, batch: Batch, draft: Draft, target: str | None = None) -> Steps:
        """Commit the way on from a barrier that was decided; a reroute has chosen it."""
        goto: Any = MISSING
        if action == "reroute":
            goto = self.control.get("next") if target is None else target
        executed = {"node": node.name}
        return (yield from self.advance(node, batch, executed, draft, goto, [f"resolved/{node.name}"]))

    # What the parts share

    def draft(self, *, redact: bool = False) -> Draft:
        """A draft over the live state; values that passed the redaction hook before do not pass it again."""
        return self.trace._draft(redact)

    def state(self) -> Mapping[str, Any]:
        """The live state."""
        return self.trace.state

    def merged(self, branches: list[tuple[str, list[StateDelta]]]) -> list[StateDelta]:
        """What sibling branches wrote, as one list. Raises StateConflict, ReducerConflict, DeltaApply."""
        return self.trace._registry.merge_branches(self.trace.state, branches)

    def occurrence(self, node: Node) -> int:
        """Which visit of the node this is, 1 for the first."""
        return int(self.control.get(f"visits/{node.name}", 0)) + 1

    def due_us(self, path: str) -> int:
        """When a retry is due; 0 where none waits."""
        retry = self.control.get(f"retry/{path}")
        return 0 if retry is None else int(retry["at_us"])

    def attempt(self, path: str) -> int:
        """Which attempt of this visit comes next, 1 for the first."""
        retry = self.control.get(f"retry/{path}")
        return 1 if retry is None else int(retry["attempt"]) + 1

    def key(self, path: str, occurrence: int) -> str:
        """The idempotency key: the intent's, where there is one."""
        intent = self.control.get(f"intent/{path}")
        return intent["key"] if intent else idempotency_key(self.trace.id, path.partition("/")[0], occurrence, path)

    def intent(self, path: str, occurrence: int) -> NodeIntended:
        """The intent of a node that is about to run; the same key again for one in doubt."""
        return NodeIntended(path, self.key(path, occurrence), self.attempt(path), self.present(f"resolved/{path}"))

    def question(self, node: Node, path: str, reason: str) -> BarrierRaised:
        """The barrier that asks a human about an effect."""
        if reason == "in_doubt":
            prompt = f"{path} may or may not have run. Approve: run it again; modify: it ran, with these values"
        else:
            prompt = f"{path} was run by the trace that this one was forked from. Approve: run it here, too"
        barrier_id = f"{path}#{self.control.get(f'raised/{path}', 0) + 1}"
        return BarrierRaised(barrier_id, path, f"{prompt}; reject: it failed.", reason=reason)

    def call(self, node: Node, path: str, occurrence: int, item: Any = None, index: int | None = None) -> Call:
        """The next attempt of a node or a branch, ready to run."""
        draft = self.draft(redact=True)
        if path != node.name:
            draft.updates = {}
        replayed = list(self.control.get(f"calls/{path}", ()))
        intent = self.control.get(f"intent/{path}")
        key = None if intent is None else intent["key"]
        context = Context(self.desk, node, path, draft, occurrence, self.attempt(path), key, replayed, item, index)
        return Call(node, context, draft, self.desk.now_us())

    def executed(self, node: Node, call: Call, outcome: Outcome) -> dict[str, Any]:
        """The fields of the event that tells of a call."""
        spent = call.context.spent
        fields: dict[str, Any] = {
            "node": node.name,
            "duration_ms": spent.get("duration_ms", outcome.duration_ms),
            "token_cost": spent.get("token_cost", 0),
            "has_side_effects": spent.get("has_side_effects", False) or node.side_effects,
            "attempt": call.context.attempt,
        }
        if outcome.error is not None:
            fields |= {"success": False, "error": described(outcome.error)}
        return fields

    def wait_s(self, node: Node, call: Call, error: BaseException) -> float | None:
        """How long to wait for the next attempt; None to give up."""
        if not isinstance(error, Exception):
            return None
        if isinstance(error, NodeTimeout) and node.side_effects and node.in_doubt == "fail":
            return None
        elapsed_s = (self.desk.now_us() - self.since_us(call)) / 1e6
        try:
            return next_wait_s(node.retry, call.context.attempt, error, elapsed_s)
        except Exception as broken:  # a rule that cannot be asked allows no further attempt
            error.add_note(f"and its retry rule failed: {described(broken)}")
            return None

    def since_us(self, call: Call) -> int:
        """When the first attempt of this visit began."""
        retry = self.control.get(f"retry/{call.context.path}")
        return call.began_us if retry is None else int(retry["since_us"])

    def route(self, node: Node, draft: Draft) -> str | None:
        """The next node by the node's edges, None for the end. Raises NoRoute, and what a condition raises."""
        edges = self.plan.edges.get(node.name, ())
        for edge in edges:
            if edge.condition is None or edge.condition(StateView(draft, edge.scope)):
                return edge.target
        if node.name in self.plan.ends:
            return None
        raise NoRoute(node.name, f"none of its {len(edges)} conditions holds" if edges else "it has no edges")

    def present(self, *keys: str) -> list[str]:
        """Those of the keys that control has."""
        return [key for key in keys if key in self.control]

    def left_by(self, node: Node) -> list[str]:
        """The control keys that a node's visit has left so far, to be cleared when it is over."""
        name, control = node.name, self.control
        own = [key for kind in LEFT if (key := kind + name) in control]
        if node.kind in ("parallel", "map"):
            inside = tuple(f"{kind}{name}/" for kind in (*LEFT, "held/", "failed/"))
            own += [key for key in control if key.startswith(inside)]
        return own

    def _ended(self, batch: Batch) -> Batch:
        batch.after.append(TraceEnded())
        batch.lease = "end"
        batch.completes = True
        return batch
