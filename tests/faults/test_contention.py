"""The campaign of contention counts right, and its controls are as weak as they should be."""

from __future__ import annotations

import pytest

import eventstore as es

from .campaign import Run
from .contention import SHARED, compete, contend, missing, turned_away, won_twice


@pytest.fixture
def run(tmp_path):
    return Run(200, 1, tmp_path, lambda n: None)


def test_nothing_is_lost_among_many(run):
    found = contend(run, 230)
    assert found.failures == []
    assert found.tried == 230


def test_of_two_writers_one_gets_each_version(run):
    found = compete(run, 50)
    assert found.failures == []
    assert "WrongExpectedVersion" in found.notes


def test_what_is_lost_or_doubled_is_counted(path):
    with es.open(path) as store:
        for trace_id in (*SHARED, "ana"):
            store.start({"log": []}, id=trace_id)
        for trace_id, turn in (("ana", 2), ("ana", 0), (SHARED[0], 0)):
            store.append(trace_id, [es.StateDelta.append("log", [["ana", turn]])])
    assert missing(path, ["ana"], 4) == [
        "the appends of ana to ana are out of order",
        "ana, turn 1: lost",
        "ana, turn 3: lost",
        "ana, turn 0: doubled",
    ]


def test_plain_connections_are_turned_away(run):
    refused, tried = turned_away(run)
    assert 0 < refused < tried


def test_without_a_guard_versions_have_two_winners(run):
    twice, versions = won_twice(run)
    assert 0 < twice <= versions
