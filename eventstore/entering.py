"""How a process comes to own a run: a new one, one that was given back, one whose owner died.

Whoever enters checks that the graph is the one the run was recorded with, claims the lease, and carries what
its first commit is to say: the epoch, a forced change of the graph, the reopening of a failed run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .checkpoint import GraphHashMode
from .codec import normalise_state, same
from .control import ENDED
from .definition import changes
from .effects import Effects, effects_after
from .errors import (
    CrashLoop,
    EventStoreError,
    GraphHashMismatch,
    InputDiffers,
    RunOwned,
    TraceEndedError,
    TraceExists,
    TraceNotFound,
    Trimmed,
)
from .event import TraceStarted
from .idempotency import idempotency_key
from .ownership import Claim
from .plan import Plan
from .record import GraphResult
from .recorded import MAIL, ControlEvent, RecordedEvent
from .reduce import ReducerRegistry
from .regraphing import forced_change
from .run_event import NodeIntended, OwnerChanged, TraceReopened

if TYPE_CHECKING:
    from .store import Store
    from .trace import Trace

MOST_STALLED = 5
STALLED_EVENTS = 64
"""How far back a row of ownerships is looked for at first; a few times what five of them usually leave."""
CLAIM_POLL_S = 0.1


class Entry(NamedTuple):
    """A run that this process owns: `carry` goes into its first commit, `at_once` before anything else.

    `fresh`: the intents that its start holds; `effects`: what its parents did; `told`: the seq up to which
    listeners know the run.
    """

    trace: Trace
    epoch: int
    carry: list[ControlEvent]
    at_once: bool
    fresh: set[str]
    effects: Effects
    told: int = 0


class Again(NamedTuple):
    """How to enter a run that exists; see `es.resume`."""

    mode: GraphHashMode = GraphHashMode.STRICT
    renamed_from: Mapping[str, str] | None = None
    at: str | None = None
    force: bool = False
    reopen: bool = False
    wait_s: float = 0.0
    giving_up: threading.Event | None = None


def start(plan: Plan, store: Store, state: Mapping[str, Any] | None, trace_id: str) -> Entry:
    """Start a run and own it, in one commit. Raises TraceExists, ValueRefused, storage errors."""
    ownership = store._ownership
    ownership.entered(trace_id)
    try:
        node = plan.nodes[plan.start]
        more: list[ControlEvent] = [OwnerChanged(1, ownership.name)]
        fresh: set[str] = set()
        if node.kind == "node" and node.side_effects and plan.max_steps > 0:
            more.append(NodeIntended(node.name, idempotency_key(trace_id, node.name, 1, node.name)))
            fresh.add(node.name)
        started = TraceStarted(plan.name, {}, ReducerRegistry(plan.reducers).names(), plan.hash, plan.start)
        extras = ownership.begin(plan.hash, plan.canonical)
        trace = store._start(trace_id, state, started, plan.reducers, more=more, extras=extras)
    except BaseException:
        ownership.left(trace_id)
        raise
    return Entry(trace, 1, [], False, fresh, {})


def start_or_again(
    plan: Plan, store: Store, state: Mapping[str, Any] | None, trace_id: str | None, new_id: str
) -> tuple[Trace, Entry | None]:
    """Start a run; one of that id is entered again. Raises InputDiffers where its input was another."""
    if trace_id is None:
        entry = start(plan, store, state, new_id)
        return entry.trace, entry
    try:
        store.open_trace(trace_id)
    except TraceNotFound:
        try:
            entry = start(plan, store, state, trace_id)
            return entry.trace, entry
        except TraceExists:
            pass  # another process was faster
    if state is not None:
        _check_input(store, trace_id, state)
    return again(plan, store, trace_id, Again())


def again(plan: Plan, store: Store, trace_id: str, how: Again) -> tuple[Trace, Entry | None]:
    """Enter a run that exists; no Entry where there is nothing to run.

    Raises GraphHashMismatch, RunOwned, CrashLoop, TraceEndedError, TraceNotFound.
    """
    trace = store.open_trace(trace_id, reducers=plan.reducers)
    if not trace.graph_hash:
        raise EventStoreError(f"trace {trace_id} was not started by a graph, so no graph can resume it")
    _check_graph(store, trace, plan, how)
    if _stands(trace, how.reopen):
        return trace, None
    ownership = store._ownership
    ownership.entered(trace_id)
    try:
        claim = _claim(store, trace, how)
    except BaseException:
        ownership.left(trace_id)
        raise
    try:
        trace.refresh()
        if _stands(trace, how.reopen):
            ownership.release(trace, claim.epoch)
            ownership.left(trace_id)
            return trace, None
        carry: list[ControlEvent] = [OwnerChanged(claim.epoch, ownership.name)]
        if trace.graph_hash != plan.hash:
            carry += _check_graph(store, trace, plan, how)
            ownership.define(plan.hash, plan.canonical)
        if trace.status in ENDED:
            over = [key for key in trace.control if key.startswith(("failed/", "retry/")) or key == "cancel"]
            carry.append(TraceReopened(clears=over))
        if not how.force:
            stalled = _stalled(trace)
            if stalled >= MOST_STALLED:
                raise CrashLoop(trace_id, stalled, trace.next_node)
        at_once = claim.taken_over or len(carry) > 1
        return trace, Entry(trace, claim.epoch, carry, at_once, set(), _effects(store, trace, plan), trace.version)
    except BaseException:
        ownership.left(trace_id)
        ownership.give_back(trace, claim.epoch)
        raise


def result_of(trace: Trace) -> GraphResult:
    """What a run has come to so far."""
    entries = trace.entries()
    status = trace.status
    return GraphResult(
        trace.id,
        dict(trace.state),
        entries,
        round(sum(entry.metadata.duration_ms or 0 for entry in entries if entry.branch is None), 3),
        status,
        trace.pending_barriers if status == "waiting" else [],
    )


def stalled_ownerships(events: list[RecordedEvent]) -> int:
    """How many owners in a row, up to the end of the log, left nothing but their coming and an intent.

    >>> from .event import utc
    >>> log = [RecordedEvent("t1", seq, seq, "owner_changed", OwnerChanged(seq, "a"), utc(0)) for seq in (1, 2)]
    >>> stalled_ownerships(log)
    2
    """
    count = 0
    for recorded in reversed(events):
        if recorded.kind == "owner_changed":
            count += 1
        elif _is_progress(recorded):
            break
    return count


def _is_progress(recorded: RecordedEvent) -> bool:
    return recorded.kind not in MAIL and recorded.kind not in ("owner_changed", "node_intended", "intent_withdrawn")


def _stalled(trace: Trace) -> int:
    root_seq = trace._store._reader.root_seq(trace._row)
    window = STALLED_EVENTS
    while True:
        after = max(root_seq, trace.version - window)
        events = list(trace.events(after=after))
        count = stalled_ownerships(events)
        if count >= MOST_STALLED or after == root_seq or any(_is_progress(event) for event in events):
            return count
        window *= 16


def _stands(trace: Trace, reopen: bool) -> bool:
    """Whether there is nothing to run: it waits (deadlines applied), or is complete. Raises TraceEndedError."""
    if trace.status == "waiting":
        trace.expire()
    if trace.status == "cancelled" and not reopen:
        raise TraceEndedError(trace.id, "cancelled")
    return trace.status in ("waiting", "completed")


def _claim(store: Store, trace: Trace, how: Again) -> Claim:
    until = time.monotonic() + how.wait_s
    while True:
        try:
            return store._ownership.claim(trace, trace.control.get("epoch", 0))
        except RunOwned:
            if time.monotonic() >= until or (how.giving_up is not None and how.giving_up.is_set()):
                raise
            time.sleep(CLAIM_POLL_S)


def _check_graph(store: Store, trace: Trace, plan: Plan, how: Again) -> list[ControlEvent]:
    """The events of a forced change of the graph. Raises GraphHashMismatch."""
    recorded = trace.graph_hash
    if recorded == plan.hash:
        return []
    text = store._ownership.definition(recorded)
    old = None if text is None else msgspec.json.decode(text)
    if how.mode is not GraphHashMode.FORCE:
        raise GraphHashMismatch(trace.id, recorded, plan.hash, [] if old is None else changes(old, plan.definition))
    return [forced_change(trace.id, trace.control, recorded, plan, how.renamed_from or {}, how.at)]


def _check_input(store: Store, trace_id: str, state: Mapping[str, Any]) -> None:
    try:
        first = next(iter(store.events(trace_id, after=0, upto=1)), None)
    except Trimmed:
        return  # what it was started with is history
    if first is None or not isinstance(first.event, TraceStarted):
        return
    given = normalise_state(state)
    if store.redact is not None:
        given = normalise_state({key: store.redact(key, value) for key, value in given.items()})
    recorded = first.event.state
    differing = [
        key
        for key in {**recorded, **given}
        if key not in recorded or key not in given or not same(recorded[key], given[key])
    ]
    if differing:
        raise InputDiffers(trace_id, differing)


def _effects(store: Store, trace: Trace, plan: Plan) -> Effects:
    """What the traces that this one was forked from did to the world after the fork."""
    found: Effects = {}
    if any(node.side_effects for node in plan.nodes.values()):
        for parent_id, fork_seq in store._ancestors(trace._row):
            control = store._reader.restore(parent_id, fork_seq)[2].control
            found |= effects_after(store.events(parent_id, after=fork_seq), control)
    return found
