"""Who works on a run: one process at a time, whatever the others are told, however the owner goes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

import eventstore as es

from .harness import Child, Nursery, begin, finish
from .laws import Reading, check_log, check_run
from .world import Outside, make_graph


@pytest.fixture
def outside(tmp_path):
    return Outside(tmp_path / "outside.txt", process=2)


def order(path, outside, **more):
    return {"path": path, "outside": outside.path, "process": 1, "trace_id": "t1", **more}


# An owner that is stopped, not dead

STOPS = [
    ("call", "plan", 0),  # a pure node: what it does after the take-over is refused
    ("call", "pay", 1),  # before its effect: a human who finds nothing outside has it run again, declared in doubt
    ("effect", "pay", 0),  # after its effect: a human finds it outside
    ("made", "research", 0),  # in a node that resumes midway
    ("call", "gather/search", None),  # its siblings may be anywhere
    ("effect", "gather/charge", None),
    ("call", "ship", 1),  # the rule says: retry
    ("effect", "bill", 0),  # the rule says: it failed
    ("call", "finish", 0),  # the last node: the run is over by the time its owner goes on
]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("what", "node", "repeated"), STOPS, ids=[f"{what} {node}" for what, node, _ in STOPS])
def test_a_stopped_owner_is_fenced_off_and_doubles_nothing(path, outside, tmp_path, what, node, repeated, is_async):
    graph = make_graph(outside, is_async=is_async, pace=0)
    fault = {"what": what, "path": node, "action": "SIGSTOP"}
    with Child() as child, es.open(path, owner_timeout_s=0.2) as store:
        begin(graph, store)
        child.begin(order(path, outside, fault=fault, owner_timeout_s=0.2, is_async=is_async, pace=0))
        child.wait_until_stopped()
        with pytest.raises(es.RunOwned):
            es.resume(graph, store, "t1")
        known = Reading.of(store, "t1").known
        finish(graph, store, "t1", outside, 0, wait_s=60)
        os.kill(child.process.pid, signal.SIGCONT)
        assert child.end()["error"] == "Fenced"
        child.process.kill()
        child.process.wait()
        _, explained = check_run(store, "t1", outside, 0, [(1, known)], tmp_path)
        assert repeated in (explained, None)


# A process that forks in the midst of a run


def test_a_forked_child_has_no_part_in_the_run_and_does_not_keep_it(path, outside, tmp_path):
    graph = make_graph(outside, pace=0)
    fault = {"what": "call", "path": "flaky", "action": "fork"}
    with Child() as child, es.open(path, owner_timeout_s=10_000) as store:
        begin(graph, store)
        child.begin(order(path, outside, fault=fault, pace=0))
        forked = child.end()
        try:
            refused = dict.fromkeys(("read", "append", "resume", "run"), "StoreClosed")
            assert forked["found"] == refused | {"close": None}
            with pytest.raises(es.RunOwned):
                es.resume(graph, store, "t1")
            child.process.kill()
            child.process.wait()
            known = Reading.of(store, "t1").known
            finish(graph, store, "t1", outside, 0)  # at once: no heartbeat would be missed for hours
            os.kill(forked["pid"], 0)
        finally:
            os.kill(forked["pid"], signal.SIGKILL)
        check_run(store, "t1", outside, 0, [(1, known)], tmp_path)


REOPENS = """
import os, sys, time, eventstore as es
store = es.open(sys.argv[1])
trace = store.start({"n": 0}, id="t1")
if os.fork():
    time.sleep(1000)
try:
    with es.open(sys.argv[1]) as mine:
        own = mine.open_trace("t1")
        print(os.getpid(), "open", flush=True)
        sys.stdin.readline()
        own.append([es.StateDelta.put("n", 1)])
        print("acknowledged", flush=True)
        sys.stdin.readline()
except es.StoreClosed:
    print(os.getpid(), "refused", flush=True)
    print("refused", flush=True)
