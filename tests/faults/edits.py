"""Edits of the tampering campaign: rows of a file changed through plain SQL, the guards taken off and put back.

Each gives the trace that a check has to name (or several of which one has to be), and the first seq at which, None for
an edit that has no place in the log. Of the two lies at the end nothing in the file itself can tell.
"""

from __future__ import annotations

import shutil

import apsw

from eventstore.bases import Place, root_checksum
from eventstore.chain import Chain, genesis

from .sample import PLAIN

ROWS = "SELECT id, trace, first_seq, n, append_id, at_us, digest, body FROM log WHERE trace = ? ORDER BY first_seq"


class Bench:
    """A copy of the sound file, without its guards. A context manager: leaving it puts them back."""

    def __init__(self, sound, path):
        shutil.copy(sound, path)
        self.connection = apsw.Connection(str(path))
        self.guards = self.connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()

    def __enter__(self):
        for name, _ in self.guards:
            self.connection.execute(f"DROP TRIGGER {name}")
        self.connection.execute("PRAGMA ignore_check_constraints = ON")
        return self

    def __exit__(self, *_):
        for _, text in self.guards:
            self.connection.execute(text)
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.connection.close()

    def rows(self, sql, *parameters):
        """What a query gives."""
        return self.connection.execute(sql, parameters).fetchall()

    def change(self, sql, *parameters):
        """One statement, which has to change something."""
        self.connection.execute(sql, parameters)
        assert self.connection.changes() > 0, sql

    def pick(self, rng, sql, *parameters):
        """One of the rows."""
        return rng.choice(self.rows(sql, *parameters))

    def trace_id(self, row_id):
        """Of a trace's number."""
        return self.connection.execute("SELECT trace_id FROM trace WHERE id = ?", (row_id,)).get


def _row(bench, rng):
    """Any row of the log: id, trace, first_seq, n, body."""
    return bench.pick(rng, "SELECT id, trace, first_seq, n, body FROM log")


def _changed_text(rng, body):
    """The body with one letter or digit another one, so that it is still JSON (or msgpack) more often than not."""
    data = bytearray(body.encode() if isinstance(body, str) else body)
    places = [at for at, byte in enumerate(data) if chr(byte).isalnum()]
    at = rng.choice(places)
    data[at] = rng.choice([byte for byte in b"0123456789abcdefghijklm" if byte != data[at]])
    return data.decode() if isinstance(body, str) else bytes(data)


# Edits: each gives the traces of which one has to be named, and the seq at which (None: it has none).


def edit_body(bench, rng):
    """One letter of one commit."""
    row_id, trace, seq, _, body = _row(bench, rng)
    bench.change("UPDATE log SET body = ? WHERE id = ?", _changed_text(rng, body), row_id)
    return bench.trace_id(trace), seq


def edit_decision(bench, rng):
    """Who decided, or how."""
    row_id, trace, seq, _, body = bench.pick(
        rng,
        "SELECT id, trace, first_seq, n, body FROM log WHERE instr(body, 'barrier_decided') AND typeof(body) = 'text'",
    )
    forged = body.replace('"by":"', '"by":"not ') if rng.random() < 0.5 else body.replace("approve", "denied")
    bench.change("UPDATE log SET body = ? WHERE id = ?", forged if forged != body else body + " ", row_id)
    return bench.trace_id(trace), seq


def edit_time(bench, rng):
    """When a commit was made."""
    row_id, trace, seq, *_ = _row(bench, rng)
    bench.change("UPDATE log SET at_us = at_us + ? WHERE id = ?", rng.choice([-1, 1, 10**6]), row_id)
    return bench.trace_id(trace), seq


def edit_append_id(bench, rng):
    """Under which id it was appended."""
    row_id, trace, seq, *_ = _row(bench, rng)
    bench.change("UPDATE log SET append_id = ? WHERE id = ?", rng.choice([None, "another", 7]), row_id)
    return bench.trace_id(trace), seq


def edit_digest(bench, rng):
    """A digest that is none."""
    row_id, trace, seq, *_ = _row(bench, rng)
    bench.change("UPDATE log SET digest = ? WHERE id = ?", rng.randbytes(16), row_id)
    return bench.trace_id(trace), seq


