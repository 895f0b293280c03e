"""`eventstore export sqlite`: what it prints for people, pipes and machines, and how it fails."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing

import pytest
from click.testing import CliRunner

import eventstore as es
from eventstore.cli import main

FIGURES = ("added", "updated", "unchanged", "removed", "steps", "deltas", "messages")


@pytest.fixture
def db(tmp_path, monkeypatch):
    """`eventstore.db` in the current folder: chats `a1` (completed) and `b1`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSTORE_DB", raising=False)
    with es.open("eventstore.db", durability="normal") as store:
        for trace_id in ("a1", "b1"):
            trace = store.start({"messages": [{"role": "user", "content": "hi"}]}, id=trace_id, name=f"chat {trace_id}")
            with trace.step("answer") as step:
                step.put("n", 1)
                step.put("text", "a")
        store.open_trace("a1").end()
    return tmp_path / "eventstore.db"


@pytest.fixture
def run(db):
    def invoke(*arguments, code=0):
        result = CliRunner().invoke(main, ["export", "sqlite", *arguments])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return invoke


def figures(result):
    exported = json.loads(result.stdout)
    return [exported[name] for name in FIGURES]


def runs(file="out.db"):
    with closing(sqlite3.connect(file)) as connection:
        return [trace_id for (trace_id,) in connection.execute("SELECT trace_id FROM runs ORDER BY 1")]


def test_it_tells_what_was_added(run):
    told = run("out.db").stdout
    assert re.fullmatch(
        r"out\.db: runs 2 added, 0 updated, 0 unchanged; 2 steps, 4 deltas, 2 messages;"
        r" [\d.]+ kB in [\d.]+ s, [\d,]+ deltas/s\n",
        told,
    )
    assert run("out.db").stdout.startswith("out.db: runs 0 added, 0 updated, 2 unchanged; 0 steps, 0 deltas, 0 mess")
    assert runs() == ["a1", "b1"]


def test_json_is_the_record_whole(run, db):
    assert figures(run("out.db", "--json")) == [2, 0, 0, 0, 2, 4, 2]
    with es.open(db) as store:
        store.erase("b1")
    exported = json.loads(run("out.db", "--json").stdout)
    assert [exported[name] for name in FIGURES] == [0, 0, 1, 1, 0, 0, 0]
    assert exported["path"] == "out.db" and exported["file_bytes"] == os.stat("out.db").st_size  # noqa: PTH116
    assert runs() == ["a1"]


@pytest.mark.parametrize("chosen", [["a"], ["--name", "chat a1"], ["--status", "completed"]])
def test_some_traces_are_chosen(run, chosen):
    assert figures(run("out.db", *chosen, "--json"))[0] == 1
    assert runs() == ["a1"]


def test_what_it_refuses_is_one_line(run, db):
    told = run("eventstore.db", code=1).stderr
    assert told == "Error: eventstore.db: it belongs to an open event store; an export goes to a file of its own\n"
    assert "no trace" in run("out.db", "nobody", code=1).stderr.lower()
    assert "not both" in run("out.db", "a1", "--name", "x", code=2).stderr
    (db.parent / "note\x1b.txt").write_text("hello")
    assert "note\\x1b.txt: not an SQLite file" in run("note\x1b.txt", code=1).stderr


def test_a_name_that_is_not_unicode_and_a_file_beside_a_database_are_refused(run, db):
    assert "lone surrogate" in run("out.db", "--name", "\udcff", code=1).stderr
    (db.parent / "other.db").touch()
    told = run("other.db-wal", code=1).stderr
    assert told == "Error: other.db-wal: it stands for the -wal file of other.db beside it; name another one\n"


def test_a_store_that_does_not_exist_is_not_made(run, db):
    result = CliRunner().invoke(main, ["--db", "none.db", "export", "sqlite", "out.db"])
    assert result.exit_code == 1 and "no such file" in result.stderr
    assert not (db.parent / "none.db").exists() and not (db.parent / "out.db").exists()


def test_a_damaged_trace_is_told_and_the_others_are_exported(run, db, damage_file):
    with es.open(db) as store:
        store.drop_bases()
    damage_file(db, "UPDATE log SET body = '[{\"key\":7}]' WHERE trace = 1 AND first_seq = 2")
    told = run("out.db", code=1)
    assert "1 added" in told.stdout and "Error: eventstore.db: trace a1 is damaged at seq 2" in told.stderr
    assert runs() == ["b1"]


def test_a_terminal_gets_a_bar_and_a_hint(run, db):
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-m", "eventstore", "--db", str(db), "export", "sqlite", "my out.db"]
    with subprocess.Popen(
        command, cwd=db.parent, stdout=follower, stderr=follower, env=environment | {"TERM": "xterm-256color"}
    ):
        os.close(follower)
        shown = b""
        try:
            while chunk := os.read(leader, 65536):
                shown += chunk
        except OSError:
            pass  # the other end is closed
    os.close(leader)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "2/2 4 deltas," in text and "Look at it: datasette 'my out.db'" in text
