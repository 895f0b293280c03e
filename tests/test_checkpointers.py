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
from eventstore.attached import detached


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
