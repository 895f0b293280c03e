"""What must hold of a run that was interrupted, however it was: read off its log and the world outside."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

import eventstore as es

from .world import INPUT, Outside, gate, make_graph, rule_of


class Broken(AssertionError):
    """A law does not hold."""


class Known(NamedTuple):
    """What a log says about calls: none of these may be made again by a process that comes later."""

    over: frozenset[tuple[str, int]]  # visits with a final result
    failed: frozenset[tuple[str, int, int]]  # attempts whose failure is recorded
    made: dict[tuple[str, int], int]  # how many values of durable calls each visit has


class Reading:
    """One pass over a log: visits, attempts, intents and doubts."""

    def __init__(self, events):
        self.visits = Counter()
        self.executed = []  # (node, success, attempt, falls_back), visit by visit
        self.over = {}  # (path, occurrence): how often it was completed
        self.failed = set()
        self.made = Counter()
        self.intents = Counter()  # by key
        self.given_up = set()  # visits that ended as failed
        self.approved = Counter()  # by key: how often a human said to run it again
        self.doubts = Counter()  # by key: owners that found its intent without a result
        self.asked = self.owners = 0
        self.epochs, self.times, self.ends = [], [], []
        self._open = {}
        self._keys = {}
        self._reasons = {}
        for event in events:
            self._take(event)

    @classmethod
    def of(cls, store, trace_id):
        """The reading of a trace; of an unknown one, of nothing."""
        try:
            return cls(list(store.events(trace_id)))
        except es.TraceNotFound:
            return cls([])

    @property
    def known(self):
        """What may not happen again."""
        return Known(frozenset(self.over), frozenset(self.failed), dict(self.made))

    def occurrence(self, path):
        """Which visit of a path's node is open."""
        return self.visits[path.partition("/")[0]] + 1

    def _take(self, recorded):
        self.times.append(recorded.at)
        event = recorded.event
        take = getattr(self, f"_{recorded.kind}", None)
        if take is not None:
            take(event)

    def _owner_changed(self, event):
        self.owners += 1
        self.epochs.append(event.epoch)
        self.doubts.update(self._open.values())

    def _node_intended(self, event):
        self.intents[event.key] += 1
        self._open[event.path] = self._keys[event.path] = event.key

    def _intent_withdrawn(self, event):
        self._open.pop(event.path, None)
        self.intents[self._keys[event.path]] -= 1

    def _value_recorded(self, event):
        if event.held:
            self.made[event.path, self.occurrence(event.path)] += 1

    def _branch_executed(self, event):
        visit = event.path, self.occurrence(event.path)
        self._open.pop(event.path, None)
        self._result(visit, event)

    def _node_executed(self, event):
        visit = event.node, self.occurrence(event.node)
        for path in [path for path in self._open if path.partition("/")[0] == event.node]:
            del self._open[path]
        self.executed.append((event.node, event.success, event.attempt if event.success else 0, event.falls_back))
        if event.retry_at_us is not None:
            self.executed[-1] = (event.node, False, event.attempt, False)
        self._result(visit, event)
        if event.success or event.falls_back:
            self.visits[event.node] += 1

    def _result(self, visit, event):
        if event.retry_at_us is not None:
            self.failed.add((*visit, event.attempt))
            return
        self.over[visit] = self.over.get(visit, 0) + 1
        if not event.success:
            self.given_up.add(visit)

    def _barrier_raised(self, event):
        self._reasons[event.barrier_id] = event.reason
        self.asked += event.reason == "in_doubt"

    def _barrier_decided(self, event):
        if self._reasons.get(event.barrier_id) == "in_doubt":
            self.approved[self._keys[event.node]] += isinstance(event.decision, es.Approve)

    def _trace_ended(self, event):
        self.ends.append(event.status)


def expect(holds, law, *what):
    """Raise Broken unless it holds."""
    if not holds:
        raise Broken(" ".join([law, *map(str, what)]))


