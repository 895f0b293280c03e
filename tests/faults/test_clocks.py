"""Clocks that jump: a trace's time never runs backwards, deadlines are kept by the clock, waits end."""

from __future__ import annotations

import threading
import time

import pytest
import tenacity

import eventstore as es

from .laws import Reading

HOUR_US = 3_600_000_000
SAFETY_S = 5
real_time_ns = time.time_ns


@pytest.fixture
def clock(monkeypatch):
    """`clock(us)`: from now on this process's clock is that much off."""
    off = [0]
    monkeypatch.setattr(time, "time_ns", lambda: real_time_ns() + off[0] * 1000)

    def set_off(us):
        off[0] = us

    return set_off


def walk(clock, steps):
    """A graph whose nodes move the clock, each by one of the steps."""
    graph = es.Graph("walk", reducers={"log": "append"})

    def node(number, us):
        @graph.node(name=f"n{number}", side_effects=number % 2 == 1)
        def move(ctx):
            clock(us)
            return {"log": [number]}

    for number, us in enumerate(steps):
        node(number, us)
        if number:
            graph.edge(f"n{number - 1}", f"n{number}")
    return graph.start("n0").end(f"n{len(steps) - 1}").build()


@pytest.mark.parametrize("steps", [(HOUR_US, 0, -HOUR_US), (-HOUR_US, HOUR_US, -HOUR_US, 0), (1, 0, -1, -2)])
def test_time_never_runs_backwards_within_a_trace(path, clock, steps):
    with es.open(path) as store:
        result = es.run(walk(clock, steps), store, {"log": []}, id="t1")
        assert result.state == {"log": list(range(len(steps)))}
        times = Reading.of(store, "t1").times
        assert times == sorted(times)
        assert store.verify().ok


def within(seconds, give_up, work):
    """What `work` gives; told to give up after so long: a safety net, not a measurement."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    ended = bool(found)
    give_up()
    thread.join(seconds)
    assert ended, "it does not end"
    return found[0]


def patient(clock, us, kind):
    """A graph whose node (or branch) fails once; while its backoff runs, the clock jumps."""
    graph = es.Graph("patient")

    def jump_soon(retry_state):
        threading.Timer(0.05, clock, (us,)).start()
        return 0.15

    def fail_once(ctx):
        if ctx.attempt == 1:
            raise ConnectionError
        return {"attempt": ctx.attempt}

    async def fail_once_in_a_task(ctx):
        return fail_once(ctx)

    retry = tenacity.Retrying(stop=tenacity.stop_after_attempt(3), wait=jump_soon)
    function = fail_once_in_a_task if kind == "async node" else fail_once
    graph.node(name="flaky", retry=retry)(function)
    if kind == "branch":
        graph.parallel("both", "flaky")
        return graph.start("both").end("both").build()
    return graph.start("flaky").end("flaky").build()


@pytest.mark.parametrize(
    ("kind", "us"),
    [
        ("node", HOUR_US),
        ("node", -HOUR_US),
        ("async node", HOUR_US),
        ("async node", -HOUR_US),
        ("branch", HOUR_US),
        ("branch", -HOUR_US),
    ],
)
def test_a_backoff_ends_though_the_clock_jumps_while_it_runs(path, clock, us, kind):
    stop = threading.Event()
    graph = patient(clock, us, kind)
    with es.open(path) as store:
        result = within(SAFETY_S, stop.set, lambda: es.run(graph, store, id="t1", stop=stop))
        assert (result.status, result.state) == ("completed", {"attempt": 2})


def deadline_graph(timeout_s):
    graph = es.Graph("deadline")
    graph.barrier("ask", timeout_s=timeout_s, on_timeout=es.Reject("too late"))
    return graph.start("ask").end("ask").build()


def test_a_deadline_that_a_jump_has_passed_is_past(path, clock):
    graph = deadline_graph(60)
    with es.open(path) as store:
        es.run(graph, store, id="t1")
        clock(HOUR_US)
        with pytest.raises(es.BarrierExpired):
            store.decide("t1", "ask", es.Approve())
        clock(0)
        assert es.resume(graph, store, "t1").state["ask.approved"] is False
        with pytest.raises(es.EventStoreError):
            store.decide("t1", "ask#1", es.Approve())


def test_before_its_deadline_by_the_clock_a_barrier_can_be_decided(path, clock):
    graph = deadline_graph(60)
    with es.open(path) as store:
        es.run(graph, store, id="t1")
        clock(-HOUR_US)
        store.decide("t1", "ask", es.Approve())
        assert es.resume(graph, store, "t1").state["ask.approved"] is True
        times = Reading.of(store, "t1").times
        assert times == sorted(times)


def test_looking_at_an_expired_run_applies_the_default_once(path, clock):
    graph = deadline_graph(60)
    with es.open(path) as store:
        es.run(graph, store, id="t1")
        clock(HOUR_US)
        results = []
        threads = [threading.Thread(target=lambda: results.append(resume(graph, store))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 8
        (decision,) = decisions(store)
        assert decision.event.decision == es.Reject("too late")
        assert store.verify().ok


def resume(graph, store):
    try:
        return es.resume(graph, store, "t1").status
    except es.RunOwned as owned:
        return type(owned).__name__


def decisions(store, trace_id="t1"):
    return [recorded for recorded in store.events(trace_id) if recorded.kind == "barrier_decided"]


@pytest.mark.parametrize("shared", [True, False], ids=["one handle", "a handle each"])
def test_at_the_very_deadline_one_decision_stands_and_no_caller_is_told_wrong(path, long, shared):
    rounds = 200 if long else 15
    with es.open(path, durability="normal") as store:
        for number in range(rounds):
            decide_around_a_deadline(store, f"t{number}", 0.004 + 0.001 * (number % 8), shared)
        assert store.verify().ok


def decide_around_a_deadline(store, trace_id, timeout_s, shared):
    handle = store.start({}, id=trace_id)
    deadline_us = int((time.time() + timeout_s) * 1e6)
    handle.raise_barrier("ask", deadline_us=deadline_us, default=es.Reject("too late"))
    outcomes = {}

    def decide(who):
        trace = handle if shared else store.open_trace(trace_id)
        while time.time_ns() // 1000 < deadline_us - 2000 + 500 * who:
            time.sleep(0)
        try:
            trace.decide("ask", es.Approve(by=str(who)))
            outcomes[who] = "approved"
        except es.BarrierError as error:
            outcomes[who] = type(error).__name__

    threads = [threading.Thread(target=decide, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (stands,) = decisions(store, trace_id)
    approved = [who for who, outcome in outcomes.items() if outcome == "approved"]
    recorded_us = round(stands.at.timestamp() * 1e6)
    assert len(outcomes) == 8
    if approved:
        assert stands.event.decision == es.Approve(by=str(approved[0])) and len(approved) == 1
        assert recorded_us < deadline_us
    else:
        assert stands.event.decision == es.Reject("too late")
        assert recorded_us >= deadline_us
        assert "BarrierExpired" in outcomes.values()
