"""The end of a trace that is read again is held in memory: that changes what a read takes, and no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventstore as es
from eventstore.recent import Recent


def read_twice(store, trace_id="t1"):
    """Read the end so often that it is held."""
    store.state_at(trace_id)
    return store.state_at(trace_id)


@pytest.fixture
def unreadable(tamper):
    """Make every row and base of the file garbage: what is read right afterwards was held."""

    def run():
        tamper("DELETE FROM base")
        assert tamper("UPDATE log SET body = '{}'")

    return run


def test_the_end_is_held_once_it_was_read_again(store, record, unreadable):
    record(store, 5)
    state = read_twice(store)
    unreadable()
    assert store.state_at("t1") == state
    with pytest.raises(es.LogCorrupted):
        store.state_at("t1", 5)


def test_one_look_at_a_trace_holds_nothing(store, record, unreadable):
    record(store, 5)
    store.state_at("t1")
    unreadable()
    with pytest.raises(es.LogCorrupted):
        store.state_at("t1")


def test_a_state_is_the_callers_own(store, record, exact):
    record(store, 5)
    expected = exact(read_twice(store))
    for _ in range(2):
        state = store.state_at("t1")
        state["log"][0]["number"] = -1
        state["log"].clear()
        state["n"] = None
    assert exact(store.state_at("t1")) == expected


def test_what_another_store_appends_is_seen_at_once(path, store, record):
    record(store, 5)
    read_twice(store)
    with es.open(path) as other:
        trace = other.open_trace("t1")
        for number in range(70):
            with trace.step("other") as step:
                step.append("log", {"number": number})
            assert store.state_at("t1") == other.open_trace("t1").state
            assert store.open_trace("t1").at().step == 6 + number


def test_control_is_held_with_the_state(store, record):
    record(store, 5)
    read_twice(store)
    now = store.open_trace("t1").at()
    assert (now.step, now.next_node, now.status, now.control["visits/work"]) == (5, None, "running", 5)


def test_a_fork_and_its_parent_are_held_apart(store, record):
    trace = record(store, 5)
    fork = trace.fork(at="step:3", put={"text": "another"}, id="t2")
    before = read_twice(store, "t2")
    read_twice(store)
    with trace.step("on") as step:
        step.replace("text", "on")
    assert store.state_at("t2") == before == fork.state
    assert store.state_at("t1") == trace.state


def test_what_is_held_does_not_bridge_trimmed_history(path, store, record):
    trace = record(store, 5)
    read_twice(store)
    held_at = trace.version
    with es.open(path) as other:
        other_trace = other.open_trace("t1")
        for _ in range(5):
            with other_trace.step("on") as step:
                step.put("n", 1)
        other.trim("t1", other_trace.version, retry_window_s=0)
        assert store.state_at("t1") == other_trace.state
    with pytest.raises(es.Trimmed):
        store.state_at("t1", held_at + 1)


def test_an_erased_trace_is_erased_though_it_was_held(path, store, record):
    record(store, 5).end()
    read_twice(store)
    with es.open(path) as other:
        other.erase("t1")
    with pytest.raises(es.TraceErased):
        store.state_at("t1")


def test_whoever_erases_a_trace_holds_nothing_of_it(store, record):
    record(store, 5).end()
    read_twice(store)
    row, _ = store._reader.find("t1")
    assert store._reader._held.end(row.id) is not None
    store.erase("t1")
    assert store._reader._held.end(row.id) is None


def test_a_past_place_is_read_from_what_is_held_of_the_bases_before_it(path, record, tamper):
    class Links:
        """A link for every four rows."""

        def decide(self, now):
            return es.FoldDecision("link", "four rows") if now.tail_rows >= 4 else None

    with es.open(path, fold_policy=Links()) as store:
        trace = record(store, 40)
        assert [base.kind for base in store.bases("t1")] == ["link"] * 10
        before = [dict(trace.at(step=number).state) for number in range(40)]
        tamper("UPDATE base SET checksum = checksum + 1")
        assert [trace.at(step=number).state for number in reversed(range(40))] == before[::-1]
        store.drop_bases()
        assert [trace.at(step=number).state for number in range(40)] == before


def test_no_more_is_held_than_the_bound(store, record):
    store._reader._held._ends = Recent(2, 10**6)
    for name in ("t1", "t2", "t3"):
        record(store, 3, id=name)
        read_twice(store, name)
    assert [store._reader._held.end(row) is not None for row in (1, 2, 3)] == [False, True, True]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from("abc"), values, st.integers(0, 3)), max_size=12))
def test_reads_between_writes_give_what_a_fresh_store_gives(tmp_path_factory, exact, writes):
    path = tmp_path_factory.mktemp("held") / "runs.db"
    with es.open(path, durability="normal") as store, es.open(path, durability="normal") as other:
        trace = store.start({"log": []}, id="t1")
        for key, value, reads in writes:
            with trace.step("work") as step:
                step.put(key, value)
                step.append("log", value)
            for _ in range(reads):
                assert exact(store.state_at("t1")) == exact(dict(trace.state))
        with es.open(path, read_only=True) as fresh:
            assert exact(store.state_at("t1")) == exact(fresh.state_at("t1")) == exact(other.state_at("t1"))
            assert exact(dict(store.open_trace("t1").at().control)) == exact(dict(fresh.open_trace("t1").at().control))
