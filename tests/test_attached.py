"""An open connection whose files are taken away behind its back is told so; one in good order never is."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

import eventstore as es
from eventstore.attached import detached

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="locks are shown by Linux")


@pytest.fixture
def filled(path, record):
    """An open store whose WAL holds something."""
    with es.open(path) as store:
        record(store, 20)
        yield store


def judged(store):
    return detached(store.path, store._database.writer)


def read_by_the_standard_library(path):
    connection = sqlite3.connect(path)
    connection.execute("SELECT count(*) FROM log").fetchone()
    connection.close()


def put_another_there(path):
    Path(f"{path}.new").write_bytes(Path(path).read_bytes() if path.endswith("-wal") else b"")
    Path(f"{path}.new").replace(path)


BEHIND_ITS_BACK = {
    "the standard library's sqlite3": (read_by_the_standard_library, "-wal is gone"),
    "the WAL removed": (lambda path: Path(f"{path}-wal").unlink(), "-wal is gone"),
    "the WAL moved": (lambda path: Path(f"{path}-wal").rename(f"{path}-old"), "-wal is gone"),
    "the WAL replaced": (lambda path: put_another_there(f"{path}-wal"), "-wal is another file"),
    "the WAL cut": (lambda path: os.truncate(f"{path}-wal", 100), "does not hold its"),
    "the index removed": (lambda path: Path(f"{path}-shm").unlink(), "-shm is gone"),
    "the file removed": (lambda path: Path(path).unlink(), "moved, removed or replaced"),
    "the file moved": (lambda path: Path(path).rename(f"{path}.old"), "moved, removed or replaced"),
    "the file replaced": (lambda path: put_another_there(path), "moved, removed or replaced"),
}


@pytest.mark.parametrize(("act", "reason"), BEHIND_ITS_BACK.values(), ids=BEHIND_ITS_BACK)
def test_what_was_done_behind_its_back_is_named(filled, act, reason):
    assert judged(filled) is None
    act(filled.path)
    assert reason in judged(filled)


def test_a_wal_that_was_cut_and_has_grown_again_is_named(path, record):
    with es.open(path) as store:
        trace = record(store, 20)
        os.truncate(f"{path}-wal", 5000)
        trace.append([es.StateDelta.put("text", "more")])
        assert "does not hold its" in judged(store)


@linux_only
@pytest.mark.parametrize("name", ["", "-shm"])
def test_reading_a_file_of_the_store_by_hand_loses_its_locks(filled, name):
    with Path(filled.path + name).open("rb") as file:
        assert judged(filled) is None
        file.read(100)
    assert "locks" in judged(filled)


@linux_only
def test_lost_locks_are_seen_though_another_process_holds_its_own(filled, path):
    with other_process(path):
        assert judged(filled) is None
        shutil.copy(path, f"{path}.copy")
        assert "locks" in judged(filled)


OTHER = """
import sys, eventstore as es
with es.open(sys.argv[1]) as store:
    store.open_trace("t1").note("seen")
    print("open", flush=True)
    sys.stdin.read()
"""


class other_process:
    """Another process that has the store open."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        command = [sys.executable, "-c", OTHER, self.path]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "open\n"

    def __exit__(self, *_):
        self.process.communicate()


def test_a_store_at_work_is_never_accused(path, record, monkeypatch, tmp_path):
    with es.open(path) as store:
        assert judged(store) is None
        trace = record(store, 30)
        writer = store._database.writer
        with other_process(path):
            assert judged(store) is None
        assert judged(store) is None
        for mode in (apsw.SQLITE_CHECKPOINT_PASSIVE, apsw.SQLITE_CHECKPOINT_RESTART, apsw.SQLITE_CHECKPOINT_TRUNCATE):
            writer.wal_checkpoint(mode=mode)
            assert judged(store) is None
            trace.note("more")
            assert judged(store) is None
        with store._database.reader() as connection:
            assert detached(path, connection) is None
            trace.note("more")
            assert detached(path, connection) is None
        with es.open(path) as second:
            assert judged(second) is None
        with es.open(path, read_only=True) as reader, reader._database.reader() as connection:
            assert detached(path, connection) is None
        monkeypatch.chdir(tmp_path)
        assert detached(Path(path).name, writer) is None


def test_a_new_connection_and_one_without_a_wal_are_judged_too(path, record, tmp_path):
    with es.open(path) as store:
        record(store, 3)
    for name in (path, str(tmp_path / "plain.db"), ":memory:"):
        fresh = apsw.Connection(name)
        assert detached(name, fresh) is None
        fresh.execute("CREATE TABLE more (a)")
        assert detached(name, fresh) is None
        fresh.close()


def test_a_store_of_its_own_beside_one_whose_file_was_removed_is_not_accused(filled, path, record):
    for name in ("", "-wal", "-shm"):
        Path(path + name).unlink()
    with es.open(path) as other:
        record(other, 3)
        assert judged(other) is None
        assert "moved" in judged(filled)


LOSES = """
import json, os, signal, sqlite3, sys, apsw, eventstore as es
from eventstore.attached import detached
path = sys.argv[1]
store = es.open(path)
trace = store.start({"n": 0}, id="t1")
connection = sqlite3.connect(path)
connection.execute("SELECT count(*) FROM log").fetchone()
connection.close()
for number in range(100):
    trace.append([es.StateDelta.put("n", number)])
writer = store._database.writer
found = writer.pragma("integrity_check"), detached(path, writer), trace.version
print(json.dumps(found), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_the_standard_library_takes_away_is_lost_and_only_this_check_says_so(path):
    told = subprocess.run([sys.executable, "-c", LOSES, path], stdout=subprocess.PIPE, check=False)
    integrity, reason, acknowledged = json.loads(told.stdout)
    assert (told.returncode, integrity, acknowledged) == (-9, "ok", 101)
    assert "-wal is gone" in reason
    with es.open(path) as store:
        assert store.open_trace("t1").version == 1
        assert store.verify().ok
