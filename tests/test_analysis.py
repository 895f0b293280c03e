"""The analysis database: what every table holds, and that bringing it up to date gives what a fresh export gives."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

import eventstore as es
from eventstore.analysis import Exported, export_analysis
from eventstore.analysis import batch as analysis_batch
from eventstore.analysis import export as analysis
from eventstore.analysis import target as analysis_target
from eventstore.analysis.schema import TABLES, VIEWS
from eventstore.errors import ExportRefused
from eventstore.opaque import Opaque

NOW = {"retry_window_s": 0}
USER = {"role": "user", "content": "Refund my árvíztűrő teapot"}
CALLS = [{"id": "c1", "function": {"name": "refund", "arguments": "{}"}}]
PARTS = [
    {"type": "text", "text": "two"},
    {"type": "image_url", "image_url": {"url": "x"}},
    {"type": "text", "text": "parts"},
]


EVERY_SEQ = (
    "SELECT count(*), max(seq) FROM (SELECT seq FROM deltas WHERE trace_id = ?1 UNION"
    " SELECT seq FROM steps WHERE trace_id = ?1 UNION SELECT seq FROM events WHERE trace_id = ?1)"
)


@pytest.fixture
def target(tmp_path):
    return str(tmp_path / "analysis.db")


def rows(target, sql, *parameters):
    with closing(sqlite3.connect(target)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql, parameters)]


def tuples(target, sql, *parameters):
    return [tuple(row.values()) for row in rows(target, sql, *parameters)]


def whole(target):
    """Every row of every table; the ids of messages, which say only what was exported when, left out."""
    found = {}
    for name, table in TABLES.items():
        columns = ", ".join(f'"{column}"' for column in table.columns if column != "id")
        found[name] = sorted(tuples(target, f"SELECT {columns} FROM {name}"), key=repr)
    return found


def sound(target):
    """Check the file itself, its foreign keys, its search index and its views."""
    assert tuples(target, "PRAGMA integrity_check") == [("ok",)]
    assert tuples(target, "PRAGMA foreign_key_check") == []
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("INSERT INTO messages_fts(messages_fts, rank) VALUES ('integrity-check', 1)")
    for view in VIEWS:
        rows(target, f"SELECT * FROM {view}")
    assert list(Path(target).parent.glob(Path(target).name + "-*")) == []


@pytest.fixture
def known(store):
    """One of everything."""
    trace = store.start({"messages": [USER, {"n": 1}], "n": 0, "kept": Opaque("raw", b"\x01\x02", 2)},
                        id="a", name="chat", reducers={"messages": "append"})  # fmt: skip
    with trace.step("ask", next="answer") as step:
        step.put("messages", [{"role": "assistant", "content": None, "tool_calls": CALLS}])
        step.put("n", 1)
        step.record(token_cost=0.5, duration_ms=20.0)
    with trace.step("answer") as step:
        step.put("messages", [{"role": "tool", "name": "refund", "tool_call_id": "c1", "content": PARTS}])
        step.delete("n")
        step.put("kept", Opaque("raw", b"\x03", 1))
        step.record(token_cost=0.25, duration_ms=10.0, has_side_effects=True)
    store.append("a", [es.StateDelta.splice("messages", 0, 1, [{"role": "user", "content": "edited"}], "import")])
    store.append("a", [es.NodeExecuted("answer", False, "boom", duration_ms=5.0, attempt=2)])
    store.append("a", [es.Note("seen", {"by": "ana"})])
    trace.refresh()
    for number, decision in enumerate(
        [es.Approve(by="ana"), es.Reject("too much", by="bo"), es.Modify({"total": 30}), es.Reroute("review")]
    ):
        trace.raise_barrier("gate", prompt=f"Go on {number}?", keys=["total"])
        trace.decide("gate", decision)
    trace.raise_barrier("gate", prompt="And now?")
    trace.checkpoint()
    return trace


def events(store, trace_id):
    return list(store.events(trace_id))


def seqs(store, trace_id, kind):
    return [event.seq for event in store.events(trace_id) if event.kind == kind]


def test_runs_say_where_they_stand_and_what_they_came_to(store, known, target):
    exported = export_analysis(store, target)
    assert (exported.added, exported.deltas) == (1, len(seqs(store, "a", "delta")))
    (run,) = rows(target, "SELECT * FROM runs")
    info = store.traces()[0]
    barriers = rows(target, "SELECT waited_s FROM barriers WHERE decided_seq IS NOT NULL ORDER BY decided_seq")
    assert run == {
        "trace_id": "a", "name": "chat", "status": "waiting", "version": known.version,
        "started_at": info.created_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "updated_at": info.updated_at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "steps": 2, "failed_attempts": 1, "duration_ms": 35.0, "token_cost": 0.75,
        "waited_s": pytest.approx(sum(row["waited_s"] for row in barriers)),
        "pending_barriers": 1, "parent_trace_id": None, "fork_seq": None, "graph_hash": "",
        "state": run["state"],
    }  # fmt: skip
    state = store.state_at("a")
    kept = {"opaque": "raw", "items": 1, "bytes": 1}
    assert json.loads(run["state"]) == {**state, "kept": kept}
    sound(target)


def test_steps_are_the_executions(store, known, target):
    export_analysis(store, target)
    entries = known.entries()
    found = rows(target, "SELECT * FROM steps ORDER BY seq")
    assert [(row["seq"], row["node"], row["branch"], row["attempt"], bool(row["success"]), row["error"],
             row["duration_ms"], row["token_cost"], bool(row["has_side_effects"]), row["step"] or 0)
            for row in found] == [
        (entry.seq, entry.node_name, entry.branch, entry.attempt, entry.success, entry.error,
         entry.metadata.duration_ms, entry.metadata.token_cost, entry.metadata.has_side_effects, entry.step)
        for entry in entries
    ]  # fmt: skip
    assert [row["started_at"] for row in found] == [
        entry.start_time.isoformat(timespec="microseconds").replace("+00:00", "Z") for entry in entries
    ]
    assert [(row["next"], row["success"], row["error"]) for row in found] == [
        ("answer", 1, None), (None, 1, None), (None, 0, "boom")
    ]  # fmt: skip


def test_deltas_are_the_logs_with_the_step_that_wrote_them(store, known, target):
    export_analysis(store, target)
    found = rows(target, "SELECT d.*, s.node AS step_node FROM deltas d LEFT JOIN steps s"
                         " ON s.trace_id = d.trace_id AND s.seq = d.step_seq ORDER BY d.seq")  # fmt: skip
    logged = [event for event in events(store, "a") if event.kind == "delta"]
    assert [(row["seq"], row["key"], row["op"], row["source"]) for row in found] == [
        (event.seq, event.event.key, event.event.op, event.event.source) for event in logged
    ]
    for row, event in zip(found, logged, strict=True):
        if row["op"] == "delete":
            assert row["value"] is None
        elif row["key"] != "kept":
            assert json.loads(row["value"]) == event.event.value
    (kept,) = (row["value"] for row in found if row["key"] == "kept")
    assert json.loads(kept) == {"opaque": "raw", "items": 1, "bytes": 1}
    assert [row["step_node"] for row in found[:5]] == ["ask"] * 2 + ["answer"] * 3
    assert [row["step"] for row in found[:5]] == [1, 1, 2, 2, 2]
    human = [row for row in found if row["source"] == "human"]
    assert human and {(row["node"], row["step_seq"]) for row in human} == {("gate", None)}
    (imported,) = (row for row in found if row["source"] == "import")
    assert (imported["node"], imported["step"]) == (None, None)


def test_every_event_is_a_delta_a_step_or_an_event(store, known, target):
    export_analysis(store, target)
    found = tuples(target, "SELECT seq, 'delta' FROM deltas UNION ALL SELECT seq, 'node_executed' FROM steps"
                           " UNION ALL SELECT seq, kind FROM events ORDER BY 1")  # fmt: skip
    assert found == [(event.seq, event.kind) for event in events(store, "a")]
    (note,) = tuples(target, "SELECT data FROM events WHERE kind = 'note'")
    assert json.loads(note[0]) == {"name": "seen", "data": {"by": "ana"}}
    (started,) = tuples(target, "SELECT data ->> '$.state.kept.opaque' FROM events WHERE kind = 'trace_started'")
    assert started == ("raw",)


def test_barriers_tell_all_four_decisions(store, known, target):
    export_analysis(store, target)
    found = rows(target, "SELECT * FROM barriers ORDER BY raised_seq")
    raised, decided = seqs(store, "a", "barrier_raised"), seqs(store, "a", "barrier_decided")
    assert [(row["barrier_id"], row["node"], row["reason"], row["action"], row["decided_by"], row["detail"])
            for row in found] == [
        ("gate#1", "gate", "gate", "approve", "ana", None),
        ("gate#2", "gate", "gate", "reject", "bo", "too much"),
        ("gate#3", "gate", "gate", "modify", None, '{"total":30}'),
        ("gate#4", "gate", "gate", "reroute", None, "review"),
        ("gate#5", "gate", "gate", None, None, None),
    ]  # fmt: skip
    assert [row["raised_seq"] for row in found] == raised
    assert [row["decided_seq"] for row in found] == [*decided, None]
    assert [row["prompt"] for row in found] == [*(f"Go on {number}?" for number in range(4)), "And now?"]
    assert all(row["waited_s"] >= 0 for row in found[:4]) and found[4]["waited_s"] is None
    assert tuples(target, "SELECT barrier_id, prompt FROM waiting") == [("gate#5", "And now?")]


def test_checkpoints_are_the_stores(store, known, target):
    export_analysis(store, target)
    found = {row["checkpoint_id"]: row for row in rows(target, "SELECT * FROM checkpoints")}
    listed = store.checkpoints.list("a")
    assert found.keys() == {str(checkpoint.checkpoint_id) for checkpoint in listed}
    for checkpoint in listed:
        row = found[str(checkpoint.checkpoint_id)]
        assert (row["seq"], row["node"]) == (checkpoint.seq, checkpoint.current_node)
        assert json.loads(row["triggers"]) == [trigger.name for trigger in checkpoint.triggers]


def test_messages_are_found_in_every_op_and_by_their_words(store, known, target):
    export_analysis(store, target)
    found = tuples(target, "SELECT key, item, role, name, content, tool_calls, tool_call_id FROM messages ORDER BY seq")
    assert found == [
        ("messages", 0, "user", None, USER["content"], None, None),
        ("messages", 0, "assistant", None, None, json.dumps(CALLS, separators=(",", ":")), None),
        ("messages", 0, "tool", "refund", "two\nparts", None, "c1"),
        ("messages", 0, "user", None, "edited", None, None),
    ]
    search = "SELECT m.role FROM messages_fts f JOIN messages m ON m.id = f.rowid WHERE messages_fts MATCH ?"
    assert tuples(target, search, "teapot") == [("user",)]
    assert tuples(target, search, "arvizturo") == [("user",)]
    assert tuples(target, search, '"two parts"') == [("tool",)]
    assert tuples(target, search, "nothing") == []


def test_a_fork_repeats_nothing_and_its_tree_and_lineage_tell_where_it_is_from(store, record, target):
    trace = record(store, 3)
    fork = store.fork("t1", at=9, id="t2", name="retry")
    with fork.step("other") as step:
        step.put("n", 5)
    with store.fork("t2", id="t3").step("third") as step:
        step.put("n", 6)
    export_analysis(store, target)
    assert tuples(target, "SELECT trace_id, min(seq) FROM steps GROUP BY 1") == [("t1", 5), ("t2", 12), ("t3", 15)]
    assert tuples(target, "SELECT trace_id, node, step FROM steps WHERE trace_id > 't1'") == [
        ("t2", "other", 3), ("t3", "third", 4)
    ]  # fmt: skip
    assert tuples(target, "SELECT trace_id, depth, path FROM run_tree") == [
        ("t1", 0, "t1"), ("t2", 1, "t1 > t2"), ("t3", 2, "t1 > t2 > t3")
    ]  # fmt: skip
    assert tuples(target, "SELECT owner, after_seq, upto_seq FROM lineage WHERE trace_id = 't3'") == [
        ("t1", 0, 9), ("t2", 9, 12), ("t3", 12, 15)
    ]  # fmt: skip
    of_lineage = (
        "SELECT d.seq FROM lineage l JOIN deltas d ON d.trace_id = l.owner AND d.seq > after_seq AND d.seq <= upto_seq"
        " WHERE l.trace_id = 't3' ORDER BY d.seq"
    )
    assert [seq for (seq,) in tuples(target, of_lineage)] == seqs(store, "t3", "delta")
    assert json.loads(tuples(target, "SELECT state FROM runs WHERE trace_id = 't3'")[0][0]) == store.state_at("t3")
    assert trace.version == 13
    sound(target)


def test_branches_are_steps_of_their_node_and_costs_are_summed(store, target):
    graph = es.Graph("fan")

    @graph.node
    def left(ctx):
        ctx.record(token_cost=1.0, duration_ms=10.0)
        return {"left": 1}

    @graph.node
    def right(ctx):
        ctx.record(token_cost=2.0, duration_ms=30.0)
        return {"right": 1}

    result = es.run(graph.parallel("both", "left", "right").start("both").end("both"), store, {}, id="f")
    export_analysis(store, target)
    entries = [(entry.node_name, entry.branch, entry.step) for entry in result.execution_log]
    assert tuples(target, "SELECT node, branch, step FROM steps ORDER BY seq") == entries
    found = {(row["node"], row["branch"]): row for row in rows(target, "SELECT * FROM costs_by_node")}
    assert found["both", "right"]["token_cost"] == 2.0 and found["both", "left"]["median_duration_ms"] == 10.0
    (run,) = rows(target, "SELECT * FROM runs")
    assert (run["token_cost"], run["duration_ms"], run["status"]) == (
        result.token_cost, pytest.approx(result.duration_ms, abs=0.001), "completed"
    )  # fmt: skip
    assert len(tuples(target, "SELECT 1 FROM deltas WHERE node = 'both'")) == 2
    sound(target)


def test_the_views_count_and_find_the_middle(store, target):
    for number, durations in enumerate(([1.0, 9.0], [4.0])):
        trace = store.start({}, id=f"t{number}", name="chat")
        for duration in durations:
            with trace.step("ask") as step:
                step.put("n", duration)
                step.record(duration_ms=duration, token_cost=0.5)
    store.append("t1", [es.NodeExecuted("ask", False, "boom", duration_ms=6.0)])
    export_analysis(store, target)
    assert tuples(target, "SELECT node, runs, executions, failures, total_duration_ms, median_duration_ms,"
                          " longest_duration_ms, token_cost FROM costs_by_node") == [
        ("ask", 2, 4, 1, 20.0, 5.0, 9.0, 1.5)
    ]  # fmt: skip
    assert tuples(target, "SELECT duration_ms FROM slowest_steps") == [(9.0,), (6.0,), (4.0,), (1.0,)]
    assert tuples(target, "SELECT error, name FROM failures") == [("boom", "chat")]
    assert tuples(target, "SELECT key, node, source, deltas, runs FROM writers_of_keys") == [("n", "ask", "node", 3, 2)]


# Again


def change(store, number):
    """One more round of everything, on traces that are there and new ones."""
    new = store.start({"messages": [{"role": "user", "content": f"round {number}"}]}, id=f"r{number}", name="round")
    new.raise_barrier("gate", prompt="?")
    trace = store.open_trace("t1")
    with trace.step("more", next="on") as step:
        step.append("log", {"role": "user", "content": f"word{number}"})
        step.record(token_cost=0.1, duration_ms=0.3)
    store.append("t1", [es.NodeExecuted("more", False, "boom", duration_ms=0.7, token_cost=0.7)])
    trace = store.open_trace("t1")
    if trace.pending_barriers:
        trace.decide("hold", es.Approve())
    trace.raise_barrier("hold")
    if number:
        store.decide(f"r{number - 1}", "gate", es.Reject("no"))
        fork = store.fork(f"r{number - 1}", id=f"f{number}")
        fork.end()
        store.open_trace(f"r{number - 1}").checkpoint()
    if number == 2:
        newest = store.checkpoints.list("r0")[0]
        store.checkpoints.delete(newest.checkpoint_id)
    if number == 3:
        store.erase("f1")


def test_bringing_up_to_date_gives_what_a_fresh_export_gives(store, record, target, tmp_path):
    record(store, 20)
    for number in range(5):
        change(store, number)
        exported = export_analysis(store, target)
        fresh = str(tmp_path / f"fresh{number}.db")
        export_analysis(store, fresh)
        assert whole(target) == whole(fresh)
        sound(target)
        assert exported.removed == (number == 3)
        again = export_analysis(store, target)
        assert (again.added, again.updated, again.removed, again.deltas) == (0, 0, 0, 0)
        assert again.unchanged == len(store.traces())
    search = "SELECT count(*) FROM messages_fts WHERE messages_fts MATCH ?"
    assert [tuples(target, search, f"word{number}") for number in range(5)] == [[(1,)]] * 5


def test_a_second_export_reads_only_what_is_new(store, record, target, monkeypatch):
    trace = record(store, 600)
    export_analysis(store, target)
    with trace.step("more") as step:
        step.put("n", 1)
    read = []
    pages = store._reader.pages
    monkeypatch.setattr(
        store._reader, "pages", lambda row, after, upto: read.append((after, upto)) or pages(row, after, upto)
    )
    exported = export_analysis(store, target)
    assert read == [(trace.version - 2, trace.version)]
    assert (exported.updated, exported.steps, exported.deltas) == (1, 1, 1)


def test_a_checkpoint_made_apart_is_picked_up_and_a_deleted_one_goes(store, known, target):
    export_analysis(store, target)
    extra = store.checkpoints.save(es.Checkpoint.new("a", "", "x", store.state_at("a")))
    assert export_analysis(store, target).updated == 1
    assert tuples(target, "SELECT node FROM checkpoints WHERE checkpoint_id = ?", str(extra.checkpoint_id)) == [("x",)]
    store.checkpoints.delete(extra.checkpoint_id)
    assert export_analysis(store, target).updated == 1
    assert tuples(target, "SELECT 1 FROM checkpoints WHERE checkpoint_id = ?", str(extra.checkpoint_id)) == []


def test_a_trimmed_run_starts_at_its_root_and_loses_nothing_exported(store, record, target, tmp_path):
    trace = record(store, 10)
    early = str(tmp_path / "early.db")
    export_analysis(store, early)
    store.trim("t1", 21, **NOW)
    export_analysis(store, target)
    assert tuples(target, "SELECT min(seq), max(seq), count(*) FROM steps") == [(25, 41, 5)]
    assert tuples(target, "SELECT step FROM steps ORDER BY seq") == [(number,) for number in range(6, 11)]
    with trace.step("more") as step:
        step.put("n", 1)
    for file, count in ((early, 11), (target, 6)):
        exported = export_analysis(store, file)
        assert (exported.updated, exported.steps) == (1, 1)
        assert tuples(file, "SELECT count(*), max(step) FROM steps") == [(count, 11)]
        assert tuples(file, "SELECT steps, version FROM runs") == [(count, trace.version)]
        sound(file)


def test_a_run_that_was_trimmed_beyond_what_was_exported_goes_on_at_its_root(store, record, target):
    trace = record(store, 5)
    export_analysis(store, target)
    for _ in range(3):
        with trace.step("more") as step:
            step.put("n", 1)
    store.trim("t1", trace.version - 2, **NOW)
    export_analysis(store, target)
    assert tuples(target, "SELECT step FROM steps ORDER BY seq") == [(1,), (2,), (3,), (4,), (5,), (8,)]
    assert json.loads(tuples(target, "SELECT state FROM runs")[0][0]) == store.state_at("t1")


def test_an_erased_run_leaves_no_word_behind(store, record, target):
    record(store, 5)
    trace = store.start({"messages": [{"role": "user", "content": "zanzibar"}], "secret": "quagga"}, id="gone")
    store.fork("gone", id="gone too")
    with trace.step("x") as step:
        step.put("secret", "okapi")
    export_analysis(store, target)
    assert b"zanzibar" in Path(target).read_bytes()
    store.erase("gone", cascade=True)
    assert export_analysis(store, target, trace_ids=["t1"]).removed == 2
    content = Path(target).read_bytes()
    assert not [word for word in (b"zanzibar", b"quagga", b"okapi", b"gone") if word in content]
    assert tuples(target, "SELECT trace_id FROM runs") == [("t1",)]
    sound(target)


def test_a_log_that_says_otherwise_is_exported_anew(path, tmp_path, record, target):
    with es.open(path, durability="normal") as store:
        record(store, 3)
    old = str(tmp_path / "old.db")
    shutil.copy(path, old)
    with es.open(path, durability="normal") as store:
        with store.open_trace("t1").step("one") as step:
            step.put("n", 1)
        export_analysis(store, target)
    with es.open(old, durability="normal") as store:
        assert export_analysis(store, target).updated == 1  # restored from a backup: shorter
        assert tuples(target, "SELECT version FROM runs") == [(13,)]
        with store.open_trace("t1").step("other") as step:
            step.replace("text", "other")
        assert export_analysis(store, target).updated == 1
    with es.open(path, durability="normal") as store:
        with store.open_trace("t1").step("two") as step:
            step.put("n", 1)
        assert export_analysis(store, target).updated == 1  # longer, and another history before
        fresh = str(tmp_path / "fresh.db")
        export_analysis(store, fresh)
        assert whole(target) == whole(fresh)
        sound(target)


# Which runs


def test_chosen_runs_come_with_what_they_were_forked_from(store, record, target):
    record(store, 3)
    record(store, 2, id="t9")
    store.fork("t1", id="t2", name="retry").end()
    assert export_analysis(store, target, name="retry").added == 2
    assert tuples(target, "SELECT trace_id FROM runs ORDER BY 1") == [("t1",), ("t2",)]
    sound(target)
    assert export_analysis(store, target, trace_ids=["t9"]).added == 1
    assert export_analysis(store, target, status="completed").unchanged == 2
    assert export_analysis(store, target, trace_ids=[]).unchanged == 0
    with pytest.raises(es.TraceNotFound):
        export_analysis(store, target, trace_ids=["nobody"])


def test_no_trace_gives_an_empty_database(store, target):
    assert export_analysis(store, target).added == 0
    assert {name: len(found) for name, found in whole(target).items()} == dict.fromkeys(TABLES, 0)
    sound(target)


def test_unicode_and_a_huge_value_come_through(store, target):
    name, key, value = "名\u202e\x1b", "clé 🔑", {"text": "𝄞\u0000\u2028" * 3, "n": [1.5, None, 2**62]}
    trace = store.start({}, id="ü", name=name)
    with trace.step("nœud") as step:
        step.put(key, value)
        step.put("huge", "x" * 20_000_000)
        step.put("messages", [{"role": "user", "content": "naïve\u0000café"}])
    export_analysis(store, target)
    found = tuples(
        target, "SELECT r.name, d.node, d.key, d.value FROM deltas d JOIN runs r USING (trace_id) ORDER BY seq"
    )
    assert found[0][:3] == (name, "nœud", key) and json.loads(found[0][3]) == value
    assert len(found[1][3]) == 20_000_002
    assert tuples(target, "SELECT content FROM messages") == [("naïve\u0000café",)]
    sound(target)


# What happens meanwhile


def test_runs_that_go_on_meanwhile_are_exported_up_to_what_was_seen(path, store, record, target):
    traces = [record(store, 5, id=f"t{number}") for number in range(4)]
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for trace in traces:
                with trace.step("more") as step:
                    step.append("log", {"role": "user", "content": "x"})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            export_analysis(store, target)
            for trace_id, version, state in tuples(target, "SELECT trace_id, version, state FROM runs"):
                assert json.loads(state) == store.state_at(trace_id, version)
                assert tuples(target, EVERY_SEQ, trace_id) == [(version, version)]
    finally:
        stop.set()
        writer.join()
    sound(target)


@pytest.mark.parametrize("change", ["trim", "erase"])
def test_a_run_that_is_trimmed_or_erased_while_it_is_read_is_looked_at_again(
    store, record, target, monkeypatch, change
):
    record(store, 8)
    record(store, 10, id="t2")
    looked_at = analysis.source.looked_at
    restore = store._reader.restore
    left = ["once"]

    def meddling(trace_id, *arguments, **keywords):
        if trace_id == "t2" and left:
            left.pop()
            if change == "trim":
                trace = store.open_trace("t2")
                with trace.step("more") as step:
                    step.put("n", 1)
                store.trim("t2", trace.version, **NOW)
            else:
                store.erase("t2")
        return restore(trace_id, *arguments, **keywords)

    looks = []
    monkeypatch.setattr(store._reader, "restore", meddling)
    monkeypatch.setattr(analysis.source, "looked_at", lambda *a: looks.append(1) or looked_at(*a))
    exported = export_analysis(store, target)
    assert not left and len(looks) == 2
    assert exported.added == len(store.traces()) and exported.removed == 0
    assert tuples(target, "SELECT trace_id FROM runs ORDER BY 1") == [
        (info.trace_id,) for info in reversed(store.traces())
    ]
    sound(target)


KILLED = """
import os, sys
import eventstore as es
from eventstore.analysis import batch as analysis_batch
from eventstore.analysis import export as analysis
from eventstore.analysis.target import Target
analysis.PAGE_RUNS, analysis.BATCH_ROWS, analysis_batch.BUFFER_ROWS = 3, 10, 5
writes = 0
write = Target.write
def counted(self, rows):
    global writes
    writes += 1
    if writes == int(sys.argv[3]):
        os._exit(9)
    write(self, rows)
