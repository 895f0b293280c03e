"""A retention plan: what it shows, what blocks it, and that applying it takes no more than was shown."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventstore as es
from eventstore import log, retention
from eventstore.database import schema_scripts
from eventstore.retention_apply import RetentionReport, apply_plan
from eventstore.retention_plan import RetentionPlan, plan_retention

TRIM = {"trim": True, "retry_window_s": 0}


def only(plan):
    """The one trace of a plan."""
    (entry,) = plan.traces
    return entry


def named(plan):
    """Which traces a plan acts on, and how it would."""
    return [(entry.trace_id, "erase" if entry.erase else entry.trim_to) for entry in plan.traces if entry.acts]


def told(blockers):
    return [(blocker.action, blocker.kind, str(blocker)) for blocker in blockers]


def readable(store, trace_id):
    """Every state that can be read of a trace, by seq, as text that tells 1 from 1.0."""
    first = max(store._reader.root_seq(store._reader.find(trace_id)[0]), 1)
    last = store.open_trace(trace_id).version
    return {seq: json.dumps(store.state_at(trace_id, seq)) for seq in range(first, last + 1)}


def readable_all(store):
    return {info.trace_id: readable(store, info.trace_id) for info in store.traces(limit=1000)}


@pytest.fixture
def clock(monkeypatch):
    """`clock(days)`: from now on it is so many days ago."""
    now = time.time_ns

    def turn(days):
        monkeypatch.setattr(time, "time_ns", lambda: now() - int(days * 86_400) * 10**9)

    return turn


# What is asked for


def test_a_plan_asks_for_something(store, trace):
    for nothing in ({}, {"name": "chat"}, {"trace_ids": ["t1"]}):
        with pytest.raises(ValueError, match="keep_checkpoints, drop_bases, trim and erase"):
            plan_retention(store, **nothing)
    with pytest.raises(ValueError, match="0 or more, not -1"):
        plan_retention(store, keep_checkpoints=-1)
    with pytest.raises(ValueError, match="not 'done'"):
        plan_retention(store, erase=True, status=["failed", "done"])


@pytest.mark.parametrize("window", [float("inf"), float("nan"), -1.0])
def test_a_retry_window_is_a_length_of_time(store, trace, window):
    for act in (
        lambda: plan_retention(store, trim=True, retry_window_s=window),
        lambda: store.trim("t1", 1, retry_window_s=window),
        lambda: apply_plan(store, RetentionPlan(es.event.utc(0), 0, trim=True, retry_window_s=window)),
    ):
        with pytest.raises(ValueError, match="retry_window_s is a finite number of 0 or more, not"):
            act()


def test_text_that_no_file_can_hold_is_refused_at_the_door(store, trace):
    for act in (
        lambda: plan_retention(store, trim=True, name="\udcff"),
        lambda: plan_retention(store, trim=True, status="\udcff"),
        lambda: plan_retention(store, trim=True, status=["running", "\udcff"]),
        lambda: store.erase("t1", by="\udcff"),
        lambda: store.apply(store.plan_retention(erase=True), by="\udcff"),
    ):
        with pytest.raises(es.ValueRefused, match="lone surrogate"):
            act()
    assert len(store.traces()) == 1


def test_a_plan_of_an_unknown_trace_says_so(store, trace):
    with pytest.raises(es.TraceNotFound):
        plan_retention(store, trace_ids=["t1", "absent"], erase=True)
    store.erase("t1")
    with pytest.raises(es.TraceErased):
        plan_retention(store, trace_ids=["t1"], erase=True)


def test_traces_are_chosen_by_id_name_status_and_age(store, clock):
    def make(id, name, end):
        trace = store.start({"n": 1}, id=id, name=name)
        if end:
            trace.end(end)

    clock(40)
    make("old", "chat", "completed")
    make("old-failed", "chat", "failed")
    clock(10)
    make("new", "chat", "completed")
    make("other", "mail", "completed")
    make("open", "chat", None)
    clock(0)

    def chosen(**how):
        plan = plan_retention(store, erase=True, **how)
        assert plan.examined == len(plan.traces)
        return {entry.trace_id for entry in plan.traces}

    everything = {"old", "old-failed", "new", "other", "open"}
    assert chosen() == everything
    assert chosen(name="mail") == {"other"}
    assert chosen(status="completed") == {"old", "new", "other"}
    assert chosen(status=("failed", "running")) == {"old-failed", "open"}
    assert chosen(older_than=timedelta(days=30)) == {"old", "old-failed"}
    assert chosen(older_than=timedelta(days=5)) == everything
    assert chosen(name="chat", status="completed", older_than=timedelta(days=30)) == {"old"}
    assert chosen(trace_ids=["new", "old", "new"], older_than=timedelta(days=30)) == {"old"}
    assert chosen(trace_ids=["new", "open"], name="chat", status="running") == {"open"}
    assert chosen(trace_ids=[]) == set()


def test_traces_of_many_pages_are_all_looked_at_and_only_what_matters_is_kept(store):
    for number in range(600):
        store.start(id=f"t{number}", name="kept" if number % 100 else "pruned")
    plan = plan_retention(store, keep_checkpoints=1)
    assert (plan.examined, plan.traces, plan.acts) == (600, [], False)
    plan = plan_retention(store, name="pruned", erase=True)
    assert [entry.trace_id for entry in plan.traces] == [f"t{number}" for number in range(500, -1, -100)]
    report = apply_plan(store, plan)
    assert len(store.traces(limit=1000)) == 594 and all(removal.erased for removal in report.traces)


def test_plan_and_report_come_back_from_their_json(store, record):
    record(store, 10).checkpoint()
    store.fork("t1", at=9, id="t2")
    plan = plan_retention(store, keep_checkpoints=0, **TRIM)
    assert RetentionPlan.from_json(plan.to_json()) == plan and plan.traces[1].blockers
    report = apply_plan(store, RetentionPlan.from_json(plan.to_json()))
    assert RetentionReport.from_json(report.to_json()) == report


# Trimming


def test_history_is_trimmed_to_the_head_where_nothing_forbids(store, record):
    trace = record(store, 10)
    state = trace.state
    entry = only(plan_retention(store, **TRIM))
    assert (entry.trim_to, entry.rows, entry.events, entry.blockers) == (41, 11, 41, [])
    removal = only(apply_plan(store, plan_retention(store, **TRIM)))
    assert (removal.trimmed_to, removal.rows, removal.events, removal.log_bytes) == (41, 11, 41, entry.log_bytes)
    assert store.state_at("t1") == state and store.verify().ok
    assert (plan_retention(store, **TRIM).traces, plan_retention(store, **TRIM).examined) == ([], 1)


def test_a_fork_ends_the_trim_where_it_begins(store, record):
    record(store, 10)
    store.fork("t1", at=21, id="t3")
    store.fork("t1", at=9, id="t2")
    plan = plan_retention(store, trace_ids=["t1"], **TRIM)
    assert only(plan).trim_to == 9
    assert told(only(plan).blockers) == [("trim", "fork", "fork t2 at seq 9 and 1 more")]
    assert only(plan).blockers[0].limit_seq == 9
    before = readable_all(store)
    assert only(apply_plan(store, plan)).trimmed_to == 9
    after = readable_all(store)
    assert after["t1"] == {seq: state for seq, state in before["t1"].items() if seq >= 9}
    assert min(after["t2"]) == 9 and all(before["t2"][seq] == state for seq, state in after["t2"].items())
    assert store.verify().ok


def test_kept_checkpoints_end_the_trim_and_those_that_go_do_not(store, record):
    trace = record(store, 2)
    kept = []
    for _ in range(4):
        with trace.step("more") as step:
            step.put("n", 1)
        kept.append(trace.checkpoint())
    record_end = trace.version
    with trace.step("more") as step:
        step.put("n", 1)
    entry = only(plan_retention(store, **TRIM))
    assert entry.trim_to == kept[0].seq
    assert told(entry.blockers) == [
        ("trim", "checkpoint", f"checkpoint {kept[0].checkpoint_id} at seq {kept[0].seq} and 3 more")
    ]
    plan = plan_retention(store, keep_checkpoints=2, **TRIM)
    entry = only(plan)
    assert (entry.checkpoints, entry.oldest_kept_seq, entry.trim_to) == (2, kept[2].seq, kept[2].seq)
    assert entry.checkpoints_upto == (kept[1].seq, str(kept[1].checkpoint_id))
    assert told(entry.blockers) == [
        ("trim", "checkpoint", f"checkpoint {kept[2].checkpoint_id} at seq {kept[2].seq} and 1 more")
    ]
    states = [checkpoint.state for checkpoint in kept[2:]]
    removal = only(apply_plan(store, plan))
    assert (removal.checkpoints, removal.trimmed_to) == (2, kept[2].seq)
    left = store.checkpoints.list("t1")[::-1]
    assert [checkpoint.checkpoint_id for checkpoint in left] == [checkpoint.checkpoint_id for checkpoint in kept[2:]]
    assert [checkpoint.state for checkpoint in left] == states and left[-1].seq == record_end
    assert only(plan_retention(store, keep_checkpoints=0)).oldest_kept_seq is None
    assert only(apply_plan(store, plan_retention(store, keep_checkpoints=0))).checkpoints == 2


def test_a_checkpoint_that_a_fork_inherits_pins_its_parent_until_it_goes(store, record):
    record(store, 10)
    store.fork("t1", at=21, id="t2")
    inherited = es.Checkpoint.new("t2", "", None, store.state_at("t2", 9))
    inherited.seq = 9
    kept = store.checkpoints.save(inherited)
    plan = plan_retention(store, trace_ids=["t1"], **TRIM)
    assert only(plan).trim_to == 9
    assert told(only(plan).blockers) == [
        ("trim", "fork", "fork t2 at seq 21"),
        ("trim", "checkpoint", f"checkpoint {kept.checkpoint_id} of fork t2 at seq 9"),
    ]
    plan = plan_retention(store, keep_checkpoints=0, **TRIM)
    assert named(plan) == [("t2", 22), ("t1", 21)]
    report = apply_plan(store, plan)
    assert [removal.trimmed_to for removal in report.traces] == [22, 21] and store.verify().ok


def test_a_pending_barrier_ends_the_trim_before_it_was_raised(store, record):
    trace = record(store, 3)
    trace.raise_barrier("ask")
    raised = trace.version
    with trace.step("more") as step:
        step.put("n", 1)
    plan = plan_retention(store, keep_checkpoints=0, **TRIM)
    assert only(plan).trim_to == 13
    assert told(only(plan).blockers) == [("trim", "barrier", f"barrier ask#1 raised at seq {raised}")]
    apply_plan(store, plan)
    trace.decide("ask", es.Approve())
    assert store.verify().ok
    assert only(plan_retention(store, keep_checkpoints=0, **TRIM)).trim_to == trace.version


def test_a_barrier_that_was_open_at_the_trim_point_moves_it_before_its_question(store, record):
    trace = record(store, 3)
    trace.raise_barrier("ask")
    raised = trace.version
    with trace.step("more") as step:
        step.put("n", 1)
    store.fork("t1", at=trace.version, id="t2")
    pinned = trace.version
    trace.decide("ask", es.Approve())
    plan = plan_retention(store, trace_ids=["t1"], keep_checkpoints=0, **TRIM)
    assert only(plan).trim_to == 13
    assert told(only(plan).blockers) == [
        ("trim", "fork", f"fork t2 at seq {pinned}"),
        ("trim", "barrier", f"barrier ask#1 raised at seq {raised}"),
    ]
    apply_plan(store, plan)
    assert store.verify().ok


class Killed(BaseException):
    """Ends a run as a kill would."""


def gathering(store, id, *, before=0, fails=False):
    """A graph of `before` plain steps and a parallel one, of which a branch is done when the run is killed."""
    graph = es.Graph("gathering")

    @graph.node
    def count(ctx):
        ctx.put("n", ctx.state["n"] + 1)

    @graph.node
    def quick(ctx):
        ctx.put("quick", 1)

    @graph.node
    def slow(ctx):
        time.sleep(0.1)
        if not done:
            raise ValueError("no") if fails else Killed
        ctx.put("slow", 1)

    @graph.node
    def last(ctx):
        ctx.put("last", 1)

    def again(state):
        return state["n"] < before

    graph.start("count").edge_if("count", "count", again).edge("count", "gather").parallel(
        "gather", "quick", "slow"
    ).edge("gather", "last")
    graph.end("last")
    done = []
    with contextlib.suppress(Killed, es.RunFailed):
        es.run(graph, store, {"n": 0}, id=id)
    done.append(1)
    return graph, store.open_trace(id)


def last_clear(store, trace_id, upto):
    """The last step boundary at or before `upto` where no branch has begun, folded one by one."""
    return max(
        seq
        for seq in range(1, upto + 1)
        if store._reader.boundary_before(store._reader.find(trace_id)[0], seq) == seq
        and not any(
            key.startswith(("held/", "failed/")) or (key.startswith("intent/") and key.count("/") == 2)
            for key in store._reader.restore(trace_id, seq)[2].control
        )
    )


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("before", [1, 200])
def test_an_open_parallel_step_ends_the_trim_before_it_began(store, before, fails):
    graph, trace = gathering(store, "t1", before=before, fails=fails)
    assert any(key.startswith("held/gather/") for key in trace.control)
    limit = last_clear(store, "t1", trace.version)
    entry = only(plan_retention(store, **TRIM))
    assert entry.trim_to == limit < trace.version
    assert told(entry.blockers) == [("trim", "parallel", f"parallel step gather is open since seq {limit + 1}")]
    with pytest.raises(es.RetentionBlocked, match="parallel step gather is open"):
        store.trim("t1", trace.version, retry_window_s=0)
    (removal,) = apply_plan(store, plan_retention(store, **TRIM)).traces
    assert removal.trimmed_to == limit and removal.skipped == []
    assert plan_retention(store, **TRIM).traces[0].trim_to is None
    result = es.resume(graph, store, "t1")
    assert result.status == "completed" and (result.state["quick"], result.state["slow"]) == (1, 1)
    head = store.open_trace("t1").version
    assert only(plan_retention(store, keep_checkpoints=0, **TRIM)).trim_to == head
    assert store.verify().ok


def test_history_of_a_run_that_is_over_is_not_cut_within_a_parallel_step(store):
    graph, trace = gathering(store, "t1", before=3)
    held = trace.version
    limit = last_clear(store, "t1", held)
    assert es.resume(graph, store, "t1").status == "completed"
    store.checkpoints.prune("t1", 0)
    with pytest.raises(es.RetentionBlocked, match="parallel step gather is open"):
        store.trim("t1", held, retry_window_s=0)
    store.fork("t1", at=held, id="t2")
    parent = plan_retention(store, trace_ids=["t1"], **TRIM).traces[0]
    assert parent.trim_to == limit and [blocker.kind for blocker in parent.blockers] == ["fork", "parallel"]


def test_a_parallel_step_that_opened_since_is_not_cut(store):
    _, trace = gathering(store, "t1", before=2)
    plan = plan_retention(store, **TRIM)
    late = msgspec.structs.replace(plan, traces=[msgspec.structs.replace(only(plan), trim_to=trace.version)])
    (removal,) = apply_plan(store, late).traces
    assert removal.trimmed_to is None and [blocker.kind for blocker in removal.skipped] == ["parallel"]


def test_what_a_retry_may_need_stays(store, record, clock):
    clock(3)
    trace = record(store, 5)
    clock(0)
    assert only(plan_retention(store, trim=True)).trim_to == 21
    with trace.step("more") as step:
        step.put("n", 1)
    entry = only(plan_retention(store, trim=True))
    assert entry.trim_to == 21
    assert [(blocker.kind, blocker.limit_seq) for blocker in entry.blockers] == [("retry", 21)]
    assert str(entry.blockers[0]).startswith("a retry may still come for appends up to ")
    entry = only(plan_retention(store, trim=True, retry_window_s=5 * 86_400))
    assert (entry.trim_to, entry.acts, entry.blockers[0].kind) == (None, False, "retry")


def test_a_fork_is_trimmed_in_its_own_part_only(store, record):
    record(store, 10)
    before = readable(store, "t1")
    fork = store.fork("t1", at=21, id="t2")
    with fork.step("other") as step:
        step.put("n", 1)
    entry = only(plan_retention(store, trace_ids=["t2"], **TRIM))
    assert (entry.trim_to, entry.rows, entry.events) == (fork.version, 2, fork.version - 21)
    apply_plan(store, plan_retention(store, trace_ids=["t2"], **TRIM))
    assert readable(store, "t1") == before and store.state_at("t2") == fork.state and store.verify().ok


# Erasing, and bases


def test_forks_are_erased_before_what_they_were_forked_from(store, record):
    record(store, 5)
    store.fork("t1", at=9, id="t2")
    store.fork("t2", id="t3")
    plan = plan_retention(store, erase=True)
    assert named(plan) == [("t3", "erase"), ("t2", "erase"), ("t1", "erase")]
    report = apply_plan(store, plan, by="ana")
    assert [removal.trace_id for removal in report.traces] == ["t3", "t2", "t1"]
    assert report.traces[2].events == 21 and store.traces() == [] and store.verify().ok


def test_an_erasure_by_a_plan_says_who(store, trace, raw):
    apply_plan(store, plan_retention(store, erase=True), by="ana")
    assert raw.execute("SELECT trace_id, erased_by FROM tombstone").fetchall() == [("t1", "ana")]


def test_a_fork_outside_the_plan_blocks_an_erasure_and_the_rest_of_the_plan_goes_on(store, record):
    record(store, 5)
    store.fork("t1", at=9, id="t2", name="kept")
    store.fork("t1", at=13, id="t3")
    plan = plan_retention(store, name="chat", erase=True, **TRIM)
    assert named(plan) == [("t3", "erase"), ("t1", 9)]
    assert told(plan.traces[1].blockers) == [
        ("erase", "fork", "fork t2 at seq 9"),
        ("trim", "fork", "fork t2 at seq 9"),
    ]
    state = store.state_at("t2")
    apply_plan(store, plan)
    assert store.state_at("t2") == state and store.verify().ok
    assert {info.trace_id for info in store.traces()} == {"t1", "t2"}


def test_a_run_that_waits_is_not_erased_by_a_plan_and_holds_its_parent(store, record):
    record(store, 2)
    fork = store.fork("t1", id="t2")
    fork.raise_barrier("ask")
    plan = plan_retention(store, erase=True)
    assert named(plan) == []
    assert [told(entry.blockers) for entry in plan.traces] == [
        [("erase", "barrier", f"barrier ask#1 raised at seq {fork.version} is pending")],
        [("erase", "fork", "fork t2 at seq 9")],
    ]
    assert apply_plan(store, plan).traces == []
    store.erase("t2")
    assert [info.trace_id for info in store.traces()] == ["t1"]


def test_dropped_bases_are_counted_once_with_those_of_forks_that_stand_on_them(path, record, tiny_fold, raw):
    with es.open(path, fold_policy=tiny_fold) as store:
        record(store, 60)
        fork = store.fork("t1", id="t2")
        for number in range(60):
            with fork.step("other") as step:
                step.append("log", {"number": number, "text": "y" * 20})
        total, size = raw.execute("SELECT count(*), sum(octet_length(body)) FROM base").fetchone()
        assert {info.kind for info in store.bases("t2", after=fork.version - 120)} >= {"link"}
        states = readable_all(store)
        alone = plan_retention(store, trace_ids=["t1"], drop_bases=True)
        both = plan_retention(store, drop_bases=True)
        assert sum(entry.bases for entry in both.traces) == total
        assert sum(entry.base_bytes for entry in both.traces) == size
        assert only(apply_plan(store, alone)).bases == only(alone).bases
        assert raw.execute("SELECT count(*) FROM base").get == total - only(alone).bases
        apply_plan(store, plan_retention(store, drop_bases=True))
        assert raw.execute("SELECT count(*) FROM base").get == 0
        assert readable_all(store) == states and store.verify().ok


# Owners


RUN = """
import os, sys, time, eventstore as es
graph = es.Graph("steps")
@graph.node
def first(ctx): ctx.put("first", 1)
@graph.node
def second(ctx):
    print("inside", flush=True); time.sleep(60)
