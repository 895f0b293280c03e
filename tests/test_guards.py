"""The log defends itself: what a raw connection cannot do to it."""

from __future__ import annotations

import apsw
import pytest

import eventstore as es

INSERT = "INSERT INTO log (id, trace, first_seq, n, append_id, at_us, digest, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
OR_REPLACE = INSERT.replace("INSERT", "INSERT OR REPLACE")
GOOD = (None, 1, 3, 1, None, 0, bytes(16), "[]")


@pytest.fixture
def guarded(trace, raw):
    """A log of two rows (seq 1 and 2, the second with an append id), and a connection to attack it with."""
    trace.append([es.Note("seen")], append_id="mine")
    return raw


def row(**changes):
    """The parameters of a row that fits, with some of them changed."""
    names = ("id", "trace", "first_seq", "n", "append_id", "at_us", "digest", "body")
    return tuple((dict(zip(names, GOOD, strict=True)) | changes).values())


def refused(connection, sql, parameters=(), message=".*"):
    before = connection.execute("SELECT * FROM log").fetchall()
    with pytest.raises((apsw.ConstraintError, apsw.MismatchError), match=message):
        connection.execute(sql, parameters)
    assert connection.execute("SELECT * FROM log").fetchall() == before


def test_a_row_that_fits_is_taken(guarded):
    guarded.execute(INSERT, row())
    assert guarded.execute("SELECT count(*) FROM log").get == 3


@pytest.mark.parametrize("column", ["id", "trace", "first_seq", "n", "append_id", "at_us", "digest", "body"])
def test_no_column_of_the_log_is_updated(guarded, column):
    refused(guarded, f"UPDATE log SET {column} = {column}", message="the log is immutable")


def test_no_row_of_the_log_is_deleted(guarded):
    refused(guarded, "DELETE FROM log", message="the log is immutable")
    refused(guarded, "DELETE FROM log WHERE first_seq = 2", message="the log is immutable")


@pytest.mark.parametrize("recursive", [0, 1])
def test_replace_by_rowid_keeps_the_older_row(guarded, recursive):
    guarded.execute(f"PRAGMA recursive_triggers = {recursive}")
    refused(guarded, OR_REPLACE, row(id=1), "never replaced")


@pytest.mark.parametrize("recursive", [0, 1])
def test_replace_by_append_id_keeps_the_older_row(guarded, recursive):
    guarded.execute(f"PRAGMA recursive_triggers = {recursive}")
    refused(guarded, OR_REPLACE, row(append_id="mine"), "append_id is already in the log")


@pytest.mark.parametrize("recursive", [0, 1])
def test_replace_by_place_keeps_the_older_row(guarded, recursive):
    guarded.execute(f"PRAGMA recursive_triggers = {recursive}")
    refused(guarded, OR_REPLACE, row(first_seq=2), "not the next seq")


def test_replace_by_a_later_update_of_the_rowid_is_an_update(guarded):
    refused(guarded, "UPDATE OR REPLACE log SET id = 1 WHERE id = 2", message="the log is immutable")


@pytest.mark.parametrize("first_seq", [4, 100, 2, 1, 0, -5])
def test_only_the_next_seq_is_taken(guarded, first_seq):
    refused(guarded, INSERT, row(first_seq=first_seq), "not the next seq")


@pytest.mark.parametrize("foreign_keys", [0, 1])
def test_an_unknown_trace_has_no_rows(guarded, foreign_keys):
    guarded.execute(f"PRAGMA foreign_keys = {foreign_keys}")
    refused(guarded, INSERT, row(trace=99, first_seq=1))


@pytest.mark.parametrize("n", [0, -1, -5, None, "many", 1.5])
def test_a_row_holds_at_least_one_event(guarded, n):
    refused(guarded, INSERT, row(n=n))


@pytest.mark.parametrize("body", ["not json", "", "[", "{'a': 1}", None, 5, 1.5])
def test_a_body_is_json_text_or_a_blob(guarded, body):
    refused(guarded, INSERT, row(body=body))


