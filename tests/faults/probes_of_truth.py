"""Probes of what the file says of itself: the chain, verify, the projections, what was decided."""

from __future__ import annotations

import time

import apsw

import eventstore as es
from eventstore.chain import Chain, genesis

from .laws import expect
from .probes import NOW, PUT, equal, probe, raw, refuses, sound

# Chain and verify


@probe
def every_column_is_in_the_chain(folder):
    """An edit of any column of any row, the id of a trace included, is found."""
    edits = {
        "at_us": "UPDATE log SET at_us = at_us + 1 WHERE first_seq = 4",
        "append_id": "UPDATE log SET append_id = 'other' WHERE append_id = 'mine'",
        "own id": "UPDATE log SET append_id = append_id + 1 WHERE first_seq = 3",
        "body": "UPDATE log SET body = replace(body, '\"n\"', '\"m\"') WHERE first_seq = 3",
        "trace_id": "UPDATE trace SET trace_id = 't9' WHERE trace_id = 't2'",
        "digest": "UPDATE log SET digest = zeroblob(16) WHERE first_seq = 3",
        "status": "UPDATE trace SET status = 'completed' WHERE trace_id = 't1'",
        "barrier": "UPDATE barrier SET decided_seq = NULL",
    }
    for what, sql in edits.items():
        path = folder / f"{what}.db"
        with es.open(path, durability="normal") as store:
            trace = store.start({"n": 0}, id="t1")
            store.start({"n": 0}, id="t2")
            trace.append([PUT("n", 1)], append_id="mine")
            trace.append([PUT("n", 2)])
            trace.append([PUT("n", 3)])
            trace.raise_barrier("ask")
            trace.decide("ask", es.Approve())
            sound(store)
            raw(store, sql)
        with es.open(path) as store:
            expect(not store.verify().ok, "verify does not find an edited", what)


@probe
def projections_tell_what_the_log_tells(folder):
    """The lists of traces and of barriers, after every event that moves them."""
    with es.open(folder / "runs.db", durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")

        def told(status, pending):
            found = [(info.trace_id, info.status) for info in store.traces()]
            expect(found == [("t1", status)], "the list of traces says", found, "not", status)
            waiting = [info.barrier_id for info in store.barriers()]
            expect(waiting == pending, "the inbox says", waiting, "not", pending)

        told("running", [])
        trace.raise_barrier("ask")
        told("waiting", ["ask#1"])
        trace.decide("ask", es.Reject("no"))
        told("running", [])
        trace.raise_barrier("more")
        told("waiting", ["more#1"])
        trace.decide("more", es.Approve())
        sound(store)
        trace.end()
        told("completed", [])


@probe
def a_key_keeps_the_chain(folder):
    """Whoever does not know it computes no chain that verifies, and opens nothing for writing."""
    path, key = folder / "runs.db", "a key that nobody knows"
    with es.open(path, durability="normal", chain_key=key) as store:
        trace = store.start({"n": 0}, id="t1")
        for number in range(4):
            trace.append([PUT("n", number)])
        sound(store)
        connection = apsw.Connection(store.path)
        rows = connection.execute(
            "SELECT id, first_seq, n, at_us, append_id, CAST(body AS BLOB) FROM log ORDER BY first_seq"
        ).fetchall()
        connection.close()
        digest, forged = genesis("t1"), []
        for row_id, *row, body in rows:
            body = body.replace(b'"value":2', b'"value":7')
            digest = Chain().extend(digest, *row, body)
            forged.append(("UPDATE log SET digest = ?, body = ? WHERE id = ?", (digest, body.decode(), row_id)))
        raw(store, *forged)
    with es.open(path, chain_key=key) as store:
        expect(store.state_at("t1", 4) == {"n": 7}, "the log was not forged")
        expect(not store.verify().ok, "verify takes a forged chain for the log's")
    for other in (None, "another key that is long"):
        refuses(es.WrongChainKey, lambda other=other: es.open(path, chain_key=other), "another key opens nothing")


@probe
def a_head_kept_elsewhere_shows_a_lost_end(folder):
    """Which the chain alone cannot."""
    with es.open(folder / "runs.db", durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        for number in range(4):
            trace.append([PUT("n", number)])
        heads = store.verify().heads
        expect(store.verify(heads=heads).ok, "the head is in the chain")
        raw(store, "DELETE FROM log WHERE first_seq = 5")
    with es.open(folder / "runs.db") as store:
        sound(store)
        expect(not store.verify(heads=heads).ok, "verify does not miss the end that was cut off")


@probe
def what_the_log_does_not_say_is_sealed(folder):
    """An edited checkpoint, root or tombstone is found; so is a trace that is gone without one, and a guard."""
    edits = {
        "checkpoint": "UPDATE checkpoint SET node = 'elsewhere'",
        "root": "UPDATE root SET at_us = at_us - 1",
        "tombstone": "UPDATE tombstone SET erased_by = 'nobody'",
        "trace": "DELETE FROM trace WHERE trace_id = 't4'",
        "guard": "DROP TRIGGER log_no_update",
    }
    for what, sql in edits.items():
        path = folder / f"{what}.db"
        with es.open(path, durability="normal") as store:
            for name in ("t1", "t2", "t3", "t4", "t5"):
                trace = store.start({"n": 0}, id=name)
                trace.append([PUT("n", 1)])
            store.open_trace("t1").checkpoint("here")
            store.trim("t2", 2, **NOW)
            store.erase("t3", by="ana")
            sound(store)
            if what == "trace":
                raw(store, "DELETE FROM log WHERE trace = 4")
            if what == "guard":
                connection = apsw.Connection(store.path)
                connection.execute(sql)
                connection.close()
            else:
                raw(store, sql)
        with es.open(path) as store:
            expect(not store.verify().ok, "verify does not find a changed", what)


# Barriers


@probe
def a_barrier_is_decided_once(folder):
    """The first decision wins, from whichever handle, and says so to the second."""
    with es.open(folder / "runs.db", durability="normal") as store, es.open(folder / "runs.db") as other:
        trace = store.start({"n": 0}, id="t1")
        late = other.open_trace("t1")
        trace.raise_barrier("ask")
        expect(late.refresh() == trace.version, "it sees the barrier")
        trace.decide("ask#1", es.Approve())
        for handle in (trace, late, other.open_trace("t1")):
            refuses(es.BarrierError, lambda: handle.decide("ask#1", es.Reject("no")), "a second decision is refused")  # noqa: B023
        equal(store.state_at("t1"), {"n": 0, "ask.approved": True}, "the second decision won")


@probe
def deadlines_are_kept(folder):
    """In another process as well: before it the human decides, at it the default."""
    path = folder / "runs.db"
    soon = int((time.time() + 3600) * 1e6)
    with es.open(path, durability="normal") as store:
        trace = store.start({"n": 0}, id="t1")
        trace.raise_barrier("late", deadline_us=1, default=es.Approve(by="rule"))
        trace.raise_barrier("early", deadline_us=soon, default=es.Reject("nobody came"))
    with es.open(path, durability="normal") as store:
        refuses(
            es.BarrierExpired,
            lambda: store.decide("t1", "late#1", es.Reject("too late")),
            "past its deadline the default decides a barrier",
        )
        try:
            store.decide("t1", "early#1", es.Approve(by="ana"))
        except es.BarrierExpired as error:
            expect(False, "the default over a human's decision:", error)
        found = {key: value for key, value in store.state_at("t1").items() if key.endswith("approved")}
        equal(found, {"late.approved": True, "early.approved": True}, "another decision stands")
