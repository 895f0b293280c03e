"""Opaque values as people read them: what LangGraph serialized, shown as data and never made again."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from collections import deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import ip_address
from pathlib import PosixPath
from re import compile as pattern
from sqlite3 import connect
from typing import NamedTuple
from uuid import UUID

import jsonpatch
import msgspec
import pydantic
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Interrupt, Send

import eventstore as es
from eventstore.analysis.export import export_analysis
from eventstore.cli.app import main
from eventstore.readable import DEEPER, DEEPEST, HIDDEN, readable

SERIALIZER = JsonPlusSerializer()
Ext = msgspec.msgpack.Ext
pack = msgspec.msgpack.encode


def sealed(value):
    """A value as LangGraph serializes it."""
    codec, data = SERIALIZER.dumps_typed(value)
    return es.Opaque(codec, bytes(data))


def listed(*items):
    """A list as the saver keeps it: its items one after the other."""
    return es.Opaque("msgpack", b"".join(SERIALIZER.dumps_typed([item])[1][1:] for item in items), len(items))


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Order:
    total: int
    due: date


class Point(NamedTuple):
    x: int
    y: int


class Account(pydantic.BaseModel):
    name: str
    key: pydantic.SecretStr
    orders: list[Order] = []


# What is shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        ("text", "text"),
        (1.5, 1.5),
        ({"a": [1, (2, True)]}, {"a": [1, [2, True]]}),
        (UUID(int=1 << 100), "00000010-0000-0000-0000-000000000000"),
        (datetime(2026, 11, 24, 18, tzinfo=UTC), "2026-11-24T18:00:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4, 5, 6), "03:04:05.000006"),
        (time(3, 4), "03:04:00"),
        (timedelta(days=1, seconds=3), "1 day, 0:00:03"),
        (Decimal("1.50"), "1.50"),
        (ip_address("10.0.0.1"), "10.0.0.1"),
        (PosixPath("/a/b"), "/a/b"),
        (PosixPath("a/b"), "a/b"),
        (PosixPath(), "."),
        (pattern("a+"), "a+"),
        (deque([2, 1]), [2, 1]),
        ({"b", "a", "c"}, ["a", "b", "c"]),
        (frozenset([10, 9]), [10, 9]),  # as their JSON sorts
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Order(5, date(2026, 1, 2)), {"Order": {"total": 5, "due": "2026-01-02"}}),
        (Point(1, 2), {"Point": {"x": 1, "y": 2}}),
        (Send("node", {"n": 1}), {"Send": {"node": "node", "arg": {"n": 1}}}),
        (ValueError("boom"), "ValueError('boom')"),
        (_DeltaSnapshot([1, 2]), [1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_in_their_natural_form(value, shown):
    assert readable(sealed(value)) == shown


def test_a_time_with_a_zone_keeps_its_fields():
    shown = readable(sealed(time(3, tzinfo=timezone(timedelta(hours=2)))))
    assert shown["time"]["hour"] == 3 and shown["time"]["tzinfo"] == {"timezone": ["2:00:00"]}


def test_a_message_is_its_class_and_what_it_does_not_leave_empty():
    calls = [{"name": "refund", "args": {"order": 7}, "id": "c1", "type": "tool_call"}]
    assert readable(sealed(HumanMessage("hi", id="1"))) == {"HumanMessage": {"content": "hi", "id": "1"}}
    assert readable(sealed(AIMessage("", tool_calls=calls))) == {"AIMessage": {"content": "", "tool_calls": calls}}
    told = {"ToolMessage": {"content": "42", "tool_call_id": "c1", "status": "success"}}
    assert readable(sealed(ToolMessage("42", tool_call_id="c1"))) == told
    assert readable(sealed(ChatMessage(role="boss", content="go"))) == {
        "ChatMessage": {"content": "go", "role": "boss"}
    }
    assert readable(sealed(AIMessageChunk(content="h"))) == {"AIMessageChunk": {"content": "h"}}


def test_any_other_object_keeps_every_field_and_secrets_stay_secret():
    account = Account(name="ana", key="hunter2", orders=[Order(5, date(2026, 1, 2))])
    orders = [{"total": 5, "due": "2026-01-02"}]  # as pydantic dumps them
    assert readable(sealed(account)) == {"Account": {"name": "ana", "key": HIDDEN, "orders": orders}}
    asked = readable(sealed(Interrupt(value="go on?", id="i1")))["Interrupt"]
    assert (asked["value"], asked["id"]) == ("go on?", "i1")


def test_bytes_are_told_by_their_length_and_start():
    assert readable(sealed(b"\x89PNG")) == {"bytes": 4, "start": "\\x89PNG"}
    assert readable(sealed({"b": b"a" * 40})) == {"b": {"bytes": 40, "start": "a" * 24 + "…"}}


def test_a_list_is_its_items_and_what_is_not_opaque_is_left_alone():
    assert readable(listed(1, Point(1, 2), None)) == [1, {"Point": {"x": 1, "y": 2}}, None]
    value = {"plain": [1, None]}
    assert readable(value) is value
    assert readable(es.Opaque("json", b'{"a":[1,null]}')) == {"a": [1, None]}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (es.Opaque("msgpack+aes", b"\x07" * 40), {"encrypted": "aes", "bytes": 40}),
        (es.Opaque("msgpack+aes[]", pack(b"ab") + pack(b"c"), 2), {"encrypted": "aes", "chunks": 2, "bytes": 7}),
        (es.Opaque("pickle", b"\x80\x04."), {"opaque": "pickle", "items": None, "bytes": 3}),
        (es.Opaque("pickle[]", pack(b"ab"), 1), {"opaque": "pickle[]", "items": 1, "bytes": 4}),
        (es.Opaque("null", b""), None),
        (sealed(bytearray(b"ab")), {"bytes": 2, "start": "ab"}),
    ],
    ids=lambda value: value.codec if isinstance(value, es.Opaque) else "shown",
)
def test_what_cannot_be_read_is_described(value, shown):
    assert readable(value) == shown


# What never goes wrong


def test_nothing_that_the_bytes_name_is_imported_or_called(tmp_path):
    victim = tmp_path / "touched"
    for code in range(6):
        named = pack(["antigravity", "Fly", {"a": 1}, "go"])
        assert readable(es.Opaque("msgpack", pack(Ext(code, named)))) == {"Fly": {"a": 1}}
        called = pack(["os", "mkdir", [str(victim)], "mkdir"])
        assert readable(es.Opaque("msgpack", pack(Ext(code, called)))) == {"mkdir": [str(victim)]}
    assert "antigravity" not in sys.modules and not victim.exists()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (2**64 - 1, "18446744073709551615"),
        (2**63 - 1, 2**63 - 1),
        ({None: "b", (1, 2): "c", 1.5: "d", True: "e", b"k": "f"},
         {"true": "e", "null": "b", "[1,2]": "c", "1.5": "d", "k": "f"}),
        ({1: "a", "1": "b"}, {"entries": [[1, "a"], ["1", "b"]]}),
        (Ext(99, b"abc"), {"extension": 99, "bytes": 3}),
        (Ext(5, b"\xc1"), {"extension": 5, "bytes": 1}),
        (Ext(5, pack([1, 2, 3])), {"extension": 5, "bytes": 4}),
        (Ext(5, pack("short")), {"extension": 5, "bytes": 6}),
        (Ext(6, pack(["<f8", [2], "C", b"\0" * 16])), {"ndarray": {"dtype": "<f8", "shape": [2], "bytes": 16}}),
        (Ext(6, pack(7)), {"extension": 6, "bytes": 1}),
        (Ext(1, pack(["datetime", "date", [2026, 13, 1]])), {"date": [2026, 13, 1]}),
        (Ext(0, pack(["uuid", "UUID", 7])), {"UUID": 7}),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
    ],
)  # fmt: skip
def test_what_json_cannot_hold_becomes_text_or_a_description(value, shown):
    found = readable(es.Opaque("msgpack", pack(value)))
    assert found == shown
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\xa2\xff\xfe", b"\x81\x80\x01", b"\xdd\xff\xff\xff\xff", b"\x91" * 100_000]
)
def test_damaged_bytes_are_described(data):
    assert readable(es.Opaque("msgpack", data)) == {"opaque": "msgpack", "items": None, "bytes": len(data)}
    assert readable(es.Opaque("msgpack", data, 7)) == {"opaque": "msgpack", "items": 7, "bytes": len(data)}


def test_a_damaged_item_is_described_alone():
    found = readable(es.Opaque("msgpack", pack(1) + b"\xa1\xff" + pack("b"), 3))
    assert found == [1, {"opaque": "msgpack", "items": None, "bytes": 2}, "b"]


def test_what_is_nested_too_deep_is_cut():
    value = "bottom"
    for _ in range(DEEPEST + 1):
        value = [value]
    found = readable(es.Opaque("msgpack", pack(value)))
    for _ in range(DEEPEST):
        (found,) = found
    assert found == DEEPER
    data = pack(1)
    for _ in range(500):
        data = pack(Ext(7, data))
    assert readable(es.Opaque("msgpack", data)) == DEEPER


def test_colliding_keys_at_every_level_take_no_more_than_one_look_at_each():
    data = pack(0)
    for _ in range(60):
        data = b"\x82" + pack(1) + data + pack("1") + pack(None)
    assert readable(es.Opaque("msgpack", data))["entries"][1] == ["1", None]


@given(data=st.binary(max_size=60), code=st.integers(-128, 127), count=st.none() | st.integers(0, 5))
def test_any_bytes_give_json(data, code, count):
    for packed in (data, pack(Ext(code, data)), pack([Ext(code, pack(["m", "Name", data]))])):
        json.dumps(readable(es.Opaque("msgpack", packed, count)), allow_nan=False)


NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12,
)  # fmt: skip


@given(value=JSON)
def test_json_is_shown_as_it_is(value, exact):
    assert exact(readable(es.Opaque("msgpack", pack(value)))) == exact(value)


@given(value=JSON, at=st.integers(0, 2000), byte=st.integers(0, 255))
def test_a_flipped_byte_never_raises(value, at, byte):
    data = bytearray(SERIALIZER.dumps_typed([HumanMessage("hi", id="1"), value, {"when": date(2026, 1, 2)}])[1])
    data[at % len(data)] = byte
    json.dumps(readable(es.Opaque("msgpack", bytes(data))), allow_nan=False)


# Where they are looked at


def shown(state):
    return {key: readable(value) for key, value in state.items()}


def test_a_diff_finds_what_differs_within():
    old = {"messages": listed(HumanMessage("hi", id="1")), "order": sealed({"total": 40, "items": [1]})}
    new = {
        "messages": listed(HumanMessage("hi", id="1"), AIMessage("yes?")),
        "order": sealed({"total": 30, "items": [1]}),
    }
    assert str(es.diff(old, new)).splitlines() == [
        'messages: 1 appended at [1]: [{"AIMessage":{"content":"yes?"}}]',
        "order.total: 40 -> 30",
    ]
    edited = es.diff(old, {**old, "messages": listed(HumanMessage("hello", id="1"))})
    assert str(edited) == 'messages[0].HumanMessage.content: "hi" -> "hello"'


def test_a_diff_of_values_that_read_alike_is_not_empty():
    one, other = (Account(name="ana", key=key) for key in ("a", "b"))
    (change,) = es.diff({"o": sealed(one)}, {"o": sealed(other)}).changes
    assert (change.path, change.kind) == (["o"], "changed") and change.before == change.after == readable(sealed(one))


def test_a_value_may_become_opaque():
    assert str(es.diff({"o": {"n": 1}}, {"o": sealed({"n": 2})})) == "o.n: 1 -> 2"
    assert str(es.diff({"o": {"n": 1}}, {"o": sealed({"n": 1})})) == 'o: {"n":1} -> {"n":1}'


OPAQUE = (
    JSON.map(sealed)
    | st.lists(JSON, max_size=4).map(lambda items: listed(*items))
    | st.sampled_from([es.Opaque("pickle", b"1"), es.Opaque("pickle", b"2"), es.Opaque("msgpack+aes[]", pack(b"1"), 1)])
)
STATES = st.dictionaries(st.sampled_from("abc"), JSON | OPAQUE)


def sorted_text(state):
    return json.dumps(shown(state), sort_keys=True)


@given(left=STATES, right=STATES)
def test_a_diff_leads_from_one_readable_state_to_the_other(left, right):
    found = es.diff(left, right)
    assert found.is_empty == (left == right and sorted_text(left) == sorted_text(right))
    assert sorted_text(found.apply(left)) == sorted_text(right)
    assert es.StateDiff.from_json(found.to_json()).apply(left) == shown(right)
    patched = jsonpatch.apply_patch(shown(left), json.loads(json.dumps(found.patch())))
    assert sorted_text(patched) == sorted_text(right)


@pytest.fixture
def chat(store):
    """Seqs: 1 start; 2-4 and 5-7 steps of a chat whose values are opaque."""
    trace = store.start({"messages": listed(HumanMessage("hi", id="1"))}, id="t1", name="chat")
    for number, text in enumerate(("one", "two")):
        with trace.step("answer") as step:
            step.extend("messages", listed(AIMessage(text, id=text)))
            step.put("order", sealed({"total": number}))
    return trace


def test_blame_looks_into_them(chat):
    assert [write.seq for write in chat.blame("messages")] == [1, 2, 5]
    assert [write.seq for write in chat.blame("messages[1].AIMessage.content")] == [2]
    assert [write.seq for write in chat.blame("order.total")] == [3, 6]
    assert chat.blame("messages.9") == [] and chat.blame("order.total.no") == []


def test_why_shows_them(chat):
    assert chat.why(6).reasons[0] == 'event 6 changed \'order\': {"total":0} -> {"total":1}'


@pytest.fixture
def run(chat, store):
    def invoke(*arguments):
        result = CliRunner().invoke(main, ["--db", store.path, *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["state"], '{"AIMessage":{"content":"two","id":"two"}}'),
        (["state", "--json"], '{"AIMessage":{"content":"two","id":"two"}}'),
        (["log"], '[{"AIMessage":{"content":"two","id":"two"}}]'),
        (["log", "--json"], '[{"AIMessage":{"content":"two","id":"two"}}]'),
        (["diff"], '{"AIMessage":{"content":"two","id":"two"}}'),
        (["diff", "--json"], '{"AIMessage":{"content":"two","id":"two"}}'),
        (["blame", "messages"], '[{"AIMessage":{"content":"two","id":"two"}}]'),
        (["blame", "messages", "--json"], '[{"AIMessage":{"content":"two","id":"two"}}]'),
        (["why", "6"], '{"total":0} -> {"total":1}'),
        (["why", "6", "--json"], '"before":{"total":0},"after":{"total":1}'),
        (["tail"], '[{"AIMessage":{"content":"two","id":"two"}}]'),
        (["tail", "--json"], '[{"AIMessage":{"content":"two","id":"two"}}]'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands_show_them(run, arguments, told):
    command, *rest = arguments
    assert told in run(command, "t1", *rest)


def test_a_replay_tells_them(store):
    totals = [2, 1]
    graph = es.Graph("refund")

    @graph.node
    def answer(ctx):
        ctx.put("order", sealed({"total": totals.pop()}))

    graph.start("answer").end("answer")
    es.run(graph, store, id="r1")
    found = es.replay(graph, store, "r1").divergence
    assert (found.recorded, found.produced) == ({"total": 1}, {"total": 2})


def test_the_export_holds_them_and_their_messages(chat, store, tmp_path):
    target = str(tmp_path / "analysis.db")
    calls = [{"name": "refund", "args": {}, "id": "c1", "type": "tool_call"}]
    with chat.step("answer") as step:
        step.extend("messages", listed(
            AIMessage("", tool_calls=calls), ToolMessage("42", tool_call_id="c1", name="refund"),
            ChatMessage(role="boss", content=["go", {"type": "text", "text": "on"}]), RemoveMessage(id="1"),
        ))  # fmt: skip
        step.splice("messages", 0, 1, listed({"role": "user", "content": "edited"}))
        step.put("sealed", es.Opaque("msgpack+aes", b"\x07" * 9))
    export_analysis(store, target)
    with connect(target) as connection:
        columns = "seq, item, role, name, content, tool_call_id"
        assert connection.execute(f"SELECT {columns} FROM messages ORDER BY seq, item").fetchall() == [
            (1, 0, "user", None, "hi", None),
            (2, 0, "assistant", None, "one", None),
            (5, 0, "assistant", None, "two", None),
            (8, 0, "assistant", None, "", None),
            (8, 1, "tool", "refund", "42", "c1"),
            (8, 2, "boss", None, "go\non", None),
            (9, 0, "user", None, "edited", None),
        ]
        ((found,),) = connection.execute("SELECT tool_calls FROM messages WHERE seq = 8 AND item = 0")
        assert json.loads(found) == calls
        ((state,),) = connection.execute("SELECT state FROM runs")
        assert json.loads(state) == shown(store.state_at("t1"))
