"""The past of a trace: one place, and every place in one pass."""

from __future__ import annotations

import pytest

import eventstore as es
from eventstore import bases


@pytest.fixture
def chat(store):
    trace = store.start({"log": [], "n": 0}, id="t1", name="chat", reducers={"log": "append"}, node="ask")
    for number in range(6):
        with trace.step("ask", next="ask") as step:
            step.put("log", {"said": number})
            step.put("n", number)
    return trace


def test_a_past_tells_where_the_trace_stood(store, chat):
    barrier_id = chat.raise_barrier("approve")
    past = chat.at(step=2)
    assert (past.trace_id, past.name, past.seq, past.version, past.step) == ("t1", "chat", 7, 7, 2)
    assert (past.node, past.next_node, past.status, past.pending_barriers) == ("ask", "ask", "running", [])
    assert past.state == {"log": [{"said": 0}, {"said": 1}], "n": 1}
    assert past.get("n") == 1 and past.get("n", type=float) == 1.0 and past.get("x", 3) == 3
    with pytest.raises(es.MissingKey):
        past.get("x")
    with pytest.raises(es.Deserialize):
        past.get("log", type=int)
    assert past.at == next(event.at for event in chat.events(after=6))
    assert past.is_boundary and not chat.at(6).is_boundary and chat.at(6).node == "ask"
    assert chat.at(1).node is None
    now = chat.at()
    assert (now.status, now.pending_barriers, now.node) == ("waiting", [barrier_id], None)
    assert repr(past) == "Past('t1', seq=7, step=2)"


def test_a_past_is_its_own(chat):
    past = chat.at(step=1)
    past.state["log"].append("mine")
    assert chat.at(step=1).state["log"] == [{"said": 0}]
    assert chat.state["log"][1] == {"said": 1}


def test_a_past_knows_its_checkpoint_and_its_base(path):
    with es.open(path, fold_policy=es.FoldEvery(3)) as store:
        trace = store.start({"n": 0})
        assert trace.at().checkpoint is None
        for number in range(8):
            with trace.step("add") as step:
                step.put("n", number)
            if number == 3:
                saved = trace.checkpoint("add")
        past = trace.at(step=7)
        assert past.checkpoint == saved and trace.at(step=3).checkpoint is None
        assert past.snapshot.restore() == past.state
        assert 0 < len(past.tail) < 4 and past.tail[-1] == es.StateDelta.put("n", 6)
        forked = trace.fork(saved.seq)
        assert forked.at().checkpoint == saved


def test_history_is_what_looking_at_each_place_gives(chat):
    pasts = list(chat.history())
    assert [(past.seq, past.step, past.node) for past in pasts] == [(1, 0, None)] + [
        (1 + 3 * number, number, "ask") for number in range(1, 7)
    ]
    for past in pasts:
        there = chat.at(past.seq)
        assert past.state == there.state and past.control == there.control and past.at == there.at


def test_history_reads_the_log_once(chat, monkeypatch):
    restored = []
    restore = bases.restore
    monkeypatch.setattr(bases, "restore", lambda *given, **named: restored.append(1) or restore(*given, **named))
    assert len([past.state for past in chat.history()]) == 7
    assert restored == []


def test_history_in_windows_and_backwards(chat):
    seqs = [past.seq for past in chat.history()]
    for after in range(20):
        for upto in range(1, 21):
            wanted = [seq for seq in seqs if after < seq <= upto]
            assert [past.seq for past in chat.history(after=after, upto=upto)] == wanted
            backwards = list(chat.history(after=after, upto=upto, reverse=True))
            assert [past.seq for past in backwards] == wanted[::-1]
    assert [past.seq for past in chat.history(after="step:2", upto="step:-1")] == [10, 13, 16, 19]


def test_a_long_history_backwards(path):
    with es.open(path, durability="normal") as store:
        trace = store.start({"log": []}, reducers={"log": "append"})
        for number in range(1200):
            with trace.step("say") as step:
                step.put("log", number)
        lengths = [len(past.state["log"]) for past in trace.history(reverse=True)]
        assert lengths == list(range(1200, -1, -1))
        first = next(trace.history(reverse=True))
        assert first.seq == trace.version


