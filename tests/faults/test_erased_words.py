"""The parts of the campaign of erased words: words are found while they are there, and a plain DELETE leaves them."""

from __future__ import annotations

import random

import pytest

from eventstore import retention

from .campaign import Run
from .erased_words import Case, Words, deleted_plainly, due, erase_and_search, found_in


@pytest.fixture
def case(tmp_path):
    case = Case(tmp_path / "store.db", random.Random(1))
    yield case
    case.close()


def test_words_are_found_by_their_halves_and_ids_by_their_bytes(tmp_path):
    words = Words(random.Random(1))
    word, name = words(), words.uuid()
    path = tmp_path / "file"
    path.write_bytes(b"\0" + word[:10].encode() + b"\0page\0" + bytes.fromhex(name.replace("-", ""))[:8])
    (tmp_path / "file-wal").write_bytes(b"x" + word[-10:].encode())
    assert found_in(path, words.needles()) == 3
    (tmp_path / "file-wal").unlink()
    assert found_in(path, words.needles()) == 2


def test_what_is_erased_is_not_found_and_what_is_kept_is(case):
    assert found_in(case.path, case.needles) > 0.95 * len(case.needles)
    assert case.erase() == (True, 0)
    case.prune()
    assert found_in(case.path, case.needles) == 0
    assert found_in(case.path, case.plain.needles()) > 0


def test_a_reader_holds_words_and_the_store_knows_that_they_are_due(case):
    with case.store._database.reader() as snapshot:
        snapshot.execute("SELECT count(*) FROM log").fetchall()
        assert case.erase() == (False, 0)
        assert found_in(case.path, case.needles) > 0
        assert due(case.store)
    case.prune()
    assert not due(case.store)
    assert found_in(case.path, case.needles) == 0


def test_a_plain_delete_leaves_words(case):
    case.close()
    assert found_in(deleted_plainly(case.path), case.needles) > 0


def test_an_erasure_that_does_not_rewrite_the_file_is_told_of(tmp_path, monkeypatch):
    usual = retention._remove
    monkeypatch.setattr(retention, "_remove", lambda *called, rewrite: usual(*called, rewrite=False))
    result = erase_and_search(Run(6, 1, tmp_path, lambda n: None), 6)
    assert any("says it is finished" in failure for failure in result.failures)
