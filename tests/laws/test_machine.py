"""The whole engine against a toy: for every trace, a list of the states after each of its events.

Every rule does the same to the store and to the toy; after each one the file verifies, and at the end every
state of every trace is what the toy says, the order of the keys included, with bases and without.
"""

from __future__ import annotations

import copy
import io
import json
import math
import shutil
import tempfile
import warnings
from pathlib import Path

import jsonpatch
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

import eventstore as es
from eventstore.fold import apply

MOST_TRACES = 5
KEYS = ("log", "total", "high", "low", "doc", "free", "last", "made")


def made(old, new):
    """The custom reducer: the newest value before the newest but one."""
    return [new, old[0] if isinstance(old, list) and old else None]


REDUCERS = {"log": "append", "total": "sum", "high": "max", "low": "min", "doc": "merge_object", "last": "replace"}
NUMBER = st.integers(-9, 9) | st.sampled_from([0.1, 0.2, 1.0, -1.5, 1e16])
LEAF = NUMBER | st.none() | st.booleans() | st.sampled_from(["", "é", "text " * 8])
OBJECT = st.dictionaries(st.sampled_from("xyz"), LEAF, max_size=3)
VALUE = LEAF | st.lists(LEAF, max_size=4) | OBJECT
KEY = st.sampled_from(KEYS)
WRITE = st.one_of(
    st.tuples(st.just("put"), KEY, VALUE),
    st.tuples(st.just("put"), st.sampled_from(["total", "high", "low"]), NUMBER),
    st.tuples(st.just("replace"), KEY, VALUE),
    st.tuples(st.just("append"), st.sampled_from(["log", "free", "last"]), LEAF),
    st.tuples(st.just("extend"), st.sampled_from(["log", "free"]), st.lists(LEAF, max_size=9)),
    st.tuples(st.just("splice"), KEY, st.tuples(st.integers(0, 5), st.integers(0, 4), st.lists(LEAF, max_size=2))),
    st.tuples(st.just("merge"), st.sampled_from(["doc", "free"]), OBJECT),
    st.tuples(st.just("sum"), st.sampled_from(["total", "free"]), NUMBER),
    st.tuples(st.just("delete"), KEY, st.none()),
)
WRITES = st.lists(WRITE, max_size=6)
PUTS = st.lists(st.tuples(KEY, VALUE), min_size=1, max_size=3)


class Restless:
    """A base for every other row: links until the chain is long, then a whole state."""

    def decide(self, now):
        if now.tail_rows < 2:
            return None
        return es.FoldDecision("whole" if now.chain_bytes > 500 else "link", "restless")


TINY = es.AdaptiveFold(min_tail_deltas=2, min_tail_rows=1, min_link_bytes=64, max_link_bytes=256, small_state_bytes=0)
POLICIES = st.sampled_from(
    [TINY, Restless(), Restless(), es.AdaptiveFold(), es.NeverFold(), es.FoldEvery(2), es.GeometricFold(0.5)]
)


class DoesNotFit(Exception):
    """The toy refuses a write."""


def is_number(value):
    return type(value) in (int, float)


def written(state, how, key, value):
    """The toy's state after one write, which may not fit."""
    state = copy.deepcopy(state)
    if how == "put":
        how, value = {
            "log": ("extend", value if isinstance(value, list) else [value]),
            "total": ("sum", value),
            "high": ("max", value),
            "low": ("min", value),
            "doc": ("merge", value),
            "made": ("replace", made(state.get(key), value)),
        }.get(key, ("replace", value))
    if how == "append":
        how, value = "extend", [value]
    old = state.get(key)
    match how:
        case "replace":
            state[key] = value
        case "delete" if key in state:
            del state[key]
        case "extend" if key not in state or isinstance(old, list):
            state[key] = [*(old or []), *value]
        case "splice" if isinstance(old, list) and value[0] + value[1] <= len(old):
            state[key] = old[: value[0]] + value[2] + old[value[0] + value[1] :]
        case "merge" if isinstance(value, dict) and (key not in state or isinstance(old, dict)):
            state[key] = {**(old or {}), **value}
        case "sum" | "max" | "min" if is_number(value) and (key not in state or is_number(old)):
            if key not in state:
                state[key] = value
            elif how == "sum":
                state[key] = old + value
            elif value > old if how == "max" else value < old:
                state[key] = value
        case _:
            raise DoesNotFit
    return copy.deepcopy(state)


