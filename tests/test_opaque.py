"""Opaque values: an adapter's bytes go through log, links and bases without being decoded."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventstore as es


def listed(*items, codec="msgpack"):
    return es.Opaque(codec, b"".join(map(msgspec.msgpack.encode, items)), len(items))


def test_an_opaque_value_comes_back_as_it_was(store, trace):
    single, several = es.Opaque("sealed", b"\xff\x00\x01"), listed({"a": 1}, [2], "three")
    with trace.step("put") as step:
        step.put("single", single)
        step.put("several", several)
        step.put("beside", {"plain": [1.5, None]})
    expected = {"log": [], "n": 0, "text": "a", "single": single, "several": several, "beside": {"plain": [1.5, None]}}
    assert trace.state == store.state_at("t1") == expected
    assert store.open_trace("t1").state == expected
    store.drop_bases()
    assert store.state_at("t1") == expected and store.verify().ok


def test_an_opaque_value_may_be_part_of_the_initial_state(store):
    trace = store.start({"sealed": es.Opaque("raw", b"\x01"), "n": 1})
    assert trace.state == store.state_at(trace.id) == {"sealed": es.Opaque("raw", b"\x01"), "n": 1}


def test_appends_and_splices_of_opaque_lists_are_those_of_lists(store, trace):
    with trace.step("work") as step:
        step.extend("sealed", listed(1, 2))
        step.extend("sealed", listed(3))
        step.splice("sealed", 0, 1)
        step.splice("sealed", 1, 1, listed(4, 5))
        assert step.get("sealed") == listed(2, 4, 5)
    assert trace.state["sealed"] == store.state_at("t1")["sealed"] == listed(2, 4, 5)


def test_an_append_reducer_takes_an_opaque_list(store):
    trace = store.start({}, reducers={"sealed": "append"})
    for item in (1, 2):
        with trace.step("work") as step:
            step.put("sealed", listed(item))
    assert store.state_at(trace.id)["sealed"] == listed(1, 2)


OPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, 300), max_size=3)),
        st.tuples(st.just("splice"), st.integers(0, 9), st.integers(0, 3), st.lists(st.integers(0, 300), max_size=2)),
        st.tuples(st.just("put"), st.lists(st.integers(0, 300), max_size=3)),
        st.just(("delete",)),
    ),
    max_size=20,
)


@given(ops=OPS)
def test_opaque_lists_fold_as_lists_do_through_links_and_bases(tmp_path_factory, tiny_fold, ops):
    with es.open(tmp_path_factory.mktemp("opaque") / "runs.db", durability="normal", fold_policy=tiny_fold) as store:
        trace = store.start({"sealed": listed(*range(30))}, id="t1")
        expected, history = list(range(30)), {}
        for op, *arguments in ops:
            with trace.step(op) as step:
                match op:
                    case "append" if expected is not None:
                        step.extend("sealed", listed(*arguments[0]))
                        expected = expected + arguments[0]
                    case "splice" if expected is not None and arguments[0] + arguments[1] <= len(expected):
                        start, count, items = arguments
                        step.splice("sealed", start, count, listed(*items))
                        expected = expected[:start] + items + expected[start + count :]
                    case "put":
                        step.put("sealed", listed(*arguments[0]))
                        expected = arguments[0]
                    case "delete" if expected is not None:
                        step.delete("sealed")
                        expected = None
            history[trace.version] = {} if expected is None else {"sealed": listed(*expected)}
        for _ in range(2):
            assert all(store.state_at("t1", seq) == state for seq, state in history.items())
            assert store.verify().ok
            store.drop_bases()


def test_a_row_with_opaque_bytes_is_a_blob_and_any_other_is_text(store, trace, raw):
    with trace.step("plain") as step:
        step.put("n", 1)
    with trace.step("sealed") as step:
        step.put("sealed", es.Opaque("raw", b"\x01"))
    assert [kind for (kind,) in raw.execute("SELECT typeof(body) FROM log ORDER BY id")] == ["text", "text", "blob"]


@pytest.mark.parametrize(
    ("before", "write"),
    [
        (listed(1), lambda step: step.append("v", 2)),
        (listed(1), lambda step: step.extend("v", listed(2, codec="other"))),
        (listed(1), lambda step: step.extend("v", es.Opaque("msgpack", b"\x02"))),
        (listed(1), lambda step: step.splice("v", 0, 1, [2])),
        (listed(1), lambda step: step.splice("v", 0, 2, listed(2))),
        (listed(1), lambda step: step.splice("v", 0, 1, listed(2, codec="other"))),
        (listed(1), lambda step: step.merge("v", {"a": 1})),
        (listed(1), lambda step: step.sum("v", 1)),
        ([1], lambda step: step.extend("v", listed(2))),
        ([1], lambda step: step.splice("v", 0, 1, listed(2))),
        (es.Opaque("msgpack", b"\x01"), lambda step: step.extend("v", listed(2))),
        (es.Opaque("msgpack", b"\x01"), lambda step: step.splice("v", 0, 0, listed(2))),
    ],
)
def test_representations_do_not_mix(store, before, write):
    trace = store.start({"v": before})
    with pytest.raises(es.DeltaApply, match="'v' does not apply"), trace.step("mix") as step:
        write(step)
    assert trace.state == {"v": before}
    assert [entry.success for entry in trace.entries()] == [False]


@pytest.mark.parametrize(
    "broken",
    [
        es.Opaque("raw", b"", 3),
        es.Opaque("raw", b"\x01\x01", 1),
        es.Opaque("raw", b"\x01", -1),
        es.Opaque("raw", b"\x01", True),
        es.Opaque("raw", "text", 1),
        es.Opaque(5, b"", None),
        es.Opaque("\ud800", b"", None),
    ],
    ids=repr,
)
def test_an_opaque_value_that_does_not_hold_its_items_is_refused(store, trace, broken):
    with pytest.raises(es.ValueRefused):
        trace.append([es.StateDelta.put("sealed", broken)])
    assert trace.version == 1


def test_a_checkpoint_of_opaque_values_restores_them(store, trace):
    with trace.step("put") as step:
        step.put("sealed", listed(1))
    trace.checkpoint()
    with trace.step("more") as step:
        step.extend("sealed", listed(2))
    trace.checkpoint()
    latest = store.checkpoints.load_latest("t1")
    assert latest.restore_state() == latest.restore_state_simple() == trace.state
    assert latest.state["sealed"] == listed(1, 2)


def test_an_opaque_value_never_changes(store, trace):
    mine = listed(1)
    with trace.step("put") as step:
        step.put("sealed", mine)
    with pytest.raises(AttributeError):
        mine.data = b""
    assert trace.state == store.state_at("t1")
