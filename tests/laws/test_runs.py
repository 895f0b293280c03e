"""A run that is interrupted anywhere, any number of times, ends as one that never was.

Graphs are drawn at random, and so are the places where the process "dies": before a commit, after it, or inside
a node once its effect has happened. After each death another store goes on. At the end the state is that of the
uninterrupted run, no visit was completed twice, and an effect that happened twice had been declared in doubt.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventstore as es
from eventstore.trace import Trace

REDUCERS = {"n": "sum", "log": "append", "seen": lambda old, new: sorted({*(old or []), new})}
STAGES = st.lists(
    st.sampled_from(["plain", "effect", "asked", "parallel", "effects", "map", "barrier", "standing", "recorded"]),
    min_size=1,
    max_size=5,
)


class Died(BaseException):
    """The process is gone."""


class World:
    """What happens outside: effects by idempotency key, and when to die."""

    def __init__(self, deaths):
        self.deaths = sorted(deaths, reverse=True)
        self.clock = 0
        self.effects = Counter()

    def moment(self):
        """One more place where the process may die."""
        self.clock += 1
        if self.deaths and self.clock >= self.deaths[-1]:
            self.deaths.pop()
            raise Died


def build(stages, loops, world):
    """A graph of the stages in a row, gone through `loops` times."""
    graph = es.Graph("law", reducers=REDUCERS)

    def plain(ctx):
        ctx.put("n", 1)
        ctx.put("log", f"{ctx.path}#{ctx.occurrence}")

    def effect(ctx):
        world.moment()
        world.effects[ctx.idempotency_key] += 1
        world.moment()
        ctx.put("n", 10)
        ctx.put("seen", ctx.path)

    def recorded(ctx):
        for number in range(2):
            ctx.put("log", ctx.call("ask", lambda number=number: world.moment() or number, durable=True))

    def each(ctx, item):
        ctx.put("n", item)
        ctx.put("seen", f"item {item}")

    names = []
    for index, kind in enumerate(stages):
        name = f"{kind}{index}"
        if kind in ("barrier", "standing"):
            graph.barrier(name)
        elif kind in ("parallel", "effects"):
            branches = [f"{name}_{letter}" for letter in "abc"]
            for letter, branch in zip("abc", branches, strict=True):
                if kind == "effects" and letter != "c":
                    graph.node(name=branch, side_effects=True, in_doubt="retry" if letter == "a" else "ask")(effect)
                else:
                    graph.node(name=branch)(plain)
            graph.parallel(name, *branches, max_concurrency=1)
        elif kind == "map":
            graph.map(each, over="items", name=name, max_concurrency=1)
        elif kind == "effect":
            graph.node(name=name, side_effects=True, in_doubt="retry")(effect)
        elif kind == "asked":
            graph.node(name=name, side_effects=True, in_doubt="ask")(effect)
        else:
            graph.node(name=name)(recorded if kind == "recorded" else plain)
        names.append(name)
    graph.node(name="last")(lambda ctx: ctx.put("rounds", ctx.occurrence))
    for source, target in zip(names, [*names[1:], "last"], strict=True):
        graph.edge(source, target)
    graph.edge_if("last", names[0], lambda state: state["rounds"] < loops)
    return graph.start(names[0]).end("last")


def finish(path, graph, stages, answer, deaths=None, policy=None):
    """Run to the end, through every death; the final state and the log."""
    original = Trace._commit

    def dying(trace, pending):
        if deaths is not None and pending.epoch is not None:
            deaths.moment()
        done = original(trace, pending)
        if deaths is not None and pending.epoch is not None:
            deaths.moment()
        return done

    Trace._commit = dying
    try:
        for _ in range(200):
            with es.open(path, fold_policy=policy, durability="normal") as store:
                try:
                    result = es.run(graph, store, {"items": [1, 2], "n": 0}, id="t1")
                    for index, kind in enumerate(stages):
                        if kind == "standing" and result.status == "waiting":
                            store.decide("t1", f"standing{index}#*", es.Approve(by="rule"))
                    for asked in store.barriers(trace_id="t1"):
                        store.decide("t1", asked.barrier_id, answer)
                except Died:
                    continue
                if result.status == "completed":
                    assert store.verify().ok
                    state, events = store.state_at("t1"), list(store.events("t1"))
                    store.drop_bases()
                    assert store.state_at("t1") == state
                    return state, events
        raise AssertionError("the run does not end")
    finally:
        Trace._commit = original


def marks_left_out(state):
    """The state without the marks of decisions, which an interrupted run may have more of."""
    return {key: value for key, value in state.items() if not key.endswith(".approved")}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    stages=STAGES,
    loops=st.integers(1, 2),
    deaths=st.lists(st.integers(1, 60), max_size=6, unique=True),
    fold_every=st.sampled_from([None, 1, 3]),
)
def test_an_interrupted_run_ends_as_one_that_never_was(stages, loops, deaths, fold_every):
    policy = None if fold_every is None else es.FoldEvery(fold_every)
    with tempfile.TemporaryDirectory() as folder:
        quiet, dying = World([]), World(deaths)
        expected, _ = finish(str(Path(folder, "a.db")), build(stages, loops, quiet), stages, es.Approve())
        state, events = finish(
            str(Path(folder, "b.db")), build(stages, loops, dying), stages, es.Approve(), dying, policy
        )
    assert marks_left_out(state) == marks_left_out(expected)
    assert quiet.effects.keys() == dying.effects.keys()
    done = Counter()
    for recorded in events:
        event = recorded.event
        if recorded.kind == "node_executed" and event.success:
            done[event.node] += 1
        elif recorded.kind == "branch_executed" and event.success:
            done[event.path] += 1
    assert set(done.values()) == {loops}
    intents = Counter(recorded.event.key for recorded in events if recorded.kind == "node_intended")
    paths = {recorded.event.key: recorded.event.path for recorded in events if recorded.kind == "node_intended"}
    doubts = Counter(recorded.event.node for recorded in events
                     if recorded.kind == "barrier_raised" and recorded.event.reason == "in_doubt")  # fmt: skip
    for key, times in dying.effects.items():
        assert times <= intents[key]  # each call had an intent of its own before it
        if paths[key].startswith("asked") or paths[key].endswith("_b"):
            assert times <= 1 + doubts[paths[key]]
