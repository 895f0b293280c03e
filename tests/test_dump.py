"""Dump and load: what comes out goes in again as it was, and nothing else goes in."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import msgspec
import pytest
import tenacity
from hypothesis import given, settings
from hypothesis import strategies as st

import eventstore as es
from eventstore.chain import Chain, genesis
from eventstore.errors import MalformedDump, TraceDiffers
from eventstore.transfer import lines as dump_lines
from eventstore.transfer import loading as load_module
from eventstore.transfer.admission import CONTROL_DEPTH, MOST_CLAIMS, check_held
from eventstore.transfer.lines import checked
from eventstore.transfer.loading import load
from eventstore.transfer.outgoing import dump

TABLES = {
    "log": "SELECT t.trace_id, l.first_seq, l.n, l.append_id, typeof(l.append_id), l.at_us, l.digest, typeof(l.body),"
    " CAST(l.body AS BLOB) FROM log l JOIN trace t ON t.id = l.trace ORDER BY 1, 2",
    "trace": "SELECT t.trace_id, t.name, p.trace_id, t.fork_seq, t.created_us, t.status FROM trace t"
    " LEFT JOIN trace p ON p.id = t.parent ORDER BY 1",
    "root": "SELECT t.trace_id, r.seq, r.at_us, r.digest, typeof(r.body), CAST(r.body AS BLOB) FROM root r"
    " JOIN trace t ON t.id = r.trace ORDER BY 1, 2",
    "checkpoint": "SELECT c.checkpoint_id, t.trace_id, c.seq, c.node, c.graph_hash, c.triggers, c.metadata,"
    " c.created_us FROM checkpoint c JOIN trace t ON t.id = c.trace ORDER BY 1",
    "barrier": "SELECT t.trace_id, b.barrier_id, b.raised_seq, b.raised_us, b.deadline_us, b.decided_seq"
    " FROM barrier b JOIN trace t ON t.id = b.trace ORDER BY 1, 2",
    "lease": "SELECT t.trace_id, l.epoch, l.due_us FROM lease l JOIN trace t ON t.id = l.trace ORDER BY 1",
    "graph": "SELECT graph_hash, definition FROM graph ORDER BY 1",
    "tombstone": "SELECT trace_id, version, digest, erased_by, erased_us FROM tombstone ORDER BY 1",
}


def contents(store):
    """All that a dump keeps, by table; what a root's later trim decided is there, too."""
    with store._database.reader() as connection:
        return {name: connection.execute(sql).fetchall() for name, sql in TABLES.items()}


def dumped(store, **choice):
    out = io.BytesIO()
    dump(store, out, **choice)
    return out.getvalue()


def loaded(store, data):
    """(counts, problems as text, (trace, outcome)s)."""
    problems, outcomes = [], []
    counts = load(
        store,
        io.BytesIO(data),
        on_bad=problems.append,
        on_trace=lambda trace_id, what: outcomes.append((trace_id, what)),
    )
    assert counts.problems == len(problems)
    assert [sum(what == name for _, what in outcomes) for name in ("added", "continued", "present", "refused")] == [
        counts.added,
        counts.continued,
        counts.present,
        counts.refused,
    ]
    return counts, problems, outcomes


