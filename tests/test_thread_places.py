"""Threads of LangGraph from Python: what there are, where their checkpoints stand, and places by their ids."""

from __future__ import annotations

import pytest
from langgraph.checkpoint.base import empty_checkpoint

import eventstore as es
from eventstore import log, threads
from eventstore.integrations.langgraph import EventStoreSaver


def id_of(number):
    """An id that sorts by its number, in the shape that LangGraph gives them."""
    return f"{number:08x}-0000-6000-8000-000000000000"


def at(thread, number=None, namespace=""):
    checkpoint = {} if number is None else {"checkpoint_id": id_of(number)}
    return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, **checkpoint}}


@pytest.fixture
def saver(store):
    return EventStoreSaver(store)


@pytest.fixture
def put(saver):
    """`put(number, under=…, thread=…, namespace=…)`: a checkpoint that writes the channel n."""

    def run(number, under=None, thread="alpha", namespace="", source="loop"):
        versions = {"n": number}
        checkpoint = {**empty_checkpoint(), "id": id_of(number), "channel_values": {"n": number}}
        checkpoint["channel_versions"] = versions
        metadata = {"source": source, "step": number, "parents": {}}
        saver.put(at(thread, under, namespace), checkpoint, metadata, versions)

    return run


@pytest.fixture
def branched(put, saver):
    """Thread alpha: checkpoints 1, 2, 3 on one line, 4 and 5 on a fork after 2."""
    put(1, source="input")
    put(2, under=1)
    put(3, under=2)
    put(4, under=2, source="fork")
    put(5, under=4)
    saver.put_writes(at("alpha", 5), [("n", 7)], "task-1")


def told(found):
    return [(int(one.checkpoint_id[:8], 16), one.parent_id and int(one.parent_id[:8], 16)) for one in found]


# What there is


def test_a_thread_tells_its_newest_checkpoint_and_its_branches(store, saver, put, branched):
    put(9, thread="beta")
    put(10, thread="beta", namespace="sub:1")
    beta, alpha = threads.threads(store)
    assert (alpha.adapter, alpha.thread_id, alpha.namespaces) == ("langgraph", "alpha", [""])
    assert (alpha.checkpoints, alpha.branches, alpha.newest) == (5, 2, id_of(5))
    assert (alpha.trace_id, alpha.seq) == saver.place(at("alpha"))
    assert alpha.at == store.open_trace(alpha.trace_id).at(alpha.seq).at
    assert (beta.namespaces, beta.checkpoints, beta.branches, beta.newest) == (["", "sub:1"], 2, 1, id_of(9))


def test_a_thread_without_a_root_namespace_tells_the_newest_of_the_others(store, put):
    put(1, namespace="sub")
    (alpha,) = threads.threads(store)
    assert (alpha.namespaces, alpha.newest) == (["sub"], id_of(1))


def test_a_thread_that_has_only_writes_has_no_newest_checkpoint(store, saver):
    saver.put_writes(at("early", 1), [("n", 1)], "task-1")
    (early,) = threads.threads(store)
    assert (early.checkpoints, early.branches, early.newest, early.trace_id, early.at) == (0, 0, None, None, None)
    assert threads.checkpoints(store, "early") == []


def test_threads_come_in_pages_the_last_begun_first(store, put):
    for number, thread in enumerate("abcde", 1):
        put(number, thread=thread)
    put(9, under=1, thread="a")
    page = threads.threads(store, limit=3)
    assert [info.thread_id for info in page] == ["e", "d", "c"]
    assert [info.thread_id for info in threads.threads(store, limit=3, after=page[-1])] == ["b", "a"]
    assert threads.threads(store, adapter="other") == []
    assert len(threads.threads(store, adapter="langgraph")) == 5


def test_checkpoints_come_newest_first_with_what_they_were_made_from(store, saver, branched):
    found = threads.checkpoints(store, "alpha")
    assert told(found) == [(5, 4), (4, 2), (3, 2), (2, 1), (1, None)]
    assert [(one.step, one.source) for one in found[1:]] == [(4, "fork"), (3, "loop"), (2, "loop"), (1, "input")]
    assert [(one.trace_id, one.seq) for one in found] == [
        saver.place(at("alpha", number)) for number in (5, 4, 3, 2, 1)
    ]
    assert [one.writes for one in found] == [1, 0, 0, 0, 0]
    assert {one.node for one in found} == {"loop", "fork", "input"}
    assert found[0].metadata == {"source": "loop", "step": 5, "parents": {}}
    assert all(one.at == store.open_trace(one.trace_id).at(one.seq).at for one in found)


def test_checkpoints_come_in_pages(store, branched):
    assert told(threads.checkpoints(store, "alpha", limit=2)) == [(5, 4), (4, 2)]
    assert told(threads.checkpoints(store, "alpha", limit=2, before=id_of(4))) == [(3, 2), (2, 1)]
    assert threads.checkpoints(store, "nobody") == threads.checkpoints(store, "alpha", "sub") == []
    assert threads.checkpoints(store, "alpha", adapter="other") == []


def test_what_was_deleted_is_not_told(store, saver, branched):
    saver.delete_thread("alpha")
    assert threads.threads(store) == [] and threads.checkpoints(store, "alpha") == []
    assert threads.named(store, "alpha") == []


