"""Savers on one file, as two processes have it: what one does while the other remembers the thread."""

from __future__ import annotations

import threading

import pytest
from savers import at, id_of, put, uuid_of, write

pytestmark = pytest.mark.usefixtures("ours")


def shown(saver, thread="t"):
    """The checkpoints of a thread, oldest first: number, values, what was written."""
    return [
        (found.metadata["step"], found.checkpoint["channel_values"], [value for _, _, value in found.pending_writes])
        for found in reversed(list(saver.list(at(thread))))
    ]


def grow(saver, first, last):
    """Checkpoints `first` … `last` in a line, each with a list of their numbers and a write of its own."""
    for number in range(first, last + 1):
        put(saver, number, under=number - 1 if number > 1 else None, values={"log": list(range(1, number + 1))})
        write(saver, number, ("log", number))


def grown(first, last):
    return [(number, {"log": list(range(1, number + 1))}, [number]) for number in range(first, last + 1)]


@pytest.fixture(params=["that began the thread", "that found it"])
def two(request, make_saver):
    """A saver in the middle of a thread of two checkpoints, and another."""
    one = make_saver()
    grow(one, 1, 1)
    if request.param == "that found it":
        one = make_saver()
    grow(one, 2, 2)
    return one, make_saver()


def test_both_go_on_from_the_same_place(two):
    one, other = two
    put(other, 3, under=2, values={"log": [1, 2, "other"]})
    put(one, 4, under=2, values={"log": [1, 2, "one"]})
    put(other, 5, under=4, values={"log": [1, 2, "one", "other"]})
    expected = [*grown(1, 2), (3, {"log": [1, 2, "other"]}, []), (4, {"log": [1, 2, "one"]}, [])]
    expected.append((5, {"log": [1, 2, "one", "other"]}, []))
    assert shown(one) == shown(other) == expected
    parents = [id_of(found.parent_config) for found in one.list(at())]
    assert parents == [uuid_of(4), uuid_of(2), uuid_of(2), uuid_of(1), None]


def test_a_pruned_thread_goes_on(two):
    one, other = two
    other.prune(["t"])
    grow(one, 3, 4)
    assert shown(one) == shown(other) == grown(2, 4)


def test_a_thread_that_was_copied_and_pruned_goes_on_and_its_copy_does_not(two):
    one, other = two
    other.copy_thread("t", "copy")
    other.prune(["t"])
    write(one, 2, ("log", 2), ("log", "late"))
    grow(one, 3, 4)
    assert shown(other) == [(2, {"log": [1, 2]}, [2, "late"]), *grown(3, 4)]
    assert shown(other, "copy") == shown(one, "copy") == grown(1, 2)


def test_a_thread_that_was_copied_and_deleted_begins_anew_and_its_copy_does_not(two):
    one, other = two
    other.copy_thread("t", "copy")
    other.delete_thread("t")
    write(one, 2, ("log", "late"))
    grow(one, 3, 4)
    assert shown(other) == grown(3, 4)
    assert shown(other, "copy") == shown(one, "copy") == grown(1, 2)


def test_a_thread_whose_last_run_was_deleted_goes_on(make_saver):
    one, other = make_saver(), make_saver()
    for number in (1, 2, 3):
        put(one, number, under=number - 1 or None, values={"log": list(range(number))}, run_id=f"run {number}")
    other.delete_for_runs(["run 3"])
    put(one, 4, under=3, values={"log": [0, 1, 2, 3]}, run_id="run 4")
    put(one, 5, under=2, values={"log": [0, 1, "fork"]}, run_id="run 5")
    assert [step for step, _, _ in shown(other)] == [1, 2, 4, 5]
    assert other.get_tuple(at("t", uuid_of(4))).checkpoint["channel_values"] == {"log": [0, 1, 2, 3]}


def test_a_copy_and_its_source_grow_apart(two):
    one, other = two
    one.copy_thread("t", "copy")
    put(other, 3, under=2, thread="copy", values={"log": [1, 2, "copy"]})
    grow(one, 3, 3)
    put(one, 4, under=3, thread="copy", values={"log": [1, 2, "copy", 4]})
    assert shown(one) == shown(other) == grown(1, 3)
    assert [values["log"] for _, values, _ in shown(one, "copy")] == [[1], [1, 2], [1, 2, "copy"], [1, 2, "copy", 4]]


@pytest.mark.parametrize("again", ["put", "deleted and put"])
def test_a_checkpoint_that_came_anew_after_it_was_read(make_saver, again):
    """What a reader was given is not what its child stands on now."""
    saver = make_saver()
    put(saver, 1, values={"log": [{"n": 1}]})
    read = saver.get_tuple(at("t", uuid_of(1))).checkpoint["channel_values"]["log"]
    if again != "put":
        saver.delete_thread("t")
    put(saver, 1, values={"log": ["other"] * 3}, versions={"log": 7})
    put(saver, 2, under=1, values={"log": [*read, "new"]})
    for one in (saver, make_saver()):
        assert one.get_tuple(at()).checkpoint["channel_values"] == {"log": [{"n": 1}, "new"]}


def test_a_checkpoint_put_again_leaves_a_sound_file(make_saver):
    saver = make_saver()
    for _ in range(3):
        grow(saver, 1, 3)
    assert shown(saver) == shown(make_saver()) == grown(1, 3)
    report = saver.store.verify()
    assert report.ok, report.problems


def test_an_item_changed_in_place_is_seen_by_an_exact_saver(make_saver):
    saver = make_saver(exact=True)
    todos = [{"done": False}, {"done": False}]
    put(saver, 1, values={"todos": todos})
    todos[0]["done"] = True
    put(saver, 2, under=1, values={"todos": list(todos)})
    assert [values["todos"][0]["done"] for _, values, _ in shown(make_saver())] == [False, True]


def test_many_savers_put_under_one_checkpoint(make_saver):
    savers = [make_saver() for _ in range(6)]
    put(savers[0], 1, values={"log": [1]})
    begin = threading.Barrier(len(savers))

    def work(which):
        begin.wait()
        for turn in range(5):
            number = 10 * which + turn + 10
            put(savers[which], number, under=number - 1 if turn else 1, values={"log": [1, *range(10 * which, number)]})

    workers = [threading.Thread(target=work, args=(which,)) for which in range(len(savers))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = {step: values["log"] for step, values, _ in shown(savers[0])}
    expected = {
        10 * which + turn + 10: [1, *range(10 * which, 10 * which + turn + 10)]
        for which in range(6)
        for turn in range(5)
    }
    assert found == {1: [1], **expected}
    report = savers[0].store.verify()
    assert report.ok, report.problems


def test_a_thread_is_read_while_it_is_pruned(make_saver):
    """Each read gives a whole checkpoint, as it was before or after."""
    one, other, reader = make_saver(), make_saver(), make_saver()
    grow(one, 1, 1)
    last, wrong = 200, []

    def work():
        for number in range(2, last + 1):
            grow(one, number, number)
            if number % 3 == 0:
                other.prune(["t"])

    def is_whole(found):
        return found and found.checkpoint["channel_values"]["log"] == list(range(1, found.metadata["step"] + 1))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        while worker.is_alive():
            found, listed = reader.get_tuple(at()), list(reader.list(at(), limit=1))
            wrong += [each for each in (found, *(listed or [None])) if not is_whole(each)]
    finally:
        worker.join()
    assert wrong == []
    assert shown(reader)[-1] == grown(last, last)[0]