@pytest.mark.parametrize("digest", [b"", bytes(15), bytes(17), "0123456789abcdef", None])
def test_a_digest_has_sixteen_bytes(guarded, digest):
    refused(guarded, INSERT, row(digest=digest))


def test_a_rowid_is_positive(guarded):
    refused(guarded, INSERT, row(id=-1))
    refused(guarded, INSERT, row(id=0))


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("root", "(1, 1, 0, zeroblob(16), 0, '[]', 0, 0)"),
        ("tombstone", "('gone', 77, 1, zeroblob(16), NULL, 0, 0)"),
        ("base", "(7, 1, 1, NULL, 2, 2, 2, 2, 0, 0, 'crc32', 0, 0, 'test', '[]')"),
    ],
)
def test_rows_of_other_tables_are_written_once(guarded, table, row):
    guarded.execute(f"INSERT INTO {table} VALUES {row}")
    column = guarded.execute(f"SELECT name FROM pragma_table_info('{table}') LIMIT 1").get
    with pytest.raises(apsw.ConstraintError):
        guarded.execute(f"UPDATE {table} SET {column} = {column}")
    assert guarded.execute(f"SELECT count(*) FROM {table}").get == 1


@pytest.mark.parametrize(
    ("table", "row"),
    [("root", "(1, 1, 0, zeroblob(16), 0, '[]', 0, 0)"), ("tombstone", "('gone', 77, 1, zeroblob(16), NULL, 0, 0)")],
)
def test_roots_and_tombstones_are_neither_deleted_nor_replaced(guarded, table, row):
    guarded.execute(f"INSERT INTO {table} VALUES {row}")
    for attack in (f"DELETE FROM {table}", f"INSERT OR REPLACE INTO {table} VALUES {row}"):
        with pytest.raises(apsw.ConstraintError):
            guarded.execute(attack)
    assert guarded.execute(f"SELECT count(*) FROM {table}").get == 1


@pytest.mark.parametrize("column", ["id", "trace_id", "name", "parent", "fork_seq", "created_us"])
def test_only_the_status_of_a_trace_changes(guarded, column):
    with pytest.raises(apsw.ConstraintError, match="only the status"):
        guarded.execute(f"UPDATE trace SET {column} = {column}")
    guarded.execute("UPDATE trace SET status = 'waiting'")
    assert guarded.execute("SELECT status FROM trace").get == "waiting"


def test_a_trace_is_neither_deleted_nor_replaced(guarded):
    guarded.execute("PRAGMA foreign_keys = OFF")
    with pytest.raises(apsw.ConstraintError, match="immutable"):
        guarded.execute("DELETE FROM trace")
    for values in ("(1, 'other', '', NULL, 0, 0, 'running')", "(2, 't1', '', NULL, 0, 0, 'running')"):
        with pytest.raises(apsw.ConstraintError, match="the trace exists"):
            guarded.execute(f"INSERT OR REPLACE INTO trace VALUES {values}")
    assert guarded.execute("SELECT trace_id FROM trace").fetchall() == [("t1",)]


def test_a_base_may_be_deleted_since_it_is_derived(guarded):
    guarded.execute("INSERT INTO base VALUES (7, 1, 1, NULL, 2, 2, 2, 2, 0, 0, 'crc32', 0, 0, 'test', '[]')")
    guarded.execute("DELETE FROM base")
    assert guarded.execute("SELECT count(*) FROM base").get == 0


def test_history_goes_only_behind_a_root(guarded):
    guarded.execute("INSERT INTO root VALUES (1, 1, 0, zeroblob(16), 0, '[]', 0, 0)")
    refused(guarded, "DELETE FROM log WHERE first_seq = 2", message="the log is immutable")
    guarded.execute("DELETE FROM log WHERE first_seq = 1")
    assert guarded.execute("SELECT first_seq FROM log").fetchall() == [(2,)]
