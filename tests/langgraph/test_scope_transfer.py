"""Threads in a dump: a loaded store's saver gives what the original's gave, and can go on; nothing else gets in."""

from __future__ import annotations

import base64
import io
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import precondition, rule
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from savers import at, put, uuid_of, write
from test_scopes import Threads, open_saver, snapshot, told

import eventstore as es
from eventstore.chain import Chain, genesis
from eventstore.codec import Envelope, encode_body, envelope
from eventstore.errors import MalformedDump, TraceDiffers
from eventstore.transfer.lines import line_sum

pytestmark = pytest.mark.usefixtures("ours")

TABLES = (
    "SELECT s.adapter, s.thread_id, s.namespace, t.trace_id FROM scope s LEFT JOIN trace t ON t.id = s.journal"
    " ORDER BY 2, 3",
    "SELECT s.thread_id, s.namespace, t.trace_id FROM scope_trace r JOIN scope s ON s.id = r.scope"
    " JOIN trace t ON t.id = r.trace ORDER BY 1, 2, 3",
    "SELECT s.thread_id, s.namespace, c.name, c.parent, t.trace_id, c.seq, c.status, c.run_id, c.metadata, (SELECT"
    " json_group_array(json_array(w.trace_id, j.value ->> 1)) FROM json_each(c.writes) j JOIN trace w"
    " ON w.id = j.value ->> 0) FROM scope_checkpoint c JOIN scope s ON s.id = c.scope"
    " LEFT JOIN trace t ON t.id = c.trace ORDER BY 1, 2, 3",
)


def rows(store):
    """All that the tables of threads hold, with trace ids in the place of row ids."""
    with store._database.reader() as connection:
        return [connection.execute(sql).fetchall() for sql in TABLES]


def dumped(store, **choice):
    out = io.BytesIO()
    es.dump(store, out, **choice)
    return out.getvalue()


def load(store, data):
    """The counts, and the problems as text."""
    problems = []
    counts = es.load(store, io.BytesIO(data), on_bad=problems.append)
    return counts, list(map(str, problems))


def same(saver, path):
    """A saver on that file gives what the saver gives, and holds together."""
    with open_saver(path) as other:
        assert rows(other.store) == rows(saver.store)
        assert snapshot(other) == snapshot(saver)
        assert told(other.store.verify()) == []
        assert other.store.verify().heads == saver.store.verify().heads


@pytest.fixture
def saver(path):
    with open_saver(path) as saver:
        yield saver


@pytest.fixture
def other(tmp_path):
    """Where another store is, or can be made."""
    (tmp_path / "other").mkdir()
    return str(tmp_path / "other" / "runs.db")


@pytest.fixture
def thread(saver):
    """Branches, writes pending and announced, runs, a ghost, a child namespace, a copy that goes on, odd metadata."""
    put(saver, 1, values={"messages": ["m1"], "log": ["l0"]}, run_id="r1")
    write(saver, 1, ("log", "l1"), ("messages", "m2"), path="a")
    put(saver, 2, under=1, values={"messages": ["m1", "m2"]}, versions={"messages": 3, "log": 3}, run_id="r2")
    write(saver, 2, ("log", "l2"))
    versions = {"messages": 4, "log": 4, "blob": 4}
    put(saver, 3, under=2, values={"messages": ["m1", "m3"], "blob": b"b"}, versions=versions)
    put(saver, 4, under=2, values={"messages": []}, odd={1: 2}, run_id="r4")
    write(saver, 9, ("messages", "ahead"))
    put(saver, 5, namespace="child:1", values={"n": 1})
    saver.delete_for_runs(["r2"])
    saver.copy_thread("t", "u")
    put(saver, 6, under=3, thread="u", values={"messages": ["m1", "m3", "m4"]})
    write(saver, 3, ("messages", "m5"), thread="u")
    return saver


def test_what_is_loaded_is_what_was_dumped(thread, other):
    assert any(status == "ghost" for *_, status, _, _, _ in rows(thread.store)[2])
    data = dumped(thread.store)
    with es.open(other) as store:
        counts, problems = load(store, data)
        assert problems == [] and counts.refused == 0
        assert [line.split(b'"')[1] for line in dumped(store).splitlines()] == [
            line.split(b'"')[1] for line in data.splitlines()
        ]
    same(thread, other)


