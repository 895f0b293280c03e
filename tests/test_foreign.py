"""A file from someone else: nothing in it runs or keeps a reader busy, and what is wrong with it is said."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

import eventstore as es
from eventstore.bases import Place
from eventstore.errors import ForeignSchema, TooMuchWork
from eventstore.foreign import SWITCHES, check_schema
from eventstore.link import Link
from tests.faults import foreign_bytes, foreign_sql
from tests.faults.campaign import Run
from tests.faults.foreign_cases import Makers
from tests.faults.foreign_files import commands_for
from tests.faults.foreign_worker import Worker


@pytest.fixture
def file(path, record):
    """A closed store of one trace of 30 steps with links, and a fork of it."""
    with es.open(path, fold_policy=es.FoldEvery(2)) as store:
        record(store, 30)
        store.fork("t1", id="t2")
    return path


def change(path, sql, *parameters):
    connection = apsw.Connection(path)
    connection.execute(sql, parameters).fetchall()
    connection.close()


def opened(path):
    return es.open(path, read_only=True)


def test_every_reading_connection_is_hardened(file):
    with opened(file) as store, store._database.reader() as one, store._database.reader() as other:
        assert one is not other
        for connection in (one, other):
            for switch, value in SWITCHES:
                assert connection.config(switch, -1) == value
            assert connection.limit(apsw.SQLITE_LIMIT_ATTACHED) == 0
            assert connection.pragma("cell_size_check") == 1
            with pytest.raises(apsw.SQLError, match="prohibited"):
                connection.execute("SELECT * FROM traces")


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("CREATE VIEW more AS SELECT 1", "view more is none of its own"),
        ("CREATE TRIGGER more AFTER INSERT ON log BEGIN SELECT 1; END", "trigger more is none of its own"),
        ("CREATE TABLE more (n)", "table more is none of its own"),
        ("CREATE INDEX more ON log (n)", "index more is none of its own"),
        ("CREATE VIRTUAL TABLE more USING fts5 (n)", "table more is none of its own"),
        ("DROP TRIGGER log_no_update", "trigger log_no_update is missing"),
        ("DROP VIEW traces", "view traces is missing"),
        ("ALTER TABLE log ADD COLUMN more ANY", "table log is not the one"),
    ],
)
def test_a_schema_that_is_not_ours_is_refused_and_the_first_difference_named(file, sql, told):
    change(file, sql)
    with pytest.raises(ForeignSchema, match=told) as caught:
        opened(file)
    assert isinstance(caught.value, es.NotAnEventStore)


def test_sqlites_own_statistics_and_a_vacuum_are_no_difference(file):
    change(file, "ANALYZE")
    change(file, "VACUUM")
    with opened(file) as store:
        assert store.verify().ok


def test_comments_and_spaces_are_no_difference_and_words_in_quotes_are():
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t (n DEFAULT 'a  b')").fetchall()
    check_schema(connection, "f", ("CREATE TABLE t (n   DEFAULT -- what\n 'a  b')",))
    with pytest.raises(ForeignSchema):
        check_schema(connection, "f", ("CREATE TABLE t (n DEFAULT 'a b')",))


def test_a_walk_without_end_is_stopped(file, rng):
    pages = foreign_bytes.Pages(Path(file).read_bytes(), rng)
    tree = tree_of(file, "log")
    leaf = next(number for number in range(pages.count) if pages.data[pages.header_at(number)] == 13)
    first = pages.count
    pages.data += bytes(8 * pages.size)
    for level in range(8):
        below = first + level if level else leaf + 1
        pages.put(first + level, foreign_bytes.inner_page(pages.size, below, False, 0))
    pages.put(tree - 1, foreign_bytes.inner_page(pages.size, first + 8, False, 0))
    pages.data[28:32] = (first + 8).to_bytes(4, "big")
    Path(file).write_bytes(pages.data)
    with opened(file) as store, pytest.raises(TooMuchWork), store._database.reader() as connection:
        connection.execute("SELECT sum(n) FROM log").fetchall()


def tree_of(path, table):
    connection = apsw.Connection(path)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    connection.close()
    return root


@pytest.fixture
def rng():
    return Run(0, 1, None, None).rng()


def test_each_read_has_a_budget_of_its_own(file):
    with opened(file) as store:
        for _ in range(50):
            assert store.state_at("t1")["n"] == 30


def test_traces_that_are_their_own_ancestors_end_in_an_error(file, tamper):
    tamper("UPDATE trace SET parent = id, fork_seq = 3")
    with opened(file) as store:
        for read in (store.state_at, store.verify, lambda name: list(store.events(name))):
            with pytest.raises(es.StorageError):
                read("t1")


def test_bases_that_stand_on_one_another_are_ignored(file, tamper):
    connection = apsw.Connection(file)
    row_id, trace, seq, *sizes, body = connection.execute(
        "SELECT id, trace, seq, chain_bytes, state_bytes, log_bytes, base_bytes, CAST(body AS BLOB) FROM base"
        " WHERE trace = 1 ORDER BY seq DESC"
    ).fetchone()
    connection.close()
    crc = Place(trace, seq, row_id, *sizes).checksum(encode := Link().encode(0))
    assert body != encode
    tamper("UPDATE base SET parent = id, body = ?, checksum = ? WHERE id = ?", encode, crc, row_id)
    with opened(file) as store, pytest.warns(es.BaseCorrupted, match="no older base"):
        assert store.state_at("t1")["n"] == 30


def test_a_row_that_is_missing_is_told_of_and_not_folded_over(file, tamper):
    tamper("DELETE FROM base")
    tamper("DELETE FROM log WHERE first_seq = 10")
    with opened(file) as store, pytest.raises(es.LogCorrupted, match="seq 10"):
        store.state_at("t1")


@pytest.mark.parametrize("at_us", [2**63 - 1, -(2**63), 10**17])
def test_a_time_beyond_all_calendars_is_the_first_or_last_one(file, tamper, at_us):
    tamper("UPDATE log SET at_us = ?", at_us)
    with opened(file) as store:
        assert store.traces()[0].updated_at.year in (1, 5138, 9999)
        assert len(list(store.events("t1"))) == store.traces()[1].version


def test_a_text_that_is_no_utf_8_is_an_error_of_the_file(file, tamper):
    tamper("UPDATE trace SET name = CAST(x'ff41' AS TEXT)")
    with opened(file) as store, pytest.raises(es.StorageError, match="UTF-8"):
        store.open_trace("t2")


def test_hostile_sql_makes_what_it_says(file, rng):
    connection = apsw.Connection(file)
    called = []
    connection.create_scalar_function(foreign_sql.CANARY, lambda *_: called.append(1), -1)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 0)
    foreign_sql.another_view(connection, rng)
    connection.execute("SELECT * FROM more").fetchall()
    assert called


def test_a_worker_tells_of_what_ran_and_of_what_ended_well(tmp_path):
    run = Run(1, 3, tmp_path, None)
    makers = Makers(run)
    sample = str(makers.sample)
    worker = Worker()
    try:
        commands = [["--db", sample, "verify"], ["--db", sample, "state", "nothing"]]
        assert worker.ask({"file": sample, "commands": commands, "naive": True}) == {
            "ended": ["ok", "refused"],
            "naive": [],
        }
    finally:
        worker.end()


def test_a_case_is_made_again_by_its_number(tmp_path):
    one, other = (Makers(Run(1, 5, folder(tmp_path, name), None)) for name in "ab")
    for number in range(12):
        first, second = one.case(number), other.case(number)
        assert (first.what, first.file.read_bytes()) == (second.what, second.file.read_bytes())
        assert (
            commands_for(first, one.run.rng(1))[0][2:] == commands_for(second, other.run.rng(1))[0][2:] or first.is_dump
        )


def folder(parent, name):
    made = parent / name
    made.mkdir()
    return made
