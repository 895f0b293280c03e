"""Reducers: what a put of each kind of key writes, and how sibling branches merge."""

from __future__ import annotations

import pytest

import eventstore as es
from eventstore.fold import apply_deltas


def newest_two(old, new):
    return [*(old or []), new][-2:]


REDUCERS = {
    "error": es.Reducer.ERROR,
    "replace": es.Reducer.REPLACE,
    "append": es.Reducer.APPEND,
    "merge": es.Reducer.MERGE_OBJECT,
    "sum": es.Reducer.SUM,
    "max": es.Reducer.MAX,
    "min": es.Reducer.MIN,
    "custom": newest_two,
}
PUTS = {
    "error": [1, 2],
    "replace": [1, [2]],
    "append": [[1], 2, (3, 4), {"five": 5}],
    "merge": [{"a": 1}, {"b": 2, "a": 3}],
    "sum": [1, 2, 0.5],
    "max": [-5, -7, -3.5],
    "min": [5, 7, 3],
    "custom": [1, 2, 3],
}
RESULTS = {
    "error": 2,
    "replace": [2],
    "append": [1, 2, 3, 4, {"five": 5}],
    "merge": {"a": 3, "b": 2},
    "sum": 3.5,
    "max": -3.5,
    "min": 3,
    "custom": [2, 3],
}
OPS = {"append": "append", "merge": "merge", "sum": "sum", "max": "max", "min": "min"}


def deltas(store, trace):
    return [event.event for event in store.events(trace.id) if event.kind == "delta"]


@pytest.mark.parametrize("key", REDUCERS)
def test_every_put_goes_through_the_keys_reducer_the_first_one_too(store, exact, key):
    trace = store.start({}, reducers=REDUCERS)
    for value in PUTS[key]:
        with trace.step("put") as step:
            step.put(key, value)
    assert exact(trace.state[key]) == exact(store.state_at(trace.id)[key]) == exact(RESULTS[key])


@pytest.mark.parametrize("key", REDUCERS)
def test_puts_of_one_step_add_up_as_puts_of_several_do(store, exact, key):
    trace = store.start({}, reducers=REDUCERS)
    with trace.step("put") as step:
        for value in PUTS[key]:
            step.put(key, value)
        assert exact(step.get(key)) == exact(RESULTS[key])
    assert exact(trace.state[key]) == exact(store.state_at(trace.id)[key]) == exact(RESULTS[key])


@pytest.mark.parametrize("key", REDUCERS)
def test_the_log_holds_literal_ops_only(store, key):
    trace = store.start({}, reducers=REDUCERS)
    with trace.step("put") as step:
        step.put(key, PUTS[key][0])
    (delta,) = deltas(store, trace)
    assert delta.op == OPS.get(key, "put")
    assert delta.source == ("reducer_merge" if key == "custom" else "node")


@pytest.mark.parametrize("key", REDUCERS)
def test_replace_is_literal_whatever_the_reducer(store, key):
    trace = store.start({key: "anything"}, reducers=REDUCERS)
    with trace.step("put") as step:
        step.replace(key, [7])
    assert trace.state[key] == [7]
    assert deltas(store, trace)[0].op == "put"


def test_a_replay_needs_no_reducer(store, path):
    trace = store.start({}, id="t1", reducers=REDUCERS)
    for key, values in PUTS.items():
        for value in values:
            with trace.step("put") as step:
                step.put(key, value)
    store.close()
    with es.open(path) as again:
        assert again.state_at("t1") == RESULTS


def test_a_reopened_trace_keeps_its_reducers(store):
    trace = store.start({"sum": 1}, reducers=REDUCERS)
    with store.open_trace(trace.id).step("put") as step:
        step.put("sum", 2)
    with store.fork(trace.id).step("put") as step:
        step.put("sum", 2)
        assert step.get("sum") == 5
    assert store.state_at(trace.id)["sum"] == 3


def test_a_custom_function_must_be_at_hand_again_after_reopening(store):
    trace = store.start({"custom": [1]}, reducers=REDUCERS)
    reopened = store.open_trace(trace.id)
    with pytest.raises(es.ReducerConflict, match="not at hand") as refused, reopened.step("put") as step:
        step.put("custom", 2)
    assert (refused.value.key, refused.value.reducer) == ("custom", "custom")
    with store.open_trace(trace.id, reducers={"custom": newest_two}).step("put") as step:
        step.put("custom", 2)
    assert store.state_at(trace.id)["custom"] == [1, 2]


def test_a_custom_function_sees_a_copy_and_its_errors_are_the_steps(store):
    def meddle(old, new):
        old.append("meddled")
        raise RuntimeError("no")

    trace = store.start({"custom": [1]}, reducers={"custom": meddle})
    with pytest.raises(RuntimeError, match="no"), trace.step("put") as step:
        step.put("custom", 2)
    assert trace.state == {"custom": [1]}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("sum", "1", "'1' is not a number"),
        ("sum", True, "True is not a number"),
        ("max", None, "None is not a number"),
        ("min", [1], "[1] is not a number"),
        ("merge", [1], "list is not an object"),
    ],
)
def test_a_reducer_names_the_value_that_it_cannot_take(store, key, value, reason):
    trace = store.start({}, reducers=REDUCERS)
    with pytest.raises(es.ReducerConflict) as refused, trace.step("put") as step:
        step.put(key, value)
    assert str(refused.value) == f"reducer {REDUCERS[key].value} of {key!r}: {reason}"


