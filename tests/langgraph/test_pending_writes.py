"""What tasks wrote at a checkpoint: in which order it is given back, what replaces what, and when it may come."""

from __future__ import annotations

import asyncio
import threading

import pytest
from langgraph.checkpoint.base import WRITES_IDX_MAP
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, SCHEDULED, TASKS
from langgraph.types import Interrupt, Send
from savers import at, put, uuid_of, write


def written(saver, number, **where):
    """The pending writes of a checkpoint as (task, channel, value)."""
    found = saver.get_tuple(at(where.pop("thread", "t"), uuid_of(number), **where))
    return [tuple(one) for one in found.pending_writes]


def test_a_checkpoint_begins_without_writes(saver):
    put(saver, 1)
    assert written(saver, 1) == []


def test_writes_of_one_task_keep_their_order(saver):
    put(saver, 1)
    write(saver, 1, ("b", 1), ("a", 2), ("b", 3))
    assert written(saver, 1) == [("task", "b", 1), ("task", "a", 2), ("task", "b", 3)]


def test_more_than_ten_writes_are_ordered_as_numbers(saver):
    put(saver, 1)
    write(saver, 1, *[("a", number) for number in range(120)])
    assert [value for _, _, value in written(saver, 1)] == list(range(120))


def test_tasks_are_ordered_by_path_then_id_whenever_they_came(saver):
    put(saver, 1)
    write(saver, 1, ("a", 1), task="x", path="~2")
    write(saver, 1, ("a", 2), task="z", path="~1")
    write(saver, 1, ("a", 3), task="y", path="~1")
    write(saver, 1, ("a", 4), task="zz")
    write(saver, 1, ("a", 5), task="aa")
    assert [(task, value) for task, _, value in written(saver, 1)] == [
        ("aa", 5), ("zz", 4), ("y", 3), ("z", 2), ("x", 1),
    ]  # fmt: skip


def test_an_ordinary_write_counts_once_for_a_task_and_index(saver):
    put(saver, 1)
    write(saver, 1, ("a", "first"))
    write(saver, 1, ("b", "again"), ("b", "second"))
    assert written(saver, 1) == [("task", "a", "first"), ("task", "b", "second")]


def test_an_ordinary_write_again_leaves_the_path_of_the_first(saver):
    put(saver, 1)
    write(saver, 1, ("a", 1), task="x", path="~1")
    write(saver, 1, ("a", 2), task="y", path="~2")
    write(saver, 1, ("a", 3), task="x", path="~3")
    assert [task for task, _, _ in written(saver, 1)] == ["x", "y"]


@pytest.mark.parametrize("channel", sorted(WRITES_IDX_MAP))
def test_a_special_write_replaces_the_one_before(saver, channel):
    put(saver, 1)
    write(saver, 1, (channel, "first"))
    write(saver, 1, ("a", 1), (channel, "second"))
    write(saver, 1, (channel, "of another task"), task="other")
    write(saver, 1, (channel, "third"))
    assert sorted(written(saver, 1)) == sorted(
        [("task", channel, "third"), ("task", "a", 1), ("other", channel, "of another task")]
    )


def test_the_last_of_a_special_channel_in_one_call_stays(saver):
    put(saver, 1)
    write(saver, 1, (RESUME, "first"), (RESUME, "second"))
    assert written(saver, 1) == [("task", RESUME, "second")]


def test_special_writes_come_before_ordinary_ones_of_their_task(saver):
    put(saver, 1)
    write(saver, 1, ("a", 1), (ERROR, "e"), (SCHEDULED, "s"), (INTERRUPT, "i"), (RESUME, "r"))
    assert [channel for _, channel, _ in written(saver, 1)] == [RESUME, INTERRUPT, SCHEDULED, ERROR, "a"]


def test_a_special_write_that_replaces_takes_its_own_path(saver):
    put(saver, 1)
    write(saver, 1, (ERROR, 1), task="x", path="~1")
    write(saver, 1, (ERROR, 2), task="y", path="~2")
    write(saver, 1, (ERROR, 3), task="x", path="~3")
    assert [value for _, _, value in written(saver, 1)] == [2, 3]


@pytest.mark.parametrize(
    "value", [None, False, 0, 0.0, "", [], {}, b"", [1, True, 1.0], Send("node", {"a": 1}), Interrupt("?", id="i")]
)
def test_values_come_back_as_they_were(saver, value):
    put(saver, 1)
    write(saver, 1, ("a", value), (TASKS, [value]))
    assert [repr(found) for _, _, found in written(saver, 1)] == [repr(value), repr([value])]


def test_no_writes_are_nothing(saver):
    put(saver, 1)
    write(saver, 1)
    assert written(saver, 1) == []


def test_writes_may_come_before_their_checkpoint(make_saver):
    saver = make_saver()
    put(saver, 1)
    write(saver, 2, ("a", "early"))
    assert saver.get_tuple(at("t", uuid_of(2))) is None
    assert len(list(saver.list(at()))) == 1
    put(make_saver(), 2, under=1)
    write(saver, 2, ("a", "again"), ("b", "late"))
    assert written(saver, 2) == [("task", "a", "early"), ("task", "b", "late")]
    assert written(saver, 1) == []


def test_writes_may_come_before_their_thread(make_saver):
    saver = make_saver()
    write(saver, 1, ("a", "early"))
    assert saver.get_tuple(at()) is None
    assert list(saver.list(at())) == list(saver.list(None)) == []
    put(saver, 1)
    assert written(saver, 1) == written(make_saver(), 1) == [("task", "a", "early")]


