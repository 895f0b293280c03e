"""Checkpoints: names for places in the log. Six verbs, the triggers that make them, and what they cannot break."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

import eventstore as es

HEAVY, LIGHT = es.ExecutionMetadata.heavy(), es.ExecutionMetadata.lightweight()


def places(store, trace_id="t1"):
    """Each checkpoint's seq and triggers, newest first."""
    return [(found.seq, {t.name for t in found.triggers}) for found in store.checkpoints.list(trace_id)]


def work(trace, metadata=LIGHT, **puts):
    with trace.step("work", metadata, next="more") as step:
        for key, value in puts.items():
            step.put(key, value)


# The six verbs


def test_save_gives_the_checkpoint_its_place(store, trace):
    work(trace, n=1)
    saved = store.checkpoints.save(es.Checkpoint.new("t1", "hash", "answer", dict(trace.state)))
    assert (saved.seq, saved.parent_trace_id, saved.graph_hash, saved.current_node) == (3, "t1", "hash", "answer")
    assert saved.state == store.state_at("t1", 3)
    assert trace.refresh() == 3


def test_load_gives_what_was_saved(store, trace):
    saved = store.checkpoints.save(es.Checkpoint.new("t1", "hash", "answer", dict(trace.state)))
    for checkpoint_id in (saved.checkpoint_id, uuid.UUID(saved.checkpoint_id)):
        assert store.checkpoints.load(checkpoint_id) == saved
    with pytest.raises(es.CheckpointNotFound) as missing:
        store.checkpoints.load("absent")
    assert missing.value.checkpoint_id == "absent"


def test_load_latest_is_the_one_furthest_in_the_trace(store, trace):
    assert store.checkpoints.load_latest("t1") is None
    assert store.checkpoints.load_latest("no such trace") is None
    first = trace.checkpoint()
    work(trace, n=1)
    second = trace.checkpoint()
    assert store.checkpoints.load_latest("t1").checkpoint_id == second.checkpoint_id
    store.checkpoints.delete(second.checkpoint_id)
    assert store.checkpoints.load_latest("t1").checkpoint_id == first.checkpoint_id


def test_list_is_newest_first_and_of_one_trace(store, trace):
    other = store.start(id="t2")
    other.checkpoint()
    made = []
    for number in range(4):
        work(trace, n=number)
        made.append(trace.checkpoint().checkpoint_id)
    assert [found.checkpoint_id for found in store.checkpoints.list("t1")] == made[::-1]
    assert len(store.checkpoints.list("t2")) == 1
    assert store.checkpoints.list("absent") == []


def test_delete_removes_one_row_and_says_whether_there_was_one(store, trace):
    first = trace.checkpoint()
    work(trace, n=1)
    second = trace.checkpoint()
    assert store.checkpoints.delete(first.checkpoint_id) is True
    assert store.checkpoints.delete(first.checkpoint_id) is False
    assert [found.checkpoint_id for found in store.checkpoints.list("t1")] == [second.checkpoint_id]


@pytest.mark.parametrize("keep", [0, 1, 3, 5, 99])
def test_prune_keeps_the_newest(store, trace, keep):
    for number in range(5):
        work(trace, n=number)
        trace.checkpoint()
    kept = [found.checkpoint_id for found in store.checkpoints.list("t1")][:keep]
    assert store.checkpoints.prune("t1", keep) == max(0, 5 - keep)
    assert [found.checkpoint_id for found in store.checkpoints.list("t1")] == kept


def test_prune_refuses_what_makes_no_sense(store, trace):
    trace.checkpoint()
    with pytest.raises(ValueError, match="0 or more"):
        store.checkpoints.prune("t1", -1)
    with pytest.raises(es.TraceNotFound):
        store.checkpoints.prune("absent", 0)
    assert len(store.checkpoints.list("t1")) == 1