"""


def test_what_a_forked_child_was_acknowledged_on_a_store_of_its_own_survives_its_parent(path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", REOPENS, path], **pipes) as parent:
        pid = int(parent.stdout.readline().split()[0])
        try:
            parent.kill()
            parent.wait()
            with es.open(path):
                pass  # the last one out, as far as the kernel's locks tell, removes the WAL
            with contextlib.suppress(BrokenPipeError):
                parent.stdin.write("\n")
                parent.stdin.flush()
            said = parent.stdout.readline()
            with es.open(path) as store:
                assert (said, store.state_at("t1")) in (("acknowledged\n", {"n": 1}), ("refused\n", {"n": 0}))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# Two processes that want the same runs


def test_two_processes_share_fifty_runs_and_run_no_node_twice(path, tmp_path):
    outsides = [Outside(tmp_path / f"outside-{process}.txt", process) for process in (1, 2)]
    trace_ids = [f"t{number}" for number in range(50)]
    graph = make_graph(outsides[0], pace=0, rounds=1)
    with es.open(path, durability="normal") as store:
        for seed, trace_id in enumerate(trace_ids):
            begin(graph, store, trace_id, seed)
        with Child() as one, Child() as other:
            for child, outside in ((one, outsides[0]), (other, outsides[1])):
                shared = {"trace_ids": trace_ids, "shuffle": outside.process, "pace": 0, "rounds": 1}
                child.begin(order(path, outside, durability="normal", **shared) | {"process": outside.process})
            assert [child.end()["completed"] for child in (one, other)] == [50, 50]
        lines = [line for outside in outsides for line in outside.lines()]
        assert {line.process for line in lines} == {1, 2}
        assert [line for line, times in Counter(line._replace(process=0) for line in lines).items() if times > 1] == []
        readings = {trace_id: Reading.of(store, trace_id) for trace_id in trace_ids}
        for reading in readings.values():
            check_log(reading)
        visits = Counter(line.path for line in lines if line.what == "call" and line.path != "revise")
        assert visits == {path: 50 * attempts for path, attempts in ATTEMPTS.items()}
        assert store.verify().ok


ATTEMPTS = {"plan": 1, "pay": 1, "flaky": 3, "research": 1, "gather/search": 1, "gather/charge": 1, "gather/notify": 2,
            "gather/report": 1, "ship": 1, "each/0": 1, "each/1": 2, "each/2": 1, "bill": 1, "finish": 1}  # fmt: skip


# A node that takes its process down with it


@pytest.mark.parametrize("node", ["flaky", "ship", "each/1"])
def test_after_five_owners_that_got_nothing_done_a_run_is_resumed_by_force_only(path, outside, tmp_path, node):
    graph = make_graph(outside, pace=0)
    with Nursery() as nursery, es.open(path) as store:
        begin(graph, store)
        deaths = die_again_and_again(nursery, store, outside, node)
        # The first one came as far as the node; a sibling's branch is progress, too.
        assert len(deaths) == 6 or (node == "each/1" and len(deaths) > 6)
        with pytest.raises(es.CrashLoop) as loop:
            es.resume(graph, store, "t1")
        assert (loop.value.ownerships, loop.value.node) == (5, node.partition("/")[0])
        outside.process = 99
        finish(graph, store, "t1", outside, 0, force=True)
        check_run(store, "t1", outside, 0, deaths, tmp_path)


def die_again_and_again(nursery, store, outside, node):
    """Processes that die at a node, until none may try any more without being told to; what was known each time."""
    fault = {"what": "call", "path": node, "action": "SIGKILL"}
    deaths = []
    while len(deaths) < 12:
        child = nursery.take()
        child.begin(order(store.path, outside, fault=fault, pace=0) | {"process": len(deaths) + 1})
        found = child.end()
        if found is not None:
            assert found["error"] == "CrashLoop"
            return deaths
        nursery.bury(child)
        deaths.append((len(deaths) + 1, Reading.of(store, "t1").known))
    raise AssertionError("twelve processes died, and still another one may try")