def test_what_is_loaded_goes_on_where_it_was(thread, other):
    with es.open(other) as store:
        load(store, dumped(thread.store))
    with open_saver(other) as loaded:
        before = len(loaded.store.traces())
        found = loaded.get_tuple(at("t"))
        put(loaded, 7, under=4, values={"messages": ["on"]})
        write(loaded, 7, ("messages", "and on"))
        assert found.config["configurable"]["checkpoint_id"] == uuid_of(4)
        assert loaded.get_tuple(at("t")).checkpoint["channel_values"] == {"messages": ["on"]}
        assert len(loaded.store.traces()) == before, "it goes on in its line and in its journal"
        loaded.delete_thread("u")
        loaded.prune(["t"])
        loaded.delete_thread("t")
        assert loaded.store.traces() == [] and told(loaded.store.verify()) == []


def test_loading_again_adds_nothing_and_what_was_deleted_here_stays_deleted(thread, other):
    data = dumped(thread.store)
    with es.open(other) as store:
        load(store, data)
        before = rows(store)
        counts, problems = load(store, data)
        assert problems == [] and counts.commits == 0 and counts.present == counts.added + counts.present
        assert rows(store) == before
    with open_saver(other) as loaded:
        loaded.delete_for_runs(["r1"])
        loaded.delete_thread("u")
        before = rows(loaded.store)
        load(loaded.store, data)
        assert rows(loaded.store) == before and told(loaded.store.verify()) == []


def test_a_thread_that_went_on_is_loaded_from_where_it_was_and_a_new_copy_whole(thread, other):
    with es.open(other) as store:
        load(store, dumped(thread.store))
        put(thread, 7, under=4, values={"messages": ["on"]}, run_id="r7")
        put(thread, 8, under=1, values={"messages": ["a branch"]})
        write(thread, 7, ("messages", "m8"))
        write(thread, 4, ("messages", "m9"))
        thread.copy_thread("u", "v")
        put(thread, 10, under=6, thread="v", values={"n": 1})
        counts, problems = load(store, dumped(thread.store))
        assert problems == [] and counts.continued == 2
    same(thread, other)


def test_a_new_copy_of_what_is_here_comes_when_it_goes_on(thread, other):
    with es.open(other) as store:
        load(store, dumped(thread.store))
        thread.copy_thread("t", "v")
        load(store, dumped(thread.store))
        assert "v" not in {row[1] for row in rows(store)[0]}, "it cannot be told from one that was deleted here"
        for namespace in ("", "child:1"):
            put(thread, 7, thread="v", namespace=namespace, under=4 if namespace == "" else 5, values={"n": 1})
        load(store, dumped(thread.store))
    same(thread, other)


def test_a_thread_deleted_here_stays_so_though_a_copy_holds_all_of_it(thread, other):
    data = dumped(thread.store)
    with open_saver(other) as loaded:
        load(loaded.store, data)
        loaded.delete_thread("t")
        assert load(loaded.store, data)[1] == []
        assert {place[0] for place in snapshot(loaded)} == {"u"} and told(loaded.store.verify()) == []


def test_a_load_that_was_cut_short_goes_on(thread, other):
    data = dumped(thread.store)
    lines = data.splitlines(keepends=True)
    for count in range(2, len(lines)):
        path = f"{other}.{count}"
        with es.open(path) as store:
            load(store, b"".join(lines[:count]))
            assert told(store.verify()) == [], lines[count - 1][:60]
            assert load(store, data)[1] == []
        same(thread, path)
        Path(path).unlink()


def test_traces_by_id_bring_their_thread_when_all_of_it_is_there(thread, other):
    line = thread.place(at("t", uuid_of(3)))[0]
    with es.open(other) as store:
        assert load(store, dumped(thread.store, trace_ids=[line]))[1] == []
        assert rows(store) == [[], [], []] and len(store.traces()) == 2 - (line == thread.place(at("t", uuid_of(1)))[0])
        assert told(store.verify()) == []
        with pytest.raises(es.RetentionBlocked):
            thread.store.erase(line)
        store.erase(line)
    of_child = [info.trace_id for info in thread.store.traces() if info.name == "t:child:1"]
    with es.open(other + ".2") as store:
        assert load(store, dumped(thread.store, trace_ids=of_child))[1] == []
        kept = [row[:2] for row in rows(store)[2]]
        assert kept == [("t", "child:1"), ("u", "child:1")], "both threads read that one trace alone"


