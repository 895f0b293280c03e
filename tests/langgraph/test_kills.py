"""A process that is killed at any instant loses nothing that was acknowledged, and the next one goes on from there.

`SAVER_KILLS=150` or `HYPOTHESIS_PROFILE=long` kill more often; `FAULTS_SEED` is that of the random choices.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import shutil
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, closing
from functools import cache

import apsw
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from savers import at, exact, id_of, put, uuid_of, write
from workers import GRAPHS, SAFETY_S, TellingSaver, Told, go_on, kind_of, started

import eventstore as es
from eventstore.integrations.langgraph import EventStoreSaver, import_sqlite
from eventstore.integrations.langgraph.journal import writes_of
from eventstore.scopes import ScopeKey

pytestmark = pytest.mark.usefixtures("ours")
SEED = int(os.environ.get("FAULTS_SEED", "20260301"))
KILLS = int(os.environ.get("SAVER_KILLS", "150" if os.environ.get("HYPOTHESIS_PROFILE") == "long" else "15"))
KEY = ScopeKey("langgraph", "t", "")
DEFAULT_WAIT: dict[str, float] = {}


class Broken(AssertionError):
    """A law does not hold."""


# Runs


def run_threads(path, told, number, options, durability):
    """In a process of its own: one thread after the other, for ever."""
    tell = Told(told)
    with TellingSaver(path, tell, **options) as saver:
        for later in itertools.count(number):
            for kind in GRAPHS:
                thread = f"{kind} {later}"
                go_on(saver, thread, tell, durability)
                tell("finished", thread)


@cache
def uninterrupted(kind):
    """What each step of the graph's run leaves: by the step, the values and what they lead to."""
    saver = InMemorySaver()
    go_on(saver, kind)
    return {found.metadata["step"]: state_of(found) for found in saver.list(at(kind))}


def state_of(found):
    return {channel: repr(value) for channel, value in found.checkpoint["channel_values"].items()}


def check(saver, lines):
    """Raise Broken unless the threads are as these lines tell. What was not acknowledged may be there."""
    threads = defaultdict(list)
    for what, thread, *more in lines:
        threads[thread].append((what, *more))
    for thread, told in threads.items():
        there = {id_of(found.config): found for found in saver.list(at(thread))}
        check_checkpoints(kind_of(thread), there, told)
        check_writes(there, told, announced(saver, thread))
        check_order(thread, there, told)


def check_checkpoints(kind, there, told):
    expected = uninterrupted(kind)
    for what, *more in told:
        if what == "put":
            parent, name = more
            if name not in there:
                raise Broken(f"checkpoint {name} was acknowledged and is lost")
            if id_of(there[name].parent_config) != parent:
                raise Broken(f"checkpoint {name} has another parent")
    steps = [found.metadata["step"] for found in there.values()]
    if steps != sorted(set(steps), reverse=True) or (steps and steps[-1] != -1):
        raise Broken(f"not one checkpoint a step: {steps}")
    for found in there.values():
        if state_of(found) != expected[found.metadata["step"]]:
            raise Broken(f"step {found.metadata['step']}: {state_of(found)}")
    if ("finished",) in told and len(steps) != len(expected):
        raise Broken(f"the run has ended and has {len(steps)} checkpoints, not {len(expected)}")


def announced(saver, thread):
    """The checkpoints that have not come, and how many tasks' writes wait for each."""
    with saver.store._database.reader() as connection:
        return dict(
            connection.execute(
                "SELECT checkpoint_id, writes FROM threads WHERE thread_id = ? AND status = 'announced'", (thread,)
            )
        )


def check_writes(there, told, to_come):
    """An async run may write before its checkpoint has come; those writes are kept for it."""
    early = Counter(name for what, name, *_ in (line for line in told if line[0] == "writes") if name not in there)
    if any(to_come.get(name, 0) < count for name, count in early.items()):
        raise Broken(f"writes for checkpoints to come: {to_come}, of which {early} were acknowledged")
    for what, *more in told:
        if what == "writes" and more[0] in there:
            name, task, said = more
            found = [[channel, repr(value)] for writer, channel, value in there[name].pending_writes if writer == task]
            if found != said:
                raise Broken(f"writes of task {task} at {name}: {found}, not {said}")


def check_order(thread, there, told):
    """No node runs again whose writes were acknowledged; each process goes on from the latest checkpoint."""
    nodes, over, latest = {}, set(), None
    for what, *more in told:
        if what == "ran":
            node, task = more
            if node in over:
                raise Broken(f"{thread}: {node} ran again")
            nodes[task] = node
        elif what == "writes":
            over.update({nodes[more[1]]} if more[0] in there and more[1] in nodes else ())
        elif what == "put":
            if more[1] <= (latest or "") or more[0] != latest:
                raise Broken(f"{thread}: {more[1]} came after {latest}, under {more[0]}")
            latest = more[1]
        elif what == "goes on":
            if (more[0] or "") < (latest or ""):
                raise Broken(f"{thread}: {latest} was acknowledged, and a process went on from {more[0]}")
            latest = more[0]
            over.update(nodes[task] for task in tasks_before(there, latest) if task in nodes)