def delete_row(bench, rng):
    """A commit that others follow."""
    row_id, trace, seq = bench.pick(
        rng,
        "SELECT id, trace, first_seq FROM log l WHERE EXISTS"
        " (SELECT 1 FROM log WHERE trace = l.trace AND first_seq > l.first_seq)",
    )
    bench.change("DELETE FROM log WHERE id = ?", row_id)
    return bench.trace_id(trace), seq


def swap_rows(bench, rng):
    """Two commits of one trace, of equally many events."""
    one, trace, seq, other = bench.pick(
        rng,
        "SELECT a.id, a.trace, a.first_seq, b.id FROM log a JOIN log b"
        " ON b.trace = a.trace AND b.n = a.n AND b.first_seq > a.first_seq AND b.body <> a.body",
    )
    columns = "n, append_id, at_us, digest, body"
    rows = {found: bench.rows(f"SELECT {columns} FROM log WHERE id = ?", found)[0] for found in (one, other)}
    for found in (one, other):
        bench.change("UPDATE log SET append_id = NULL WHERE id = ?", found)
    for found, source in ((one, other), (other, one)):
        bench.change(f"UPDATE log SET ({columns}) = (?, ?, ?, ?, ?) WHERE id = ?", *rows[source], found)
    return bench.trace_id(trace), seq


def replay_row(bench, rng):
    """A commit a second time, at the end of its trace or of another one."""
    row_id, *_ = _row(bench, rng)
    trace, seq = bench.pick(rng, "SELECT trace, max(first_seq + n) FROM log GROUP BY trace")
    bench.change(
        "INSERT INTO log (trace, first_seq, n, append_id, at_us, digest, body)"
        " SELECT ?, ?, n, NULL, at_us, digest, body FROM log WHERE id = ?", trace, seq, row_id)  # fmt: skip
    return bench.trace_id(trace), seq


def replace_row(bench, rng):
    """A commit in the place of another one, digest and all."""
    row_id, trace, seq, *_ = _row(bench, rng)
    source = bench.pick(rng, "SELECT id FROM log WHERE id <> ?", row_id)[0]
    columns = bench.rows("SELECT n, at_us, digest, body FROM log WHERE id = ?", source)[0]
    bench.change(
        "UPDATE log SET append_id = NULL, (n, at_us, digest, body) = (?, ?, ?, ?) WHERE id = ?", *columns, row_id
    )
    return bench.trace_id(trace), seq


def move_row(bench, rng):
    """The last commit of a trace to the end of another one, which is no fork of it."""
    row_id, trace = bench.pick(rng, "SELECT id, trace FROM log GROUP BY trace HAVING first_seq = max(first_seq)")
    target, seq = bench.pick(
        rng,
        "SELECT trace, max(first_seq + n) FROM log JOIN trace t ON t.id = trace"
        " WHERE trace <> ? AND t.parent IS NULL GROUP BY trace",
        trace,
    )
    bench.change("UPDATE log SET trace = ?, first_seq = ?, append_id = NULL WHERE id = ?", target, seq, row_id)
    return bench.trace_id(target), seq


def rename_trace(bench, rng):
    """Another id for a trace."""
    trace, fork_seq, root = bench.pick(
        rng, "SELECT id, fork_seq, (SELECT max(seq) FROM root WHERE trace = t.id) FROM trace t WHERE parent IS NULL"
    )
    bench.change("UPDATE trace SET trace_id = 'renamed' WHERE id = ?", trace)
    return "renamed", (fork_seq + 1 if root is None else root)


def relabel_trace(bench, rng):
    """Another name for a trace, another time at which it was made, another status."""
    (trace,) = bench.pick(rng, "SELECT id FROM trace WHERE id NOT IN (SELECT trace FROM root)")
    change = rng.choice(["name = name || '2'", "created_us = created_us - 1", "status = 'cancelled'"])
    bench.change(f"UPDATE trace SET {change} WHERE id = ?", trace)
    return bench.trace_id(trace), None


def renumber_trace(bench, rng):
    """Another number for a trace, everywhere."""
    (trace,) = bench.pick(rng, "SELECT id FROM trace")
    trace_id = bench.trace_id(trace)
    bench.connection.execute("PRAGMA foreign_keys = OFF")
    for table in ("log", "base", "root", "checkpoint", "barrier", "lease", "scope_trace", "scope_checkpoint"):
        bench.connection.execute(f"UPDATE {table} SET trace = 500 WHERE trace = ?", (trace,))
    bench.connection.execute("UPDATE trace SET parent = 500 WHERE parent = ?", (trace,))
    bench.change("UPDATE trace SET id = 500 WHERE id = ?", trace)
    return (trace_id, f"row {trace}", "-"), None


