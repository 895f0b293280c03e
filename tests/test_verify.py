"""Verify: whatever was changed in the file is found, with the trace and the first seq where it does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventstore as es
from eventstore.bases import Place
from eventstore.link import decode_whole, encode_whole

VICTIM, OTHER = "t1", "t2"
ROW = "trace = 1 AND first_seq = 10"  # the third step of the victim


@pytest.fixture
def file(path, record):
    """A closed store of two traces, 8 steps of 4 events each after seq 1, a whole base every second row."""
    with es.open(path, fold_policy=es.FoldEvery(2)) as store:
        record(store, 8, VICTIM)
        record(store, 8, OTHER)
        store.open_trace(VICTIM).checkpoint()
        assert store.verify().ok
    return path


def found(path, trace_id=None):
    """(trace, seq, check) of each problem, and that the other trace is still read and sound."""
    with es.open(path) as store:
        report = store.verify(trace_id)
        assert report.ok is (report.problems == [])
        assert OTHER in report.heads
        assert store.verify(OTHER).ok
        assert store.state_at(OTHER)["n"] == 8
        assert len(list(store.events(OTHER))) == 33
    return [(problem.trace_id, problem.seq, problem.check) for problem in report.problems if problem.check != "sqlite"]


def test_a_whole_file_is_whole(file):
    with es.open(file) as store:
        report = store.verify()
    assert (report.ok, report.traces, report.events, report.bases) == (True, 2, 66, 8)
    assert set(report.heads) == {VICTIM, OTHER} and all(len(head) == 32 for head in report.heads.values())


def test_one_trace_alone_can_be_asked_for(file, tamper):
    tamper(f"UPDATE log SET at_us = at_us + 1 WHERE {ROW}")
    with es.open(file) as store:
        assert store.verify(OTHER).ok and not store.verify(VICTIM).ok
        with pytest.raises(es.TraceNotFound):
            store.verify("absent")


@pytest.mark.parametrize(
    "change",
    [
        "body = replace(body, '\"number\":2', '\"number\":3')",
        "body = replace(body, 'step 2', 'step 9')",
        "body = body || ' '",
        "at_us = at_us + 1",
        "append_id = 'mine'",
        "append_id = append_id + 1",
        "append_id = NULL",
        "digest = zeroblob(16)",
    ],
)
def test_a_changed_row_is_named_by_its_first_seq(file, tamper, change):
    assert tamper(f"UPDATE log SET {change} WHERE {ROW}") == 1
    assert found(file) == [(VICTIM, 10, "digest")]


@pytest.mark.parametrize("offset", [0, 1, 40, 41, 100])
@pytest.mark.parametrize("bit", [0, 3, 6, 7])
def test_any_flipped_bit_of_a_body_is_found(file, tamper, raw, offset, bit):
    body = bytearray(raw.execute(f"SELECT body FROM log WHERE {ROW}").get.encode())
    body[offset] ^= 1 << bit
    tamper(f"UPDATE log SET body = CAST(? AS TEXT) WHERE {ROW}", bytes(body))
    problems = found(file)
    assert [(trace_id, seq) for trace_id, seq, _ in problems] == [(VICTIM, 10)]
    assert problems[0][2] in ("digest", "body")


def test_a_row_that_cannot_be_read_is_named_wherever_it_is_met(file, tamper):
    tamper(f"UPDATE log SET body = '[{{\"kind\":1}}]' WHERE {ROW}")
    assert found(file) == [(VICTIM, 10, "body")]
    with es.open(file) as store:
        store.drop_bases()
        assert store.state_at(VICTIM, 9)["n"] == 2
        for act in (
            lambda: store.state_at(VICTIM, 10),
            lambda: store.state_at(VICTIM),
            lambda: list(store.events(VICTIM)),
            lambda: store.open_trace(VICTIM).entries(),
            lambda: store.open_trace(VICTIM).state,
        ):
            with pytest.raises(es.LogCorrupted) as damaged:
                act()
            assert (damaged.value.trace_id, damaged.value.seq) == (VICTIM, 10)


def test_a_row_that_is_no_text_is_named_wherever_it_is_met(file, tamper):
    tamper(f"UPDATE log SET body = CAST(x'5bff5d' AS TEXT) WHERE {ROW}")
    with es.open(file) as store:
        store.drop_bases()
        for act in (lambda: store.state_at(VICTIM), lambda: list(store.events(VICTIM))):
            with pytest.raises(es.LogCorrupted) as damaged:
                act()
            assert (damaged.value.trace_id, damaged.value.seq) == (VICTIM, 10)


@pytest.mark.parametrize("body", ['[{"key":"n","value":7},{"key":"log","op":"sum","value":1}]', '[{"kind":1}]'])
def test_a_handle_that_refreshes_over_a_damaged_row_is_told_and_keeps_its_state(file, tamper, body):
    with es.open(file) as store, es.open(file) as elsewhere:
        trace = store.open_trace(VICTIM)
        before = dict(trace.state)
        elsewhere.append(VICTIM, [es.StateDelta.put("n", 7), es.StateDelta.put("n", 8)])
        tamper("UPDATE log SET body = ? WHERE trace = 1 AND first_seq = 34", body)
        with pytest.raises(es.LogCorrupted) as damaged:
            trace.refresh()
        assert damaged.value.seq == 34
        assert (trace.version, trace.state) == (33, before)


def test_a_deleted_row_is_a_gap(file, tamper):
    assert tamper(f"DELETE FROM log WHERE {ROW}") == 1
    assert found(file) == [(VICTIM, 10, "seq")]


def test_a_deleted_first_row_is_a_gap(file, tamper):
    tamper("DELETE FROM log WHERE trace = 1 AND first_seq = 1")
    assert found(file) == [(VICTIM, 1, "seq")]


def test_a_trace_that_lost_every_row_is_found(file, tamper):
    tamper("DELETE FROM checkpoint")
    tamper("DELETE FROM base WHERE trace = 1")
    tamper("DELETE FROM log WHERE trace = 1")
    assert [(trace_id, seq) for trace_id, seq, _ in found(file)] == [(VICTIM, 1)]


def test_a_cut_off_tail_shows_in_the_head_that_was_kept_elsewhere(file, tamper):
    with es.open(file) as store:
        head = store.verify().heads[VICTIM]
    tamper("DELETE FROM checkpoint")
    tamper("DELETE FROM base WHERE trace = 1 AND seq > 29")
    tamper("DELETE FROM log WHERE trace = 1 AND first_seq = 30")
    with es.open(file) as store:
        report = store.verify()
    assert report.ok  # the chain alone cannot tell
    assert report.heads[VICTIM] != head


def test_swapped_rows_are_found_at_the_first_of_them(file, tamper):
    tamper("UPDATE log SET first_seq = -first_seq WHERE trace = 1 AND first_seq IN (10, 14)")
    tamper("UPDATE log SET first_seq = 24 + first_seq WHERE trace = 1 AND first_seq IN (-10, -14)")
    assert found(file) == [(VICTIM, 10, "digest")]


def test_swapped_bodies_are_found_at_the_first_of_them(file, tamper):
    tamper(
        "UPDATE log SET body = (SELECT body FROM log o WHERE o.trace = 1 AND o.first_seq = 24 - log.first_seq)"
        " WHERE trace = 1 AND first_seq IN (10, 14)"
    )
    assert found(file) == [(VICTIM, 10, "digest")]


def test_a_row_moved_to_another_trace_is_found(file, tamper):
    tamper("UPDATE log SET trace = 9 WHERE trace = 1 AND first_seq = 30")
    problems = found(file)
    assert ("row 9", 30, "log") in problems
    assert (VICTIM, 33, "base") in problems or (VICTIM, 33, "checkpoint") in problems


def test_a_count_that_is_not_the_bodys_is_found(file, tamper):
    tamper("UPDATE log SET n = 5 WHERE trace = 1 AND first_seq = 30")
    assert [(trace_id, seq) for trace_id, seq, _ in found(file)] == [(VICTIM, 30)] * 1


def test_a_renamed_trace_no_longer_begins_its_chain(file, tamper):
    tamper("UPDATE trace SET trace_id = 'else' WHERE id = 1")
    assert found(file)[0] == ("else", 1, "digest")


def test_every_problem_says_whether_the_truth_is_damaged(file, tamper):
    tamper("UPDATE base SET checksum = 0 WHERE trace = 1 AND seq = 21")
    with es.open(file) as store:
        assert [(problem.check, problem.in_log) for problem in store.verify().problems] == [("base", False)]
    tamper(f"UPDATE log SET at_us = 0 WHERE {ROW}")
    with es.open(file) as store:
        assert {(problem.check, problem.in_log) for problem in store.verify().problems} >= {("digest", True)}


# What is derived


@pytest.mark.parametrize(
    "change",
    ["checksum = 0", "body = x'00'", "state_bytes = 1", "seq = seq + 1", "parent = 77"],
)
def test_a_bad_base_is_named_by_its_seq(file, tamper, change):
    tamper(f"UPDATE base SET {change} WHERE trace = 1 AND seq = 21")
    ((trace_id, seq, check),) = found(file)
    assert (trace_id, check) == (VICTIM, "base") and seq in (21, 22)


def forge(raw, seq, change):
    """Replace a whole base by one with a good checksum and another state."""
    sql = "SELECT trace, state_bytes, log_bytes, base_bytes, body FROM base WHERE trace = 1 AND seq = ?"
    trace, state_bytes, log_bytes, base_bytes, body = raw.execute(sql, (seq,)).get
    control, state = decode_whole(body)
    forged = encode_whole(control, change(state), 10**6)
    place = Place(trace, seq, None, len(forged), state_bytes, log_bytes, base_bytes)
    return forged, len(forged), place.checksum(forged)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state | {"n": 99},
        lambda state: {key: value for key, value in state.items() if key != "n"},
        lambda state: state | {"n": float(state["n"])},
        lambda state: dict(reversed(state.items())),
    ],
    ids=["another value", "a key less", "another type", "another order"],
)
def test_a_base_that_is_sound_but_wrong_is_found_too(file, raw, tamper, change):
    body, size, crc = forge(raw, 21, change)
    tamper("UPDATE base SET body = ?, chain_bytes = ?, checksum = ? WHERE trace = 1 AND seq = 21", body, size, crc)
    assert found(file) == [(VICTIM, 21, "base")]


class Links:
    def decide(self, now):
        return es.FoldDecision("link", "a row")


@pytest.mark.parametrize("trace_id", ["t1", "t2"])
def test_a_link_that_is_sound_but_wrong_is_found_too(path, record, raw, tamper, trace_id):
    with es.open(path, fold_policy=Links()) as store:
        record(store, 3)
        fork = store.fork("t1", id="t2")
        fork.append([es.StateDelta.put("n", 1)])
        store.open_trace("t1").append([es.StateDelta.put("n", 1)])
        assert store.verify().ok
    number = int(trace_id[1])
    seq, *place, body = raw.execute(
        "SELECT seq, parent, chain_bytes, state_bytes, log_bytes, base_bytes, body FROM base"
        " WHERE trace = ? ORDER BY seq DESC",
        (number,),
    ).fetchone()
    forged = body.replace(b"\xa1n\x92\x00\x01", b"\xa1n\x92\x00\x02")
    assert forged != body
    crc = Place(number, seq, *place).checksum(forged)
    tamper("UPDATE base SET body = ?, checksum = ? WHERE trace = ? AND seq = ?", forged, crc, number, seq)
    with es.open(path) as store:
        assert [(p.trace_id, p.seq, p.check) for p in store.verify().problems] == [(trace_id, seq, "base")]


@pytest.mark.parametrize("status", ["waiting", "completed", ""])
def test_a_wrong_status_is_found(file, tamper, status):
    tamper("UPDATE trace SET status = ? WHERE id = 1", status)
    assert found(file) == [(VICTIM, 0, "status")]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE barrier SET raised_seq = 1",
        "UPDATE barrier SET decided_seq = NULL WHERE barrier_id = 'ask#1'",
        "UPDATE barrier SET decided_seq = 5 WHERE barrier_id = 'pay#1'",
        "UPDATE barrier SET deadline_us = 1 WHERE barrier_id = 'pay#1'",
        "DELETE FROM barrier WHERE barrier_id = 'ask#1'",
        "INSERT INTO barrier VALUES (1, 'new#1', 1, NULL, NULL, 0)",
    ],
)
def test_a_wrong_list_of_barriers_is_found(file, tamper, change):
    with es.open(file) as store:
        trace = store.open_trace(VICTIM)
        trace.decide(trace.raise_barrier("ask"), es.Approve())
        trace.raise_barrier("pay", deadline_us=4_000_000_000_000_000)
        assert store.verify().ok
    tamper(change)
    assert {(trace_id, check) for trace_id, _, check in found(file)} == {(VICTIM, "barrier")}


@pytest.mark.parametrize("seq", [11, 99])
def test_a_checkpoint_off_the_boundaries_is_found(file, tamper, seq):
    tamper("UPDATE checkpoint SET seq = ?", seq)
    assert found(file) == [(VICTIM, seq, "checkpoint")]


# What the log does not say, and what is beside it


@pytest.mark.parametrize(
    "change",
    ["name = 'another'", "created_us = created_us - 1", "created_us = created_us + 1"],
)
def test_a_trace_that_is_listed_otherwise_than_it_began_is_found(file, tamper, change):
    tamper(f"UPDATE trace SET {change} WHERE id = 1")
    assert found(file) == [(VICTIM, 0, "trace")]


def test_a_barrier_that_is_said_to_wait_longer_is_found(file, tamper):
    with es.open(file) as store:
        store.open_trace(VICTIM).raise_barrier("ask")
    tamper("UPDATE barrier SET raised_us = raised_us - 1")
    assert found(file) == [(VICTIM, 0, "barrier")]


@pytest.mark.parametrize(
    "change",
    ["node = 'else'", "graph_hash = 'ff'", "triggers = '[]'", "metadata = '{}'", "created_us = 0", "seal = 1",
     "checkpoint_id = 'x'"],
)  # fmt: skip
def test_a_checkpoint_that_is_not_what_was_sealed_is_found(file, tamper, change):
    tamper(f"UPDATE checkpoint SET {change}")
    assert found(file) == [(VICTIM, 33, "checkpoint")]


def test_a_checkpoint_moved_to_another_commit_is_found(file, tamper):
    tamper("UPDATE checkpoint SET seq = 29")
    assert found(file) == [(VICTIM, 29, "checkpoint")]


@pytest.mark.parametrize("change", ["at_us = at_us + 1", "digest = zeroblob(16)", "seal = 0", "checksum = 0"])
def test_a_root_that_is_not_what_was_sealed_is_found(file, tamper, change):
    with es.open(file) as store:
        store.trim(VICTIM, before=17, retry_window_s=0)
        assert store.verify().ok
    tamper(f"UPDATE root SET {change}")
    assert found(file) == [(VICTIM, 17, "root")]


def test_a_trimmed_trace_cannot_be_younger_than_its_root(file, tamper):
    with es.open(file) as store:
        store.trim(VICTIM, before=17, retry_window_s=0)
    tamper("UPDATE trace SET created_us = 9000000000000000 WHERE id = 1")
    assert found(file) == [(VICTIM, 0, "trace")]


@pytest.mark.parametrize("change", ["erased_by = 'me'", "erased_us = 0", "version = 1", "digest = zeroblob(16)"])
def test_a_tombstone_that_is_not_what_was_sealed_is_found(file, tamper, change):
    with es.open(file) as store:
        store.erase(VICTIM, by="ana")
        assert store.verify().ok
    tamper(f"UPDATE tombstone SET {change}")
    assert [(trace_id, check) for trace_id, _, check in found(file)] == [(VICTIM, "tombstone")]


def test_a_tombstone_that_was_taken_away_is_missed(file, tamper):
    with es.open(file) as store:
        store.erase(VICTIM)
    tamper("DELETE FROM tombstone")
    assert found(file) == [("row 1", 0, "tombstone")]


def test_a_trace_that_was_taken_away_whole_is_missed(file, tamper):
    for table in ("checkpoint", "base", "log"):
        tamper(f"DELETE FROM {table} WHERE trace = 1")
    tamper("DELETE FROM trace WHERE id = 1")
    assert found(file) == [("row 1", 0, "tombstone")]


def test_a_graph_under_a_hash_that_is_not_its_own_is_found(file, tamper):
    graph = es.Graph("ask").barrier("ok", prompt="Go on?").start("ok").end("ok")
    with es.open(file) as store:
        es.run(graph, store, id="run")
        assert store.verify().ok
    tamper("UPDATE graph SET definition = replace(definition, 'barrier', 'node')")
    assert found(file) == [("-", 0, "graph")]


@pytest.mark.parametrize("change", ["epoch = 1", "due_us = 5"])
def test_a_lease_that_the_log_contradicts_is_found(file, tamper, change):
    graph = es.Graph("ask").barrier("first").barrier("then").edge("first", "then").start("first").end("then")
    with es.open(file) as store:
        es.run(graph, store, id="run")
        store.decide("run", "first", es.Approve())
        es.resume(graph, store, "run")
        assert store.verify().ok
    tamper(f"UPDATE lease SET {change}")
    assert found(file) == [("run", 0, "lease")]


def test_a_guard_that_is_another_one_is_found(file, raw):
    raw.execute("DROP TRIGGER log_no_update")
    assert found(file) == [("-", 0, "schema")]


def test_a_name_that_is_no_text_is_named_and_hides_no_other_trace(file, tamper):
    tamper("UPDATE trace SET name = CAST(x'ff41' AS TEXT) WHERE id = 1")
    assert found(file) == [("row 1", 0, "trace"), (VICTIM, 0, "trace")]


# Heads that are kept elsewhere


def test_a_head_is_found_where_it_stood_though_the_log_has_grown(file):
    with es.open(file) as store:
        heads = store.verify().heads
        store.append(VICTIM, [es.StateDelta.put("n", 1)])
        report = store.verify(heads=heads)
        assert report.ok and report.anchors == {VICTIM: 33, OTHER: 33}
        assert store.verify(VICTIM, heads=heads).anchors == {VICTIM: 33}


def test_a_cut_off_tail_is_named_by_the_head_kept_elsewhere(file, tamper):
    with es.open(file) as store:
        heads = store.verify().heads
    tamper("DELETE FROM checkpoint")
    tamper("DELETE FROM base WHERE trace = 1 AND seq > 29")
    tamper("DELETE FROM log WHERE trace = 1 AND first_seq = 30")
    with es.open(file) as store:
        assert store.verify().ok
        report = store.verify(heads=heads)
    assert [(p.trace_id, p.seq, p.check) for p in report.problems] == [(VICTIM, 30, "head")]
    assert report.anchors == {OTHER: 33}


def test_the_head_of_a_trace_that_is_gone_is_looked_for(file):
    with es.open(file) as store:
        heads = store.verify().heads
        store.append(VICTIM, [es.StateDelta.put("n", 1)])
        newest = store.verify().heads
        store.erase(VICTIM)
        assert store.verify(heads=newest).anchors == {VICTIM: 34, OTHER: 33}
        (older,) = store.verify(heads=heads).problems
        assert (older.trace_id, older.seq, older.check) == (VICTIM, 34, "head")
        (unknown,) = store.verify(heads={"absent": heads[OTHER]}).problems
        assert (unknown.trace_id, unknown.check) == ("absent", "head")


def test_a_head_from_before_a_trim_cannot_be_found_and_the_reason_says_so(file):
    with es.open(file) as store:
        store.append(VICTIM, [es.StateDelta.put("n", 1)])
        old = store.verify().heads
        store.append(VICTIM, [es.StateDelta.put("n", 2)])
        store.checkpoints.prune(VICTIM, 0)
        store.trim(VICTIM, before=34, retry_window_s=0)
        assert store.verify(heads=old).anchors[VICTIM] == 34
        store.trim(VICTIM, before=35, retry_window_s=0)
        (problem,) = store.verify(heads=old).problems
    assert problem.check == "head" and "before seq 35" in problem.reason


@pytest.mark.parametrize("head", ["", "zz", "391bbc3f", "391bbc3f95fd0429aba4ead7026fc4c000"])
def test_what_is_no_head_is_refused(file, head):
    with es.open(file) as store, pytest.raises(ValueError, match="the head of trace t1"):
        store.verify(heads={VICTIM: head})


# Forks, and the file


def test_a_fork_of_a_fork_may_stand_on_what_both_share(file):
    with es.open(file) as store:
        store.fork(VICTIM, at=29, id="t3")
        store.fork("t3", at=17, id="t4")
        assert store.verify().ok
        store.erase("t3")
        assert store.verify().ok


def test_a_fork_that_was_hung_under_another_trace_is_found(file, tamper):
    with es.open(file) as store:
        store.fork(VICTIM, at=17, id="t3")
        store.fork("t3", at=17, id="t4")
    tamper("UPDATE trace SET parent = 3 WHERE trace_id = 't4'")
    assert found(file) == [("t4", 18, "trace")]


def test_damaged_pages_of_one_trace_hide_no_other(path, record):
    with es.open(path, fold_policy=es.NeverFold()) as store:
        record(store, 60, VICTIM)
        record(store, 60, OTHER)
    content = bytearray(Path(path).read_bytes())
    for start in range(4096, len(content), 4096):
        page = content[start : start + 4096]
        if page[0] == 13 and b'"step 30"' in page:
            content[start + 3 : start + 5] = b"\xff\xff"  # the number of cells
            break
    Path(path).write_bytes(content)
    with es.open(path, read_only=True) as store:
        report = store.verify()
        assert {problem.trace_id for problem in report.problems} == {VICTIM, "-"}
        assert set(report.heads) == {OTHER} and store.verify(OTHER).ok
        assert len(list(store.events(OTHER))) == 241


def test_a_fork_answers_for_its_own_rows_and_its_parent_for_the_rest(file, tamper):
    with es.open(file) as store:
        fork = store.fork(VICTIM, at=17, id="t3")
        fork.append([es.StateDelta.put("n", 1)])
        assert store.verify().ok
    tamper("UPDATE log SET at_us = 0 WHERE trace = 1 AND first_seq = 22")
    assert found(file) == [(VICTIM, 22, "digest")]
    tamper("UPDATE log SET body = '[5]' WHERE trace = 1 AND first_seq = 10")
    assert {(trace_id, check) for trace_id, _, check in found(file)} == {(VICTIM, "body"), ("t3", "fork")}


def test_a_damaged_page_is_found_by_sqlite(file):
    content = bytearray(Path(file).read_bytes())
    for page in range(1, len(content) // 4096):
        start = page * 4096
        if content[start] == 13 and b"step 3" in content[start : start + 4096]:  # a leaf of the log
            content[start + 3 : start + 5] = b"\xff\xff"  # its number of cells
            break
    else:
        raise AssertionError("no such page")
    Path(file).write_bytes(content)
    with es.open(file) as store:
        try:
            report = store.verify()
        except es.StoreHalted:
            return
        assert not report.ok and report.problems[0].check == "sqlite"