def states(store):
    """The states of every trace that can be read (of a long one some hundreds), as text."""
    found = {}
    for info in store.traces(limit=10_000):
        for seq in range(1, info.version + 1, 1 + info.version // 500):
            try:
                state = store.state_at(info.trace_id, seq)
            except es.Trimmed:
                continue
            found[info.trace_id, seq] = repr(state)
    return found


def same(store, other, but=()):
    ours, theirs = contents(store), contents(other)
    for table in but:  # no more than ours
        assert {row[:3] for row in theirs.pop(table)} <= {row[:3] for row in ours.pop(table)}
    assert ours == theirs
    assert other.verify().ok, other.verify().problems
    assert other.verify().heads == store.verify().heads
    assert states(store) == states(other)
    other.drop_bases()
    assert states(store) == states(other)
    assert set(map(repr, events(store))) == set(map(repr, events(other)))
    assert store.barriers(pending=None, limit=1000) == other.barriers(pending=None, limit=1000)


def events(store):
    for info in store.traces(limit=10_000):
        yield from store.events(info.trace_id)


def opaque(*items):
    return es.Opaque("msgpack", b"".join(map(msgspec.msgpack.encode, items)), len(items))


def pause_graph():
    def ask(ctx):
        ctx.put("asked", ctx.state["n"] + 1)

    def pay(ctx):
        ctx.put("paid", True)

    graph = es.Graph("refund").barrier("ok", prompt="Refund?")
    graph.node(ask)
    graph.node(pay, side_effects=True)
    return graph.edge("ask", "ok").edge("ok", "pay").start("ask").end("pay")


def fill(store):
    """A store of everything that a trace can be."""
    reducers = {"n": "sum", "log": "append"}
    trace = store.start({"log": [], "n": 0, "ключ": 'é\u2028🦀"\\'}, id="t1", name="чат", reducers=reducers)
    for number in range(30):
        with trace.step("work", append_id=f"job-{number}" if number % 3 == 0 else None) as step:
            step.put("log", [{"number": number, "text": "x" * 40, "f": 0.1 * number, "none": None}])
            step.put("n", 1)
            step.replace("phase", {"a": [1, 1.0, True]})
            if number % 5 == 4:
                step.splice("log", 0, 2)
                step.delete("phase")
        if number == 7:
            trace.checkpoint("next")
    trace.note("seen", {"by": "ana"})
    trace.append([es.StateDelta.put("x", 1)], append_id="mine")
    store.append("t1", [es.StateDelta.put("y", -0.0)], expected_version=trace.version, append_id=2**62 + 1)
    trace.refresh()
    with pytest.raises(ZeroDivisionError), trace.step("fails"):
        raise ZeroDivisionError("é")
    first = store.fork("t1", 17, id="f1", name="again")
    with first.step("other") as step:
        step.merge("doc", {"a": 1})
    first.raise_barrier("approve", prompt="go?", deadline_us=4_000_000_000_000_000, default=es.Approve(by="clock"))
    second = store.fork("f1", id="f2")
    second.decide("approve", es.Modify({"total": 30}, by="ana"))
    third = store.fork("f2", 10 + 3, id="f3")
    third.end("failed", "no")
    waiting = store.start({}, id="w1", name="waits")
    waiting.raise_barrier("a")
    waiting.decide("a", es.Reject("no", by="bo"))
    waiting.raise_barrier("a")
    sealed = store.start({"sealed": es.Opaque("raw", b"\xff\x00")}, id="o1", name="opaque", reducers={"list": "append"})
    for number in range(4):
        with sealed.step("work") as step:
            step.put("list", opaque(number, {"a": number}))
    with sealed.step("work") as step:
        step.splice("list", 1, 2, opaque("new"))
    for name in ("r1", "r2"):
        trimmed = store.start({"log": [], "n": 0}, id=name, name="trimmed")
        if name == "r2":
            with trimmed.step("seal") as step:
                step.put("sealed", opaque(1, 2))
        for number in range(9):
            with trimmed.step("work") as step:
                step.append("log", number)
                step.put("n", number / 3)
        store.trim(name, 7 + 2 * (name == "r2"), retry_window_s=0)
        trimmed.refresh()
        forked = store.fork(name, id=f"{name}f")
        with forked.step("on") as step:
            step.put("n", "forked")
        forked.checkpoint()
    whole = store.start({"n": 1}, id="r3", name="only a root")
    whole.end()
    store.checkpoints.prune("r3", 0)
    store.trim("r3", whole.version, retry_window_s=0)
    erased = store.start({"secret": 1}, id="e1")
    erased.end()
    store.erase("e1", by="ana")
    assert es.run(pause_graph(), store, {"n": 1}, id="g1").status == "waiting"
    assert es.run(pause_graph(), store, {"n": 2}, id="g2").status == "waiting"
    store.decide("g2", "ok", es.Approve(by="ana"))
    assert es.resume(pause_graph(), store, "g2").status == "completed"
    store.start({"plain": 1}, id="z1")
    return store


@pytest.fixture
def full(store):
    return fill(store)


@pytest.fixture
def other(tmp_path):
    with es.open(tmp_path / "other.db", durability="normal") as other:
        yield other


# The round trip


def test_a_store_comes_back_as_it_was(full, other):
    counts, problems, outcomes = loaded(other, dumped(full))
    assert problems == []
    traces = len(full.traces())
    assert (counts.added, counts.tombstones, counts.commits) == (traces, 1, len(contents(full)["log"]))
    assert outcomes[0] == ("t1", "added")
    same(full, other)
    with pytest.raises(es.TraceErased):
        other.state_at("e1")
    assert full.checkpoints.list("t1")[0].restore_state() == other.checkpoints.list("t1")[0].restore_state()


def test_a_dump_of_what_was_loaded_is_the_same(full, other):
    first = dumped(full)
    loaded(other, first)
    header = re.compile(rb'"dumped_at":"[^"]*"|"sum":"[^"]*"')
    assert header.sub(b"", dumped(other)) == header.sub(b"", first)


def test_a_dump_is_json_lines_that_tools_can_read(full):
    data = dumped(full)
    lines = [json.loads(line) for line in data.splitlines()]
    assert lines[0]["eventstore"]["format"] == dump_lines.FORMAT and lines[0]["eventstore"]["whole"] is True
    bodies = [line["commit"]["body"] for line in lines if "commit" in line and "body" in line["commit"]]
    assert bodies[0][0]["kind"] == "trace_started" and bodies[0][0]["data"]["state"]["ключ"] == 'é\u2028🦀"\\'
    roots = [line["root"] for line in lines if "root" in line]
    assert roots[0]["state"]["log"] == [0, 1] and roots[0]["control"]["steps"] == 2
    packed = [line["commit"]["body64"] for line in lines if "body64" in line.get("commit", {})]
    assert msgspec.msgpack.decode(base64.b64decode(packed[0]), ext_hook=lambda *_: None)[0]["kind"] == "trace_started"
    assert lines[-1]["end"]["traces"] == len(full.traces())
    owner = f"{os.getpid()}@"
    assert not any(owner in line.decode() for line in data.splitlines() if b'"lease"' in line)
    assert b'"base"' not in data


def test_loading_again_adds_nothing(full, other):
    data = dumped(full)
    loaded(other, data)
    before = contents(other)
    counts, problems, _ = loaded(other, data)
    assert (problems, counts.present, counts.commits, counts.tombstones) == ([], len(full.traces()), 0, 0)
    counts, problems, _ = loaded(full, data)
    assert (problems, counts.present, counts.added, counts.continued) == ([], len(full.traces()), 0, 0)
    assert contents(other) == before == contents(full)


def test_a_choice_brings_its_ancestors_along(full, other):
    data = dumped(full, trace_ids=["f3", "w1"])
    counts, problems, outcomes = loaded(other, data)
    assert problems == [] and counts.tombstones == 0
    assert [trace_id for trace_id, _ in outcomes] == ["t1", "f3", "w1"]  # f3 begins in what is t1's own
    assert other.state_at("f3") == full.state_at("f3") and other.verify().ok
    assert b'"whole":false' in data
    named = dumped(full, name="waits")
    assert named.count(b'{"trace"') == 1 and b'"w1"' in named
    assert dumped(full, status="failed").count(b'{"trace"') == dumped(full, trace_ids=["f3"]).count(b'{"trace"')
    with pytest.raises(es.TraceNotFound):
        dumped(full, trace_ids=["absent"])
    with pytest.raises(es.TraceErased):
        dumped(full, trace_ids=["e1"])


def test_a_fork_without_its_parent_is_refused(full, other):
    lines = dumped(full, trace_ids=["f1"]).splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if b'"trace_id":"f1"' in line)
    counts, problems, _ = loaded(other, b"".join([lines[0], *lines[at:]]))
    assert counts.refused == 1 and "its parent t1 is not in the store" in str(problems[0])
    assert other.traces() == []


def test_bases_are_written_as_appends_would(path, tmp_path, record, tiny_fold):
    with es.open(path, durability="normal", fold_policy=tiny_fold) as store:
        record(store, 300)
        fork = store.fork("t1", id="f1")
        for number in range(100):
            with fork.step("on") as step:
                step.append("log", {"number": number})
                step.merge("doc", {str(number % 7): "y" * number})
                if number % 10 == 9:
                    step.splice("log", 0, 5)
        data = dumped(store)
        with es.open(tmp_path / "b.db", durability="normal", fold_policy=tiny_fold) as other:
            assert loaded(other, data)[1] == []
            places = [[(base.seq, base.kind) for base in one.bases("f1")] for one in (store, other)]
            assert places[0] == places[1] and len(places[0]) > 5
            stats = other.stats()
            assert stats.c1 <= 2 and stats.c2 <= 2
            assert other.verify().ok and states(other) == states(store)


def test_a_run_goes_on_where_it_was_loaded(full, other):
    loaded(other, dumped(full))
    assert other.barriers(node="ok")[0].trace_id == "g1"
    other.decide("g1", "ok", es.Approve(by="ana"))
    result = es.resume(pause_graph(), other, "g1")
    assert result.status == "completed" and result.state["paid"] is True
    epochs = [event.event.epoch for event in other.events("g1") if event.kind == "owner_changed"]
    assert epochs == sorted(set(epochs)) and len(epochs) == 2
    assert contents(other)["lease"] == []
    assert other.verify().ok


def test_every_kind_of_run_passes_the_door(store, other):
    """Branches, retries, doubts, early decisions, a changed graph, a reopened run: all that runs write."""
    tries = []

    def flaky(ctx):
        tries.append(1)
        ctx.now(), ctx.uuid(), ctx.call("fetch", lambda: {"hits": 3})
        if len(tries) == 1:
            raise ValueError("first")
        ctx.put("n", 1)

    def left(ctx):
        ctx.put("l", 1)

    def right(ctx):
        ctx.put("r", 2)

    def fails(ctx):
        raise RuntimeError("no")

    def graph():
        made = es.Graph("g").barrier("ok")
        made.node(flaky, retry=tenacity.Retrying(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_fixed(0.001)))
        for function in (left, right, fails):
            made.node(function)
        made.parallel("both", "left", "right")
        return made.edge("flaky", "both").edge("both", "ok").edge("ok", "fails").start("flaky").end("fails")

    es.run(graph(), store, {"n": 0}, id="g1")
    store.decide("g1", "ok#*", es.Approve())
    with pytest.raises(es.RunFailed):
        es.resume(graph(), store, "g1")
    with pytest.raises(es.RunFailed):
        es.resume(graph(), store, "g1", reopen=True)
    store.fork("g1", id="g2")
    kinds = {event.kind for event in store.events("g1")}
    assert {"branch_executed", "value_recorded", "barrier_decided", "trace_ended", "trace_reopened"} <= kinds
    assert loaded(other, dumped(store))[1] == []
    same(store, other)


