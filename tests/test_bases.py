"""Bases are derived: dropping, damaging or mixing them up changes no answer."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import apsw
import pytest

import eventstore as es


class Links:
    """A link for every row: chains of many links, never a collapse."""

    def decide(self, now):
        return es.FoldDecision("link", "a row")


class Wholes:
    """A whole state for every row."""

    def decide(self, now):
        return es.FoldDecision("whole", "a row")


def answers(store, trace_id="t1"):
    """Every state of a trace."""
    version = next(info.version for info in store.traces() if info.trace_id == trace_id)
    return [store.state_at(trace_id, seq) for seq in range(1, version + 1)]


@pytest.fixture
def expected(tmp_path, record):
    """Every state of the recorded run, from a store that never made a base."""
    with es.open(tmp_path / "expected.db", fold_policy=es.NeverFold()) as store:
        record(store, 12)
        assert store.stats().base_bytes == 0
        return answers(store)


@contextmanager
def silence():
    """No base is reported as damaged here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", es.BaseCorrupted)
        yield


@pytest.mark.parametrize("policy", [Links(), Wholes(), es.AdaptiveFold(min_tail_deltas=1), es.FoldEvery(5)])
def test_no_policy_changes_an_answer(path, record, expected, policy):
    with es.open(path, fold_policy=policy) as store:
        record(store, 12)
        assert answers(store) == expected
        assert store.verify().ok
    with es.open(path) as store:
        assert answers(store) == expected
        assert store.open_trace("t1").state == expected[-1]


@pytest.mark.parametrize("policy", [Links(), Wholes()])
def test_dropping_every_base_changes_no_answer(path, record, expected, policy):
    with es.open(path, fold_policy=policy) as store:
        trace = record(store, 12)
        before = store.stats().traces[0].bases
        assert before == 12
        assert store.drop_bases() == before
        assert store.drop_bases() == 0
        assert answers(store) == expected
        assert store.verify().ok
        with trace.step("more") as step:
            step.put("n", 1)
        assert store.stats().traces[0].bases == 1
        assert store.state_at("t1") == trace.state
        assert store.verify().ok


def test_dropping_one_traces_bases_leaves_the_others(path, record):
    with es.open(path, fold_policy=Links()) as store:
        record(store, 5, "t1")
        record(store, 5, "t2")
        assert store.drop_bases("t1") == 5
        assert [trace.bases for trace in store.stats().traces] == [0, 5]


def test_dropping_a_parents_bases_is_no_damage_to_its_forks(path, record, expected):
    with es.open(path, fold_policy=Links()) as store, silence():
        trace = record(store, 12)
        fork = store.fork("t1", id="t2")
        with fork.step("more") as step:
            step.put("n", 1)
        store.drop_bases("t1")
        assert store.verify().ok
        assert answers(store, "t2")[: trace.version] == expected


def test_a_base_says_why_it_was_written_and_what_it_weighs(path, record, raw):
    with es.open(path, fold_policy=Links()) as store:
        record(store, 3)
        rows = raw.execute(
            "SELECT seq, kind, parent, body_bytes, chain_bytes, reason FROM bases ORDER BY seq"
        ).fetchall()
    assert [(seq, kind, reason) for seq, kind, _, _, _, reason in rows] == [
        (5, "link", "a row"), (9, "link", "a row"), (13, "link", "a row"),
    ]  # fmt: skip
    assert [parent for _, _, parent, *_ in rows] == [0, 1, 2]
    total = 0
    for _, _, _, body_bytes, chain_bytes, _ in rows:
        total += body_bytes
        assert chain_bytes == total


def test_a_base_rides_in_the_commit_that_asked_for_it(path, record, raw):
    with es.open(path, fold_policy=Wholes()) as store:
        trace = record(store, 1)
        counted = []
        store._database.writer.set_commit_hook(lambda: bool(counted.append(1)))
        with trace.step("work") as step:
            step.put("n", 1)
        assert len(counted) == 1
        assert raw.execute("SELECT max(seq) FROM base").get == trace.version


# Damage


