"""A file of LangGraph's SqliteSaver brought over: what the store gives of it is what SqliteSaver gives."""

from __future__ import annotations

import json
import operator
import os
import shutil
import sqlite3
import subprocess
import sys
import uuid
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
import test_delta_history as delta_graphs
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, SCHEDULED
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from savers import at, exact, put, uuid_of, write

import eventstore as es
from eventstore.errors import EventStoreError, StorageError
from eventstore.integrations.langgraph import EventStoreSaver, import_sqlite
from eventstore.integrations.langgraph.families import ImportRefused
from eventstore.integrations.langgraph.lines import Lines
from eventstore.integrations.langgraph.sqlite_file import NotCheckpoints
from eventstore.integrations.langgraph.thread_import import ThreadImport

pytestmark = pytest.mark.usefixtures("ours")
STRICT = JsonPlusSerializer(allowed_msgpack_modules=None)


@pytest.fixture
def old(tmp_path):
    """Where the old file is."""
    return str(tmp_path / "checkpoints.sqlite")


@pytest.fixture
def sqlite_saver(old):
    """`sqlite_saver()`: a SqliteSaver on the old file, to be closed."""

    def make(serde=STRICT):
        saver = SqliteSaver(sqlite3.connect(old, check_same_thread=False), serde=serde)
        saver.setup()
        return closing_saver(saver)

    return make


class closing_saver:
    def __init__(self, saver):
        self.saver = saver

    def __enter__(self):
        return self.saver

    def __exit__(self, *_):
        self.saver.conn.close()


@pytest.fixture
def new(path):
    """The store that the file is brought to."""
    with es.open(path, durability="normal") as store:
        yield store


@pytest.fixture
def saver(new):
    """A saver on that store."""
    with EventStoreSaver(new) as saver:
        yield saver


def everything(saver, channels=()):
    """All that a saver says of all threads: the list, each checkpoint by itself, the history of some channels."""
    listed = [exact(found) for found in saver.list(None)]
    single = [exact(saver.get_tuple(at(thread, name, namespace))) for thread, namespace, name in places(listed)]
    histories = [
        repr(dict(saver.get_delta_channel_history(config=at(thread, name, namespace), channels=list(channels))))
        for thread, namespace, name in places(listed)
    ]
    in_turn = sorted(zip(listed, single, histories, strict=True), key=lambda one: one[0]["config"])
    assert [one[0] for one in in_turn] == [one[1] for one in in_turn]
    return in_turn


def places(listed):
    return [one["config"] for one in listed]


def rows(saver):
    return [tuple(one[0]["config"]) for one in everything(saver)]


# Real graphs


class State(TypedDict, total=False):
    messages: Annotated[list[Any], operator.add]
    notes: Annotated[list[str], operator.add]
    turn: int
    approved: bool


def agent(saver):
    """A loop with a subgraph, nodes sent in parallel and an interrupt."""
    child = StateGraph(State)
    child.add_node("look", lambda state: {"notes": [f"looked at {len(state['messages'])}"]})
    child.add_node("ask", lambda state: {"approved": interrupt({"turn": state["turn"]}) == "yes"})
    child.add_edge(START, "look").add_edge("look", "ask").add_edge("ask", END)

    def think(state):
        turn = state.get("turn", 0)
        return {"messages": [AIMessage(f"thought {turn}", id=uuid_of(turn))], "turn": turn + 1}

    graph = StateGraph(State)
    graph.add_node("think", think)
    graph.add_node("tool", lambda sent: {"notes": [f"tool {sent['number']}"]})
    graph.add_node("check", child.compile(checkpointer=True))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", lambda state: [Send("tool", {"number": n}) for n in range(3)], ["tool"])
    graph.add_edge("tool", "check")
    graph.add_conditional_edges("check", lambda state: "think" if state["turn"] < 3 else END)
    return graph.compile(checkpointer=saver)