@pytest.mark.parametrize(
    ("key", "before", "value"), [("append", 1, 2), ("sum", "a", 1), ("max", [], 1), ("merge", 1, {"a": 1})]
)
def test_a_reducer_refuses_a_value_of_another_type_in_the_state(store, key, before, value):
    trace = store.start({key: before}, reducers=REDUCERS)
    with pytest.raises(es.DeltaApply), trace.step("put") as step:
        step.put(key, value)
    assert trace.state == {key: before}


@pytest.mark.parametrize("reducer", ["", "SUM", "total", 5, None])
def test_a_reducer_is_one_of_eight_or_a_function(store, reducer):
    with pytest.raises(TypeError, match="reducer of 'n'"):
        store.start({}, reducers={"n": reducer})


def test_reducers_have_the_names_that_the_log_keeps():
    registry = es.ReducerRegistry(REDUCERS)
    assert registry.names() == {key: "merge_object" if key == "merge" else key for key in REDUCERS}
    assert es.ReducerRegistry({"n": "sum"}).get("n") is es.Reducer.SUM
    assert es.ReducerRegistry().get("anything") is es.Reducer.ERROR


@pytest.mark.parametrize("key", REDUCERS)
def test_translate_gives_the_delta_that_a_step_would_write(store, exact, key):
    registry = es.ReducerRegistry(REDUCERS)
    state = {}
    for value in PUTS[key]:
        state = apply_deltas(state, [registry.translate(key, value, state)])
    assert exact(state[key]) == exact(RESULTS[key])


# Sibling branches


def branches(registry, state, **writes):
    return [(name, [registry.translate(key, value, state)]) for name, (key, value) in writes.items()]


@pytest.mark.parametrize("key", ["append", "merge", "sum", "max", "min"])
def test_siblings_that_write_a_reduced_key_merge_in_declared_order(exact, key):
    registry, (first, second, *_) = es.ReducerRegistry(REDUCERS), PUTS[key]
    merged = registry.merge_branches({}, branches(registry, {}, a=(key, first), b=(key, second)))
    one_by_one = apply_deltas({}, [registry.translate(key, first, {})])
    one_by_one = apply_deltas(one_by_one, [registry.translate(key, second, one_by_one)])
    assert exact(apply_deltas({}, merged)) == exact(one_by_one)


@pytest.mark.parametrize("reducers", [{}, {"n": "error"}])
def test_siblings_that_put_a_key_without_a_reducer_conflict_by_name(reducers):
    registry = es.ReducerRegistry(reducers)
    with pytest.raises(es.StateConflict) as conflict:
        registry.merge_branches({}, branches(registry, {}, search=("n", 1), other=("m", 1), ask=("n", 2)))
    assert (conflict.value.key, conflict.value.writers) == ("n", ("search", "ask"))
    assert str(conflict.value) == "key 'n' was written by branches 'search' and 'ask' and has no reducer"


@pytest.mark.parametrize("literal", [es.StateDelta.put("n", 1), es.StateDelta.delete("n")])
def test_a_literal_write_beside_a_siblings_reduced_one_conflicts(literal):
    registry = es.ReducerRegistry({"n": "sum"})
    with pytest.raises(es.StateConflict):
        registry.merge_branches({"n": 1}, [("a", [literal]), ("b", [registry.translate("n", 2, {"n": 1})])])


def test_under_replace_the_last_declared_branch_wins():
    registry = es.ReducerRegistry({"n": "replace"})
    merged = registry.merge_branches({}, branches(registry, {}, a=("n", 1), b=("n", 2)))
    assert apply_deltas({}, merged) == {"n": 2}


def test_custom_updates_of_siblings_are_resolved_in_declared_order():
    registry = es.ReducerRegistry({"n": newest_two})
    merge = es.DeltaSource.REDUCER_MERGE
    updates = [("a", [es.StateDelta.put("n", 1, merge)]), ("b", [es.StateDelta.put("n", 2, merge)])]
    merged = registry.merge_branches({"n": [0]}, updates)
    assert [(delta.value, delta.source) for delta in merged] == [([0, 1], "reducer_merge"), ([1, 2], "reducer_merge")]
    assert apply_deltas({"n": [0]}, merged) == {"n": [1, 2]}


def test_a_literal_put_of_a_custom_key_beside_a_siblings_update_conflicts():
    registry = es.ReducerRegistry({"n": newest_two})
    update = es.StateDelta.put("n", 2, es.DeltaSource.REDUCER_MERGE)
    with pytest.raises(es.StateConflict):
        registry.merge_branches({"n": [0]}, [("a", [es.StateDelta.put("n", [1])]), ("b", [update])])


def test_one_branch_alone_may_write_a_key_many_times():
    registry = es.ReducerRegistry()
    both = [("a", [es.StateDelta.put("n", 1), es.StateDelta.put("n", 2), es.StateDelta.delete("n")]), ("b", [])]
    assert registry.merge_branches({}, both) == both[0][1]


def test_merging_changes_neither_the_state_nor_the_branches():
    registry = es.ReducerRegistry({"l": "append"})
    state, mine = {"l": [0]}, [1]
    registry.merge_branches(state, [("a", [es.StateDelta.append("l", mine)]), ("b", [es.StateDelta.append("l", [2])])])
    assert (state, mine) == ({"l": [0]}, [1])
