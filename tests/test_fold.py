"""The fold: what each op does to a state, and that the check at the door agrees with it."""

from __future__ import annotations

import copy

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import eventstore as es
from eventstore.fold import MISSING, advance, apply, apply_deltas, combine, copy_value, shape_of

LEAF = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, -1.5, 1.0, 1e308, 2**62, "a", ""])
VALUE = LEAF | st.lists(LEAF, max_size=4) | st.dictionaries(st.sampled_from("abc"), LEAF, max_size=3)
SPLICE = st.fixed_dictionaries({"start": st.integers(-1, 5), "count": st.integers(-1, 5), "items": st.lists(LEAF)})
OPS = ["put", "append", "splice", "merge", "sum", "max", "min"]


@pytest.mark.parametrize(
    ("op", "before", "value", "after"),
    [
        ("put", MISSING, 1, 1),
        ("put", [1], {"a": 1}, {"a": 1}),
        ("append", MISSING, [1], [1]),
        ("append", [1], [2, 3], [1, 2, 3]),
        ("append", [1], [], [1]),
        ("splice", [1, 2, 3], {"start": 0, "count": 2, "items": []}, [3]),
        ("splice", [1, 2, 3], {"start": 2, "count": 1, "items": [4, 5]}, [1, 2, 4, 5]),
        ("splice", [1], {"start": 1, "count": 0, "items": [2]}, [1, 2]),
        ("splice", [], {"start": 0, "count": 0, "items": []}, []),
        ("merge", MISSING, {"a": 1}, {"a": 1}),
        ("merge", {"a": 1, "b": {"c": 1}}, {"b": {"d": 2}}, {"a": 1, "b": {"d": 2}}),
        ("sum", MISSING, 2, 2),
        ("sum", 1, 2, 3),
        ("sum", 1, 0.5, 1.5),
        ("max", MISSING, -3, -3),
        ("max", 1, 2, 2),
        ("max", 2, 1, 2),
        ("max", 1, 1.0, 1),
        ("min", MISSING, 7, 7),
        ("min", 1, 2, 1),
        ("min", 2.0, 2, 2.0),
    ],
)
def test_what_each_op_gives(exact, op, before, value, after):
    assert exact(combine(before, "k", op, value)) == exact(after)


def test_integers_stay_integers():
    assert type(combine(1, "k", "sum", 2)) is int
    assert type(combine(MISSING, "k", "min", 2)) is int


@pytest.mark.parametrize(
    ("op", "before", "value", "reason"),
    [
        ("append", 1, [2], "a number, not a list to take a list"),
        ("append", [1], 2, "a list, not a list to take a number"),
        ("append", "text", ["more"], "a string, not a list"),
        ("append", None, [1], "null, not a list"),
        ("splice", MISSING, {"start": 0, "count": 0, "items": []}, "missing, not a list"),
        ("splice", {"a": 1}, {"start": 0, "count": 0, "items": []}, "an object, not a list"),
        ("splice", [1], {"start": 0, "count": 2, "items": []}, "items 0 to 2 of a list of 1"),
        ("splice", [1], {"start": -1, "count": 1, "items": []}, "items -1 to 0 of a list of 1"),
        ("splice", [1], {"start": 2, "count": 0, "items": []}, "items 2 to 2 of a list of 1"),
        ("splice", [1], {"start": 0, "items": []}, "needs start, count and items"),
        ("splice", [1], {"start": True, "count": 0, "items": []}, "whole numbers"),
        ("splice", [1], {"start": 0, "count": 0, "items": 5}, "items a list"),
        ("splice", [1], [0, 1, []], "needs start, count and items"),
        ("merge", [1], {"a": 1}, "a list, not an object"),
        ("merge", {"a": 1}, [1], "an object, not an object to take a list"),
        ("sum", True, 1, "a boolean is not a number"),
        ("sum", 1, True, "a boolean is not a number"),
        ("sum", "1", 1, "a string is not a number"),
        ("max", None, 1, "null is not a number"),
        ("min", 1, [1], "a list is not a number"),
        ("sum", 2**63 - 1, 1, "beyond 64 bits"),
        ("sum", 1e308, 1e308, "not finite"),
    ],
)
def test_what_does_not_fit_is_named(store, op, before, value, reason):
    trace = store.start({} if before is MISSING else {"k": before})
    with pytest.raises(es.DeltaApply) as refused:
        trace.append([es.StateDelta("k", op, value)])
    assert (refused.value.key, refused.value.op) == ("k", op)
    assert f"{op} of 'k' does not apply" in str(refused.value)
    assert reason in refused.value.reason
    assert trace.version == 1


def test_an_unknown_op_does_not_fold():
    with pytest.raises(es.DeltaApply, match="unknown op"):
        combine(1, "k", "divide", 2)


def kind(shape):
    return ("object",) if type(shape) is dict else (type(shape), shape) if shape is not MISSING else ()


@given(before=VALUE | st.just(MISSING), op=st.sampled_from(OPS), value=VALUE | SPLICE)
def test_the_check_at_the_door_foresees_what_the_fold_does(before, op, value):
    try:
        after = combine(copy.deepcopy(before) if before is not MISSING else MISSING, "k", op, copy.deepcopy(value))
    except es.DeltaApply:
        with pytest.raises(es.DeltaApply):
            advance(shape_of(before), "k", op, value)
        return
    try:
        shape = advance(shape_of(before), "k", op, value)
    except es.DeltaApply as refused:
        # Stricter than the fold: what could not be stored, and a first value that later ops could not extend.
        assume("beyond 64 bits" in refused.reason or "not finite" in refused.reason or before is MISSING)
        return
    assert kind(shape_of(shape)) == kind(shape_of(after))


def test_delete_removes_and_a_later_put_goes_to_the_end():
    state = {"a": 1, "b": 2}
    apply(state, "a", "delete", None)
    apply(state, "a", "put", 3)
    assert list(state.items()) == [("b", 2), ("a", 3)]


def test_overwriting_keeps_a_keys_place():
    state = {"a": 1, "b": 2}
    for op, value in (("put", 5), ("sum", 1), ("max", 9)):
        apply(state, "a", op, value)
    assert list(state.items()) == [("a", 9), ("b", 2)]


def test_apply_deltas_touches_neither_state_nor_deltas():
    state, items = {"l": [{"a": 1}]}, [{"b": 2}]
    result = apply_deltas(state, [es.StateDelta.append("l", items)])
    result["l"][0]["a"] = result["l"][1]["b"] = "changed"
    assert (state, items) == ({"l": [{"a": 1}]}, [{"b": 2}])


def test_copies_are_deep():
    value = {"a": [{"b": 1}]}
    copied = copy_value(value)
    copied["a"][0]["b"] = 2
    assert value == {"a": [{"b": 1}]}