def test_a_damaged_commit_is_named(store, branched, tamper):
    tamper("UPDATE log SET body = '{' WHERE first_seq > 1")
    with pytest.raises(es.LogCorrupted, match="not an event body"):
        threads.checkpoints(store, "alpha")
    tamper("DELETE FROM log")
    with pytest.raises(es.LogCorrupted, match="a checkpoint stands where there is no commit"):
        threads.checkpoints(store, "alpha")


# What a text names


def test_a_text_names_a_thread_or_one_of_its_namespaces(store, saver, put, branched):
    put(9, namespace="sub:1")
    (root,) = threads.named(store, "alpha")
    assert (root.adapter, root.thread_id, root.namespace) == ("langgraph", "alpha", "")
    assert root.trace_id == saver.place(at("alpha"))[0]
    (sub,) = threads.named(store, "alpha:sub:1")
    assert (sub.label, sub.trace_id) == ("alpha:sub:1", saver.place(at("alpha", 9, "sub:1"))[0])
    assert threads.named(store, "alpha:") == threads.named(store, "alph") == threads.named(store, "\udcff") == []


def test_a_thread_without_a_root_namespace_names_those_that_it_has(store, put):
    put(1, namespace="a")
    put(2, namespace="b")
    assert [one.label for one in threads.named(store, "alpha")] == ["alpha:a", "alpha:b"]


def test_one_text_may_name_two_things(store, put):
    put(1, thread="a:b")
    put(2, thread="a", namespace="b")
    assert [(one.thread_id, one.namespace) for one in threads.named(store, "a:b")] == [("a:b", ""), ("a", "b")]


# Places


def line(store, saver, number):
    return store.open_trace(saver.place(at("alpha", number))[0])


def test_a_checkpoint_of_the_thread_is_a_place(store, saver, branched):
    for number in (1, 2, 3):
        past = line(store, saver, 3).at(id_of(number))
        assert past.seq == saver.place(at("alpha", number))[1] and past.is_boundary
        assert past.state == {"n": es.Opaque("msgpack", bytes([number]))}


@pytest.mark.parametrize("place", ["00000003", "checkpoint:3", "checkpoint:00000003-0000-6", id_of(3).upper()])
def test_a_unique_beginning_is_enough(store, saver, branched, place):
    trace = line(store, saver, 3)
    if place == "checkpoint:3":
        with pytest.raises(es.PlaceNotFound, match=r"begins so$"):
            trace.at(place)
        return
    if place == "00000003":  # digits alone are a seq
        place = f"checkpoint:{place}"
    assert trace.at(place).seq == saver.place(at("alpha", 3))[1]


def test_a_beginning_that_several_share_names_them(store, saver, branched):
    with pytest.raises(es.PlaceNotFound, match=rf"several of its checkpoints begin so: {id_of(1)} at seq"):
        line(store, saver, 3).at("checkpoint:0000000")


def test_a_fork_has_the_shared_checkpoints_and_its_own_only(store, saver, branched):
    fork = line(store, saver, 5)
    assert [fork.at(id_of(number)).seq for number in (1, 2, 4, 5)] == [
        saver.place(at("alpha", number))[1] for number in (1, 2, 4, 5)
    ]
    trace_id, seq = saver.place(at("alpha", 3))
    with pytest.raises(es.PlaceNotFound, match=f"{id_of(3)} of its thread is in trace {trace_id} at seq {seq}"):
        fork.at(id_of(3))
    with pytest.raises(es.PlaceNotFound, match=r"begins so$"):
        fork.at(id_of(9))


def test_every_verb_that_takes_a_place_takes_it(store, saver, branched):
    trace = line(store, saver, 3)
    assert trace.at(checkpoint=id_of(2)).seq == saver.place(at("alpha", 2))[1]
    assert store.get(trace.id, "n", at=id_of(2)) == es.Opaque("msgpack", b"\x02")
    forked = store.fork(trace.id, id_of(2), name="what if")
    assert forked.state["n"] == es.Opaque("msgpack", b"\x02")
    assert forked.at(id_of(1)).seq == saver.place(at("alpha", 1))[1]  # and the fork has them too
    assert str(es.diff(trace.at(id_of(1)), trace.at(id_of(3)))) == "n: 1 -> 3"


def test_a_checkpoint_of_ours_and_one_of_theirs_are_both_places(store, saver, branched):
    trace = line(store, saver, 3)
    saved = trace.checkpoint()
    assert trace.at(saved.checkpoint_id).seq == trace.version
    assert trace.at(id_of(3)).seq == saver.place(at("alpha", 3))[1]


def test_one_that_was_deleted_or_only_announced_is_no_place(store, saver, put):
    put(1)
    trace = line(store, saver, 1)
    saver.put_writes(at("alpha", 2), [("n", 7)], "task-1")
    with pytest.raises(es.PlaceNotFound, match=r"begins so$"):
        trace.at(id_of(2))


def test_a_copied_thread_shares_its_places(store, saver, branched):
    saver.copy_thread("alpha", "copy")
    assert [told(threads.checkpoints(store, thread)) for thread in ("alpha", "copy")] == [
        [(5, 4), (4, 2), (3, 2), (2, 1), (1, None)]
    ] * 2
    with store._database.reader() as connection:
        row = log.find_trace(connection, saver.place(at("copy", 3))[0])
        segments = log.lineage(connection, row, log.head(connection, row).version)
        found = threads.checkpoints_beginning(connection, segments, "")
    assert [checkpoint for checkpoint, _ in found] == [id_of(1), id_of(2), id_of(3)]
