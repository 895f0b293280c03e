"""Closing, and a process that forks: what is left, and who may go on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import eventstore as es

PUT = es.StateDelta.put


def test_closing_is_idempotent_and_leaves_no_log_beside_the_file(path, tmp_path):
    store = es.open(path)
    store.start({"n": 1})
    store.close()
    store.close()
    assert {file.name for file in tmp_path.iterdir()} == {"runs.db", "runs.db-lock"}
    assert (tmp_path / "runs.db-lock").stat().st_size == 0


def test_a_closed_store_says_so_to_every_call(store, trace):
    store.close()
    for act in (
        lambda: store.start(),
        lambda: store.open_trace("t1"),
        lambda: store.state_at("t1"),
        lambda: list(store.events("t1")),
        lambda: store.traces(),
        lambda: store.verify(),
        lambda: store.stats(),
        lambda: store.drop_bases(),
        lambda: store.fork("t1"),
        lambda: trace.append([PUT("n", 1)]),
        lambda: trace.note("seen"),
        lambda: trace.checkpoint(),
        lambda: trace.refresh(),
        lambda: store.checkpoints.list("t1"),
        lambda: store.checkpoints.prune("t1", 0),
    ):
        with pytest.raises(es.StoreClosed):
            act()


def in_child(work):
    """Run `work` in a forked child; its exit status, 0 when it returned true."""
    child = os.fork()
    if child == 0:
        status = 2
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_inherit_the_store(store, trace, path):
    def child():
        for act in (lambda: store.state_at("t1"), lambda: trace.append([PUT("n", 1)]), lambda: store.traces()):
            try:
                act()
                return False
            except es.StoreClosed:
                pass
        store.close()
        try:  # SQLite would take the parent's locks for the child's own
            es.open(path)
            return False
        except es.StoreClosed:
            pass
        fresh = "import sys, eventstore as es; es.open(sys.argv[1]).append('t1', [es.StateDelta.put('n', 7)])"
        subprocess.run([sys.executable, "-c", fresh, path], check=True)
        return True

    store.state_at("t1")
    assert in_child(child) == 0
    trace.refresh()
    trace.append([PUT("text", "parent")])
    assert store.state_at("t1") == {"log": [], "n": 7, "text": "parent"}
    assert store.verify().ok