def test_deleting_and_pruning_break_no_other_checkpoint_no_fork_and_no_history(store, trace):
    made = []
    for number in range(5):
        work(trace, n=number)
        made.append(trace.checkpoint())
    fork = store.fork("t1", at=made[1].seq, id="t2")
    work(fork, n=100)
    states = [store.state_at("t1", seq) for seq in range(1, trace.version + 1)]
    store.checkpoints.delete(made[1].checkpoint_id)
    store.checkpoints.delete(made[3].checkpoint_id)
    store.checkpoints.prune("t1", 2)
    assert [found.seq for found in store.checkpoints.list("t1")] == [made[4].seq, made[2].seq]
    for left in store.checkpoints.list("t1"):
        assert left.restore_state() == left.restore_state_simple() == states[left.seq - 1]
    assert [store.state_at("t1", seq) for seq in range(1, trace.version + 1)] == states
    assert store.state_at("t2") == fork.state == states[made[1].seq - 1] | {"n": 100}
    assert made[0].state == states[made[0].seq - 1]  # an object at hand does not need its row
    assert store.verify().ok


# What save does to the log


def test_saving_another_state_appends_the_difference_as_an_import(store, trace):
    work(trace, n=1)
    wanted = {"text": "a", "n": 1.0, "new": [True]}
    saved = store.checkpoints.save(es.Checkpoint.new("t1", "", "answer", wanted))
    assert saved.state == store.state_at("t1") == wanted
    imported = [event.event for event in store.events("t1", after=3)]
    assert [(delta.key, delta.op, delta.source) for delta in imported] == [
        ("log", "delete", "import"), ("n", "put", "import"), ("new", "put", "import"),
    ]  # fmt: skip
    assert saved.seq == 6
    assert store.verify().ok


def test_saving_the_state_that_stands_appends_nothing(store, trace):
    store.checkpoints.save(es.Checkpoint.new("t1", "", None, {"text": "a", "n": 0, "log": []}))
    assert store.open_trace("t1").version == 1


def test_equal_looking_values_are_a_difference(store, trace):
    saved = store.checkpoints.save(es.Checkpoint.new("t1", "", None, {"log": [], "n": False, "text": "a"}))
    assert saved.seq == 2
    assert store.state_at("t1")["n"] is False


def test_saving_for_an_unknown_trace_starts_it(store):
    saved = store.checkpoints.save(es.Checkpoint.new("imported", "hash", "answer", {"n": 1}))
    trace = store.open_trace("imported")
    assert (trace.version, saved.seq, trace.graph_hash, trace.next_node) == (1, 1, "hash", "answer")
    assert trace.state == saved.state == {"n": 1}


def test_saving_at_an_older_place_adds_nothing_when_the_state_is_the_one_there(store, trace):
    work(trace, n=1)
    work(trace, n=2)
    older = es.Checkpoint.new("t1", "", "answer", store.state_at("t1", 3))
    older.seq = 3
    assert store.checkpoints.save(older).seq == 3
    assert store.open_trace("t1").version == 5


def test_a_checkpoint_stands_between_steps_only(store, trace):
    work(trace, n=1)
    inside = es.Checkpoint.new("t1", "", None, store.state_at("t1", 2))
    inside.seq = 2
    with pytest.raises(es.NotAStepBoundary) as refused:
        store.checkpoints.save(inside)
    assert (refused.value.seq, refused.value.before, refused.value.after) == (2, 1, 3)
    assert store.checkpoints.list("t1") == []


def test_saving_twice_is_saving_once(store, trace):
    checkpoint = es.Checkpoint.new("t1", "hash", "answer", {"n": 5})
    first = store.checkpoints.save(checkpoint)
    assert store.checkpoints.save(first) == first
    assert store.checkpoints.save(checkpoint) == first
    assert len(store.checkpoints.list("t1")) == 1 and store.open_trace("t1").version == first.seq


def test_a_checkpoint_moves_when_its_state_moves(store, trace):
    saved = store.checkpoints.save(es.Checkpoint.new("t1", "", None, {"n": 5}))
    again = es.Checkpoint.from_json(saved.to_json())
    again.state["n"] = 6
    moved = store.checkpoints.save(again)
    assert (moved.checkpoint_id, moved.seq) == (saved.checkpoint_id, saved.seq + 1)
    assert store.checkpoints.load(saved.checkpoint_id).state == {"n": 6}
    assert len(store.checkpoints.list("t1")) == 1


