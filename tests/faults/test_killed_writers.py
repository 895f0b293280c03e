"""The campaign of killed writers sees what it should: in a log that lost an append, and in one that has it twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import eventstore as es

from .campaign import Run
from .killed_writers import KilledFile, compare, control, count_noted
from .processes import Worker


def append(store, trace_id, *turns):
    for turn in turns:
        store.append(trace_id, [es.StateDelta.append("log", [turn])])


def test_what_is_missing_doubled_or_ahead_is_seen(store):
    for trace_id in ("shared", "ana"):
        store.start({"log": []}, id=trace_id)
    append(store, "ana", 1, 3, 3, 7)
    append(store, "shared", ["ana", 0], ["bo", 4], ["ana", 6])
    assert compare(store, "ana", 6) == ({2, 4, 5}, {3}, {6, 7})


def test_killed_writers_lose_nothing(tmp_path):
    file = KilledFile(tmp_path / "file", random.Random(1))
    assert file.run(6) == []
    assert file.kills == 6
    assert file.noted > 0


@pytest.mark.parametrize(
    ("weakness", "counted"),
    [("fresh ids", lambda file: file.doubled), ("early", lambda file: file.lost)],
    ids=["fresh ids", "early"],
)
def test_a_weak_writer_is_caught(tmp_path, weakness, counted):
    found = control(Run(20, 1, Path(tmp_path), lambda n: None), weakness, "", counted)
    assert found.lost > 0


def test_a_writer_goes_on_where_its_notes_end(tmp_path):
    file = KilledFile(tmp_path / "file", random.Random(2))
    Path(file.noted_path("ana")).write_bytes(b"0\n1\n2\n")
    file.run(2)
    with es.open(file.path) as store:
        assert compare(store, "ana", 3).lost == {0, 1, 2}
    assert count_noted(file.noted_path("ana")) >= 3
    assert file.lost == {"ana 0", "ana 1", "ana 2"}


def say(tell, *words):
    for word in words:
        tell(word)
    raise ValueError("no more words")


def test_a_worker_that_fails_is_heard():
    with Worker(say, "a", "b") as worker:
        assert [worker.hear(), worker.hear()] == ["a", "b"]
        with pytest.raises(AssertionError, match="ValueError: no more words"):
            worker.hear()
    with Worker(say, "a") as worker:
        worker.process.join()
        with pytest.raises(AssertionError, match="no more words"):
            worker.kill()