Target.write = counted
with es.open(sys.argv[1], read_only=True) as store:
    analysis.export_analysis(store, sys.argv[2])
"""


def test_a_killed_export_goes_on_where_it_stopped(path, store, record, target, tmp_path):
    for number in range(10):
        record(store, 6, id=f"t{number}")
    store.fork("t3", id="f").end()
    fresh = str(tmp_path / "fresh.db")
    export_analysis(store, fresh)
    kept = []
    for kill_at in (1, 4, 9, 2, 3):
        killed = subprocess.run([sys.executable, "-c", KILLED, path, target, str(kill_at)], check=False)
        assert killed.returncode == 9
        kept.append(len(tuples(target, "SELECT 1 FROM export_progress")))
        runs = {row["trace_id"]: row for row in rows(fresh, "SELECT * FROM runs")}
        assert all(runs[row["trace_id"]] == row for row in rows(target, "SELECT * FROM runs"))
    assert kept == sorted(kept) and 0 < kept[-1] < 11
    exported = export_analysis(store, target)
    assert (exported.added, exported.unchanged) == (11 - kept[-1], kept[-1])
    assert whole(target) == whole(fresh)
    sound(target)


def test_an_error_leaves_what_was_committed_and_a_damaged_run_does_not_keep_the_others(
    path, store, record, target, tamper
):
    for number in range(3):
        record(store, 4, id=f"t{number}")
    store.drop_bases()
    tamper('UPDATE log SET body = \'[{"kind":"delta","key":7}]\', n = 1 WHERE trace = 2 AND first_seq = 6')
    exported = export_analysis(store, target)
    assert (exported.added, len(exported.damaged)) == (2, 1) and "t1" in exported.damaged[0]
    assert tuples(target, "SELECT trace_id FROM runs ORDER BY 1") == [("t0",), ("t2",)]
    sound(target)


def test_a_fork_of_a_damaged_run_waits_for_its_parent(store, record, target, tamper):
    record(store, 4)
    store.fork("t1", id="f").end()
    record(store, 2, id="t2")
    tamper('UPDATE log SET body = \'[{"kind":"delta","key":7}]\', n = 1 WHERE trace = 1 AND first_seq = 2')
    exported = export_analysis(store, target)
    assert (exported.added, len(exported.damaged)) == (1, 2)
    assert tuples(target, "SELECT trace_id FROM runs") == [("t2",)]
    sound(target)


# Wrong targets


def untouched(folder):
    """What stands in a folder; the store's own files, which nobody else may open here, as the system tells of them."""
    found = {}
    for path in Path(folder).iterdir():
        status = path.stat()
        is_own = path.name.startswith("runs.db") or path.is_symlink() or status.st_nlink > 1
        found[path.name] = (status.st_size, status.st_mtime_ns, None if is_own or path.is_dir() else path.read_bytes())
    return found


