"""The difference of two states, and of two places."""

from __future__ import annotations

import json

import jsonpatch
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventstore as es

KEY = st.sampled_from(["a", "b", "c~d", "e/f", "0", ""])
LEAF = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, -0.0, 0.5, "", "a", "é~/"])
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(KEY, inner, max_size=4), max_leaves=12
)
STATE = st.dictionaries(st.sampled_from(["a", "b", "c~d", "e/f", "0"]), VALUE, max_size=5)


def canonical(value):
    return json.dumps(value, sort_keys=True)


def told(left, right):
    return [str(change) for change in es.diff(left, right).changes]


@given(STATE, STATE)
def test_a_diff_applied_to_the_left_gives_the_right(left, right):
    before = canonical(left)
    found = es.diff(left, right)
    assert canonical(found.apply(left)) == canonical(right)
    assert canonical(jsonpatch.apply_patch(left, found.patch())) == canonical(right)
    assert found.is_empty is (canonical(left) == canonical(right))
    assert es.StateDiff.from_json(found.to_json()) == found
    assert canonical(left) == before


@given(STATE, st.data())
def test_a_small_change_is_a_small_diff(left, data):
    """Of one leaf set in a copy nothing else is told."""
    right = json.loads(json.dumps(left))
    places = list(leaves(right))
    if not places:
        return
    parent, key, path = data.draw(st.sampled_from(places))
    parent[key] = "something else"
    (change,) = es.diff(left, right).changes
    assert (change.path, change.kind, change.after) == (path, "changed", "something else")


def leaves(value, path=()):
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from leaves(item, (*path, key))
        else:
            yield value, key, [*path, key]


@pytest.mark.parametrize(
    ("left", "right", "changes"),
    [
        ({}, {}, []),
        ({"n": 1}, {"n": 1.0}, ["n: 1 -> 1.0"]),
        ({"n": 1}, {"n": True}, ["n: 1 -> true"]),
        ({"n": 1}, {}, ["n: - 1"]),
        ({}, {"n": None}, ["n: + null"]),
        ({"l": [1]}, {"l": [1, 2, 3]}, ["l: 2 appended at [1]: [2,3]"]),
        ({"l": []}, {"l": [[]]}, ["l: 1 appended at [0]: [[]]"]),
        ({"d": {"l": [1]}}, {"d": {"l": [1, 2, 3]}}, ["d.l: 2 appended at [1]: [2,3]"]),
        ({"d": {"a": 1, "b": {"c": 2}}}, {"d": {"b": {"c": 3}}}, ["d.a: - 1", "d.b.c: 2 -> 3"]),
        ({"l": [{"x": 1}, {"x": 2}]}, {"l": [{"x": 1}, {"x": 5}]}, ["l[1].x: 2 -> 5"]),
        ({"l": [1, 2, 3]}, {"l": [1, 2]}, ["l[2]: - 3"]),
        ({"l": [1]}, {"l": {"0": 1}}, ['l: [1] -> {"0":1}']),
    ],
)
def test_what_is_told(left, right, changes):
    assert told(left, right) == changes


def test_a_window_that_moved_is_an_item_less_and_an_item_more():
    items = [{"role": "user", "content": f"{number} " * 30} for number in range(200)]
    found = es.diff({"log": items[:100]}, {"log": items[1:101]})
    assert [(change.kind, change.path[0]) for change in found.changes] == [("removed", "log"), ("appended", "log")]


ITEM = (
    st.integers(0, 3)
    | st.sampled_from([1.0, -0.0, 0.0, True, None, "a"])
    | st.fixed_dictionaries({"x": LEAF, "l": st.lists(LEAF, max_size=2)})
)


@given(st.data())
def test_a_long_list_is_matched_item_by_item(data):
    left = data.draw(st.lists(ITEM, max_size=30)) + [{"x": number} for number in range(300)]
    right = json.loads(json.dumps(left))
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, len(right) - 1))
        match data.draw(st.sampled_from(["drop", "add", "set", "change", "append"])):
            case "drop":
                del right[place]
            case "add":
                right.insert(place, data.draw(ITEM))
            case "set":
                right[place] = data.draw(ITEM)
            case "change" if isinstance(right[place], dict):
                right[place]["x"] = data.draw(LEAF)
            case _:
                right.append(data.draw(ITEM))
    found = es.diff({"l": left}, {"l": right})
    assert canonical(found.apply({"l": left})) == canonical({"l": right})
    assert canonical(jsonpatch.apply_patch({"l": left}, found.patch())) == canonical({"l": right})
    assert len(found.changes) <= 6 * 6


