"""`prune` at the prompt: the plan is shown, a yes is asked for, and what went is told."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_cli import COLOURS, HOSTILE

import eventstore as es
from eventstore.cli import main
from eventstore.retention_apply import RetentionReport
from eventstore.retention_plan import RetentionPlan

NOW = ("--retry-window", "0s")


@pytest.fixture
def db(tmp_path, monkeypatch, record):
    """A store with a chat that was forked, an ended mail, and a run that waits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSTORE_DB", raising=False)
    path = tmp_path / "eventstore.db"
    with es.open(path) as store:
        record(store, 10).checkpoint()
        store.fork("t1", at=9, id="fork-1", name="try again")
        mail = store.start({"text": ""}, id="mail-1", name="mail")
        for _ in range(50):
            with mail.step("work") as step:
                step.put("text", os.urandom(2000).hex())
        mail.end()
        waits = store.start({"n": 1}, id="waits-1", name="ask")
        waits.raise_barrier("approve")
    return path


@pytest.fixture
def run(db):
    def invoke(*arguments, code=0):
        result = CliRunner().invoke(main, ["prune", *arguments])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return invoke


def ids(db):
    with es.open(db, read_only=True) as store:
        return {info.trace_id for info in store.traces()}


def lines(result):
    return [line.split() for line in result.stdout.splitlines()]


def test_without_an_action_it_names_them(run):
    refused = run("--name", "mail", code=2).stderr
    assert "--keep-checkpoints N, --drop-bases, --trim or --erase" in refused


def test_traces_are_named_or_chosen(run):
    assert "not both" in run("t1", "--name", "chat", "--erase", "--yes", code=2).stderr


def test_nothing_goes_without_a_yes(run, db):
    before = db.read_bytes()
    assert "no terminal to ask on, say --yes" in run("--erase", code=2).stderr
    assert "with --json, say --yes" in run("--erase", "--json", code=2).stderr
    assert db.read_bytes() == before


@pytest.mark.parametrize("text", ["30", "d", "-1d", "1y", "1 d", "9999999999d", "999999999w", ""])
def test_what_is_no_duration_is_a_usage_error(run, text):
    refused = run("--erase", "--dry-run", "--older-than", text, code=2).stderr
    assert "--older-than" in refused and ("duration" in refused or "longer" in refused)


def test_a_dry_run_shows_the_plan_and_changes_nothing(run, db):
    before = db.read_bytes()
    shown = run("--trim", *NOW, "--keep-checkpoints", "0", "--dry-run")
    table = {line[0]: line for line in lines(shown)}
    header = "trace name status last event checkpoints bases history blocked by"
    assert " ".join(table["trace"]) == header
    assert "to seq 9: 9 events" in " ".join(table["t1"])
    assert " ".join(table["t1"]).endswith("trim: fork fork-1 at seq 9")
    assert "to seq 51" not in " ".join(table["t1"]) and "completed" in table["mail-1"]
    assert " ".join(table["waits-1"]).endswith("to seq 1: 1 event, 64 bytes trim: barrier approve#1 raised at seq 2")
    assert shown.stdout.splitlines()[-1].startswith("4 traces looked at; would go: ")
    assert db.read_bytes() == before


def test_a_plan_as_json_is_a_plan(run, db):
    plan = RetentionPlan.from_json(run("--erase", "--dry-run", "--json").stdout)
    assert [(entry.trace_id, entry.erase) for entry in plan.traces] == [
        ("waits-1", False),
        ("mail-1", True),
        ("fork-1", True),
        ("t1", True),
    ]
    assert [str(blocker) for blocker in plan.traces[0].blockers] == ["barrier approve#1 raised at seq 2 is pending"]
    assert (plan.examined, plan.erase, plan.trim) == (4, True, False)


def test_what_went_is_told_with_the_size_of_the_file(run, db):
    with es.open(db) as store:
        state = store.state_at("mail-1")
    before = db.stat().st_size
    told = run("mail", "--trim", *NOW, "--keep-checkpoints", "1", "--yes").stdout
    assert "Gone: " in told and "The file shrank from " in told and " freed)." in told
    assert db.stat().st_size < before / 2
    with es.open(db) as store:
        assert store.state_at("mail-1") == state and store.verify().ok
    assert "Nothing to remove of 1 trace." in run("mail", "--trim", *NOW, "--keep-checkpoints", "1", "--yes").stdout


def test_a_report_as_json_is_a_report(run, db):
    before = db.stat().st_size
    report = RetentionReport.from_json(run("--name", "mail", "--erase", "--yes", "--json").stdout)
    assert [(removal.trace_id, removal.erased) for removal in report.traces] == [("mail-1", True)]
    assert (report.before_bytes, report.after_bytes) == (before, db.stat().st_size)
    assert report.freed_bytes == before - report.after_bytes > 0 and report.is_finished
    assert ids(db) == {"t1", "fork-1", "waits-1"}
    assert RetentionReport.from_json(run("--name", "mail", "--erase", "--yes", "--json").stdout).traces == []