def refused(store, target, why):
    before = untouched(Path(target).parent)
    with pytest.raises(ExportRefused, match=why) as error:
        export_analysis(store, target)
    assert error.value.path == str(target)
    assert untouched(Path(target).parent) == before


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-lock"])
def test_the_stores_own_files_are_refused_whatever_they_are_called(path, store, record, tmp_path, end):
    record(store, 2)
    (tmp_path / "symbolic.db").symlink_to(path + end)
    (tmp_path / "hard.db").hardlink_to(path + end)
    for target in (path + end, str(tmp_path / "symbolic.db"), str(tmp_path / "hard.db")):
        refused(store, target, "open event store")
    with store.open_trace("t1").step("more") as step:
        step.put("n", 1)
    assert store.verify().ok


def test_another_event_store_is_refused(store, tmp_path, target):
    with es.open(target) as other:
        other.start({})
        with pytest.raises(ExportRefused, match="open event store"):
            export_analysis(store, target)
        assert other.verify().ok
    refused(store, target, "an event store")


def test_an_event_store_open_in_another_process_keeps_its_locks_and_is_refused(store, target):
    with es.open(target) as other:
        other.start({})
    script = (
        "import sys, eventstore as es\n"
        "with es.open(sys.argv[1]) as store:\n"
        "    store.start({}); print('ready', flush=True); sys.stdin.readline(); store.start({})\n"
        "    print(store.verify().ok)\n"
    )
    command = [sys.executable, "-c", script, target]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(ExportRefused, match="an event store"):
            export_analysis(store, target)
        assert process.communicate("\n")[0] == "True\n"


