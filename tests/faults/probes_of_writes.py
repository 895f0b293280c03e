"""Probes of how the store writes: what returned is there, once, where it belongs, and nothing else got in."""

from __future__ import annotations

import threading
from pathlib import Path

import apsw

import eventstore as es
from eventstore import wal

from .disk import put_back, recording
from .flaky import flaky_disk
from .laws import expect
from .probes import PUT, chat, equal, probe, refuses, sound

# Durability


@probe
def acknowledged_is_durable(folder):
    """Under FULL, whatever returned survives a power cut that keeps nothing unsynced."""
    path = str(folder / "runs.db")
    with recording() as disk, es.open(path) as store:
        trace = store.start({"n": 0}, id="t1")
        acts = [
            lambda: trace.append([PUT("n", 1)]),
            lambda: trace.append([PUT("n", 2)], append_id="mine"),
            lambda: trace.raise_barrier("ask"),
            lambda: trace.decide("ask", es.Approve()),
            lambda: store.fork("t1", id="t2"),
            lambda: store.start({"n": 1}, id="t3"),
            trace.end,
        ]
        for number, act in enumerate(acts):
            act()
            with es.open(put_back(disk.image(path), folder / f"cut-{number}.db"), durability="normal") as cut:
                versions = {info.trace_id: info.version for info in cut.traces()}
                known = {info.trace_id: info.version for info in store.traces()}
                expect(versions == known, "acknowledged appends are lost:", versions, "of", known)
                sound(cut)


