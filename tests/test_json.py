"""Every record of the model goes to JSON and comes back equal."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

import eventstore as es
from eventstore.event import utc
from eventstore.recorded import KIND_OF

WHEN = datetime(2026, 2, 28, 23, 59, 59, 999999, UTC)
ENTRY = es.ExecutionEntry(3, "ask", WHEN, WHEN + timedelta(seconds=1), True, None, es.ExecutionMetadata.heavy(), 7)
DECISIONS = [es.Approve("ana"), es.Reject("no", "bo"), es.Modify({"n": [1.0, None]}), es.Reroute("review")]
DELTAS = [
    es.StateDelta.put("n", None),
    es.StateDelta.put("n", 1.0, es.DeltaSource.HUMAN),
    es.StateDelta.delete("n"),
    es.StateDelta.append("l", [1]),
    es.StateDelta.splice("l", 0, 1, []),
    es.StateDelta("o", es.DeltaOp.MERGE, {"a": {}}),
    es.StateDelta("n", es.DeltaOp.SUM, -1),
    es.StateDelta("n", es.DeltaOp.MAX, 1.5),
    es.StateDelta("n", es.DeltaOp.MIN, 0),
]
RECORDS = [
    *DELTAS,
    *DECISIONS[:1],
    es.ExecutionMetadata(),
    es.ExecutionMetadata.lightweight(),
    es.ExecutionMetadata.with_side_effects(),
    ENTRY,
    es.ExecutionEntry(0, "ask", WHEN, WHEN, False, "ValueError: no"),
    *[es.BarrierDecisionRecord("ask#1", "ask", decision, WHEN, decision.by) for decision in DECISIONS],
    es.ExecutionTrace("t1", {"n": 0}, [ENTRY], DELTAS, [es.BarrierDecisionRecord("a#1", "a", DECISIONS[2], WHEN)]),
    es.GraphResult("t1", {"n": 1}, [ENTRY], 1.5, "failed"),
    es.CheckpointTrigger.EXPLICIT,
    es.CheckpointTrigger.adaptive(es.ExecutionMetadata.heavy()),
    es.CheckpointScore(1, 2, 3, 4),
    es.CheckpointPolicy.conservative(),
    es.CheckpointPolicy.minimal(),
    es.CheckpointPolicy.manual(),
    es.CheckpointPolicy.adaptive(es.CheckpointScore(threshold=1)),
    es.StateSnapshot({"n": 0}, DELTAS),
    es.Checkpoint.new("t1", "hash", None, {"n": [1.0]}),
    es.Checkpoint.with_snapshot("t1", "", "ask", {"n": 1}, {"n": 0}, [es.StateDelta.put("n", 1)]),
    es.TraceStarted("chat", {"n": 0}, {"n": "sum"}, "hash", "ask"),
    es.TraceForked("chat", "t1", 4),
    es.NodeExecuted("ask", False, "no", 1.5, 0.25, True, "answer"),
    es.BarrierRaised("ask#1", "ask", "Sure?", ["n"], 5, es.Reject("late")),
    *[es.BarrierDecided("ask#1", "ask", decision) for decision in DECISIONS],
    es.TraceEnded("failed", "no"),
    es.Note("seen", {"by": ["ana"]}),
    es.TraceStats("t1", "chat", 1, 2, 3, 4, 5, 6, 7),
    es.StoreStats("runs.db", 1, 2, 3, 4, 5, [es.TraceStats("t1", "chat", 1, 2, 3, 4, 5, 6, 7)]),
    es.Problem("t1", 7, "digest", "why", True),
    es.VerifyReport(1, 2, 3, [es.Problem("t1", 7, "digest", "why", True)], {"t1": "00"}),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_equal(record):
    text = record.to_json()
    again = type(record).from_json(text)
    assert again == record
    assert type(record).from_json(text.decode()) == record
    assert json.loads(again.to_json()) == json.loads(text)


def test_a_trigger_keeps_its_metadata():
    trigger = es.CheckpointTrigger.adaptive(es.ExecutionMetadata.heavy())
    assert es.CheckpointTrigger.from_json(trigger.to_json()).metadata == es.ExecutionMetadata.heavy()


def test_a_live_tail_comes_back_equal():
    live = es.IncrementalSnapshotState({"n": 0}, [es.StateDelta.put("n", 1)], 5)
    assert es.IncrementalSnapshotState.from_json(live.to_json()) == live


@pytest.mark.parametrize("kind", [es.DeltaOp, es.DeltaSource, es.Reducer, es.GraphHashMode])
def test_an_enum_comes_back_from_its_value(kind):
    for member in kind:
        assert kind(json.loads(json.dumps(member.value))) is member


@pytest.mark.parametrize("event", [record for record in RECORDS if type(record) in KIND_OF], ids=repr)
def test_a_recorded_event_comes_back_equal(event):
    recorded = es.RecordedEvent("t1", 2, 2, KIND_OF[type(event)], event, utc(1_700_000_000_000_001))
    assert es.RecordedEvent.from_json(recorded.to_json()) == recorded


def test_what_the_log_gives_back_is_what_was_appended(store, trace):
    events = [
        *[delta for delta in DELTAS if delta.key == "n" and delta.op in ("put", "sum")][:1],
        es.StateDelta.put("l", [0]),
        es.StateDelta.splice("l", 0, 1, [{"a": 1}], es.DeltaSource.IMPORT),
        es.NodeExecuted("ask", duration_ms=1.5, token_cost=0.25, has_side_effects=True, next="answer"),
        es.BarrierRaised("ask#1", "ask", "Sure?", ["n"], 5, es.Reject("late")),
        es.BarrierDecided("ask#1", "ask", es.Modify({"n": [1.0, None]}, "ana")),
        es.Note("seen", {"by": ["ana"]}),
        es.TraceEnded("failed", "no"),
    ]
    trace.append(events)
    assert [recorded.event for recorded in store.events("t1", after=1)] == events


def test_a_whole_trace_is_read_back_as_data(store, trace):
    with trace.step("work", es.ExecutionMetadata.heavy()) as step:
        step.put("n", 1)
        step.append("log", "a")
    with pytest.raises(ZeroDivisionError), trace.step("work"):
        raise ZeroDivisionError
    trace.raise_barrier("ask")
    trace.decide("ask", es.Modify({"n": 5}, by="ana"))
    whole = trace.execution_trace()
    assert whole.initial_state == {"log": [], "n": 0, "text": "a"}
    assert [(entry.step, entry.node_name, entry.success) for entry in whole.entries] == [
        (1, "work", True),
        (0, "work", False),
    ]
    assert [(delta.key, delta.source) for delta in whole.deltas] == [
        ("n", "node"), ("log", "node"), ("ask.approved", "human"), ("n", "human"),
    ]  # fmt: skip
    (decided,) = whole.barrier_decisions
    assert (decided.barrier_id, decided.node_id, decided.decision, decided.by) == (
        "ask#1", "ask", es.Modify({"n": 5}, by="ana"), "ana",
    )  # fmt: skip
    assert es.ExecutionTrace.from_json(whole.to_json()) == whole
    fork = store.fork("t1", at=4)
    assert fork.execution_trace().entries == whole.entries[:1]
