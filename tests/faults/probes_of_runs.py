"""Probes of runs: a node's function sees the log at the instant at which it acts, or kills its process there."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import apsw
import tenacity

import eventstore as es

from .disk import put_back, recording
from .laws import Reading, expect
from .probes import equal, probe, refuses, sound


class Died(BaseException):
    """The process is gone: an exception that no node's failure is."""


def linear(name, *functions, **how):
    """A graph of nodes in a row."""
    graph = es.Graph(name, **how)
    names = [function.__name__ for function in functions]
    for function in functions:
        graph.node(**getattr(function, "how", {}))(function)
    for source, target in pairwise(names):
        graph.edge(source, target)
    return graph.start(names[0]).end(names[-1])


def acting(**how):
    """Marks a node with side effects."""

    def mark(function):
        function.how = {"side_effects": True, **how}
        return function

    return mark


def dies(run, *args, **keywords):
    """The run's process dies where it says so."""
    try:
        run(*args, **keywords)
    except Died:
        return
    expect(False, "the process lived on")


def opened(folder, **how):
    """The store of a run."""
    return es.open(folder / "runs.db", durability="normal", **how)


@probe
def an_intent_comes_before_its_effect(folder):
    """Of the first node, of one that follows, of another attempt, of branches; and on disk, under NORMAL too."""
    path = str(folder / "runs.db")
    seen = []

    def look(ctx):
        image = put_back(disk.image(path), folder / f"cut-{len(seen)}.db")
        seen.append(ctx.path)
        for what, reading in (("the log", store.path), ("the disk", image)):
            try:
                with es.open(reading, durability="normal") as other:
                    known = Reading.of(other, "t1").intents
            except es.TraceNotFound:
                known = {}
            expect(known[ctx.idempotency_key] if known else 0, f"an effect without an intent in {what}:", ctx.path)

    def work(ctx):
        look(ctx)
        if ctx.node == "third" and ctx.attempt == 1:
            raise ConnectionError

    graph = es.Graph("effects")
    patient = tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())
    for name in ("first", "second", "a", "b"):
        graph.node(name=name, side_effects=True)(work)
    graph.node(name="third", side_effects=True, retry=patient)(work)
    graph.parallel("both", "a", "b")
    graph.edge("first", "second").edge("second", "third").edge("third", "both").start("first").end("both")
    with recording() as disk, opened(folder) as store:
        try:
            es.run(graph, store, id="t1")
        except es.RunFailed as failed:
            expect(False, str(failed))
    expect(len(seen) == 6, "not every node ran:", seen)


@probe
def an_effect_is_never_doubled_silently(folder):
    """The process died inside a node with side effects: a human is asked, and nothing runs meanwhile."""
    effects = []

    @acting(in_doubt="ask")
    def pay(ctx):
        effects.append(ctx.idempotency_key)
        if len(effects) == 1:
            raise Died

    with opened(folder) as store:
        dies(es.run, linear("pay", pay), store, id="t1")
    with opened(folder) as store:
        result = es.resume(linear("pay", pay), store, "t1")
        expect(len(effects) == 1, "an effect was doubled silently")
        expect(result.status == "waiting", "nobody was asked:", result.status)


@probe
def a_key_is_of_its_visit(folder):
    """The same for every attempt, another one for every visit."""
    keys = {}

    def pay(ctx):
        keys.setdefault(ctx.occurrence, set()).add(ctx.idempotency_key)
        if ctx.attempt < 3:
            raise ConnectionError
        return {"visits": ctx.occurrence}

    patient = tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())
    graph = es.Graph("loop")
    graph.node(name="pay", side_effects=True, retry=patient)(pay)
    graph.edge_if("pay", "pay", lambda state: state["visits"] < 2).start("pay").end("pay")
    with opened(folder) as store:
        es.run(graph, store, id="t1")
    counts = {visit: len(known) for visit, known in keys.items()}
    expect(counts == {1: 1, 2: 1}, "attempts of one visit have several keys:", counts)
    expect(keys[1].isdisjoint(keys[2]), "two visits have one key")