# Going on


def test_a_newer_dump_goes_on_after_an_older_one(store, other, record):
    trace = record(store, 20)
    old = dumped(store)
    loaded(other, old)
    for number in range(20):
        with trace.step("more") as step:
            step.append("log", number)
    trace.checkpoint()
    trace.raise_barrier("ok")
    store.decide("t1", "ok", es.Approve())
    counts, problems, outcomes = loaded(other, dumped(store))
    assert (problems, outcomes, counts.commits) == ([], [("t1", "continued")], 22)
    same(store, other)
    counts, problems, outcomes = loaded(other, old)  # the older one has nothing to add
    assert (problems, outcomes) == ([], [("t1", "present")])
    same(store, other)


def test_the_newer_dump_of_a_run_moves_its_lease(store, other):
    es.run(pause_graph(), store, {"n": 1}, id="g1")
    loaded(other, dumped(store))
    assert [row[:2] for row in contents(other)["lease"]] == [("g1", 1)]
    store.decide("g1", "ok", es.Approve())
    es.resume(pause_graph(), store, "g1")
    loaded(other, dumped(store))
    assert contents(other)["lease"] == []
    same(store, other, but=("checkpoint",))  # the one where the run waited says more by now


def test_trimmed_on_either_side_goes_on(store, other, record):
    trace = record(store, 20)
    whole = dumped(store)
    loaded(other, whole)
    with trace.step("more") as step:
        step.put("n", 1)
    store.trim("t1", 41, retry_window_s=0)
    _, problems, outcomes = loaded(other, dumped(store))  # root ahead of whole history
    assert (problems, outcomes) == ([], [("t1", "continued")])
    assert other.verify().heads == store.verify().heads and other.state_at("t1", 5) is not None
    _, problems, outcomes = loaded(store, whole)  # whole history behind a root
    assert (problems, outcomes) == ([], [("t1", "present")])
    other.trim("t1", 21, retry_window_s=0)
    assert loaded(other, dumped(store))[2] == [("t1", "present")]
    assert loaded(store, dumped(other))[2] == [("t1", "present")]


def test_a_root_beyond_what_is_there_is_refused(store, other, record):
    trace = record(store, 5)
    loaded(other, dumped(store))
    for _ in range(5):
        with trace.step("more") as step:
            step.put("n", 1)
    store.trim("t1", trace.version, retry_window_s=0)
    _, problems, outcomes = loaded(other, dumped(store))
    assert outcomes == [("t1", "refused")] and problems[0].seq == 22


@pytest.mark.parametrize("cut", [0.05, 0.3, 0.5, 0.77, 0.999])
def test_a_cut_short_dump_is_told_and_gone_on_with(full, other, cut):
    data = dumped(full)
    _, problems, _ = loaded(other, data[: int(len(data) * cut)])
    assert len(problems) in (1, 2) and any("cut short" in str(problem) for problem in problems)
    assert other.verify().ok
    counts, problems, _ = loaded(other, data)
    assert problems == [] and counts.refused == 0
    same(full, other)