def test_writes_may_come_after_the_child(make_saver):
    saver = make_saver()
    for number in range(3):
        put(saver, number, under=number - 1 if number else None, values={"n": number})
    write(saver, 0, ("a", "late"))
    write(make_saver(), 1, ("a", "later"))
    assert [written(saver, number) for number in range(3)] == [
        [("task", "a", "late")], [("task", "a", "later")], [],
    ]  # fmt: skip


def test_each_thread_namespace_and_checkpoint_has_its_own(saver):
    places = [("t", "", 1), ("t", "", 2), ("t", "child:1", 1), ("other", "", 1)]
    for thread, namespace, number in places:
        put(saver, number, thread=thread, namespace=namespace)
        write(saver, number, ("a", [thread, namespace, number]), thread=thread, namespace=namespace)
    for thread, namespace, number in places:
        assert written(saver, number, thread=thread, namespace=namespace) == [
            ("task", "a", [thread, namespace, number])
        ]


def test_a_config_without_a_namespace_means_the_root(saver):
    put(saver, 1)
    saver.put_writes({"configurable": {"thread_id": "t", "checkpoint_id": uuid_of(1)}}, [("a", 1)], "task")
    assert written(saver, 1) == [("task", "a", 1)]


def test_lists_show_writes_too(saver):
    for number in range(3):
        put(saver, number, under=number - 1 if number else None)
        write(saver, number, ("a", number))
    assert [found.pending_writes[0][2] for found in saver.list(at())] == [2, 1, 0]


def test_a_checkpoint_put_again_keeps_its_writes(saver):
    put(saver, 1, values={"a": 1})
    write(saver, 1, ("a", 2))
    put(saver, 1, values={"a": 1})
    assert written(saver, 1) == [("task", "a", 2)]


def test_tasks_write_from_many_threads(make_saver):
    saver = make_saver()
    put(saver, 1)
    begin = threading.Barrier(16)

    def work(number):
        begin.wait()
        for turn in range(5):
            write(saver, 1, *[("a", [number, index]) for index in range(turn + 1)], task=f"{number:02}", path="~")
            write(saver, 1, (RESUME, turn), task=f"{number:02}", path="~")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    expected = []
    for number in range(16):
        expected += [(f"{number:02}", RESUME, 4)] + [(f"{number:02}", "a", [number, index]) for index in range(5)]
    assert written(saver, 1) == written(make_saver(), 1) == expected


def test_tasks_write_while_the_line_grows(make_saver):
    savers = [make_saver(), make_saver()]
    put(savers[0], 0, values={"log": []})

    def grow():
        log = []
        for number in range(1, 40):
            log = [*log, number]
            put(savers[0], number, under=number - 1, values={"log": log})

    def work(which):
        for number in range(40):
            write(savers[which], number, ("a", number), task=f"{which}")

    workers = [threading.Thread(target=grow), *[threading.Thread(target=work, args=(which,)) for which in (0, 1)]]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for saver in savers:
        for number in range(40):
            assert written(saver, number) == [("0", "a", number), ("1", "a", number)]
            values = saver.get_tuple(at("t", uuid_of(number))).checkpoint["channel_values"]
            assert values == {"log": list(range(1, number + 1))}


def test_tasks_write_concurrently_on_one_loop(saver):
    put(saver, 1)

    async def all_of_them():
        await asyncio.gather(
            *[saver.aput_writes(at("t", uuid_of(1)), [("a", number)], f"{number:03}", "~") for number in range(100)]
        )
        found = await saver.aget_tuple(at("t", uuid_of(1)))
        return [value for _, _, value in found.pending_writes]

    assert asyncio.run(all_of_them()) == list(range(100))


@pytest.mark.usefixtures("ours")
class TestRetention:
    """What deletes checkpoints deletes their writes."""

    def test_a_deleted_thread_leaves_no_writes_behind(self, saver):
        put(saver, 1)
        write(saver, 1, ("a", "old"))
        write(saver, 2, ("a", "early"))
        saver.delete_thread("t")
        put(saver, 1)
        put(saver, 2, under=1)
        assert written(saver, 1) == written(saver, 2) == []
        write(saver, 1, ("a", "new"))
        assert written(saver, 1) == [("task", "a", "new")]

    def test_a_copied_thread_goes_on_by_itself(self, make_saver):
        saver = make_saver()
        put(saver, 1)
        write(saver, 1, ("a", 1), (RESUME, 1))
        saver.copy_thread("t", "copy")
        write(saver, 1, ("b", 2), ("b", 3), (RESUME, 2), thread="copy")
        write(saver, 1, ("c", 4), ("c", 5), ("c", 6))
        assert written(make_saver(), 1) == [
            ("task", RESUME, 1), ("task", "a", 1), ("task", "c", 5), ("task", "c", 6),
        ]  # fmt: skip
        saver.delete_thread("t")
        assert written(saver, 1, thread="copy") == [("task", RESUME, 2), ("task", "a", 1), ("task", "b", 3)]

    def test_pruning_keeps_the_writes_of_what_stays(self, make_saver):
        saver = make_saver()
        for number in range(4):
            put(saver, number, under=number - 1 if number else None)
            write(saver, number, ("a", number))
        saver.prune(["t"])
        assert written(saver, 3) == written(make_saver(), 3) == [("task", "a", 3)]
        write(saver, 3, ("b", "ignored"), ("b", "more"))
        assert written(saver, 3) == [("task", "a", 3), ("task", "b", "more")]

    def test_writes_that_came_early_survive_a_prune(self, saver):
        put(saver, 1)
        put(saver, 2, under=1)
        write(saver, 3, ("a", "early"))
        saver.prune(["t"])
        put(saver, 3, under=2)
        assert written(saver, 3) == [("task", "a", "early")]