graph.edge("first", "second").start("first").end("second")
with es.open(sys.argv[1]) as store:
    es.run(graph, store, id="t1")
"""


@pytest.fixture
def child(path):
    """Another process, inside a node of run t1."""
    process = subprocess.Popen([sys.executable, "-c", RUN, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "inside\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_run_of_a_living_process_is_neither_trimmed_nor_erased(path, child):
    def plan():
        with es.open(path, read_only=True) as reading:
            return plan_retention(reading, erase=True, **TRIM)

    found = only(plan())
    assert not found.acts
    assert {(blocker.action, blocker.kind) for blocker in found.blockers} == {("erase", "owner"), ("trim", "owner")}
    assert all(str(blocker).startswith(f"owner {child.pid}@") for blocker in found.blockers)
    with es.open(path) as store:
        with pytest.raises(es.RetentionBlocked, match=f"owner {child.pid}@.* runs it"):
            store.erase("t1")
        child.kill()
        child.wait()
        assert named(plan()) == [("t1", "erase")]
        assert only(apply_plan(store, plan())).erased and store.verify().ok


def test_a_dead_owner_is_no_blocker_of_an_erasure(path, child):
    child.kill()
    child.wait()
    with es.open(path) as store:
        store.erase("t1")
        assert store.traces() == [] and store.verify().ok


@pytest.fixture
def runs_here(store):
    """A run of this process, t1, that is inside a node until the test ends."""
    inside, go_on = threading.Event(), threading.Event()
    graph = es.Graph("steps")

    @graph.node
    def work(ctx):
        inside.set()
        go_on.wait(20)

    graph.start("work").end("work")

    def start():
        runner = threading.Thread(target=es.run, args=(graph, store), kwargs={"id": "t1"})
        runner.start()
        assert inside.wait(10)
        runners.append(runner)

    runners = []
    yield start
    go_on.set()
    for runner in runners:
        runner.join(20)


def test_a_run_of_this_process_blocks_and_nothing_of_a_cascade_goes_before_it(path, store, runs_here):
    runs_here()
    store.fork("t1", id="t2")
    for looking in (store, es.open(path)):
        with pytest.raises(es.RetentionBlocked, match=f"owner {os.getpid()}@"):
            looking.erase("t1", cascade=True)
        assert {info.trace_id for info in looking.traces()} == {"t1", "t2"}
        plan = plan_retention(looking, trace_ids=["t1"], erase=True)
        assert [blocker.kind for blocker in only(plan).blockers] == ["owner", "fork"]
    looking.close()


def test_an_owner_whose_side_file_cannot_be_opened_counts_as_living(path, child, monkeypatch):
    with es.open(path) as store:
        child.kill()
        child.wait()

        def refused(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("eventstore.liveness.Roll.of", refused)
        assert [blocker.kind for blocker in only(plan_retention(store, erase=True)).blockers] == ["owner"]


# Between the showing and the doing


def skipped(report):
    (removal,) = report.traces
    assert (removal.erased, removal.trimmed_to, removal.rows) == (False, None, 0)
    return [(blocker.action, blocker.kind) for blocker in removal.skipped]


def test_a_fork_taken_since_is_not_lost(store, record):
    record(store, 10)
    erasing, trimming = plan_retention(store, erase=True), plan_retention(store, **TRIM)
    store.fork("t1", at=9, id="t2")
    before = readable_all(store)
    assert skipped(apply_plan(store, erasing)) == [("erase", "fork")]
    report = apply_plan(store, trimming)
    assert skipped(report) == [("trim", "fork")]
    assert str(report.traces[0].skipped[0]) == "fork t2 at seq 9"
    assert readable_all(store) == before


def test_a_barrier_raised_since_is_not_lost(store, record):
    trace = record(store, 10)
    erasing, trimming = plan_retention(store, erase=True), plan_retention(store, **TRIM)
    trace.raise_barrier("ask")
    assert skipped(apply_plan(store, erasing)) == [("erase", "barrier"), ("erase", "changed")]
    assert only(apply_plan(store, trimming)).trimmed_to == 41
    trace.decide("ask", es.Approve())
    assert store.verify().ok


def test_a_trace_that_went_on_since_is_not_erased(store, record):
    trace = record(store, 10)
    plan = plan_retention(store, erase=True)
    trace.note("seen")
    report = apply_plan(store, plan)
    assert skipped(report) == [("erase", "changed")]
    assert str(report.traces[0].skipped[0]) == "it went on to version 42, the plan saw 41"


def test_an_owner_that_starts_since_keeps_its_run(path, store, runs_here):
    class Crash(BaseException):
        """Ends the process's work at once."""

    graph = es.Graph("steps")

    @graph.node
    def work(ctx):
        raise Crash

    graph.start("work").end("work")
    with es.open(path) as first, pytest.raises(Crash):
        es.run(graph, first, id="t1")
    plan = plan_retention(store, trace_ids=["t1"], erase=True)
    assert named(plan) == [("t1", "erase")]
    runs_here()
    report = apply_plan(store, plan)
    assert ("erase", "owner") in skipped(report)