def tasks_before(there, name):
    """The tasks whose writes a checkpoint has taken up: nobody has to ask for them again."""
    while name is not None and (name := id_of(there[name].parent_config)) is not None:
        yield from (task for task, _, _ in there[name].pending_writes)


@pytest.mark.parametrize("options", [DEFAULT_WAIT, {"writes_wait_ms": 0}, {"writes_wait_ms": 20}], ids=str)
def test_a_killed_run_goes_on_from_all_that_was_acknowledged(path, tmp_path, options):
    rng = random.Random(f"{SEED} {options}")
    told = Told(tmp_path / "told.txt")
    EventStoreSaver(path).close()
    number = checked = 0
    for kill in range(KILLS // 3):
        at_s, durability = rng.uniform(0, 0.25), rng.choice(["sync", "async"])
        with started(run_threads, path, told.path, number, options, durability) as process:
            told.wait_for(checked + 1, process)
            process.join(at_s)
            assert process.exitcode is None
        lines = told.lines()
        recent = {thread for _, thread, *_ in lines[checked:]}
        with EventStoreSaver(path) as saver:
            check(saver, [line for line in lines if line[1] in recent])
            report = saver.store.verify()
            assert report.ok, (kill, report.problems)
        checked = len(lines)
        while all(["finished", f"{kind} {number}"] in lines for kind in GRAPHS):
            number += 1
    with EventStoreSaver(path) as saver:
        for kind in GRAPHS:
            go_on(saver, f"{kind} {number}", told)
            told("finished", f"{kind} {number}")
        check(saver, told.lines())
    assert checked


# The laws must be able to fail


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of each graph that nobody interrupted, and what it told."""
    folder = tmp_path_factory.mktemp("finished")
    told = Told(folder / "told.txt")
    with TellingSaver(folder / "runs.db", told, durability="normal") as saver:
        for kind in GRAPHS:
            go_on(saver, kind, told)
            told("finished", kind)
        yield saver, told.lines()


def test_the_laws_hold_of_a_run_without_interruptions(finished):
    saver, lines = finished
    check(saver, lines)
    assert {what for what, *_ in lines} == {"goes on", "put", "ran", "writes", "finished"}


@pytest.mark.parametrize(
    ("line", "law"),
    [
        (lambda lines: ["put", "talk", None, uuid_of(7)], "is lost"),
        (lambda lines: next(["put", thread, uuid_of(7), name] for what, thread, *_, name in lines if what == "put"),
         "another parent"),
        (lambda lines: next([*line[:4], [["messages", "[]"]]] for line in lines if line[0] == "writes"), "writes of"),
        (lambda lines: next(line for line in lines if line[0] == "ran"), "ran again"),
        (lambda lines: ["goes on", "talk", None], "went on from None"),
        (lambda lines: ["put", *[line for line in lines if line[:2] == ["put", "talk"]][3][1:]], "came after"),
    ],
    ids=["lost", "parent", "writes", "again", "earlier", "order"],
)  # fmt: skip
def test_a_line_that_is_not_true_breaks_a_law(finished, line, law):
    saver, lines = finished
    with pytest.raises(Broken, match=law):
        check(saver, [*lines, line(lines)])


# What is not committed is not acknowledged


def hold_the_lock(store):
    """Another process commits, for longer than anybody waits."""
    lock = os.open(f"{store.path}-lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def halt(store):
    store._database.translate(apsw.IOError("the disk is gone"))


def interrupt(store):
    real = store._writer._run

    def run(batch):
        store._writer._run = real
        raise KeyboardInterrupt

    store._writer._run = run


@pytest.mark.parametrize(
    "trouble", [hold_the_lock, es.Store.close, halt, interrupt], ids=lambda trouble: trouble.__name__
)
def test_writes_that_wait_for_a_put_that_fails_are_there_or_refused(path, trouble):
    with ExitStack() as stack:
        store = stack.enter_context(es.open(path, busy_timeout_ms=50))
        saver = EventStoreSaver(store, writes_wait_ms=500)
        for number in (0, 1):
            put(saver, number, under=number - 1 if number else None, values={"n": number})
        saver._journals.put(KEY, writes_of(saver.serde, uuid_of(1), [("n", "first")], "first", ""), may_wait=False)
        said = []

        def second():
            try:
                write(saver, 1, ("n", "second"), task="second")
                said.append("acknowledged")
            except BaseException as error:
                said.append(error)

        thread = threading.Thread(target=second)
        thread.start()
        while not saver._journals._queue(KEY).waiting:
            time.sleep(0.001)
        lock = trouble(store)
        with pytest.raises((es.EventStoreError, KeyboardInterrupt)):
            put(saver, 2, under=1, values={"n": 2})
        thread.join(SAFETY_S)
        if lock is not None:
            os.close(lock)
    with EventStoreSaver(path) as saver:
        there = [value for _, _, value in saver.get_tuple(at("t", uuid_of(1))).pending_writes]
        assert there == (["first", "second"] if said == ["acknowledged"] else ["first"])
        assert saver.store.verify().ok


# Removing, copying, importing


def fill(saver, threads, checkpoints=8):
    """Threads of a line and a branch each, with writes, the last of which wait."""
    for thread in threads:
        for number in range(checkpoints):
            log = [f"{thread}: {item}" for item in range(number + 1)]
            put(saver, number, under=number - 1 if number else None, thread=thread, values={"log": log})
            write(saver, number, ("log", f"after {number}"), thread=thread)
        branch = checkpoints - 1
        put(saver, branch + 1, under=branch // 2, thread=thread, values={"log": [thread, "branch"]})
        write(saver, branch + 1, ("log", "waits"), ("log", "too"), thread=thread)


def shown(saver, thread):
    """All that a saver gives of a thread."""
    return [exact(found) for found in saver.list(at(thread))]


ACTS = {
    "prune": lambda saver, thread: saver.prune([thread]),
    "delete_thread": lambda saver, thread: saver.delete_thread(thread),
    "copy_thread": lambda saver, thread: saver.copy_thread(thread, f"copy of {thread}"),
}


def act_on(path, told, act, threads):
    """In a process of its own."""
    tell = Told(told)
    with EventStoreSaver(path) as saver:
        tell("ready")
        for thread in threads:
            ACTS[act](saver, thread)
            tell("done", thread)


def of(act, thread):
    """The threads that an act may change."""
    return [thread, f"copy of {thread}"] if act == "copy_thread" else [thread]


@pytest.mark.parametrize("act", ACTS)
def test_an_act_that_is_killed_has_happened_or_has_not(path, tmp_path, act):
    rng = random.Random(f"{SEED} {act}")
    threads = [f"thread {number}" for number in range(4 + KILLS)]
    with EventStoreSaver(path, durability="normal") as saver:
        fill(saver, threads)
        before = {name: shown(saver, name) for thread in threads for name in of(act, thread)}
    shutil.copy(path, tmp_path / "other.db")
    with EventStoreSaver(tmp_path / "other.db", durability="normal") as saver:
        for thread in threads:
            ACTS[act](saver, thread)
        after = {name: shown(saver, name) for name in before}
    assert all(before[of(act, thread)[-1]] != after[of(act, thread)[-1]] for thread in threads)

    told = Told(tmp_path / "told.txt")
    left, kills = threads, 0
    while left:
        with started(act_on, path, told.path, act, left) as process:
            told.wait_for(len(told.lines()) + 1, process)
            if kills < 2 + KILLS // 15:
                process.join(rng.uniform(0, 0.03) if kills else 0)  # on a fast disk it may be over all the same
                kills += 1
            else:
                process.join(SAFETY_S)
                assert process.exitcode == 0
        done = {line[1] for line in told.lines() if line[0] == "done"}
        with EventStoreSaver(path) as saver:
            report = saver.store.verify()
            assert report.ok, report.problems
            left = []
            for thread in threads:
                found = [shown(saver, name) for name in of(act, thread)]
                had, has = ([when[name] for name in of(act, thread)] for when in (before, after))
                assert found == has or (found == had and thread not in done)
                if found != has:
                    left.append(thread)


def import_all(path, told, old):
    """In a process of its own."""
    with EventStoreSaver(path) as saver:
        Told(told)("begins", "all")
        import_sqlite(old, saver)


def test_an_import_that_is_killed_goes_on(path, tmp_path):
    rng = random.Random(f"{SEED} import")
    old, threads = str(tmp_path / "old.sqlite"), [f"thread {number}" for number in range(10)]
    with closing(sqlite3.connect(old, check_same_thread=False)) as connection:
        before = SqliteSaver(connection, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
        fill(before, threads)
        expected = {thread: shown(before, thread) for thread in threads}
    told, kills, counts = Told(tmp_path / "told.txt"), 0, [0]
    for times in range(2 + KILLS // 10):
        with started(import_all, path, told.path, old) as process:
            told.wait_for(times + 1, process)
            process.join(rng.uniform(0, 0.03))
            kills += process.exitcode is None
        with EventStoreSaver(path) as saver:
            report = saver.store.verify()
            assert report.ok, report.problems
            counts.append(sum(1 for _ in saver.list(None)))
            for thread in threads:
                names = {found["config"][-1] for found in expected[thread]}
                assert {found["config"][-1] for found in shown(saver, thread)} <= names
    assert kills and counts == sorted(counts)
    with EventStoreSaver(path) as saver:
        report = import_sqlite(old, saver)
        assert report.added + report.completed + report.present == len(threads) and not report.refused
        assert {thread: shown(saver, thread) for thread in threads} == expected
        assert saver.store.verify().ok