def test_several_statuses_and_an_age_choose(run, db):
    def chosen(*arguments):
        plan = json.loads(run("--drop-bases", "--dry-run", "--json", *arguments).stdout)
        return plan["examined"]

    assert chosen() == 4
    assert chosen("--status", "completed", "--status", "waiting") == 2
    assert chosen("--older-than", "1h") == 0
    time.sleep(0.01)
    assert chosen("--older-than", "0.001s") == 4


def test_the_retry_window_is_a_day_unless_told(run, db):
    assert "Nothing to remove" in run("--trim", "--dry-run").stdout
    plan = json.loads(run("--trim", "--dry-run", "--json").stdout)
    assert plan["traces"] and all("retry" in {found["kind"] for found in entry["blockers"]} for entry in plan["traces"])


def test_blockers_are_no_failure(run, db):
    told = run("waits-1", "--erase", "--yes").stdout
    assert "erase: barrier approve#1 raised at seq 2 is pending" in told
    assert "Nothing to remove of 1 trace." in told and "waits-1" in ids(db)


def test_an_erasure_says_who(run, db):
    run("mail-1", "--erase", "--yes")
    import apsw

    connection = apsw.Connection(str(db))
    assert connection.execute("SELECT trace_id, erased_by IS NOT NULL FROM tombstone").fetchall() == [("mail-1", 1)]
    connection.close()


def test_a_damaged_trace_is_told_and_fails(run, db, damage_file):
    damage_file(db, "UPDATE log SET at_us = at_us + 1 WHERE trace = 1 AND first_seq = 6")
    told = run("--trim", *NOW, "--keep-checkpoints", "0", "--yes", code=1).stdout
    assert "Skipped: t1, any: it is damaged: " in told and "seq 6" in told
    assert "Gone: " in told


def test_text_of_the_data_cannot_act(run, db):
    with es.open(db) as store:
        store.start(id=HOSTILE, name=HOSTILE).raise_barrier(HOSTILE)
    shown = run("--erase", "--dry-run").output
    assert not any(character in shown for character in "\x1b\x07\x9b\r\u202e\u2028")
    assert len(shown.splitlines()) == 7


def test_a_name_that_no_file_can_hold_is_one_line(run, db):
    told = run("--trim", "--name", "\udcff", "--dry-run", code=1).stderr
    assert told == "Error: value at 'name' refused: it holds a lone surrogate\n"


def test_a_login_name_that_no_file_can_hold_is_written_in_ascii(run, db, monkeypatch):
    import apsw

    monkeypatch.setattr("getpass.getuser", lambda: "an\udcff")
    run("mail-1", "--erase", "--yes")
    connection = apsw.Connection(str(db))
    assert connection.execute("SELECT erased_by FROM tombstone").get == "an\\udcff"
    connection.close()


@pytest.mark.parametrize("action", [("--drop-bases",), ("--keep-checkpoints", "9"), ("--erase",)])
def test_an_unfinished_erasure_is_told_and_finished_by_any_prune(run, db, action, monkeypatch):
    from eventstore import retention

    with monkeypatch.context() as patched:
        patched.setattr(retention, "give_back", lambda *_, **__: False)
        told = run("mail-1", "--erase", "--yes").stdout
        assert "may stand in the file until the next prune" in told
    told = run("--name", "none", *action, "--yes").stdout
    assert "Nothing to remove of 0 traces." in told and "it is rewritten now" in told
    assert "The file shrank" in told
    assert "rewritten" not in run("--name", "none", *action, "--yes").stdout


def test_an_absent_file_or_trace_is_one_line(run, db):
    assert run("absent", "--erase", "--yes", code=1).stderr == "Error: no trace absent in this store\n"
    refused = CliRunner().invoke(main, ["--db", "absent.db", "prune", "--erase", "--yes"])
    assert refused.exit_code == 1 and "no such file" in refused.stderr and not Path("absent.db").exists()


def at_terminal(db, arguments, answer):
    """What a terminal shows, and the exit code; `answer` is typed when it asks."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-m", "eventstore", "--db", str(db), "prune", *arguments]
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment | {"TERM": "xterm-256color"}
    )
    os.close(follower)
    shown, answered = b"", False
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
            if b"[y/N]" in shown and not answered:
                answered = True
                os.write(leader, answer + b"\n")
    except OSError:
        pass  # the other end is closed
    os.close(leader)
    return shown.decode(), process.wait(30)


def test_on_a_terminal_it_shows_colours_asks_and_does_it(db):
    shown, code = at_terminal(db, ["--erase"], b"n")
    assert code == 0 and "Nothing was changed." in shown and len(ids(db)) == 4
    assert "\x1b[33m" in shown
    plain = COLOURS.sub("", shown)
    assert "Remove 3 traces altogether" in plain and "It cannot be undone. [y/N]" in plain
    shown, code = at_terminal(db, ["--erase"], b"y")
    assert code == 0 and "The file shrank from" in shown and ids(db) == {"waits-1"}


def test_on_a_terminal_a_yes_before_is_not_asked_for(db):
    shown, code = at_terminal(db, ["--erase", "--yes", "mail-1"], b"")
    assert code == 0 and "[y/N]" not in shown and "mail-1" not in ids(db)
