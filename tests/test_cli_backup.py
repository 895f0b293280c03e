"""`backup` and `salvage` at the prompt: what is told, to people and to machines, and how it ends."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import eventstore as es
from eventstore.cli import backing, main, salvaging


@pytest.fixture
def db(tmp_path, monkeypatch, record):
    """A store with three traces at `eventstore.db`, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("EVENTSTORE_DB", "EVENTSTORE_CHAIN_KEY", "EVENTSTORE_ENCRYPTION_KEY"):
        monkeypatch.delenv(name, raising=False)
    with es.open("eventstore.db") as store:
        record(store, 20)
        record(store, 5, id="t2")
        store.fork("t1", 61, id="late")
    return tmp_path / "eventstore.db"


@pytest.fixture
def run(db):
    """A command's result."""

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture
def path(db):
    """For `tamper`: the store's file."""
    return str(db)


CHANGE = "UPDATE log SET at_us = at_us + 1 WHERE trace = 1 AND first_seq = 42"


def test_a_backup_is_told_and_is_there(run, db):
    told = run("backup", "copy.db")
    size = (db.parent / "copy.db").stat().st_size
    assert told.stdout.startswith("copy.db: 3 traces, 103 events, ") and told.stdout.endswith(" kB; verified\n")
    figures = json.loads(run("backup", "other.db", "--json").stdout)
    heads = figures.pop("heads")
    assert figures.pop("seconds") > 0 and len(heads) == 3
    assert figures == {"file": "other.db", "verified": True, "pages": size // 4096, "size_bytes": size, "traces": 3,
                       "events": 103}  # fmt: skip
    with es.open("copy.db") as copy:
        assert copy.verify().heads == heads


def test_a_backup_writes_over_nothing(run, db):
    run("backup", "copy.db")
    before = (db.parent / "copy.db").read_bytes()
    for name, words in (("copy.db", "copy.db exists"), ("eventstore.db", "is the event store itself")):
        refused = run("backup", name, code=1)
        assert words in refused.stderr and "no backup was made" in refused.stderr
    assert (db.parent / "copy.db").read_bytes() == before
    assert "no such file" in run("--db", "nowhere.db", "backup", "new.db", code=1).stderr


def test_a_copy_that_does_not_verify_is_listed_and_not_kept(run, db, tamper):
    tamper(CHANGE)
    told = run("backup", "copy.db", code=1)
    assert "t1" in told.stdout and "42" in told.stdout and "no backup was made: " in told.stdout
    figures = json.loads(run("backup", "copy.db", "--json", code=1).stdout)
    assert figures["verified"] is False and figures["problems"][0]["trace_id"] == "t1"
    assert not (db.parent / "copy.db").exists()


def test_salvage_tells_what_was_cut_and_why(run, db, tamper):
    tamper(CHANGE)
    told = run("salvage", "new.db", code=1)
    [header, first, second, last] = told.stdout.splitlines()
    assert header.split() == ["TRACE", "KEPT", "TO", "WHY"]
    assert first.split()[:2] == ["t1", "41"] and "the row at seq 42 is not what was written" in first
    assert second.split()[:2] == ["late", "lost"] and "it is a fork of t1 at seq 61" in second
    assert last == "new.db: 1 trace whole, 1 cut, 1 lost, 62 events"
    figures = json.loads(run("salvage", "other.db", "--json", code=1).stdout)
    assert [(trace["trace_id"], trace["kept_to"]) for trace in figures["cut"]] == [("t1", 41), ("late", 0)]
    assert (figures["ok"], figures["kept"], figures["beside"], figures["problems"]) == (False, 1, 0, [])
    run("--db", "new.db", "verify")


def test_salvage_of_a_sound_file_ends_well(run):
    assert run("salvage", "new.db").stdout == "new.db: 3 traces whole, 0 cut, 0 lost, 103 events\n"
    assert json.loads(run("salvage", "other.db", "--json").stdout)["ok"] is True
    assert "nothing was salvaged: new.db exists" in run("salvage", "new.db", code=1).stderr


def test_salvage_takes_the_key_from_the_environment(run, db, record, monkeypatch):
    with es.open("keyed.db", chain_key="0123456789abcdef") as store:
        record(store, 5)
    assert "its digests have a key, which is needed" in run("--db", "keyed.db", "salvage", "new.db", code=1).stderr
    monkeypatch.setenv("EVENTSTORE_CHAIN_KEY", "short")
    assert "EVENTSTORE_CHAIN_KEY" in run("--db", "keyed.db", "salvage", "new.db", code=2).stderr
    monkeypatch.setenv("EVENTSTORE_CHAIN_KEY", "0123456789abcdef")
    run("--db", "keyed.db", "salvage", "new.db")
    run("--db", "keyed.db", "backup", "copy.db")


@pytest.mark.parametrize(("module", "verb", "words"), [(backing, "backup", "no backup was made"),
                                                       (salvaging, "salvage", "nothing was salvaged")])  # fmt: skip
def test_an_interrupted_command_says_that_nothing_was_made(run, monkeypatch, module, verb, words):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, verb, stop)
    assert run(verb, "new.db", code=130).stderr == f"Interrupted: {words}.\n"