def test_states_of_a_history_stay_as_they_were(chat):
    with chat.step("change") as step:
        step.merge("doc", {"a": 1})
    with chat.step("change") as step:
        step.merge("doc", {"b": 2})
        step.merge("doc", {"c": 3})
        step.splice("log", 0, 2, ["new"])
    with chat.step("change") as step:
        step.append("log", "last")
    pasts = list(chat.history())
    assert [past.state.get("doc") for past in pasts[-4:]] == [None, {"a": 1}, *[{"a": 1, "b": 2, "c": 3}] * 2]
    assert [len(past.state["log"]) for past in pasts] == [0, 1, 2, 3, 4, 5, 6, 6, 5, 6]


def test_the_history_of_a_trimmed_trace_begins_at_its_root(store, chat):
    store.trim("t1", 10, retry_window_s=0)
    assert [past.seq for past in chat.history()] == [10, 13, 16, 19]
    assert [past.seq for past in chat.history(reverse=True)] == [19, 16, 13, 10]
    root = next(chat.history())
    assert root.state == chat.at(10).state and root.at == chat.at(10).at and root.node is None and root.is_boundary
    with pytest.raises(es.Trimmed):
        list(chat.history(after=3))


def test_the_history_of_a_fork_goes_through_its_parent(chat):
    forked = chat.fork(10)
    with forked.step("other") as step:
        step.put("n", 99)
    assert [(past.seq, past.owner_id == "t1") for past in forked.history()] == [
        (1, True), (4, True), (7, True), (10, True), (11, False), (14 - 1, False)
    ]  # fmt: skip
    again = forked.fork()
    assert [past.seq for past in again.history()][-1] == 14


def test_a_history_goes_on_while_another_process_writes(path, chat):
    pasts = chat.history()
    next(pasts)
    with es.open(path) as other, other.open_trace("t1").step("ask") as step:
        step.put("n", 50)
    assert [past.seq for past in pasts] == [4, 7, 10, 13, 16, 19]
    assert [past.state["n"] for past in chat.history(after=19)] == [50]


def test_an_erased_trace_has_no_past(store, chat):
    past = chat.at()
    store.erase("t1")
    for look in (chat.at, lambda: list(chat.history()), lambda: chat.blame("n"), lambda: chat.why(3), chat.timeline):
        with pytest.raises(es.TraceErased):
            look()
    assert past.state["n"] == 5


@pytest.fixture
def long(path):
    with es.open(path, durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        for number in range(1500):
            with trace.step("count") as step:
                step.put("n", number)
        yield store, trace


def test_a_trim_under_a_history_is_told(long):
    """Never are states passed over in silence, and never is one given twice."""
    store, trace = long
    backwards, forwards = trace.history(reverse=True), trace.history()
    assert next(backwards).seq == 3001 and next(forwards).seq == 1
    store.trim("t1", 2501, retry_window_s=0)
    for pasts, seqs in ((backwards, range(2999, 0, -2)), (forwards, range(3, 3002, 2))):
        given = []
        with pytest.raises(es.Trimmed):
            for past in pasts:
                given.append(past.seq)  # noqa: PERF401 - what came before the error counts
        assert given == list(seqs)[: len(given)]
    with pytest.raises(es.Trimmed):
        list(trace.history(upto=20))
    for reverse in (False, True):
        assert list(trace.history(after=9999, reverse=reverse)) == []


def test_backwards_few_states_are_held(long, monkeypatch):
    import gc

    _, trace = long
    most = 0
    for index, _ in enumerate(trace.history(reverse=True)):
        if index % 50 == 0:
            most = max(most, sum(type(item) is es.Past for item in gc.get_objects()))
    assert most <= 40


def test_a_step_within_a_commit_is_a_place_to_look_at(store):
    trace = store.start({"n": 0}, id="t1")
    put, executed = es.StateDelta.put, es.NodeExecuted
    trace.append([put("n", 1), executed("a", next="b"), put("n", 2), executed("b", next="c"), put("n", 3)])
    assert [(trace.at(step=step).seq, trace.at(step=step).state["n"]) for step in (0, 1, 2)] == [(1, 0), (3, 1), (6, 3)]
    assert trace.at(step=1).step == 1
    with pytest.raises(es.NotAStepBoundary):
        trace.fork("step:1")