def test_checkpoints_made_since_stay_and_so_many_are_kept(store, record):
    trace = record(store, 3)

    def mark():
        with trace.step("more") as step:
            step.put("n", 1)
        return trace.checkpoint().checkpoint_id

    def left():
        return [checkpoint.checkpoint_id for checkpoint in store.checkpoints.list("t1")]

    ids = [mark() for _ in range(5)]
    plan = plan_retention(store, keep_checkpoints=2)
    ids.append(mark())
    assert only(apply_plan(store, plan)).checkpoints == 3 and left() == [ids[5], ids[4], ids[3]]
    plan = plan_retention(store, keep_checkpoints=1)
    store.checkpoints.delete(ids[5])
    assert only(apply_plan(store, plan)).checkpoints == 1 and left() == [ids[4]]


def test_what_went_since_is_told(store, record):
    record(store, 10)
    erasing, trimming = plan_retention(store, erase=True), plan_retention(store, **TRIM)
    store.trim("t1", 41, retry_window_s=0)
    assert skipped(apply_plan(store, trimming)) == []
    store.erase("t1")
    assert skipped(apply_plan(store, erasing)) == [("any", "gone")]
    with es.open(":memory:") as other:
        record(other, 1)
        assert skipped(apply_plan(other, trimming)) == [("any", "changed")]