@probe
def branches_join_in_their_declared_order(folder):
    """However long each takes; a map's too, where each branch has its own item."""
    items = ["x", "y", "z"]

    def wait_for(*paths):
        until = time.monotonic() + 10
        while not {f"held/{path}" for path in paths} <= store.open_trace("t1").control.keys():
            expect(time.monotonic() < until, "a branch was not recorded before its siblings ended:", *paths)
            time.sleep(0.002)

    def slow(ctx):
        wait_for("both/fast")
        ctx.put("log", "slow")

    def fast(ctx):
        ctx.put("log", "fast")

    def each(ctx, item):
        if ctx.index == 0:
            wait_for("each/1", "each/2")
        ctx.put("log", f"{ctx.path.partition('/')[2]} {item}")

    graph = es.Graph("join", reducers={"log": "append"})
    graph.node(slow)
    graph.node(fast)
    graph.parallel("both", "slow", "fast")
    graph.map(each, over="items")
    graph.edge("both", "each").start("both").end("each")
    with opened(folder) as store:
        result = es.run(graph, store, {"items": items, "log": []}, id="t1")
        expected = ["slow", "fast", *(f"{index} {item}" for index, item in enumerate(items))]
        equal(result.state["log"], expected, "branches in another order, or of other items")
        equal(store.state_at("t1"), result.state, "the log says otherwise")


@probe
def a_run_goes_on_where_it_was(folder):
    """Nothing that was over runs again, a recorded way is not chosen again, a recorded value not made again."""
    calls, mood = [], {"way": "left"}

    def first(ctx):
        calls.append("first")

    def choose(ctx):
        calls.append("choose")

    def left(ctx):
        ctx.call("draw", lambda: calls.append("draw") or 7, durable=True)
        calls.append("left")
        if calls.count("left") == 1:
            raise Died

    def right(ctx):
        calls.append("right")

    def make():
        graph = es.Graph("ways")
        for function in (first, choose, left, right):
            graph.node(function)
        graph.edge("first", "choose")
        graph.edge_if("choose", "left", lambda state: mood["way"] == "left", name="left")
        return graph.edge("choose", "right").start("first").end("left").end("right")

    with opened(folder) as store:
        dies(es.run, make(), store, id="t1")
    mood["way"] = "right"
    with opened(folder) as store:
        es.resume(make(), store, "t1")
        expect(calls.count("first") == calls.count("choose") == 1, "a completed node ran again:", calls)
        expect("right" not in calls, "a route was evaluated again on resume:", calls)
        expect(calls.count("draw") == 1, "a recorded value was made again:", calls)
        sound(store)


@probe
def held_branches_do_not_run_again(folder):
    """A branch that is done stays so though its sibling died."""
    calls = []

    def done(ctx):
        calls.append("done")
        ctx.put("done", 1)

    def dying(ctx):
        calls.append("dying")
        if calls.count("dying") == 1:
            raise Died

    graph = es.Graph("pair")
    graph.node(done)
    graph.node(dying)
    graph.parallel("pair", "done", "dying", max_concurrency=1).start("pair").end("pair")
    with opened(folder) as store:
        dies(es.run, graph, store, id="t1")
    with opened(folder) as store:
        result = es.resume(graph, store, "t1")
        expect(calls.count("done") == 1, "a held branch ran again:", calls)
        equal(result.state, {"done": 1}, "a held branch is lost")


@probe
def attempts_are_counted_across_processes(folder):
    """A retry that another process makes is the next attempt, and comes when it is due."""
    attempts = []

    def flaky(ctx):
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError

    def make(wait_s):
        graph = es.Graph("flaky")
        rule = tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(wait_s))
        graph.node(name="flaky", retry=rule)(flaky)
        return graph.start("flaky").end("flaky")

    with opened(folder) as store:
        es.run(make(0.05), store, id="t0")
        expect(attempts == [1, 2, 3], "the attempts in one process:", attempts)
        attempts.clear()
        stop = threading.Event()
        stop.set()
        es.run(make(3600), store, id="t1", stop=stop)
        es.resume(make(3600), store, "t1", waits=False)
        es.resume(make(3600), store, "t1", waits=False)
        expect(attempts == [1], "a retry came before it was due, or as another attempt:", attempts)
    with opened(folder) as store:
        es.run(make(0.02), store, id="t2", stop=stop)
    attempts.clear()
    for _ in range(4):
        with opened(folder) as store:
            es.resume(make(0.02), store, "t2", waits=False)
        time.sleep(0.03)
    expect(attempts == [1, 2, 3], "the attempts in several processes:", attempts)


