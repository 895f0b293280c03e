"""SQLite's own limits: versions that corrupt are refused, the race is played right, and thefts are carried out."""

from __future__ import annotations

import hashlib
import sqlite3
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import apsw
import pytest

import eventstore as es

from .campaign import Run
from .detached_files import FINE, ILL_DONE, Trial, attempt
from .wal_reset import has_the_race, play_files

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.parametrize("version", ["3.51.2", "3.50.7", "3.40.1", "3.7.17"])
def test_an_sqlite_that_can_corrupt_is_refused(path, monkeypatch, version):
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    with pytest.raises(es.UnsupportedSQLite, match=version):
        es.open(path)
    assert not Path(path).exists()


@pytest.mark.parametrize("version", ["3.51.3", "3.53.0", "4.0.0"])
def test_a_repaired_one_is_not(path, monkeypatch, version):
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    es.open(path).close()


@pytest.mark.skipif(not PROJECT.exists(), reason="not a checkout")
def test_the_package_asks_for_a_repaired_one():
    dependencies = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["dependencies"]
    (asked,) = [name for name in dependencies if name.startswith("apsw")]
    assert tuple(map(int, asked.removeprefix("apsw>=").split("."))) >= (3, 53, 3)


def test_readers_copy_nothing_out_of_the_wal(path, record):
    many = Barrier(8)
    with es.open(path) as store:
        record(store, 20)

        def look(_):
            with store._database.reader() as connection:
                many.wait()
                return connection.execute("SELECT count(*) FROM log").get

        before = hashlib.sha256(Path(f"{path}-wal").read_bytes()).digest()
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(look, range(8))) == [21] * 8
        assert hashlib.sha256(Path(f"{path}-wal").read_bytes()).digest() == before
        assert store._database.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)[1] == 0


@pytest.mark.parametrize("what", ILL_DONE)
@pytest.mark.parametrize("company", [False, True], ids=["alone", "in company"])
def test_each_theft_is_carried_out_and_named(tmp_path, what, company):
    told, _ = attempt(tmp_path / "trial", Trial(what, "full", 20, 3, company, reads=False))
    assert told.accused is None
    assert told.named is not None


@pytest.mark.parametrize("what", FINE)
def test_what_is_fine_is_not_named(tmp_path, what):
    told, gone = attempt(tmp_path / "trial", Trial(what, "normal", 20, 3, company=True, reads=True))
    assert (told.accused, told.named, gone) == (None, None, 0)


def test_a_live_log_opened_through_the_standard_library_is_lost_and_looks_sound(tmp_path):
    trial = Trial("the standard library's sqlite3", "full", 20, 50, company=False, reads=False)
    told, gone = attempt(tmp_path / "trial", trial)
    assert (told.integrity, told.acknowledged, gone) == ("ok", 71, 50)


@pytest.mark.parametrize(
    ("version", "expected"),
    [("3.6.23", False), ("3.40.1", True), ("3.44.6", False), ("3.50.6", True), ("3.50.7", False), ("3.51.2", True)],
)
def test_which_versions_have_the_race(version, expected):
    assert has_the_race(version) == expected


@pytest.mark.parametrize("library", ["apsw", "the standard library"])
def test_the_race_is_played_by_both_libraries(tmp_path, library):
    played, wrong = play_files(Run(3, 1, tmp_path, lambda n: None), library, 3, lambda n: None)
    assert played == 3
    assert wrong == [] or (library != "apsw" and has_the_race(sqlite3.sqlite_version))