def test_a_saved_checkpoint_can_be_loaded_by_its_id(store, trace):
    trace.checkpoint()
    mine = es.Checkpoint.new("t1", "", "answer", dict(trace.state))
    store.checkpoints.save(mine)
    assert store.checkpoints.load(mine.checkpoint_id).state == mine.state


def test_a_checkpoint_keeps_its_time(store, trace):
    for microsecond in (0, 1, 123457, 999999):
        checkpoint = es.Checkpoint.new("t1", "", None, {"n": microsecond})
        checkpoint.created_at = datetime(2026, 3, 1, 23, 59, 59, microsecond, UTC)
        assert store.checkpoints.save(checkpoint).created_at == checkpoint.created_at


# Lazy, and in agreement


def test_listing_reads_no_state(store, trace, monkeypatch):
    for number in range(3):
        work(trace, n=number)
        trace.checkpoint()
    reads = []
    look = store._reader.look
    monkeypatch.setattr(store._reader, "look", lambda *args, **keywords: reads.append(args) or look(*args, **keywords))
    found = store.checkpoints.list("t1")
    assert reads == []
    assert found[0].state["n"] == found[0].state["n"] == 2
    assert len(reads) == 1


@pytest.mark.parametrize("policy", [es.NeverFold(), es.FoldEvery(2), es.FoldEvery(1)])
def test_both_restores_agree_at_every_checkpoint(path, policy):
    with es.open(path, fold_policy=policy) as store:
        trace = store.start(
            {"log": [], "n": 0, "low": 9}, id="t1", reducers={"log": "append", "n": "sum", "low": "min"}
        )
        states = {}
        for number in range(6):
            with trace.step("work") as step:
                step.put("log", number)
                step.put("n", 1)
                step.put("low", number)
                if number == 3:
                    step.delete("low")
            states[trace.checkpoint().seq] = store.state_at("t1")
        for found in store.checkpoints.list("t1"):
            registry = es.ReducerRegistry({"n": "replace", "log": "sum"})
            assert found.restore_state() == found.restore_state_simple() == found.state == states[found.seq]
            assert found.restore_state(registry) == states[found.seq]
            assert found.snapshot.restore() == found.snapshot.restore_simple() == states[found.seq]


def test_a_restored_state_is_a_copy(store, trace):
    saved = trace.checkpoint()
    saved.restore_state()["log"].append("mine")
    saved.restore_state_simple()["log"].append("mine")
    assert saved.state["log"] == saved.restore_state()["log"] == []


def test_a_fork_at_a_checkpoint_goes_another_way(store, trace):
    work(trace, n=1)
    place = trace.checkpoint("answer")
    work(trace, n=2)
    fork = store.fork("t1", at=place.seq)
    assert fork.state == place.state
    work(fork, n=9)
    assert (store.state_at("t1")["n"], store.state_at(fork.id)["n"]) == (2, 9)
    assert trace.checkpoint().seq == 5 and fork.checkpoint().seq == 6


# Snapshots


def test_a_snapshot_checkpoint_holds_base_and_deltas(store):
    deltas = [es.StateDelta.append("l", [2]), es.StateDelta("n", "sum", 1)]
    checkpoint = es.Checkpoint.with_snapshot("t1", "", "answer", {"l": [1, 2], "n": 1}, {"l": [1], "n": 0}, deltas)
    assert checkpoint.snapshot.base_snapshot == {"l": [1], "n": 0}
    assert checkpoint.restore_state() == checkpoint.restore_state_simple() == {"l": [1, 2], "n": 1}
    assert store.checkpoints.save(checkpoint).restore_state() == {"l": [1, 2], "n": 1}


def test_a_snapshot_that_does_not_give_its_state_is_corrupted():
    with pytest.raises(es.CheckpointCorrupted) as refused:
        es.Checkpoint.with_snapshot("t1", "", None, {"n": 2}, {"n": 0}, [es.StateDelta.put("n", 1)])
    assert "base and deltas do not give its state" in refused.value.reason
    with pytest.raises(es.DeltaApply):
        es.Checkpoint.with_snapshot("t1", "", None, {"n": 2}, {"n": 0}, [es.StateDelta.append("n", [1])])