def test_a_killed_load_is_gone_on_with(store, tmp_path, record):
    record(store, 3000)
    record(store, 10, "t2")
    file, target = tmp_path / "a.jsonl", tmp_path / "b.db"
    file.write_bytes(dumped(store))
    code = (
        "import sys, eventstore as es\nfrom eventstore.transfer.loading import load\n"
        "class Slow:\n"
        "    def __init__(self, raw): self.raw, self.count = raw, 0\n"
        "    def readline(self, limit):\n"
        "        self.count += 1\n"
        "        if self.count == 2000: print('now', flush=True); sys.stdin.read()\n"
        "        return self.raw.readline(limit)\n"
        f"with es.open({str(target)!r}) as store, open({str(file)!r}, 'rb') as raw: load(store, Slow(raw))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
    with es.open(target) as other:
        version = other.open_trace("t1").version
        assert 1000 < version < 12000 and other.verify().ok
        _, problems, outcomes = loaded(other, file.read_bytes())
        assert (problems, outcomes) == ([], [("t1", "continued"), ("t2", "added")])
        same(store, other)


def test_two_loads_at_once_make_one(full, tmp_path):
    data = dumped(full)
    target = tmp_path / "b.db"
    with es.open(target, durability="normal") as other, es.open(target, durability="normal") as again:
        found = []
        threads = [
            threading.Thread(target=lambda one=one: found.append(loaded(one, data)[1])) for one in (other, again)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [[], []]
        same(full, other)


def test_a_dump_while_another_process_appends_is_of_one_version(store, path, other, record):
    record(store, 50)
    code = (
        f"import eventstore as es\nstore = es.open({path!r}, durability='normal')\ntrace = store.open_trace('t1')\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    with trace.step('more') as step: step.append('log', 1)\n"
        "    if trace.version % 7 == 0: store.start({'n': 1})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"go\n"
        dumps = []
        for _ in range(5):
            dumps.append(dumped(store))
            time.sleep(0.05)
        process.kill()
    versions = []
    for data in dumps:
        assert loaded(other, data)[1] == []
        versions.append(other.open_trace("t1").version)
        assert other.verify().ok
    assert versions == sorted(versions) and versions[-1] > versions[0]


# Another history


def test_a_trace_that_differs_is_named_by_its_first_seq_and_the_rest_loads(store, other, record):
    for one in (store, other):
        trace = record(one, 3)
        record(one, 1, "t3")
    data = dumped(store)
    record(store, 4, "t2")
    before = contents(other)
    _, problems, outcomes = loaded(other, dumped(store))
    assert [type(problem) for problem in problems] == [TraceDiffers, TraceDiffers]
    assert (problems[0].trace_id, problems[0].seq) == ("t1", 1)
    assert outcomes == [("t1", "refused"), ("t3", "refused"), ("t2", "added")]
    assert [row for row in contents(other)["log"] if row[0] != "t2"] == before["log"] and other.verify().ok
    with pytest.raises(TraceDiffers):
        load(other, io.BytesIO(data))
    assert trace.version == other.open_trace("t1").version


def test_histories_that_part_are_told_where(store, other, record):
    record(store, 5)
    loaded(other, dumped(store))
    for one in (store, other):
        trace = one.open_trace("t1")
        with trace.step("more") as step:
            step.put("n", 1)
        trace.note("same")
    _, problems, outcomes = loaded(other, dumped(store))
    assert outcomes == [("t1", "refused")] and (problems[0].trace_id, problems[0].seq) == ("t1", 22)


def test_an_erased_trace_does_not_come_back(store, other, record):
    for name in ("t1", "t2"):
        record(store, 3, name)
    data = dumped(store)
    loaded(other, data)
    other.erase("t1")
    _, problems, outcomes = loaded(other, data)
    assert [type(problem) for problem in problems] == [es.TraceErased]
    assert outcomes == [("t1", "refused"), ("t2", "present")]
    with pytest.raises(es.TraceErased):
        other.state_at("t1")
    _, problems, _ = loaded(store, dumped(other))
    assert "was erased where the dump was made" in str(problems[0]) and store.state_at("t1")


def test_a_tombstone_takes_no_number_of_a_trace(full, other):
    loaded(other, dumped(full))
    with other._database.reader() as connection:
        assert [row[0] for row in connection.execute("SELECT trace FROM tombstone")] == [-2]
    other.start({}, id="new")
    other.erase("new")
    assert other.verify().ok


def test_a_checkpoint_id_that_is_taken_is_told(store, other, record):
    trace = record(store, 3)
    trace.checkpoint()
    made = store.checkpoints.list("t1")[0]
    taken = other.start({"n": 1}, id="x")
    other.checkpoints.save(es.Checkpoint(made.checkpoint_id, "x", "", None, made.created_at, state={"n": 1}))
    _, problems, _ = loaded(other, dumped(store))
    assert "elsewhere" in str(problems[0]) and other.verify().ok and taken.version == 1


# What is there already is not touched


def said(data, kind, trace_id, **fields):
    """The dump with other fields in its lines of that kind, their checksums made sound."""
    lines = []
    for line in data.splitlines(keepends=True):
        if line.startswith(b'{"%b"' % kind.encode()):
            line = checked(kind, msgspec.json.encode({**json.loads(line)[kind], **fields}), trace_id)
        lines.append(line)
    return b"".join(lines)


def test_an_older_dump_brings_no_checkpoint_behind_the_root(store, record, other):
    trace = record(store, 5)
    made = trace.checkpoint()
    with trace.step("more") as step:
        step.put("n", 1)
    old = dumped(store)
    store.checkpoints.prune("t1", 0)
    store.trim("t1", trace.version, retry_window_s=0)
    before = contents(store)
    assert loaded(store, old)[1:] == ([], [("t1", "present")])
    assert contents(store) == before and store.verify().ok
    with pytest.raises(es.CheckpointNotFound):
        store.checkpoints.load(made.checkpoint_id)
    with trace.step("more") as step:
        step.put("n", 2)
    assert loaded(store, old)[1] == [] and store.verify().ok
    assert loaded(other, dumped(store))[1] == []


def test_a_dump_changes_no_checkpoint_and_no_lease_of_a_trace_that_is_there(store):
    es.run(pause_graph(), store, {"n": 1}, id="g1")
    store.open_trace("g1").checkpoint("ok")
    before = contents(store)
    assert before["lease"] and before["checkpoint"]
    data = said(dumped(store), "checkpoint", "g1", node="evil", triggers=["explicit", "barrier_resolved"])
    assert loaded(store, said(data, "lease", "g1", epoch=7, due_us=9))[1:] == ([], [("g1", "present")])
    assert contents(store) == before
    store.checkpoints.prune("g1", 0)
    store.decide("g1", "ok", es.Approve())
    es.resume(pause_graph(), store, "g1")
    before = contents(store)
    assert loaded(store, data)[1:] == ([], [("g1", "present")])
    assert contents(store) == before


def test_a_trace_that_goes_on_gets_the_checkpoints_of_what_is_new(store, other, record):
    trace = record(store, 5)
    old = trace.checkpoint()
    loaded(other, dumped(store))
    other.checkpoints.prune("t1", 0)
    with trace.step("more") as step:
        step.put("n", 1)
    new = trace.checkpoint()
    assert loaded(other, dumped(store))[1:] == ([], [("t1", "continued")])
    found = [one.checkpoint_id for one in other.checkpoints.list("t1")]
    assert new.checkpoint_id in found and old.checkpoint_id not in found


def test_a_fork_loads_where_its_checkpoint_in_the_parent_was_trimmed(store, other, record):
    record(store, 5)
    loaded(other, dumped(store))
    store.fork("t1", 21, id="f1")
    place = (
        "INSERT INTO checkpoint (checkpoint_id, trace, seq, graph_hash, triggers, created_us) VALUES (?, ?, ?, ?, ?, ?)"
    )
    values = ("c1", 2, 5, "", '["explicit"]', 1)
    store._writer.write(lambda connection: connection.execute(place, values))
    assert store.verify().ok
    data = dumped(store)
    other.trim("t1", 21, retry_window_s=0)
    assert loaded(other, data)[1:] == ([], [("t1", "present"), ("f1", "added")])
    assert other.verify().ok and other.checkpoints.list("f1") == []
    with es.open(":memory:") as third:
        assert loaded(third, data)[1] == [] and contents(third)["checkpoint"] == contents(store)["checkpoint"]


@pytest.mark.parametrize("kind", ["checkpoint", "lease", "closed"])
def test_a_commit_whose_checkpoints_or_lease_do_not_hold_comes_whole_the_next_time(store, other, kind):
    es.run(pause_graph(), store, {"n": 1}, id="g1")
    store.open_trace("g1").checkpoint("ok")
    data, version = dumped(store), store.open_trace("g1").version
    at = data.rindex(b'{"%b"' % kind.encode())
    for damaged in (data[:at], data[:at] + b"x" + data[at + 1 :], data[: at + 30] + b"\0" + data[at + 31 :]):
        assert loaded(other, damaged)[1]
        assert other.verify().ok and (other.traces() == [] or other.open_trace("g1").version < version)
    assert loaded(other, data)[1] == []
    same(store, other)


# Damage


def is_contained(full, other):
    """Whatever got in is the beginning of what was there."""
    assert other.verify().ok, other.verify().problems
    with full._database.reader() as connection:
        log = set(connection.execute(TABLES["log"]).fetchall())
    found = contents(other)
    assert set(found["log"]) <= log
    for table in ("trace", "checkpoint", "graph", "tombstone", "root"):
        if table == "trace":  # the status follows what is there
            assert {row[:5] for row in found[table]} <= {row[:5] for row in contents(full)[table]}
        else:
            assert set(found[table]) <= set(contents(full)[table]), table


def small(store):
    """A store whose dump has every kind of line, and few of each."""
    trace = store.start({"n": 0}, id="t1", name="chat")
    for number in range(3):
        with trace.step("work") as step:
            step.put("n", number)
    trace.checkpoint("next")
    fork = store.fork("t1", 3, id="f1")
    fork.raise_barrier("ok")
    trimmed = store.start({"n": 0}, id="r1")
    trimmed.note("a")
    store.trim("r1", 2, retry_window_s=0)
    trimmed.refresh()
    trimmed.note("b")
    es.run(pause_graph(), store, {"n": 1}, id="g1")
    store.start({}, id="e1")
    store.erase("e1")
    return store


def test_a_flipped_byte_anywhere_is_told_and_gets_nothing_wrong_in(store, tmp_path):
    data = dumped(small(store))
    seen = set()
    with es.open(tmp_path / "b.db", durability="normal") as other:
        for at in range(0, len(data), 7):
            kind = re.match(rb'\{"(\w+)"', data[data.rfind(b"\n", 0, at) + 1 :]) if data[at] != 10 else None
            damaged = bytearray(data)
            damaged[at] ^= 1 << (at % 7)
            try:
                problems = loaded(other, bytes(damaged))[1]
            except MalformedDump as refused:
                problems = [refused]
            assert problems, (at, data[at - 30 : at + 30])
            seen.add(kind and kind[1])
        is_contained(store, other)
        kinds = b"eventstore trace commit closed root checkpoint lease graph tombstone end"
        assert seen >= set(kinds.split())
        assert loaded(other, data)[1] == []
        same(store, other)


@pytest.mark.parametrize("how", ["dropped", "doubled", "swapped"])
def test_a_line_out_of_place_is_told(store, tmp_path, how):
    lines = dumped(small(store)).splitlines(keepends=True)
    for at in range(len(lines)):
        changed = list(lines)
        if how == "dropped":
            del changed[at]
        elif how == "doubled":
            changed.insert(at, lines[at])
        elif at + 1 < len(lines):
            changed[at : at + 2] = [lines[at + 1], lines[at]]
        else:
            continue
        with es.open(tmp_path / f"{at}.db", durability="normal") as other:
            try:
                problems = loaded(other, b"".join(changed))[1]
            except MalformedDump as refused:
                problems = [refused]
            is_harmless = lines[at].startswith(b'{"graph"')  # a definition is its own proof, wherever it stands
            if how == "swapped":
                is_harmless = is_harmless or lines[at + 1].startswith(b'{"graph"')
            assert problems or is_harmless, lines[at]
            is_contained(store, other)


def test_the_refusal_names_trace_seq_and_line(store, other, record):
    record(store, 9)
    lines = dumped(store).splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if b'"first_seq":10,' in line)
    lines[at] = lines[at].replace(b'"number":2', b'"number":3')
    _, problems, _ = loaded(other, b"".join(lines))
    assert (problems[0].trace_id, problems[0].seq, problems[0].line) == ("t1", 10, at + 1)
    assert "changed" in problems[0].reason and other.open_trace("t1").version == 9
    with pytest.raises(MalformedDump) as refused:
        load(other, io.BytesIO(b"".join(lines)))
    assert refused.value.seq == 10


def test_two_dumps_in_one_file_are_two_dumps(store, other, record, tmp_path):
    record(store, 3)
    with es.open(tmp_path / "b.db") as second:
        record(second, 3, "t2")
        both = dumped(store) + dumped(second)
    counts, problems, _ = loaded(other, both)
    assert problems == [] and counts.added == 2 and other.verify().ok
    cut = dumped(store).splitlines(keepends=True)[:-1]
    assert "the next dump begins here" in str(loaded(other, b"".join(cut) + both)[1][0])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        b"{}\n",
        b"[]\n",
        b'{"messages":[]}\n',
        b"SQLite format 3\0",
        b"\xff\xfe",
        b'{"eventstore":1,"sum":""}\n',
        b'{"eventstore":{"format":"1"},"sum":""}\n',
        b'{"eventstore":{},"sum":""}\n',
        b'{"commit":{"first_seq":1,"n":1,"append_id":null,"at_us":0,"digest":"","body":[]}}\n',
        checked("trace", b'{"trace_id":"t1","name":"","created_us":1}'),
        b"[" * 100_000,
        b'{"eventstore":' * 50_000,
    ],
)
def test_what_is_no_dump_is_refused_whole(other, data):
    with pytest.raises(MalformedDump):
        load(other, io.BytesIO(data), on_bad=lambda error: None)
    assert other.traces() == []


