"""Links: applying the net effect of a stretch is applying its deltas one by one, bit for bit and in order."""

from __future__ import annotations

import copy
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventstore as es
from eventstore.codec import Row, json_encode
from eventstore.fold import MISSING, advance, apply, shape_of
from eventstore.link import Link, NetEffect, decode_link, decode_whole, encode_whole, fold_rows
from eventstore.opaque import Opaque

NUMBER = st.integers(-3, 3) | st.sampled_from([0.1, 0.2, 0.3, 1.0, 2.0, -0.0, 1e16, 1e-9, 2**53, float(2**53)])
LEAF = NUMBER | st.none() | st.booleans() | st.sampled_from(["", "é", "long text " * 5])
VALUE = LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(st.sampled_from("xyz"), LEAF, max_size=3)
KEY = st.sampled_from("abcd")


def change(op, value):
    return st.tuples(KEY, st.just(op), value)


DELTA = st.one_of(
    change("put", VALUE),
    change("delete", st.just(None)),
    change("append", st.lists(LEAF, max_size=3)),
    change(
        "splice",
        st.builds(lambda s, c, i: {"start": s, "count": c, "items": i}, st.integers(0, 3), st.integers(0, 2),
                  st.lists(LEAF, max_size=2)),
    ),
    change("merge", st.dictionaries(st.sampled_from("xyz"), LEAF, max_size=3)),
    change("sum", NUMBER),
    change("max", NUMBER),
    change("min", NUMBER),
)  # fmt: skip
STATE = st.dictionaries(KEY, VALUE, max_size=4)
DELTAS = st.lists(DELTA, max_size=25)


def valid(state, deltas):
    """The deltas that the door would let in, and the states after each."""
    state, taken, states = copy.deepcopy(state), [], [copy.deepcopy(state)]
    for key, op, value in deltas:
        if op == "delete" and key not in state:
            continue
        try:
            advance(shape_of(state.get(key, MISSING)), key, op, value)
        except es.DeltaApply:
            continue
        apply(state, key, op, copy.deepcopy(value))
        taken.append((key, op, value))
        states.append(copy.deepcopy(state))
    return taken, states


def link_of(deltas):
    link = Link()
    link.add_rows(Row("delta", key, op, copy.deepcopy(value)) for key, op, value in deltas)
    return link


@given(state=STATE, deltas=DELTAS)
def test_a_net_effect_does_what_its_deltas_do(exact, state, deltas):
    taken, states = valid(state, deltas)
    net = NetEffect()
    for key, op, value in taken:
        net.add(key, op, copy.deepcopy(value))
    result = copy.deepcopy(state)
    net.apply(result)
    assert exact(result) == exact(states[-1])


@given(state=STATE, deltas=DELTAS, cuts=st.lists(st.integers(0, 25), max_size=4), json_bytes=st.integers(0, 400))
def test_a_chain_of_encoded_links_does_what_the_whole_run_does(exact, state, deltas, cuts, json_bytes):
    taken, states = valid(state, deltas)
    result, control = copy.deepcopy(state), {}
    bounds = [0, *sorted(min(cut, len(taken)) for cut in cuts), len(taken)]
    for start, end in itertools.pairwise(bounds):
        decode_link(link_of(taken[start:end]).encode(json_bytes)).apply(control, result)
        assert exact(result) == exact(states[end])


@given(first=DELTAS, second=DELTAS)
def test_a_link_goes_on_where_it_was_decoded(exact, first, second):
    taken, states = valid({}, first + second)
    half = len(taken) // 2
    link = decode_link(link_of(taken[:half]).encode(0))
    link.add_rows(Row("delta", key, op, copy.deepcopy(value)) for key, op, value in taken[half:])
    result = {}
    link.apply({}, result)
    assert exact(result) == exact(states[-1])


@given(deltas=DELTAS)
def test_a_link_is_never_longer_than_the_rows_it_covers(deltas):
    taken, _ = valid({}, deltas)
    rows = [Row("delta", key, op, value) if op != "delete" else Row("delta", key, op) for key, op, value in taken]
    rows.append(Row("node_executed", data={"node": "work", "duration_ms": 0.25}))
    body = json_encode(rows)
    link = Link()
    link.add_rows(copy.deepcopy(rows))
    assert len(link.encode(len(body))) <= len(body)