def test_other_files_are_refused_untouched(store, tmp_path):
    notes, text, newer = (str(tmp_path / name) for name in ("notes.db", "text.txt", "newer.db"))
    with closing(sqlite3.connect(notes)) as connection:
        connection.execute("CREATE TABLE note (text)")
    Path(text).write_text("hello " * 50)
    export_analysis(store, newer)
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version = 99")
    refused(store, notes, "another application")
    refused(store, text, "not an SQLite file")
    refused(store, newer, "format 99")
    (tmp_path / "folder").mkdir()
    refused(store, str(tmp_path / "folder"), "not a file")
    with pytest.raises(es.StorageError, match="cannot be created"):
        export_analysis(store, str(tmp_path / "no folder" / "x.db"))


def test_an_empty_file_and_an_export_with_tables_of_ones_own_are_fine(store, record, target):
    record(store, 2)
    Path(target).touch()
    assert export_analysis(store, target).added == 1
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("CREATE TABLE mine (n)")
        connection.execute("CREATE VIEW best AS SELECT * FROM runs")
    assert export_analysis(store, target).unchanged == 1
    assert tuples(target, "SELECT count(*) FROM best") == [(1,)]


def test_a_target_in_use_says_so(store, record, target, monkeypatch):
    record(store, 2)
    export_analysis(store, target)
    monkeypatch.setattr(analysis_target, "WAIT_S", 0.05)
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(es.StoreBusy, match="locked by another process"):
            export_analysis(store, target)


