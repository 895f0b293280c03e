"""Processes that share a file of threads: nobody is refused or held up, and all that was acknowledged is there."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from savers import at, id_of, put, uuid_of, write
from workers import GRAPHS, PROCESSES, SAFETY_S, TellingSaver, Told, go_on, kind_of, started

from eventstore import scopes
from eventstore.integrations.langgraph import EventStoreSaver
from eventstore.trace import Trace

pytestmark = pytest.mark.usefixtures("ours")
COUNT = 8
RUNS = 6
SHARED = "talk shared"


def take_part(part, barrier, path, told, number, *more):
    """In a process of its own: whatever goes wrong is told."""
    tell = Told(told)
    try:
        with TellingSaver(path, tell) as saver:
            barrier.wait(SAFETY_S)
            part(saver, tell, number, *more)
        tell("over", number)
    except BaseException as error:
        tell("error", number, repr(error))
        raise


def together(path, told, *parts):
    """Each part in a process; they begin at once. Gives what was told."""
    barrier = PROCESSES.Barrier(len(parts))
    with ExitStack() as stack:
        processes = [
            stack.enter_context(started(take_part, part[0], barrier, path, told.path, number, *part[1:]))
            for number, part in enumerate(parts)
        ]
        for process in processes:
            process.join(SAFETY_S)
    lines = told.lines()
    assert [line for line in lines if line[0] == "error"] == []
    assert sorted(line[1] for line in lines if line[0] == "over") == list(range(len(parts)))
    return lines


@pytest.fixture
def told(tmp_path):
    return Told(tmp_path / "told.txt")


@pytest.fixture(params=["new file", "file that is there"])
def file(request, path):
    """Where the store is; processes may be the first to open it."""
    if request.param != "new file":
        EventStoreSaver(path).close()
    return path


def acknowledged(lines, thread):
    """By the checkpoint: its parent, as it was acknowledged."""
    return {line[3]: line[2] for line in lines if line[:2] == ["put", thread]}


def check_writes(saver, lines, thread):
    """All writes that were acknowledged wait where they were put."""
    there = {
        id_of(found.config): [[task, channel, repr(value)] for task, channel, value in found.pending_writes]
        for found in saver.list(at(thread))
    }
    for what, name, *more in lines:
        if what == "writes" and name == thread:
            checkpoint, task, said = more
            assert [each for each in there[checkpoint] if each[0] == task] == [[task, *each] for each in said]


def whole(kind):
    """What a run of the graph ends with, and how many checkpoints it has."""
    saver = InMemorySaver()
    return go_on(saver, kind), sum(1 for _ in saver.list(at(kind)))


# Threads of their own


def run_own(saver, tell, number):
    for run, kind in enumerate(GRAPHS):
        go_on(saver, f"{kind} {number}", tell, ["sync", "async"][(number + run) % 2])


def test_each_on_threads_of_its_own(file, told):
    lines = together(file, told, *[(run_own,)] * COUNT)
    with EventStoreSaver(file) as saver:
        for thread in [f"{kind} {number}" for kind in GRAPHS for number in range(COUNT)]:
            values, checkpoints = whole(kind_of(thread))
            parents = {id_of(found.config): id_of(found.parent_config) for found in saver.list(at(thread))}
            assert parents == acknowledged(lines, thread) and len(parents) == checkpoints
            assert GRAPHS[kind_of(thread)](saver).get_state(at(thread)).values == values
            check_writes(saver, lines, thread)
        report = saver.store.verify()
        assert report.ok, report.problems


# All on one thread


def ask(saver, tell, who, run, checkpoint_id=None):
    """A run of one turn on the shared thread, from the latest checkpoint or that one."""
    graph = GRAPHS["talk"](saver, turns=0)
    said = {"messages": [{"role": "user", "content": f"{who} asks {run}"}], "turn": 0}
    return graph.invoke(said, at(SHARED, checkpoint_id), durability=["sync", "async"][run % 2])


def run_shared(saver, tell, number, first):
    ask(saver, tell, number, 0, first)  # all from one place: a branch each
    for run in range(1, RUNS):
        ask(saver, tell, number, run)


def test_all_on_one_thread(path, told):
    with TellingSaver(path, told) as saver:
        ask(saver, told, "somebody", 0)
        first = id_of(saver.get_tuple(at(SHARED)).config)
    lines = together(path, told, *[(run_shared, first)] * COUNT)
    with EventStoreSaver(path) as saver:
        listed = {id_of(found.config): found for found in saver.list(at(SHARED))}
        parents = {name: id_of(found.parent_config) for name, found in listed.items()}
        assert parents == acknowledged(lines, SHARED)
        assert Counter(parents.values())[first] >= COUNT
        check_writes(saver, lines, SHARED)
        said = Counter()
        for name, found in listed.items():
            messages = found.checkpoint["channel_values"].get("messages", [])
            if parents[name] is not None:
                before = listed[parents[name]].checkpoint["channel_values"].get("messages", [])
                assert messages[: len(before)] == before and len(messages) - len(before) in (0, 1)
                said.update(new["content"] for new in messages[len(before) :] if new["role"] == "user")
        everybody = {f"{number} asks {run}": 1 for number in range(COUNT) for run in range(RUNS)}
        assert said == {**everybody, "somebody asks 0": 1}
        report = saver.store.verify()
        assert report.ok, report.problems


# While somebody removes


def run_and_read(saver, tell, number):
    for run in range(RUNS // 2):
        ask(saver, tell, number, run)
        thread = f"search {number} {run}"
        go_on(saver, thread, tell)
        tell("ended", thread, GRAPHS["search"](saver).get_state(at(thread)).values)
        for found in saver.list(at(SHARED)):
            assert found.checkpoint["channel_values"]


def remove(saver, tell, number, how):
    """Until the others are done."""
    while sum(line[0] == "over" for line in tell.lines()) < COUNT - 1:
        assert not any(line[0] == "error" for line in tell.lines())
        for thread in {found.config["configurable"]["thread_id"] for found in saver.list(None)}:
            if how == "prune" or thread == SHARED:
                saver.prune([thread]) if how == "prune" else saver.delete_thread(thread)
                tell("removed", thread)


@pytest.mark.parametrize("how", ["prune", "delete_thread"])
def test_one_removes_what_the_others_write(path, told, how):
    lines = together(path, told, (remove, how), *[(run_and_read,)] * (COUNT - 1))
    values, _ = whole("search")
    ended = {line[1]: line[2] for line in lines if line[0] == "ended"}
    assert len(ended) == (COUNT - 1) * (RUNS // 2) and all(found == values for found in ended.values())
    last = max(number for number, line in enumerate(lines) if line == ["removed", SHARED])
    with EventStoreSaver(path) as saver:
        for thread in ended:
            assert GRAPHS["search"](saver).get_state(at(thread)).values == values
        kept = {id_of(found.config) for found in saver.list(at(SHARED))}
        assert acknowledged(lines[last:], SHARED).keys() <= kept
        report = saver.store.verify()
        assert report.ok, report.problems
        saver.prune([SHARED, *ended])
        for thread in ended:
            assert GRAPHS["search"](saver).get_state(at(thread)).values == values
        assert len(list(saver.list(at(SHARED)))) <= 1 and saver.store.verify().ok


# One comes between the look and the act of another


@pytest.fixture
def two(path):
    """Two savers on a thread of two checkpoints, the second with writes."""
    with EventStoreSaver(path) as one, EventStoreSaver(path) as other:
        put(one, 1, values={"n": 1}, run_id="first")
        put(one, 2, under=1, values={"n": 2}, run_id="second")
        write(one, 2, ("n", 2))
        yield one, other


def meanwhile(monkeypatch, owner, name, act):
    """Once, after that function has looked or before it acts, somebody else does something."""
    real = getattr(owner, name)

    def instead(*arguments, **keywords):
        monkeypatch.setattr(owner, name, real)
        found = real(*arguments, **keywords) if owner is scopes else None
        act()
        return found if owner is scopes else real(*arguments, **keywords)

    monkeypatch.setattr(owner, name, instead)


@pytest.mark.parametrize(("how", "left"), [("prune", [3, 2]), ("delete_thread", [3])])
def test_a_branch_whose_parent_is_removed_before_it_is_committed(two, monkeypatch, how, left):
    one, other = two
    act = {"prune": lambda: other.prune(["t"]), "delete_thread": lambda: other.delete_thread("t")}[how]
    meanwhile(monkeypatch, one._lines, "_commit", act)
    put(one, 3, under=1, values={"n": 3})
    assert [id_of(found.config) for found in one.list(at())] == [uuid_of(number) for number in left]
    assert one.store.verify().ok


def test_a_run_is_deleted_while_another_process_prunes(two, monkeypatch):
    one, other = two

    def act():
        other.prune(["t"])
        put(other, 3, under=2, values={"n": 3}, run_id="third")

    meanwhile(monkeypatch, scopes, "of_run", act)
    one.delete_for_runs(["second"])
    for saver in two:
        write(saver, 3, ("n", "kept"), task=f"task {id(saver)}")
    (found,) = one.list(at())
    assert [value for _, _, value in found.pending_writes] == ["kept", "kept"]
    report = one.store.verify()
    assert report.ok, report.problems


def test_writes_find_their_place_however_often_another_process_is_faster(two):
    one, other = two
    real, left = Trace._commit, [40]

    def later(trace, pending):
        if trace._store is one.store and left[0]:
            left[0] -= 1
            write(other, 2, ("n", left[0]), task=f"faster {left[0]}")
        return real(trace, pending)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trace, "_commit", later)
        write(one, 2, ("n", "slow"), task="slow")
    assert "slow" in [value for _, _, value in one.get_tuple(at()).pending_writes]