# Damage


def damage(tamper, seq, trace_row=1):
    assert tamper("UPDATE log SET body = replace(body, 'xxx', 'xyx') WHERE trace = ? AND first_seq = ?", trace_row, seq)


def test_a_damaged_log_is_refused_and_not_made_the_truth(store, record, tamper):
    record(store, 10)
    damage(tamper, 10)
    with pytest.raises(es.LogCorrupted, match="damaged at seq 10: the row is not what was written"):
        store.trim("t1", 21, retry_window_s=0)
    assert len(list(store.events("t1"))) == 41
    assert [problem.seq for problem in store.verify().problems] == [10]
    assert store.trim("t1", 9, retry_window_s=0).rows == 3


@pytest.mark.parametrize(
    ("damage", "seq"),
    [
        ("DELETE FROM log WHERE first_seq = 10", 10),
        ("UPDATE log SET digest = zeroblob(16) WHERE first_seq = 18", 18),
        ("UPDATE log SET at_us = at_us + 1 WHERE first_seq = 1", 1),
        ("UPDATE log SET body = '[' WHERE first_seq = 14", 14),
    ],
)
def test_any_damage_behind_the_trim_is_found(store, record, tamper, damage, seq):
    record(store, 10)
    tamper(damage)
    with pytest.raises(es.LogCorrupted) as refused:
        store.trim("t1", 21, retry_window_s=0)
    assert (refused.value.trace_id, refused.value.seq) == ("t1", seq)