class Toy:
    """What the toy knows of one trace: `states[n - 1]`, `notes[n - 1]` and `counts[n - 1]` (of steps) of event n.

    `ends`: where rows end.
    """

    def __init__(self, parent=None, at=0):
        while parent is not None and at <= parent.fork_seq:
            parent = parent.parent  # whose row that is
        self.states = parent.states[:at] if parent else []
        self.notes = parent.notes[:at] if parent else []
        self.counts = parent.counts[:at] if parent else []
        self.ends = [end for end in parent.ends if end <= at] if parent else []
        self.barriers = {}  # by id: where it was raised, and where decided
        for barrier_id, (raised, decided) in (parent.barriers if parent else {}).items():
            if raised <= at:
                self.barriers[barrier_id] = (raised, decided if decided <= at else math.inf)
        self.ended = None
        self.retries = []
        self.parent, self.fork_seq, self.root = parent, at, 0

    @property
    def version(self):
        return len(self.states)

    @property
    def state(self):
        return self.states[-1]

    @property
    def pending(self):
        """The ids of the barriers that wait, as they were raised."""
        return [barrier_id for barrier_id, (_, decided) in self.barriers.items() if decided == math.inf]

    @property
    def status(self):
        return self.ended or ("waiting" if self.pending else "running")

    def is_trimmed(self, seq):
        """Whether a root hides `seq`: that of the trace itself, or of the ancestor whose row it is."""
        toy = self
        while toy.parent is not None and seq <= toy.fork_seq:
            toy = toy.parent
        return seq < toy.root

    def last_root(self):
        """The last root on the way from seq 1 to the head."""
        return max(self.root, self.parent.last_root() if self.parent is not None else 0)

    def commit(self, states, notes=False, steps=0):
        """One row: the states after each of its events."""
        before = self.counts[-1] if self.counts else 0
        self.counts += [before] * (len(states) - 1) + [before + steps]
        self.states += copy.deepcopy(states)
        self.notes += [notes] * len(states)
        self.ends.append(self.version)


def exact(value):
    return json.dumps(value)


def canonical(value):
    """Exact, but for the order of keys."""
    return json.dumps(value, sort_keys=True)


