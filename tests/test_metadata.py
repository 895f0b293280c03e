"""What a step cost: given up front and final, or measured and added up."""

from __future__ import annotations

import time

import pytest

import eventstore as es


def test_duration_is_measured_and_costs_add_up(trace):
    with trace.step("work") as step:
        time.sleep(0.02)
        step.record(token_cost=0.5)
        step.record(token_cost=0.25, has_side_effects=True)
    metadata = trace.entries()[0].metadata
    assert 20 <= metadata.duration_ms < 2000
    assert (metadata.token_cost, metadata.has_side_effects) == (0.75, True)


def test_a_recorded_duration_replaces_the_measured_one(trace):
    with trace.step("work") as step:
        step.record(duration_ms=1000)
        step.record(duration_ms=500)
    assert trace.entries()[0].metadata.duration_ms == 1500


def test_metadata_given_up_front_is_final(trace):
    given = es.ExecutionMetadata(duration_ms=900, token_cost=0.002, has_side_effects=False)
    with trace.step("work", given) as step:
        time.sleep(0.001)
        for more in ({"token_cost": 1.0}, {"duration_ms": 1.0}, {"has_side_effects": True}):
            with pytest.raises(es.EventStoreError, match="final"):
                step.record(**more)
    entry = trace.entries()[0]
    assert entry.metadata == given
    assert (entry.end_time - entry.start_time).total_seconds() == 0.9


def test_what_is_given_in_part_is_measured_in_part(trace):
    with trace.step("work", es.ExecutionMetadata(token_cost=0.5)) as step:
        step.record(duration_ms=7)
    assert trace.entries()[0].metadata == es.ExecutionMetadata(7, 0.5, False)


def test_steps_number_committed_visits(trace):
    for fails in (False, True, False):
        try:
            with trace.step("work"):
                if fails:
                    raise ValueError
        except ValueError:
            pass
    assert [entry.step for entry in trace.entries()] == [1, 0, 2]


def test_time_never_goes_back_within_a_trace(store, trace, monkeypatch, raw):
    trace.note("now")
    monkeypatch.setattr(time, "time_ns", lambda: 1_000)
    trace.note("the clock went back")
    store.fork("t1")
    times = [at for (at,) in raw.execute("SELECT at_us FROM log ORDER BY id")]
    assert times == sorted(times) and times[-1] == times[-3]


def test_a_duration_longer_than_there_are_dates_can_be_read(trace):
    with trace.step("work") as step:
        step.record(duration_ms=1e300)
    assert trace.entries()[-1].metadata.duration_ms == 1e300
    assert trace.timeline().spans[-1].duration_ms >= 0