@probe
def a_fenced_owner_writes_nothing(folder):
    """Once another process has the lease, the old owner's result is refused."""

    def work(ctx):
        other = apsw.Connection(store.path)
        other.execute("UPDATE lease SET epoch = epoch + 1")
        other.close()
        return {"n": 1}

    def after(ctx):
        return {"n": 2}

    with opened(folder) as store:
        refuses(es.Fenced, lambda: es.run(linear("fenced", work, after), store, id="t1"), "a fenced owner wrote")
        equal(store.state_at("t1"), {}, "a fenced owner wrote")


@probe
def a_living_owner_keeps_its_run(folder):
    """Another store that resumes the same run meanwhile is refused."""
    results = []

    def work(ctx):
        with opened(folder) as other:
            try:
                es.resume(graph, other, "t1")
                results.append("taken over")
            except es.RunOwned:
                results.append("owned")
            except es.EventStoreError as error:
                results.append(str(error))

    graph = linear("owned", work)
    with opened(folder) as store:
        try:
            es.run(graph, store, id="t1")
        except es.Fenced:
            results.append("fenced")
    expect(results == ["owned"], "a living owner's run was taken:", results)


@probe
def a_cancelled_run_stops(folder):
    """At its next step."""
    calls = []

    def first(ctx):
        store.cancel("t1", by="ana")

    def second(ctx):
        calls.append("second")

    with opened(folder) as store:
        result = es.run(linear("cancel", first, second), store, id="t1")
        expect(not calls and result.status == "cancelled", "a cancelled run went on:", calls, result.status)


@probe
def another_graph_is_refused(folder):
    """A run goes on with the graph that it was recorded with."""

    def ask(ctx):
        return None

    def more(ctx):
        return None

    stop = threading.Event()
    stop.set()
    with opened(folder) as store:
        es.run(linear("graph", ask), store, id="t1", stop=stop)
        refuses(
            es.GraphHashMismatch, lambda: es.resume(linear("graph", ask, more), store, "t1"), "another graph is refused"
        )


@probe
def an_early_decision_counts(folder):
    """One that came before its barrier decides it, once; the next visit asks again."""
    graph = es.Graph("ask").barrier("ask")
    graph.node(name="again")(lambda ctx: {"round": ctx.occurrence})
    graph.edge("ask", "again").edge_if("again", "ask", lambda state: state["round"] < 2).start("ask").end("again")
    stop = threading.Event()
    stop.set()
    with opened(folder) as store:
        es.run(graph, store, id="t1", stop=stop)
        store.decide("t1", "ask#1", es.Reject("early"))
        refuses(es.BarrierError, lambda: store.decide("t1", "ask#1", es.Approve()), "an early decision stands")
        result = es.resume(graph, store, "t1")
        equal(result.pending_barriers, ["ask#2"], "an early decision was lost, or counted twice")
        equal(result.state.get("ask.reject_reason"), "early", "another decision counted")


@probe
def a_fork_is_not_in_its_parents_doubt(folder):
    """A fork from the midst of a node with side effects has no intent of its own yet: it asks about the parent's."""
    effects = []

    @acting(in_doubt="retry")
    def pay(ctx):
        effects.append(ctx.idempotency_key)
        if len(effects) == 1:
            raise Died

    graph = linear("pay", pay)
    with opened(folder) as store:
        dies(es.run, graph, store, id="t1")
        fork = store.fork("t1", id="t2")
        keys = [key for key in fork.control if key.startswith("intent/")]
        expect(not keys, "a fork inherits an intent:", keys)
        result = es.resume(graph, store, "t2")
        expect(result.status == "waiting" and len(effects) == 1, "a fork repeated its parent's effect:", result.status)