def test_a_file_that_is_made_is_its_users_alone(store, target):
    export_analysis(store, target)
    assert Path(target).stat().st_mode & 0o777 == 0o600


def test_the_record_goes_to_json_and_back(store, record, target):
    record(store, 2)
    told = []
    exported = export_analysis(store, target, on_progress=lambda *figures: told.append(figures))
    assert Exported.from_json(exported.to_json()) == exported
    assert told[-1] == (1, 1, exported.deltas) and exported.file_bytes == Path(target).stat().st_size


def test_a_long_run_is_read_in_pages(store, record, target, monkeypatch):
    record(store, 700)
    biggest = 0
    write = analysis_target.Target.write

    def watched(self, waiting):
        nonlocal biggest
        biggest = max(biggest, sum(map(len, waiting.values())))
        write(self, waiting)

    monkeypatch.setattr(analysis_target.Target, "write", watched)
    assert export_analysis(store, target).deltas == 2100
    assert biggest < analysis_batch.BUFFER_ROWS + 256 * 5


# Two exports at once


def exported_by_another(path, target, trace_id):
    script = (
        "import sys, eventstore as es\n"
        "from eventstore.analysis import export_analysis\n"
        "with es.open(sys.argv[1], read_only=True) as store:\n"
        "    export_analysis(store, sys.argv[2], trace_ids=[sys.argv[3]])\n"
    )
    subprocess.run([sys.executable, "-c", script, path, target, trace_id], check=True)