def talk(graph, thread, durability="sync"):
    """A run with three interrupts, a fork in its middle, and one more run that stays interrupted."""
    config = {"configurable": {"thread_id": thread}}
    graph.invoke({"messages": [HumanMessage("go", id="h1")]}, config, durability=durability)
    for answer in ("yes", "no", "yes"):
        graph.invoke(Command(resume=answer), config, durability=durability)
    past = list(graph.get_state_history(config))
    forked = graph.update_state(past[len(past) // 2].config, {"notes": ["by hand"]}, as_node="tool")
    graph.invoke(None, forked, durability=durability)
    graph.invoke({"messages": [HumanMessage("again", id="h2")], "turn": 2}, config, durability=durability)
    return config


@pytest.mark.parametrize("durability", ["sync", "exit"])
def test_an_agents_threads_are_what_they_were(sqlite_saver, saver, old, durability):
    with sqlite_saver() as before:
        graph = agent(before)
        talk(graph, "one", durability)
        talk(graph, "two", durability)
        report = import_sqlite(old, saver)
        assert (report.added, report.refused) == (2, [])
        assert everything(saver) == everything(before)
        assert report.checkpoints == len(rows(before)) > 40 * (durability == "sync")
        assert report.writes == before.conn.execute("SELECT count(*) FROM writes").fetchone()[0]


def test_a_run_goes_on_where_it_waits(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        config = talk(agent(before), "one")
        import_sqlite(old, saver)
        ends = [repr(agent(one).invoke(Command(resume="yes"), config)["notes"]) for one in (before, saver)]
        assert ends[0] == ends[1]


@pytest.mark.parametrize("wide", [False, True], ids=["line", "wide"])
@pytest.mark.parametrize("frequency", [1, 3, 100])
def test_delta_channels_have_their_history(sqlite_saver, saver, old, frequency, wide):
    with sqlite_saver() as before:
        graph = delta_graphs.built(before, frequency, wide)
        delta_graphs.run(graph, {"configurable": {"thread_id": "t"}}, "sync")
        assert import_sqlite(old, saver).refused == []
        assert everything(saver, ["log", "rare"]) == everything(before, ["log", "rare"])


def test_a_list_that_grew_is_one_append_a_step(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        for number in range(30):
            said = [HumanMessage(f"message {n} " * 20, id=str(n)) for n in range(number + 1)]
            put(before, number, under=number - 1 if number else None, values={"messages": said})
    import_sqlite(old, saver)
    trace_id, _ = saver.place(at())
    ops = [event.event.op for event in saver.store.events(trace_id) if isinstance(event.event, es.StateDelta)]
    assert ops == ["put"] + ["append"] * 29
    assert saver.store.verify(trace_id).ok


# Values


@dataclass
class Mine:
    """A class of the application, which the import must not make."""

    text: str

    def __post_init__(self):
        assert not FORBIDDEN, "an object was made"


FORBIDDEN: list[bool] = []
VALUES = {
    "none": None, "true": True, "one": 1, "float": 1.0, "big": 2**63, "text": "é🙂", "bytes": b"\x00\x01", "empty": [],
    "list": [1, True, 1.0, None, b"x", "é", [1, [2]], {"a": 1}], "long": list(range(70_000)), "16": list(range(16)),
    "keys": {1: "one", False: "no", 2.5: "float", None: "none", "s": {3: [4]}}, "tuple": (1, (2, 3)), "set": {1},
    "when": datetime(2026, 1, 1, tzinfo=UTC), "day": date(2026, 1, 1), "uuid": uuid.UUID(int=7), "path": Path("a/b"),
    "message": HumanMessage("hi", id="h"), "send": Send("node", {"a": (1, 2)}), "deep": {"m": [AIMessage("x", id="i")]},
}  # fmt: skip


@pytest.mark.parametrize("channel", list(VALUES))
def test_every_kind_of_value_comes_over(sqlite_saver, saver, old, channel):
    value = VALUES[channel]
    with sqlite_saver() as before:
        put(before, 1, values={channel: value})
        write(before, 1, (channel, value), ("other", [value]))
        put(before, 2, under=1, values={channel: [value, value]})
        put(before, 3, under=2, values={channel: [value, value, value]})
        assert import_sqlite(old, saver).refused == []
        assert everything(saver) == everything(before)


def test_objects_of_unknown_classes_are_not_made(sqlite_saver, old, new):
    with sqlite_saver(JsonPlusSerializer(allowed_msgpack_modules=[Mine])) as before:
        put(before, 1, values={"one": Mine("a"), "many": [Mine("b"), Mine("c")]})
        write(before, 1, ("one", Mine("d")))
    FORBIDDEN.append(True)
    try:
        assert import_sqlite(old, new).added == 1
    finally:
        FORBIDDEN.clear()
    with EventStoreSaver(new, serde=JsonPlusSerializer(allowed_msgpack_modules=[Mine])) as saver:
        found = saver.get_tuple(at())
    assert found.checkpoint["channel_values"] == {"one": Mine("a"), "many": [Mine("b"), Mine("c")]}
    assert found.pending_writes == [("task", "one", Mine("d"))]


def test_a_value_that_changed_in_place_is_told_by_its_bytes(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        for number, said in enumerate(["a", "b"]):
            values = {"one": said, "many": [said, "x"]}
            put(before, number, under=number - 1 if number else None, values=values, versions={"one": 1, "many": 1})
        assert import_sqlite(old, saver).refused == []
        assert everything(saver) == everything(before)


def test_what_else_a_checkpoint_holds_is_kept(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        for number in range(3):
            checkpoint = {
                "v": 1, "id": uuid_of(number), "ts": "no time", "channel_values": {},
                "channel_versions": {"a": number, "b": "x"}, "versions_seen": {"__input__": {}, "n": {"a": 1}},
                "pending_sends": [Send("n", 1)], "current_tasks": {}, "nothing": None,
            }  # fmt: skip
            before.put(at("t", uuid_of(number - 1)), checkpoint, {}, {})
        assert import_sqlite(old, saver).refused == []
        assert everything(saver) == everything(before)
        assert saver.get_tuple(at()).checkpoint["pending_sends"] == [Send("n", 1)]


@pytest.mark.parametrize(
    "metadata", [{}, {"a": None, "b": [1, 1.0, True]}, {"n": float("inf")}, {"run_id": "r1", "thread_id": "kept"}]
)
def test_metadata_come_over_as_they_are(sqlite_saver, saver, old, metadata):
    with sqlite_saver() as before:
        put(before, 1, values={"a": 1})
        before.conn.execute("UPDATE checkpoints SET metadata = ?", (json.dumps(metadata).encode(),))
        before.conn.commit()
        assert import_sqlite(old, saver).refused == []
        assert repr(saver.get_tuple(at()).metadata) == repr(before.get_tuple(at()).metadata) == repr(metadata)


# Families of checkpoints


@pytest.mark.parametrize(
    "parents",
    [
        pytest.param({1: None, 2: 1, 3: 2, 4: 2, 5: 4, 6: 3, 7: 1}, id="branches"),
        pytest.param({1: 9, 2: 1}, id="the parent is gone"),
        pytest.param({2: None, 1: 2, 3: 1}, id="a parent with a greater id"),
        pytest.param({1: 3, 2: 1, 3: 2, 4: 3}, id="a circle"),
        pytest.param({1: 1, 2: 1}, id="its own parent"),
        pytest.param({1: None, 2: None, 3: 1, 4: 2}, id="two roots"),
    ],
)
def test_parents_are_who_they_were(sqlite_saver, saver, old, parents):
    with sqlite_saver() as before:
        for number, parent in parents.items():
            put(before, number, under=parent, values={"log": list(range(number)), "n": number})
            write(before, number, ("log", number))
        assert import_sqlite(old, saver).refused == []
        channels = [] if 1 in parents and parents[1] == 1 else ["log", "other"]
        assert everything(saver, channels) == everything(before, channels)


def test_namespaces_are_kept_apart(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        for namespace in ("", "child:1", "child:1|deep:2"):
            put(before, 1, namespace=namespace, values={"a": namespace})
            put(before, 2, under=1, namespace=namespace, values={"a": namespace * 2})
        import_sqlite(old, saver)
        assert everything(saver) == everything(before)


# Pending writes


def test_special_writes_and_their_places(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        put(before, 1, values={"a": 1})
        write(before, 1, ("a", 1), (ERROR, "boom"), ("b", None), task="t1", path="~2")
        write(before, 1, (INTERRUPT, ["i"]), task="t2", path="~1")
        write(before, 1, (RESUME, [1]), ("a", bytearray(b"x")), (SCHEDULED, None), ("c", b"y"), task="t3", path="~1")
        write(before, 1, ("a", [1]), ("a", [2]), task="t4")
        write(before, 1, (INTERRUPT, ["i"]), (INTERRUPT, ["j"]), ("a", 3), task="t5")
        import_sqlite(old, saver)
        assert everything(saver) == everything(before)
        for one in (before, saver):  # what comes again is known by its place
            write(one, 1, ("a", "late"), ("new", "late"), ("b", "late"), ("new", "late"), task="t1", path="~2")
            write(one, 1, ("a", "late"), ("x", "late"), task="t3", path="~1")
            write(one, 1, ("x", "late"), ("y", "late"), ("a", "late"), task="t5")
            write(one, 1, (INTERRUPT, ["later"]), task="t2", path="~1")
        assert everything(saver) == everything(before)


def test_writes_wait_for_a_checkpoint_that_has_not_come(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        put(before, 1, values={"a": 1})
        write(before, 2, ("a", "early"))
        write(before, 7, ("a", "alone"), thread="only writes")
        report = import_sqlite(old, saver)
        assert (report.added, report.checkpoints, report.writes) == (2, 1, 2)
        for one in (before, saver):
            put(one, 2, under=1, values={"a": 2})
            put(one, 7, values={"a": 2}, thread="only writes")
        assert everything(saver) == everything(before)
        assert saver.get_tuple(at("only writes")).pending_writes == [("task", "a", "alone")]


# The old file


def beside(old):
    files = Path(old).parent.glob(Path(old).name + "*")
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.mark.parametrize("stands", ["closed", "open", "killed", "killed, without its index", "no WAL"])
def test_the_old_file_and_what_lies_beside_it_stay_as_they_are(sqlite_saver, saver, old, stands, tmp_path):
    with sqlite_saver() as before:
        for number in range(3):
            put(before, number, under=number - 1 if number else None, values={"a": number})
        told = everything(before)
        if stands.startswith("killed"):
            copied = tmp_path / "copy"
            copied.mkdir()
            for name in beside(old):
                shutil.copy(tmp_path / name, copied)
            old = str(copied / Path(old).name)
            if "without" in stands:
                Path(old + "-shm").unlink()
        elif stands == "no WAL":
            before.conn.execute("PRAGMA journal_mode = DELETE")
        elif stands == "closed":
            before.conn.close()
        found = beside(old)
        assert (len(found) > 1) == (stands in ("open", "killed", "killed, without its index"))
        assert import_sqlite(old, saver).checkpoints == 3
        assert beside(old) == found
        assert everything(saver) == told


def test_it_may_be_in_use(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        put(before, 1, values={"a": 1})
        put(before, 2, under=1, values={"a": 2})

        def meanwhile(_):
            if len(rows(before)) == 2:
                put(before, 3, under=2, values={"a": 3})

        assert import_sqlite(old, saver, on_step=meanwhile).checkpoints == 2
        report = import_sqlite(old, saver)
        assert (report.added, report.completed, report.checkpoints) == (0, 1, 1)
        assert everything(saver) == everything(before)


def test_one_that_was_not_in_use_and_is_now_is_read_again(sqlite_saver, new, old):
    with sqlite_saver() as before:
        put(before, 1, values={"a": 1})

    def meanwhile(_):
        with sqlite_saver() as before:
            put(before, 2, under=1, values={"a": 2})

    with pytest.raises(StorageError, match="another program wrote to it while it was read"):
        import_sqlite(old, new, on_step=meanwhile)
    assert import_sqlite(old, new).refused == []


def test_writes_without_the_path_of_their_task(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        put(before, 1, values={"a": 1})
        write(before, 1, ("a", 1), ("b", 2), task="z")
        write(before, 1, ("a", 1), task="y")
        told = everything(before)
        before.conn.execute("ALTER TABLE writes DROP COLUMN task_path")
        before.conn.commit()
    assert import_sqlite(old, saver).refused == []
    assert everything(saver) == told


def test_json_of_old_releases(sqlite_saver, saver, old):
    checkpoint = {
        "v": 1, "id": uuid_of(1), "ts": "2024-07-01T00:00:00+00:00", "channel_versions": {"a": 1}, "versions_seen": {},
        "channel_values": {"n": 1.0, "a": [{
            "lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", "HumanMessage"],
            "kwargs": {"content": "hi", "type": "human", "id": "h"},
        }]},
    }  # fmt: skip
    with sqlite_saver() as before:
        put(before, 1, values={"a": 1})
        write(before, 1, ("a", 1))
        before.conn.execute("UPDATE checkpoints SET type = 'json', checkpoint = ?", (json.dumps(checkpoint).encode(),))
        before.conn.execute("UPDATE writes SET type = 'json', value = ?", (b'{"said": [1, 1.0]}',))
        before.conn.commit()
        assert import_sqlite(old, saver).refused == []
        assert everything(saver) == everything(before)
        assert saver.get_tuple(at()).checkpoint["channel_values"]["a"] == [HumanMessage("hi", id="h")]


@pytest.mark.parametrize(
    "sql, told",
    [
        ("CREATE TABLE users (name TEXT)", "it has no table checkpoints and writes"),
        (
            "CREATE TABLE checkpoints (thread_id, thread_ts, parent_ts, checkpoint); CREATE TABLE writes (thread_id)",
            "its table checkpoints lacks checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, metadata, as before",
        ),
        ("CREATE TABLE checkpoints (name)", "it has no table writes"),
    ],
)
def test_an_sqlite_file_of_others_is_refused(old, new, sql, told):
    with closing(sqlite3.connect(old)) as connection:
        connection.executescript(sql)
    with pytest.raises(NotCheckpoints, match=told):
        import_sqlite(old, new)


@pytest.mark.parametrize("content, told", [(b"", "an empty file"), (b"no database" * 99, "no SQLite file")])
def test_what_is_no_sqlite_file_is_refused(old, new, content, told):
    Path(old).write_bytes(content)
    with pytest.raises(NotCheckpoints, match=told):
        import_sqlite(old, new)


def test_a_damaged_file_is_told_of(sqlite_saver, old, new):
    with sqlite_saver() as before:
        for number in range(40):
            put(before, number, values={"a": "x" * 5000})
    raw = bytearray(Path(old).read_bytes())
    raw[4096:] = b"\x55" * (len(raw) - 4096)
    Path(old).write_bytes(raw)
    with pytest.raises(EventStoreError, match="it cannot be read"):
        import_sqlite(old, new)


# What is not brought over


@pytest.mark.parametrize(
    "sql, told",
    [
        ("SET type = 'pickle'", "NotImplementedError: Unknown serialization type: pickle"),
        ("SET checkpoint = x'93'", "it is no object of msgpack"),
        ("SET checkpoint = x'80'", "it has no channel_values, channel_versions, id, ts, v, versions_seen"),
        ("SET checkpoint = NULL", "it is no object of msgpack"),
        ("SET metadata = '[]'", "its metadata are no object"),
        ("SET metadata = '{'", "JSONDecodeError"),
        ("SET checkpoint = (SELECT checkpoint FROM checkpoints WHERE thread_id = 'good')", "it says that it is '0"),
    ],
)
def test_a_thread_with_a_checkpoint_that_is_none_is_refused_alone(sqlite_saver, saver, old, sql, told):
    with sqlite_saver() as before:
        put(before, 1, thread="bad", values={"a": 1})
        put(before, 2, under=1, thread="bad", values={"a": 2})
        put(before, 5, thread="good", values={"a": 1})
        before.conn.execute(f"UPDATE checkpoints {sql} WHERE checkpoint_id = ?", (uuid_of(2),))
        before.conn.commit()
    seen = []
    report = import_sqlite(old, saver, on_thread=seen.append)
    assert [(thread.thread_id, thread.outcome) for thread in seen] == [("bad", "refused"), ("good", "added")]
    assert told in report.refused[0].why and uuid_of(2) in report.refused[0].why
    assert rows(saver) == [("good", "", uuid_of(5))]
    assert (report.added, report.checkpoints) == (1, 1)


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda put: put.checkpoint["channel_values"].pop("b"), "channel 'b'"),
        (lambda put: put.checkpoint["channel_values"]["log"].pop(), "channel 'log'"),
        (lambda put: put.checkpoint["channel_versions"].update(b="other"), "channel_versions"),
        (lambda put: put.checkpoint["versions_seen"].update(n={"b": 1}), "versions_seen"),
        (lambda put: put.checkpoint.update(ts="later"), "ts"),
        (lambda put: put.metadata.update(step=True), "metadata"),
        (lambda put: setattr(put, "parent", None), "parent"),
    ],
)
def test_what_came_out_different_is_told_of_and_not_kept(sqlite_saver, saver, old, monkeypatch, change, told):
    with sqlite_saver() as before:
        for number in range(3):
            put(before, number, under=number - 1 if number else None, values={"log": [0] * number, "b": number})
    right = Lines.put

    def wrong(self, serde, key, put):
        if put.checkpoint["id"] == uuid_of(1):
            put.checkpoint["channel_values"]["log"] = list(put.checkpoint["channel_values"]["log"])
            change(put)
        right(self, serde, key, put)

    monkeypatch.setattr(Lines, "put", wrong)
    (refused,) = import_sqlite(old, saver).refused
    assert refused.why == f"checkpoint {uuid_of(1)}: {told}: what the store has differs from the file"
    assert rows(saver) == []
    monkeypatch.undo()
    assert import_sqlite(old, saver).added == 1


def test_another_thread_of_that_name_stays_as_it_is(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        put(before, 1, values={"a": 1})
        put(before, 2, under=1, values={"a": 2})
    put(saver, 9, values={"a": "ours"})
    told = everything(saver)
    (refused,) = import_sqlite(old, saver).refused
    assert refused.why == f"the store has a thread of that name already, with checkpoint {uuid_of(9)}"
    assert everything(saver) == told


def test_one_that_differs_in_a_value_stays_as_it_is(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        put(before, 1, values={"a": 1})
    put(saver, 1, values={"a": True})
    told = everything(saver)
    (refused,) = import_sqlite(old, saver).refused
    assert "channel 'a': what the store has differs from the file" in refused.why
    assert everything(saver) == told


def test_what_was_pruned_in_the_store_is_not_brought_again(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        for number in range(4):
            put(before, number, under=number - 1 if number else None, values={"a": number})
    import_sqlite(old, saver)
    saver.prune(["t"])
    (refused,) = import_sqlite(old, saver).refused
    assert refused.why == f"the store has a thread of that name already, without checkpoint {uuid_of(2)}"
    assert [name for _, _, name in rows(saver)] == [uuid_of(3)]


def test_what_a_delta_channel_needs_of_pruned_ones_stays_unlisted(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        delta_graphs.line(before, 5, stored=[1])
    import_sqlite(old, saver)
    saver.prune(["t"])
    told = everything(saver, ["a"])
    (refused,) = import_sqlite(old, saver).refused
    assert "the store has" in refused.why
    assert everything(saver, ["a"]) == told


# Again, and after a break


def two_threads(before):
    for thread in ("one", "two"):
        for number, parent in {0: None, 1: 0, 2: 1, 3: 1, 4: 2}.items():
            put(before, number, under=parent, thread=thread, values={"log": list(range(number)), "n": number})
            write(before, number, ("log", number), thread=thread)
            write(before, number, ("n", number), thread=thread, task="other")


def test_importing_again_adds_nothing(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        two_threads(before)
    import_sqlite(old, saver)
    told, traces = everything(saver), saver.store.traces()
    report = import_sqlite(old, saver)
    assert (report.added, report.completed, report.present, report.checkpoints, report.writes) == (0, 0, 2, 0, 0)
    assert (everything(saver), saver.store.traces()) == (told, traces)


@pytest.mark.parametrize("cut", range(1, 16))
def test_one_that_was_cut_short_goes_on(sqlite_saver, saver, old, cut):
    def stop(_, left=[cut]):  # noqa: B006
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with sqlite_saver() as before:
        two_threads(before)
        with pytest.raises(KeyboardInterrupt):
            import_sqlite(old, saver, on_step=stop)
        report = import_sqlite(old, saver)
        assert (report.added + report.completed + report.present, report.refused) == (2, [])
        assert everything(saver) == everything(before)
    assert all(saver.store.verify(info.trace_id).ok for info in saver.store.traces())


def test_what_came_before_stays_when_the_rest_is_refused(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        two_threads(before)
        import_sqlite(old, saver)
        told = everything(saver)
        put(before, 8, under=4, thread="one", values={"log": [1, 2, 3, 4, 5]})
        write(before, 8, ("log", 6), thread="one")
        write(before, 9, ("log", 6), thread="one")
        put(before, 9, under=8, thread="one", values={"log": []})
        before.conn.execute("UPDATE checkpoints SET checkpoint = x'00' WHERE checkpoint_id = ?", (uuid_of(9),))
        before.conn.commit()
        (refused,) = import_sqlite(old, saver).refused
        assert refused.why.startswith(f"checkpoint {uuid_of(9)}: it is no object of msgpack")
        assert everything(saver) == told
        put(before, 9, under=8, thread="one", values={"log": []})
        assert import_sqlite(old, saver).completed == 1
        assert everything(saver) == everything(before)


@pytest.mark.parametrize("writes_first", [False, True])
def test_one_that_was_cut_between_a_checkpoint_and_its_writes(sqlite_saver, saver, old, writes_first):
    with sqlite_saver() as before:
        two_threads(before)
        if writes_first:
            write(saver, 0, ("log", 0), thread="one")
            write(saver, 0, ("n", 0), thread="one", task="other")
        else:
            put(saver, 0, thread="one", values={"log": [], "n": 0})
        report = import_sqlite(old, saver)
        assert (report.added, report.completed, report.refused) == (1, 1, [])
        assert everything(saver) == everything(before)


def test_a_process_that_is_killed_leaves_what_the_next_goes_on_with(sqlite_saver, path, old):
    script = """
import os, sys, eventstore
from eventstore.integrations.langgraph import import_sqlite
steps = []
def kill(_):
    steps.append(1)
    if len(steps) == 7:
        os.kill(os.getpid(), 9)
import_sqlite(sys.argv[1], eventstore.open(sys.argv[2], durability="normal"), on_step=kill)
"""
    with sqlite_saver() as before:
        two_threads(before)
        assert subprocess.run([sys.executable, "-c", script, old, path], check=False).returncode == -9
        with EventStoreSaver(path) as saver:
            report = import_sqlite(old, saver)
            assert report.refused == [] and report.checkpoints < 10
            assert everything(saver) == everything(before)


def test_only_some_threads(sqlite_saver, saver, old):
    with sqlite_saver() as before:
        two_threads(before)
    assert import_sqlite(old, saver, thread_ids=["two"]).added == 1
    assert {thread for thread, _, _ in rows(saver)} == {"two"}
    with pytest.raises(ImportRefused, match=r"has no thread 'three', 'four'"):
        import_sqlite(old, saver, thread_ids=["one", "three", "four"])
    assert {thread for thread, _, _ in rows(saver)} == {"two"}


def test_all_of_it_is_on_the_disk_in_the_end(sqlite_saver, old, new, monkeypatch):
    with sqlite_saver() as before:
        two_threads(before)
    synced = []
    right = ThreadImport.sync
    monkeypatch.setattr(ThreadImport, "sync", lambda self, thread: synced.append(thread) or right(self, thread))
    report = import_sqlite(old, new)
    assert synced == ["two"]
    assert report.store_bytes > 0 and report.source_bytes == os.stat(old).st_size  # noqa: PTH116


# Encryption


class Toy:
    """A cipher for tests: no two ciphertexts are alike."""

    def __init__(self, key=b"k"):
        self.key, self.count = key, 0

    def encrypt(self, plaintext):
        self.count += 1
        return "toy", self.count.to_bytes(4, "big") + self.key + bytes(byte ^ 0xAA for byte in plaintext)

    def decrypt(self, ciphername, ciphertext):
        assert (ciphername, ciphertext[4:5]) == ("toy", self.key)
        return bytes(byte ^ 0xAA for byte in ciphertext[5:])


def secrets(before):
    for number in range(12):
        said = [HumanMessage(f"secret {n} " * 9, id=str(n)) for n in range(number + 1)]
        values, versions = {"messages": said, "doc": "secret", "none": None}, {"messages": number, "doc": 1, "none": 1}
        put(before, number, under=number - 1 if number else None, values=values, versions=versions)
        write(before, number, ("messages", said[-1:]), (INTERRUPT, "secret"))


@pytest.mark.parametrize("is_encrypted", [True, False], ids=["encrypted", "plain"])
def test_a_saver_that_encrypts_encrypts_what_comes(sqlite_saver, old, path, is_encrypted):
    serde = EncryptedSerializer(Toy(), STRICT)
    with sqlite_saver(serde if is_encrypted else STRICT) as before, EventStoreSaver(path, serde=serde) as saver:
        secrets(before)
        assert import_sqlite(old, saver).refused == []
        assert everything(saver) == everything(before)
        assert import_sqlite(old, saver).present == 1
        trace_id, _ = saver.place(at())
        deltas = [one.event for one in saver.store.events(trace_id) if isinstance(one.event, es.StateDelta)]
        ops = [(delta.key, str(delta.op)) for delta in deltas]
        assert ops[:3] == [("messages", "put"), ("doc", "put"), ("none", "put")]
        assert ops[3:] == [("messages", "append")] * 11
    assert b"secret" not in Path(path).read_bytes()


def test_without_a_key_it_is_refused(sqlite_saver, old, new, monkeypatch):
    monkeypatch.delenv("LANGGRAPH_AES_KEY", raising=False)
    with sqlite_saver(EncryptedSerializer(Toy(), STRICT)) as before:
        secrets(before)
    with pytest.raises(ImportRefused, match=r"is encrypted \(msgpack\+toy\); its key is read from LANGGRAPH_AES_KEY"):
        import_sqlite(old, new)
    with EventStoreSaver(new) as saver, pytest.raises(ImportRefused, match="serde is no EncryptedSerializer"):
        import_sqlite(old, saver)
    assert new.traces() == []


def test_with_another_key_it_is_refused(sqlite_saver, old, path):
    with sqlite_saver(EncryptedSerializer(Toy(), STRICT)) as before:
        secrets(before)
    with EventStoreSaver(path, serde=EncryptedSerializer(Toy(b"x"), STRICT)) as saver:
        (refused,) = import_sqlite(old, saver).refused
        assert refused.why.startswith(f"checkpoint {uuid_of(0)}: AssertionError")
        assert rows(saver) == []


@pytest.mark.parametrize("table", ["checkpoints", "writes"])
def test_plaintext_in_an_encrypted_file_is_refused_and_not_made_ciphertext(sqlite_saver, old, path, table):
    serde = EncryptedSerializer(Toy(), STRICT)
    with sqlite_saver(serde) as before:
        secrets(before)
        write(before, 0, ("a", ["mine"]), task="mine")
        plain = STRICT.dumps_typed(next(before.list(None)).checkpoint if table == "checkpoints" else ["smuggled"])
        column = "checkpoint" if table == "checkpoints" else "value"
        before.conn.execute(
            f"UPDATE {table} SET type = ?, {column} = ? WHERE rowid = (SELECT min(rowid) FROM {table})", plain
        )
        before.conn.commit()
    with EventStoreSaver(path, serde=serde) as saver:
        (refused,) = import_sqlite(old, saver).refused
        assert "not encrypted" in refused.why
        assert rows(saver) == []


def test_aes_by_its_key(sqlite_saver, old, new, path, monkeypatch):
    pytest.importorskip("Crypto")
    monkeypatch.setenv("LANGGRAPH_AES_KEY", "0123456789abcdef")
    serde = EncryptedSerializer.from_pycryptodome_aes(STRICT)
    with sqlite_saver(serde) as before:
        secrets(before)
        assert import_sqlite(old, new).added == 1
        with EventStoreSaver(new, serde=serde) as saver:
            assert everything(saver) == everything(before)


# Anything

LEAF = st.sampled_from([None, True, 1, 1.0, 0, "", "é", b"x", 2**40, {"a": 1}, {1: [2]}, (1,), [], [[]]])
VALUE = st.one_of(LEAF, st.lists(LEAF, max_size=6))
WRITE = st.tuples(st.sampled_from(["a", "b", ERROR, INTERRUPT, RESUME]), VALUE)
CHECKPOINT = st.tuples(
    st.integers(1, 6),  # how far back its parent is
    st.dictionaries(st.sampled_from("abc"), VALUE),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([1, 2, "x"])),
    st.lists(st.tuples(st.sampled_from(["t1", "t2"]), st.lists(WRITE, min_size=1, max_size=4)), max_size=3),
    st.sampled_from(["", "", "child:1"]),
)


@given(st.lists(CHECKPOINT, min_size=1, max_size=8), st.booleans())
def test_any_thread_comes_over(tmp_path_factory, checkpoints, is_encrypted):
    folder = tmp_path_factory.mktemp("any")
    serde = EncryptedSerializer(Toy(), STRICT) if is_encrypted else STRICT
    with closing_saver(SqliteSaver(sqlite3.connect(folder / "old.sqlite"), serde=serde)) as before:
        for number, (back, values, versions, tasks, namespace) in enumerate(checkpoints):
            put(before, number, under=number - back or None, values=values, versions=versions, namespace=namespace)
            for task, writes in tasks:
                write(before, number, *writes, task=task, namespace=namespace)
        with EventStoreSaver(folder / "new.db", serde=serde, durability="normal") as saver:
            assert import_sqlite(folder / "old.sqlite", saver).refused == []
            assert everything(saver, ["a", "b", "d"]) == everything(before, ["a", "b", "d"])
            assert all(saver.store.verify(info.trace_id).ok for info in saver.store.traces())
    shutil.rmtree(folder)
