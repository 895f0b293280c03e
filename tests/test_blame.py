"""Who wrote a key."""

from __future__ import annotations

import json

import pytest

import eventstore as es
from eventstore.blaming import _is_plain_step


def shown(writes):
    return [(write.seq, write.op, write.source, write.node, write.step) for write in writes]


@pytest.fixture
def trace(store):
    trace = store.start({"order": {"total": 40, "items": []}, "n": 0}, id="t1", reducers={"n": "sum"})
    with trace.step("price") as step:  # 2 to 4
        step.put("order", {"total": 45, "items": []})
        step.put("n", 2)
    with trace.step("pack") as step:  # 5 and 6
        step.put("order", {"total": 45, "items": ["box"]})
    trace.raise_barrier("approve")  # 7
    trace.decide("approve", es.Modify({"order": {"total": 30, "items": ["box"]}}, by="ana"))  # 8 to 10
    with pytest.raises(ZeroDivisionError), trace.step("fail") as step:  # 11
        raise ZeroDivisionError
    with trace.step("clean") as step:  # 12 and 13
        step.delete("n")
    return trace


def test_every_write_of_a_key(trace):
    assert shown(trace.blame("order")) == [
        (1, "put", "start", None, None),
        (2, "put", "node", "price", 1),
        (5, "put", "node", "pack", 2),
        (10, "put", "human", "approve", None),
    ]
    last = trace.blame("order")[-1]
    assert last.by == "ana" and last.value["total"] == 30 and last.trace_id == "t1"
    assert last.at == next(trace.events(after=9)).at
    assert shown(trace.blame("n"))[1:] == [(3, "sum", "node", "price", 1), (12, "delete", "node", "clean", 3)]
    assert trace.blame("nobody") == [] and trace.blame("") == [] and trace.blame("/") == []


@pytest.mark.parametrize(
    ("name", "seqs"),
    [
        ("order.total", [1, 2, 10]), ("/order/total", [1, 2, 10]), ("order.items", [1, 5]), ("/order/items/0", [5]),
        ("order.items[0]", [5]), ("order.items.0", [5]), ("order.none", []), ("approve.approved", [9]),
        ("/approve.approved", [9]),
    ],
)  # fmt: skip
def test_below_a_key_only_what_changed_the_part(trace, name, seqs):
    assert [write.seq for write in trace.blame(name)] == seqs


def test_an_exact_key_comes_before_a_path(store):
    trace = store.start({"a": {"b": 1}, "/a/b": 2})
    assert [write.value for write in trace.blame("/a/b")] == [2]
    with trace.step("work") as step:
        step.put("a.b", 3)
    assert [write.value for write in trace.blame("a.b")] == [3]


def test_up_to_a_place(trace):
    assert [write.seq for write in trace.blame("order", at="step:2")] == [1, 2, 5]
    assert [write.seq for write in trace.blame("order", at=4)] == [1, 2]
    assert [write.seq for write in trace.blame("n", at=2)] == [1]


def test_items_of_lists_are_followed(store):
    trace = store.start({"log": ["a"]})
    with trace.step("work") as step:
        step.append("log", "b", "c")
    with trace.step("work") as step:
        step.splice("log", 0, 1)
    assert [write.op for write in trace.blame("log.1")] == ["append", "splice"]
    assert [write.value for write in trace.blame("log")] == [["a"], ["b", "c"], {"start": 0, "count": 1, "items": []}]


def test_hooks_reducers_branches_and_imports(store):
    graph = es.Graph("g", reducers={"best": lambda old, new: max(old or 0, new), "log": "append"})
    graph.node(name="left")(lambda ctx: {"log": "l"})
    graph.node(name="right")(lambda ctx: {"log": "r", "only": 1})
    graph.parallel("both", "left", "right")
    graph.node(name="judge")(lambda ctx: {"best": 3})
    graph.after(lambda ctx: ctx.put("hooked", True) if ctx.node == "judge" else None)
    graph.edge("both", "judge").start("both").end("judge")
    found = es.run(graph, store)
    trace = store.open_trace(found.trace_id)
    assert [(write.node, write.branch, write.value) for write in trace.blame("log")] == [
        ("both", None, ["l"]), ("both", None, ["r"])
    ]  # fmt: skip
    assert [(write.node, write.branch) for write in trace.blame("only")] == [("both", "right")]
    assert [(write.source, write.node, write.step) for write in trace.blame("best")] == [("reducer_merge", "judge", 2)]
    assert trace.blame("hooked")[-1].source == "hook"
    other = store.start({"a": 1})
    store.checkpoints.save(es.Checkpoint.new(other.id, "", None, {"a": 2}))
    assert [write.source for write in other.blame("a")] == ["start", "import"]