class Machine(RuleBasedStateMachine):
    traces = Bundle("traces")

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.path = self.folder / "runs.db"
        self.stores = []
        self.toys, self.made = {}, 0
        self.handles = [{}, {}]

    def handle(self, trace_id, which=0):
        """An open trace of the first or the second store, its state loaded."""
        handles = self.handles[which]
        if trace_id not in handles:
            handles[trace_id] = self.stores[which].open_trace(trace_id, reducers={"made": made})
            assert exact(dict(handles[trace_id].state)) == exact(self.toys[trace_id].state)
        return handles[trace_id]

    def fresh(self, trace_id, which=0):
        handle, toy = self.handle(trace_id, which), self.toys[trace_id]
        assert handle.refresh() == toy.version
        assert exact(dict(handle.state)) == exact(toy.state)
        return handle

    @initialize(target=traces, policy=POLICIES)
    def begin(self, policy):
        self.open_both(policy)
        return self.start_one({})

    def open_both(self, policy):
        self.stores = [es.open(self.path, durability="normal", fold_policy=policy) for _ in range(2)]

    @rule(policy=POLICIES)
    def reopen(self, policy):
        for store in self.stores:
            store.close()
        assert not Path(f"{self.path}-wal").exists()
        self.handles = [{}, {}]
        self.open_both(policy)

    # Traces

    @rule(target=traces, state=st.dictionaries(KEY, VALUE, max_size=5))
    def start(self, state):
        return self.start_one(state) if len(self.toys) < MOST_TRACES else multiple()

    def new_id(self, kind="t"):
        self.made += 1
        return f"{kind}{self.made}"

    def start_one(self, state):
        trace_id = self.new_id()
        trace = self.stores[0].start(state, id=trace_id, reducers={**REDUCERS, "made": made})
        self.handles[0][trace_id] = trace
        self.toys[trace_id] = toy = Toy()
        toy.commit([state])
        return trace_id

    @rule(target=traces, trace_id=traces, where=st.integers(0, 1000), put=st.dictionaries(KEY, VALUE, max_size=2))
    def fork(self, trace_id, where, put):
        if len(self.toys) >= MOST_TRACES:
            return multiple()
        store, toy = self.stores[0], self.toys[trace_id]
        at = where % toy.version + 1
        if toy.is_trimmed(at):
            with pytest.raises(es.Trimmed):
                store.fork(trace_id, at)
            return multiple()
        new_id = self.new_id()
        if at not in toy.ends:
            with pytest.raises(es.NotAStepBoundary) as refused:
                store.fork(trace_id, at, id=new_id)
            assert refused.value.before == max([end for end in toy.ends if end < at], default=0)
            assert refused.value.after == min(end for end in toy.ends if end > at)
            return multiple()
        self.toys[new_id] = forked = Toy(toy, at)
        store.fork(trace_id, at, put=put, id=new_id)
        waiting = forked.pending
        first_seq = forked.version + 1
        states = [forked.state]
        for key, value in put.items():
            states.append(written(states[-1], "replace", key, value))
        forked.commit([*states, *[states[-1]] * len(waiting)])
        for seq, barrier_id in enumerate(waiting, first_seq + len(states)):
            forked.barriers[barrier_id] = (seq, math.inf)  # raised anew
        return new_id

    @rule(trace_id=consumes(traces))
    def end(self, trace_id):
        toy = self.toys[trace_id]
        trace = self.fresh(trace_id)
        if toy.ended:
            return
        trace.end()
        toy.commit([toy.state])
        toy.ended = "completed"
        with pytest.raises(es.TraceEndedError), trace.step("late"):
            pass

    # Steps

    def do(self, step, writes):
        for how, key, value in writes:
            if how == "splice":
                step.splice(key, *value)
            elif how == "delete":
                step.delete(key)
            else:
                getattr(step, how)(key, copy.deepcopy(value))

    @rule(trace_id=traces, steps=st.lists(WRITES, min_size=1, max_size=5), which=st.integers(0, 1))
    def steps(self, trace_id, steps, which):
        for writes in steps:
            self.step(trace_id, writes, which)

    def step(self, trace_id, writes, which):
        trace, toy = self.fresh(trace_id, which), self.toys[trace_id]
        states = [toy.state]
        try:
            for write in writes:
                states.append(written(states[-1], *write))
        except DoesNotFit:
            with pytest.raises((es.DeltaApply, es.MissingKey, es.ReducerConflict)), trace.step("work") as step:
                self.do(step, writes)
            toy.commit([toy.state])
            return
        with trace.step("work") as step:
            self.do(step, writes)
            assert all(exact(step.get(key)) == exact(value) for key, value in states[-1].items())
        toy.commit([*states[1:], states[-1]], steps=1)

    @rule(trace_id=traces, key=KEY, value=VALUE, refused=st.booleans())
    def failing_step(self, trace_id, key, value, refused):
        trace, toy = self.fresh(trace_id), self.toys[trace_id]
        with pytest.raises(es.ValueRefused if refused else ZeroDivisionError), trace.step("work") as step:
            step.replace(key, value)
            if refused:
                step.replace(key, [value, float("nan")])
            raise ZeroDivisionError
        toy.commit([toy.state])

    @rule(trace_id=traces, puts=PUTS, which=st.integers(0, 1))
    def stale_step(self, trace_id, puts, which):
        """Another writer comes between; the toy sees its write only."""
        stale, toy = self.fresh(trace_id, which), self.toys[trace_id]
        self.append(trace_id, puts, 1 - which)
        with pytest.raises(es.WrongExpectedVersion) as refused, stale.step("late") as step:
            step.replace("free", "never")
        assert refused.value.actual == toy.version
        assert stale.version == refused.value.expected

    # Appends

    @rule(trace_id=traces, puts=PUTS, which=st.integers(0, 1))
    def append(self, trace_id, puts, which):
        toy = self.toys[trace_id]
        states = [toy.state]
        for key, value in puts:
            states.append(written(states[-1], "replace", key, value))
        deltas = [es.StateDelta.put(key, value) for key, value in puts]
        self.handle(trace_id, which).append(deltas, expected_version=es.ANY)
        toy.commit(states[1:])

    @rule(trace_id=traces, value=VALUE, away=st.sampled_from([-2, -1, 1, 5]))
    def conflicting_append(self, trace_id, value, away):
        toy = self.toys[trace_id]
        with pytest.raises(es.WrongExpectedVersion) as refused:
            self.handle(trace_id).append([es.StateDelta.put("free", value)], expected_version=toy.version + away)
        assert (refused.value.actual, refused.value.expected) == (toy.version, toy.version + away)

    @rule(trace_id=traces, puts=PUTS, which=st.integers(0, 1))
    def append_with_id(self, trace_id, puts, which):
        toy = self.toys[trace_id]
        append_id, first_seq = self.new_id("a"), toy.version + 1
        states = [toy.state]
        for key, value in puts:
            states.append(written(states[-1], "replace", key, value))
        deltas = [es.StateDelta.put(key, value) for key, value in puts]
        self.fresh(trace_id, which).append(deltas, append_id=append_id)
        toy.commit(states[1:])
        toy.retries.append((append_id, deltas, first_seq, toy.version))

    @rule(trace_id=traces, which=st.integers(0, 1), number=st.integers(0, 100), expect=st.booleans())
    def retry(self, trace_id, which, number, expect):
        toy = self.toys[trace_id]
        if not toy.retries:
            return
        append_id, deltas, first_seq, version = toy.retries[number % len(toy.retries)]
        expected = first_seq - 1 if expect else es.ANY
        appended = self.handle(trace_id, which).append(deltas, append_id=append_id, expected_version=expected)
        assert appended == es.Appended(first_seq, version, duplicate=True)
        with pytest.raises(es.AppendIdReused):
            self.handle(trace_id, which).append([*deltas, *deltas], append_id=append_id)

    @rule(trace_id=traces, which=st.integers(0, 1))
    def note(self, trace_id, which):
        toy = self.toys[trace_id]
        self.handle(trace_id, which).note("seen", {"which": which})
        toy.commit([toy.state], notes=True)

    @rule(trace_id=traces, which=st.integers(0, 1), back=st.integers(0, 6), value=VALUE)
    def append_unless_changed(self, trace_id, which, back, value):
        toy = self.toys[trace_id]
        since = max(1, toy.version - back)
        row_begins = max([end for end in toy.ends if end < since + 1], default=0)
        delta = es.StateDelta.put("free", value)
        if since < toy.last_root():
            with pytest.raises(es.Trimmed):
                self.handle(trace_id, which).append([delta], unless_changed_since=since)
            return
        if all(toy.notes[row_begins:]):
            self.handle(trace_id, which).append([delta], unless_changed_since=since)
            toy.commit([written(toy.state, "replace", "free", value)])
        else:
            with pytest.raises(es.WrongExpectedVersion):
                self.handle(trace_id, which).append([delta], unless_changed_since=since)

    # Barriers

    @rule(trace_id=traces, node=st.sampled_from(["ask", "pay"]))
    def raise_barrier(self, trace_id, node):
        trace, toy = self.fresh(trace_id), self.toys[trace_id]
        barrier_id = trace.raise_barrier(node)
        toy.commit([toy.state])
        assert barrier_id == f"{node}#{sum(known.startswith(node) for known in toy.barriers) + 1}"
        toy.barriers[barrier_id] = (toy.version, math.inf)
        assert trace.pending_barriers == toy.pending

    @rule(trace_id=traces, which=st.integers(0, 1), number=st.integers(0, 9), kind=st.integers(0, 3), value=VALUE)
    def decide(self, trace_id, which, number, kind, value):
        toy = self.toys[trace_id]
        if not toy.pending:
            with pytest.raises(es.BarrierError):
                self.handle(trace_id, which).decide("ask", es.Approve())
            return
        barrier_id = toy.pending[number % len(toy.pending)]
        toy.barriers[barrier_id] = (toy.barriers[barrier_id][0], toy.version + 1)
        node = barrier_id.split("#")[0]
        decision, marks = [
            (es.Approve(), {"approved": True}),
            (es.Reject("no"), {"approved": False, "reject_reason": "no"}),
            (es.Modify({"free": value}), {"approved": True}),
            (es.Reroute("other"), {"rerouted_to": "other"}),
        ][kind]
        states = [toy.state]
        for mark in ("approved", "reject_reason", "rerouted_to"):
            if mark in marks:
                states.append(written(states[-1], "replace", f"{node}.{mark}", marks[mark]))
            elif f"{node}.{mark}" in states[-1]:
                states.append(written(states[-1], "delete", f"{node}.{mark}", None))
        if isinstance(decision, es.Modify):
            states.append(written(states[-1], "replace", "free", value))
        trace = self.handle(trace_id, which)  # however stale
        assert trace.decide(barrier_id, decision) == barrier_id
        toy.commit([toy.state, *states[1:]])
        with pytest.raises(es.BarrierError):
            trace.decide(barrier_id, decision)

    # Retention

    @rule(trace_id=traces, where=st.integers(0, 1000))
    def trim(self, trace_id, where):
        store, toy = self.stores[0], self.toys[trace_id]
        ends = [end for end in toy.ends if end > max(toy.fork_seq, toy.root)]
        if not ends:
            return
        before = ends[where % len(ends)]
        is_blocked = (
            any(fork.parent is toy and fork.fork_seq < before for fork in self.toys.values())
            or any(kept.seq < before for kept in store.checkpoints.list(trace_id))
            or any(raised <= before < decided for raised, decided in toy.barriers.values())
        )
        if is_blocked:
            with pytest.raises(es.RetentionBlocked):
                store.trim(trace_id, before, retry_window_s=0)
            return
        store.trim(trace_id, before, retry_window_s=0)
        toy.root = before
        toy.retries = [retry for retry in toy.retries if retry[2] > before]

    @rule(trace_id=consumes(traces))
    def erase(self, trace_id):
        store, toy = self.stores[1], self.toys[trace_id]
        if any(fork.parent is toy for fork in self.toys.values()):
            with pytest.raises(es.RetentionBlocked):
                store.erase(trace_id)
            return
        store.erase(trace_id)
        del self.toys[trace_id]
        for handles in self.handles:
            handles.pop(trace_id, None)
        with pytest.raises(es.TraceErased):
            store.state_at(trace_id)

    # Checkpoints and bases

    @rule(trace_id=traces, which=st.integers(0, 1))
    def checkpoint(self, trace_id, which):
        trace, toy = self.fresh(trace_id, which), self.toys[trace_id]
        made_here = trace.checkpoint("next")
        assert made_here.seq == toy.version
        assert exact(made_here.restore_state()) == exact(made_here.restore_state_simple()) == exact(toy.state)

    @rule(trace_id=traces, keep=st.integers(0, 3))
    def prune(self, trace_id, keep):
        checkpoints = self.stores[0].checkpoints
        before = checkpoints.list(trace_id)
        assert checkpoints.prune(trace_id, keep) == max(0, len(before) - keep)
        assert [left.checkpoint_id for left in checkpoints.list(trace_id)] == [
            kept.checkpoint_id for kept in before[:keep]
        ]

    @rule(trace_id=traces, number=st.integers(0, 9))
    def delete_checkpoint(self, trace_id, number):
        checkpoints = self.stores[1].checkpoints
        before = [checkpoint.checkpoint_id for checkpoint in checkpoints.list(trace_id)]
        if before:
            gone = before.pop(number % len(before))
            assert checkpoints.delete(gone) and not checkpoints.delete(gone)
        assert [checkpoint.checkpoint_id for checkpoint in checkpoints.list(trace_id)] == before

    @rule(which=st.integers(0, 1))
    def drop_all_bases(self, which):
        self.stores[which].drop_bases()
        assert self.stores[which].stats().base_bytes == 0

    @rule(trace_id=traces, which=st.integers(0, 1))
    def drop_bases(self, trace_id, which):
        self.stores[which].drop_bases(trace_id)

    @rule(trace_id=traces, seq=st.integers(0, 1000))
    def look(self, trace_id, seq):
        toy = self.toys[trace_id]
        at = seq % toy.version + 1
        if toy.is_trimmed(at):
            with pytest.raises(es.Trimmed):
                self.stores[1].state_at(trace_id, at)
            return
        assert exact(self.stores[1].state_at(trace_id, at)) == exact(toy.states[at - 1])
        with pytest.raises(es.SeqOutOfRange):
            self.stores[1].state_at(trace_id, toy.version + 1)

    # Looking back

    @rule(trace_id=traces, other=traces, where=st.integers(0, 1000), there=st.integers(0, 1000))
    def differ(self, trace_id, other, where, there):
        """What a diff says turns one state into the other; the standard's patch does as well."""
        sides = []
        for name, place in ((trace_id, where), (other, there)):
            toy = self.toys[name]
            seq = place % toy.version + 1
            if toy.is_trimmed(seq):
                return
            sides.append(self.stores[1].open_trace(name).at(seq))
        left, right = sides
        found = es.diff(left, right)
        assert canonical(found.apply(left.state)) == canonical(right.state)
        assert canonical(jsonpatch.apply_patch(left.state, found.patch())) == canonical(right.state)
        assert found.is_empty is (canonical(left.state) == canonical(right.state))
        assert es.StateDiff.from_json(found.to_json()) == found

    @rule(trace_id=traces, back=st.integers(0, 9), span=st.integers(0, 9))
    def window(self, trace_id, back, span):
        toy = self.toys[trace_id]
        upto = max(toy.version - back, 1)
        after = max(upto - span, 0)
        trace = self.stores[0].open_trace(trace_id)
        if toy.is_trimmed(after or 1) and after:
            return
        if after == 0 and toy.last_root():
            with pytest.raises(es.Trimmed):
                list(trace.history(after=after, upto=upto))
            return
        wanted = [(end, exact(toy.states[end - 1])) for end in toy.ends if after < end <= upto]
        for reverse in (False, True):
            pasts = list(trace.history(after=after, upto=upto, reverse=reverse))
            assert [(past.seq, exact(past.state)) for past in pasts] == (wanted[::-1] if reverse else wanted)

    # The laws

    @invariant()
    def the_file_verifies(self):
        if self.stores:
            report = self.stores[0].verify()
            assert report.ok, report.problems
            assert report.traces == len(self.toys)
            listed = {info.trace_id: (info.version, info.status) for info in self.stores[1].traces()}
            assert listed == {trace_id: (toy.version, toy.status) for trace_id, toy in self.toys.items()}

    def every_state_is_the_toys(self, store):
        for trace_id, toy in self.toys.items():
            assert store.open_trace(trace_id).version == toy.version
            for seq, state in enumerate(toy.states, 1):
                if toy.is_trimmed(seq):
                    continue
                assert exact(store.state_at(trace_id, seq)) == exact(state), (trace_id, seq)
            self.history_is_the_toys(store, trace_id, toy)
            for checkpoint in store.checkpoints.list(trace_id):
                assert exact(checkpoint.restore_state()) == exact(toy.states[checkpoint.seq - 1])
                assert exact(checkpoint.state) == exact(toy.states[checkpoint.seq - 1])

    def what_is_dumped_is_an_equal_store(self):
        lines = io.BytesIO()
        es.dump(self.stores[0], lines)
        with es.open(self.folder / "loaded.db", durability="normal") as loaded:
            es.load(loaded, io.BytesIO(lines.getvalue()))
            report = loaded.verify()
            assert report.ok, report.problems
            assert report.heads == self.stores[0].verify().heads
            self.every_state_is_the_toys(loaded)

    def history_is_the_toys(self, store, trace_id, toy):
        """One pass gives what looking at each place gives; steps and the writers of a key are found."""
        trace = store.open_trace(trace_id)
        pasts = list(trace.history())
        root = toy.last_root()
        ends = [root] * bool(root) + [end for end in toy.ends if end > root]
        assert [past.seq for past in pasts] == ends
        assert [past.seq for past in trace.history(reverse=True)] == ends[::-1]
        for past in pasts:
            there = trace.at(past.seq)
            assert exact(past.state) == exact(there.state) == exact(toy.states[past.seq - 1])
            assert dict(past.control) == dict(there.control)
            assert past.step == there.step == toy.counts[past.seq - 1]
        for step in range(toy.counts[-1] + 1):
            first = min(seq for seq, count in enumerate(toy.counts, 1) if count == step)
            at = min(end for end in toy.ends if end >= first)
            if root and step == toy.counts[root - 1]:
                assert trace.at(step=step).seq == root
            elif root and step < toy.counts[root - 1]:
                with pytest.raises(es.PlaceNotFound, match="trimmed"):
                    trace.at(step=step)
            else:
                assert trace.at(step=step).seq == at
        for key in KEYS:
            state = {}
            for write in trace.blame(key):
                assert write.key == key
                apply(state, key, write.op, copy.deepcopy(write.value))
            assert exact(state.get(key, "gone")) == exact(toy.state.get(key, "gone"))

    def teardown(self):
        if self.stores:
            for which in range(2):
                for trace_id in self.handles[which]:
                    self.fresh(trace_id, which)
            self.every_state_is_the_toys(self.stores[0])
            self.stores[0].drop_bases()
            self.every_state_is_the_toys(self.stores[1])
            self.the_file_verifies()
            self.what_is_dumped_is_an_equal_store()
        for store in self.stores:
            store.close()
        shutil.rmtree(self.folder)


class TestMachine(Machine.TestCase):
    """Runs with warnings as errors: in a file that nobody damages, no base is ever found to be damaged."""

    def runTest(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            super().runTest()