@pytest.mark.parametrize("column", ["digest = zeroblob(16)", "body = x'9280'", "checksum = 1"])
def test_a_damaged_root_is_found(store, record, tamper, column):
    record(store, 10)
    store.trim("t1", 21, retry_window_s=0)
    tamper(f"UPDATE root SET {column}")
    with pytest.raises(es.LogCorrupted):
        store.trim("t1", 41, retry_window_s=0)


def test_the_trim_of_a_fork_checks_what_it_shares(store, record, tamper):
    record(store, 10)
    fork = store.fork("t1", at=21, id="t2")
    damage(tamper, 10)
    with pytest.raises(es.LogCorrupted, match="damaged at seq 10"):
        store.trim("t2", fork.version, retry_window_s=0)


def test_a_damaged_trace_holds_up_no_other(store, record, tamper):
    for number in range(3):
        record(store, 5, id=f"t{number}").checkpoint()
    damage(tamper, 10, trace_row=2)
    report = apply_plan(store, plan_retention(store, keep_checkpoints=0, **TRIM))
    assert [(removal.trace_id, removal.trimmed_to) for removal in report.traces] == [
        ("t2", 21),
        ("t1", None),
        ("t0", 21),
    ]
    (blocker,) = report.traces[1].skipped
    assert blocker.kind == "damaged" and "seq 10" in str(blocker)
    assert len(store.checkpoints.list("t1")) == 1