@pytest.mark.parametrize("field", ["format", "file_format"])
def test_a_newer_format_is_refused_and_named(store, other, record, field):
    record(store, 1)
    header, rest = dumped(store).split(b"\n", 1)
    fields = {**json.loads(header)["eventstore"], field: 99, "unknown": 1}
    newer = checked("eventstore", msgspec.json.encode(fields)) + rest
    with pytest.raises(MalformedDump, match="format 99 was written by a newer version"):
        load(other, io.BytesIO(newer), on_bad=lambda error: None)
    assert other.traces() == []


def test_a_broken_gzip_stream_is_a_dump_cut_short(store, other, record):
    record(store, 200)
    zipped = gzip.compress(dumped(store))
    problems = []
    load(other, gzip.GzipFile(fileobj=io.BytesIO(zipped[: len(zipped) // 2])), on_bad=problems.append)
    assert "cut short: the gzip stream ends" in str(problems[0]) and other.verify().ok
    assert load(other, gzip.GzipFile(fileobj=io.BytesIO(zipped))).continued == 1


def test_a_line_without_end_is_not_read_whole(store, other, record, monkeypatch):
    record(store, 3)
    monkeypatch.setattr(load_module, "MAX_LINE_BYTES", 4096)
    head = dumped(store).splitlines(keepends=True)[:3]
    _, problems, _ = loaded(other, b"".join(head) + b'{"commit":"' + b"x" * 10_000)
    assert "longer than 4096 bytes" in str(problems[0]) and other.open_trace("t1").version == 1


def test_a_damaged_store_is_dumped_up_to_there(path, tamper, other, record):
    with es.open(path) as store:
        record(store, 8)
        record(store, 8, "t2")
        store.fork("t1", 5, id="early")
        store.fork("t1", 25, id="late")
    tamper("UPDATE log SET body = replace(body, 'step 2', 'step 9') WHERE trace = 1 AND first_seq = 10")
    with es.open(path) as store:
        with pytest.raises(es.LogCorrupted) as damaged:
            dumped(store)
        assert (damaged.value.trace_id, damaged.value.seq) == ("t1", 10)
        out, bad = io.BytesIO(), []
        counts = dump(store, out, on_bad=bad.append)
        assert (counts.damaged, len(bad)) == (1, 1)
    _, problems, outcomes = loaded(other, out.getvalue())
    assert outcomes[:2] == [("t1", "refused"), ("t2", "added")] and ("early", "added") in outcomes
    assert ("late", "refused") in outcomes and "was damaged when it was dumped" in str(problems[0])
    assert other.verify().ok


# Hostile lines: the chain is computed anew over what no append could have written


def forged(bodies, name="", state=None, at_us=1, own=None, parent=None, fork_seq=0, digest=None, early=b""):
    """A dump of one trace `h` whose commits hold these bodies (lists of events, or bytes), with a sound chain."""
    header = msgspec.json.encode({"format": 1, "file_format": 5, "version": "0", "dumped_at": "", "whole": False})
    fields = {"trace_id": "h", "name": name, "created_us": at_us}
    if parent:
        fields |= {"parent": parent, "fork_seq": fork_seq}
    else:
        bodies = [[{"kind": "trace_started", "data": {"name": name, "state": state or {}}}], *bodies]
    lines = [checked("eventstore", header), checked("trace", msgspec.json.encode(fields)), early]
    digest, seq, events = digest or genesis("h"), fork_seq, 0
    for body in bodies:
        raw, n = (body, 1) if isinstance(body, bytes) else (msgspec.json.encode(body), len(body))
        digest = Chain().extend(digest, seq + 1, n, at_us, own, raw)
        held = b'"body":%b' % raw if raw[:1] == b"[" else b'"body64":"%b"' % base64.b64encode(raw)
        lines.append(
            b'{"commit":{"first_seq":%d,"n":%d,"append_id":%b,"at_us":%d,"digest":"%b",%b}}\n'
            % (seq + 1, n, msgspec.json.encode(own), at_us, digest.hex().encode(), held)
        )
        seq, events = seq + n, events + n
    closed = {"trace_id": "h", "version": seq, "digest": digest.hex(), "commits": len(bodies), "checkpoints": 0}
    lines.append(checked("closed", msgspec.json.encode(closed), "h"))
    end = {"traces": 1, "commits": len(bodies), "events": events, "tombstones": 0}
    return b"".join([*lines, checked("end", msgspec.json.encode(end))])


def deltas(*each):
    return [{"key": "n", **delta} for delta in each]


def event(kind, **data):
    return {"kind": kind, "data": data}


DEEP = b"[" * 200 + b"]" * 200
PACKED = msgspec.msgpack.encode
HOSTILE = [
    b"[{]",
    b"[]x",
    b"[NaN]",
    b'[{"key":"n","value":NaN}]',
    b'[{"key":"n","value":1e999}]',
    b'[{"key":"n","value":Infinity}]',
    b'[{"key":"n","value":18446744073709551615}]',
    b'[{"key":"n","value":9223372036854775808}]',
    b'[{"key":"n","value":' + b"9" * 400 + b"}]",
    b'[{"key":"n","value":{"a":1,"a":2}}]',
    b'[{"key":"n","key":"m","value":1}]',
    b'[{"key":"n","value":1,"evil":1}]',
    b'[{"key":"n","value":"\\ud800"}]',
    b'[{"key":"n","value":"\xff"}]',
    b'[{"key":"n","value":' + DEEP + b"}]",
    b'[{"key":"n","value":' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
    b"[]",
    b"[1]",
    [*deltas({"value": 1}), 7],
    deltas({}),
    deltas({"op": "delete", "value": 1}),
    deltas({"op": "explode", "value": 1}),
    deltas({"source": "nobody", "value": 1}),
    deltas({"key": "", "value": 1}),
    deltas({"key": "k" * 2000, "value": 1}),
    deltas({"op": "append", "value": [1]}),
    deltas({"op": "append", "key": "new", "value": 1}),
    deltas({"op": "sum", "value": "x"}),
    deltas({"op": "sum", "value": 2**62}, {"op": "sum", "value": 2**62}),
    deltas({"value": 1e308}, {"op": "sum", "value": 1e308}),
    deltas({"op": "sum", "value": True}),
    deltas({"op": "merge", "value": {"a": 1}}),
    deltas({"op": "splice", "value": {"start": 0, "count": 0, "items": []}}),
    deltas({"value": [1]}, {"op": "splice", "value": {"start": 0, "count": 9, "items": []}}),
    deltas({"value": [1]}, {"op": "splice", "value": {"start": -1, "count": 0, "items": []}}),
    deltas({"value": 1, "data": {}}),
    [event("unheard_of")],
    [event("note")],
    [event("note", name=1)],
    [event("note", name="x", more=1)],
    [{"kind": "note"}],
    [{"kind": "note", "data": []}],
    [{"kind": "note", "data": {"name": "x"}, "value": 1}],
    [event("trace_started", name="", state={})],
    [event("trace_forked", name="", parent_trace_id="h", fork_seq=1)],
    [event("node_executed", node="a", duration_ms=-1)],
    [event("node_executed", node="a", clears=["status"])],
    [event("node_executed", node="a", clears=["barrier/a#1"])],
    [event("barrier_raised", barrier_id="a#2", node="a")],
    [event("barrier_raised", barrier_id="b#1", node="a")],
    [event("barrier_decided", barrier_id="a#1", node="a", decision={"action": "approve"})],
    [event("barrier_raised", barrier_id="a#1", node="a"),
     event("barrier_decided", barrier_id="a#1", node="b", decision={"action": "approve"})],
    [event("barrier_raised", barrier_id="a#1", node="a"),
     event("barrier_decided", barrier_id="a#1", node="a", decision={"action": "explode"})],
    [event("barrier_raised", barrier_id="a#1", node="a"), event("barrier_raised", barrier_id="a#1", node="a")],
    [event("trace_ended", status="done")],
    [event("trace_ended"), *deltas({"value": 1})],
    [event("trace_ended"), event("node_executed", node="a")],
    [event("trace_ended"), event("trace_ended")],
    [event("trace_reopened")],
    [event("owner_changed", epoch=0, owner="x")],
    [event("owner_changed", epoch=2, owner="x"), event("owner_changed", epoch=2, owner="y")],
    [event("owner_changed", epoch=2**62, owner="x")],
    [event("graph_changed", graph_hash="a", previous="", puts={"waits": 3})],
    [event("graph_changed", graph_hash="a", previous="", puts={"held/a": 3})],
    [event("graph_changed", graph_hash="a", previous="", clears=["name"])],
    PACKED([{"key": "n", "value": b"bytes"}]),
    PACKED([{"key": "n", "value": msgspec.msgpack.Ext(5, b"x")}]),
    PACKED([{"key": "n", "value": msgspec.msgpack.Ext(1, PACKED(["raw", 9, b"x"]))}]),
    PACKED([{"key": "n", "value": [msgspec.msgpack.Ext(1, PACKED(["raw", None, b"x"]))]}]),
    b"\x91\x82\xa3key\xa1n\xa3key\xa1m",
    b"\xc1",
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body)[:60])
def test_what_no_append_could_write_stays_out(other, body):
    _, problems, outcomes = loaded(other, forged([deltas({"value": 1}), body, deltas({"value": 2})], state={"n": 0}))
    assert outcomes == [("h", "refused")] and len(problems) == 1, problems
    assert isinstance(problems[0], MalformedDump) and problems[0].seq == 3
    assert other.open_trace("h").version == 2 and other.state_at("h") == {"n": 1}
    assert other.verify().ok


def test_the_forgery_itself_is_sound(other):
    """So that what is refused above is refused for what is in it."""
    bodies = [
        deltas({"value": 1}, {"op": "sum", "value": 2}),
        [event("barrier_raised", barrier_id="a#1", node="a")],
        [event("barrier_decided", barrier_id="a#1", node="a", decision={"action": "approve"})],
        PACKED([{"key": "n", "value": msgspec.msgpack.Ext(1, PACKED(["raw", None, b"x"]))}]),
        b'[ {"key":"n", "value":1e2} ]',
        [event("trace_ended")],
        [event("note", name="late")],
    ]
    _, problems, outcomes = loaded(other, forged(bodies, own=None))
    assert problems == [] and outcomes == [("h", "added")]
    assert other.state_at("h") == {"n": 100.0} and other.verify().ok


def test_places_and_times_are_held_to_what_appends_make(store, other):
    ok = [deltas({"value": 1})]
    for data in (
        forged(ok, at_us=2**62),
        forged(ok, at_us=-5),
        forged(ok, own=""),
        forged(ok, own="k" * 2000),
        forged(ok, own="twice"),
        forged([], name="one").replace(b'"name":"one","state"', b'"name":"two","state"'),
        forged(ok, parent="h", fork_seq=1),
        forged(ok, parent="absent", fork_seq=1),
        forged([]).replace(b'"h"', b'"' + b"h" * 300 + b'"'),
    ):
        _, problems, _ = loaded(other, data)
        assert problems, data[:300]
        assert other.verify().ok
    assert [info.version for info in other.traces()] == [1]  # of `twice`, whose first append is as good as any


@pytest.mark.parametrize(
    "withdrawn", [[], [["ok#1", "other"]], [["ok#1", "ok"], ["no#1", "no"]], [["ok#1", "ok"], ["ok#1", "ok"]]]
)
def test_a_fork_withdraws_what_waits_and_nothing_else(other, withdrawn):
    trace = other.start({"n": 1}, id="p")
    trace.raise_barrier("ok")
    started = event("trace_forked", name="", parent_trace_id="p", fork_seq=2, withdrawn=withdrawn)
    place = {"parent": "p", "fork_seq": 2, "digest": trace._digest, "at_us": trace._at_us}
    _, problems, _ = loaded(other, forged([[started]], **place))
    assert "it withdraws" in str(problems[0]) and len(other.traces()) == 1
    good = event("trace_forked", name="", parent_trace_id="p", fork_seq=2, withdrawn=[["ok#1", "ok"]])
    assert loaded(other, forged([[good]], **place))[1] == [] and other.verify().ok


def rooted(control, state, seq=5, **fields):
    """A dump of a trimmed trace without more."""
    digest = "00" * 16
    root = {"seq": seq, "at_us": 1, "digest": digest, "control": control, "state": state, **fields}
    closed = {"trace_id": "h", "version": seq, "digest": digest, "commits": 0, "checkpoints": 0}
    header = {"format": 1, "file_format": 5, "version": "0", "dumped_at": "", "whole": False}
    return b"".join(
        [
            checked("eventstore", msgspec.json.encode(header)),
            checked("trace", b'{"trace_id":"h","name":"","created_us":1}'),
            checked("root", msgspec.json.encode(root), "h"),
            checked("closed", msgspec.json.encode(closed), "h"),
            checked("end", b'{"traces":1,"commits":0,"events":0,"tombstones":0}'),
        ]
    )


SOUND = {"name": "", "status": "running", "steps": 3}


def test_a_root_is_trusted_within_what_a_trim_could_write(other):
    assert loaded(other, rooted(SOUND, {"n": [1]}))[1] == []
    assert other.state_at("h") == {"n": [1]} and other.verify().ok
    with other.open_trace("h").step("on") as step:
        step.append("n", 2)
    assert other.verify().ok


@pytest.mark.parametrize(
    "data",
    [
        rooted({}, {}),
        rooted({**SOUND, "status": "odd"}, {}),
        rooted({**SOUND, "steps": "x"}, {}),
        rooted({**SOUND, "waits": 1}, {}),
        rooted({**SOUND, "barrier/a#1": {"node": "a"}}, {}),
        rooted({**SOUND, "unheard": 1}, {}),
        rooted({**SOUND, "epoch": True}, {}),
        rooted({**SOUND, "next": 5}, {}),
        rooted(SOUND, {"": 1}),
        rooted(SOUND, {"n": 2**63}),
        rooted(SOUND, {}, seq=0),
        rooted(SOUND, {}, seq=2**62),
        rooted(SOUND, {}, at_us=-1),
        rooted(SOUND, {}, digest="00"),
        rooted(None, None),
        rooted(None, None, body64="!"),
        rooted(None, None, body64=base64.b64encode(PACKED([1, 2])).decode()),
        rooted(None, None, body64=base64.b64encode(PACKED([SOUND, {"n": b"x"}])).decode()),
    ],
)
def test_a_root_that_no_trim_could_write_is_refused(other, data):
    _, problems, outcomes = loaded(other, data)
    assert problems and outcomes == [("h", "refused")] and other.traces() == []


def test_a_definition_is_worth_its_hash(other):
    line = checked("graph", b'{"graph_hash":"abc","definition":{"nodes":{}}}')
    head, *rest = forged([]).splitlines(keepends=True)
    _, problems, outcomes = loaded(other, b"".join([head, line, *rest]))
    assert "has another hash" in str(problems[0]) and outcomes == [("h", "added")]
    assert contents(other)["graph"] == []


def test_a_root_has_no_limit_of_one_append(store, other):
    trace = store.start({"log": []}, id="t1")
    for _ in range(3):
        with trace.step("w") as step:
            step.append("log", "x" * (23 << 20))
    store.trim("t1", trace.version, retry_window_s=0)
    assert loaded(other, dumped(store))[1] == []
    assert other.open_trace("t1")._digest == trace._digest and len(other.state_at("t1")["log"]) == 3


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def test_a_call_of_the_deepest_value_survives_a_trim(store, other):
    class Crash(BaseException):
        pass

    def a(ctx):
        ctx.call("x", lambda: nested(127), durable=True)
        raise Crash

    graph = es.Graph("g")
    graph.node(a)
    with pytest.raises(Crash):
        es.run(graph.start("a").end("a"), store, {"n": 0}, id="r")
    store.checkpoints.prune("r", 0)
    store.trim("r", store.open_trace("r").version, retry_window_s=0)
    assert loaded(other, dumped(store))[1] == []
    same(store, other)


@pytest.mark.parametrize("held", [nested(131), [["\ud800"]], {"a": 2**63}, [[-(2**70)]]], ids=repr)
def test_what_no_log_holds_is_in_no_root(held):
    with pytest.raises(es.ValueRefused):
        check_held("calls/a", held, CONTROL_DEPTH)
    check_held("calls/a", nested(130), CONTROL_DEPTH)


def test_a_checkpoint_stands_at_no_seq_before_the_first(store, other, record):
    trace = record(store, 1)
    trace.checkpoint()
    lines = said(dumped(store), "checkpoint", "t1", seq=0).splitlines(keepends=True)
    mark = next(line for line in lines if line.startswith(b'{"checkpoint"'))
    lines.remove(mark)
    lines.insert(2, mark)
    assert "it stands at seq 0" in str(loaded(other, b"".join(lines))[1][0]) and other.traces() == []


def test_a_lease_is_no_further_than_claims_can_bring_it(store, other):
    es.run(pause_graph(), store, {"n": 1}, id="g1")
    data = dumped(store)
    _, problems, _ = loaded(other, said(data, "lease", "g1", epoch=2**53))
    assert "its lease has epoch 9007199254740992, and its commits end with epoch 1" in str(problems[0])
    assert contents(other)["lease"] == []
    assert loaded(other, said(data, "lease", "g1", epoch=1 + MOST_CLAIMS, due_us=253402300799999999))[1] == []
    assert contents(other)["lease"] == [("g1", 1 + MOST_CLAIMS, None)]
    other.decide("g1", "ok", es.Approve())
    assert es.resume(pause_graph(), other, "g1").status == "completed"
    assert loaded(store, dumped(other))[1:] == ([], [("g1", "continued")])


def test_a_retry_keeps_its_time(store):
    trace = store.start({"n": 1}, id="r")
    trace.append([es.NodeExecuted("a", success=False, error="x", retry_at_us=4_000_000_000_000_000)])
    for due_us, loads_as in ((4_000_000_000_000_000, 4_000_000_000_000_000), (4_000_000_000_000_001, None)):
        lease = f"INSERT OR REPLACE INTO lease (trace, epoch, due_us) VALUES (1, 1, {due_us})"
        store._writer.write(lambda connection, lease=lease: connection.execute(lease))
        with es.open(":memory:") as other:
            assert loaded(other, dumped(store))[1] == []
            assert contents(other)["lease"] == [("r", 1, loads_as)]


@pytest.mark.parametrize("kind", ["node_executed", "trace_forked"])
def test_what_an_event_may_not_clear_is_named(other, kind):
    if kind == "node_executed":
        data = forged([[event(kind, node="a", clears=["steps"])]])
    else:
        parent = other.start({"n": 1}, id="p")
        place = {"parent": "p", "fork_seq": 1, "digest": parent._digest, "at_us": parent._at_us}
        data = forged([[event(kind, name="", parent_trace_id="p", fork_seq=1, clears=["steps"])]], **place)
    assert "its `clears` has 'steps'" in str(loaded(other, data)[1][0])


def test_a_first_line_is_short(store, other, record):
    class Bomb:
        taken = 0

        def readline(self, limit):
            self.taken += limit
            return (b'{"eventstore":{"x":"' + b"a" * limit)[:limit]

    bomb = Bomb()
    with pytest.raises(MalformedDump, match="longer than 1048576 bytes"):
        load(other, bomb, on_bad=lambda error: None)
    assert bomb.taken < 1_100_000
    read = []

    class Watched(io.BytesIO):
        def readline(self, limit):
            read.append(limit)
            return super().readline(limit)

    with pytest.raises(MalformedDump):
        load(other, Watched(b"{}\n" + b"x" * 5_000_000), on_bad=lambda error: None)
    assert len(read) == 1 and read[0] <= 1_048_577


def test_a_root_may_be_longer_than_a_commit(store, other, record, monkeypatch):
    trace = record(store, 30)
    store.trim("t1", trace.version, retry_window_s=0)
    data = dumped(store)
    longest = max(map(len, data.splitlines()))
    monkeypatch.setattr(load_module, "MAX_HEADER_BYTES", 300)
    monkeypatch.setattr(load_module, "MAX_LINE_BYTES", longest // 2)
    assert loaded(other, data)[1] == []
    monkeypatch.setattr(load_module, "MAX_ROOT_BYTES", longest - 5)
    assert f"longer than {longest - 5} bytes" in str(loaded(other, data)[1][0])


@pytest.mark.parametrize("choice", [{"name": "\udcff"}, {"status": "\udcff"}], ids=["name", "status"])
def test_a_lone_surrogate_is_refused_before_a_line_is_written(store, choice):
    out = io.BytesIO()
    with pytest.raises(es.ValueRefused, match="lone surrogate"):
        dump(store, out, **choice)
    assert out.getvalue() == b""


# A random store


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
NUMBER = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
SEALED = st.lists(st.integers(0, 9), max_size=3).map(lambda items: opaque(*items))
WRITE = st.one_of(
    st.tuples(st.just("replace"), st.sampled_from("abc"), VALUE),
    st.tuples(st.just("append"), st.sampled_from("xy"), st.integers(0, 9)),
    st.tuples(st.just("extend"), st.just("o"), SEALED),
    st.tuples(st.just("sum"), st.just("n"), st.integers(-9, 9) | st.sampled_from([0.1, 1e16])),
    st.tuples(st.just("merge"), st.just("m"), st.dictionaries(st.sampled_from("xyz"), st.integers(-9, 9), max_size=2)),
)  # fmt: skip
ACT = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 9), st.lists(WRITE, max_size=4)),
    st.tuples(st.just("fork"), st.integers(0, 9), st.integers(0, 99)),
    st.tuples(st.just("trim"), st.integers(0, 9), st.integers(0, 99)),
    st.tuples(st.just("barrier"), st.integers(0, 9), st.none()),
    st.tuples(st.just("decide"), st.integers(0, 9), st.none()),
    st.tuples(st.just("note"), st.integers(0, 9), TEXT),
    st.tuples(st.just("mark"), st.integers(0, 9), st.none()),
    st.tuples(st.just("erase"), st.integers(0, 9), st.none()),
    st.tuples(st.just("end"), st.integers(0, 9), st.none()),
)
TINY = es.AdaptiveFold(min_tail_deltas=2, min_tail_rows=1, min_link_bytes=64, max_link_bytes=256, small_state_bytes=0)


def act(store, ids, what, number, value):
    trace_id = ids[number % len(ids)]
    trace = store.open_trace(trace_id)
    try:
        if what == "step":
            with trace.step("work", append_id=f"id-{trace.version}" if number % 2 else None) as step:
                for how, key, item in value:
                    getattr(step, how)(key, item)
        elif what == "fork":
            ends = [event.seq for event in store.events(trace_id)]
            ids.append(store.fork(trace_id, ends[value % len(ends)] if ends else None).id)
        elif what == "trim":
            store.trim(trace_id, max(1, trace.version - value % 5), retry_window_s=0)
        elif what == "barrier":
            trace.raise_barrier("ask", deadline_us=4_000_000_000_000_000)
        elif what == "decide" and trace.pending_barriers:
            trace.decide(trace.pending_barriers[0], es.Modify({"d": 1}))
        elif what == "note":
            trace.note("said", value)
        elif what == "mark":
            trace.checkpoint()
        elif what == "erase" and len(ids) > 1:
            store.erase(trace_id)
            ids.remove(trace_id)
        elif what == "end":
            trace.end()
    except (es.NotAStepBoundary, es.RetentionBlocked, es.TraceEndedError, es.SeqOutOfRange, es.DeltaApply):
        pass  # this one cannot be done here


@given(acts=st.lists(ACT, max_size=40), again=st.lists(ACT, max_size=8))
@settings(max_examples=40)
def test_any_store_comes_back_and_goes_on(tmp_path_factory, acts, again):
    folder = tmp_path_factory.mktemp("dump")
    with (
        es.open(folder / "a.db", durability="normal", fold_policy=TINY) as store,
        es.open(folder / "b.db", durability="normal", fold_policy=TINY) as other,
    ):
        ids = [store.start({"a": 1}).id]
        for one in acts:
            act(store, ids, *one)
        assert loaded(other, dumped(store))[1] == []
        same(store, other)
        erased = len(contents(store)["tombstone"])
        for one in again:
            if one[0] not in ("trim", "erase"):  # what is gone there is still here
                act(store, ids, *one)
        assert loaded(other, dumped(store))[1] == []
        same(store, other, but=("checkpoint",))  # none comes where nothing was added
        assert len(contents(other)["tombstone"]) == erased


def test_memory_stays_flat(tmp_path):
    """Ten times the commits take no more memory, out and in."""
    code = (
        "import resource, sys, eventstore as es\nfrom eventstore import dump, load\n"
        "which, source, file = sys.argv[1:]\n"
        "with es.open(source, durability='normal') as store:\n"
        "    if which == 'out':\n"
        "        with open(file, 'wb') as out: dump(store, out)\n"
        "    else:\n"
        "        with open(file, 'rb') as lines: load(store, lines)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = {}
    for steps in (300, 6000):
        source, file = tmp_path / f"{steps}.db", tmp_path / f"{steps}.jsonl"
        with es.open(source, durability="normal") as store:
            trace = store.start({"text": ""}, id="t1")
            for number in range(steps):
                with trace.step("work") as step:
                    step.put("text", f"{number}" * 100)
        for which, target in (("out", source), ("in", tmp_path / f"{steps}.in.db")):
            found = subprocess.run([sys.executable, "-c", code, which, target, file], capture_output=True, check=True)
            peaks[which, steps] = int(found.stdout)
    for which in ("out", "in"):
        assert peaks[which, 6000] < peaks[which, 300] + 8 * 1024, peaks
