"""What the log cannot hold exactly is refused at the door, by its key path, and nothing is written."""

from __future__ import annotations

import msgspec
import pytest

import eventstore as es


class Reply(msgspec.Struct):
    score: object


def deep(levels):
    value = "bottom"
    for _ in range(levels):
        value = [value]
    return value


REFUSED = [
    (float("nan"), "doc", "nan"),
    (float("inf"), "doc", "inf"),
    ({"a": [{"b": float("-inf")}]}, "doc.a[0].b", "-inf"),
    (Reply(float("nan")), "doc.score", "nan"),
    ([Reply((1, float("nan")))], "doc[0].score[1]", "nan"),
    ("\ud800", "doc", "lone surrogate"),
    (["ok", "\udfff"], "doc[1]", "lone surrogate"),
    ({"fine": {"\ud800": 1}}, "doc.fine (a key of it)", "lone surrogate"),
    (2**63, "doc", "beyond 64 bits"),
    (-(2**63) - 1, "doc", "beyond 64 bits"),
    ({"a": 2**63}, "doc.a", "beyond 64 bits"),
    ([2**64], "doc[0]", "beyond 64 bits"),
    ([Reply(2**70)], "doc[0].score", "beyond 64 bits"),
    ({1: "a", "1": "b"}, "doc", "same text"),
    ({None: 1}, "doc", "keys"),
    ({(1, 2): 1}, "doc", "keys"),
    (object(), "doc", "object"),
    ({"a": [1, object()]}, "doc.a[1]", "object"),
    (1 + 2j, "doc", "complex"),
    (es.DeltaOp, "doc", "EnumType|type"),
    ([es.Opaque("raw", b"")], "doc[0]", "stands alone"),
    (deep(129), "doc", "deeper than 128"),
]


@pytest.mark.parametrize(("value", "key_path", "reason"), REFUSED, ids=lambda item: repr(item)[:30])
def test_what_json_cannot_hold_is_refused_by_its_path_and_the_log_is_untouched(store, trace, value, key_path, reason):
    with pytest.raises(es.ValueRefused, match=reason) as refused:
        trace.append([es.StateDelta.put("n", 1), es.StateDelta.put("doc", value)])
    assert refused.value.path.startswith(key_path)
    assert trace.version == 1 and len(list(store.events("t1"))) == 1
    assert trace.state == store.state_at("t1") == {"log": [], "n": 0, "text": "a"}


@pytest.mark.parametrize("write", ["put", "replace", "append", "extend", "splice", "merge", "start"])
def test_every_way_in_is_guarded(store, trace, write):
    bad = float("nan")
    with pytest.raises(es.ValueRefused), trace.step("work") as step:
        step.put("n", 5)
        match write:
            case "put" | "replace":
                getattr(step, write)("doc", bad)
            case "append":
                step.append("log", 1, bad)
            case "extend":
                step.extend("log", [bad])
            case "splice":
                step.splice("log", 0, 0, [bad])
            case "merge":
                step.merge("doc", {"a": bad})
            case "start":
                store.start({"doc": bad})
    assert trace.state == store.state_at("t1") == {"log": [], "n": 0, "text": "a"}
    assert [entry.success for entry in trace.entries()] == [False]


@pytest.mark.parametrize(
    "act",
    [
        lambda trace: trace.note("seen", float("nan")),
        lambda trace: trace.raise_barrier("ask", prompt="\ud800"),
        lambda trace: trace.end("failed", "\ud800"),
        lambda trace: trace.append([es.BarrierRaised("ask#1", "ask", default=es.Modify({"n": float("inf")}))]),
    ],
)
def test_the_values_of_other_events_are_guarded_too(store, trace, act):
    with pytest.raises(es.ValueRefused):
        act(trace)
    assert trace.version == 1 and len(list(store.events("t1"))) == 1


def test_the_deepest_value_taken_has_128_levels(store, trace, exact):
    with trace.step("put") as step:
        step.put("doc", deep(128))
    assert exact(store.state_at("t1")["doc"]) == exact(deep(128))


def test_a_value_has_a_largest_size(trace, monkeypatch):
    monkeypatch.setattr("eventstore.codec.MAX_VALUE_BYTES", 100)
    with trace.step("put") as step:
        step.put("doc", "x" * 98)
    with pytest.raises(es.ValueRefused, match="limit is 100"), trace.step("put") as step:
        step.put("doc", "x" * 99)
    assert trace.state["doc"] == "x" * 98


def test_a_step_has_a_largest_size(store, trace, monkeypatch):
    monkeypatch.setattr("eventstore.codec.MAX_BODY_BYTES", 200)
    with pytest.raises(es.ValueRefused, match=r"the step.*limit is 200"):
        trace.append([es.StateDelta.put("doc", "x" * 150), es.StateDelta.put("more", "x" * 150)])
    assert trace.version == 1 and store.state_at("t1") == trace.state