def test_another_export_that_finishes_the_new_file_meanwhile_leaves_the_words_right(path, store, target, monkeypatch):
    for number in range(6):
        store.start({"messages": [{"role": "user", "content": f"hello word{number}"}]}, id=f"r{number}")
    monkeypatch.setattr(analysis, "PAGE_RUNS", 2)
    told = []

    def meddling(done, total, deltas):
        told.append(done)
        if told.count(2) == 1 and done == 2:
            exported_by_another(path, target, "r0")

    assert export_analysis(store, target, on_progress=meddling).added == 6
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab('main', 'messages_fts', 'row')")
        assert connection.execute("SELECT doc, cnt FROM temp.words WHERE term = 'hello'").fetchall() == [(6, 6)]
    sound(target)


def test_what_is_forgotten_after_another_export_finished_the_file_takes_its_words_once(
    path, store, target, monkeypatch
):
    for number in range(3):
        store.start({"messages": [{"role": "user", "content": f"hello word{number}"}]}, id=f"r{number}")
    monkeypatch.setattr(analysis, "PAGE_RUNS", 1)
    told = []

    def meddling(done, total, deltas):
        if not told and done == 1:
            told.append(done)
            exported_by_another(path, target, "r1")
            with closing(sqlite3.connect(target)) as connection:
                connection.execute("UPDATE export_progress SET digest = 'another' WHERE trace_id = 'r1'")
                connection.commit()

    exported = export_analysis(store, target, on_progress=meddling)
    assert (exported.added, exported.updated) == (2, 1)
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab('main', 'messages_fts', 'row')")
        assert connection.execute("SELECT doc, cnt FROM temp.words WHERE term = 'hello'").fetchall() == [(3, 3)]
    sound(target)


