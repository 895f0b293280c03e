"""Connections: the one that opened the file reads or writes, whichever is asked for first."""

from __future__ import annotations

import apsw
import pytest

import eventstore as es
from eventstore.database import Database


@pytest.fixture
def connected(monkeypatch):
    """The connections made, in order."""
    made = []
    connect = Database._connect

    def counted(self):
        made.append(connect(self))
        return made[-1]

    monkeypatch.setattr(Database, "_connect", counted)
    return made


def test_who_only_looks_needs_one_connection(path, record, connected):
    with es.open(path) as store:
        record(store, 3)
    connected.clear()
    with es.open(path) as store:
        assert store.state_at("t1")["text"] == "step 2"
        assert len(store.traces()) == 1
    assert len(connected) == 1


def test_who_only_writes_needs_one_connection(path, connected):
    with es.open(path) as store, store.start({"n": 1}).step("work") as step:
        step.put("n", 2)
    assert len(connected) == 1


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
def test_a_writer_that_came_second_is_as_durable(path, record, connected, durability, synchronous):
    with es.open(path, durability=durability) as store:
        record(store, 3)
    connected.clear()
    with es.open(path, durability=durability) as store:
        trace = store.open_trace("t1")
        with trace.step("on") as step:
            step.put("text", "on")
        assert store.state_at("t1")["text"] == "on"
        writer = store._database.writer
        assert len(connected) == 2 and writer is connected[1]
        assert writer.pragma("synchronous") == synchronous
        assert writer.pragma("foreign_keys") == 1


def test_closing_closes_every_connection(path, record, connected, tmp_path):
    with es.open(path) as store:
        record(store, 3)
        store.state_at("t1")
        store.open_trace("t1").note("seen")
    for connection in connected:
        with pytest.raises(Exception, match="closed"):
            connection.execute("SELECT 1")
    assert {file.name for file in tmp_path.iterdir()} == {"runs.db", "runs.db-lock"}


def test_a_closed_store_opens_no_connection_to_write(path, record, connected, tmp_path):
    with es.open(path) as store:
        record(store, 3)
    connected.clear()
    with es.open(path) as store:
        store.state_at("t1")
    with pytest.raises(es.StoreClosed):
        store.trim("t1", 1)
    assert len(connected) == 1
    assert {file.name for file in tmp_path.iterdir()} == {"runs.db", "runs.db-lock"}


@pytest.mark.parametrize(
    ("read_only", "code", "told"),
    [
        (True, apsw.SQLITE_READONLY, "opened read-only"),
        (False, apsw.SQLITE_READONLY, "this user may not write it"),
        (True, apsw.SQLITE_READONLY_DIRECTORY, "needs an index beside it"),
        (True, apsw.SQLITE_READONLY_CANTINIT, "needs an index beside it"),
    ],
)
def test_what_cannot_be_written_says_why(path, read_only, code, told):
    es.open(path).close()
    with es.open(path, read_only=read_only) as store:
        error = apsw.ReadOnlyError("attempt to write a readonly database")
        error.extendedresult = code
        assert told in str(store._database.translate(error))