@probe
def a_decision_is_durable(folder):
    """Under NORMAL, what a human decided survives."""
    path = str(folder / "runs.db")
    with recording() as disk, es.open(path, durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        trace.raise_barrier("ask")
        trace.decide("ask", es.Approve())
        with es.open(put_back(disk.image(path), folder / "cut.db")) as cut:
            found = {info.trace_id: info.version for info in cut.traces()}
            expect(found == {"t1": trace.version}, "a decision is lost:", found)


@probe
def acknowledged_is_seen(folder):
    """What returned is there for everybody else."""
    with es.open(folder / "runs.db") as store, es.open(folder / "runs.db") as other:
        trace = store.start({"n": 0}, id="t1")
        for number in range(5):
            trace.append([PUT("n", number)])
            found = other.open_trace("t1").version
            expect(found == number + 2, "an acknowledged append is not there:", found, "of", number + 2)
        sound(store)


@probe
def the_queue_waits(folder):
    """An append that queues for the next commit does not return before it."""
    with es.open(folder / "runs.db", durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        returned = threading.Event()

        def work():
            trace.append([PUT("n", 1)])
            returned.set()

        with store._writer._mutex:  # as if a commit were syncing
            thread = threading.Thread(target=work)
            thread.start()
            early = returned.wait(0.1)
        thread.join()
        expect(not early, "an append was acknowledged before it was committed")
        expect(store.state_at("t1") == {"n": 1}, "an acknowledged append is lost")


@probe
def a_batch_is_of_independent_appends(folder):
    """One that is refused takes no other one down."""
    with es.open(folder / "runs.db", durability="normal") as store:
        traces = [store.start({"n": 0}, id=f"t{number}") for number in range(3)]
        stale = traces[1]
        pendings = [trace._prepare_events([PUT("n", 1)], 1, f"id-{number}") for number, trace in enumerate(traces)]
        asked = es.BarrierRaised("ask#1", "ask")
        pendings[1] = stale._prepare_events([asked], 1, "late")
        store.append("t1", [es.Note("first")])
        store._writer.commit_batch(pendings)
        errors = [type(pending.error).__name__ for pending in pendings]
        expect(errors == ["NoneType", "WrongExpectedVersion", "NoneType"], "the batch's errors:", errors)
        found = [store.open_trace(f"t{number}").version for number in range(3)]
        expect(found == [2, 2, 2], "an acknowledged append of a batch is lost:", found)
        sound(store)


@probe
def an_io_error_halts(folder):
    """After a failed sync every call raises, nothing is checkpointed on close, and the append id settles the rest."""
    path = str(folder / "runs.db")
    with flaky_disk() as disk:
        store = es.open(path)
        trace = store.start({"n": 0}, id="t1")
        for number in range(5):
            trace.append([PUT("n", number)])
        disk.fail("sync")
        halted = refuses(
            es.StoreHalted, lambda: trace.append([es.StateDelta("n", "sum", 1)]), "a failed sync halts the store"
        )
        for act in (lambda: trace.append([PUT("n", 2)]), lambda: store.state_at("t1"), lambda: store.start(id="t2")):
            refuses(es.StoreHalted, act, "every call after an I/O error raises StoreHalted")
        before = dict(disk.calls)
        store.close()
        expect(disk.calls == before, "a halted store wrote on close:", disk.calls, before)
    with es.open(path) as store:
        again = {"append_id": halted.append_id, "expected_version": halted.expected_version}
        for _ in range(2):
            try:
                found = store.append("t1", [es.StateDelta("n", "sum", 1)], **again)
            except es.WrongExpectedVersion as error:
                expect(False, "a retry does not settle the append:", error)
            expect(found.version == 7, "a retry does not settle the append:", found)
        equal(store.state_at("t1"), {"n": 5}, "an append went in twice, or never")
        sound(store)


@probe
def the_log_is_settled(folder):
    """What an earlier process left in the write-ahead log, or another one failed to sync, is written again first."""
    settled, write_again = [], wal.write_again
    wal.write_again = settled.append
    try:
        path = str(folder / "runs.db")
        with es.open(path) as store, es.open(path) as other:
            trace = store.start({"n": 0}, id="t1")
            del settled[:]
            with es.open(path):
                equal(len(settled), 1, "the log is settled on opening")
            with flaky_disk() as disk, es.open(path) as failing:
                disk.fail("sync")
                refuses(es.StoreHalted, lambda: failing.start({}, id="t2"), "a failed sync halts the store")
            del settled[:]
            trace.append([PUT("n", 1)])
            equal(len(settled), 1, "the log is settled before the next commit")
            other.start({}, id="t3")
            equal(len(settled), 2, "by each who had it open, before the next commit")
    finally:
        wal.write_again = write_again


@probe
def a_full_disk_halts_nothing(folder):
    """It is said so, and when there is space again, work goes on."""
    with flaky_disk() as disk, es.open(folder / "runs.db") as store:
        trace = store.start({"n": 0}, id="t1")
        disk.fail("write", error=apsw.FullError)
        refuses(es.StorageFull, lambda: trace.append([PUT("n", 2)]), "a full disk is StorageFull")
        equal(store.state_at("t1"), {"n": 0}, "what was refused is there")
        trace.append([PUT("n", 3)])
        equal(store.state_at("t1"), {"n": 3}, "the append after the full disk is not there")


@probe
def a_writer_waits_for_the_lock(folder):
    """Another connection's transaction makes it wait, not fail."""
    with es.open(folder / "runs.db", durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        other = apsw.Connection(store.path)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.1, lambda: other.execute("ROLLBACK"))
        timer.start()
        try:
            trace.append([PUT("n", 1)])
        except es.StoreBusy as error:
            expect(False, "a writer does not wait for the lock:", error)
        finally:
            timer.join()
            other.close()


# Appends


@probe
def nothing_is_twice(folder):
    """An append of the same id gives the first one's place; one of another content is refused."""
    with es.open(folder / "runs.db", durability="normal") as store, es.open(folder / "runs.db") as other:
        trace = store.start({"n": 0}, id="t1")
        trace.append([es.StateDelta("n", "sum", 1)], append_id="a")
        trace.append([es.StateDelta("n", "sum", 1)])
        for again in (trace, other.open_trace("t1")):
            for expected in (es.ANY, 1):
                found = again.append([es.StateDelta("n", "sum", 1)], append_id="a", expected_version=expected)
                expect(found == es.Appended(2, 2, duplicate=True), "a retry is not the first append:", found)
            refuses(es.AppendIdReused, lambda: again.append([PUT("n", 7)], append_id="a"), "an id is used once")  # noqa: B023
        with trace.step("work", append_id="s") as step:
            step.sum("n", 1)
        with trace.step("work", append_id="s") as step:
            step.sum("n", 1)
        equal(store.state_at("t1"), {"n": 3}, "an append went in twice")


@probe
def versions_are_guarded(folder):
    """Who does not know the newest event cannot append."""
    with es.open(folder / "runs.db", durability="normal") as store, es.open(folder / "runs.db") as other:
        trace, stale = store.start({"n": 0}, id="t1"), other.open_trace("t1")
        expect(stale.version == 1, "it opens at its head")
        trace.append([PUT("n", 1), PUT("n", 2)])
        late = lambda: stale.append([PUT("n", 9)])  # noqa: E731
        refuses(es.WrongExpectedVersion, late, "a stale handle appends nothing")
        for version in (1, 2, 4, 9):
            refuses(
                es.WrongExpectedVersion,
                lambda version=version: store.append("t1", [PUT("n", 9)], expected_version=version),
                f"an append at version 3 that expects {version} is refused",
            )
        other.open_trace("t1").append([PUT("n", 3)], expected_version=3)
        equal(store.state_at("t1"), {"n": 3}, "a refused append went in")
        sound(store)


@probe
def notes_change_nothing(folder):
    """`unless_changed_since` passes notes, and nothing else."""
    with es.open(folder / "runs.db", durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        trace.note("seen")
        try:
            trace.append([PUT("n", 1)], unless_changed_since=1)
        except es.WrongExpectedVersion as error:
            expect(False, "a note counts as a change:", error)
        refuses(
            es.WrongExpectedVersion,
            lambda: trace.append([PUT("n", 2)], unless_changed_since=2),
            "an append after a change is refused",
        )


@probe
def the_log_defends_itself(folder):
    """Whatever tool opens the file: the log has no gap, no change and no row replaced."""
    with es.open(folder / "runs.db", durability="normal") as store:
        chat(store, steps=2)
        other = apsw.Connection(store.path)
        values = "SELECT trace, {}, 1, NULL, at_us, digest, body FROM log LIMIT 1"
        insert = "INSERT INTO log (trace, first_seq, n, append_id, at_us, digest, body) "
        for what, sql in {
            "a gap": insert + values.format(999),
            "an update": "UPDATE log SET at_us = 0",
            "a deletion": "DELETE FROM log WHERE first_seq > 1",
            "a replacement": insert.replace("INSERT", "INSERT OR REPLACE").replace("(trace", "(id, trace")
            + "SELECT 1, trace, (SELECT max(first_seq + n) FROM log), 1, NULL, at_us, digest, body FROM log LIMIT 1",
        }.items():
            try:
                other.execute(sql)
            except apsw.ConstraintError:
                continue
            expect(False, "the log took", what)
        other.close()


# Values at the door


@probe
def what_json_cannot_hold_is_refused(folder):
    """And the log is untouched."""
    deep = []
    for _ in range(200):
        deep = [deep]
    with es.open(folder / "runs.db", durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        for what, value in {
            "NaN": float("nan"),
            "NaN inside": [{"a": float("nan")}],
            "an integer beyond 64 bits": [2**64],
            "a value 200 deep": deep,
            "two keys of one text": {1: "a", "1": "b"},
            "a lone surrogate": ["\ud800"],
        }.items():
            refuses(es.ValueRefused, lambda value=value: trace.append([PUT("n", value)]), f"{what} is refused")
        expect(store.open_trace("t1").version == 1, "a refused value is in the log")


@probe
def redacted_words_never_reach_the_file(folder):
    """Neither from the first state nor from a step."""
    word = "the-secret-4711"

    def redact(key, value):
        return "…" if word in str(value) else value

    with es.open(folder / "runs.db", durability="normal", redact=redact) as store:
        trace = store.start({"first": word}, id="t1")
        with trace.step("work") as step:
            step.put("second", word)
        trace.append([PUT("third", word)])
        expect("…" in trace.state["second"], "the live state is redacted")
        left = [path.name for path in Path(folder).iterdir() if word.encode() in path.read_bytes()]
        expect(not left, "redacted words stand in", left)