def check_calls(lines, deaths, final):
    """No call of what the log had over when an earlier process died. `deaths`: (last process, Known) in order."""
    for line in lines:
        visit = line.path, line.occurrence
        for process, known in deaths:
            if line.process <= process:
                continue
            if line.what == "made":
                expect(known.made.get(visit, 0) <= line.detail, "a recorded value was made again:", line)
            elif line.what == "call":
                expect(visit not in known.over, "a completed node ran again:", line)
                expect((*visit, line.attempt) not in known.failed, "a failed attempt ran again:", line)
    twice = [
        found
        for found, times in Counter((*line[:6], line.detail) for line in lines if line.what != "effect").items()
        if times > 1
    ]
    expect(not twice, "one process did the same thing twice:", twice)
    called = {(line.path, line.occurrence) for line in lines if line.what == "call"}
    unknown = called - set(final.over)
    expect(not unknown, "a run that is complete has calls without a result:", unknown)


def check_effects(lines, reading):
    """Each effect once, or declared in doubt; gives how many lines a declared doubt explains."""
    done = Counter(line.key for line in lines)
    explained = 0
    visits = defaultdict(set)
    for line in lines:
        visits[line.key].add((line.path, line.occurrence))
        expect(reading.intents[line.key] > 0, "an effect without an intent:", line)
        rule = rule_of(line.path)
        allowed = {"ask": reading.approved, "retry": reading.doubts}.get(rule, Counter())[line.key]
        expect(done[line.key] <= 1 + allowed, "an effect was doubled silently:", line, done[line.key], allowed)
    for key, places in visits.items():
        expect(len(places) == 1, "one key stands for several visits:", key, places)
        explained += done[key] - 1
    effects = {(line.path, line.occurrence) for line in lines}
    for visit in reading.over:
        if rule_of(visit[0]) is None or visit[0] in ("each", "gather") or visit in reading.given_up:
            continue
        expect(visit in effects, "an effect is missing:", visit)
    return explained


def check_log(reading):
    """One result a visit, owners in order, time that never runs backwards."""
    twice = {visit: times for visit, times in reading.over.items() if times > 1}
    expect(not twice, "visits with two results:", twice)
    expect(reading.epochs == sorted(set(reading.epochs)), "epochs out of order:", reading.epochs)
    expect(reading.times == sorted(reading.times), "time ran backwards")
    expect(reading.ends == ["completed"], "ends:", reading.ends)


def uninterrupted(folder, trace_id, seed, rejected=frozenset()):
    """The same run without interruptions, in a store of its own: its state and its reading."""
    outside = Outside(folder / f"reference-{len(list(folder.iterdir()))}.txt")
    graph = make_graph(outside, rejected=rejected, pace=0)
    with es.open(f"{outside.path}.db", durability="normal") as store:
        result = es.run(graph, store, INPUT, id=trace_id)
        while result.status == "waiting":
            (barrier,) = result.pending_barriers
            store.decide(trace_id, barrier, gate(seed, int(barrier.rpartition("#")[2])))
            result = es.resume(graph, store, trace_id)
        return result.state, Reading.of(store, trace_id)


def comparable(state):
    """A state without the texts of failures: a doubt is told otherwise than an exception."""
    return {
        key: sorted(value) if key.endswith(".errors") else None if key.endswith(".error") else value
        for key, value in state.items()
    }


def check_run(store, trace_id, outside, seed, deaths, folder):
    """All laws for one run that is over; gives its reading and how many effects a declared doubt repeated."""
    reading = Reading.of(store, trace_id)
    lines = outside.lines()
    check_log(reading)
    check_calls(lines, deaths, reading)
    repeated = check_effects([line for line in lines if line.what == "effect"], reading)
    state, reference = uninterrupted(folder, trace_id, seed, frozenset(reading.given_up))
    expect(reading.executed == reference.executed, "not the same visits:", reading.executed, reference.executed)
    expect(reading.over == reference.over, "not the same results:", reading.over, reference.over)
    found = store.state_at(trace_id)
    differing = {key for key in {**state, **found} if comparable(state).get(key) != comparable(found).get(key)}
    expect(not differing, "another state in", {key: (state.get(key), found.get(key)) for key in differing})
    report = store.verify(trace_id)
    expect(report.ok, "the file does not verify:", report)
    return reading, repeated