@pytest.fixture(params=["links", "wholes"])
def based(request, path, record):
    """A closed store whose trace has a base on every row."""
    with es.open(path, fold_policy=Links() if request.param == "links" else Wholes()) as store:
        record(store, 12)
    return path


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE base SET body = CAST(substr(body, 1, 9) || x'41' || substr(body, 11) AS BLOB)",
        "UPDATE base SET body = x''",
        "UPDATE base SET body = CAST('no json at all' AS TEXT)",
        "UPDATE base SET body = CAST(x'ff41ff' AS TEXT)",
        "UPDATE base SET checksum = checksum + 1",
        "UPDATE base SET checksum = -1",
        "UPDATE base SET seq = seq - 2",
        "UPDATE base SET state_bytes = state_bytes + 1",
        "UPDATE base SET chain_bytes = chain_bytes + 1",
    ],
)
@pytest.mark.parametrize("which", ["every one", "the newest"])
def test_a_damaged_base_is_reported_ignored_and_replaced(based, tamper, expected, damage, which):
    tamper(damage + ("" if which == "every one" else " WHERE seq = (SELECT max(seq) FROM base)"))
    with es.open(based) as store:
        assert not store.verify().ok
        with pytest.warns(es.BaseCorrupted, match="the log is whole"):
            assert store.state_at("t1") == expected[-1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", es.BaseCorrupted)
            assert answers(store) == expected
        with silence():
            assert answers(store) == expected
        assert store.verify().ok
        assert store.stats().traces[0].bases >= 1


def test_a_link_without_its_parent_is_reported_ignored_and_replaced(path, record, tamper, expected):
    with es.open(path, fold_policy=Links()) as store:
        record(store, 12)
    tamper("DELETE FROM base WHERE seq = 21")
    with es.open(path) as store:
        problems = store.verify().problems
        assert [problem.check for problem in problems] == ["base"]
        assert not problems[0].in_log
        with pytest.warns(es.BaseCorrupted, match="is gone"):
            assert store.state_at("t1") == expected[-1]
        with silence():
            assert answers(store) == expected


def test_a_read_only_store_answers_over_damaged_bases_too(based, tamper, expected):
    tamper("UPDATE base SET checksum = 0")
    with es.open(based, read_only=True) as store, pytest.warns(es.BaseCorrupted):
        assert answers(store) == expected
        assert store.stats().traces[0].bases == 12


def test_an_open_trace_goes_on_over_damaged_bases(based, tamper, expected):
    tamper("UPDATE base SET checksum = 0")
    with es.open(based, fold_policy=Links()) as store:
        with pytest.warns(es.BaseCorrupted):
            trace = store.open_trace("t1")
            assert trace.state == expected[-1]
        for _ in range(3):
            with trace.step("more") as step:
                step.put("n", 1)
        assert store.state_at("t1") == trace.state == expected[-1] | {"n": 15}
        assert store.verify().ok


def test_a_base_is_trusted_in_its_own_trace_only(path, record, tamper):
    with es.open(path, fold_policy=Wholes()) as store:
        record(store, 3, "t1")
        other = store.start({"log": [], "n": 100, "text": ""}, id="t2")
        for _ in range(3):
            other.append([es.StateDelta.put("n", 200)] * 4)
        store.drop_bases("t2")
    tamper(
        "INSERT INTO base"
        " (trace, seq, parent, chain_bytes, state_bytes, log_bytes, base_bytes, at_us, checksum, reason, body)"
        " SELECT 2, seq, parent, chain_bytes, state_bytes, log_bytes, base_bytes, at_us, checksum, reason, body"
        " FROM base WHERE trace = 1"
    )
    with es.open(path) as store, pytest.warns(es.BaseCorrupted):
        assert store.state_at("t2") == {"log": [], "n": 200, "text": ""}


def test_a_damaged_base_under_a_damaged_row_still_gives_what_the_log_has(path, record, tamper, expected):
    with es.open(path, fold_policy=Wholes()) as store:
        record(store, 12)
    with es.open(path, fold_policy=es.NeverFold()) as store:
        store.append("t1", [es.StateDelta.put("n", 0)])
    tamper("UPDATE base SET checksum = 0")
    tamper("""UPDATE log SET body = '[{"key":"text","op":"sum","value":1}]' WHERE first_seq = 46""")
    with es.open(path) as store, pytest.warns(es.BaseCorrupted):
        assert store.state_at("t1", 9) == expected[8]


def test_a_damaged_row_does_not_hold_up_the_appends_of_others(path, record, tamper):
    with es.open(path, fold_policy=es.NeverFold()) as store:
        record(store, 3, "t1")
        record(store, 3, "t2")
        sick, well = store.open_trace("t1"), store.open_trace("t2")
        assert sick.state["n"] == well.state["n"] == 3
        tamper("""UPDATE log SET body = '[{"key":"text","op":"sum","value":1}]' WHERE trace = 1 AND first_seq = 6""")
        store.fold_policy = Wholes()
        with pytest.warns(es.BaseCorrupted, match="no base for trace t1"):
            sick.append([es.StateDelta.put("n", 4)])
        well.append([es.StateDelta.put("n", 4)])
        assert store.state_at("t2")["n"] == 4
        assert {problem.trace_id for problem in store.verify().problems} == {"t1"}


# Several writers


@pytest.mark.parametrize("policies", [(Links(), Links()), (Links(), Wholes()), (Wholes(), es.NeverFold())])
def test_two_writers_chains_interleave_and_stay_right(path, record, policies):
    with es.open(path, fold_policy=policies[0]) as one, es.open(path, fold_policy=policies[1]) as two, silence():
        handles = [record(one, 2), two.open_trace("t1")]
        history = {}
        for number in range(24):
            handle = handles[number % 3 % 2]
            handle.refresh()
            with handle.step("work") as step:
                step.append("log", number)
                step.put("n", 1)
                if number % 5 == 4:
                    step.splice("log", 0, 2)
            history[handle.version] = dict(handle.state, log=list(handle.state["log"]))
        for store in (one, two):
            assert all(store.state_at("t1", seq) == state for seq, state in history.items())
            assert store.verify().ok


def test_a_base_covers_what_other_writers_added(path, record):
    with es.open(path, fold_policy=es.NeverFold()) as one, es.open(path, fold_policy=Links()) as two:
        trace = record(one, 2)
        other = two.open_trace("t1")
        assert other.state == trace.state
        trace.append([es.StateDelta.put("theirs", 1)])
        other.append([es.StateDelta.put("mine", 2)], expected_version=es.ANY)
        with silence():
            assert two.state_at("t1")["theirs"] == 1 and two.state_at("t1")["mine"] == 2
        assert two.verify().ok


def test_a_fork_stands_on_its_parents_bases_up_to_the_fork_only(path, record, expected):
    with es.open(path, fold_policy=Wholes()) as store:
        record(store, 12)
        fork = store.fork("t1", at=25, id="t2")
        assert fork.state == expected[24]
        assert answers(store, "t2")[:25] == expected[:25]
        for number in range(4):
            with fork.step("other") as step:
                step.put("n", 100)
                step.append("log", number)
        assert store.state_at("t1") == expected[-1]
        assert store.state_at("t2")["n"] == 406
        store.drop_bases()
        assert store.state_at("t2") == fork.state
        assert store.verify().ok


def test_a_checkpoint_asks_for_a_base_at_its_place(path, record, raw):
    with es.open(path, fold_policy=es.AdaptiveFold(min_tail_deltas=1)) as store:
        trace = record(store, 30)
        store.drop_bases()
        trace = store.open_trace("t1")
        trace.checkpoint()
        assert raw.execute("SELECT max(seq) FROM base").get == trace.version
        assert store.verify().ok


def test_apsw_and_the_engine_agree_on_the_size_of_a_body(path, record):
    with es.open(path, fold_policy=Wholes()) as store:
        record(store, 5)
        figures = store.stats().traces[0]
        connection = apsw.Connection(path)
        assert connection.execute("SELECT sum(octet_length(body)) FROM base").get == figures.base_bytes
        assert connection.execute("SELECT sum(octet_length(body)) FROM log").get == figures.log_bytes
        connection.close()
    assert figures.c1 == figures.base_bytes / figures.log_bytes
