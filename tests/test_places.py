"""Where in a trace: a seq, a step, a time, a checkpoint; from Python and as `--at` writes it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

import eventstore as es
from eventstore import log


@pytest.fixture
def trace(store):
    """Seqs: 1 start; 2-3, 4-5, 6-7 three steps; 8 a note; 9 a failed step; 10-11 a fourth step."""
    trace = store.start({"n": 0}, id="t1", name="count")
    for number in (1, 2, 3):
        with trace.step("add") as step:
            step.put("n", number)
    trace.note("seen")
    with pytest.raises(ZeroDivisionError), trace.step("add"):
        raise ZeroDivisionError
    with trace.step("more") as step:
        step.put("n", 4)
    return trace


@pytest.mark.parametrize(
    ("at", "seq"),
    [(1, 1), (11, 11), (-1, 11), (-11, 1), ("3", 3), ("-3", 9), ("seq:4", 4), ("seq:-2", 10),
     ("step:0", 1), ("step:1", 3), ("step:3", 7), ("step:4", 11), ("step:-1", 11), ("step:-4", 3), ("2999-01-01", 11)],
)  # fmt: skip
def test_a_place_is_a_seq(trace, at, seq):
    assert trace.at(at).seq == seq


@pytest.mark.parametrize(
    ("at", "error", "told"),
    [
        (0, es.SeqOutOfRange, "seqs 1 to 11, asked for 0"),
        (12, es.SeqOutOfRange, "asked for 12"),
        (-12, es.SeqOutOfRange, "asked for -12"),
        ("step:5", es.PlaceNotFound, "no place 'step:5': it has 4 steps"),
        ("step:-5", es.PlaceNotFound, "it has 4 steps"),
        ("step:x", es.PlaceNotFound, "a step is a number"),
        ("1970-01-01", es.PlaceNotFound, "all that it holds is younger"),
        ("time:soon", es.PlaceNotFound, "a time is written as"),
        ("nonsense", es.PlaceNotFound, "write a seq"),
        ("checkpoint:ff", es.PlaceNotFound, "none of its checkpoints begins so"),
        ("", es.PlaceNotFound, "write a seq"),
        (True, es.PlaceNotFound, "a place is a seq, a time or text"),
        (1.0, es.PlaceNotFound, "a place is a seq, a time or text"),
    ],
)
def test_a_place_that_is_not_there_says_what_is(trace, at, error, told):
    with pytest.raises(error, match=told):
        trace.at(at)


def test_keywords_name_the_kind_of_place(trace):
    saved = trace.checkpoint("next")
    assert trace.at(step=2).seq == trace.at(seq=5).seq == 5
    assert trace.at(step=-1).seq == 11
    assert trace.at(checkpoint=saved.checkpoint_id).seq == 11
    assert trace.at(checkpoint=saved.checkpoint_id[:9].upper()).seq == 11
    assert trace.at(time=datetime.now(UTC)).seq == 11
    assert trace.at().seq == 11
    with pytest.raises(es.EventStoreError, match="one place, not seq and step"):
        trace.at(1, step=2)


def test_a_beginning_that_several_checkpoints_share_names_them(store, trace):
    for number in (1, 2):
        saved = es.Checkpoint(f"abcd-{number}", "t1", "", None, datetime.now(UTC), state={"n": 4})
        store.checkpoints.save(saved)
    with pytest.raises(es.PlaceNotFound, match=r"several .* abcd-1 at seq 11, abcd-2 at seq 11"):
        trace.at("checkpoint:abcd")
    assert trace.at("abcd-1").seq == 11


def test_a_checkpoint_of_the_shared_history_is_a_forks_too(trace):
    saved = trace.checkpoint("next")
    with trace.step("on"):
        pass
    later = trace.checkpoint("next")
    forked = trace.fork(11)
    assert forked.at(checkpoint=saved.checkpoint_id).seq == 11
    with pytest.raises(es.PlaceNotFound):
        forked.at(checkpoint=later.checkpoint_id)


def test_a_time_is_the_last_commit_at_or_before_it(store, trace, monkeypatch):
    now_us = [2_000_000_000_000_000]
    monkeypatch.setattr("time.time_ns", lambda: now_us[0] * 1000)
    ends = []
    for _ in range(40):
        now_us[0] += 7
        with trace.step("work") as step:
            step.put("n", 5)
        ends.append((now_us[0], trace.version))
    forked = trace.fork(ends[19][1])
    for at_us, seq in ends:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
        for shift in range(7):
            assert trace.at(time=moment + timedelta(microseconds=shift)).seq == seq
        if seq <= ends[19][1]:
            assert forked.at(time=moment).seq == seq
        assert trace.at(moment.isoformat()).seq == trace.at(time=moment.replace(tzinfo=None)).seq == seq
        assert trace.at(time=moment.astimezone(timezone(timedelta(hours=5)))).seq == seq
    with pytest.raises(es.PlaceNotFound):
        trace.at(time=datetime(1990, 1, 1, tzinfo=UTC))


def test_times_of_a_trimmed_trace_begin_at_its_root(store, trace):
    between = trace.at(5).at
    store.trim("t1", 7, retry_window_s=0)
    assert trace.at(time="2999-01-01").seq == 11
    assert trace.at(time=trace.at(7).at).seq >= 7
    with pytest.raises(es.PlaceNotFound, match="younger"):
        trace.at(time=between - timedelta(seconds=1))


def test_steps_of_a_trimmed_trace(store, trace):
    store.trim("t1", 5, retry_window_s=0)
    assert trace.at("step:3").seq == 7
    assert trace.at("step:2").seq == 5
    with pytest.raises(es.PlaceNotFound, match="trimmed at seq 5, with 2 steps behind that"):
        trace.at("step:1")


def test_a_step_is_found_from_the_base_before_it(path, monkeypatch):
    """However long the trace is: a few rows are read, not all of them."""
    with es.open(path, durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        for number in range(1500):
            with trace.step("add") as step:
                step.put("n", number)
        read = []
        rows = log.rows
        monkeypatch.setattr(log, "rows", lambda *given: (read.append(row) or row for row in rows(*given)))
        for step in (1, 700, 1499, 1500):
            past = trace.at(step=step)
            assert past.state == {"n": step - 1} and past.step == step
        assert len(read) < 600
        read.clear()
        forked = trace.fork("step:900")
        assert forked.at(step=-1).seq == forked.version - 1 and forked.at(step=450).state == {"n": 449}


def test_a_base_that_counts_wrongly_is_passed_over(path):
    with es.open(path, fold_policy=es.FoldEvery(5)) as store:
        trace = store.start({"n": 0}, id="t1")
        for number in range(40):
            with trace.step("add") as step:
                step.put("n", number)
        connection = store._database.writer
        connection.execute("DROP TRIGGER base_no_update")
        connection.execute("UPDATE base SET steps = steps + 3")
        assert [trace.at(step=step).state["n"] for step in range(1, 41)] == list(range(40))
        problems = [problem for problem in store.verify().problems if problem.check != "schema"]
        assert problems and all("steps" in problem.reason for problem in problems)


def test_another_process_is_seen(path, trace):
    with es.open(path) as other:
        theirs = other.open_trace("t1")
        with theirs.step("add") as step:
            step.put("n", 9)
    assert trace.version == 11
    assert trace.at().state == {"n": 9} and trace.at(-1).seq == 13
    assert trace.get("n") == 4 and trace.get("n", at=-1) == 9 and trace.get("n", at="step:1", type=float) == 1.0


def test_a_step_folded_to_is_the_step_that_is_looked_up(store, trace, path):
    """`at(step=…)` finds its place in the pass that folds the state; `at("step:…")` looks it up first."""

    def executed(node, **more):
        return es.NodeExecuted(node, **more)

    trace.append([executed("one"), executed("two"), es.StateDelta.put("n", 5), executed("three")])
    trace.append([executed("gone", success=False), executed("four", success=False, falls_back=True)])
    fork = trace.fork("step:3", id="t2")
    with es.open(path, fold_policy=es.FoldEvery(7)) as other:
        for handle in (other.open_trace("t1"), other.open_trace("t2")):
            for number in range(30):
                with handle.step("add") as step:
                    step.put("n", number)
            handle.note("seen")
    assert store.bases("t1") and store.bases("t2")

    def same(of, steps):
        for number in steps:
            one, other = of.at(step=number), of.at(f"step:{number}")
            assert (one.seq, one.state, one.control) == (other.seq, other.state, other.control)

    same(trace, range(39))
    same(fork, range(34))
    store.erase("t2")
    store.trim("t1", trace.at(step=20).seq, retry_window_s=0)
    same(trace, range(20, 39))
    for missing in (19, 39):
        with pytest.raises(es.PlaceNotFound):
            trace.at(step=missing)
