"""One store under several names: links, relative paths, folders that allow less than usual."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import eventstore as es


@pytest.fixture
def link(path, tmp_path):
    """Another name of the store's file, in another folder."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    link = folder / "link.db"
    link.symlink_to(path)
    return str(link)


def test_a_run_that_is_owned_is_not_erased_by_who_moved_to_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    with es.open(tmp_path / "runs.db") as owner, es.open("runs.db") as other:
        graph = es.Graph("ask").barrier("ask").start("ask").end("ask").build()
        es.run(graph, owner, id="t1")
        trace = owner.open_trace("t1")
        owner._ownership.entered("t1")
        owner._ownership.claim(trace, 0)
        for _ in range(2):
            with pytest.raises(es.RetentionBlocked):
                other.erase("t1")
            monkeypatch.chdir("other" if Path.cwd() == tmp_path else "..")
        monkeypatch.chdir("other")
        assert other.stats().file_bytes > 0


def test_all_names_of_a_file_share_its_lock_file(path, link):
    with es.open(path) as store, es.open(link) as linked:
        linked._database.turnstile.warn()
        assert store._database.turnstile.is_warned()
    assert [file.name for file in Path(link).parent.iterdir()] == ["link.db"]


def test_a_reader_through_a_link_reads_what_is_in_the_write_ahead_log_only(path, link):
    with es.open(path) as store, es.open(link, read_only=True) as reader:
        with reader._database.reader() as held:
            held.execute("SELECT count(*) FROM log").fetchall()
            store.start({"big": "x" * 40_000_000}, id="t1")
        assert len(reader.state_at("t1")["big"]) == 40_000_000
        assert reader.stats().wal_bytes > 40_000_000


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_folder_that_may_be_written_and_not_listed_holds_a_store(path, tmp_path):
    crash = "import os, sys, eventstore as es; es.open(sys.argv[1]).start({}, id='t1'); os._exit(0)"
    subprocess.run([sys.executable, "-c", crash, path], check=True)
    tmp_path.chmod(0o333)
    try:
        with es.open(path) as store:
            assert store.state_at("t1") == {}
    finally:
        tmp_path.chmod(0o700)


def test_a_name_that_is_no_utf_8_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(es.StorageError, match="UTF-8"):
        es.open(os.fspath(tmp_path) + "/\udcff.db")
    assert list(tmp_path.iterdir()) == []