@pytest.mark.parametrize(
    ("deltas", "entries"),
    [
        ([("a", "put", 1), ("a", "put", 2)], {"a": [0, 2]}),
        ([("a", "append", [1]), ("a", "append", [2])], {"a": [1, [1, 2]]}),
        ([("a", "sum", 0.1), ("a", "sum", 0.2)], {"a": [4, [0.1, 0.2]]}),
        ([("a", "put", 0.1), ("a", "sum", 0.2)], {"a": [0, 0.1 + 0.2]}),
        ([("a", "max", 1), ("a", "max", 1.0)], {"a": [5, 1]}),
        ([("a", "merge", {"x": 1}), ("a", "merge", {"y": 2})], {"a": [3, {"x": 1, "y": 2}]}),
        ([("a", "append", [1]), ("a", "put", 2)], {"a": [0, 2]}),
        ([("a", "put", 1), ("a", "delete", None)], {}),
        ([("a", "delete", None), ("a", "append", [1])], {"a": [0, [1]]}),
    ],
)
def test_what_later_deltas_made_irrelevant_is_left_out(deltas, entries):
    net = NetEffect()
    for delta in deltas:
        net.add(*copy.deepcopy(delta))
    assert net.entries == entries


def test_float_sums_are_not_reassociated():
    parts = [0.1, 0.2, 0.3, 1e16, -1e16]
    expected = 0.7
    for part in parts:
        expected += part
    link = link_of([("n", "sum", part) for part in parts])
    state = {"n": 0.7}
    decode_link(link.encode(1000)).apply({}, state)
    assert state["n"] == expected != 0.7 + sum(parts)


def test_a_link_carries_control_with_the_state():
    started = {"name": "chat", "state": {"n": 1}, "reducers": {"n": "sum"}, "node": "ask"}
    rows = [
        Row("trace_started", data=started),
        Row("node_executed", data={"node": "ask", "next": "answer"}),
        Row("node_executed", data={"node": "ask", "success": False}),
        Row("barrier_raised", data={"barrier_id": "ok#1", "node": "ok"}),
        Row("note", data={"name": "seen"}),
    ]
    link = Link()
    link.add_rows(copy.deepcopy(rows))
    by_link, by_rows = ({}, {}), ({}, {})
    decode_link(link.encode(1000)).apply(*by_link)
    fold_rows(*by_rows, rows)
    assert by_link == by_rows
    assert by_rows[1] == {"n": 1}
    assert by_rows[0] == {
        "name": "chat", "status": "running", "waits": 1, "graph_hash": "", "next": "answer", "reducer/n": "sum",
        "steps": 1, "visits/ask": 1, "raised/ok": 1, "barrier/ok#1": {"node": "ok"},
    }  # fmt: skip


@given(state=st.dictionaries(KEY, VALUE), json_bytes=st.integers(0, 300))
def test_a_whole_state_comes_back_from_its_encoding(exact, state, json_bytes):
    control = {"status": "running", "steps": 3}
    assert exact(decode_whole(encode_whole(control, state, json_bytes))) == exact([control, state])


def test_many_short_floats_are_smaller_as_json():
    state = {f"k{number}": number / 2 for number in range(100)}
    body = encode_whole({}, state, len(json_encode(state)))
    assert body[:1] == b"["
    assert decode_whole(body) == ({}, state)


def test_opaque_values_force_msgpack():
    state = {"o": Opaque("raw", b"\x01" * 9), "f": [0.5] * 50}
    assert decode_whole(encode_whole({}, state, 10)) == ({}, state)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x01", b"[]", b"{}", b"[1, 2]", b"[[[], {}]]", b"\xd4\x05\x00"])
def test_what_is_no_base_is_said_so(body):
    for decode in (decode_link, decode_whole):
        with pytest.raises(ValueError, match=r"."):
            decode(body)
