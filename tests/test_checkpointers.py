"""Who may checkpoint, and who may create."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

import eventstore as es
from eventstore import database as databases
from eventstore import wal
from eventstore.attached import detached
from eventstore.turnstile import Turnstile


def test_a_halted_store_checkpoints_nothing_though_a_reader_ends_last(path, record):
    with es.open(path) as store:
        record(store, 10)
        with store._database.reader() as connection:
            connection.execute("SELECT count(*) FROM log").fetchall()
            store._database.translate(apsw.IOError("injected"))
            store.close()
        assert Path(f"{path}-wal").stat().st_size > 0


FORGETS = """
import sys, apsw, eventstore as es
store = es.open(sys.argv[1])
store.start({"n": 1}, id="t1")
if sys.argv[2] == "halted":
    store._database.translate(apsw.IOError("injected"))
"""


@pytest.mark.parametrize("how", ["halted", "open"])
def test_a_process_that_ends_without_closing_checkpoints_nothing(path, how):
    subprocess.run([sys.executable, "-c", FORGETS, path, how], check=True)
    assert Path(f"{path}-wal").stat().st_size > 0
    with es.open(path) as store:
        assert store.open_trace("t1").version == 1


def test_threads_that_create_one_file_together_keep_its_locks(path, monkeypatch):
    create, opened = databases._create_private, []

    def late(file):
        if not opened:
            opened.append(None)
            opened[0] = es.open(file)  # by another thread, between the look and the creation
            opened[0].start({"n": 1}, id="t1")
        create(file)

    monkeypatch.setattr(databases, "_create_private", late)
    with es.open(path):
        assert detached(path, opened[0]._database.writer) is None
    opened[0].close()


def test_closing_never_joins_a_thread_that_has_not_started(path, monkeypatch):
    with es.open(path) as store:
        writer, start = store._writer, threading.Thread.start

        def slow(thread):
            if thread.name == "eventstore-writer":
                assert writer._thread is None
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", slow)
        writer._rouse()


def test_through_a_symlink_that_leads_nowhere_yet_a_store_is_created(path, tmp_path):
    (tmp_path / "link.db").symlink_to(path)
    with es.open(tmp_path / "link.db") as store:
        store.start({"n": 1}, id="t1")
    with es.open(path) as store:
        assert store.open_trace("t1").version == 1


@pytest.fixture
def settled(monkeypatch):
    """How often the write-ahead log was written again."""
    times, write_again = [], wal.write_again

    def counted(path):
        times.append(path)
        write_again(path)

    monkeypatch.setattr(wal, "write_again", counted)
    return times


def test_a_warning_that_could_not_be_heeded_is_heeded_later(path, raw, settled):
    with es.open(path, busy_timeout_ms=50) as store:
        trace = store.start({"n": 0}, id="t1")
        Turnstile(path).warn()
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(es.StoreBusy):
            trace.note("one")
        assert settled == []
        raw.execute("ROLLBACK")
        trace.note("two")
        trace.note("three")
        assert len(settled) == 1


def test_a_log_that_somebody_kept_locked_is_settled_before_it_is_believed(path, raw, settled):
    with es.open(path) as store:
        store.start({"n": 0}, id="t1").append([es.StateDelta.put("n", 1)], append_id="job-7")
        raw.execute("BEGIN IMMEDIATE")
        with es.open(path, busy_timeout_ms=50) as late:
            assert late.state_at("t1") == {"n": 1} and settled == []
            retry = {"append_id": "job-7", "expected_version": 1}
            with pytest.raises(es.StoreBusy):
                late.append("t1", [es.StateDelta.put("n", 1)], **retry)
            raw.execute("ROLLBACK")
            assert late.append("t1", [es.StateDelta.put("n", 1)], **retry).duplicate and len(settled) == 1


@pytest.mark.parametrize("error", [apsw.IOError("disk I/O error"), apsw.FullError("full"), OSError(5, "EIO")])
def test_a_log_that_cannot_be_settled_is_no_raw_error(path, monkeypatch, error):
    with es.open(path) as store:
        trace = store.start({"n": 0}, id="t1")
        Turnstile(path).warn()

        def fails(*_):
            raise error

        monkeypatch.setattr(wal, "write_again", fails)
        with pytest.raises(es.StorageError):
            trace.note("one")
        assert isinstance(error, apsw.FullError) is (store._database.halted is None)