def test_a_file_that_another_export_finished_is_written_with_syncs(path, store, record, target):
    record(store, 2)
    first = analysis_target.Target(target)
    try:
        (before,) = first._rows("PRAGMA synchronous")
        exported_by_another(path, target, "t1")
        with first.transaction():
            (after,) = first._rows("PRAGMA synchronous")
        first.finish()
    finally:
        first.close()
    assert (before[0], after[0]) == (0, 1)
    sound(target)


def test_runs_are_looked_at_when_no_other_export_can_go_further(store, record, target, monkeypatch):
    record(store, 2)
    looked_at, tried = analysis.source.looked_at, []

    def watched(*arguments):
        with closing(sqlite3.connect(target, timeout=0)) as connection:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                connection.execute("BEGIN IMMEDIATE")
            tried.append(1)
        return looked_at(*arguments)

    monkeypatch.setattr(analysis.source, "looked_at", watched)
    export_analysis(store, target)
    assert tried == [1]


# Numbers beyond what a column or JSON can hold


def test_durations_and_costs_without_end_are_exported(store, target, tmp_path):
    trace = store.start({"n": 0}, id="t1")
    trace.append([es.NodeExecuted("a", duration_ms=1e306, token_cost=1.7e308)])
    export_analysis(store, target)
    trace.append([es.NodeExecuted("a", duration_ms=1.7e308, token_cost=1.7e308)])
    trace.append([es.NodeExecuted("a", duration_ms=1.7e308, token_cost=1.0)])
    store.start({"n": 0}, id="t2").append([es.NodeExecuted("b", duration_ms=1.0)])
    assert export_analysis(store, target).damaged == []
    largest = sys.float_info.max
    (costs,) = rows(target, "SELECT * FROM costs_by_node WHERE node = 'a'")
    assert tuples(target, "SELECT duration_ms, token_cost FROM runs") == [(largest, largest), (1.0, 0.0)]
    assert (costs["total_duration_ms"], costs["token_cost"]) == (largest, largest)
    assert tuples(target, "SELECT max(started_at) FROM steps WHERE node = 'a'") == [("0001-01-01T00:00:00.000000Z",)]
    for view in VIEWS:
        json.dumps(rows(target, f"SELECT * FROM {view}"), allow_nan=False)
    fresh = str(tmp_path / "fresh.db")
    export_analysis(store, fresh)
    assert whole(target) == whole(fresh)


