"""A workload of every kind of deed, and a diary: what the caller was told, and when.

A deed is a call of the public API. The diary keeps for each trace what the caller knows once the call returned (its
version and its state, which is computed here, without the engine) beside the number of operations that the disk had
seen by then. `promised` deeds are on disk when they return, under `durability="normal"` too.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import Any, NamedTuple

import eventstore as es

POLICIES = (
    lambda: es.AdaptiveFold(min_tail_deltas=2, min_link_bytes=64, max_link_bytes=256, small_state_bytes=64),
    lambda: es.FoldEvery(2),
    es.AdaptiveFold,
)
KEYS = ("a", "b", "c")
INTENDED_AT = 5  # the seq at which a run of `graph` intends what touches the world outside


class Known(NamedTuple):
    """What the caller knows of a trace. `barriers`: those that it can decide."""

    version: int = 0
    state: Any = None
    erased: bool = False
    barriers: tuple[str, ...] = ()


class Deed(NamedTuple):
    """A call that returned. `begun`, `at`: how many operations the disk had seen; `known`: the traces it changed.

    `failed`: it raised, and `known` is what would be had it gone through; a deed of several commits is not `whole`.
    """

    begun: int
    at: int
    path: str
    what: str
    known: dict[str, Known]
    promised: bool
    failed: bool
    whole: bool


class Diary:
    """What is known by now, of the traces of each file; `deeds`: how it came to be known."""

    def __init__(self, disk, paths):
        self.disk = disk
        self.deeds: list[Deed] = []
        self.known: dict[str, dict[str, Known]] = {path: {} for path in paths}
        self.parents: dict[str, str] = {}
        self.made = 0

    def name(self, what):
        """A name that was not given before."""
        self.made += 1
        return f"{what}{self.made}"

    @contextmanager
    def deed(self, what, path, *, promised=False, whole=True, **known):
        """Note a call. `known`: the traces that it changes, with versions that the caller fills in when it returned."""
        begun, failed = len(self.disk.ops), True
        try:
            yield known
            failed = False
        except es.RetentionBlocked:  # an answer: nothing was changed
            known, failed = {}, False
        finally:
            at = len(self.disk.ops)
            self.deeds.append(Deed(begun, at, path, what, dict(known), promised, failed, whole))
        self.known[path].update(known)

    def until(self, path, at, *, only_promised=False):
        """What was known of that file when the disk had seen so many operations, and the deeds that were under way."""
        known: dict[str, Known] = {}
        told = [number for number, deed in enumerate(self.deeds) if counts(deed, path, at, only_promised)]
        last = max(told, default=-1)
        for deed in self.deeds[: last + 1]:
            if deed.path == path and not deed.failed:
                known.update(deed.known)
        return known, [deed for deed in self.deeds[last + 1 :] if deed.path == path and deed.begun <= at]


def counts(deed, path, at, only_promised):
    """Whether a deed had been told by then. What was only looked at lasts with the next deed."""
    was_told = deed.path == path and deed.what != "looked" and not deed.failed and deed.at <= at
    return was_told and (deed.promised or not only_promised)


class Worker:
    """Whoever uses the stores: does one deed after the other, any of them with the same chance."""

    def __init__(self, diary, path, rng, durability="full", *, checkpoint_pages=None, **options):
        self.diary, self.path, self.rng, self.durability = diary, path, rng, durability
        self.options = options
        self.checkpoint_pages = checkpoint_pages
        self.store: Any = None
        self.again: Any = None

    def open(self):
        """A new store on the file, with a fold policy by chance."""
        policy = self.rng.choice(POLICIES)()
        self.store = es.open(self.path, durability=self.durability, fold_policy=policy, **self.options)
        if self.checkpoint_pages is not None:
            checkpoint_every(self.store, self.checkpoint_pages)

    def close(self):
        """Close it; where that raises, it is closed all the same the second time."""
        store, self.store = self.store, None
        if store is None:
            return
        try:
            store.close()
        except es.EventStoreError:
            store.close()
            raise

    @property
    def known(self):
        """What is known of this file's traces."""
        return self.diary.known[self.path]

    def act(self):
        """One deed. `again` is then how to ask for it once more: None where that has to look first."""
        live = [trace_id for trace_id, known in self.known.items() if not known.erased]
        self.again = None
        if len(live) < 2:
            return self.start()
        deed = self.rng.choice(DEEDS)
        return deed(self) if deed in ALONE else deed(self, self.rng.choice(live))

    def start(self):
        trace_id = self.diary.name("t")
        state = {"n": 0, "a": "x" * self.rng.choice((1, 50, 6000)), "log": []}
        with self.diary.deed("start", self.path, **{trace_id: Known(1, state)}):
            self.store.start(copy.deepcopy(state), id=trace_id)

    def append(self, trace_id):
        known, append_id = self.known[trace_id], self.diary.name("append")
        state, events = copy.deepcopy(known.state), [es.StateDelta("n", "sum", 1)]
        state["n"] = state.get("n", 0) + 1
        for _ in range(self.rng.randrange(3)):
            key, value = self.rng.choice(KEYS), "y" * self.rng.choice((1, 30, 900, 5000))
            state[key] = value
            events.append(es.StateDelta.put(key, value))
        if "log" in state:
            state["log"].append(append_id)
            events.append(es.StateDelta("log", "append", [append_id]))

        def call(store):
            return store.append(trace_id, events, append_id=append_id, expected_version=known.version)

        self.again = call
        with self.diary.deed("append", self.path, **{trace_id: known._replace(state=state)}) as told:
            told[trace_id] = told[trace_id]._replace(version=call(self.store).version)

    def step(self, trace_id):
        known = self.known[trace_id]
        value = self.diary.name("step") * self.rng.choice((1, 20, 300))
        state = {**known.state, "b": value}
        gone = state.pop("c", None) is not None
        with self.diary.deed("step", self.path, **{trace_id: known._replace(state=state)}) as told:
            trace = self.store.open_trace(trace_id)
            with trace.step("work") as step:
                step.put("b", value)
                if gone:
                    step.delete("c")
            told[trace_id] = told[trace_id]._replace(version=trace.version)

    def note(self, trace_id):
        known = self.known[trace_id]
        with self.diary.deed("note", self.path, **{trace_id: known}) as told:
            told[trace_id] = known._replace(version=self.store.open_trace(trace_id).note("seen", {"by": 1}).version)

    def ask(self, trace_id):
        """Raise a barrier, or decide the one that is open."""
        known = self.known[trace_id]
        if not known.barriers:
            with self.diary.deed("ask", self.path, **{trace_id: known}) as told:
                trace = self.store.open_trace(trace_id)
                barrier = trace.raise_barrier("ask")
                told[trace_id] = known._replace(version=trace.version, barriers=(barrier,))
            return
        decided = known._replace(state={**known.state, "ask.approved": True}, barriers=())
        with self.diary.deed("decide", self.path, promised=True, **{trace_id: decided}) as told:
            trace = self.store.open_trace(trace_id)
            trace.decide(known.barriers[0], es.Approve())
            told[trace_id] = decided._replace(version=trace.version)

    def checkpoint(self, trace_id):
        with self.diary.deed("checkpoint", self.path):
            self.store.open_trace(trace_id).checkpoint("work")

    def prune(self, trace_id):
        with self.diary.deed("prune", self.path):
            self.store.checkpoints.prune(trace_id, self.rng.randrange(2))

    def fork(self, trace_id):
        known, new_id = self.known[trace_id], self.diary.name("f")
        forked = Known(0, {**known.state, "a": new_id})
        self.diary.parents[new_id] = trace_id
        with self.diary.deed("fork", self.path, **{new_id: forked}) as told:
            told[new_id] = forked._replace(version=self.store.fork(trace_id, put={"a": new_id}, id=new_id).version)

    def trim(self, trace_id):
        known = self.known[trace_id]
        with self.diary.deed("trim", self.path, promised=True, **{trace_id: known}):
            self.store.trim(trace_id, known.version, retry_window_s=0)

    def erase(self, trace_id):
        family = self.family(trace_id)
        gone = {member: Known(erased=True) for member in family}
        with self.diary.deed("erase", self.path, promised=True, whole=len(family) == 1, **gone):
            self.store.erase(trace_id, cascade=True)

    def family(self, trace_id):
        """A trace and all that share its history."""
        forks = self.diary.parents.items()
        children = [child for child, parent in forks if parent == trace_id and child in self.known]
        return [trace_id, *(member for child in children for member in self.family(child))]

    def drop_bases(self):
        with self.diary.deed("drop bases", self.path):
            self.store.drop_bases()

    def retain(self):
        """A retention plan, applied: few checkpoints, no bases."""
        with self.diary.deed("retention", self.path, promised=True, whole=False):
            self.store.apply(self.store.plan_retention(keep_checkpoints=1, drop_bases=True))

    def run(self):
        trace_id = self.diary.name("r")
        state = {"n": 1, "one": 2, "two": 3, "log": ["x"]}
        intended = Known(INTENDED_AT, {"n": 1, "log": [], "one": 2})

        def note_intent():
            with self.diary.deed("intent", self.path, promised=True, **{trace_id: intended}):
                pass

        try:
            with self.diary.deed("run", self.path, whole=False, **{trace_id: Known(0, state)}) as told:
                assert es.run(graph(note_intent), self.store, {"n": 1, "log": []}, id=trace_id).status == "completed"
                told[trace_id] = Known(self.store.open_trace(trace_id).version, state)
        finally:
            self.known.pop(trace_id, None)  # it has ended: no other deed can follow

    def look(self, trace_id):
        """Reads: nothing is told that was not told before."""
        with self.diary.deed("look", self.path):
            known = self.known[trace_id]
            assert self.store.state_at(trace_id, known.version) == known.state

    def reopen(self):
        with self.diary.deed("reopen", self.path):
            self.close()
            self.open()

    def empty_wal(self):
        """What a checkpoint does with the write-ahead log."""
        how = self.rng.choice(("PASSIVE", "FULL", "RESTART", "TRUNCATE"))
        store = self.store
        with self.diary.deed("empty the WAL", self.path):
            store._writer.quiet(lambda: store._database.writer.execute(f"PRAGMA wal_checkpoint({how})").fetchall())


def checkpoint_every(store, pages):
    """Have the WAL moved into the file when it has grown to so many pages: sooner than usual."""
    store._database.checkpoint_pages = pages


def graph(touches=lambda: None):
    """Two nodes, the second of which touches the world outside."""
    made = es.Graph("two")
    made.node(lambda ctx: {"one": ctx.state["n"] + 1}, name="one")

    def two(ctx):
        touches()
        ctx.append("log", "x")
        return {"two": ctx.state["one"] + 1}

    made.node(two, name="two", side_effects=True)
    return made.edge("one", "two").start("one").end("two")


USUAL = (Worker.append, Worker.append, Worker.append, Worker.step, Worker.step, Worker.note, Worker.ask, Worker.ask)
SELDOM = (Worker.start, Worker.fork, Worker.checkpoint, Worker.look, Worker.run, Worker.reopen, Worker.empty_wal)
REMOVING = (Worker.prune, Worker.trim, Worker.erase, Worker.drop_bases, Worker.retain)
DEEDS = (*USUAL, *USUAL, *SELDOM, *REMOVING)
ALONE = {Worker.start, Worker.run, Worker.reopen, Worker.empty_wal, Worker.drop_bases, Worker.retain}
