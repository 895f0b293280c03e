"""A run that is killed, at any instant and any number of times, ends as if nothing had happened.

The long setting: `python -m tests.faults.kills --kills 300`, or `HYPOTHESIS_PROFILE=long`.
"""

from __future__ import annotations

import os

import pytest

import eventstore as es

from .harness import Campaign
from .laws import Broken, Known, Reading, check_calls, check_effects, check_log, uninterrupted
from .world import INPUT, Outside, gate, make_graph

SEED = int(os.environ.get("FAULTS_SEED", "20260301"))


@pytest.mark.parametrize(
    ("kills", "kills_long", "durability", "is_async"),
    [(20, 300, "full", False), (10, 300, "normal", False), (8, 100, "full", True)],
    ids=["full", "normal", "async"],
)
def test_a_killed_run_goes_on_where_its_log_ends(tmp_path, long, kills, kills_long, durability, is_async):
    campaign = Campaign(tmp_path, SEED, durability=durability, is_async=is_async)
    tally = campaign.run(kills_long if long else kills)
    assert campaign.kills >= kills
    assert tally["runs finished"] == campaign.runs > 0
    assert tally["effects"] > 0


# The laws must be able to fail


@pytest.fixture
def finished(tmp_path):
    """A run that was not interrupted: its store, its lines outside and its reading."""
    outside = Outside(tmp_path / "outside.txt", process=1)
    graph = make_graph(outside, pace=0)
    with es.open(tmp_path / "runs.db", durability="normal") as store:
        result = es.run(graph, store, INPUT, id="t1")
        while result.status == "waiting":
            (barrier,) = result.pending_barriers
            store.decide("t1", barrier, gate(1, int(barrier.rpartition("#")[2])))
            result = es.resume(graph, store, "t1")
        yield store, outside.lines(), Reading.of(store, "t1")


def effects(lines):
    return [line for line in lines if line.what == "effect"]


def test_the_laws_hold_of_a_run_without_interruptions(finished, tmp_path):
    store, lines, reading = finished
    check_log(reading)
    check_calls(lines, [(1, reading.known)], reading)
    assert check_effects(effects(lines), reading) == 0
    assert uninterrupted(tmp_path, "t1", 1)[0] == store.state_at("t1")


def test_a_repeated_effect_breaks_a_law(finished):
    _, lines, reading = finished
    for line in effects(lines):
        with pytest.raises(Broken, match="doubled silently"):
            check_effects([*effects(lines), line], reading)


def test_a_missing_effect_breaks_a_law(finished):
    _, lines, reading = finished
    for line in effects(lines):
        with pytest.raises(Broken, match="missing"):
            check_effects([other for other in effects(lines) if other != line], reading)


def test_an_effect_without_an_intent_breaks_a_law(finished):
    _, lines, reading = finished
    with pytest.raises(Broken, match="without an intent"):
        check_effects([*effects(lines), effects(lines)[0]._replace(key="other")], reading)


def test_a_call_after_a_result_breaks_a_law(finished):
    _, lines, reading = finished
    for line in lines:
        if line.what == "call":
            with pytest.raises(Broken, match="ran again"):
                check_calls([*lines, line._replace(process=2)], [(1, reading.known)], reading)


def test_a_recorded_value_that_is_made_again_breaks_a_law(finished):
    _, lines, reading = finished
    made = next(line for line in lines if line.what == "made")
    nothing = Known(frozenset(), frozenset(), {(made.path, made.occurrence): 1})
    with pytest.raises(Broken, match="made again"):
        check_calls([*lines, made._replace(process=2)], [(1, nothing)], reading)


def test_two_results_of_one_visit_break_a_law(finished):
    _, _, reading = finished
    reading.over["gather/search", 1] = 2
    with pytest.raises(Broken, match="two results"):
        check_log(reading)


def test_durable_calls_of_one_name_come_back_in_their_order(tmp_path):
    made = []
    graph = es.Graph("same name")

    @graph.node
    def look(ctx):
        found = []
        for number in range(3):
            found.append(ctx.call("look", lambda number=number: made.append(number) or number, durable=True))
            if made == [0]:
                raise KeyboardInterrupt  # as a kill would, after the first value was recorded
        return {"found": found}

    graph.start("look").end("look")
    with es.open(tmp_path / "runs.db") as store:
        with pytest.raises(KeyboardInterrupt):
            es.run(graph, store, id="t1")
        made.append("resumed")
        assert es.resume(graph, store, "t1").state == {"found": [0, 1, 2]}