def test_a_snapshot_weighs_its_parts():
    snapshot = es.StateSnapshot({"n": 0}, [es.StateDelta.put("n", 1)])
    assert snapshot.base_size_bytes() == len('{"n":0}')
    assert snapshot.deltas_size_bytes() == len('[{"key":"n","value":1}]')
    assert snapshot.total_size_bytes() == snapshot.base_size_bytes() + snapshot.deltas_size_bytes()
    assert es.StateSnapshot({}).deltas_size_bytes() == 0


@pytest.mark.parametrize(("count", "left"), [(20, 20), (21, 0)])
def test_a_snapshot_compacts_above_its_threshold(count, left):
    snapshot = es.StateSnapshot({"n": 0}, [es.StateDelta("n", "sum", 1)] * count)
    before = snapshot.restore()
    snapshot.compact()
    assert len(snapshot.recent_deltas) == left
    assert snapshot.restore() == before == {"n": count}


def test_a_live_tail_goes_on_from_a_checkpoint(store, trace):
    work(trace, n=1)
    live = es.IncrementalSnapshotState.from_checkpoint(trace.checkpoint())
    live.record_delta(es.StateDelta.put("n", 2))
    assert live.snapshot({"log": [], "n": 2, "text": "a"}).restore() == {"log": [], "n": 2, "text": "a"}
    assert live.compact_threshold == 20


def test_a_live_tail_folds_above_its_threshold():
    live = es.IncrementalSnapshotState({"n": 0})
    live.record_deltas([es.StateDelta("n", "sum", 1)] * 20)
    assert len(live.snapshot({"n": 20}).recent_deltas) == 20
    live.record_delta(es.StateDelta("n", "sum", 1))
    snapshot = live.snapshot({"n": 21})
    assert (snapshot.base_snapshot, snapshot.recent_deltas) == ({"n": 21}, [])


# Triggers