# After a trim beyond what was exported


def test_barriers_decided_in_history_that_was_trimmed_are_open_no_more(store, target, tmp_path):
    trace = store.start({"n": 0}, id="t1")
    trace.append([es.BarrierRaised("ask#1", "ask", prompt="first")])
    export_analysis(store, target)
    store.decide("t1", "ask#1", es.Approve())
    trace.refresh()
    with trace.step("work") as step:
        step.put("n", 1)
    store.checkpoints.prune("t1", 0)
    root = trace.version
    store.trim("t1", root, **NOW)
    trace.append([es.BarrierRaised("ask#2", "ask", prompt="second")])
    for _ in range(2):
        export_analysis(store, target)
        assert tuples(target, "SELECT barrier_id FROM waiting") == [("ask#2",)]
        assert tuples(target, "SELECT barrier_id, decided_seq, action, detail FROM barriers ORDER BY 1") == [
            ("ask#1", None, None, "decided in history that was trimmed, at the latest then"),
            ("ask#2", None, None, None),
        ]
        with trace.step("more") as step:
            step.put("n", 2)
    store.decide("t1", "ask#2", es.Approve())
    export_analysis(store, target)
    assert tuples(target, "SELECT barrier_id, action FROM barriers ORDER BY 1") == [
        ("ask#1", None), ("ask#2", "approve")
    ]  # fmt: skip
    sound(target)


@pytest.mark.parametrize("is_fork", [False, True])
def test_steps_that_were_trimmed_between_two_exports_are_counted(store, target, is_fork):
    trace = store.start({"n": 0}, id="t1")

    def work():
        for number in range(3):
            with trace.step("work") as step:
                step.put("n", number)

    work()
    if is_fork:
        trace = store.fork("t1", id="f")
        work()
    export_analysis(store, target)
    work()
    store.trim(trace.id, trace.version, **NOW)
    with trace.step("work") as step:
        step.put("n", 9)
    for _ in range(2):
        export_analysis(store, target)
        (steps,) = tuples(target, "SELECT steps FROM runs WHERE trace_id = ?", trace.id)
        assert steps == (trace.control["steps"] - 3 * is_fork,) == (7,)
        assert export_analysis(store, target).unchanged == 1 + is_fork


@pytest.mark.parametrize("gap", [0, 1])
def test_another_log_of_the_same_id_is_exported_anew_though_it_is_trimmed(tmp_path, target, gap):
    for number, steps in enumerate((5, 5 + 5 * gap)):
        with es.open(str(tmp_path / f"store{number}.db"), durability="normal") as store:
            trace = store.start({"log": []}, id="t1")
            for item in range(steps):
                with trace.step(f"work{number}") as step:
                    step.append("log", item)
            if number:
                store.trim("t1", trace.version, **NOW)
                with trace.step("work1") as step:
                    step.append("log", 99)
            exported = export_analysis(store, target)
            assert (exported.added, exported.updated) == (1 - number, number)
    assert tuples(target, "SELECT node, count(*) FROM steps GROUP BY 1") == [("work1", 1)]
    assert tuples(target, "SELECT steps FROM runs") == [(1,)]
    sound(target)


# At the door


def test_a_path_with_nul_and_a_name_with_a_surrogate_are_refused(store, record, target, tmp_path):
    record(store, 1)
    with pytest.raises(es.StorageError, match="NUL"):
        export_analysis(store, str(tmp_path / "a\0.db"))
    for what in ("name", "status"):
        with pytest.raises(es.ValueRefused, match=f"'{what}' refused: .* lone surrogate"):
            export_analysis(store, target, **{what: "\udcff"})
    assert not Path(target).exists()


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal", "-lock", "-owners"])
@pytest.mark.parametrize("is_there", [False, True])
def test_a_file_beside_another_database_is_refused(store, tmp_path, end, is_there):
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE note (text)")
    target = str(other) + end
    if is_there:
        Path(target).touch()
    refused(store, target, f"the {end} file of other.db")
    (tmp_path / "symbolic.db").symlink_to(target)
    with pytest.raises(ExportRefused, match=f"the {end} file of other.db"):
        export_analysis(store, str(tmp_path / "symbolic.db"))
    assert Path(target).exists() == is_there
    assert export_analysis(store, str(tmp_path / f"alone{end}")).added == 0
