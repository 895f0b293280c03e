"""The whole engine against a toy: for every trace, a list of the states after each of its events.

Every rule does the same to the store and to the toy; after each one the file verifies, and at the end every
state of every trace is what the toy says, the order of the keys included, with bases and without. Two stores and
a second process write one file. Between rules the process dies (the files go on as they stand, closed by nobody),
in the midst of a commit as well; the disk fails or is full; and the file is moved by a dump or a backup.
"""

from __future__ import annotations

import copy
import io
import math
import shutil
import tempfile
import warnings
from pathlib import Path

import apsw
import jsonpatch
import pytest
from faults.flaky import flaky_disk
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from peer import Peer
from toy import DoesNotFit, Toy, canonical, decided, exact, made, written

import eventstore as es
from eventstore import bases, log
from eventstore.fold import apply

MOST_TRACES = 5
KEYS = ("log", "total", "high", "low", "doc", "free", "last", "made")
REDUCERS = {"log": "append", "total": "sum", "high": "max", "low": "min", "doc": "merge_object", "last": "replace"}
NUMBER = st.integers(-9, 9) | st.sampled_from([0.1, 0.2, 1.0, -1.5, 1e16])
LEAF = NUMBER | st.none() | st.booleans() | st.sampled_from(["", "é", "text " * 8])
OBJECT = st.dictionaries(st.sampled_from("xyz"), LEAF, max_size=3)
VALUE = LEAF | st.lists(LEAF, max_size=4) | OBJECT
KEY = st.sampled_from(KEYS)
LIST = st.sampled_from(["log", "free"])
WRITE = st.one_of(
    st.tuples(st.just("put"), KEY, VALUE),
    st.tuples(st.just("put"), st.sampled_from(["total", "high", "low"]), NUMBER),
    st.tuples(st.just("replace"), KEY, VALUE),
    st.tuples(st.just("append"), st.sampled_from(["log", "free", "last"]), LEAF),
    st.tuples(st.just("extend"), LIST, st.lists(LEAF, max_size=9)),
    st.tuples(st.just("splice"), KEY, st.tuples(st.integers(0, 5), st.integers(0, 4), st.lists(LEAF, max_size=2))),
    st.tuples(st.just("splice"), LIST, st.tuples(st.integers(0, 1), st.integers(0, 2), st.lists(LEAF, max_size=2))),
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
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a sync costs nothing: that it is made is another test's matter."""
PEER = []
"""The second process, once it is needed; it lives as long as this module's tests."""
POLICIES = st.sampled_from(
    [TINY, Restless(), Restless(), es.AdaptiveFold(), es.NeverFold(), es.FoldEvery(2), es.GeometricFold(0.5)]
)


@pytest.fixture(scope="module", autouse=True)
def peer_ends():
    """Nothing is left running."""
    yield
    while PEER:
        PEER.pop().end()


def peer():
    """The second process."""
    if not PEER:
        PEER.append(Peer())
    return PEER[0]


class Machine(RuleBasedStateMachine):
    traces = Bundle("traces")

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="machine-", dir=IN_MEMORY))
        self.path = self.folder / "runs.db"
        self.stores = []
        self.toys, self.made, self.sampled = {}, 0, 0
        self.handles = [{}, {}]

    def handle(self, trace_id, which=0, checks=True):
        """An open trace of the first or the second store, its state loaded."""
        handles = self.handles[which]
        if trace_id not in handles:
            handles[trace_id] = self.stores[which].open_trace(trace_id, reducers={"made": made})
            assert not checks or exact(dict(handles[trace_id].state)) == exact(self.toys[trace_id].state)
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
        if PEER:
            peer().ask("close")
        for store in self.stores:
            store.close()
        assert not Path(f"{self.path}-wal").exists()
        self.handles = [{}, {}]
        self.open_both(policy)

    # Deaths, and moves to another file

    def new_path(self):
        return self.folder / f"{self.new_id('runs-')}.db"

    def files_as_they_stand(self):
        """A copy of the files while they are open: what is there when every process that has them dies now."""
        copy = self.new_path()
        for suffix in ("", "-wal"):
            if Path(f"{self.path}{suffix}").exists():
                shutil.copyfile(f"{self.path}{suffix}", f"{copy}{suffix}")
        return copy

    def go_on_with(self, path, policy):
        for store in self.stores:
            store.close()
        self.path, self.handles = path, [{}, {}]
        self.open_both(policy)

    @rule(policy=POLICIES)
    def crash(self, policy):
        self.go_on_with(self.files_as_they_stand(), policy)

    @rule(trace_id=traces, puts=PUTS, policy=POLICIES, at=st.integers(0, 4))
    def crash_in_a_commit(self, trace_id, puts, policy, at):
        """Right after a write of its frames, of which there are a few."""
        copies = []
        with flaky_disk() as disk, es.open(self.path, fold_policy=TINY) as store:
            trace = store.open_trace(trace_id)
            begun = disk.calls["write"]

            def watch(operation):
                if operation == "write" and disk.calls["write"] > begun + at and not copies:
                    copies.append(self.files_as_they_stand())

            disk.watch = watch
            append_id, deltas = self.new_id("a"), [es.StateDelta.put(key, value) for key, value in puts]
            trace.append(deltas, append_id=append_id)
            disk.watch = None
        self.go_on_with(copies[0] if copies else self.files_as_they_stand(), policy)
        self.settle(trace_id, puts, append_id, None if copies else True)

    def landed(self, trace_id, puts):
        """The toy takes literal puts."""
        toy = self.toys[trace_id]
        states = [toy.state]
        for key, value in puts:
            states.append(written(states[-1], "replace", key, value))
        toy.commit(states[1:])

    def settle(self, trace_id, puts, append_id, landed):
        """A retry of an append of which nobody knows whether it landed; then it is there, once."""
        toy, first_seq = self.toys[trace_id], self.toys[trace_id].version + 1
        deltas = [es.StateDelta.put(key, value) for key, value in puts]
        self.landed(trace_id, puts)
        expected = es.ANY
        if isinstance(append_id, str):
            toy.retries.append((append_id, deltas, first_seq, toy.version))
        else:
            expected = first_seq - 1  # the engine's own ids are looked for at their place alone
        found = self.handle(trace_id, checks=False).append(deltas, append_id=append_id, expected_version=expected)
        assert (found.first_seq, found.version) == (first_seq, toy.version)
        assert landed is None or found.duplicate is landed
        self.fresh(trace_id)

    @rule(
        trace_id=traces,
        puts=PUTS,
        operation=st.sampled_from(["write", "sync"]),
        after=st.integers(0, 3),
        lands=st.booleans(),
        dies=st.none() | POLICIES,
        own=st.booleans(),
    )
    def io_error(self, trace_id, puts, operation, after, lands, dies, own):
        """A third store halts at a commit; others go on, or all of them die with it. `own`: no id is given."""
        toy, append_id = self.toys[trace_id], self.new_id("a")
        deltas = [es.StateDelta.put(key, value) for key, value in puts]
        with flaky_disk() as disk, es.open(self.path, fold_policy=TINY) as store:
            trace = store.open_trace(trace_id)
            disk.fail(operation, after, lands=lands)
            try:
                trace.append(deltas, append_id=None if own else append_id)
            except es.StoreHalted as halted:
                assert disk.hit and halted.expected_version == toy.version
                assert own or halted.append_id == append_id
                append_id = halted.append_id
                disk.heal()
                for act in (trace.refresh, store.verify, store.start, lambda: trace.append(deltas)):
                    with pytest.raises(es.StoreHalted):
                        act()
            else:
                assert not disk.hit
            disk.heal()
            if dies is not None:
                copied = self.files_as_they_stand()
        if dies is not None:
            self.go_on_with(copied, dies)
        if disk.hit or not own:
            self.settle(trace_id, puts, append_id, None if disk.hit else True)
        else:
            self.landed(trace_id, puts)

    @rule(trace_id=traces, puts=PUTS, after=st.integers(0, 4))
    def full_disk(self, trace_id, puts, after):
        """Nothing was written; when there is space again, the same store goes on."""
        toy, append_id = self.toys[trace_id], self.new_id("a")
        deltas = [es.StateDelta.put(key, value) for key, value in puts]
        with flaky_disk() as disk, es.open(self.path, durability="normal", fold_policy=TINY) as store:
            trace = store.open_trace(trace_id)
            disk.fail("write", after, apsw.FullError, once=False)
            try:
                trace.append(deltas, append_id=append_id)
            except es.StorageFull:
                assert disk.hit
                assert trace.version == store.open_trace(trace_id).version == toy.version
                disk.heal()
                assert not trace.append(deltas, append_id=append_id).duplicate
            disk.heal()
        self.settle(trace_id, puts, append_id, True)

    @rule(policy=POLICIES)
    def move_by_a_dump(self, policy):
        lines, path = io.BytesIO(), self.new_path()
        es.dump(self.stores[0], lines)
        with es.open(path, durability="normal") as loaded:
            es.load(loaded, io.BytesIO(lines.getvalue()))
            self.loaded_is_the_same(loaded)
        self.go_on_with(path, policy)

    @rule(policy=POLICIES)
    def move_by_a_backup(self, policy):
        path = self.new_path()
        copy, source = apsw.Connection(str(path)), apsw.Connection(str(self.path))
        with copy.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(7)
        source.close()
        copy.close()
        self.go_on_with(path, policy)

    # The second process

    @rule(trace_id=traces, puts=PUTS)
    def peer_append(self, trace_id, puts):
        toy, append_id = self.toys[trace_id], self.new_id("a")
        where = {"path": str(self.path), "trace_id": trace_id, "puts": puts, "append_id": append_id}
        first_seq, version = toy.version + 1, toy.version + len(puts)
        assert peer().ask("append", **where) == {"first_seq": first_seq, "version": version, "duplicate": False}
        assert peer().ask("append", **where) == {"first_seq": first_seq, "version": version, "duplicate": True}
        self.settle(trace_id, puts, append_id, True)

    @rule(trace_id=traces, number=st.integers(0, 9))
    def peer_decide(self, trace_id, number):
        toy = self.toys[trace_id]
        if not toy.pending:
            return
        barrier_id = toy.pending[number % len(toy.pending)]
        stale = self.handle(trace_id)
        where = {"path": str(self.path), "trace_id": trace_id, "barrier_id": barrier_id}
        assert peer().ask("reject", **where) == {}
        assert peer().ask("reject", **where)["error"] == "BarrierError"
        toy.barriers[barrier_id] = (toy.barriers[barrier_id][0], toy.version + 1)
        states = decided([toy.state], barrier_id.split("#")[0], es.Reject("no"))
        toy.commit([toy.state, *states[1:]])
        with pytest.raises(es.BarrierError):
            stale.decide(barrier_id, es.Approve())

    @rule(trace_id=traces, seq=st.integers(0, 1000))
    def peer_look(self, trace_id, seq):
        toy = self.toys[trace_id]
        at = seq % toy.version + 1
        found = peer().ask("state", path=str(self.path), trace_id=trace_id, seq=at)
        if toy.is_trimmed(at):
            assert found["error"] == "Trimmed"
        else:
            assert exact(found["state"]) == exact(toy.states[at - 1])

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

    @rule(trace_id=traces, steps=st.lists(WRITES, min_size=2, max_size=6), which=st.integers(0, 1))
    def steps_that_fit(self, trace_id, steps, which):
        """One write that does not fit fails its whole step, so here such writes are left out."""
        for writes in steps:
            self.step(trace_id, self.fitting(trace_id, writes), which)

    @rule(trace_id=traces, items=st.lists(LEAF, min_size=2, max_size=4), number=NUMBER, which=st.integers(0, 1))
    def lists_and_numbers(self, trace_id, items, number, which):
        """What later steps can splice and add to, and a little of that."""
        for writes in (
            [("replace", "log", items), ("replace", "total", number)],
            [("splice", "log", (1, 1, items[:1])), ("sum", "total", number), ("sum", "total", 0.1)],
            [("sum", "total", 0.2), ("append", "log", number), ("splice", "log", (0, 2, []))],
            [("sum", "total", 0.3), ("sum", "total", number)],
        ):
            self.step(trace_id, writes, which)

    def fitting(self, trace_id, writes):
        state, kept = self.toys[trace_id].state, []
        for write in writes:
            try:
                state = written(state, *write)
            except DoesNotFit:
                continue
            kept.append(write)
        return kept

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
        deltas = [es.StateDelta.put(key, value) for key, value in puts]
        self.handle(trace_id, which).append(deltas, expected_version=es.ANY)
        self.landed(trace_id, puts)

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
        deltas = [es.StateDelta.put(key, value) for key, value in puts]
        self.fresh(trace_id, which).append(deltas, append_id=append_id)
        self.landed(trace_id, puts)
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

    @rule(trace_id=traces, which=st.integers(0, 1), value=VALUE)
    def append_after_a_note(self, trace_id, which, value):
        """Another writer's note is no change."""
        toy = self.toys[trace_id]
        since = self.fresh(trace_id, which).version
        self.note(trace_id, 1 - which)
        self.handle(trace_id, which).append([es.StateDelta.put("free", value)], unless_changed_since=since)
        toy.commit([written(toy.state, "replace", "free", value)])

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

    @rule(trace_id=traces, which=st.integers(0, 1))
    def raise_an_expired_barrier(self, trace_id, which):
        """Its deadline has passed: whoever comes first applies the default, and is told."""
        trace, toy = self.fresh(trace_id, which), self.toys[trace_id]
        barrier_id = trace.raise_barrier("late", deadline_us=1, default=es.Approve())
        toy.barriers[barrier_id] = (toy.version + 1, toy.version + 2)
        toy.commit([toy.state])
        with pytest.raises(es.BarrierExpired):
            self.handle(trace_id, 1 - which).decide(barrier_id, es.Reject("too late"))
        states = decided([toy.state], "late", es.Approve())
        toy.commit([toy.state, *states[1:]])

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
        decision = [es.Approve(), es.Reject("no"), es.Modify({"free": value}), es.Reroute("other")][kind]
        states = decided([toy.state], node, decision)
        trace = self.handle(trace_id, which)  # however stale
        assert trace.decide(barrier_id, decision) == barrier_id
        toy.commit([toy.state, *states[1:]])
        with pytest.raises(es.BarrierError):
            trace.decide(barrier_id, decision)

    # Retention

    @rule(trace_id=traces, where=st.integers(0, 1000), to_the_head=st.booleans())
    def trim(self, trace_id, where, to_the_head):
        store, toy = self.stores[0], self.toys[trace_id]
        ends = [end for end in toy.ends if end > max(toy.fork_seq, toy.root)]
        if not ends:
            return
        before = ends[-1 if to_the_head else where % len(ends)]
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
        if before > 1 and toy.is_trimmed(before - 1):
            with pytest.raises(es.Trimmed):
                store.state_at(trace_id, before - 1)
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

    @invariant()
    def a_state_is_the_same_whatever_bases_exist(self):
        """One place of one trace, another one after each rule."""
        if not self.toys:
            return
        self.sampled += 1
        trace_id = list(self.toys)[self.sampled % len(self.toys)]
        toy, store = self.toys[trace_id], self.stores[self.sampled % 2]
        seq = self.sampled * 7919 % toy.version + 1
        if not toy.is_trimmed(seq):
            with store._database.reader() as connection:
                segments = log.lineage(connection, log.find_trace(connection, trace_id), seq)
                bare = bases.restore(connection, store.path, segments, seq, trace_id, bases=False).state
            assert exact(store.state_at(trace_id, seq)) == exact(bare) == exact(toy.states[seq - 1])

    def every_state_is_the_toys(self, store):
        for trace_id, toy in self.toys.items():
            assert store.open_trace(trace_id).version == toy.version
            for seq, state in enumerate(toy.states, 1):
                if toy.is_trimmed(seq):
                    continue
                assert exact(store.state_at(trace_id, seq)) == exact(state), (trace_id, seq)
            self.history_is_the_toys(store, trace_id, toy)
            self.events_are_the_toys(store, trace_id, toy)
            for checkpoint in store.checkpoints.list(trace_id):
                assert exact(checkpoint.restore_state()) == exact(toy.states[checkpoint.seq - 1])
                assert exact(checkpoint.state) == exact(toy.states[checkpoint.seq - 1])

    def what_is_dumped_is_an_equal_store(self):
        lines = io.BytesIO()
        es.dump(self.stores[0], lines)
        with es.open(self.folder / "loaded.db", durability="normal") as loaded:
            es.load(loaded, io.BytesIO(lines.getvalue()))
            self.loaded_is_the_same(loaded)
            self.every_state_is_the_toys(loaded)

    def loaded_is_the_same(self, loaded):
        """The same chains and the same checkpoints."""
        report = loaded.verify()
        assert report.ok, report.problems
        assert report.heads == self.stores[0].verify().heads
        for trace_id in self.toys:
            mine, theirs = [
                [(kept.checkpoint_id, kept.seq, kept.triggers) for kept in store.checkpoints.list(trace_id)]
                for store in (self.stores[0], loaded)
            ]
            assert mine == theirs

    def events_are_the_toys(self, store, trace_id, toy):
        """They stand one after the other, and what each does to the state is what the toy has there."""
        root = toy.last_root()
        state, seqs = copy.deepcopy(toy.states[root - 1]) if root else {}, []
        for recorded in store.events(trace_id):
            event = recorded.event
            if recorded.kind == "trace_started":
                state = copy.deepcopy(event.state)
            elif recorded.kind == "delta":
                apply(state, event.key, event.op, copy.deepcopy(event.value))
            assert exact(state) == exact(toy.states[recorded.seq - 1])
            seqs.append(recorded.seq)
        assert seqs == list(range(root + 1, toy.version + 1))

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
        try:
            self.the_end_is_the_toys()
        finally:
            for store in self.stores:
                store.close()
            if PEER:
                peer().ask("close")
            shutil.rmtree(self.folder)

    def the_end_is_the_toys(self):
        if not self.stores:
            return
        for which in range(2):
            for trace_id in self.handles[which]:
                self.fresh(trace_id, which)
        self.every_state_is_the_toys(self.stores[0])
        self.stores[0].drop_bases()
        self.every_state_is_the_toys(self.stores[1])
        self.the_file_verifies()
        self.what_is_dumped_is_an_equal_store()


class TestMachine(Machine.TestCase):
    """Runs with warnings as errors: in a file that nobody damages, no base is ever found to be damaged."""

    def runTest(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            super().runTest()