POLICIES = {
    "conservative": (es.CheckpointPolicy.conservative(), True, True, True, False, False),
    "minimal": (es.CheckpointPolicy.minimal(), True, True, False, False, False),
    "manual": (es.CheckpointPolicy.manual(), False, False, False, True, False),
    "adaptive": (es.CheckpointPolicy.adaptive(), True, True, True, False, True),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_preset_answers_its_questions(name):
    policy, barrier, completion, human, explicit, adaptive = POLICIES[name]
    assert policy.should_checkpoint_on_barrier() is barrier
    assert policy.should_checkpoint_on_completion() is completion
    assert policy.should_checkpoint_on_human_decision() is human
    assert policy.should_checkpoint_on_explicit() is explicit
    assert policy.has_adaptive_trigger() is adaptive


def test_the_default_policy_is_conservative(store):
    assert store.checkpoint_policy == es.CheckpointPolicy.conservative() == es.CheckpointPolicy()


@pytest.mark.parametrize("name", POLICIES)
def test_a_preset_marks_what_it_says_and_asks_no_more(path, name):
    policy, barrier, completion, human, _, adaptive = POLICIES[name]
    with es.open(path, checkpoint_policy=policy) as store:
        trace = store.start({}, id="t1")
        work(trace, HEAVY, n=1)  # seq 3
        work(trace, LIGHT, n=2)  # seq 5
        trace.raise_barrier("ask")  # seq 6
        trace.decide("ask", es.Approve())  # seqs 7 and 8
        trace.end()  # seq 9
        expected = [
            *([(9, {"execution_completed"})] if completion else []),
            *([(8, {"barrier_resolved"})] if barrier else []),
            *([(6, {"human_decision"})] if human else []),
            *([(3, {"adaptive"})] if adaptive else []),
        ]
        assert places(store) == expected
        assert store.verify().ok


def test_the_place_of_a_human_decision_is_before_it_so_that_one_may_decide_otherwise(store, trace):
    trace.raise_barrier("ask")
    trace.decide("ask", es.Reject("no"))
    resolved, before = store.checkpoints.list("t1")
    assert before.state == {"log": [], "n": 0, "text": "a"}
    assert before.current_node == "ask"
    assert resolved.state["ask.approved"] is False
    assert store.fork("t1", at=before.seq).state == before.state


def test_a_reroute_is_where_its_checkpoint_goes_on(store, trace):
    trace.raise_barrier("ask")
    trace.decide("ask", es.Reroute("review"))
    assert store.checkpoints.load_latest("t1").current_node == "review"


def test_an_explicit_checkpoint_is_made_under_every_policy(path):
    for number, (policy, *_) in enumerate(POLICIES.values()):
        with es.open(path, checkpoint_policy=policy) as store:
            trace = store.start({}, id=f"t{number}")
            assert trace.checkpoint("answer").current_node == "answer"
            assert places(store, trace.id) == [(1, {"explicit"})]


def test_a_checkpoint_without_a_node_names_the_one_that_the_step_named(store, trace):
    work(trace, n=1)
    assert trace.checkpoint().current_node == "more"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_only_a_completed_end_is_a_completion(store, trace, status):
    trace.end(status)
    assert places(store) == []


def test_a_failed_step_is_not_worth_a_checkpoint(path):
    with es.open(path, checkpoint_policy=es.CheckpointPolicy.adaptive()) as store:
        trace = store.start({}, id="t1")
        with pytest.raises(ZeroDivisionError), trace.step("work", HEAVY):
            raise ZeroDivisionError
        assert places(store) == []


def test_one_row_a_seq_with_its_set_of_triggers(path):
    with es.open(path, checkpoint_policy=es.CheckpointPolicy.adaptive()) as store:
        trace = store.start({}, id="t1")
        work(trace, HEAVY, n=1)
        first = store.checkpoints.load_latest("t1")
        for _ in range(2):
            again = trace.checkpoint("elsewhere")
        assert again.checkpoint_id == first.checkpoint_id
        assert again.current_node == "elsewhere"
        assert places(store) == [(3, {"adaptive", "explicit"})]
        (adaptive,) = [trigger for trigger in again.triggers if trigger == es.CheckpointTrigger.ADAPTIVE]
        assert adaptive.metadata == HEAVY


@pytest.mark.parametrize(
    ("metadata", "score"),
    [
        (es.ExecutionMetadata(), 0.0),
        (es.ExecutionMetadata.lightweight(), 2.0),
        (es.ExecutionMetadata.heavy(), 90_010.0),
        (es.ExecutionMetadata.with_side_effects(), 10_000.0),
        (es.ExecutionMetadata(duration_ms=99, token_cost=0.001), 100.0),
        (es.ExecutionMetadata(duration_ms=99.9), 99.9),
    ],
)
def test_the_score_weighs_time_cost_and_side_effects(metadata, score):
    assert es.CheckpointScore().calculate(metadata) == score
    assert es.CheckpointScore().should_checkpoint(metadata) is (score >= 100)


@pytest.mark.parametrize(("cost", "marked"), [(0.0989, False), (0.1, True)])
def test_the_adaptive_trigger_is_the_score(path, cost, marked):
    with es.open(path, checkpoint_policy=es.CheckpointPolicy.adaptive()) as store:
        trace = store.start({}, id="t1")
        work(trace, es.ExecutionMetadata(duration_ms=0, token_cost=cost), n=1)
        assert bool(places(store)) is marked


def test_a_score_of_your_own(path):
    policy = es.CheckpointPolicy.adaptive(es.CheckpointScore(duration_weight=0, threshold=1))
    with es.open(path, checkpoint_policy=policy) as store:
        trace = store.start({}, id="t1")
        work(trace, es.ExecutionMetadata(duration_ms=10**6), n=1)
        assert places(store) == []
        work(trace, es.ExecutionMetadata(token_cost=0.001), n=1)
        assert places(store) == [(5, {"adaptive"})]


def test_a_step_may_be_found_costly_while_it_runs(path):
    with es.open(path, checkpoint_policy=es.CheckpointPolicy.adaptive()) as store:
        trace = store.start({}, id="t1")
        with trace.step("pay") as step:
            step.put("n", 1)
            step.record(has_side_effects=True)
        assert places(store) == [(3, {"adaptive"})]


def test_marks_ride_in_the_commit_of_their_event(path):
    with es.open(path, checkpoint_policy=es.CheckpointPolicy.adaptive()) as store:
        trace = store.start({}, id="t1")
        counted = []
        store._database.writer.set_commit_hook(lambda: bool(counted.append(1)))
        work(trace, HEAVY, n=1)
        assert len(counted) == 1 and len(places(store)) == 1
