"""Values at the door: what the live state shows is what a restore gives, and what JSON cannot hold is refused."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventstore as es

INT = st.integers(-(2**63), 2**63 - 1)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
KEY = st.text(min_size=1, max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | INT | FLOAT | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


@given(start=st.dictionaries(KEY, JSON, max_size=4), puts=st.lists(st.tuples(KEY, JSON), max_size=6))
def test_any_json_comes_back_exactly_from_live_state_log_and_bases(tmp_path_factory, tiny_fold, exact, start, puts):
    path = tmp_path_factory.mktemp("json") / "runs.db"
    expected = dict(start)
    with es.open(path, durability="normal", fold_policy=tiny_fold) as store:
        trace = store.start(start, id="t1")
        for key, value in puts:
            with trace.step("put") as step:
                step.put(key, value)
                assert exact(step.get(key)) == exact(value)
            expected[key] = value
        assert exact(dict(trace.state)) == exact(store.state_at("t1")) == exact(expected)
        assert exact(store.state_at("t1", 1)) == exact(start)
    with es.open(path, durability="normal") as store:
        assert exact(dict(store.open_trace("t1").state)) == exact(store.state_at("t1")) == exact(expected)
        assert store.verify().ok
        store.drop_bases()
        assert exact(store.state_at("t1")) == exact(expected)


@given(items=st.lists(st.lists(JSON, max_size=3), max_size=5), merges=st.lists(st.dictionaries(KEY, JSON, max_size=3)))
def test_any_json_comes_back_exactly_through_appends_and_merges(store, exact, items, merges):
    trace = store.start({"list": [], "object": {}})
    expected_list, expected_object = [], {}
    with trace.step("work") as step:
        for more in items:
            step.extend("list", more)
            expected_list += more
        for change in merges:
            step.merge("object", change)
            expected_object |= change
    expected = exact({"list": expected_list, "object": expected_object})
    assert exact(dict(trace.state)) == exact(store.state_at(trace.id)) == expected


@pytest.mark.parametrize("value", [1, 1.0, True, 0, -0.0, 0.0, False, None, "", "1", 2**63 - 1, -(2**63), 1e16, 5e-324])
def test_equal_looking_values_stay_apart(store, trace, exact, value):
    with trace.step("put") as step:
        step.put("v", value)
        step.put("in", [value, {"v": value}])
    state = store.state_at("t1")
    assert exact([state["v"], state["in"]]) == exact([value, [value, {"v": value}]])
    assert type(state["v"]) is type(trace.state["v"]) is type(value)


# What is taken


@dataclasses.dataclass
class Order:
    number: int
    lines: tuple


class Reply(msgspec.Struct):
    role: str
    score: float | None = None


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        ({1: "a", 2: "b"}, {"1": "a", "2": "b"}),
        (frozenset({7}), [7]),
        (datetime.datetime(2024, 1, 2, 3, 4, 5, 6, datetime.UTC), "2024-01-02T03:04:05.000006Z"),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (decimal.Decimal("1.50"), "1.50"),
        (Colour.RED, "red"),
        (Order(1, (1, 2)), {"number": 1, "lines": [1, 2]}),
        (Reply("user", 1.5), {"role": "user", "score": 1.5}),
        ([Reply("user"), Order(2, ())], [{"role": "user", "score": None}, {"number": 2, "lines": []}]),
    ],
)
def test_what_msgspec_can_write_as_json_is_taken_as_that_json(store, trace, exact, value, stored):
    with trace.step("put") as step:
        step.put("v", value)
        step.append("log", value)
    assert exact(dict(trace.state)) == exact(store.state_at("t1"))
    assert exact(trace.state["v"]) == exact(stored)
    assert exact(trace.state["log"]) == exact([stored])


def test_the_live_state_never_shares_a_callers_object(store, trace):
    mine = {"a": [1]}
    with trace.step("put") as step:
        step.put("v", mine)
        mine["a"].append(2)
        step.append("log", mine)
        mine["a"].append(3)
    assert trace.state["v"] == {"a": [1]}
    assert trace.state["log"] == [{"a": [1, 2]}]
    assert store.state_at("t1") == trace.state


def test_the_live_state_is_read_only_at_the_top(trace):
    with pytest.raises(TypeError):
        trace.state["n"] = 1


def test_get_converts_to_the_type_asked_for(store, trace):
    with trace.step("put") as step:
        step.put("reply", Reply("user", 1.5))
        assert step.get("reply", type=Reply) == Reply("user", 1.5)
    assert trace.get("reply", type=Reply) == store.get("t1", "reply", type=Reply) == Reply("user", 1.5)


def test_get_names_the_key_that_is_missing_or_does_not_fit(store, trace):
    with trace.step("look") as step:
        for get in (step.get, trace.get, lambda *args, **keywords: store.get("t1", *args, **keywords)):
            with pytest.raises(es.MissingKey, match="'absent'"):
                get("absent")
            assert get("absent", None) is None
            with pytest.raises(es.Deserialize, match="'text'"):
                get("text", type=int)