def test_a_trace_has_a_largest_size(store, trace, monkeypatch):
    monkeypatch.setattr("eventstore.codec.MAX_TRACE_EVENTS", 3)
    trace.append([es.Note("one"), es.Note("two")])
    with pytest.raises(es.ValueRefused, match=r"the trace.*4 events, the limit is 3"):
        trace.append([es.Note("three")])
    with pytest.raises(es.ValueRefused, match="the trace"), trace.step("put") as step:
        step.put("n", 1)
    assert trace.version == 3 and [event.seq for event in store.events("t1")] == [1, 2, 3]


@pytest.mark.parametrize("key", ["", None, 5, "\ud800", "k" * 1025, "é" * 513])
def test_a_key_is_a_text_of_1_to_1024_bytes(trace, key):
    with pytest.raises(es.ValueRefused), trace.step("put") as step:
        step.put(key, 1)
    assert set(trace.state) == {"log", "n", "text"}


def test_the_longest_key_is_taken(store, trace):
    with trace.step("put") as step:
        step.put("é" * 512, 1)
    assert store.state_at("t1")["é" * 512] == 1


@pytest.mark.parametrize("state", [[("a", 1)], "a", 5])
def test_an_initial_state_is_a_mapping(store, state):
    with pytest.raises(es.ValueRefused, match="a state is a mapping"):
        store.start(state)


@pytest.mark.parametrize(
    "text",
    [
        "\ud800",
        "",
        "a\0b",
        "x" * 201,
        5,
    ],
)
def test_a_trace_id_is_a_text_of_1_to_200_characters(store, text):
    with pytest.raises(es.ValueRefused):
        store.start(id=text)
    assert store.traces() == []


def test_a_fork_id_follows_the_same_rule(store, trace):
    for bad in ("x" * 201, "\ud800", "a\0b"):
        with pytest.raises(es.ValueRefused):
            store.fork("t1", id=bad)
    assert [info.trace_id for info in store.traces()] == ["t1"]


WRONG_TYPES = {
    "name of a start": lambda store, trace: store.start(name=5),
    "no name of a start": lambda store, trace: store.start(name=None),
    "graph hash of a start": lambda store, trace: store.start(graph_hash=5),
    "name of a note": lambda store, trace: trace.note(5),
    "error of an end": lambda store, trace: trace.end("failed", error=5),
    "status of an end": lambda store, trace: trace.append([es.TraceEnded("exploded")]),
    "success of a node": lambda store, trace: trace.append([es.NodeExecuted("a", success="no")]),
    "duration of a node": lambda store, trace: trace.append([es.NodeExecuted("a", duration_ms=True)]),
    "not an event": lambda store, trace: trace.append(["no event"]),
}


@pytest.mark.parametrize("act", WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_an_event_of_the_wrong_type_is_refused_before_it_can_poison_the_log(store, trace, act):
    with pytest.raises((es.ValueRefused, TypeError, ValueError)):
        act(store, trace)
    assert [info.trace_id for info in store.traces()] == ["t1"]
    assert [event.kind for event in store.events("t1")] == ["trace_started"]


@pytest.mark.parametrize(
    "delta",
    [
        es.StateDelta("n"),
        es.StateDelta("n", "bogus", 1),
        es.StateDelta("n", value=1, source="bogus"),
        es.StateDelta(5, value=1),
        es.StateDelta("n", "sum", "1"),
        es.StateDelta("log", "append", 5),
        es.StateDelta("log", "splice", {"start": 0}),
        es.StateDelta("doc", "merge", [1]),
    ],
    ids=str,
)
def test_a_delta_of_the_wrong_type_is_refused_before_it_can_poison_the_log(store, trace, delta):
    with pytest.raises((es.EventStoreError, ValueError)):
        trace.append([delta])
    assert [event.kind for event in store.events("t1")] == ["trace_started"]


@pytest.mark.parametrize("cost", [-1, float("nan"), float("inf"), "1", None])
def test_a_steps_cost_is_a_finite_number(trace, cost):
    with pytest.raises((es.ValueRefused, TypeError)), trace.step("work") as step:
        step.record(token_cost=cost)


@pytest.mark.parametrize(
    ("metadata", "costs"),
    [
        ({"has_side_effects": 1}, []),
        ({"duration_ms": True}, []),
        ({"duration_ms": 10**30}, []),
        ({}, [1e308, 1e308]),
    ],
    ids=str,
)
def test_no_metadata_makes_a_trace_unreadable(trace, metadata, costs):
    try:
        with trace.step("work", es.ExecutionMetadata(**metadata)) as step:
            for cost in costs:
                step.record(token_cost=cost)
    except es.ValueRefused:
        pass
    assert len(trace.entries()) <= 1


def test_an_append_clears_no_control(trace):
    with pytest.raises(es.ValueRefused, match="only a run clears control keys"):
        trace.append([es.NodeExecuted("a", clears=["steps"])])
    assert trace.version == 1
