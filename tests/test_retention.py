"""Trim and erase: the two recorded exceptions to an immutable log, and what they never take."""

from __future__ import annotations

import pytest

import eventstore as es

NOW = {"retry_window_s": 0}


@pytest.fixture
def run(store, record):
    """A run of ten steps, four events each after seq 1; and its state at every seq."""
    trace = record(store, 10)
    return trace, [store.state_at("t1", seq) for seq in range(1, trace.version + 1)]


def test_a_trim_changes_no_state_from_its_root_on(store, run):
    trace, states = run
    removed = store.trim("t1", 21, **NOW)
    assert (removed.trace_id, removed.rows) == ("t1", 6)
    assert [store.state_at("t1", seq) for seq in range(21, 42)] == states[20:]
    assert [event.seq for event in store.events("t1")] == list(range(22, 42))
    assert store.open_trace("t1").state == trace.state == states[-1]
    assert store.verify().ok
    store.drop_bases()
    assert [store.state_at("t1", seq) for seq in range(21, 42)] == states[20:]


def test_looking_behind_the_root_says_that_it_was_trimmed(store, run):
    store.trim("t1", 21, **NOW)
    for look in (
        lambda: store.state_at("t1", 20),
        lambda: store.state_at("t1", 1),
        lambda: list(store.events("t1", after=19)),
        lambda: store.fork("t1", at=17),
    ):
        with pytest.raises(es.Trimmed) as trimmed:
            look()
        assert (trimmed.value.trace_id, trimmed.value.root_seq) == ("t1", 21)


def test_a_trimmed_trace_goes_on_keeps_its_chain_and_is_trimmed_again(store, run):
    trace, _ = run
    head = store.verify().heads["t1"]
    store.trim("t1", 21, **NOW)
    assert store.verify().heads["t1"] == head
    for _ in range(3):
        with trace.step("more") as step:
            step.put("n", 1)
    assert trace.state == store.state_at("t1") and trace.state["n"] == 13
    assert store.trim("t1", trace.version, **NOW).rows > 0
    assert store.trim("t1", trace.version, **NOW).rows == 0
    assert store.state_at("t1") == trace.state
    with store.open_trace("t1").step("more") as step:
        step.put("n", 1)
    assert store.state_at("t1")["n"] == 14
    assert store.verify().ok


def test_a_trimmed_trace_still_knows_its_reducers_its_node_and_its_steps(store, run):
    store.trim("t1", 41, **NOW)
    trace = store.open_trace("t1")
    with trace.step("more", next="end") as step:
        step.put("n", 5)
    assert (trace.state["n"], trace.next_node, trace.name) == (15, "end", "chat")


@pytest.mark.parametrize("seq", [2, 20, 22])
def test_a_trim_is_at_a_step_boundary(store, run, seq):
    with pytest.raises(es.NotAStepBoundary):
        store.trim("t1", seq, **NOW)
    assert store.state_at("t1", 1)["n"] == 0


def blocked(store, before, blocker, **keywords):
    with pytest.raises(es.RetentionBlocked) as refused:
        store.trim("t1", before, **(keywords or NOW))
    assert any(blocker in named for named in refused.value.blockers), refused.value.blockers
    assert store.state_at("t1", 1)["n"] == 0 and store.verify().ok


def test_a_trim_passes_no_fork(store, run):
    store.fork("t1", at=9, id="t2")
    blocked(store, 13, "fork t2 at seq 9")
    store.trim("t1", 9, **NOW)
    assert store.state_at("t2") == store.state_at("t1", 9)
    assert store.verify().ok


def test_a_trim_passes_no_checkpoint(store, run):
    trace, _ = run
    kept = trace.checkpoint()
    with trace.step("more") as step:
        step.put("n", 1)
    blocked(store, trace.version, f"checkpoint {kept.checkpoint_id} at seq 41")
    store.checkpoints.delete(kept.checkpoint_id)
    store.trim("t1", trace.version, **NOW)


def test_a_trim_passes_no_checkpoint_of_a_fork(store, run):
    store.fork("t1", at=21, id="t2")
    inherited = es.Checkpoint.new("t2", "", None, store.state_at("t2", 9))
    inherited.seq = 9
    kept = store.checkpoints.save(inherited)
    assert kept.seq == 9
    blocked(store, 13, "checkpoint")
    assert store.checkpoints.load(kept.checkpoint_id).state == inherited.state


def test_a_trim_passes_no_pending_barrier(store, run):
    trace, _ = run
    trace.raise_barrier("ask")
    with trace.step("more") as step:
        step.put("n", 1)
    blocked(store, trace.version, "barrier ask#1")
    trace.decide("ask", es.Approve())
    store.checkpoints.prune("t1", 0)
    store.trim("t1", trace.version, **NOW)
    assert store.verify().ok


def test_a_trim_waits_for_retries(store, run):
    blocked(store, 21, "a retry may still come", retry_window_s=3600)
    blocked(store, 21, "a retry may still come", retry_window_s=60)


def test_the_retry_window_is_a_day(store, run):
    with pytest.raises(es.RetentionBlocked, match="retry"):
        store.trim("t1", 21)


def test_a_fork_is_trimmed_in_its_own_part_only(store, run):
    _, states = run
    fork = store.fork("t1", at=21, id="t2")
    for number in range(3):
        with fork.step("other") as step:
            step.put("n", number)
    assert store.trim("t2", 9, **NOW).rows == 0
    assert store.trim("t2", fork.version, **NOW).rows == 4
    assert store.state_at("t2") == fork.state
    assert [store.state_at("t1", seq) for seq in range(1, 42)] == states
    assert store.verify().ok


