"""`eventstore import-langgraph`: what it prints for people and machines, and how it fails."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from click.testing import CliRunner
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.sqlite import SqliteSaver

import eventstore as es
from eventstore.cli import main
from eventstore.cli.stopping import INTERRUPTED
from eventstore.integrations.langgraph import importing

OLD, DB = "checkpoints.sqlite", "eventstore.db"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("EVENTSTORE_DB", "LANGGRAPH_AES_KEY"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(main, ["import-langgraph", *arguments])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture
def old(run):
    """Threads `a` and `b`, two checkpoints and three writes each, in `checkpoints.sqlite`."""
    with closing(sqlite3.connect(OLD)) as connection:
        fill(SqliteSaver(connection))
    return OLD


def fill(saver, threads=("a", "b"), steps=2):
    for thread in threads:
        config = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
        for step in range(steps):
            checkpoint = {**empty_checkpoint(), "channel_values": {"log": ["word"] * step}}
            config = saver.put(config, checkpoint, {"step": step}, {})
        saver.put_writes(config, [("log", 1), ("log", 2), ("log", 3)], "task")


def test_it_tells_what_came_over(run, old):
    told = run(old).stdout
    assert re.fullmatch(
        r"checkpoints\.sqlite: threads 2 added; 4 checkpoints, 6 writes;"
        r" [\d.]+ kB -> [\d.]+ kB \(1/\d+\) in [\d.]+ s, \d+ MB/s\n",
        told,
    )
    with es.open(DB) as store:
        assert sorted(info.name for info in store.traces()) == ["a", "a (writes)", "b", "b (writes)"]


def test_again_it_tells_that_it_is_there(run, old):
    run(old)
    with closing(sqlite3.connect(OLD)) as connection:
        fill(SqliteSaver(connection), ["c"])
    assert run(old).stdout.startswith(f"{OLD}: threads 1 added, 2 already there; 2 checkpoints, 3 writes; ")


def test_json_is_the_report_whole(run, old):
    report = json.loads(run(old, "--json").stdout)
    assert report.pop("seconds") > 0 and report.pop("source_bytes") > 0 and report.pop("store_bytes") > 0
    assert report == {
        "path": OLD, "added": 2, "completed": 0, "present": 0, "refused": [], "checkpoints": 4, "writes": 6,
    }  # fmt: skip


def test_only_the_threads_that_are_named(run, old):
    assert run(old, "--thread", "b").stdout.startswith(f"{OLD}: threads 1 added; 2 checkpoints")
    assert run(old, "--thread", "a", "--thread", "b").stdout.startswith(f"{OLD}: threads 1 added, 1 already there; ")
    assert "checkpoints.sqlite has no thread 'x'" in run(old, "--thread", "x", code=1).stderr


def test_a_thread_that_is_refused_is_named_and_the_others_come(run, old):
    with closing(sqlite3.connect(OLD)) as connection:
        connection.execute("UPDATE checkpoints SET type = 'pickle' WHERE thread_id = 'a'")
        connection.execute("UPDATE checkpoints SET thread_id = 'a' || char(27) || '[2J' WHERE thread_id = 'a'")
        connection.execute("DELETE FROM writes WHERE thread_id = 'a'")
        connection.commit()
    result = run(old, code=1)
    assert re.search(r"refused: thread a\\x1b\[2J: checkpoint [0-9a-f-]{36}: NotImplementedError", result.stderr)
    assert "Unknown serialization type: pickle" in result.stderr
    assert result.stdout.startswith(f"{OLD}: threads 1 added, 1 refused; 2 checkpoints, 3 writes; ")
    assert [one["thread_id"] for one in json.loads(run(old, "--json", code=1).stdout)["refused"]] == ["a\x1b[2J"]


def test_a_file_of_others_is_refused_and_leaves_no_store(run, tmp_path):
    with closing(sqlite3.connect("other.sqlite")) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
    told = "Error: other.sqlite holds no LangGraph checkpoints: it has no table checkpoints and writes"
    assert run("other.sqlite", code=1).stderr.startswith(told)
    assert [file.name for file in tmp_path.iterdir()] == ["other.sqlite"]
    with es.open("runs.db"):
        pass
    assert "runs.db holds no LangGraph checkpoints" in run("runs.db", code=1).stderr
    assert "does not exist" in run("nowhere.sqlite", code=2).stderr
    run(code=2)


def test_an_encrypted_one_needs_its_key(run, monkeypatch):
    class Cipher:
        def encrypt(self, plaintext):
            return "aes", plaintext

    with closing(sqlite3.connect(OLD)) as connection:
        fill(SqliteSaver(connection, serde=EncryptedSerializer(Cipher())))
    told = f"Error: {OLD} is encrypted (msgpack+aes); its key is read from LANGGRAPH_AES_KEY: "
    assert run(OLD, code=1).stderr.startswith(told)


def test_an_interrupt_says_what_to_do(run, old, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(importing.ThreadImport, "thread", interrupted)
        assert run(old, code=INTERRUPTED).stderr == "Interrupted: importing again goes on from here.\n"
    assert json.loads(run(old, "--json").stdout)["added"] == 2


def test_without_langgraph_it_names_the_extra(old, tmp_path):
    script = """
import sys
class Without:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("langgraph", "langchain_core"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
from eventstore.cli import main
main(sys.argv[1:])
"""
    command = [sys.executable, "-c", script, "import-langgraph", OLD]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 1
    assert "the extra has it: pip install 'trace-eventstore[langgraph]'" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / DB).exists()
    others = subprocess.run([*command[:3], "--help"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "import-langgraph" in others.stdout
