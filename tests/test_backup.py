"""Backups: of one instant, verified, whole or not there; and the commands of docs/backup.md."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner

import eventstore as es
from eventstore import backup as module
from eventstore.backup import backup
from eventstore.cli import main
from eventstore.transfer import dump

DOCS = Path(__file__).parent.parent / "docs" / "backup.md"
PUT = "import sys, eventstore as es; es.open(sys.argv[1]).open_trace('t1').append([es.StateDelta.put('n', 2)])"


@pytest.fixture
def target(tmp_path):
    """Where the copy is to be."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder / "copy.db"


def lines(store):
    """A store as a dump, without the header."""
    out = io.BytesIO()
    dump(store, out)
    return out.getvalue().splitlines()[1:]


def alone(target):
    """Whether nothing is beside the copy."""
    return [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_copy_is_an_equal_store_in_one_private_file(store, record, target):
    record(store, 60)
    store.fork("t1", 9, id="t2")
    store.start({}, id="gone")
    store.erase("gone")
    report = backup(store, target)
    assert alone(target) and target.stat().st_mode & 0o777 == 0o600
    assert (report.traces, report.size_bytes) == (2, target.stat().st_size) and report.heads == store.verify().heads
    with es.open(target, read_only=True) as copy:
        assert lines(copy) == lines(store) and copy.verify().ok
    assert alone(target)
    with es.open(target) as copy:
        copy.open_trace("t1").append([es.StateDelta.put("n", 1)])
        assert copy.verify().ok


def test_what_is_written_meanwhile_is_not_in_the_copy_and_does_not_make_it_begin_anew(
    store, record, target, monkeypatch
):
    monkeypatch.setattr(module, "STEP_PAGES", 5)
    trace = record(store, 200)
    version, seen = trace.version, []

    def on_progress(done, total):
        seen.append((done, total))
        if len(seen) == 2:
            subprocess.run([sys.executable, "-c", PUT, store.path], check=True)
            store.start({}, id="t2")

    backup(store, target, on_progress=on_progress)
    assert len(seen) > 3 and seen == sorted(seen) and {total for _, total in seen} == {seen[-1][0]}
    with es.open(target) as copy:
        assert [info.trace_id for info in copy.traces()] == ["t1"] and copy.open_trace("t1").version == version
    assert store.open_trace("t1").version > version


def test_the_control_copying_the_file_alone_loses_what_is_in_the_wal(store, target):
    store.start({}, id="t1")
    target.write_bytes(Path(store.path).read_bytes())
    with es.open(target) as copy, pytest.raises(es.TraceNotFound):
        copy.open_trace("t1")


@pytest.mark.parametrize("name", ["copy.db", "copy.db-wal", "copy.db-journal", "copy.db-shm"])
def test_what_is_there_is_not_written_over_nor_played_in(store, target, name):
    left = target.with_name(name)
    left.write_bytes(b"mine" if name != "copy.db-shm" else b"")
    if name == "copy.db-shm":
        backup(store, target)  # SQLite makes that one anew
        return
    with pytest.raises(es.StorageError, match=re.escape(str(left))):
        backup(store, target)
    assert left.read_bytes() == b"mine" and [path.name for path in target.parent.iterdir()] == [name]


def test_a_store_is_not_backed_up_to_itself_nor_beside_itself(store, tmp_path):
    for name in ("runs.db", "runs.db-lock", "runs.db-owners"):
        with pytest.raises(es.StorageError, match="is the event store itself"):
            backup(store, tmp_path / name)
    with pytest.raises(es.StorageError, match="No such file or directory"):
        backup(store, tmp_path / "nowhere" / "copy.db")


def test_a_name_that_is_taken_meanwhile_stays_whose_it_is(store, target):
    with pytest.raises(es.StorageError, match="File exists"):
        backup(store, target, on_progress=lambda *_: target.write_bytes(b"theirs"))
    assert target.read_bytes() == b"theirs" and alone(target)


def test_a_run_that_somebody_works_on_is_free_in_the_copy(store, target):
    graph = es.Graph("one").start("node").end("node")
    entered = []

    @graph.node
    def node(ctx):
        if not entered:
            entered.append(ctx.trace_id)
            backup(store, target)
        return {"done": True}

    assert es.run(graph, store, {}, id="r1").status == "completed"
    connection = apsw.Connection(str(target))
    assert connection.execute("SELECT owner FROM lease").fetchall() == [(None,)]
    assert connection.execute("SELECT count(*) FROM owner").get == 0
    connection.close()
    with es.open(target) as copy:
        assert es.resume(graph, copy, "r1").state == {"done": True} and copy.verify().ok


def test_a_read_only_store_is_backed_up_too(store, record, target):
    record(store, 5)
    with es.open(store.path, read_only=True) as looking:
        assert backup(looking, target).heads == store.verify().heads


def test_a_keyed_store_makes_a_copy_with_the_same_key(path, record, target):
    key = "0123456789abcdef"
    with es.open(path, chain_key=key) as store:
        record(store, 5)
        backup(store, target)
        with es.open(target, chain_key=key) as copy:
            assert copy.verify().ok and copy.verify().heads == store.verify().heads
        with pytest.raises(es.WrongChainKey):
            es.open(target)


def test_a_copy_that_does_not_verify_is_not_kept(store, record, target, tamper):
    record(store, 5)
    tamper("UPDATE log SET at_us = at_us + 1 WHERE first_seq = 6")
    problems = []
    with pytest.raises(es.FileCorrupted, match="does not verify, and was not kept: trace t1"):
        backup(store, target, on_problem=problems.append)
    assert problems[0].trace_id == "t1" and list(target.parent.iterdir()) == []
    store.start({}, id="t2")  # it goes on


def test_a_damaged_page_of_the_source_keeps_no_copy(path, record, target):
    with es.open(path) as store:
        record(store, 100)
    data = bytearray(Path(path).read_bytes())
    data[-8192:] = bytes(8192)
    Path(path).write_bytes(data)
    with es.open(path, read_only=True) as store, pytest.raises(es.StorageError):
        backup(store, target)
    assert list(target.parent.iterdir()) == []


class FullDisk(apsw.VFS):
    """A disk on which nothing more has room."""

    def __init__(self):
        super().__init__("full-disk", "")

    def xOpen(self, name, flags):
        """A file of it."""
        return FullFile(name, flags)


class FullFile(apsw.VFSFile):
    """Its files."""

    def __init__(self, name, flags):
        super().__init__("", name, flags)

    def xWrite(self, data, offset):
        """No room."""
        raise apsw.FullError("no room")


def test_a_full_disk_ends_it_with_a_clear_error_and_the_store_goes_on(store, record, target, monkeypatch):
    disk = FullDisk()
    record(store, 20)
    connect = apsw.Connection
    monkeypatch.setattr(module.apsw, "Connection", lambda name, flags: connect(name, flags=flags, vfs="full-disk"))
    with pytest.raises(es.StorageFull, match=re.escape(f"{target}: the disk is full; no backup was made")):
        backup(store, target)
    monkeypatch.undo()
    disk.unregister()
    assert list(target.parent.iterdir()) == []
    store.start({}, id="t2")
    assert store.verify().ok


def test_an_interrupted_backup_leaves_nothing(store, record, target):
    record(store, 20)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(store, target, on_progress=stop)
    assert list(target.parent.iterdir()) == []
    assert store.verify().ok


def test_a_closed_store_is_not_backed_up(path, target):
    store = es.open(path)
    store.close()
    with pytest.raises(es.StoreClosed):
        backup(store, target)


def test_a_restore_is_a_backup_the_other_way(store, record, target, tmp_path):
    record(store, 20)
    backup(store, target)
    with es.open(target, read_only=True) as copy:
        backup(copy, tmp_path / "restored.db")
    with es.open(tmp_path / "restored.db") as restored:
        assert lines(restored) == lines(store)


def test_the_commands_of_the_docs_run_in_order(tmp_path, monkeypatch, record):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTSTORE_DB", raising=False)
    with es.open("runs.db") as store:
        record(store, 5)
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", DOCS.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 7
    namespace = {}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "docs/backup.md", "exec"), namespace)  # noqa: S102
            continue
        for line in block.splitlines():
            if line.startswith("eventstore "):
                result = CliRunner().invoke(main, shlex.split(line)[1:])
                assert result.exit_code == 0, (line, result.output, result.exception)
            else:
                subprocess.run(["sh", "-c", line], check=True)
    made = {"monday.db", "tuesday.db", "restored.db", "runs.db", "from-lines.db", "sound.db", "sound-too.db"}
    assert made <= {path.name for path in tmp_path.iterdir()}