def test_another_thread_of_that_name_is_left_alone(thread, other):
    with open_saver(other) as here:
        put(here, 1, thread="u", values={"messages": ["of another u"]})
        before = rows(here.store)[2]
        own = [row[:1] for row in rows(thread.store)[1] if row[0] == "u"]
        counts, problems = load(here.store, dumped(thread.store))
        assert own and problems
        assert all("thread 'u' of langgraph, which reads it, is another one" in told for told in problems)
        assert [row for row in rows(here.store)[2] if row[:2] == ("u", "")] == before
        assert [row for row in rows(here.store)[2] if row[0] == "t"] == [
            row for row in rows(thread.store)[2] if row[0] == "t"
        ]
        assert counts.refused == len(problems) == 2, "the line and the journal that u alone reads"
        assert told(here.store.verify()) == []
    with es.open(other + ".2") as store, open_saver(other) as here:
        load(store, dumped(here.store))
        with pytest.raises(TraceDiffers, match="another one here, of the same name"):
            es.load(store, io.BytesIO(dumped(thread.store)))


def changed(data, kind, change, which=0):
    """A dump in which the nth line of a kind is another one, with a checksum of its own."""
    lines, trace_id, seen = data.splitlines(), "", 0
    for index, line in enumerate(lines):
        held = json.loads(line)
        if "trace" in held:
            trace_id = held["trace"]["trace_id"]
        if kind in held:
            if seen == which:
                found = change(held[kind])
                payload = json.dumps(found).encode()
                bound = trace_id if kind in ("stands", "writes") else ""
                added = b'{"%b":%b,"sum":"%b"}' % (kind.encode(), payload, line_sum(kind, payload, bound).encode())
                lines[index] = added
                break
            seen += 1
    else:
        raise AssertionError(kind)
    return b"\n".join(lines) + b"\n"


@pytest.mark.parametrize(
    "kind, change, reason",
    [
        ("stands", lambda line: line | {"name": "x"},
         f"checkpoint x of thread 't' of langgraph: the commit holds checkpoint {uuid_of(1)}"),
        ("stands", lambda line: line | {"status": "announced"}, "no checkpoint that stands anywhere is 'announced'"),
        ("stands", lambda line: line | {"run_id": "r9"}, "it is of run r9, and the commit says r1"),
        ("stands", lambda line: line | {"status": "ghost"}, "it is of run r1, and the commit says None"),
        ("stands", lambda line: line | {"seq": line["seq"] - 1}, "it tells of seq"),
        ("stands", lambda line: line | {"thread": 99}, "no line tells of thread 99"),
        ("stands", lambda line: line | {"parent": "x"}, "not a stands line"),
        ("writes", lambda line: line | {"seq": line["seq"] - 1}, "no writes stand there"),
        ("writes", lambda line: line | {"seq": line["seq"] + 1}, "it tells of seq"),
        ("writes", lambda line: line | {"thread": 99}, "no line tells of thread 99"),
        ("thread", lambda line: line | {"adapter": ""}, "a thread is of some adapter"),
        ("thread", lambda line: line | {"number": "1"}, "not a thread line"),
    ],
)  # fmt: skip
def test_a_line_that_says_what_the_log_does_not_say_is_refused(saver, other, kind, change, reason):
    put(saver, 1, values={"n": 1}, run_id="r1")
    write(saver, 1, ("n", 2))
    data = dumped(saver.store)
    with es.open(other) as store:
        _, problems = load(store, changed(data, kind, change))
        assert any(reason in told for told in problems), problems
        assert told(store.verify()) == []
        load(store, data)
        if kind != "thread":
            assert len(rows(store)[2]) == 1
    same(saver, other)


def test_lines_of_threads_are_not_missed_and_not_moved(saver, other):
    put(saver, 1, values={"n": 1})
    put(saver, 2, under=1, values={"n": 1})
    lines = dumped(saver.store).splitlines(keepends=True)
    stands = [line for line in lines if line.startswith(b'{"stands"')]
    assert len(stands) == 2
    for broken in (
        [line for line in lines if line != stands[1]],
        [line for line in lines if not line.startswith(b'{"thread"')],
        [stands[0] if line == stands[1] else line for line in lines],
        [stands[0], *lines],
    ):
        with es.open(":memory:") as store:
            assert load(store, b"".join(broken))[1] != [] if broken[0] != stands[0] else True
            assert told(store.verify()) == []