def test_a_handle_that_a_trim_left_behind_starts_again_from_the_root(path, store, run):
    with es.open(path) as elsewhere:
        trace, behind = run[0], elsewhere.open_trace("t1")
        assert behind.state == trace.state
        for _ in range(2):
            with trace.step("more") as step:
                step.put("n", 1)
        store.trim("t1", trace.version, **NOW)
        assert behind.refresh() == trace.version
        assert behind.state == trace.state
        with behind.step("more") as step:
            step.put("n", 1)
        assert elsewhere.state_at("t1")["n"] == 13


# Erasing


@pytest.fixture
def secret(path):
    """A store whose trace holds a secret in state, history, notes and bases; and that secret."""
    secret = "the-secret-4111"
    with es.open(path, fold_policy=es.FoldEvery(1)) as store:
        trace = store.start({"card": secret}, id="t1", name=f"named {secret}")
        trace.note("seen", secret)
        for number in range(50):
            with trace.step("work") as step:
                step.put("card", f"{secret} {number}")
                step.put("more", "x" * 500)
        trace.raise_barrier("ask", prompt=secret)
        trace.decide("ask", es.Modify({"card": secret}))
        trace.checkpoint(f"node {secret}")
        store.start({"n": 1}, id="t2")
    return secret


def test_an_erased_trace_leaves_nothing_in_any_file(path, tmp_path, secret, bytes_of):
    with es.open(path) as store:
        assert secret.encode() in bytes_of(path)
        (removed,) = store.erase("t1", by="ana")
        assert removed.trace_id == "t1" and removed.rows == 54 and removed.freed_bytes > 0
        assert not [file.name for file in tmp_path.iterdir() if secret.encode() in bytes_of(file)]
        assert store.verify().ok
        assert store.state_at("t2") == {"n": 1}


def test_an_erased_trace_is_a_tombstone_that_says_who_and_when(path, secret, raw):
    with es.open(path) as store:
        head = store.verify().heads["t1"]
        store.erase("t1", by="ana")
        version, digest, by, at = raw.execute(
            "SELECT version, hex(digest), erased_by, erased_us FROM tombstone"
        ).fetchone()
    assert (digest.lower(), by) == (head, "ana") and version > 100 and at > 0


def test_nothing_comes_after_an_erasure(path, secret):
    with es.open(path) as store:
        trace = store.open_trace("t1")
        assert trace.status == "running"
        checkpoint = store.checkpoints.list("t1")[0]
        store.erase("t1")
        for act in (
            lambda: store.open_trace("t1"),
            lambda: store.state_at("t1"),
            lambda: list(store.events("t1")),
            lambda: store.start(id="t1"),
            lambda: store.fork("t1"),
            lambda: store.erase("t1"),
            lambda: trace.append([es.StateDelta.put("n", 1)]),
            lambda: trace.note("seen"),
            lambda: trace.refresh(),
            lambda: store.checkpoints.save(checkpoint),
        ):
            with pytest.raises((es.TraceErased, es.TraceNotFound)):
                act()
        assert store.checkpoints.list("t1") == []
        assert [info.trace_id for info in store.traces()] == ["t2"]
        assert store.verify().ok


def test_a_handle_that_outlived_its_trace_makes_no_checkpoint(store, run):
    trace, _ = run
    store.erase("t1")
    with pytest.raises(es.TraceErased):
        trace.checkpoint()


def test_an_erasure_refuses_to_take_forks_along_unless_asked(store, run):
    fork = store.fork("t1", at=9, id="t2")
    store.fork("t2", id="t3")
    with pytest.raises(es.RetentionBlocked, match="fork t2 at seq 9"):
        store.erase("t1")
    assert store.state_at("t2") == fork.state
    assert [removed.trace_id for removed in store.erase("t1", cascade=True)] == ["t3", "t2", "t1"]
    assert store.traces() == []
    assert store.verify().ok


def test_a_fork_can_be_erased_alone(store, run):
    _, states = run
    fork = store.fork("t1", at=9, id="t2")
    with fork.step("other") as step:
        step.put("n", 1)
    store.erase("t2")
    assert [store.state_at("t1", seq) for seq in range(1, 42)] == states
    assert store.verify().ok


def test_a_trimmed_trace_can_be_erased(store, run):
    store.trim("t1", 21, **NOW)
    store.erase("t1")
    assert store.traces() == [] and store.verify().ok


def test_a_trace_whose_log_is_gone_can_be_erased_with_its_bases(path, tmp_path, secret, tamper, raw, bytes_of):
    with es.open(path) as store:
        tamper("DELETE FROM log WHERE trace = 1")
        with pytest.raises(es.LogCorrupted):
            store.open_trace("t1")
        (removed,) = store.erase("t1", by="ana")
        assert (removed.trace_id, removed.rows) == ("t1", 0)
        found = raw.execute("SELECT version, digest, erased_by FROM tombstone").fetchall()
        assert found == [(0, bytes(16), "ana")]
        assert raw.execute("SELECT count(*) FROM base WHERE trace = 1").get == 0
        assert not [file.name for file in tmp_path.iterdir() if secret.encode() in bytes_of(file)]
        with pytest.raises(es.TraceErased):
            store.open_trace("t1")
        assert store.verify().ok


def test_an_unknown_trace_is_said_so(store):
    for act in (lambda: store.trim("absent", 1), lambda: store.erase("absent")):
        with pytest.raises(es.TraceNotFound):
            act()


def test_what_was_removed_comes_back_from_its_json(store, run):
    removed = store.trim("t1", 21, **NOW)
    assert es.Removed.from_json(removed.to_json()) == removed
