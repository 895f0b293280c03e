"""The bench: it tells a mutant that is caught from one that survives, is caught by accident, or is none."""

from __future__ import annotations

import pytest

from . import mutants_of_runs as runs
from . import mutants_of_states as states
from . import mutants_of_truth as truth
from . import mutants_of_writes as writes
from . import probes_of_runs, probes_of_states, probes_of_truth, probes_of_writes  # noqa: F401 - to be in PROBES
from .campaign import Run
from .mutant import mutant
from .mutants import CAMPAIGNS, CONTROL, MUTANTS, Bench, run
from .mutation import Change, DoesNotApply, mutate
from .probes import PROBES


@pytest.fixture(scope="module")
def bench():
    with Bench() as bench:
        yield bench


def test_the_list_holds_what_an_event_store_is_most_likely_to_get_wrong():
    assert len(MUTANTS) >= 90
    assert MUTANTS.keys() >= {
        "skipped sync",
        "ack before commit",
        "a fold forgets deletes",
        "a decision accepted twice",
        "the default over a human",
        "no epoch check",
        "an effect before its intent",
        "branches in order of completion",
        "the attempt in the key",
        "a route evaluated again",
    }


def test_every_mutant_says_what_it_is_in_words_of_its_own():
    listed = [one for part in (writes, states, truth, runs) for one in part.MUTANTS]
    assert len(listed) == len({one.name for one in listed}) == len({one.about for one in listed}) == len(MUTANTS)
    assert all(one.changes and one.caught for one in listed)


def test_every_probe_catches_something():
    assert {one.probe for one in MUTANTS.values()} | {CONTROL} == PROBES.keys()


def test_a_mutant_is_caught_and_leaves_the_next_one_alone(bench, tmp_path):
    one = MUTANTS["a fold forgets deletes"]
    assert bench.attempt(None, one.probe, tmp_path) == ("survived", "")
    verdict, text = bench.attempt(one.name, one.probe, tmp_path)
    assert verdict == "caught" and one.misjudged(verdict, text) is None
    assert bench.attempt(None, one.probe, tmp_path) == ("survived", "")
    assert list(tmp_path.iterdir()) == []


def test_a_mutant_that_nobody_looks_for_survives_and_is_said_so(bench, tmp_path):
    one = MUTANTS["a fold forgets deletes"]
    assert bench.attempt(one.name, "nothing", tmp_path) == ("survived", "")
    assert one.misjudged("survived", "").endswith("survives states_are_what_was_written")


def test_a_mutant_that_is_caught_by_accident_counts_as_lost():
    one = MUTANTS["a fold forgets deletes"]
    assert "in other words" in one.misjudged("caught", "NameError: name 'store' is not defined")


@pytest.mark.parametrize(
    "change",
    [
        Change("fold", "no such words", ""),
        Change("fold", "return value", "return None"),
        Change("fold", "INT_MIN, INT_MAX = -(2**63), 2**63 - 1", "INT_MIN, INT_MAX = (-(2**63), 2**63 - 1)"),
    ],
    ids=["not there", "there more than once", "no change"],
)
def test_a_change_that_changes_nothing_is_no_mutant(change):
    with pytest.raises(DoesNotApply):
        mutate([change])


def test_a_mutant_that_does_not_apply_counts_as_lost():
    one = mutant("old", "of an engine that is gone", "nothing", "anything", ("fold", "no such words", ""))
    assert one.misjudged("does not apply", "fold: no such words").endswith("does not apply: fold: no such words")


def test_a_small_campaign_holds_with_its_control(tmp_path):
    ticks = []
    (result,) = run(Run(6, 20261126, tmp_path, ticks.append))
    assert result.failures == [] and result.holds
    assert sum(ticks) == result.tried == 6
    assert result.controls[0].lost > 0


def test_the_whole_list_is_tried_by_the_whole_campaign():
    (campaign,) = CAMPAIGNS
    assert campaign.full == len(MUTANTS)
