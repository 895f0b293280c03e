"""The parts of the tampering campaign: every edit changes something and is named, and leaves the guards in place."""

from __future__ import annotations

import random

import pytest

import eventstore as es

from . import sample, tampering
from .edits import EDITS, Bench, cut_tail, recompute
from .tampering import KEY, contents, names, verified


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("tampering") / "sound.db"
    sample.make(path, 5)
    return path


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_is_named(sound, tmp_path, edit):
    path = tmp_path / "edited.db"
    with Bench(sound, path) as bench:
        traces, seq = edit(bench, random.Random(1))
    assert contents(path) != contents(sound)
    problems = verified(path)  # opened for reading, which asks for every guard of the schema
    assert names(problems, traces, seq), problems


def test_a_problem_elsewhere_names_nothing():
    problem = es.Problem("t1", 7, "digest", "it is not what was written", True)
    assert names([problem], "t1", 7) and names([problem], "t1", None) and names([problem], ("t2", "t1"), 7)
    assert not names([problem], "t1", 8)
    assert not names([problem], "t2", 7)
    assert not names([], "t1", None)


def test_a_cut_off_end_is_told_by_a_head_alone(sound, tmp_path):
    with es.open(sound, read_only=True) as store:
        heads = store.verify().heads
    path = tmp_path / "edited.db"
    with Bench(sound, path) as bench:
        bench.pick = lambda *_: pytest.fail("the end of big is cut off")
        victim = cut_tail(bench, _Choosing("big"))
    assert (victim, verified(path)) == ("big", [])
    assert names(verified(path, heads=heads), "big", None)


def test_a_chain_computed_again_is_told_by_a_key(tmp_path):
    found = {}
    for key in (None, KEY):
        sound, path = tmp_path / f"sound-{key}.db", tmp_path / f"edited-{key}.db"
        sample.make(sound, 5, **({"chain_key": key} if key else {}))
        with Bench(sound, path) as bench:
            victim = recompute(bench, random.Random(2))
        found[key] = verified(path, **({"chain_key": key} if key else {}))
        assert verified(sound, **({"chain_key": key} if key else {})) == []
    assert names(found[KEY], victim, None)
    assert not any(problem.check == "digest" and problem.trace_id == victim for problem in found[None])


class _Choosing(random.Random):
    """Chooses what it was told first, then the last."""

    def __init__(self, first):
        super().__init__(0)
        self.first = [first]

    def choice(self, seq):
        return self.first.pop() if self.first else seq[-1]


def test_the_campaign_tells_kinds_apart():
    assert len({edit.__name__ for edit in EDITS}) == len(EDITS) >= 20
    assert tampering.CAMPAIGNS[0].quick >= len(EDITS)