def reparent_fork(bench, rng):
    """A fork hung under another trace, or at another seq."""
    trace, parent = bench.pick(rng, "SELECT id, parent FROM trace WHERE parent IS NOT NULL")
    if rng.random() < 0.5:
        (target,) = bench.pick(
            rng,
            "SELECT trace FROM log WHERE trace NOT IN (?, ?) GROUP BY trace HAVING max(first_seq + n) > 1",
            trace,
            parent,
        )
        bench.change("UPDATE trace SET parent = ? WHERE id = ?", target, trace)
    else:
        bench.change("UPDATE trace SET fork_seq = fork_seq - 1 WHERE id = ?", trace)
    return bench.trace_id(trace), None


def edit_root(bench, rng):
    """The state that a trimmed trace begins with, its checksum put right; or its time, or its digest."""
    trace, seq, body = bench.pick(rng, "SELECT trace, seq, body FROM root")
    what = rng.choice(["body", "time", "digest"])
    if what == "body":
        forged = _changed_text(rng, body)
        crc = root_checksum(trace, seq, forged.encode() if isinstance(forged, str) else forged)
        bench.change("UPDATE root SET body = ?, checksum = ? WHERE trace = ?", forged, crc, trace)
    elif what == "time":
        bench.change("UPDATE root SET at_us = at_us + 1 WHERE trace = ?", trace)
    else:
        bench.change("UPDATE root SET digest = ? WHERE trace = ?", rng.randbytes(16), trace)
    return bench.trace_id(trace), seq


def edit_tombstone(bench, rng):
    """Who erased, when, at which seq."""
    trace_id, seq = bench.pick(rng, "SELECT trace_id, version FROM tombstone")
    change = rng.choice(["erased_by = 'somebody'", "erased_us = erased_us + 1", "digest = zeroblob(16)"])
    bench.change(f"UPDATE tombstone SET {change} WHERE trace_id = ?", trace_id)
    return trace_id, seq


def remove_tombstone(bench, rng):
    """As if there had never been a trace."""
    (trace,) = bench.pick(rng, "SELECT trace FROM tombstone")
    bench.change("DELETE FROM tombstone WHERE trace = ?", trace)
    return f"row {trace}", None


def remove_trace(bench, rng):
    """A whole trace, with everything that is its own."""
    (trace,) = bench.pick(
        rng,
        "SELECT id FROM trace WHERE id NOT IN (SELECT parent FROM trace WHERE parent IS NOT NULL)"
        " AND id NOT IN (SELECT trace FROM scope_trace)",
    )
    bench.connection.execute("PRAGMA foreign_keys = OFF")
    for table in ("log", "base", "root", "checkpoint", "barrier", "lease"):
        bench.connection.execute(f"DELETE FROM {table} WHERE trace = ?", (trace,))
    bench.change("DELETE FROM trace WHERE id = ?", trace)
    return f"row {trace}", None


def move_checkpoint(bench, rng):
    """A checkpoint at another commit of its trace, or with another next node, or another cost."""
    checkpoint_id, trace, seq = bench.pick(rng, "SELECT checkpoint_id, trace, seq FROM checkpoint")
    what = rng.choice(["seq", "node", "triggers"])
    if what == "seq":
        (seq,) = bench.pick(
            rng, "SELECT first_seq + n - 1 FROM log WHERE trace = ? AND first_seq + n - 1 <> ?", trace, seq
        )
        bench.change("UPDATE checkpoint SET seq = ? WHERE checkpoint_id = ?", seq, checkpoint_id)
    elif what == "node":
        bench.change("UPDATE checkpoint SET node = 'elsewhere' WHERE checkpoint_id = ?", checkpoint_id)
    else:
        bench.change("UPDATE checkpoint SET triggers = '[\"adaptive\"]', metadata = NULL WHERE checkpoint_id = ?",
                     checkpoint_id)  # fmt: skip
    return bench.trace_id(trace), seq


