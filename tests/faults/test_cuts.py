"""The parts of the power cuts: what the disk notes, what an image may hold, and that the judges are not blind."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

import eventstore as es

from .cuts import Trial, Truth, tried, worked
from .deeds import INTENDED_AT, Known, graph
from .disk import Op, recording
from .images import SECTOR, Choice, Platter, torn
from .recovery import Bench, missing

PATH = "/disk/a.db"
OLD, NEW = b"o" * 2 * SECTOR, b"n" * 2 * SECTOR


def ops(*kinds):
    """A file with OLD in it, whose name lasts, and then these ops."""
    return [Op("found", PATH, 1, 0, OLD), *(Op(kind, PATH, 1, at, data) for kind, at, data in kinds)]


def content(noted, choice, **options):
    platter = Platter(noted, **options)
    platter.advance(len(noted))
    return platter.image(choice).get(PATH)


def test_what_was_synced_is_there_and_what_was_not_may_be():
    written = ops(("write", 0, NEW))
    assert content(written, Choice("nothing")) == OLD
    assert content(written, Choice("everything")) == NEW
    assert content([*written, Op("sync", PATH, 1, 2)], Choice("nothing")) == NEW


def test_a_sync_covers_what_was_written_before_it_began():
    noted = ops(("write", 0, b"1"), ("write", 1, b"2"), ("sync", 2, b""))
    assert content(noted, Choice("nothing"))[:2] == b"1o"


def test_a_truncation_is_undone_by_a_cut():
    noted = ops(("truncate", 0, b""), ("write", 0, b"1"))
    assert content(noted, Choice("nothing")) == OLD
    assert content(noted, Choice("everything")) == b"1"


def test_a_torn_write_is_whole_sectors():
    pieces = torn((SECTOR // 2, NEW), random.Random(3), 1.0)
    assert [len(data) for _, data in pieces] == [SECTOR // 2, SECTOR, SECTOR // 2]
    found = {content(ops(("write", 0, NEW)), Choice("torn", random.Random(seed))) for seed in range(40)}
    assert found == {OLD, NEW, OLD[:SECTOR] + NEW[SECTOR:], NEW[:SECTOR] + OLD[SECTOR:]}


def test_a_name_lasts_with_the_folder_and_not_with_the_file():
    made = [Op("create", PATH, 1), Op("write", PATH, 1, 0, NEW), Op("sync", PATH, 1, 2)]
    assert content(made, Choice("nothing")) is None
    assert content(made, Choice("everything")) == NEW
    assert content([*made, Op("folder sync", PATH, 1)], Choice("nothing")) == NEW


def test_a_deletion_that_was_not_synced_is_undone_by_a_cut():
    gone = ops(("delete", 0, b""))
    assert content(gone, Choice("nothing")) == OLD
    assert content(gone, Choice("everything")) is None
    assert content([*gone, Op("folder sync", PATH, 0)], Choice("nothing")) is None


def test_what_a_failed_sync_should_have_written_may_be_gone_for_good():
    noted = ops(("write", 0, NEW), ("failed sync", 2, b""), ("sync", 3, b""))
    found = {content(noted, Choice("everything"), fates=random.Random(seed)) for seed in range(40)}
    assert found == {OLD, NEW}


def test_a_disk_that_lies_syncs_nothing():
    assert content(ops(("write", 0, NEW), ("sync", 2, b"")), Choice("nothing"), lies=True) == OLD


@pytest.fixture
def noted(path):
    """A store with one trace of two appends, as the disk saw it."""
    with recording() as disk, es.open(path) as store:
        trace = store.start({"n": 0}, id="t1")
        before = len(disk.ops)
        trace.append([es.StateDelta.put("n", 1)])
        yield disk, os.path.realpath(path), before


def test_an_append_is_written_to_the_wal_and_synced_once(noted):
    disk, path, before = noted
    kinds = [(op.kind, op.path) for op in disk.ops[before:]]
    assert kinds[-1] == ("sync", f"{path}-wal")
    assert set(kinds) == {("write", f"{path}-wal"), ("sync", f"{path}-wal")}


def test_the_first_sync_of_a_journal_syncs_the_folder(noted):
    disk, path, _ = noted
    for journal in ("-journal", "-wal"):
        kinds = [op.kind for op in disk.ops if op.path == path + journal and op.kind.endswith("sync")]
        assert kinds[:2] == ["sync", "folder sync"]


def test_writes_past_sqlite_are_noted(noted):
    disk, path, _ = noted
    before, written = len(disk.ops), os.open(f"{path}-wal", os.O_RDWR)
    try:
        os.pwrite(written, os.pread(written, 32, 0), 0)
        os.fsync(written)
    finally:
        os.close(written)
    assert [op.kind for op in disk.ops[before:]] == ["write", "sync"]


def test_the_truth_has_a_content_for_every_commit(noted, tmp_path):
    disk, path, before = noted
    truth = Truth(disk.ops, path, Bench(tmp_path / "bench"))
    assert truth.commits(len(disk.ops)) == truth.commits(before) + 1
    assert len(set(truth.contents)) == 3  # nothing, a trace, an append


def test_the_judges_see_what_is_missing(noted, tmp_path):
    disk, path, before = noted
    bench, platter = Bench(tmp_path / "bench"), Platter(disk.ops)
    platter.advance(before)
    told = {"t1": Known(2, {"n": 1})}
    found = bench.recovered(platter.image(Choice("everything")), path, {"t1": {2}})
    assert missing(found, told) == "trace t1 is at 1, told 2"
    platter.advance(len(disk.ops))
    found = bench.recovered(platter.image(Choice("nothing")), path, {"t1": {2}})
    assert missing(found, told) == ""
    assert "another state" in missing(found, {"t1": Known(2, {"n": 2})})
    assert missing(found, {**told, "t2": Known(1, {})}) == "trace t2 is not there"
    assert missing(found, {"t1": Known(erased=True)}) == "trace t1: erased is False, told True"


def test_the_workload_does_every_deed(tmp_path):
    done = set()
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        with recording() as disk:
            diary = worked(disk, folder, random.Random(number), "normal")
        done |= {deed.what for deed in diary.deeds}
        assert not any(deed.failed for deed in diary.deeds)
    assert done == {
        *("start", "append", "step", "note", "ask", "decide", "checkpoint", "prune", "fork", "trim", "erase", "look"),
        *("drop bases", "retention", "run", "intent", "reopen", "empty the WAL"),
    }


def test_one_workload_cut_forty_times(tmp_path):
    tally = tried(Trial(1, 0, "normal", 40, str(tmp_path / "trial")))
    assert tally.failures == ()
    assert tally.as_full > 0
    assert tally.lied > 0
    assert not Path(tmp_path / "trial").exists()


def test_decisions_that_are_not_synced_are_missed(tmp_path):
    tally = tried(Trial(1, 2, "normal", 40, str(tmp_path / "trial"), forgets=True))
    assert any("told" in failure for failure in tally.failures)


def test_a_run_intends_where_the_diary_says_so(path):
    with es.open(path) as store:
        es.run(graph(), store, {"n": 1, "log": []}, id="r1")
        assert [event.seq for event in store.events("r1") if event.kind == "node_intended"] == [INTENDED_AT]