def test_a_trace_without_rows_does_not_take_the_plan_down(store, record, tamper):
    for id in ("t1", "t2"):
        record(store, 1, id=id)
    tamper("DELETE FROM log WHERE trace = 1")
    plan = plan_retention(store, erase=True)
    assert named(plan) == [("t2", "erase")]
    assert [blocker.kind for blocker in plan.traces[1].blockers] == ["damaged"]


# The file


def files(folder):
    """Every file but those in which SQLite itself keeps a reader's place."""
    return {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns)
        for file in folder.iterdir()
        if not file.name.endswith(("-shm", "-wal"))
    }


def test_a_dry_run_changes_no_byte_and_makes_no_file(path, tmp_path, record):
    with es.open(path) as store:
        record(store, 10).checkpoint()
        record(store, 10, id="t2")

    before = files(tmp_path)
    with es.open(path, read_only=True) as store:
        plan = plan_retention(store, keep_checkpoints=0, drop_bases=True, erase=True, **TRIM)
        assert len(named(plan)) == 2
        with pytest.raises(es.StorageError, match="read-only"):
            apply_plan(store, plan)
    assert files(tmp_path) == before


def test_a_dry_run_over_a_dead_owner_makes_no_file(path, tmp_path, child):
    child.kill()
    child.wait()
    with es.open(path):
        pass
    Path(f"{path}-owners").unlink()
    before = files(tmp_path)
    with es.open(path, read_only=True) as store:
        assert named(plan_retention(store, erase=True)) == [("t1", "erase")]
    assert files(tmp_path) == before


def test_the_file_shrinks_by_what_the_report_says(path, store):
    for number in range(20):
        trace = store.start({"text": ""}, id=f"t{number}")
        for _ in range(10):
            with trace.step("work") as step:
                step.put("text", os.urandom(2000).hex())
    apply_plan(store, plan_retention(store, drop_bases=True))
    size = Path(path).stat().st_size
    report = apply_plan(store, plan_retention(store, **TRIM))
    assert (report.before_bytes, report.after_bytes) == (size, Path(path).stat().st_size)
    assert report.freed_bytes == size - report.after_bytes > 20 * 9 * 4000 * 0.9
    assert report.is_finished and Path(f"{path}-wal").stat().st_size == 0
    report = apply_plan(store, plan_retention(store, erase=True))
    assert report.after_bytes == Path(path).stat().st_size < 200_000 and report.freed_bytes > 0


def test_one_removal_tells_the_files_sizes_too(path, store):
    trace = store.start({"text": ""}, id="t1")
    for _ in range(100):
        with trace.step("work") as step:
            step.put("text", os.urandom(2000).hex())
    with es.open(path) as other:  # all that stands in the write-ahead log alone counts as well
        other.start(id="t2")
    for act in (lambda: store.trim("t1", trace.version, retry_window_s=0), lambda: store.erase("t1")[0]):
        apply_plan(store, plan_retention(store, name="none", drop_bases=True))
        before = Path(path).stat().st_size
        removed = act()
        assert removed.freed_bytes == before - Path(path).stat().st_size > 0


