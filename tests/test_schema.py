"""The file: readable by any SQLite tool, versioned, private, and made by whoever comes first."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import shutil
import stat
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import apsw
import pytest

import eventstore as es
from eventstore.database import APPLICATION_ID, schema_scripts

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
VIEWS = {
    "traces": ["trace_id", "name", "status", "version", "created_at", "updated_at", "parent_trace_id", "fork_seq"],
    "events": ["trace_id", "first_seq", "seq", "kind", "event", "at", "append_id", "digest"],
    "deltas": ["trace_id", "first_seq", "seq", "key", "op", "value", "source", "at"],
    "barriers": ["trace_id", "barrier_id", "node", "prompt", "raised_seq", "raised_at", "deadline_at",
                 "decided_seq", "decided_at", "decision", "decided_by"],
    "checkpoints": ["checkpoint_id", "trace_id", "seq", "node", "graph_hash", "triggers", "metadata", "created_at"],
    "bases": ["id", "trace_id", "seq", "kind", "parent", "body_bytes", "chain_bytes", "state_bytes", "steps", "reason",
              "checksum", "at"],
}  # fmt: skip


def stdlib_rows(path, sql):
    """Rows as dicts, read by the standard library's SQLite in a process of its own."""
    program = (
        "import json, sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.row_factory = sqlite3.Row\n"
        "print(json.dumps([dict(row) for row in db.execute(sys.argv[2])]))"
    )
    done = subprocess.run([sys.executable, "-c", program, path, sql], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A closed copy of a file with a bit of everything in it."""
    folder = tmp_path_factory.mktemp("views")
    with es.open(folder / "runs.db", fold_policy=es.FoldEvery(3)) as store:
        trace = store.start({"n": 0, "log": []}, id="t1", name="chat")
        for number in range(5):
            with trace.step("work", next="work") as step:
                step.put("n", number)
                step.append("log", {"é": [None, True, 1.5]})
        trace.checkpoint("work")
        trace.raise_barrier("approve", prompt="Refund 40?", deadline_us=4_000_000_000_000_001)
        trace.decide("approve", es.Modify({"n": 9}, by="ana"))
        store.fork("t1", at=4, id="t2")
        with trace.step("blob") as step:
            step.put("sealed", es.Opaque("raw", b"\x01"))
        trace.end()
    shutil.copy(folder / "runs.db", folder / "copy.db")
    return str(folder / "copy.db")


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_readable_with_the_standard_library(copy, view):
    rows = stdlib_rows(copy, f"SELECT * FROM {view}")
    assert rows
    assert list(rows[0]) == VIEWS[view]
    for row in rows:
        for column in {"at", "created_at", "updated_at", "raised_at", "decided_at", "deadline_at"} & row.keys():
            assert RFC_3339.fullmatch(row[column]), (column, row[column])


def test_view_traces_says_where_each_trace_stands(copy):
    first, second = stdlib_rows(copy, "SELECT * FROM traces ORDER BY name, trace_id")
    with es.open(copy, read_only=True) as store:
        infos = {info.trace_id: info for info in store.traces()}
    for row in (first, second):
        info = infos[row["trace_id"]]
        assert (row["name"], row["status"], row["version"]) == (info.name, info.status, info.version)
        assert datetime.fromisoformat(row["created_at"]) == info.created_at
        assert datetime.fromisoformat(row["updated_at"]) == info.updated_at
        assert (row["parent_trace_id"], row["fork_seq"]) == (info.parent_trace_id, info.fork_seq)
    assert first["status"] == "completed" and second["fork_seq"] == 4


def test_view_events_has_one_row_an_event_in_seq_order(copy):
    rows = stdlib_rows(copy, "SELECT seq, kind, at FROM events WHERE trace_id = 't1' ORDER BY first_seq, seq")
    with es.open(copy, read_only=True) as store:
        events = [event for event in store.events("t1") if event.kind != "delta" or event.event.key != "sealed"]
    assert rows[0]["kind"] == "trace_started"
    opaque = [row for row in rows if row["kind"] == "opaque"]
    assert len(opaque) == 1  # a msgpack body is one row that says so
    told = [(row["seq"], row["kind"]) for row in rows if row not in opaque]
    assert told == [(event.seq, event.kind) for event in events if event.seq != opaque[0]["seq"] + 1]
    assert [datetime.fromisoformat(row["at"]) for row in rows[:4]] == [event.at for event in events[:4]]


def test_view_deltas_has_values_as_json(copy):
    rows = stdlib_rows(copy, "SELECT * FROM deltas WHERE trace_id = 't1' AND first_seq <= 2 ORDER BY seq")
    told = [(row["seq"], row["key"], row["op"], json.loads(row["value"]), row["source"]) for row in rows]
    assert told == [(2, "n", "put", 0, "node"), (3, "log", "append", [{"é": [None, True, 1.5]}], "node")]


def test_view_barriers_is_the_inbox(copy):
    (row,) = stdlib_rows(copy, "SELECT * FROM barriers")
    assert (row["barrier_id"], row["node"], row["prompt"]) == ("approve#1", "approve", "Refund 40?")
    assert row["deadline_at"] == "2096-10-02T07:06:40.000001Z"
    assert json.loads(row["decision"]) == {"action": "modify", "values": {"n": 9}, "by": "ana"}
    assert row["decided_seq"] == row["raised_seq"] + 1


def test_view_barriers_tells_who_decided(copy):
    (row,) = stdlib_rows(copy, "SELECT decided_by FROM barriers")
    assert row["decided_by"] == "ana"


def test_view_bases_tells_why_each_was_written(copy):
    rows = stdlib_rows(copy, "SELECT * FROM bases ORDER BY id")
    assert {row["kind"] for row in rows} == {"whole"}
    assert {row["reason"] for row in rows} == {"every 3 steps"}
    assert all(re.fullmatch("crc32:[0-9a-f]{8}", row["checksum"]) for row in rows)
    assert all(row["chain_bytes"] == row["body_bytes"] for row in rows)
    assert [row["steps"] for row in rows] == sorted({row["steps"] for row in rows}) and rows[-1]["steps"] > 0


# Versions


def version(path, number):
    connection = apsw.Connection(path)
    connection.pragma("user_version", number)
    connection.close()


def downgrade(path):
    """Make a file of format 4 of a new one: without threads, and bases do not say how many steps lie behind them."""
    connection = apsw.Connection(path)
    table = re.search(r"CREATE TABLE base \(.*?\) STRICT;", schema_scripts()[0], re.DOTALL)[0]
    columns = "id, trace, seq, parent, chain_bytes, state_bytes, log_bytes, base_bytes, at_us, checksum, reason, body"
    view = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'bases'").fetchone()[0]
    trigger = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'base_no_update'").fetchone()[0]
    for sql in (
        *(f"ALTER TABLE {table} DROP COLUMN seal" for table in ("root", "checkpoint", "tombstone")),
        "ALTER TABLE root DROP COLUMN created_us",
        "DROP TABLE chain_key",
        "DROP VIEW threads", *(f"DROP TABLE {table}" for table in ("scope_checkpoint", "scope_trace", "scope")),
        "DROP VIEW bases", "DROP INDEX tombstone_trace", "ALTER TABLE base RENAME TO base_5", table,
        f"INSERT INTO base ({columns}) SELECT {columns} FROM base_5", "DROP TABLE base_5",
        view.replace("b.steps, ", ""), trigger, "PRAGMA user_version = 4",
    ):  # fmt: skip
        connection.execute(sql)
    connection.close()


def test_bases_of_format_4_stay(path, tiny_fold):
    with es.open(path, fold_policy=tiny_fold) as store:
        trace = store.start({"log": []}, id="t1", reducers={"log": "append"})
        for number in range(100):
            with trace.step("work") as step:
                step.put("log", number)
        forked = trace.fork("step:50", id="t2")
        for number in range(100):
            with forked.step("work") as step:
                step.put("log", -number)
        states = {(id, seq): store.state_at(id, seq) for id in ("t1", "t2") for seq in range(1, 180, 7)}
        newest = max(base.seq for base in store.bases("t1"))
        last_id = store._database.writer.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'base'").fetchone()[
            0
        ]
    downgrade(path)
    with es.open(path, fold_policy=tiny_fold) as store:
        assert store.verify().ok
        assert [base.seq for base in store.bases("t1")][-1] == newest and store.bases("t2", after=151) == []
        for (id, seq), state in states.items():
            assert store.state_at(id, seq) == state
        trace = store.open_trace("t1")
        assert trace.at(step=70).state["log"] == list(range(70))
        for number in range(100):
            with trace.step("work") as step:
                step.put("log", number)
        assert trace.at(step=170).state["log"][-1] == 69 and store.verify().ok
        ids = [row[0] for row in store._database.writer.execute("SELECT id FROM base WHERE seq > 201")]
        assert ids and min(ids) > last_id


def test_a_newer_format_is_refused_by_name(path):
    known = len(schema_scripts())
    es.open(path).close()
    version(path, known + 6)
    with pytest.raises(es.FormatTooNew) as refused:
        es.open(path)
    assert (refused.value.found, refused.value.known) == (known + 6, known)
    assert path in str(refused.value)
    assert apsw.Connection(path).pragma("user_version") == known + 6


def test_an_older_format_is_migrated_with_its_rows(path):
    connection = apsw.Connection(path)
    connection.pragma("auto_vacuum", 2)
    connection.pragma("journal_mode", "wal")
    connection.execute(schema_scripts()[0])
    connection.pragma("user_version", 1)
    connection.pragma("application_id", APPLICATION_ID)
    with es.open(path + ".other") as other:
        other.start({"n": 1}, id="t1", name="old")
        with other.open_trace("t1").step("work") as step:
            step.put("n", 2)
    connection.execute("ATTACH ? AS other", (path + ".other",))
    connection.execute("INSERT INTO trace SELECT * FROM other.trace; INSERT INTO log SELECT * FROM other.log")
    connection.close()

    with pytest.raises(es.NotAnEventStore, match="needs migrating"):
        es.open(path, read_only=True)
    with es.open(path) as store:
        assert store.verify().ok
        assert store.state_at("t1") == {"n": 2}
        with store.open_trace("t1").step("more") as step:
            step.put("n", 3)
    assert stdlib_rows(path, "SELECT name, version FROM traces") == [{"name": "old", "version": 5}]
    connection = apsw.Connection(path)
    assert connection.pragma("user_version") == len(schema_scripts())
    with pytest.raises(apsw.ConstraintError):
        connection.execute("DELETE FROM log")


def test_a_migration_that_fails_leaves_the_file_as_it_was(path, monkeypatch):
    es.open(path).close()
    before = Path(path).read_bytes()
    broken = (*schema_scripts(), "CREATE TABLE half (id); SELECT no_such_function()")
    monkeypatch.setattr("eventstore.database.schema_scripts", lambda: broken)
    monkeypatch.setattr("eventstore.database.FORMAT", len(broken))
    with pytest.raises(es.EventStoreError):
        es.open(path)
    monkeypatch.undo()
    assert stdlib_rows(path, "SELECT count(*) AS n FROM sqlite_master WHERE name = 'half'") == [{"n": 0}]
    es.open(path).close()
    assert len(Path(path).read_bytes()) == len(before)


def test_a_file_of_another_application_is_refused_and_left_alone(path):
    connection = apsw.Connection(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    before = Path(path).read_bytes()
    with pytest.raises(es.NotAnEventStore, match="another application"):
        es.open(path)
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one\n" * 40, b"short"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path, content):
    Path(path).write_bytes(content)
    with pytest.raises(es.NotAnEventStore, match="not an SQLite file"):
        es.open(path)
    assert Path(path).read_bytes() == content


def test_an_empty_file_becomes_a_store(path):
    Path(path).touch()
    with es.open(path) as store:
        store.start({"n": 1}, id="t1")
        assert store.verify().ok


def test_a_missing_file_is_made_only_when_asked(path):
    for keywords in ({"create": False}, {"read_only": True}):
        with pytest.raises(es.StorageError, match="no such file"):
            es.open(path, **keywords)
    assert not Path(path).exists()


def test_a_folder_is_no_store(tmp_path):
    with pytest.raises(es.StorageError):
        es.open(tmp_path)


def test_a_read_only_store_refuses_to_write(path):
    with es.open(path) as store:
        store.start({"n": 1}, id="t1")
    with es.open(path, read_only=True) as store:
        assert store.state_at("t1") == {"n": 1}
        with pytest.raises(es.StorageError, match="read-only"):
            store.start()
        with pytest.raises(es.StorageError, match="read-only"), store.open_trace("t1").step("work") as step:
            step.put("n", 2)
        assert store.verify().ok


# The file itself


def test_a_new_file_is_for_its_user_only(path):
    with es.open(path) as store:
        store.start()
        for file in Path(path).parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_a_new_file_gives_space_back_and_writes_ahead(path):
    with es.open(path):
        connection = apsw.Connection(path)
        assert connection.pragma("auto_vacuum") == 2
        assert connection.pragma("journal_mode") == "wal"
        assert connection.pragma("page_size") == 4096
        assert connection.pragma("application_id") == APPLICATION_ID
        connection.close()


def test_a_memory_store_leaves_nothing_behind():
    store = es.open(":memory:")
    folder = Path(store.path).parent
    assert folder.is_dir()
    store.close()
    assert not folder.exists()


def test_a_relative_path_keeps_its_meaning_when_the_process_moves(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    es.open("runs.db").close()
    monkeypatch.chdir(tmp_path / "a")
    with es.open("runs.db") as store:
        store.start({"n": 1}, id="t1")
        monkeypatch.chdir(tmp_path / "b")
        assert store.state_at("t1") == {"n": 1}


OPEN_TOGETHER = """
import sys, time, eventstore as es
folder, start, name = sys.argv[1], float(sys.argv[2]), sys.argv[3]
for number in range(12):
    time.sleep(max(0.0, start + number * 0.12 - time.time()))
    with es.open(f"{folder}/{number}.db") as store:
        store.start({"n": number}, id=name)
"""


def test_eight_processes_may_create_one_file(tmp_path):
    start = str(time.time() + 4)
    command = [sys.executable, "-c", OPEN_TOGETHER, str(tmp_path), start]
    processes = [subprocess.Popen([*command, f"p{n}"], stderr=subprocess.PIPE, text=True) for n in range(8)]
    errors = [process.communicate()[1] for process in processes]
    assert errors == [""] * 8
    for number in range(12):
        with es.open(tmp_path / f"{number}.db") as store:
            assert {info.trace_id for info in store.traces()} == {f"p{n}" for n in range(8)}
            assert store.verify().ok


@pytest.mark.parametrize("moment", range(1, 13))
def test_a_file_made_meanwhile_is_opened_whatever_the_moment(path, monkeypatch, moment):
    real, calls = apsw.Connection, []

    def rival():
        calls.append(1)
        if len(calls) == moment:
            monkeypatch.setattr("eventstore.database.apsw.Connection", real)
            with contextlib.suppress(es.StoreBusy):
                es.open(path, busy_timeout_ms=20).close()

    class Watched(real):
        def execute(self, *args, **keywords):
            rival()
            return super().execute(*args, **keywords)

        def pragma(self, *args, **keywords):
            rival()
            return super().pragma(*args, **keywords)

    monkeypatch.setattr("eventstore.database.apsw.Connection", Watched)
    with es.open(path) as store:
        store.start({"n": 1}, id="t1")
        assert store.state_at("t1") == {"n": 1}
    assert len(calls) >= moment


# Query plans


def plan(connection, sql):
    numbered = [int(number) for number in re.findall(r"\?(\d+)", sql)]
    parameters = [None] * (max(numbered) if numbered else sql.count("?"))
    return [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql, parameters).fetchall()]


PINNED = {
    ("log", "LAST_ROW"): ["SEARCH log USING INDEX sqlite_autoindex_log_1 (trace=?)"],
    ("log", "ROWS"): ["SEARCH log USING INDEX sqlite_autoindex_log_1 (trace=? AND first_seq>? AND first_seq<?)"],
    ("log", "FULL_ROWS"): ["SEARCH log USING INDEX sqlite_autoindex_log_1 (trace=? AND first_seq>? AND first_seq<?)"],
    ("log", "ROW_AT"): ["SEARCH log USING INDEX sqlite_autoindex_log_1 (trace=? AND first_seq<?)"],
    ("log", "ROW_BY_APPEND_ID"): ["SEARCH log USING INDEX log_append_id (trace=? AND append_id=?)"],
    ("log", "TRACE_BY_ID"): ["SEARCH trace USING INDEX sqlite_autoindex_trace_1 (trace_id=?)"],
    ("log", "TRACE_BY_ROW"): ["SEARCH trace USING INTEGER PRIMARY KEY (rowid=?)"],
    ("bases", "NEAREST"): ["SEARCH base USING INDEX sqlite_autoindex_base_1 (trace=? AND seq<?)"],
    ("bases", "BY_ID"): ["SEARCH base USING INTEGER PRIMARY KEY (rowid=?)"],
}


@pytest.mark.parametrize(("module", "name"), PINNED)
def test_the_plan_of_a_hot_read_is_pinned(store, raw, module, name):
    sql = getattr(importlib.import_module(f"eventstore.{module}"), name)
    assert plan(raw, sql) == PINNED[module, name]


def statements():
    for name in ("log", "bases", "checkpoints", "store", "writer"):
        module = importlib.import_module(f"eventstore.{name}")
        for constant, value in vars(module).items():
            is_whole = constant.isupper() and constant != "COLUMNS" and isinstance(value, str)
            if is_whole and re.match("SELECT|UPDATE|DELETE", value):
                yield pytest.param(value, id=f"{name}.{constant}")


@pytest.mark.parametrize("sql", list(statements()))
def test_no_statement_scans_or_sorts(store, raw, sql):
    steps = plan(raw, sql)
    paged = "LIMIT ?4" in sql  # the list of traces walks its own table, newest first, a page at a time
    merges = "json_each" in sql  # a handful of triggers is sorted to be merged
    assert merges or not [step for step in steps if "TEMP B-TREE" in step]
    assert not [step for step in steps if step.startswith("SCAN") and not (paged and step == "SCAN t") and not merges]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "SELECT 1 FROM log WHERE trace = NEW.trace AND append_id = NEW.append_id AND typeof(append_id) = 'text'",
            ["SEARCH log USING COVERING INDEX log_append_id (trace=? AND append_id=?)"],
        ),
        (
            "SELECT first_seq + n FROM log WHERE trace = NEW.trace ORDER BY first_seq DESC LIMIT 1",
            ["SEARCH log USING INDEX sqlite_autoindex_log_1 (trace=?)"],
        ),
        ("SELECT 1 FROM log WHERE id = NEW.id", ["SEARCH log USING INTEGER PRIMARY KEY (rowid=?)"]),
    ],
)
def test_the_plan_of_each_guard_of_an_append_is_pinned(store, raw, sql, expected):
    assert sql in " ".join(" ".join(schema_scripts()).split())
    assert plan(raw, re.sub(r"NEW\.\w+", "?", sql)) == expected


def test_the_deltas_view_reaches_one_step_through_the_index(store, raw):
    steps = plan(raw, "SELECT * FROM deltas WHERE trace_id = ? AND first_seq = ?")
    assert "SEARCH l USING INDEX sqlite_autoindex_log_1 (trace=? AND first_seq=?)" in steps