# What no append could write


def forged(*events, first=None):
    """A dump of one trace with these events in its second commit, or in its first after its beginning."""
    commits, seq, digest = [], 0, genesis("t1")
    entered = Envelope("scope_entered", ["langgraph", "t", ""])
    begin = [envelope(es.TraceStarted("t", {})), *([entered] if first is None else first)]
    for wire in (begin, list(events)):
        if not wire:
            continue
        body = encode_body(wire, True)
        digest = Chain().extend(digest, seq + 1, len(wire), 0, seq, body)
        commits.append((seq + 1, len(wire), seq, digest, body))
        seq += len(wire)
    out = [_line("eventstore", {"format": 1, "file_format": 6, "version": "0", "dumped_at": "", "whole": True})]
    out.append(_line("trace", {"trace_id": "t1", "name": "t", "created_us": 0}))
    for first_seq, n, own, chained, body in commits:
        held = {"first_seq": first_seq, "n": n, "append_id": own, "at_us": 0, "digest": chained.hex()}
        held["body64"] = base64.b64encode(body).decode()
        out.append(json.dumps({"commit": held}, separators=(",", ":")).encode() + b"\n")
    closed = {"trace_id": "t1", "version": seq, "digest": digest.hex(), "commits": len(commits), "checkpoints": 0}
    out.append(_line("closed", closed, "t1"))
    out.append(_line("end", {"traces": 1, "commits": len(commits), "events": seq, "tombstones": 0}))
    return b"".join(out)


def _line(kind, held, trace_id=""):
    payload = json.dumps(held, separators=(",", ":")).encode()
    return b'{"%b":%b,"sum":"%b"}\n' % (kind.encode(), payload, line_sum(kind, payload, trace_id).encode())


def checkpoint(*data):
    return Envelope("checkpoint_put", list(data))


def opaque(value, count=None):
    return es.Opaque("msgpack", JsonPlusSerializer().dumps_typed(value)[1], count)


ITEM = opaque("w", 1)
FINE = [
    checkpoint("1f", 0),
    checkpoint(
        "1f", "then", [["1", ["n"]]], {"node": {"n": "1"}}, {"step": 1}, False, ["n"], 4, "1e", True, opaque({})
    ),
    checkpoint(b"0123456789abcdef", 0, [], {}, opaque({1: 2})),
    Envelope("writes_put", ["1f", "task", ["n"], ITEM]),
    Envelope("writes_put", [b"0123456789abcdef", b"0123456789abcdef", ["n"], ITEM, "path"]),
]


@pytest.mark.parametrize("event", FINE, ids=str)
def test_what_an_adapter_writes_is_taken(event):
    with es.open(":memory:") as store:
        counts, problems = load(store, forged(event))
        assert problems == [] and counts.added == 1 and told(store.verify()) == []