def test_a_reader_that_keeps_the_write_ahead_log_is_told_and_the_next_plan_finishes(path, record):
    with es.open(path, busy_timeout_ms=50) as store, es.open(path) as reading:
        for number in range(5):
            record(store, 50, id=f"t{number}")
        apply_plan(store, plan_retention(store, name="none", drop_bases=True))
        size = Path(path).stat().st_size
        with reading._database.reader() as connection:
            connection.execute("SELECT count(*) FROM trace").fetchall()
            report = apply_plan(store, plan_retention(store, erase=True))
            assert all(removal.erased for removal in report.traces) and not report.is_finished
        plan = plan_retention(store, erase=True)
        assert plan.traces == []
        report = apply_plan(store, plan)
        assert report.is_finished and Path(path).stat().st_size < size


KILLED = """
import os, sys
import eventstore as es
from eventstore import retention
retention.give_back = lambda *_, **__: os.kill(os.getpid(), 9)
with es.open(sys.argv[1]) as store:
    store.erase("t1")
"""
WORD = "the-secret-4111"


def holding(folder):
    """The files that hold the word."""
    return [file.name for file in folder.iterdir() if WORD.encode() in file.read_bytes()]


@pytest.fixture
def small(path):
    """A file with a trace so small that nothing is left free when it goes, and others."""
    with es.open(path) as store:
        for number in range(3):
            store.start({"w": "x" * 50}, id=f"kept{number}").end()
        store.start({"w": WORD}, id="t1").end()


def finish_by_prune(store):
    plan = store.plan_retention(name="none", keep_checkpoints=9)
    assert plan.is_unfinished and plan.acts
    assert RetentionPlan.from_json(plan.to_json()) == plan
    assert store.apply(plan).is_finished


def finish_by_erasing(store):
    (removed,) = store.erase("kept0")
    assert removed.wal_truncated


FINISHED_BY = pytest.mark.parametrize("finish", [finish_by_prune, finish_by_erasing])


def assert_finished(store, folder):
    assert not holding(folder)
    plan = store.plan_retention(erase=True, name="none")
    assert not plan.is_unfinished and not plan.acts


@FINISHED_BY
def test_an_erasure_that_was_killed_before_the_rewrite_is_finished_by_the_next(path, tmp_path, small, finish):
    killed = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert killed.returncode == -signal.SIGKILL
    with es.open(path) as store:
        finish(store)
        assert store.verify().ok
        assert_finished(store, tmp_path)  # looks into the open file, which drops the locks on it


@FINISHED_BY
def test_an_erasure_that_found_the_file_locked_is_finished_by_the_next(path, tmp_path, small, finish, monkeypatch, raw):
    with es.open(path, busy_timeout_ms=50) as store:
        give_back = retention.give_back

        def locked(*arguments, **how):
            raw.execute("BEGIN IMMEDIATE")
            try:
                return give_back(*arguments, **how)
            finally:
                raw.execute("ROLLBACK")

        monkeypatch.setattr(retention, "give_back", locked)
        assert not store.apply(store.plan_retention(trace_ids=["t1"], erase=True)).is_finished
        monkeypatch.setattr(retention, "give_back", give_back)
        finish(store)
        assert_finished(store, tmp_path)


@FINISHED_BY
def test_an_erasure_under_a_reader_is_finished_by_the_next(path, tmp_path, small, finish):
    with es.open(path, busy_timeout_ms=50) as store, es.open(path, read_only=True) as reading:
        with reading._database.reader() as connection:
            connection.execute("SELECT count(*) FROM log").fetchall()
            (removed,) = store.erase("t1")
            assert not removed.wal_truncated and holding(tmp_path)
        finish(store)
        assert_finished(store, tmp_path)


def test_the_mark_of_an_erasure_by_another_process_stays(path, small, raw, monkeypatch):
    with es.open(path) as store:
        writer = store._database.writer

        class Between:
            """Erases from elsewhere between the rewrite and the end of the mark."""

            in_transaction = False

            def execute(self, sql, *parameters):
                if sql == retention.REWRITTEN:
                    raw.execute("BEGIN IMMEDIATE")
                    retention.erase_rows(raw, log.find_trace(raw, "kept1"), None)
                    raw.execute("COMMIT")
                return writer.execute(sql, *parameters)

        erase_row = log.find_trace(writer, "t1")
        store._writer.write(lambda connection: retention.erase_rows(connection, erase_row, None))
        with monkeypatch.context() as patched:
            patched.setattr(store._database, "_written", Between())
            assert retention.give_back(store, rewrite=True)
        assert store.plan_retention(name="none", drop_bases=True).is_unfinished


def test_what_is_deleted_by_an_erasure_is_overwritten_at_once(path, tmp_path, small):
    with es.open(path) as store:
        assert holding(tmp_path)
        store._writer.write(lambda connection: retention.erase_rows(
            connection, log.find_trace(connection, "t1"), None))  # fmt: skip
        assert store._database.writer.pragma("secure_delete") == 0
    assert not holding(tmp_path)


def test_an_erasure_by_an_older_version_counts_as_unfinished(path, raw, small):
    with es.open(path) as store:
        store.erase("t1")
    assert raw.execute("SELECT count(*) FROM rewrite_due").get == 0
    for statement in schema_scripts()[4].split(";"):
        if "INTO rewrite_due" in statement:
            raw.execute(statement)
    with es.open(path) as store:
        finish_by_prune(store)


PRUNE = """
import os, sys
import eventstore as es
from eventstore.retention_apply import apply_plan
from eventstore.retention_plan import plan_retention
left = int(sys.argv[2])
def on_trace(removal):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)
with es.open(sys.argv[1]) as store:
    plan = plan_retention(store, name="gone", erase=True)
    trim = plan_retention(store, name="chat", trim=True, retry_window_s=0)
    apply_plan(store, plan, on_trace)
    apply_plan(store, trim, on_trace)
"""