def test_zero_and_minus_zero_are_two_texts():
    assert told({"n": 0.0, "l": [0.0]}, {"n": -0.0, "l": [-0.0]}) == ["n: 0.0 -> -0.0", "l[0]: 0.0 -> -0.0"]


def test_a_diff_holds_values_of_its_own():
    right = {"new": [1], "log": [{"a": 1}]}
    found = es.diff({"log": []}, right)
    right["new"].append(2)
    right["log"][0]["a"] = 2
    assert [change.after for change in found.changes] == [[1], [{"a": 1}]]


def test_keys_by_what_happened_to_them():
    found = es.diff({"gone": 1, "same": [1], "deep": {"x": 1}}, {"same": [1], "deep": {"x": 2}, "new": 3})
    assert (found.removed, found.added, found.keys) == (["gone"], ["new"], ["gone", "deep", "new"])
    assert found.changes[1].pointer == "/deep/x" and found.changes[1].label == "deep.x"
    assert es.Change(["a/b", 2, "c~d"], "removed", before=1).pointer == "/a~1b/2/c~0d"
    assert str(found).splitlines() == ["gone: - 1", "deep.x: 1 -> 2", "new: + 3"]
    assert str(es.diff({}, {})) == "no difference"


def test_a_diff_does_not_fit_another_state():
    for state in ({"b": 1}, {"a": 3}, {"a": None}, {"a": [1]}):
        with pytest.raises(LookupError, match="does not fit that state"):
            es.diff({"a": {"x": 1}}, {"a": {}}).apply(state)


def test_an_opaque_value_that_nobody_can_read_is_one_value():
    old, new = es.Opaque("raw", b"\x01", None), es.Opaque("raw", b"\x02", None)
    found = es.diff({"o": old, "same": old}, {"o": new, "same": es.Opaque("raw", b"\x01")})
    described = {"opaque": "raw", "items": None, "bytes": 1}
    assert [(change.path, change.before, change.after) for change in found.changes] == [(["o"], described, described)]
    assert msgspec.json.decode(found.to_json())["changes"][0]["after"] == described
    assert '"bytes":1' in str(found)


# Places


@pytest.fixture
def trace(store):
    trace = store.start({"n": 0, "log": []}, id="t1", name="chat", reducers={"log": "append"})
    for number in range(1, 5):
        with trace.step("work") as step:
            step.put("n", number)
            step.put("log", number)
    return trace


def test_two_places_of_one_trace(trace):
    found = es.diff(trace.at(step=1), trace)
    assert told(trace.at(step=1), trace.at()) == ["n: 1 -> 4", "log: 3 appended at [1]: [2,3,4]"]
    assert (found.left.seq, found.left.step, found.right.seq, found.right.step) == (4, 1, 13, 4)
    assert found.left.at < found.right.at and found.left.trace_id == "t1" and found.parted is None
    assert told(trace, trace.at(step=4)) == []


def test_checkpoints_and_mappings(trace):
    saved = trace.checkpoint("work")
    with trace.step("work") as step:
        step.put("n", 9)
    assert told(saved, trace) == ["n: 4 -> 9"]
    assert told({"n": 1}, saved)[0] == "n: 1 -> 4"
    assert es.diff(saved, trace).left.seq == saved.seq
    for side in (None, 3, "t1", [("n", 1)]):
        with pytest.raises(TypeError, match="a side of a diff is"):
            es.diff(side, trace)


def test_forks_tell_where_they_part(store, trace):
    early, late = trace.fork("step:1"), trace.fork("step:3", put={"n": 30})
    assert es.diff(early, late).parted == es.Side("t1", 4)
    assert es.diff(late, early).parted == es.Side("t1", 4)
    assert es.diff(trace, late).parted == es.Side("t1", 10)
    grandchild = late.fork()
    with grandchild.step("work") as step:
        step.put("n", 31)
    with late.step("work") as step:
        step.put("n", 32)
    assert es.diff(grandchild, late).parted == es.Side(late.id, 12)
    assert es.diff(grandchild, early).parted == es.Side("t1", 4)
    assert es.diff(grandchild.at(12), late).parted is None  # the one is the other's past
    assert es.diff(trace.at(3), late).parted is None
    assert es.diff(trace, store.start({"n": 1})).parted is None


def test_traces_of_two_stores_share_nothing(trace, tmp_path):
    with es.open(tmp_path / "other.db") as other:
        twin = other.start({"n": 4, "log": [1, 2, 3, 4]}, id="t1")
        found = es.diff(trace, twin)
        assert found.is_empty and found.parted is None