@pytest.mark.parametrize(
    "events, reason",
    [
        ([Envelope("scope_entered", ["langgraph", "t", ""])], "enters a thread with its first commit"),
        ([checkpoint("1f", 0), es.StateDelta.put("n", 1)], "by the last event of its commit"),
        ([checkpoint("1f", 0, [], {}, {}, True)], "a checkpoint follows none"),
        ([checkpoint("1f", 0, [], {}, {}, True, None, 4, "1e")], "follows none, or names its parent as well"),
        ([checkpoint(1, 0)], "no append could write this"),
        ([checkpoint(1.5, 0)], "no append could write this"),
        ([checkpoint(b"short", 0)], "no append could write this"),
        ([checkpoint("1f", 2**62)], "its time is out of range"),
        ([checkpoint("1f", 0.5)], "no append could write this"),
        ([checkpoint("1f", 0, [], {}, [])], "no append could write this"),
        ([checkpoint("1f", 0, [], {}, {"x": ITEM})], "no append could write this"),
        ([checkpoint("1f", 0, [], {}, {"x": b"0123456789abcdef"})], "no append could write this"),
        ([checkpoint("1f", 0, [], {}, {}, False, None, 4, None, False, {"x": 1})], "the rest of it is not opaque"),
        ([checkpoint("1f", 0, [], {}, {}, False, None, 4, None, False, None, 1)], "a list of at most"),
        ([checkpoint("1f", 0, [["1", [7]]])], "no append could write this"),
        ([checkpoint("1f", 0, [[None, ["n"]]])], "no append could write this"),
        ([checkpoint("1f")], "no append could write this"),
        ([Envelope("checkpoint_put", {"name": "1f", "at": 0})], "no append could write this"),
        ([es.StateDelta.put("n", 1), checkpoint("1f", 0)], "a channel of a checkpoint is not opaque"),
        ([es.TraceEnded("completed"), checkpoint("1f", 0)], "after the trace completed"),
        ([Envelope("writes_put", ["1f", "task", ["n"]])], "its values are no opaque list"),
        ([Envelope("writes_put", ["1f", "task", ["n"], ["w"]])], "its values are no opaque list"),
        ([Envelope("writes_put", ["1f", "task", ["n"], opaque("w")])], "its values are no opaque list"),
        ([Envelope("writes_put", ["1f", "task", ["n"], es.Opaque("msgpack", b"\x01\x02", 1)])],
         "opaque list does not hold 1 items"),
        ([Envelope("writes_put", ["1f", 7, ["n"], ITEM])], "no append could write this"),
        ([Envelope("writes_put", [1.5, "task", ["n"], ITEM])], "an id, not 1.5"),
        ([Envelope("writes_put", ["1f", "task", "n", ITEM])], "no append could write this"),
    ],
    ids=str,
)  # fmt: skip
def test_what_no_adapter_writes_is_refused(events, reason):
    wire = [envelope(event) if isinstance(event, es.TraceEnded) else event for event in events]
    wire = [{"key": event.key, "value": event.value} if isinstance(event, es.StateDelta) else event for event in wire]
    with es.open(":memory:") as store:
        _, problems = load(store, forged(*wire))
        assert any(reason in told for told in problems), problems
        assert told(store.verify()) == []
        with pytest.raises(MalformedDump):
            es.load(store, io.BytesIO(forged(*wire)))


def test_an_event_of_a_thread_in_a_trace_of_none_is_refused():
    with es.open(":memory:") as store:
        for event in (checkpoint("1f", 0), Envelope("writes_put", ["1f", "task", ["n"], ITEM])):
            assert "in a trace of no thread" in load(store, forged(event, first=[]))[1][0]


def test_the_root_of_a_line_that_was_trimmed_is_taken(thread, other):
    """After its thread was deleted: a fork by hand keeps it, and what is behind it may go."""
    line, seq = thread.place(at("t", uuid_of(4)))
    fork = thread.store.open_trace(line).fork(seq, name="by hand")
    thread.delete_thread("u")
    thread.delete_thread("t")
    thread.store.trim(line, seq, retry_window_s=0)
    with es.open(other) as store:
        assert load(store, dumped(thread.store))[1] == []
        assert store.state_at(fork.id) == thread.store.state_at(fork.id)
        assert store.verify().heads == thread.store.verify().heads and told(store.verify()) == []


def test_journals_of_a_load_get_no_bases(saver, other):
    for number in range(60):
        put(saver, number, under=number - 1 if number else None, values={"n": number})
        write(saver, number, ("n", "x" * 300))
    with es.open(other) as store:
        load(store, dumped(saver.store))
        (journal,) = [info for info in store.traces() if info.name == "t (writes)"]
        assert store.bases(journal.trace_id) == []
    same(saver, other)


class Moved(Threads):
    """Whatever became of the threads, a load gives them back."""

    moved: object = None

    @precondition(lambda self: self.known is not self.moved)
    @rule()
    def dump_and_load(self):
        self.moved = self.known
        with tempfile.TemporaryDirectory(prefix="moved-") as folder:
            path = f"{folder}/other.db"
            saver = self.savers[0]
            with es.open(path, durability="normal") as store:
                assert load(store, dumped(saver.store))[1] == []
            same(saver, path)


TestMoved = Moved.TestCase
if os.environ.get("HYPOTHESIS_PROFILE") != "long":
    TestMoved.settings = settings(max_examples=15, stateful_step_count=25)