@pytest.mark.parametrize("kills_after", [1, 3, 5, 6, 9])
def test_a_kill_leaves_every_trace_whole_or_done_and_the_next_plan_finishes(path, tmp_path, record, kills_after):
    secret = "the-secret-4111"
    with es.open(path) as store:
        for number in range(5):
            record(store, 10, id=f"kept{number}")
            trace = store.start({"card": secret}, id=f"gone{number}", name="gone")
            for step_number in range(20):
                with trace.step("work") as step:
                    step.put("card", f"{secret} {step_number} {'x' * 500}")
        before = readable_all(store)
    killed = subprocess.run([sys.executable, "-c", PRUNE, path, str(kills_after)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with es.open(path) as store:
        assert store.verify().ok
        after = readable_all(store)
        done = [trace_id for trace_id in before if after.get(trace_id) != before[trace_id]]
        assert len(done) == kills_after
        for trace_id in done:
            left = after.get(trace_id, {})
            assert left == ({} if trace_id.startswith("gone") else {41: before[trace_id][41]})
        erasing = plan_retention(store, name="gone", erase=True)
        assert bool(named(erasing)) == (kills_after < 5) and erasing.is_unfinished == (kills_after <= 5)
        assert apply_plan(store, erasing).is_finished
        apply_plan(store, plan_retention(store, name="chat", **TRIM))
        assert readable_all(store) == {f"kept{number}": {41: before[f"kept{number}"][41]} for number in range(5)}
        assert store.verify().ok and not plan_retention(store, erase=True, **TRIM).is_unfinished
        assert not [file.name for file in tmp_path.iterdir() if secret.encode() in file.read_bytes()]


# Laws


class Mix:
    """A store with traces and forks of all kinds, made by draws."""

    def __init__(self, store, draw):
        self.store, self.draw, self.names = store, draw, ["t0"]
        store.start({"log": [], "n": 0}, id="t0", name="a", reducers={"n": "sum"})
        for _ in range(draw(st.integers(0, 25))):
            trace = store.open_trace(draw(st.sampled_from(self.names)))
            draw(st.sampled_from([self.step, self.step, self.step, self.fork, self.mark, self.ask, self.answer]))(trace)
        for trace_id in self.names:
            if draw(st.booleans()) and store.open_trace(trace_id).status == "running":
                store.open_trace(trace_id).end()

    def step(self, trace):
        for number in range(self.draw(st.integers(1, 6))):
            with trace.step("work") as step:
                step.append("log", {"number": number})
                step.put("n", number)

    def fork(self, trace):
        ends = set()
        with self.store._database.reader() as connection:
            for seq in range(1, trace.version + 1):
                with contextlib.suppress(es.NotAStepBoundary):
                    ends.add(log.boundary(connection, trace._row, seq).version)
        name = f"t{len(self.names)}"
        self.store.fork(trace.id, at=self.draw(st.sampled_from(sorted(ends))), id=name, name=self.draw(names))
        self.names.append(name)

    def mark(self, trace):
        trace.checkpoint()

    def ask(self, trace):
        if trace.status == "running":
            trace.raise_barrier("ask")

    def answer(self, trace):
        if trace.status == "waiting":
            trace.decide("ask", es.Approve())


names = st.sampled_from(["a", "b"])
asked = st.fixed_dictionaries(
    {"trim": st.booleans(), "erase": st.booleans(), "drop_bases": st.booleans()},
    optional={
        "keep_checkpoints": st.integers(0, 2),
        "name": names,
        "status": st.sampled_from(["running", "waiting", "completed"]),
    },
).filter(lambda how: how["trim"] or how["erase"] or how["drop_bases"] or "keep_checkpoints" in how)


@given(data=st.data(), how=asked, window=st.sampled_from([0, 3600]))
def test_every_kept_state_is_unchanged_and_what_was_shown_was_done(tiny_fold, data, how, window):
    with es.open(":memory:", durability="normal", fold_policy=tiny_fold) as store:
        Mix(store, data.draw)
        before, checkpoints = readable_all(store), store.stats()
        plan = plan_retention(store, retry_window_s=window, **how)
        assert readable_all(store) == before and store.stats() == checkpoints
        shown = {entry.trace_id: entry for entry in plan.traces if entry.acts}
        report = apply_plan(store, plan)
        assert [removal.trace_id for removal in report.traces] == list(shown)
        for removal in report.traces:
            entry = shown[removal.trace_id]
            assert removal.skipped == []
            assert (removal.erased, removal.trimmed_to) == (entry.erase, entry.trim_to)
            for field in ("checkpoints", "bases", "base_bytes", "rows", "events", "log_bytes"):
                assert getattr(removal, field) == getattr(entry, field), field
        after = readable_all(store)
        assert before.keys() - after.keys() == {trace_id for trace_id, entry in shown.items() if entry.erase}
        for trace_id, states in after.items():
            assert before[trace_id].items() >= states.items()
            if trace_id in shown and shown[trace_id].trim_to is not None:
                assert min(states) == shown[trace_id].trim_to
            for checkpoint in store.checkpoints.list(trace_id):
                assert json.dumps(checkpoint.state) == before[trace_id][checkpoint.seq]
        assert store.verify().problems == []
        again = plan_retention(store, retry_window_s=window, **how)
        assert not again.acts
        assert [(entry.trace_id, entry.blockers) for entry in again.traces] == [
            (entry.trace_id, entry.blockers) for entry in plan.traces if entry.blockers
        ]