def edit_barrier(bench, rng):
    """A barrier that waits longer, or not any more."""
    trace, barrier_id = bench.pick(rng, "SELECT trace, barrier_id FROM barrier")
    change = rng.choice(["raised_us = raised_us - 1", "deadline_us = 1", "decided_seq = coalesce(decided_seq, 0) + 1"])
    bench.change(f"UPDATE barrier SET {change} WHERE trace = ? AND barrier_id = ?", trace, barrier_id)
    return bench.trace_id(trace), None


def edit_graph(bench, rng):
    """What a graph hash means."""
    bench.change("UPDATE graph SET definition = replace(definition, 'fail_fast', 'collect_all')")
    return "-", None


def edit_lease(bench, rng):
    """An owner that was fenced off let in again; a run put off."""
    (trace,) = bench.pick(rng, "SELECT trace FROM lease WHERE epoch > 1")
    bench.change("UPDATE lease SET epoch = 0, due_us = 1 WHERE trace = ?", trace)
    return bench.trace_id(trace), None


def edit_base(bench, rng):
    """A base with another state, its checksum put right."""
    base_id, trace, seq, *place, body = bench.pick(
        rng,
        "SELECT id, trace, seq, parent, chain_bytes, state_bytes, log_bytes, base_bytes, body FROM base",
    )
    forged = _changed_text(rng, body)
    crc = Place(trace, seq, *place).checksum(forged.encode() if isinstance(forged, str) else forged)
    bench.change("UPDATE base SET body = ?, checksum = ? WHERE id = ?", forged, crc, base_id)
    return bench.trace_id(trace), seq


EDITS = [
    edit_body, edit_decision, edit_time, edit_append_id, edit_digest, delete_row, swap_rows, replay_row, replace_row,
    move_row, rename_trace, relabel_trace, renumber_trace, reparent_fork, edit_root, edit_tombstone, remove_tombstone,
    remove_trace, move_checkpoint, edit_barrier, edit_graph, edit_lease, edit_base,
]  # fmt: skip


def cut_tail(bench, rng):
    """The last commits of a trace that nothing stands on, with the rows beside them: gives its id."""
    trace_id = rng.choice(["big", "trimmed", "fork-2", "run-over"])
    trace = bench.rows("SELECT id FROM trace WHERE trace_id = ?", trace_id)[0][0]
    seqs = [seq for (seq,) in bench.rows("SELECT first_seq FROM log WHERE trace = ? ORDER BY 1", trace)]
    upto = rng.choice(seqs[1:] or seqs)
    bench.change("DELETE FROM log WHERE trace = ? AND first_seq >= ?", trace, upto)
    for table, place in (("base", "seq"), ("checkpoint", "seq"), ("barrier", "raised_seq")):
        bench.connection.execute(f"DELETE FROM {table} WHERE trace = ? AND {place} >= ?", (trace, upto))
    bench.connection.execute(
        "UPDATE barrier SET decided_seq = NULL WHERE trace = ? AND decided_seq >= ?", (trace, upto)
    )
    return trace_id


def recompute(bench, rng):
    """A word or the time of a commit, and every digest from there on as if it was written so: gives the trace's id.

    The editor does not know a key, where there is one.
    """
    (trace,) = bench.pick(rng, "SELECT id FROM trace WHERE trace_id IN ('ask', 'big', 'run-over')")
    trace_id = bench.trace_id(trace)
    chain, digest = Chain(), genesis(trace_id)
    rows = bench.rows(ROWS, trace)
    victim = rng.randrange(1, len(rows))
    for number, (row_id, _, first_seq, n, append_id, at_us, _, body) in enumerate(rows):
        if number == victim:
            forged = body.replace(rng.choice(PLAIN), "forged", 1)
            body, at_us = (forged, at_us) if forged != body else (body, at_us + rng.randrange(1, 10**6))
        digest = chain.extend(digest, first_seq, n, at_us, append_id, body.encode())
        bench.change("UPDATE log SET at_us = ?, digest = ?, body = ? WHERE id = ?", at_us, digest, body, row_id)
        bench.connection.execute(
            "UPDATE barrier SET raised_us = ? WHERE trace = ? AND raised_seq BETWEEN ? AND ?",
            (at_us, trace, first_seq, first_seq + n - 1),
        )
    return trace_id