def test_a_fork_shows_who_wrote_the_shared_history(trace):
    forked = trace.fork("step:2", put={"order": {"total": 1}})
    assert [(write.trace_id == "t1", write.source) for write in forked.blame("order")] == [
        (True, "start"), (True, "node"), (True, "node"), (False, "fork")
    ]  # fmt: skip
    assert len(trace.blame("order")) == 4


def test_a_trimmed_trace_begins_with_its_root(store, trace):
    store.trim("t1", 6, retry_window_s=0)
    assert shown(trace.blame("order"))[0] == (6, "put", "root", None, None)
    assert [write.seq for write in trace.blame("order.total")] == [6, 10]
    assert shown(trace.blame("n")) == [(6, "put", "root", None, None), (12, "delete", "node", "clean", 3)]


def test_keys_that_json_escapes_are_found(store):
    keys = ['a"b', "back\\slash", "line\nbreak", "é", "\x01", "s/l", "</script>"]
    trace = store.start({})
    for key in keys:
        with trace.step("work") as step:
            step.put(key, 1)
    with trace.step("work") as step:
        step.put("sealed", es.Opaque("raw", b"\x00"))
    for number, key in enumerate([*keys, "sealed"], 1):
        assert [write.step for write in trace.blame(key)] == [number], key
    assert trace.blame("sealed")[0].value == es.Opaque("raw", b"\x00")


def test_values_that_look_like_executions_are_not_counted(store):
    trace = store.start({})
    lookalike = {"kind": "node_executed", "data": {}}
    with trace.step("work") as step:
        step.put("other", [lookalike])
    trace.append([es.StateDelta.put("other", lookalike)])
    trace.append([es.StateDelta.put("other", [lookalike])])
    trace.append([es.StateDelta.put("other", '{"kind":"node_executed","data":{"node":"x"}}]')])
    with trace.step('w"{}]') as step:
        step.put("other", 1)
    with trace.step("last") as step:
        step.put("mine", 1)
    assert [write.step for write in trace.blame("mine")] == [3]


@pytest.mark.parametrize("value", [{"kind": "node_executed", "data": {}}, [{"kind": "node_executed", "data": {}}], "x"])
def test_a_row_without_an_execution_is_never_taken_for_a_step(value):
    bare = [{"key": "a", "value": value}]
    assert not _is_plain_step(json.dumps(bare, separators=(",", ":")).encode())
    executed = [*bare, {"kind": "node_executed", "data": {"node": "a", "success": False}}]
    assert not _is_plain_step(json.dumps(executed, separators=(",", ":")).encode())


def test_a_write_goes_to_json_and_back(trace):
    for write in trace.blame("n"):
        assert es.Write.from_json(write.to_json()) == write


def test_several_executions_in_one_commit(store):
    trace = store.start({"n": 0}, id="t1", node="a")
    put, executed = es.StateDelta.put, es.NodeExecuted
    trace.append([put("n", 1), executed("a", next="b"), put("n", 2), executed("b", next="c"), put("n", 3)])
    assert shown(trace.blame("n"))[1:] == [
        (2, "put", "node", "a", 1), (4, "put", "node", "b", 2), (6, "put", "node", None, None)
    ]  # fmt: skip
    assert trace.why("step:2").event.seq == 5 and trace.why("step:1").event.seq == 3
    assert trace.why(5).chosen_by.seq == 3 and trace.why(3).chosen_by.seq == 1


def test_a_place_behind_the_root_is_told(store, trace):
    store.trim("t1", 6, retry_window_s=0)
    with pytest.raises(es.Trimmed):
        trace.blame("n", at=3)


def test_opaque_bytes_that_look_like_an_execution(store):
    trace = store.start({}, id="t1")
    sealed = es.Opaque("raw", b'{"kind":"node_executed","data":{}}]')
    trace.append([es.StateDelta.put('a"b', 1), es.StateDelta.put("o", sealed), es.Note("seen")])
    with trace.step("work") as step:
        step.put('a"b', 2)
    assert [(write.seq, write.step) for write in trace.blame('a"b')] == [(2, None), (5, 1)]


def test_what_no_key_can_be_nobody_wrote(trace):
    assert trace.blame("\ud800") == []
